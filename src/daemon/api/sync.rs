//! The synchronisation as it is shown.

use super::SyncTestCounts;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// The synchronisation with other directors.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SyncStatus {
    /// Who tells others of the connections here; none: nobody.
    pub master: Option<SyncMasterStatus>,
    /// Who takes over what others tell of theirs; none: nobody.
    pub backup: Option<SyncBackupStatus>,
    /// How neighbours were told where virtual addresses are; none: they are not.
    #[serde(default)]
    pub announce: Option<SyncAnnounceStatus>,
}

/// How neighbours were told where virtual addresses are, since the daemon was started.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SyncAnnounceStatus {
    /// How often that was begun.
    pub times: u64,
    /// ARP announcements sent.
    pub arp: u64,
    /// Neighbour advertisements sent.
    pub neighbour: u64,
    /// What could not be sent.
    pub failed: u64,
    /// Virtual addresses that the last round has found no interface for.
    pub nowhere: u64,
}

/// What a side of the synchronisation runs with.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SyncDaemonStatus {
    /// The interface.
    pub interface: String,
    /// The syncid.
    pub syncid: u8,
    /// The multicast group.
    pub group: String,
    /// The first UDP port.
    pub port: u16,
    /// How many ports there are.
    pub ports: u16,
    /// The longest message, in bytes of UDP payload.
    pub maxlen: u16,
}

/// The master of a synchronisation, and what it has done since it was started; `records`, `lost` for want of room and
/// `unsent` since the daemon was.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SyncMasterStatus {
    /// What it runs with.
    #[serde(flatten)]
    pub daemon: SyncDaemonStatus,
    /// The time to live of its messages.
    pub ttl: u8,
    /// How many messages with records it sends in a second, at most; none: as many as there are.
    #[serde(default)]
    pub rate: Option<u32>,
    /// The version that it speaks.
    pub version: u8,
    /// Whether its messages are made with a key.
    pub authenticated: bool,
    /// Messages sent.
    pub messages: u64,
    /// Bytes of them, of UDP payload.
    pub bytes: u64,
    /// Records in messages, sent or not yet.
    pub records: u64,
    /// Messages lost, by reason.
    pub lost: BTreeMap<String, u64>,
    /// Records that no message could carry, by reason.
    pub unsent: BTreeMap<String, u64>,
    /// What it has asked its backups, and heard of them.
    #[serde(default)]
    pub tests: SyncTestCounts,
    /// The tables that backups have asked for; none: they cannot.
    #[serde(default)]
    pub resync: Option<SyncTablesStatus>,
}

/// What backups have asked a master for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SyncTablesStatus {
    /// The TCP port to ask at.
    pub port: u16,
    /// Tables that were told to their end.
    pub complete: u64,
    /// Tables that are being told.
    pub in_progress: u64,
    /// Entries told of.
    pub entries: u64,
    /// Questions that came to nothing, by reason.
    pub failed: BTreeMap<String, u64>,
}

/// The backup of a synchronisation, and what it has done since the daemon was started; what came from `peers` since
/// the backup was.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SyncBackupStatus {
    /// What it runs with.
    #[serde(flatten)]
    pub daemon: SyncDaemonStatus,
    /// Messages that were for it.
    pub messages: u64,
    /// Records in them.
    pub records: u64,
    /// Of them, those that made a connection or a template.
    pub created: u64,
    /// Those about one that was there.
    pub updated: u64,
    /// Those that put one in the place of another, which had another server.
    pub replaced: u64,
    /// Of those made or put in place, those whose server no service has.
    pub unbound: u64,
    /// Messages and records without effect, by reason.
    pub rejected: BTreeMap<String, u64>,
    /// Who sent messages.
    pub peers: Vec<SyncPeerStatus>,
    /// The tables of masters that can be asked; none: nobody asks.
    #[serde(default)]
    pub resync: Option<Vec<SyncTableStatus>>,
}

/// The whole table of a master, as a backup has it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SyncTableStatus {
    /// The master's address.
    pub master: String,
    /// How far it has come.
    pub state: SyncTableState,
    /// Why it has not come to its end; none: nothing has gone wrong.
    pub error: Option<String>,
    /// About how many entries the master had.
    pub entries: u64,
    /// How many records have come.
    pub records: u64,
    /// Of them, those about entries of which more was known.
    pub known: u64,
    /// Of them, those that could not be applied.
    pub rejected: u64,
    /// How long it has taken so far, or took, in milliseconds.
    pub millis: u64,
    /// Seconds since the state came to be.
    pub since: u64,
    /// Tables of this master that have come to their end.
    pub complete: u64,
    /// Those that have not, by reason.
    pub failed: BTreeMap<String, u64>,
}

/// How far a table has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SyncTableState {
    /// It will be asked for.
    Waiting,
    /// It is being asked for.
    Asking,
    /// It comes.
    Receiving,
    /// All of it has come.
    Complete,
    /// It has not come to its end, and will be asked for again.
    Failed,
}

/// A director that has sent messages.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SyncPeerStatus {
    /// Its address; none: all those beyond the first 32.
    pub address: Option<String>,
    /// Messages received from it.
    pub messages: u64,
    /// Of them, those refused as a whole.
    pub refused: u64,
    /// Records of it that were applied.
    pub records: u64,
    /// Messages of it that have not come, by their sequence numbers; none: nobody looks at them.
    pub lost: Option<u64>,
    /// How long its last message was on its way, in milliseconds by the clocks of both; none: it does not say.
    pub lag_ms: Option<u64>,
    /// Seconds since its last message.
    pub last_message: u64,
    /// What it has asked here, and was told.
    #[serde(default)]
    pub tests: SyncTestCounts,
}
