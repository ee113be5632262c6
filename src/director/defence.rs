//! Defence against floods (`update_defense_level` of `net/netfilter/ipvs/ip_vs_ctl.c`): when it acts.
//!
//! The kernel defends itself when free memory is short. What a director may take is bounded by [`Limits`], so here it
//! is room in the table that is short; docs/differences.md has the reason.
//!
//! [`Limits`]: super::Limits

use super::Time;
use super::connection::{DropEntry, InboundKey, Shard};
use super::engine::Director;
use super::protocol::Strictness;
use super::service::{ServiceCore, Services, Tunables, VirtualService};
use std::hash::BuildHasher;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

/// How many entries of the table are a page of memory: 4096 bytes, each entry with its share of indexes for 128.
const ENTRIES_OF_A_PAGE: usize = 32;
/// The largest share of the table that may be called short, as its denominator: a small one would always be.
const LARGEST_SHARE: usize = 4;
/// How often the kernel looks (`DEFENSE_TIMER_PERIOD`).
const PERIOD: Duration = Duration::from_secs(1);
/// A caller whose ticks are as long as the period may be this much early.
const EARLY: Duration = Duration::from_millis(100);

/// When a defence acts (`drop_entry`, `drop_packet`, `secure_tcp`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum DefenceMode {
    /// Never.
    #[default]
    Off,
    /// While memory is short.
    Automatic,
    /// Always.
    Always,
}

/// Whether defences act, for workers to ask with each packet.
#[derive(Debug, Default)]
pub struct Defence {
    is_short: AtomicBool,
    /// Of so many first packets one is dropped; 0: none is.
    drop_rate: AtomicU32,
    /// How many come until the next one is dropped, that one included.
    countdown: AtomicU32,
    due: Mutex<Time>,
}

/// The defence of the table.
#[derive(Debug)]
pub(super) struct TableDefence {
    choice: Mutex<DropEntry>,
    dropped: AtomicU64,
}

impl TableDefence {
    pub(super) fn new(seed: u64) -> TableDefence {
        TableDefence { choice: Mutex::new(DropEntry::new(seed)), dropped: AtomicU64::new(0) }
    }

    fn count(&self, dropped: usize) {
        self.dropped.fetch_add(dropped as u64, Ordering::Relaxed);
    }
}

impl Defence {
    /// Whether memory was short when that was last looked at.
    pub fn is_short(&self) -> bool {
        self.is_short.load(Ordering::Relaxed)
    }

    /// Whether a defence of this mode acts.
    pub fn acts(&self, mode: DefenceMode) -> bool {
        match mode {
            DefenceMode::Off => false,
            DefenceMode::Automatic => self.is_short(),
            DefenceMode::Always => true,
        }
    }

    /// What the protocols make of doubtful packets now.
    pub fn strictness(&self, tunables: &Tunables) -> Strictness {
        Strictness {
            secure_tcp: self.acts(tunables.secure_tcp),
            sloppy_tcp: tunables.sloppy_tcp,
            sloppy_sctp: tunables.sloppy_sctp,
        }
    }

    /// Whether the next packet that would make a connection is to be dropped (`ip_vs_todrop`).
    pub fn drops_packet(&self) -> bool {
        let rate = self.drop_rate.load(Ordering::Relaxed);
        if rate == 0 {
            return false;
        }
        let next = |left: u32| Some(if left > 1 { left - 1 } else { rate });
        let counted = self.countdown.fetch_update(Ordering::Relaxed, Ordering::Relaxed, next);
        counted.is_ok_and(|left| left <= 1)
    }

