//! Never queue (`ip_vs_nq.c`).

use super::least::least;
use super::sed::expected_delay;
use super::{Arrival, Scheduler};
use crate::director::service::RealServer;
use std::sync::Arc;

/// The first eligible server of the list that has no active connection; where all have some, as [`Sed`](super::sed::Sed).
#[derive(Debug)]
pub(super) struct Nq;

impl Scheduler for Nq {
    fn name(&self) -> &'static str {
        "nq"
    }

    fn schedule(&mut self, servers: &[Arc<RealServer>], _: &Arrival<'_>) -> Option<Arc<RealServer>> {
        let idle = servers.iter().find(|server| server.is_eligible() && server.active_conns() == 0);
        idle.or_else(|| least(servers, expected_delay)).cloned()
    }
}
