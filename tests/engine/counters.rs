//! Counters and rates: who counts what, and what zeroing leaves.

use crate::bed::{ACK, Bed, SYN, key, server, tcp, udp, unreachable};
use nfvs::director::packet::Transport::{Tcp, Udp};
use nfvs::director::scheduler::SchedulerKind::Rr;
use nfvs::director::service::{Rates, ServiceKey, Stats, StatsSnapshot, Tunables};
use nfvs::director::{Command, CommandError, DropReason, Verdict};
use std::time::Duration;

const WEB: &str = "10.0.0.100:80";
const DNS: &str = "10.0.0.100:53";
const SERVER: &str = "10.0.2.11:80";
const CLIENT: &str = "10.0.1.2:1001";

fn service(bed: &Bed, key: ServiceKey) -> StatsSnapshot {
    bed.director.services().get(&key).unwrap().core.stats.snapshot()
}

fn first_server(bed: &Bed, key: ServiceKey) -> StatsSnapshot {
    bed.director.services().get(&key).unwrap().servers[0].stats.snapshot()
}

fn total(bed: &Bed) -> StatsSnapshot {
    bed.director.services().total.snapshot()
}

fn rates(bed: &Bed, stats: impl Fn(&nfvs::director::service::Services) -> &Stats) -> Rates {
    stats(&bed.director.services()).rates()
}

fn counts(conns: u64, in_packets: u64, out_packets: u64) -> StatsSnapshot {
    // A segment without payload has 40 bytes.
    let (in_bytes, out_bytes) = (in_packets * 40, out_packets * 40);
    StatsSnapshot { conns, in_packets, in_bytes, out_packets, out_bytes }
}

/// Lets time pass as a daemon does that ticks every second.
fn tick(bed: &mut Bed, seconds: u64) {
    for _ in 0..seconds {
        bed.pass(1);
        bed.director.estimate(bed.now);
    }
}

#[test]
fn server_service_and_total_count_the_same_packets() {
    let bed = Bed::serving(Tcp, WEB, Rr, &[SERVER, "10.0.3.12:80"]);
    bed.add(Udp, DNS, Rr, &["10.0.2.11:53"]);
    let (web, dns) = (key(Tcp, WEB), key(Udp, DNS));
    let at = bed.tcp(CLIENT, WEB, SYN).destination();
    bed.tcp(&at, CLIENT, SYN | ACK);
    bed.tcp(CLIENT, WEB, ACK);
    let other = bed.tcp("10.0.1.2:2", WEB, SYN).destination();
    assert_ne!(other, at);
    // Refused, and direct: nobody counts them.
    assert_eq!(bed.tcp("10.0.1.2:3", WEB, ACK).verdict, refused());
    assert_eq!(bed.tcp(&other, "10.0.1.2:9", ACK).verdict, Verdict::Accept);

    let services = bed.director.services();
    let servers = &services.get(&web).unwrap().servers;
    let counted = |address: &str| {
        let position = services.get(&web).unwrap().position(address.parse().unwrap()).unwrap();
        servers[position].stats.snapshot()
    };
    assert_eq!(counted(&at), counts(1, 2, 1));
    assert_eq!(counted(&other), counts(1, 1, 0));
    assert_eq!(service(&bed, web), counts(2, 3, 1));
    assert_eq!(total(&bed), counts(2, 3, 1));

    // An ICMP error is a packet of its connection: 20 + 8 bytes and what it embeds.
    let (host, _) = at.split_once(':').unwrap();
    let mut error = unreachable(host, "10.0.1.2", &tcp(CLIENT, &at, ACK, b""));
    assert!(matches!(bed.handle(&mut error), Verdict::Forward { .. }));
    let after = StatsSnapshot { out_packets: 2, out_bytes: 40 + 68, ..counts(2, 3, 1) };
    assert_eq!((service(&bed, web), total(&bed)), (after, after));

    let in_question = udp(CLIENT, DNS, b"question");
    bed.udp(CLIENT, DNS);
    let asked = StatsSnapshot {
        conns: 1,
        in_packets: 1,
        in_bytes: in_question.len() as u64,
        ..StatsSnapshot::default()
    };
    assert_eq!((service(&bed, dns), first_server(&bed, dns)), (asked, asked));
    assert_eq!(total(&bed).conns, 3);
    let both = |of: fn(StatsSnapshot) -> u64| of(service(&bed, web)) + of(service(&bed, dns));
    assert_eq!(total(&bed).in_bytes, both(|stats| stats.in_bytes));
    assert_eq!(total(&bed).out_bytes, both(|stats| stats.out_bytes));
}

