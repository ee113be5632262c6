//! The director's notion of time: milliseconds since some start that the caller chose.

use std::ops::{Add, Sub};
use std::time::Duration;

/// A point in monotonic time, in milliseconds since the caller's start.
///
/// `std::time::Instant` can only be made by reading the clock, which the director never does.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Time(u64);

impl Time {
    /// The caller's start.
    pub const ZERO: Time = Time(0);

    /// The point `milliseconds` after the start.
    pub const fn from_millis(milliseconds: u64) -> Time {
        Time(milliseconds)
    }

    /// Milliseconds since the start.
    pub const fn as_millis(self) -> u64 {
        self.0
    }

    /// How long ago `earlier` was; zero if it is not earlier.
    pub fn since(self, earlier: Time) -> Duration {
        Duration::from_millis(self.0.saturating_sub(earlier.0))
    }
}

impl Add<Duration> for Time {
    type Output = Time;
    fn add(self, duration: Duration) -> Time {
        Time(self.0.saturating_add(u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)))
    }
}

impl Sub<Time> for Time {
    type Output = Duration;
    fn sub(self, earlier: Time) -> Duration {
        self.since(earlier)
    }
}
