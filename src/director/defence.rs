//! Defence against floods (`update_defense_level` of `net/netfilter/ipvs/ip_vs_ctl.c`): when it acts.
//!
//! The kernel defends itself when free memory is short. What a director may take is bounded by [`Limits`], so here it
//! is room in the table that is short; docs/differences.md has the reason.
//!
//! [`Limits`]: super::Limits

use super::Time;
use super::engine::Director;
use super::protocol::Strictness;
use super::service::Tunables;
use std::sync::atomic::{AtomicBool, Ordering};
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
    due: Mutex<Time>,
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

    /// Looks whether memory is short: `used` of `capacity` entries are taken.
    fn look(&self, tunables: &Tunables, (used, capacity): (usize, usize)) {
        let left = capacity.saturating_sub(used);
        self.is_short.store(left < threshold(tunables, capacity), Ordering::Relaxed);
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
    /// Lets defences act, or cease to, as memory has become short or not. Call it every second, or more often.
    pub fn defend(&self, now: Time) {
        let services = self.services.load();
        if services.defence.is_due(now) {
            services.defence.look(&services.tunables, self.connection_count());
        }
    }

    /// The same out of turn, after tunables have changed.
    pub(super) fn defend_as_tuned(&self) {
        let services = self.services.load();
        services.defence.look(&services.tunables, self.connection_count());
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
