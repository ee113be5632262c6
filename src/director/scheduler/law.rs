//! The control law of the scheduler `feedback`: from what servers report to factors of their weights. IPVS has none.
//!
//! It is an integral controller with a dead band: as long as a server is more loaded than the service on average, its
//! factor falls by a little with each interval, and rises as long as it is less. What keeps it from oscillating, though
//! reports are old when they come, is told with its formulas in `docs/schedulers.md`; `tests/feedback.rs` simulates it.
//!
//! Only the four basic operations are used on floating-point numbers: the results are the same on every machine.

use crate::director::Time;
use crate::director::service::{Factor, Load};
use std::time::Duration;

/// After how many intervals a sudden change of the load is seen to about two thirds.
const SMOOTHING: f64 = 4.0;
/// How much a factor changes in an interval, for each unit by which the load is off. No load counts as further off than
/// a unit, so that this is also the most that a factor changes.
const GAIN: f64 = 1.0 / 32.0;
/// How far off a load is before its server's factor begins to change.
const BEGIN: f64 = 0.1;
/// How near a load is when the factor ceases to change.
const CEASE: f64 = 0.05;
/// By what part the connections of a server may differ from what its weight says; with more the factor waits for them.
const BEHIND: f64 = 0.125;
/// What [`Member::connections`] is with one active connection.
const ONE_CONNECTION: f64 = 257.0;

/// What the law knows of a server.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Regulation {
    load: f64,
    noted: Time,
    factor: f64,
    is_changing: bool,
}

impl Regulation {
    /// After a first report.
    pub fn new(load: Load, now: Time) -> Regulation {
        Regulation { load: load.get(), noted: now, factor: 1.0, is_changing: false }
    }

    /// Takes a report in: exponential smoothing by the time since the one before.
    pub fn note(&mut self, load: Load, interval: Duration, now: Time) {
        let passed = (now - self.noted).as_secs_f64();
        let part = passed / (passed + SMOOTHING * interval.as_secs_f64());
        self.load += part * (load.get() - self.load);
        self.noted = now;
    }

    /// The load, smoothed.
    pub fn load(&self) -> f64 {
        self.load
    }

    /// By how much the weight is to be multiplied.
    pub fn factor(&self) -> Factor {
        Factor::nearest(self.factor)
    }
}

/// A server of a service, with a fresh report and a weight above 0.
#[derive(Debug)]
pub struct Member<'a> {
    /// What is known of it; the factor in it is brought up to date.
    pub regulation: &'a mut Regulation,
    /// The weight that is configured.
    pub weight: f64,
    /// Its connections, as wlc counts them.
    pub connections: f64,
}

impl Member<'_> {
    /// How much it gets in comparison with the others.
    fn share(&self) -> f64 {
        self.weight * self.regulation.factor
    }
}

