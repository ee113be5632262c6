//! Reports of load, from the director's one door to the servers of connections.

use crate::bed::{Bed, SYN, key, server};
use nfvs::director::Command;
use nfvs::director::packet::Transport::Tcp;
use nfvs::director::scheduler::SchedulerKind;
use nfvs::director::service::{Feedback, Load, LoadSource, RealServer, ServiceSettings};
use std::sync::Arc;
use std::time::Duration;

const VIP: &str = "10.0.0.100:80";
const SERVERS: [&str; 3] = ["10.0.2.11:80", "10.0.3.12:80", "10.0.4.13:80"];

fn by_reports() -> ServiceSettings {
    let source = LoadSource::File("/run/load/{address}".to_owned());
    let feedback = Some(Feedback { source, interval: Duration::from_secs(1) });
    ServiceSettings { feedback, ..ServiceSettings::default() }
}

fn serving(scheduler: SchedulerKind) -> Bed {
    let bed = Bed::new();
    bed.add_with(Tcp, VIP, scheduler, by_reports(), &SERVERS);
    bed
}

/// A second in which the servers report these loads.
fn report(bed: &mut Bed, loads: &[(&str, f64)]) {
    bed.pass(1);
    for (address, load) in loads {
        let address = address.parse().unwrap();
        bed.director.note_load(key(Tcp, VIP), address, Load::new(*load), bed.now);
    }
    bed.director.regulate(key(Tcp, VIP), bed.now);
}

fn real_server(bed: &Bed, address: &str) -> Arc<RealServer> {
    bed.real_server(key(Tcp, VIP), address)
}

/// How many new connections from these ports of a client the servers get.
fn connect(bed: &Bed, ports: std::ops::Range<u16>) -> [usize; 3] {
    let mut counts = [0; 3];
    for port in ports {
        let to = bed.tcp(&format!("10.0.1.2:{port}"), VIP, SYN).destination();
        counts[SERVERS.iter().position(|server| *server == to).expect("a server")] += 1;
    }
    counts
}

#[test]
fn who_reports_more_load_gets_fewer_connections_until_reports_stop() {
    let mut bed = serving(SchedulerKind::Feedback);
    for _ in 0..200 {
        report(&mut bed, &[(SERVERS[0], 1.5), (SERVERS[1], 0.5), (SERVERS[2], 0.5)]);
    }
    // An eighth, and 23/16 for each of the others.
    assert_eq!(real_server(&bed, SERVERS[0]).effective_weight(bed.now), 128);
    assert_eq!(connect(&bed, 1001..1049), [2, 23, 23]);
    bed.pass(3);
    assert_eq!(real_server(&bed, SERVERS[0]).effective_weight(bed.now), 1024);
    assert_eq!(connect(&bed, 2001..2022)[0], 21, "what the others have before it");
}

#[test]
fn a_drained_server_stays_drained_and_counts_for_nothing() {
    let mut bed = serving(SchedulerKind::Feedback);
    let drained = server(SERVERS[0], 0);
    bed.director.apply(&[Command::EditServer(key(Tcp, VIP), drained)]).unwrap();
    for _ in 0..50 {
        report(&mut bed, &[(SERVERS[0], 4.0), (SERVERS[1], 0.5), (SERVERS[2], 0.5)]);
    }
    assert_eq!(real_server(&bed, SERVERS[0]).effective_weight(bed.now), 0);
    for address in &SERVERS[1..] {
        assert_eq!(real_server(&bed, address).effective_weight(bed.now), 1024, "{address}");
    }
    assert_eq!(connect(&bed, 1001..1021), [0, 10, 10]);
}

#[test]
fn a_server_without_reports_has_its_weight_and_the_others_are_compared() {
    let mut bed = serving(SchedulerKind::Feedback);
    for _ in 0..100 {
        report(&mut bed, &[(SERVERS[0], 1.0), (SERVERS[1], f64::NAN), (SERVERS[2], 0.2)]);
    }
    let [loaded, silent, idle] = SERVERS.map(|address| real_server(&bed, address));
    assert!(loaded.effective_weight(bed.now) < 512 && idle.effective_weight(bed.now) > 1536);
    assert_eq!(silent.effective_weight(bed.now), 1024);
    assert_eq!(silent.reported.counts(), (0, 100), "what is no load is missed");
    assert_eq!((loaded.reported.counts(), silent.reported.smoothed(bed.now)), ((100, 0), None));
}

#[test]
fn reports_for_others_change_nothing() {
    let mut bed = serving(SchedulerKind::Wlc);
    for _ in 0..10 {
        report(&mut bed, &[(SERVERS[0], 4.0), (SERVERS[1], 0.0), ("10.0.9.9:80", 1.0)]);
    }
    for address in SERVERS {
        let server = real_server(&bed, address);
        assert_eq!((server.reported.counts(), server.effective_weight(bed.now)), ((0, 0), 1024), "{address}");
    }
    // Another scheduler goes by weights alone, even when there are reports.
    let edit = |scheduler| Command::EditService { service: key(Tcp, VIP), scheduler, settings: by_reports() };
    bed.director.apply(&[edit(SchedulerKind::Feedback)]).unwrap();
    for _ in 0..100 {
        report(&mut bed, &[(SERVERS[0], 4.0), (SERVERS[1], 0.0), (SERVERS[2], 0.0)]);
    }
    assert!(real_server(&bed, SERVERS[0]).effective_weight(bed.now) < 512);
    bed.director.apply(&[edit(SchedulerKind::Wlc)]).unwrap();
    assert_eq!(connect(&bed, 1001..1031), [10; 3]);
}
