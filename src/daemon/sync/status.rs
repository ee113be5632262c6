//! The synchronisation as it is shown.

use super::announce::Told;
use super::resync::guest::Progress;
use super::resync::host::Given;
use super::resync::plan::Asked;
use super::seal::Unsealed;
use super::{Side, Sync};
use crate::daemon::api::{
    SyncAnnounceStatus, SyncBackupStatus, SyncDaemonStatus, SyncMasterStatus, SyncPeerStatus, SyncStatus,
    SyncTableStatus, SyncTablesStatus, SyncTestCounts,
};
use crate::director::Time;
use crate::director::sync::{Rejection, Unsent};
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::num::NonZeroU32;
use std::sync::atomic::Ordering;
use sync_proto::Version;

impl Sync {
    /// What runs, and what came of it.
    pub(in crate::daemon) fn status(&self) -> SyncStatus {
        let counters = self.director.sync_counters();
        let version = match self.director.services().tunables.sync_version {
            Version::V0 => 0,
            Version::V1 => 1,
        };
        let secrets = self.secrets.load();
        let master = self.master.as_ref().map(|side| {
            let (sent, counters) = (side.runs.sent(), counters.master);
            let unsent =
                Unsent::ALL.iter().map(|&reason| (reason.name().to_owned(), counters.unsent(reason)));
            SyncMasterStatus {
                daemon: daemon(side),
                ttl: side.daemon.ttl,
                rate: self.configured.rate.map(NonZeroU32::get),
                version,
                authenticated: secrets.is_some(),
                messages: sent.messages.load(Ordering::Relaxed),
                bytes: sent.bytes.load(Ordering::Relaxed),
                records: counters.records,
                lost: [
                    ("queue_full".to_owned(), counters.discarded),
                    ("send_error".to_owned(), sent.errors.load(Ordering::Relaxed)),
                ]
                .into(),
                unsent: unsent.collect(),
                tests: SyncTestCounts {
                    questions: sent.questions.load(Ordering::Relaxed),
                    answers: sent.answers.load(Ordering::Relaxed),
                },
                resync: side.runs.host().map(|(host, port)| tables(&host.given(), port)),
            }
        });
        let backup = self.backup.as_ref().map(|side| {
            let (now, counters) = (self.clock.now(), counters.backup);
            let received = side.runs.received();
            let rejected =
                Rejection::ALL.iter().map(|&reason| (reason.name().to_owned(), counters.rejected(reason)));
            let unsealed = Unsealed::ALL.iter().zip(received.unsealed);
            let unsealed = unsealed.map(|(reason, count)| (reason.name().to_owned(), count));
            let peers = received.peers.iter().map(|(address, peer)| SyncPeerStatus {
                address: address.map(|address| address.to_string()),
                messages: peer.messages,
                refused: peer.refused,
                records: peer.records,
                lost: secrets.is_some().then_some(peer.lost),
                lag_ms: peer.lag.and_then(|lag| u64::try_from(lag.as_millis()).ok()),
                last_message: now.since(peer.last).as_secs(),
                tests: SyncTestCounts { questions: peer.questions, answers: peer.answers },
            });
            SyncBackupStatus {
                daemon: daemon(side),
                messages: counters.messages,
                records: counters.records,
                created: counters.created,
                updated: counters.updated,
                replaced: counters.replaced,
                unbound: counters.unbound,
                rejected: rejected.chain(unsealed).collect(),
                peers: peers.collect(),
                resync: received.plan.as_ref().map(|plan| plan.masters().map(|it| table(it, now)).collect()),
            }
        });
        let announce = self.configured.announce.then(|| {
            let Told { times, arp, neighbour, failed, nowhere, .. } = self.announcer.told();
            SyncAnnounceStatus { times, arp, neighbour, failed, nowhere }
        });
        SyncStatus { master, backup, announce }
    }
}

/// What backups have asked for.
fn tables(given: &Given, port: u16) -> SyncTablesStatus {
    SyncTablesStatus {
        port,
        complete: given.whole,
        in_progress: given.running,
        entries: given.entries,
        failed: by_reason(&given.failed),
    }
}

/// The table of a master.
fn table((address, asked): (IpAddr, &Asked), now: Time) -> SyncTableStatus {
    let Progress { entries, came, known, rejected } = asked.progress;
    let ended = if asked.is_running() { now } else { asked.since };
    SyncTableStatus {
        master: address.to_string(),
        state: asked.state,
        error: asked.error.clone(),
        entries,
        records: came,
        known,
        rejected,
        millis: u64::try_from(ended.since(asked.begun).as_millis()).unwrap_or(u64::MAX),
        since: now.since(asked.since).as_secs(),
        complete: asked.complete,
        failed: by_reason(&asked.failed),
    }
}

fn by_reason(counts: &BTreeMap<&'static str, u64>) -> BTreeMap<String, u64> {
    counts.iter().map(|(reason, count)| ((*reason).to_owned(), *count)).collect()
}

pub(super) fn daemon<T>(side: &Side<T>) -> SyncDaemonStatus {
    SyncDaemonStatus {
        interface: side.daemon.interface.clone(),
        syncid: side.daemon.syncid,
        group: side.daemon.group.to_string(),
        port: side.daemon.port,
        ports: side.ports,
        maxlen: side.maxlen,
    }
}