    /// Looks whether memory is short: `used` of `capacity` entries are taken.
    fn look(&self, tunables: &Tunables, (used, capacity): (usize, usize)) {
        let (left, threshold) = (capacity.saturating_sub(used), threshold(tunables, capacity));
        let is_short = left < threshold;
        self.is_short.store(is_short, Ordering::Relaxed);
        let drop_rate = match tunables.drop_packet {
            DefenceMode::Always => tunables.am_droprate,
            DefenceMode::Automatic if is_short => {
                let rate = u32::try_from(threshold / (threshold - left)).unwrap_or(u32::MAX);
                self.countdown.store(rate, Ordering::Relaxed);
                rate
            }
            DefenceMode::Automatic | DefenceMode::Off => 0,
        };
        self.drop_rate.store(drop_rate, Ordering::Relaxed);
    }

    /// Whether a second has passed since this last was so.
    fn is_due(&self, now: Time) -> bool {
        let mut due = self.due.lock().unwrap_or_else(PoisonError::into_inner);
        let is_due = now >= *due;
        if is_due {
            *due = now + (PERIOD - EARLY);
        }
        is_due
    }
}

/// With fewer free entries than this, memory is short.
fn threshold(tunables: &Tunables, capacity: usize) -> usize {
    let pages = usize::try_from(tunables.amemthresh).unwrap_or(usize::MAX);
    pages.saturating_mul(ENTRIES_OF_A_PAGE).min(capacity / LARGEST_SHARE)
}

impl Director {
    /// Lets defences act, or cease to, as memory has become short or not, and drops entries of the table if
    /// `drop_entry` says so. Call it every second, or more often.
    pub fn defend(&self, now: Time) {
        let services = self.services.load();
        if !services.defence.is_due(now) {
            return;
        }
        services.defence.look(&services.tunables, self.connection_count());
        if services.defence.acts(services.tunables.drop_entry) {
            let mut choice = self.table_defence.choice.lock().unwrap_or_else(PoisonError::into_inner);
            let is_one_packet = |service: &ServiceCore| services.is_one_packet(service);
            self.table_defence.count(self.table.drop_entries(&mut choice, is_one_packet, now));
        }
    }

    /// The same out of turn, of tunables that have changed; entries wait for their turn.
    pub(super) fn defend_as_tuned(&self) {
        let services = self.services.load();
        services.defence.look(&services.tunables, self.connection_count());
    }

    /// How many connections and templates defences have dropped.
    pub fn dropped_entries(&self) -> u64 {
        self.table_defence.dropped.load(Ordering::Relaxed)
    }

    /// Has half-open connections give way to a new one, if the table is full and `drop_entry` acts. In IPVS there is
    /// always room; see docs/differences.md.
    pub(super) fn make_room(
        &self,
        now: Time,
        services: &Services,
        shard: &mut Shard,
        key: &InboundKey,
        service: &VirtualService,
    ) {
        let wanted = 1 + usize::from(service.settings.persistence.is_some());
        let (used, capacity) = self.connection_count();
        if used + wanted > capacity && services.defence.acts(services.tunables.drop_entry) {
            // Nobody can tell which, and another try finds another one.
            let choice = self.hasher.hash_one((key, now));
            self.table_defence.count(self.table.make_room(shard, wanted, choice));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_short_below_the_threshold_which_is_a_quarter_of_the_table_at_most() {
        for (says, amemthresh, capacity, expected) in [
            ("the kernel's default of the table's default", 1024, 1 << 20, 32_768),
            ("a page", 1, 1 << 20, 32),
            ("never", 0, 1 << 20, 0),
            ("a small table", 1024, 1000, 250),
            ("more than there is", u32::MAX, 1 << 24, 1 << 22),
        ] {
            let tunables = Tunables { amemthresh, ..Tunables::default() };
            assert_eq!(threshold(&tunables, capacity), expected, "{says}");
            let defence = Defence::default();
            defence.look(&tunables, (capacity - expected, capacity));
            assert!(!defence.is_short(), "{says}: as much as that is left");
            if expected > 0 {
                defence.look(&tunables, (capacity - expected + 1, capacity));
                assert!(defence.is_short(), "{says}: one less is left");
            }
        }
    }
}