/// Brings the factors of a service's servers up to date. Once in an interval.
pub fn regulate(members: &mut [Member<'_>]) {
    let weights = sum(members, |member| member.weight);
    let shares = sum(members, Member::share);
    let connections = sum(members, |member| member.connections);
    // By shares, so that what some factors lose is what others gain.
    let mean = sum(members, |member| member.share() * member.regulation.load) / shares;
    for member in &mut *members {
        let off = ((member.regulation.load - mean) / mean.max(1.0)).clamp(-1.0, 1.0);
        let band = if member.regulation.is_changing { CEASE } else { BEGIN };
        member.regulation.is_changing = off.abs() > band;
        let due = connections * member.share() / shares;
        let slack = due * BEHIND + ONE_CONNECTION;
        // Connections that last stay where they are: more of the same would only add up until they have ended.
        let is_behind =
            if off > 0.0 { member.connections > due + slack } else { member.connections < due - slack };
        if member.regulation.is_changing && !is_behind {
            member.regulation.factor *= 1.0 - GAIN * off;
        }
    }
    // Servers without reports have the factor 1, so that is what the others have on average.
    let scale = weights / sum(members, Member::share);
    for member in members {
        let scaled = member.regulation.factor * scale;
        member.regulation.factor = scaled.clamp(Factor::LEAST.get(), Factor::MOST.get());
    }
}

fn sum<'a>(members: &[Member<'a>], of: impl Fn(&Member<'a>) -> f64) -> f64 {
    members.iter().map(of).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Factors after so many rounds of the same reports: load, weight and connections of each server.
    fn factors(servers: &[(f64, f64, f64)], rounds: usize) -> Vec<f64> {
        let known = |&(load, ..): &(f64, f64, f64)| Regulation::new(Load::new(load).unwrap(), Time::ZERO);
        let mut known: Vec<Regulation> = servers.iter().map(known).collect();
        for _ in 0..rounds {
            let members = known.iter_mut().zip(servers);
            let mut members: Vec<Member<'_>> = members
                .map(|(regulation, &(_, weight, connections))| Member { regulation, weight, connections })
                .collect();
            regulate(&mut members);
        }
        known.iter().map(|regulation| regulation.factor).collect()
    }

    /// Without connections there is nothing to wait for.
    const NONE: f64 = 0.0;

    #[test]
    fn within_the_dead_band_nothing_changes() {
        for loads in [[0.5, 0.5], [0.45, 0.6], [0.0, 0.0], [4.0, 4.0], [0.0, 0.19]] {
            assert_eq!(factors(&loads.map(|load| (load, 1.0, NONE)), 100), [1.0; 2], "{loads:?}");
        }
        assert_eq!(factors(&[(4.0, 1.0, NONE)], 100), [1.0], "one server");
        assert_eq!(factors(&[], 1), [0.0; 0]);
        // Above full load it is in proportion: a tenth of the mean.
        assert_eq!(factors(&[(2.8, 1.0, NONE), (3.2, 1.0, NONE)], 100), [1.0; 2]);
    }

    #[test]
    fn a_factor_changes_by_what_its_load_is_off_and_by_a_thirty_second_at_most() {
        // Off by 0.2 in either direction.
        assert_eq!(factors(&[(0.4, 1.0, NONE), (0.8, 1.0, NONE)], 1), [1.0 + 0.2 / 32.0, 1.0 - 0.2 / 32.0]);
        // Off by 0.4 and by 3.6; what one is off by more than a unit does not count.
        let [idle, loaded] = factors(&[(0.0, 9.0, NONE), (4.0, 1.0, NONE)], 1)[..] else { panic!("two") };
        assert!((loaded / idle - (1.0 - 1.0 / 32.0) / (1.0 + 0.4 / 32.0)).abs() < 1e-12, "{loaded} {idle}");
    }

    #[test]
    fn factors_stay_within_bounds_and_are_one_on_average() {
        let three = factors(&[(4.0, 1.0, NONE), (0.5, 1.0, NONE), (0.5, 1.0, NONE)], 1_000);
        assert_eq!(three[0], 0.125);
        assert!((three.iter().sum::<f64>() - 3.0).abs() < 0.01, "{three:?}");
        let two = factors(&[(4.0, 1.0, NONE), (0.0, 1.0, NONE)], 1_000);
        assert_eq!(two[0], 0.125);
        assert!((1.8..=2.0).contains(&two[1]), "{two:?}");
        // With the weights 7 and 1, one on average would be 3 for the light one.
        let unequal = factors(&[(4.0, 7.0, NONE), (0.0, 1.0, NONE)], 1_000);
        assert_eq!(unequal[1], 2.0, "{unequal:?}");
    }

    #[test]
    fn a_factor_that_changes_does_so_until_the_inner_edge() {
        let mut known = [0.3, 0.5].map(|load| Regulation::new(Load::new(load).unwrap(), Time::ZERO));
        let mut round = |load: f64, is_changing: bool| {
            known[1].load = load;
            let mut members =
                known.each_mut().map(|regulation| Member { regulation, weight: 1.0, connections: NONE });
            regulate(&mut members);
            assert_eq!(known[1].is_changing, is_changing, "{load}");
        };
        // Off by half of the difference, or nearly.
        round(0.49, false);
        round(0.51, true);
        round(0.45, true);
        round(0.41, true);
        round(0.39, false);
        round(0.49, false);
    }

    #[test]
    fn a_factor_waits_until_connections_have_followed() {
        let some = 100.0 * ONE_CONNECTION;
        for (loaded, idle, is_waiting) in [
            (some, some, [false; 2]),
            // 1.12 and 0.88 times what is due, and one more.
            (1.12 * some, 0.88 * some, [false; 2]),
            (1.15 * some, 0.85 * some, [true; 2]),
            // What goes the right way already does not wait.
            (0.5 * some, 1.5 * some, [false; 2]),
            (ONE_CONNECTION, 0.0, [false; 2]),
        ] {
            let factors = factors(&[(0.9, 1.0, loaded), (0.3, 1.0, idle)], 1);
            let waits: Vec<bool> = factors.iter().map(|factor| *factor == 1.0).collect();
            assert_eq!(waits, is_waiting, "{loaded} {idle}");
        }
    }

    #[test]
    fn a_sudden_change_is_seen_to_two_thirds_after_four_intervals() {
        let second = Duration::from_secs(1);
        for interval in [1, 10] {
            let at = |step: u64| Time::ZERO + second * u32::try_from(interval * step).unwrap();
            let mut regulation = Regulation::new(Load::new(0.0).unwrap(), at(0));
            let loads: Vec<f64> = (1..=8)
                .map(|step| {
                    regulation.note(Load::new(1.0).unwrap(), second * interval as u32, at(step));
                    regulation.load()
                })
                .collect();
            assert!((0.15..0.25).contains(&loads[0]) && (0.55..0.7).contains(&loads[3]), "{loads:?}");
            assert!(loads.is_sorted() && loads[7] < 1.0, "{loads:?}");
            // Two reports at one moment: the second adds nothing.
            let before = regulation;
            regulation.note(Load::new(4.0).unwrap(), second, at(8));
            assert_eq!(regulation, before);
        }
    }
}
