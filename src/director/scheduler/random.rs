//! Uniform choice, which IPVS does not have.

use super::Scheduler;
use crate::director::service::RealServer;
use std::sync::Arc;

/// Draws at this many servers before the whole list is looked through.
const DRAWS: usize = 8;

/// Any eligible server, with equal chances.
#[derive(Debug)]
pub(super) struct Random {
    rng: fastrand::Rng,
}

impl Random {
    pub(super) fn new(seed: u64) -> Random {
        Random { rng: fastrand::Rng::with_seed(seed) }
    }
}

impl Scheduler for Random {
    fn name(&self) -> &'static str {
        "random"
    }

    fn schedule(&mut self, servers: &[Arc<RealServer>]) -> Option<usize> {
        if servers.is_empty() {
            return None;
        }
        // A draw among all that falls on an eligible server is uniform among the eligible ones.
        for _ in 0..DRAWS {
            let index = self.rng.usize(..servers.len());
            if servers[index].is_eligible() {
                return Some(index);
            }
        }
        // Few are eligible. The n-th replaces the choice with chance 1/n, so each keeps it with chance 1/count.
        let mut chosen = None;
        let mut seen = 0;
        for (index, server) in servers.iter().enumerate() {
            if server.is_eligible() {
                seen += 1;
                if self.rng.usize(..seen) == 0 {
                    chosen = Some(index);
                }
            }
        }
        chosen
    }
}
