//! Whether the daemon is well: what the service manager's watchdog is told.

use crate::director::Time;
use std::time::Duration;

/// How often the daemon looks after itself.
const TICK: Duration = Duration::from_secs(1);
/// A worker comes round ten times in it. With less, a busy machine would make it look ill.
const LEAST_PATIENCE: Duration = Duration::from_secs(1);

/// When to tell a watchdog that the daemon is well.
#[derive(Clone, Copy, Debug)]
pub(super) struct Watchdog {
    interval: Duration,
    ticks: u128,
}

impl Watchdog {
    /// For a watchdog that waits for `interval`, which is not zero.
    pub(super) fn new(interval: Duration) -> Watchdog {
        Watchdog { interval, ticks: 0 }
    }

    /// Counts a tick. Returns whether the watchdog is due with it: the first time at once, then as often as goes into
    /// half the interval.
    pub(super) fn tick(&mut self) -> bool {
        let between = (self.interval / 2).as_nanos() / tick_period(Some(self.interval)).as_nanos().max(1);
        let due = self.ticks.is_multiple_of(between.max(1));
        self.ticks += 1;
        due
    }

    /// How long a worker may take to come round.
    pub(super) fn patience(&self) -> Duration {
        self.interval.max(LEAST_PATIENCE)
    }
}

/// The time between ticks: a second, or less if a watchdog wants to hear more often.
pub(super) fn tick_period(watchdog: Option<Duration>) -> Duration {
    watchdog.map_or(TICK, |interval| TICK.min(interval / 2))
}

/// The queues whose workers have not come round for `patience`.
pub(super) fn stalled(
    now: Time,
    last_rounds: impl IntoIterator<Item = (u16, Time)>,
    patience: Duration,
) -> Vec<u16> {
    let late = last_rounds.into_iter().filter(|(_, last)| now - *last >= patience);
    late.map(|(queue, _)| queue).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_worker_that_stands_still_is_named_once_patience_is_over() {
        let at = Time::from_millis;
        let last_rounds = [(0, at(9_990)), (1, at(4_000)), (2, at(9_910)), (7, at(3_999)), (9, at(10_050))];
        let stalled = |patience: u64| stalled(at(10_000), last_rounds, Duration::from_millis(patience));
        assert_eq!(stalled(6_002), [0_u16; 0]);
        assert_eq!(stalled(6_001), [7]);
        assert_eq!(stalled(6_000), [1, 7]);
        assert_eq!(stalled(90), [1, 2, 7]);
    }

    #[test]
    fn a_watchdog_hears_at_least_twice_in_its_interval() {
        for (interval, period, ticks_between) in [
            (30_000, 1_000, 15),
            (5_000, 1_000, 2),
            (3_000, 1_000, 1),
            (2_000, 1_000, 1),
            (1_000, 500, 1),
            (7, 3, 1),
        ] {
            let (interval, period) = (Duration::from_millis(interval), Duration::from_millis(period));
            assert_eq!(tick_period(Some(interval)).as_millis(), period.as_millis());
            let mut watchdog = Watchdog::new(interval);
            let due: Vec<bool> = (0..=ticks_between).map(|_| watchdog.tick()).collect();
            let first = due.iter().skip(1).position(|due| *due).unwrap() + 1;
            assert!(due[0]);
            assert_eq!(first, ticks_between, "{interval:?}");
        }
        assert_eq!(tick_period(None), Duration::from_secs(1));
        // The shortest there can be is no reason to panic.
        assert!(Watchdog::new(Duration::from_nanos(1)).tick());
        assert_eq!(Watchdog::new(Duration::from_millis(1)).patience(), Duration::from_secs(1));
    }
}
