//! Shortest expected delay (`ip_vs_sed.c`).

use super::least::least;
use super::{Arrival, Scheduler};
use crate::director::service::RealServer;
use std::sync::Arc;

/// The eligible server that would have the fewest active connections for its weight if it got this one; of several, the
/// first in the list.
#[derive(Debug)]
pub(super) struct Sed;

impl Scheduler for Sed {
    fn name(&self) -> &'static str {
        "sed"
    }

    fn schedule(&mut self, servers: &[Arc<RealServer>], _: &Arrival<'_>) -> Option<Arc<RealServer>> {
        least(servers, expected_delay).cloned()
    }
}

/// Active connections, the new one included (`ip_vs_sed_dest_overhead`).
pub(super) fn expected_delay(server: &RealServer) -> u64 {
    u64::from(server.active_conns()) + 1
}
