//! Least connections (`ip_vs_lc.c`).

use super::Scheduler;
use crate::director::service::RealServer;
use std::sync::Arc;

/// The eligible server with the least load; of several, the first in the list.
#[derive(Debug)]
pub(super) struct Lc;

impl Scheduler for Lc {
    fn name(&self) -> &'static str {
        "lc"
    }

    fn schedule(&mut self, servers: &[Arc<RealServer>]) -> Option<usize> {
        let eligible = servers.iter().enumerate().filter(|(_, server)| server.is_eligible());
        eligible.min_by_key(|(_, server)| server.load()).map(|(index, _)| index)
    }
}
