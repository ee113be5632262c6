//! The scheduler `feedback` with servers that report late and inexactly: its factors come to what the servers can take,
//! and stay there; and without reports it is wlc.

#[path = "../docs/schedulers/simulation.rs"]
mod simulation;

use simulation::{Law, Moment, Plan, bounds, run, run_watched};

/// Four servers that can take 100, 200, 300 and 400 connections and have the same weight, at 60 % of that. Reports are up
/// to five seconds old, and a fifth too high or too low.
fn unequal() -> Plan {
    Plan {
        capacities: vec![100.0, 200.0, 300.0, 400.0],
        connections: 600.0,
        lifetime: 10.0,
        delay: 0..=5,
        noise: 0.2,
        change: None,
        silence: 0..0,
        seconds: 1_800,
        seed: 1,
    }
}

/// Four equal servers, one of which has half of its capacity from the second 1,200 on.
fn halved() -> Plan {
    Plan {
        capacities: vec![200.0; 4],
        change: Some((HALVED_AT, 1, 100.0)),
        seconds: HALVED_AT + 1_800,
        ..unequal()
    }
}

const HALVED_AT: usize = 1_200;
/// The part by which a factor may go up and down once it has settled: as much as loads may be apart without anything
/// being done about it.
const STEADY: f64 = 0.1;
/// The part by which a factor may fall below what it comes to.
const OVERSHOOT: f64 = 0.15;
/// How long factors may take to settle, unless connections last longer than that. In seconds.
const SETTLED: usize = 1_000;

/// The seeds of everything that is random.
fn seeds(of: &Plan) -> impl Iterator<Item = Plan> {
    (1..=3).map(|seed| Plan { seed, ..of.clone() })
}

/// From the least to the greatest of each factor, as a part of what lies between; the largest of all servers.
fn swing(moments: &[Moment]) -> f64 {
    let of = |server: usize| {
        let factors: Vec<f64> = moments.iter().map(|moment| moment.factors[server]).collect();
        let (least, most) = bounds(&factors);
        2.0 * (most - least) / (most + least)
    };
    (0..moments[0].factors.len()).map(of).fold(0.0, f64::max)
}

fn mean_spread(moments: &[Moment]) -> f64 {
    moments.iter().map(Moment::spread).sum::<f64>() / moments.len() as f64
}

/// Worlds in which the law has to be steady.
fn worlds() -> Vec<(&'static str, Plan)> {
    vec![
        ("as described", unequal()),
        ("all reports five seconds old", Plan { delay: 5..=5, ..unequal() }),
        ("exact reports, five seconds old", Plan { delay: 5..=5, noise: 0.0, ..unequal() }),
        ("connections of a second", Plan { lifetime: 1.0, ..unequal() }),
        ("connections of ten minutes", Plan { lifetime: 600.0, seconds: 6_000, ..unequal() }),
        ("fully loaded", Plan { connections: 1_000.0, delay: 5..=5, ..unequal() }),
        ("overloaded by half", Plan { connections: 1_500.0, delay: 5..=5, ..unequal() }),
        (
            "twenty servers",
            Plan {
                capacities: (0..20).map(|server| f64::from(50 + 10 * server)).collect(),
                connections: 2_000.0,
                ..unequal()
            },
        ),
        ("equal servers", Plan { capacities: vec![250.0; 4], ..unequal() }),
    ]
}

#[test]
fn factors_come_to_what_servers_can_take_and_stay_there() {
    for (what, plan) in worlds() {
        for plan in seeds(&plan) {
            let moments = run(&plan, Law::Feedback);
            let settled = &moments[plan.seconds - 600..];
            let swing = swing(settled);
            assert!(swing <= STEADY, "{what}, seed {}: factors swing by {swing:.3}", plan.seed);
            // As near as the dead band says, and a bit for what is random about connections.
            let mean = plan.capacities.iter().sum::<f64>() / plan.capacities.len() as f64;
            for (capacity, factor) in plan.capacities.iter().zip(&settled[0].factors) {
                let off = factor / (capacity / mean) - 1.0;
                assert!(off.abs() <= 0.25, "{what}, seed {}: {factor} for {capacity}", plan.seed);
            }
        }
    }
}

