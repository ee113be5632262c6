//! Least connections (`ip_vs_lc.c`).

use super::{Arrival, Scheduler};
use crate::director::service::RealServer;
use std::sync::Arc;

/// The eligible server with the least load; of several, the first in the list.
#[derive(Debug)]
pub(super) struct Lc;

impl Scheduler for Lc {
    fn name(&self) -> &'static str {
        "lc"
    }

    fn schedule(&mut self, servers: &[Arc<RealServer>], _: &Arrival<'_>) -> Option<Arc<RealServer>> {
        let eligible = servers.iter().filter(|server| server.is_eligible());
        eligible.min_by_key(|server| server.load()).cloned()
    }
}
