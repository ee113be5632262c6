//! Synchronisation with other directors (`net/netfilter/ipvs/ip_vs_sync.c`): what a **master** tells of its connections,
//! and what a **backup** makes of what it is told.
//!
//! Pure, as the rest of the director: messages are taken from here and sent by somebody else, and brought here by
//! somebody else. Their bytes are the matter of the crate `sync_proto`.
//!
//! * `emission` says when an entry's record is due, after each packet of a client.
//! * A master (`master`) writes records into messages, which wait to be [taken](Director::take_sync_messages). If it may not
//!   send as much as it has to tell, records wait instead, the last one of each entry (`limit`).
//! * A backup (`backup`) [applies](Director::apply_sync) the records of a message to the table.
//! * A backup that lacks the table of a master is told all of it (`resync`): the master [walks](Director::walk_on) through it,
//!   and the backup [takes it in](Director::apply_table).
//!
//! ```
//! use nfvs::director::sync::{BackupSettings, MasterSettings, SyncOutcome, Wake};
//! use nfvs::director::{Director, Limits, Time};
//! use std::sync::Arc;
//! use sync_proto::SyncId;
//!
//! #[derive(Debug)]
//! struct Nobody;
//! impl Wake for Nobody {
//!     fn queued(&self, _port: usize, _waiting: usize) {}
//! }
//!
//! let director = Director::new(Limits::default(), 42);
//! let settings = MasterSettings { syncid: SyncId(7), max_len: 1472, ports: 1, trailer: 0, rate: None };
//! director.start_sync_master(settings, Arc::new(Nobody));
//! director.start_sync_backup(BackupSettings { syncid: SyncId(7) });
//! let message = [0, 7, 0, 8, 0, 1, 0, 0];
//! assert!(matches!(director.apply_sync(Time::ZERO, &message), SyncOutcome::Applied(_)));
//! assert!(director.take_sync_messages(Time::ZERO, 0, usize::MAX).is_empty());
//! ```

mod backup;
mod chain;
mod counters;
mod emission;
mod limit;
mod master;
mod resync;

pub use counters::{Applied, BackupCounters, MasterCounters, Rejection, SyncCounters, SyncOutcome, Unsent};
pub use emission::Emission;
pub(in crate::director) use emission::Source;
pub use resync::Walk;

use super::Time;
use super::engine::Director;
use super::service::Services;
use arc_swap::ArcSwapOption;
use counters::Counters;
use master::Master;
use std::fmt;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use sync_proto::SyncId;

/// How a master writes its messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MasterSettings {
    /// The group of directors that the messages are for.
    pub syncid: SyncId,
    /// How long a message may be, in bytes of UDP payload (`sync_maxlen`). Only one with a single record may be longer.
    pub max_len: usize,
    /// Among how many ports connections are shared out, a power of two up to [`MAX_PORTS`](Self::MAX_PORTS).
    pub ports: usize,
    /// How many bytes are kept behind the last record of each message, within `max_len`, for the caller to fill in.
    pub trailer: usize,
    /// How many messages may be taken in a second, of all ports together, and a twentieth of that more at once; none: all.
    pub rate: Option<NonZeroU32>,
}

impl MasterSettings {
    /// The largest number of ports (`IPVS_SYNC_PORTS_MAX`).
    pub const MAX_PORTS: usize = 64;
}

/// Which messages a backup takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BackupSettings {
    /// The group of directors whose messages are taken; [`SyncId::ANY`]: those of every group.
    pub syncid: SyncId,
}

/// Told when a message has been queued for a port.
pub trait Wake: Send + Sync + fmt::Debug {
    /// A message waits for `port`. Called by whoever handles a packet, with parts of the table locked: it must not
    /// block, nor call the director. `waiting`: how many messages were queued there since messages were last taken;
    /// each number comes once until then, perhaps not in order.
    fn queued(&self, port: usize, waiting: usize);
}

/// What a director knows of its part in synchronisation.
#[derive(Debug, Default)]
pub(super) struct Synchronisation {
    /// Whether there is a master, for whoever handles a packet to ask first.
    is_master: AtomicBool,
    master: ArcSwapOption<Master>,
    backup: ArcSwapOption<BackupSettings>,
    /// The number of the table that is taken in, or was the last to be; goes round.
    table: AtomicU8,
    counters: Counters,
}

impl Synchronisation {
    /// Whether a master runs.
    #[inline]
    fn is_master(&self) -> bool {
        self.is_master.load(Ordering::Relaxed)
    }
}

impl Director {
    /// Whether requests pass as if there were no services, because another director answers them (`backup_only`).
    pub(super) fn passes_requests(&self, services: &Services) -> bool {
        services.tunables.backup_only && self.sync.backup.load().is_some()
    }

    /// Has records written from now on, in place of a master that runs, whose messages are discarded.
    pub fn start_sync_master(&self, settings: MasterSettings, wake: Arc<dyn Wake>) {
        self.sync.master.store(Some(Arc::new(Master::new(settings, wake))));
        self.sync.is_master.store(true, Ordering::Relaxed);
    }

    /// Has no more records written, and discards those that were not taken.
    pub fn stop_sync_master(&self) {
        self.sync.is_master.store(false, Ordering::Relaxed);
        self.sync.master.store(None);
    }

    /// Has messages [applied](Self::apply_sync) from now on.
    pub fn start_sync_backup(&self, settings: BackupSettings) {
        self.sync.backup.store(Some(Arc::new(settings)));
    }

    /// Has no more messages applied. What came of those that were stays.
    pub fn stop_sync_backup(&self) {
        self.sync.backup.store(None);
    }

    /// Messages for one port, the oldest first, `enough` of them at most. The one that has room left is among them,
    /// as the last one, if its first record is two seconds old or older. A trailer is zeros.
    pub fn take_sync_messages(&self, now: Time, port: usize, enough: usize) -> Vec<Vec<u8>> {
        let master = self.sync.master.load();
        let counters = &self.sync.counters;
        master.as_ref().map(|master| master.take(now, port, enough, counters)).unwrap_or_default()
    }

    /// Whether messages for a port would have been [taken](Self::take_sync_messages) now, if the rate allowed it. They
    /// may be soon, and nobody is [woken](Wake) for it.
    pub fn holds_sync_messages(&self, now: Time, port: usize) -> bool {
        self.sync.master.load().as_ref().is_some_and(|master| master.holds(now, port))
    }

    /// What synchronisation has counted.
    pub fn sync_counters(&self) -> SyncCounters {
        self.sync.counters.snapshot()
    }
}
