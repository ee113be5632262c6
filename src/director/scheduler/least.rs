//! The comparison that wlc, sed, nq, lblc, lblcr and feedback have in common.

use crate::director::service::RealServer;
use std::sync::Arc;

/// Of the eligible servers the one with the least `cost` for its weight; of several, the first.
pub(super) fn least<'a>(
    servers: impl IntoIterator<Item = &'a Arc<RealServer>>,
    cost: impl Fn(&RealServer) -> u64,
) -> Option<&'a Arc<RealServer>> {
    least_by(servers, cost, |server| server.weight().get().into())
}

/// The same by another weight, of 43 bits at most.
pub(super) fn least_by<'a>(
    servers: impl IntoIterator<Item = &'a Arc<RealServer>>,
    cost: impl Fn(&RealServer) -> u64,
    weight: impl Fn(&RealServer) -> u64,
) -> Option<&'a Arc<RealServer>> {
    // A load of 41 bits times a weight of 31, or of 43, does not fit 64.
    let figures =
        |server: &'a Arc<RealServer>| (server, u128::from(cost(server)), u128::from(weight(server)));
    servers
        .into_iter()
        .filter(|server| server.is_eligible())
        .map(figures)
        .reduce(|best, next| {
            let ((_, best_cost, best_weight), (_, next_cost, next_weight)) = (best, next);
            if best_cost * next_weight > next_cost * best_weight { next } else { best }
        })
        .map(|(server, ..)| server)
}
