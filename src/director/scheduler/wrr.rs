//! Weighted round robin (`ip_vs_wrr.c`).
//!
//! Servers are visited in passes through the list. A pass takes those whose weight is at least the current weight,
//! which falls from the greatest weight to 1 in steps of the weights' greatest common divisor. So a cycle chooses each
//! server as often as its weight (over the divisor) says: the heaviest alone at first, all of them in the last pass.

use super::{Arrival, Place, Scheduler, greatest_common_divisor, index_after};
use crate::director::service::{RealServer, ServerId};
use std::sync::Arc;

/// Each eligible server in turn, the heavier ones more often.
#[derive(Debug)]
pub(super) struct Wrr {
    /// The server chosen last (`cl`); `None`: the head of the list, before its first server.
    last: Option<Place>,
    /// The weight a server needs in this pass (`cw`); 1 to `top_weight`, once there was a server to choose.
    current_weight: i64,
    /// Where a cycle of passes starts (`mw`): the greatest weight, less what keeps the last pass at weight 1.
    top_weight: i64,
    /// Greatest common divisor of all positive weights (`di`).
    step: i64,
}

impl Default for Wrr {
    fn default() -> Wrr {
        Wrr { last: None, current_weight: 0, top_weight: 0, step: 1 }
    }
}

impl Scheduler for Wrr {
    fn name(&self) -> &'static str {
        "wrr"
    }

    fn schedule(&mut self, servers: &[Arc<RealServer>], _: &Arrival<'_>) -> Option<Arc<RealServer>> {
        if self.top_weight == 0 {
            return None;
        }
        let start = index_after(servers, self.last);
        let mut from = start;
        let mut stop = None;
        let mut last_pass = false;
        let mut restarted = false;
        loop {
            let mut heaviest = 0;
            for (index, server) in servers.iter().enumerate().skip(from) {
                let weight = if server.is_eligible() { i64::from(server.weight().get()) } else { 0 };
                if weight >= self.current_weight {
                    self.last = Some(Place::new(servers, index));
                    return Some(Arc::clone(server));
                }
                if stop == Some(index) {
                    self.last = Some(Place::new(servers, index));
                    return None;
                }
                heaviest = heaviest.max(weight);
            }
            self.current_weight -= if from == 0 { self.steps_down_to(heaviest) } else { self.step };
            from = 0;
            if self.current_weight <= 0 {
                self.current_weight = self.top_weight;
                // Every server was asked for weight 1: in the last pass, or in passes that all began at the head.
                if last_pass || start == 0 {
                    self.last = None;
                    return None;
                }
                restarted = true;
            }
            last_pass = self.current_weight <= self.step;
            if last_pass && restarted && start > 0 {
                stop = Some(start - 1);
            }
        }
    }

    fn on_added(&mut self, servers: &[Arc<RealServer>]) {
        self.restart(servers);
    }

    fn on_removed(&mut self, _removed: ServerId, _position: usize, servers: &[Arc<RealServer>]) {
        self.restart(servers);
    }

    fn on_changed(&mut self, servers: &[Arc<RealServer>]) {
        self.restart(servers);
    }
}

impl Wrr {
    /// Begins at the head with new weights; the current weight is kept as far as they allow, as the kernel does.
    fn restart(&mut self, servers: &[Arc<RealServer>]) {
        let (divisor, greatest) = servers.iter().fold((0, 0), |(divisor, greatest), server| {
            let weight = server.weight().get();
            (greatest_common_divisor(divisor, weight), weight.max(greatest))
        });
        self.last = None;
        self.step = i64::from(divisor).max(1);
        self.top_weight = i64::from(greatest) - (self.step - 1);
        if self.current_weight > self.top_weight || self.current_weight == 0 {
            self.current_weight = self.top_weight;
        } else if self.step > 1 {
            self.current_weight = self.current_weight / self.step * self.step + 1;
        }
    }

    /// How far the current weight falls after a pass through the whole list found nothing and `heaviest` is the
    /// greatest weight that may be chosen: the passes that cannot find anything either are left out, except the last
    /// one (at most `step`), which decides about giving up. The kernel walks them all, up to 2^31 when the list has
    /// lost its heaviest server and the scheduler has yet to be told.
    fn steps_down_to(&self, heaviest: i64) -> i64 {
        let target = heaviest.max(self.step);
        let above = (self.current_weight - target).max(1);
        (above + self.step - 1) / self.step * self.step
    }
}

