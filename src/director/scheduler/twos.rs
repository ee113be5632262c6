//! Power of two choices (`ip_vs_twos.c`; Mitzenmacher, "The Power of Two Choices in Randomized Load Balancing", 2001).

use super::{Arrival, Scheduler};
use crate::director::service::RealServer;
use std::sync::Arc;

/// Of two servers that are drawn in proportion to their weights, the one with less load for its weight.
#[derive(Debug)]
pub(super) struct Twos {
    rng: fastrand::Rng,
}

impl Twos {
    pub(super) fn new(seed: u64) -> Twos {
        Twos { rng: fastrand::Rng::with_seed(seed) }
    }
}

impl Scheduler for Twos {
    fn name(&self) -> &'static str {
        "twos"
    }

    fn schedule(&mut self, servers: &[Arc<RealServer>], _: &Arrival<'_>) -> Option<Arc<RealServer>> {
        let weight = |server: &RealServer| u64::from(server.weight().get());
        let eligible = || servers.iter().filter(|server| server.is_eligible());
        let (total, last) =
            eligible().fold((0, None), |(total, _), server| (total + weight(server), Some(server)));
        // The bound is one of the numbers, as in the kernel, so the first server has a chance more than its weight says.
        let mut draw = || self.rng.u64(..=total);
        let (mut first, mut second) = (Drawn::new(draw()), Drawn::new(draw()));
        for server in eligible() {
            let weight = weight(server);
            first.pass(server, weight);
            second.pass(server, weight);
            if first.is_found() && second.is_found() {
                break;
            }
        }
        // Weights may fall while they are walked along.
        match (first.server.or(last), second.server) {
            (Some(first), Some(second)) if is_better(second, first) => Some(Arc::clone(second)),
            (first, _) => first.cloned(),
        }
    }
}

/// A number that was drawn, on its way along the servers' weights.
struct Drawn<'a> {
    left: u64,
    server: Option<&'a Arc<RealServer>>,
}

impl<'a> Drawn<'a> {
    fn new(number: u64) -> Drawn<'a> {
        Drawn { left: number, server: None }
    }

    fn is_found(&self) -> bool {
        self.server.is_some()
    }

    fn pass(&mut self, server: &'a Arc<RealServer>, weight: u64) {
        if self.server.is_none() {
            match self.left.checked_sub(weight) {
                Some(left) if left > 0 => self.left = left,
                _ => self.server = Some(server),
            }
        }
    }
}

/// Whether a server has less load for its weight than another.
fn is_better(server: &RealServer, than: &RealServer) -> bool {
    let product =
        |load: &RealServer, weight: &RealServer| u128::from(load.load()) * u128::from(weight.weight().get());
    product(than, server) > product(server, than)
}
