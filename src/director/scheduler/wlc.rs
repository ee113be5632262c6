//! Weighted least connections (`ip_vs_wlc.c`).

use super::Scheduler;
use crate::director::service::RealServer;
use std::sync::Arc;

/// The eligible server with the least load for its weight; of several, the first in the list.
#[derive(Debug)]
pub(super) struct Wlc;

impl Scheduler for Wlc {
    fn name(&self) -> &'static str {
        "wlc"
    }

    fn schedule(&mut self, servers: &[Arc<RealServer>]) -> Option<usize> {
        // A load of 41 bits times a weight of 31 does not fit 64.
        let figures = |server: &RealServer| (u128::from(server.load()), u128::from(server.weight().get()));
        servers
            .iter()
            .enumerate()
            .filter(|(_, server)| server.is_eligible())
            .map(|(index, server)| (index, figures(server)))
            .reduce(|best, next| {
                let (_, (best_load, best_weight)) = best;
                let (_, (next_load, next_weight)) = next;
                if best_load * next_weight > next_load * best_weight { next } else { best }
            })
            .map(|(index, _)| index)
    }
}
