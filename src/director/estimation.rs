//! When rates are estimated, and what is zeroed (`ip_vs_est.c`, `ip_vs_zero_all`).

use super::engine::Director;
use super::service::{ServiceKey, Stats, VirtualService};
use super::{CommandError, Time};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// The time that the estimators' formulas take for the one between two samples.
const PERIOD: Duration = Duration::from_secs(2);
/// A caller whose ticks divide the period may be this much early; the next tick would be much too late.
const EARLY: Duration = Duration::from_millis(100);

/// When the next samples are due.
#[derive(Debug, Default)]
pub(super) struct Estimation {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    due: Time,
    /// Whether `run_estimation` was 0, so that what has been counted since the last samples was in no two seconds.
    is_suspended: bool,
}

impl Director {
    /// Brings the rates of services, servers and of everything up to date if two seconds have passed. Call it every
    /// second, or more often. While the tunable `run_estimation` is off, rates stay as they are.
    ///
    /// Removed servers are left out until they come back (`ip_vs_stop_estimator`).
    pub fn estimate(&self, now: Time) {
        let mut state = self.estimation.state.lock().unwrap_or_else(PoisonError::into_inner);
        if now < state.due {
            return;
        }
        state.due = now + (PERIOD - EARLY);
        let services = self.services();
        let runs = services.tunables.run_estimation;
        let was_suspended = std::mem::replace(&mut state.is_suspended, !runs);
        if runs {
            let sample = if was_suspended { Stats::resume } else { Stats::sample };
            sample(&services.total);
            services.iter().flat_map(all_stats).for_each(sample);
        }
    }

    /// Sets counters and rates to zero (`ipvsadm -Z`): of one service and its servers, or of all of them and the total.
    ///
    /// # Errors
    /// If there is no such service.
    pub fn zero(&self, service: Option<ServiceKey>) -> Result<(), CommandError> {
        let services = self.services();
        if let Some(key) = service {
            let service = services.get(&key).ok_or(CommandError::NoSuchService(key))?;
            all_stats(service).for_each(Stats::zero);
        } else {
            services.iter().flat_map(all_stats).for_each(Stats::zero);
            services.total.zero();
        }
        Ok(())
    }
}

fn all_stats(service: &Arc<VirtualService>) -> impl Iterator<Item = &Stats> {
    std::iter::once(&*service.core.stats).chain(service.servers.iter().map(|server| &server.stats))
}
