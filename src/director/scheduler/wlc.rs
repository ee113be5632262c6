//! Weighted least connections (`ip_vs_wlc.c`).

use super::least::least;
use super::{Arrival, Scheduler};
use crate::director::service::RealServer;
use std::sync::Arc;

/// The eligible server with the least load for its weight; of several, the first in the list.
#[derive(Debug)]
pub(super) struct Wlc;

impl Scheduler for Wlc {
    fn name(&self) -> &'static str {
        "wlc"
    }

    fn schedule(&mut self, servers: &[Arc<RealServer>], _: &Arrival<'_>) -> Option<Arc<RealServer>> {
        least(servers, RealServer::load).cloned()
    }
}
