//! What the service manager is told, over the protocol of `sd_notify(3)`. Nothing, unless it gave us a socket.

use sd_notify::NotifyState;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

/// The service manager that started this daemon, if one did and wants to know how it is.
#[derive(Debug)]
pub(super) struct ServiceManager {
    watchdog: Option<Duration>,
    /// What was last said of the daemon's state.
    status: Mutex<String>,
}

impl ServiceManager {
    /// As the environment describes it: `NOTIFY_SOCKET`, `WATCHDOG_USEC`, `WATCHDOG_PID`.
    pub(super) fn from_environment() -> ServiceManager {
        let watchdog = sd_notify::watchdog_enabled().filter(|interval| !interval.is_zero());
        ServiceManager { watchdog, status: Mutex::default() }
    }

    /// How long it waits for a [`ping`](Self::ping) before it takes the daemon for dead.
    pub(super) fn watchdog(&self) -> Option<Duration> {
        self.watchdog
    }

    /// The daemon serves: the start, or a reload, is over.
    pub(super) fn ready(&self, status: String) {
        tell(&[NotifyState::Ready, NotifyState::Status(&status)]);
        *self.last_status() = status;
    }

    /// What people are shown of the daemon's state. Says it only if it is new.
    pub(super) fn status(&self, status: String) {
        let mut last = self.last_status();
        if *last != status {
            tell(&[NotifyState::Status(&status)]);
            *last = status;
        }
    }

    /// A reload begins; [`ready`](Self::ready) ends it.
    pub(super) fn reloading(&self) {
        // The time, by which the manager knows that this comes after its own request, is its clock's and not ours.
        match NotifyState::monotonic_usec_now() {
            Ok(now) => tell(&[NotifyState::Reloading, now]),
            Err(error) => tracing::warn!(%error, "the service manager is not told of the reload"),
        }
    }

    /// The daemon is well.
    pub(super) fn ping(&self) {
        tell(&[NotifyState::Watchdog]);
    }

    /// The daemon begins to end.
    pub(super) fn stopping(&self) {
        tell(&[NotifyState::Stopping]);
    }

    fn last_status(&self) -> std::sync::MutexGuard<'_, String> {
        self.status.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn tell(news: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(news) {
        tracing::warn!(%error, "the service manager cannot be told what the daemon does");
    }
}
