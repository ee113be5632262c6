//! Locality-based least connections (`ip_vs_lblc.c`): for caches behind a service by mark, which has many destinations.

use super::cache::{Cache, is_busy};
use super::least::least;
use super::{Arrival, Scheduler};
use crate::director::Time;
use crate::director::service::{RealServer, Tunables};
use std::sync::Arc;
use std::time::Duration;

/// The server that the destination went to last, unless that is busy and another is idle; then, and for a new
/// destination, as [`Wlc`](super::wlc::Wlc).
#[derive(Debug, Default)]
pub(super) struct Lblc {
    cache: Cache<Arc<RealServer>>,
}

impl Scheduler for Lblc {
    fn name(&self) -> &'static str {
        "lblc"
    }

    fn schedule(&mut self, servers: &[Arc<RealServer>], arrival: &Arrival<'_>) -> Option<Arc<RealServer>> {
        let slot = self.cache.visit(arrival.destination, arrival.now);
        // The kernel does not ask whether the server it remembers is full.
        if let Some(server) = self.cache.get(slot)
            && server.is_available()
            && server.weight().get() > 0
            && !is_busy(server, servers)
        {
            return Some(Arc::clone(server));
        }
        let chosen = least(servers, RealServer::load)?;
        self.cache.put(slot, arrival.now, Arc::clone(chosen));
        Some(Arc::clone(chosen))
    }

    fn on_tick(&mut self, now: Time, tunables: &Tunables) {
        self.cache.on_tick(now, Duration::from_secs(tunables.lblc_expiration.into()));
    }
}
