//! Weighted failover (`ip_vs_fo.c`).

use super::{Arrival, Scheduler};
use crate::director::service::RealServer;
use std::sync::Arc;

/// The eligible server with the highest weight; of several, the first in the list.
#[derive(Debug)]
pub(super) struct Fo;

impl Scheduler for Fo {
    fn name(&self) -> &'static str {
        "fo"
    }

    fn schedule(&mut self, servers: &[Arc<RealServer>], _: &Arrival<'_>) -> Option<Arc<RealServer>> {
        heaviest(servers.iter().filter(|server| server.is_eligible())).cloned()
    }
}

/// The server with the highest weight; of several, the first.
pub(super) fn heaviest<'a>(
    servers: impl Iterator<Item = &'a Arc<RealServer>>,
) -> Option<&'a Arc<RealServer>> {
    servers.reduce(|best, next| if next.weight() > best.weight() { next } else { best })
}
