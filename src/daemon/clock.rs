//! The one place where the clock is read.

use crate::director::Time;
use std::time::Instant;

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
}
