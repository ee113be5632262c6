//! Uniform choice, which IPVS does not have.

use super::{Arrival, DRAWS, Scheduler};
use crate::director::service::RealServer;
use std::sync::Arc;

/// Any eligible server, with equal chances. A choice costs the same for any number of servers, as long as not nearly all
/// of them are full.
#[derive(Debug)]
pub(super) struct Random {
    rng: fastrand::Rng,
    /// The servers of weight 1 or more.
    servers: Vec<Arc<RealServer>>,
}

impl Random {
    pub(super) fn new(seed: u64) -> Random {
        Random { rng: fastrand::Rng::with_seed(seed), servers: Vec::new() }
    }
}

impl Scheduler for Random {
    fn name(&self) -> &'static str {
        "random"
    }

    fn schedule(&mut self, _: &[Arc<RealServer>], _: &Arrival<'_>) -> Option<Arc<RealServer>> {
        if self.servers.is_empty() {
            return None;
        }
        // A draw among all that falls on an eligible server is uniform among the eligible ones.
        for _ in 0..DRAWS {
            let server = &self.servers[self.rng.usize(..self.servers.len())];
            if server.is_eligible() {
                return Some(Arc::clone(server));
            }
        }
        // Few are eligible. The n-th replaces the choice with chance 1/n, so each keeps it with chance 1/count.
        let mut chosen = None;
        for (before, server) in self.servers.iter().filter(|server| server.is_eligible()).enumerate() {
            if self.rng.usize(..=before) == 0 {
                chosen = Some(server);
            }
        }
        chosen.cloned()
    }

    fn rebuild(&mut self, servers: &[Arc<RealServer>]) {
        self.servers.clear();
        self.servers.extend(servers.iter().filter(|server| server.weight().get() > 0).cloned());
    }
}