#[cfg(test)]
mod tests {
    use super::super::SchedulerKind;
    use super::super::tests::{Service, someone};
    use super::*;

    fn marks(wrr: &Wrr) -> [i64; 3] {
        [wrr.current_weight, wrr.top_weight, wrr.step]
    }

    #[test]
    fn marks_follow_the_weights() {
        let service = Service::new(SchedulerKind::Wrr, &[6, 9]);
        let mut wrr = Wrr::default();
        let mut edit = |current_weight: i64, weights: [u32; 2]| {
            service.set_weight(1, weights[0]);
            service.set_weight(2, weights[1]);
            wrr.current_weight = current_weight;
            wrr.on_changed(&service.servers);
            marks(&wrr)
        };
        assert_eq!(edit(0, [6, 9]), [7, 7, 3], "a new scheduler starts at the top");
        assert_eq!(edit(9, [6, 9]), [7, 7, 3], "above the top");
        assert_eq!(edit(6, [6, 9]), [7, 7, 3], "rounded up");
        assert_eq!(edit(5, [6, 9]), [4, 7, 3], "rounded down");
        assert_eq!(edit(4, [6, 9]), [4, 7, 3], "kept");
        assert_eq!(edit(5, [6, 7]), [5, 7, 1], "step 1 rounds nothing");
        assert_eq!(edit(5, [0, 4]), [1, 1, 4], "weight 0 does not divide");
        assert_eq!(edit(5, [0, 0]), [0, 0, 1], "nothing to choose");
    }

    /// The kernel's search as it stands in `ip_vs_wrr_schedule`, walking every pass.
    struct Kernel {
        cl: Option<usize>,
        cw: i64,
        mw: i64,
        di: i64,
    }

    impl Kernel {
        fn schedule(&mut self, weights: &[i64]) -> Option<usize> {
            if self.mw == 0 {
                return None;
            }
            let (mut stop, mut last_pass, mut restarted) = (None, false, false);
            let last = self.cl;
            let mut next = last.map_or(0, |last| last + 1);
            loop {
                while next < weights.len() {
                    if weights[next] >= self.cw {
                        self.cl = Some(next);
                        return self.cl;
                    }
                    if stop == Some(next) {
                        self.cl = stop;
                        return None;
                    }
                    next += 1;
                }
                next = 0;
                self.cw -= self.di;
                if self.cw <= 0 {
                    self.cw = self.mw;
                    if last_pass || last.is_none() {
                        self.cl = None;
                        return None;
                    }
                    restarted = true;
                }
                last_pass = self.cw <= self.di;
                if last_pass && restarted && last.is_some() {
                    stop = last;
                }
            }
        }
    }

    // Weights change behind the scheduler's back, so that there are passes to leave out and searches in vain.
    #[test]
    fn leaving_out_passes_changes_no_choice() {
        let mut rng = fastrand::Rng::with_seed(18);
        let mut searches_in_vain = 0;
        for round in 0..2000 {
            let factor = rng.u32(1..4);
            let length = rng.usize(1..6);
            let weights: Vec<u32> = (0..length).map(|_| rng.u32(0..30) * factor).collect();
            let service = Service::new(SchedulerKind::Wrr, &weights);
            let mut wrr = Wrr::default();
            wrr.on_changed(&service.servers);
            let [cw, mw, di] = marks(&wrr);
            let mut kernel = Kernel { cl: None, cw, mw, di };
            for step in 0..60 {
                if rng.u32(..4) == 0 {
                    let weight = if rng.bool() { 0 } else { rng.u32(0..30) * factor };
                    service.set_weight(rng.u64(1..=length as u64), weight);
                }
                let weights: Vec<i64> = service.servers.iter().map(|s| s.weight().get().into()).collect();
                let chosen = wrr.schedule(&service.servers, &someone());
                let chosen = chosen.map(|server| service.position(server.id.0));
                assert_eq!(chosen, kernel.schedule(&weights), "round {round}, step {step}: {weights:?}");
                assert_eq!(marks(&wrr), [kernel.cw, mw, di], "round {round}, step {step}: {weights:?}");
                searches_in_vain += usize::from(chosen.is_none() && mw > 0);
            }
        }
        assert!(searches_in_vain > 1000, "only {searches_in_vain}");
    }
}
