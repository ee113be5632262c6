//! Whether the daemon is well: what the service manager's watchdog is told.

use crate::director::Time;
use std::time::Duration;

/// How often the daemon looks after itself.
const TICK: Duration = Duration::from_secs(1);
/// A worker comes round ten times in it. With less, a busy machine would make it look ill.
const LEAST_PATIENCE: Duration = Duration::from_secs(1);

/// The time between ticks, with each of which a watchdog hears that all is well: a second, or less for one that waits
/// for less than two.
pub(super) fn tick_period(watchdog: Option<Duration>) -> Duration {
    watchdog.map_or(TICK, |interval| TICK.min(interval / 2))
}

/// How long a worker may take to come round, for a watchdog that waits for `interval`: half of it, because the watchdog
/// bites only after all of it without a word.
pub(super) fn patience(watchdog: Duration) -> Duration {
    (watchdog / 2).max(LEAST_PATIENCE)
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
        for (interval, period, waits) in
            [(30_000, 1_000, 15_000), (3_000, 1_000, 1_500), (1_000, 500, 1_000), (7, 3, 1_000)]
        {
            let interval = Duration::from_millis(interval);
            assert_eq!(tick_period(Some(interval)).as_millis(), period);
            assert_eq!(patience(interval).as_millis(), waits);
        }
        assert_eq!(tick_period(None), Duration::from_secs(1));
    }
}