fn refused() -> Verdict {
    Verdict::Refuse(nfvs::director::Refusal::NotServed)
}

#[test]
fn nothing_is_counted_for_a_removed_server_and_the_total_outlives_all() {
    let bed = Bed::serving(Tcp, WEB, Rr, &[SERVER]);
    let web = key(Tcp, WEB);
    bed.tcp(CLIENT, WEB, SYN);
    bed.director.apply(&[Command::DeleteServer(web, SERVER.parse().unwrap())]).unwrap();
    assert_eq!(bed.tcp(CLIENT, WEB, ACK).verdict, Verdict::Drop(DropReason::ServerRemoved));
    assert!(matches!(bed.tcp(SERVER, CLIENT, SYN | ACK).verdict, Verdict::Forward { .. }));
    assert_eq!((service(&bed, web), total(&bed)), (counts(1, 1, 0), counts(1, 1, 0)));

    bed.director.apply(&[Command::AddServer(web, server(SERVER, 1))]).unwrap();
    bed.tcp(SERVER, CLIENT, SYN | ACK);
    assert_eq!(first_server(&bed, web), counts(1, 1, 1), "it goes on counting");
    bed.director.apply(&[Command::DeleteService(web)]).unwrap();
    assert_eq!(total(&bed), counts(1, 1, 1));
}

#[test]
fn a_service_that_comes_back_counts_its_old_connections_from_zero() {
    let mut bed = Bed::serving(Tcp, WEB, Rr, &[SERVER]);
    let web = key(Tcp, WEB);
    bed.tcp(CLIENT, WEB, SYN);
    tick(&mut bed, 2);
    for _ in 0..2 {
        bed.director.apply(&[Command::DeleteService(web)]).unwrap();
        bed.add(Tcp, WEB, Rr, &[SERVER]);
        assert_eq!((service(&bed, web), first_server(&bed, web)), Default::default());
        assert_eq!(rates(&bed, |services| &services.get(&web).unwrap().core.stats), Rates::default());
        bed.tcp(CLIENT, WEB, ACK);
        assert_eq!((service(&bed, web), first_server(&bed, web)), (counts(0, 1, 0), counts(0, 1, 0)));
    }
    assert_eq!(total(&bed), counts(1, 3, 0));
}

#[test]
fn rates_are_sampled_every_two_seconds_and_fade() {
    let mut bed = Bed::serving(Tcp, WEB, Rr, &[SERVER]);
    let web = key(Tcp, WEB);
    bed.director.estimate(bed.now);
    for port in 1001..=1200 {
        bed.tcp(&format!("10.0.1.2:{port}"), WEB, SYN);
    }
    bed.tcp(SERVER, CLIENT, SYN | ACK);
    tick(&mut bed, 1);
    assert_eq!(rates(&bed, |services| &services.total), Rates::default(), "the two seconds are not over");
    tick(&mut bed, 1);
    // 200 * 40 bytes: 8000 << 4, a quarter of it, >> 5.
    let first = Rates { conns: 25, in_packets: 25, out_packets: 0, in_bytes: 1000, out_bytes: 5 };
    assert_eq!(rates(&bed, |services| &services.total), first);
    assert_eq!(rates(&bed, |services| &services.get(&web).unwrap().core.stats), first);
    assert_eq!(rates(&bed, |services| &services.get(&web).unwrap().servers[0].stats), first);
    tick(&mut bed, 1);
    assert_eq!(rates(&bed, |services| &services.total), first);
    tick(&mut bed, 1);
    let second = Rates { conns: 19, in_packets: 19, out_packets: 0, in_bytes: 750, out_bytes: 4 };
    assert_eq!(rates(&bed, |services| &services.total), second);
    tick(&mut bed, 120);
    assert_eq!(rates(&bed, |services| &services.total), Rates::default());
    assert_eq!(total(&bed).conns, 200, "counters stay");
}