#[test]
fn loads_come_together_that_wlc_leaves_apart() {
    let plan = unequal();
    let with = |law| mean_spread(&run(&plan, law)[SETTLED..]);
    let (feedback, wlc) = (with(Law::Feedback), with(Law::Wlc));
    assert!(feedback < 0.15, "{feedback}");
    assert!(wlc > 1.0, "{wlc}");
}

/// The same bound, and a law that does not keep it: so it can fail.
#[test]
fn a_law_that_goes_by_each_report_at_once_swings_without_end() {
    for (what, plan) in worlds() {
        let moments = run(&plan, Law::Naive);
        let swing = swing(&moments[plan.seconds - 600..]);
        assert!(swing > 1.5 * STEADY, "{what}: {swing:.3}");
    }
}

#[test]
fn a_server_that_loses_half_its_capacity_gets_half_without_overshoot() {
    for (what, plan) in [
        ("as described", halved()),
        (
            "all reports five seconds old, near full load",
            Plan { connections: 680.0, delay: 5..=5, ..halved() },
        ),
        ("connections of a hundred seconds", Plan { lifetime: 100.0, ..halved() }),
        ("connections of ten minutes", Plan { lifetime: 600.0, seconds: 8_000, ..halved() }),
    ] {
        for plan in seeds(&plan) {
            let moments = run(&plan, Law::Feedback);
            let since: Vec<f64> = moments[HALVED_AT..].iter().map(|moment| moment.factors[1]).collect();
            let (least, _) = bounds(&since);
            let last = since[since.len() - 1];
            // Half of the others' is 4/7.
            assert!((last - 4.0 / 7.0).abs() < 0.1, "{what}, seed {}: {last}", plan.seed);
            assert!(
                least > (1.0 - OVERSHOOT) * last,
                "{what}, seed {}: {least} on the way to {last}",
                plan.seed
            );
            let settled = &moments[plan.seconds - 600..];
            assert!(swing(settled) <= STEADY, "{what}, seed {}", plan.seed);
        }
    }
}

#[test]
fn a_server_out_of_bounds_keeps_the_least_part_and_the_others_share_the_rest() {
    let plan = Plan { capacities: vec![10.0, 400.0, 400.0, 400.0], ..unequal() };
    let moments = run(&plan, Law::Feedback);
    let last = &moments[plan.seconds - 1].factors;
    assert_eq!(last[0], 0.125);
    assert!(last[1..].iter().all(|factor| (1.2..1.4).contains(factor)), "{last:?}");
    assert!(swing(&moments[SETTLED..]) <= STEADY);
}

/// One by one, from the moment at which the last report is three seconds old.
#[test]
fn without_reports_the_choices_are_those_of_wlc() {
    let plan = Plan { silence: 900..1_800, ..unequal() };
    let mut unlike = vec![0; plan.seconds];
    let moments = run_watched(&plan, Law::Feedback, |second, chosen, by_wlc| {
        unlike[second] += usize::from(chosen != by_wlc);
    });
    assert!(moments[899].factors[0] < 0.5, "{:?}", moments[899]);
    assert!(unlike[600..900].iter().all(|&unlike| unlike > 10), "{:?}", &unlike[600..900]);
    // A report counts from the end of a second to the end of the third after it.
    assert_eq!(moments[902].factors, [1.0; 4]);
    assert_eq!(unlike[903..], [0; 897]);
}

#[test]
fn reports_that_come_again_begin_anew() {
    let plan = Plan { silence: 900..950, ..unequal() };
    let moments = run(&plan, Law::Feedback);
    assert_eq!((&moments[903].factors, &moments[949].factors), (&vec![1.0; 4], &vec![1.0; 4]));
    assert!(swing(&moments[plan.seconds - 300..]) <= STEADY);
    assert!(moments[plan.seconds - 1].factors[0] < 0.5);
}
