//! What a test of the synchronisation has come to.

use super::SyncDaemonStatus;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Who has answered a master's questions.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SyncTestStatus {
    /// What the master runs with.
    #[serde(flatten)]
    pub daemon: SyncDaemonStatus,
    /// The time to live of its messages.
    pub ttl: u8,
    /// Whether they are made with a key.
    pub authenticated: bool,
    /// For how many seconds answers were waited for, at most.
    pub wait: u64,
    /// Ports whose question did not leave.
    pub failed: Vec<SyncTestFailure>,
    /// The backups that have answered.
    pub backups: Vec<SyncTestBackup>,
    /// Answers that do not count, by reason.
    pub refused: BTreeMap<String, u64>,
}

/// A question that did not leave.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SyncTestFailure {
    /// The UDP port it was for.
    pub port: u16,
    /// What the system said.
    pub error: String,
}

/// A backup that has answered.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SyncTestBackup {
    /// Its address.
    pub address: String,
    /// Its syncid; 0: it takes the messages of every group.
    pub syncid: u8,
    /// Whether all its answers were made with the key.
    pub authenticated: bool,
    /// How many messages of the master it lacks, by their sequence numbers; none: it does not know.
    pub lost: Option<u32>,
    /// The ports that it has answered at.
    pub answered: Vec<SyncTestPort>,
    /// Those that it has not answered at.
    pub silent: Vec<u16>,
}

/// A port at which a backup has answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SyncTestPort {
    /// The UDP port.
    pub port: u16,
    /// Microseconds from question to answer.
    pub micros: u64,
}

/// Questions and answers that were counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SyncTestCounts {
    /// Questions: of a master sent, of a backup's peer received.
    pub questions: u64,
    /// Answers: of a master received, of a backup's peer sent.
    pub answers: u64,
}