#[test]
fn suspended_rates_stay_and_go_on_without_what_was_counted_meanwhile() {
    let mut bed = Bed::serving(Tcp, WEB, Rr, &[SERVER]);
    let run = |run_estimation| Tunables { run_estimation, ..Tunables::default() };
    let connect = |bed: &Bed, ports: std::ops::Range<u16>| {
        for port in ports {
            bed.tcp(&format!("10.0.1.2:{port}"), WEB, SYN);
        }
    };
    bed.director.estimate(bed.now);
    connect(&bed, 1000..1200);
    tick(&mut bed, 2);
    let first = rates(&bed, |services| &services.total);
    assert_eq!(first.conns, 25);
    bed.tune(run(false));
    connect(&bed, 2000..9000);
    tick(&mut bed, 60);
    assert_eq!(rates(&bed, |services| &services.total), first);
    bed.tune(run(true));
    tick(&mut bed, 2);
    assert_eq!(rates(&bed, |services| &services.total), first, "7,000 in a minute are none in two seconds");
    connect(&bed, 10_000..10_200);
    tick(&mut bed, 2);
    assert_eq!(rates(&bed, |services| &services.total).conns, 44);
    assert_eq!(total(&bed).conns, 7400, "counters do not stop");
}

/// A tick that comes a little early is taken; so are ticks that come often.
#[test]
fn samples_are_as_far_apart_as_ticks_allow() {
    for (says, ticks, expected) in [
        ("a tick early by a millisecond", vec![0, 1000, 1999], 25),
        ("a late one before it", vec![0, 1300, 2300], 25),
        ("ten a second, before the time has come", (0..=15).map(|tick| tick * 100).collect(), 0),
        ("ten a second", (0..=20).map(|tick| tick * 100).collect(), 25),
        ("nothing for a minute, and then two at once", vec![0, 60_000, 60_001], 25),
    ] {
        let bed = Bed::serving(Tcp, WEB, Rr, &[SERVER]);
        let at = |millis| bed.director.estimate(bed.now + Duration::from_millis(millis));
        at(ticks[0]);
        for port in 1001..=1200 {
            bed.tcp(&format!("10.0.1.2:{port}"), WEB, SYN);
        }
        ticks[1..].iter().for_each(|&millis| at(millis));
        assert_eq!(rates(&bed, |services| &services.total).conns, expected, "{says}");
    }
}

#[test]
fn zeroing_one_service_leaves_the_total_and_the_others_and_zeroing_all_leaves_nothing() {
    let mut bed = Bed::serving(Tcp, WEB, Rr, &[SERVER]);
    let (web, other) = (key(Tcp, WEB), key(Tcp, "10.0.0.101:80"));
    bed.add(Tcp, "10.0.0.101:80", Rr, &["10.0.3.12:80"]);
    bed.director.estimate(bed.now);
    for port in 1001..=1100 {
        bed.tcp(&format!("10.0.1.2:{port}"), WEB, SYN);
        bed.tcp(&format!("10.0.1.2:{port}"), "10.0.0.101:80", SYN);
    }
    tick(&mut bed, 2);
    let of_web = |bed: &Bed| rates(bed, |services| &services.get(&web).unwrap().core.stats).conns;
    let of_total = |bed: &Bed| rates(bed, |services| &services.total).conns;
    assert_eq!((of_web(&bed), of_total(&bed)), (12, 25));

    let unknown = key(Udp, WEB);
    assert_eq!(bed.director.zero(Some(unknown)), Err(CommandError::NoSuchService(unknown)));
    assert_eq!(service(&bed, web), counts(100, 100, 0));

    bed.director.zero(Some(web)).unwrap();
    assert_eq!((service(&bed, web), first_server(&bed, web)), Default::default());
    assert_eq!((service(&bed, other), first_server(&bed, other)), (counts(100, 100, 0), counts(100, 100, 0)));
    assert_eq!(total(&bed), counts(200, 200, 0));
    assert_eq!((of_web(&bed), of_total(&bed)), (0, 25));
    assert_eq!(bed.director.services().get(&web).unwrap().servers[0].total_conns(), 100, "none has ended");

    bed.tcp(CLIENT, WEB, ACK);
    assert_eq!((service(&bed, web), total(&bed)), (counts(0, 1, 0), counts(200, 201, 0)));
    bed.director.zero(None).unwrap();
    assert_eq!((service(&bed, web), service(&bed, other), total(&bed)), Default::default());
    assert_eq!((of_web(&bed), of_total(&bed)), (0, 0));
    tick(&mut bed, 2);
    assert_eq!(of_total(&bed), 0, "what came before is in no rate");
}
