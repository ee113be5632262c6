//! The one place where the clock is read.

use crate::director::Time;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// Monotonic time since the daemon's start.
#[derive(Clone, Copy, Debug)]
pub(super) struct Clock(Instant);

impl Clock {
    /// Starts at zero now.
    #[expect(clippy::disallowed_methods, reason = "this is the place the lint points to")]
    pub(super) fn start() -> Clock {
        Clock(Instant::now())
    }

    /// The time now.
    #[expect(clippy::disallowed_methods, reason = "this is the place the lint points to")]
    pub(super) fn now(&self) -> Time {
        Time::ZERO + Instant::now().duration_since(self.0)
    }

    /// The same, as exactly as the clock tells it.
    #[expect(clippy::disallowed_methods, reason = "this is the place the lint points to")]
    pub(super) fn elapsed(&self) -> Duration {
        Instant::now().duration_since(self.0)
    }

    /// The time of day since 1970, by which machines compare clocks; zero if the clock is before that.
    #[expect(clippy::disallowed_methods, reason = "this is the place the lint points to")]
    pub(super) fn since_1970(&self) -> Duration {
        SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
    }
}
