//! Round robin (`ip_vs_rr.c`).

use super::{Arrival, Place, Scheduler, index_after};
use crate::director::service::{RealServer, ServerId};
use std::sync::Arc;

/// Each eligible server in turn.
#[derive(Debug, Default)]
pub(super) struct Rr {
    /// The server chosen last; `None`: the head of the list, before its first server.
    last: Option<Place>,
}

impl Scheduler for Rr {
    fn name(&self) -> &'static str {
        "rr"
    }

    fn schedule(&mut self, servers: &[Arc<RealServer>], _: &Arrival<'_>) -> Option<Arc<RealServer>> {
        let start = index_after(servers, self.last);
        let chosen = (start..servers.len()).chain(0..start).find(|&index| servers[index].is_eligible())?;
        self.last = Some(Place::new(servers, chosen));
        Some(Arc::clone(&servers[chosen]))
    }

    fn on_removed(&mut self, removed: ServerId, position: usize, servers: &[Arc<RealServer>]) {
        if self.last.is_some_and(|last| last.id == removed) {
            self.last = position.checked_sub(1).map(|before| Place::new(servers, before));
        }
    }
}
