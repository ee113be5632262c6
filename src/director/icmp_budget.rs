//! How many ICMP errors the director sends: the kernel's bound for its own (`icmp_msgs_per_sec`, `icmp_msgs_burst` of
//! `net/ipv4/icmp.c`).

use super::Time;
use std::sync::atomic::{AtomicU64, Ordering};

/// Errors a second, and how many of them may come at once.
const PER_SECOND: u64 = 1000;
const BURST: u64 = 50;
/// Milliseconds that an error takes of the time that a full budget stands for.
const COST: u64 = 1000 / PER_SECOND;

/// What may still be sent, kept as the time up to which it has been spent.
#[derive(Debug, Default)]
pub(super) struct IcmpBudget {
    spent_until: AtomicU64,
}

impl IcmpBudget {
    /// Whether one more error may be sent; if so, it counts as sent.
    pub(super) fn take(&self, now: Time) -> bool {
        let now = now.as_millis();
        let spend = |spent_until: u64| {
            let spent_until = spent_until.max(now) + COST;
            (spent_until <= now + BURST * COST).then_some(spent_until)
        };
        self.spent_until.fetch_update(Ordering::Relaxed, Ordering::Relaxed, spend).is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn fifty_at_once_then_one_each_millisecond() {
        let budget = IcmpBudget::default();
        let taken = |now: Time| (0..100).filter(|_| budget.take(now)).count();
        let now = Time::from_millis(7_000);
        assert_eq!(taken(now), 50);
        assert_eq!(taken(now + Duration::from_millis(3)), 3);
        assert_eq!(taken(now + Duration::from_secs(60)), 50);
    }
}
