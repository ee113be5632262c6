//! Source hashing (`ip_vs_sh.c`).

use super::hash::{fold, multiplied};
use super::{Arrival, Scheduler};
use crate::director::service::RealServer;
use std::sync::Arc;

/// Bits of a bucket's number (`CONFIG_IP_VS_SH_TAB_BITS`).
const BITS: u32 = 8;
const BUCKETS: usize = 1 << BITS;

/// The server that the client's bucket belongs to. With `sh-fallback`, other buckets follow where that server has
/// weight 0 or is full; with `sh-port`, the client's port counts as well.
#[derive(Debug, Default)]
pub(super) struct Sh {
    /// Nothing where there is no server.
    buckets: Vec<Arc<RealServer>>,
}

impl Sh {
    fn eligible(&self, bucket: usize) -> Option<&Arc<RealServer>> {
        self.buckets.get(bucket % BUCKETS).filter(|server| server.is_eligible())
    }
}

impl Scheduler for Sh {
    fn name(&self) -> &'static str {
        "sh"
    }

    fn schedule(&mut self, _: &[Arc<RealServer>], arrival: &Arrival<'_>) -> Option<Arc<RealServer>> {
        let first = multiplied(arrival.hashed_port().wrapping_add(fold(arrival.client.ip())), BITS);
        let mut found = self.eligible(first);
        if found.is_none() && arrival.flags.has_fallback() {
            // The kernel adds the first bucket's number to the offset, and the hash to both.
            found = (0..BUCKETS).find_map(|offset| self.eligible(first + (offset + first) % BUCKETS));
        }
        found.cloned()
    }

    /// Each server takes as many buckets at a time as its weight says, one with weight 0, and so on from the first.
    fn rebuild(&mut self, servers: &[Arc<RealServer>]) {
        let runs = servers.iter().cycle().flat_map(|server| {
            let length = server.weight().get().max(1) as usize;
            std::iter::repeat_n(server, length.min(BUCKETS))
        });
        self.buckets = runs.take(BUCKETS).cloned().collect();
    }
}
