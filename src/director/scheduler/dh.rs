//! Destination hashing (`ip_vs_dh.c`): for services by mark, which have many destinations.

use super::hash::{fold, multiplied};
use super::{Arrival, Scheduler};
use crate::director::service::RealServer;
use std::sync::Arc;

/// Bits of a bucket's number (`IP_VS_DH_TAB_BITS`).
const BITS: u32 = 8;

/// The server that the destination's bucket belongs to. Weights do not matter, but a server of weight 0 and a full one
/// get nothing, and nobody stands in.
#[derive(Debug, Default)]
pub(super) struct Dh {
    /// The servers in turn, or nothing.
    buckets: Vec<Arc<RealServer>>,
}

impl Scheduler for Dh {
    fn name(&self) -> &'static str {
        "dh"
    }

    fn schedule(&mut self, _: &[Arc<RealServer>], arrival: &Arrival<'_>) -> Option<Arc<RealServer>> {
        let server = self.buckets.get(multiplied(fold(arrival.destination), BITS))?;
        server.is_eligible().then(|| Arc::clone(server))
    }

    fn rebuild(&mut self, servers: &[Arc<RealServer>]) {
        self.buckets = servers.iter().cycle().take(1 << BITS).cloned().collect();
    }
}
