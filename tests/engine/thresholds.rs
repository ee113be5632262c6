//! Servers that may have only so many connections.

use crate::bed::{Bed, SYN, key, server};
use nfvs::director::packet::Transport::{Tcp, Udp};
use nfvs::director::scheduler::SchedulerFlag;
use nfvs::director::scheduler::SchedulerKind::{self, Dh, Lblc, Rr};
use nfvs::director::service::{ClientMask, Persistence, ServiceSettings, Thresholds};
use nfvs::director::{Command, Refusal, ServerSpec, Verdict};
use std::time::Duration;

const VIP: &str = "10.0.0.100:53";

fn limited(address: &str, upper: u32, lower: u32) -> ServerSpec {
    ServerSpec { thresholds: Thresholds { upper, lower }, ..server(address, 1) }
}

fn serving(kind: SchedulerKind, servers: &[ServerSpec]) -> Bed {
    let bed = Bed::new();
    let fallback = SchedulerFlag::ALL.iter().copied().filter(|flag| flag.name().ends_with("-fallback"));
    let settings = ServiceSettings { scheduler_flags: fallback.collect(), ..ServiceSettings::default() };
    bed.add_with(Udp, VIP, kind, settings, &[]);
    for spec in servers {
        bed.director.apply(&[Command::AddServer(key(Udp, VIP), *spec)]).unwrap();
    }
    bed
}

#[test]
fn every_scheduler_passes_a_full_server_over() {
    // In the kernel, too, nobody stands in for a full server by dh, and lblc stays with it for the one address there is.
    for &kind in SchedulerKind::ALL.iter().filter(|kind| ![Dh, Lblc].contains(kind)) {
        let bed = serving(kind, &[limited("10.0.2.11:53", 2, 0), limited("10.0.3.12:53", 3, 0)]);
        for port in 1..6 {
            let outcome = bed.udp(&format!("10.0.1.2:{port}"), VIP);
            assert!(matches!(outcome.verdict, Verdict::Forward { .. }), "{kind}: {port}");
        }
        let total = |address| bed.real_server(key(Udp, VIP), address).total_conns();
        assert_eq!((total("10.0.2.11:53"), total("10.0.3.12:53")), (2, 3), "{kind}");
        let full = bed.udp("10.0.1.2:6", VIP).verdict;
        assert_eq!(full, Verdict::Refuse(Refusal::NoServer), "{kind}");
        assert!(
            matches!(bed.udp("10.0.1.2:1", VIP).verdict, Verdict::Forward { .. }),
            "{kind}: what it has goes on"
        );
        bed.director.check_invariants();
    }
}

#[test]
fn a_full_server_has_no_substitute_by_hash_and_keeps_its_address_by_lblc() {
    let servers = [limited("10.0.2.11:53", 1, 0), limited("10.0.3.12:53", 1, 0)];
    let bed = serving(Dh, &servers);
    let second = |bed: &Bed| {
        bed.udp("10.0.1.2:1", VIP).destination();
        bed.udp("10.0.1.2:2", VIP).verdict
    };
    assert_eq!(second(&bed), Verdict::Refuse(Refusal::NoServer));
    let bed = serving(Lblc, &servers);
    assert!(matches!(second(&bed), Verdict::Forward { .. }));
    assert_eq!(bed.real_server(key(Udp, VIP), "10.0.3.12:53").total_conns(), 2);
}

// Seen on a kernel: with u=4 and l unset, which makes it 3, a server is eligible again once it has dropped to 2.
#[test]
fn a_full_server_is_chosen_again_below_its_lower_threshold() {
    for (upper, lower, again_at) in [(4, 0, 2), (4, 4, 3), (4, 1, 0), (2, 0, 1), (1, 0, 0)] {
        let mut bed = serving(Rr, &[limited("10.0.2.11:53", upper, lower)]);
        let real = bed.real_server(key(Udp, VIP), "10.0.2.11:53");
        // One second between the connections, so that they end one after the other.
        for port in 1..=upper {
            assert!(!real.is_overloaded(), "{upper} {lower}");
            bed.udp(&format!("10.0.1.2:{port}"), VIP);
            bed.pass(10);
        }
        assert!(real.is_overloaded(), "{upper} {lower}");
        for left in (0..upper).rev() {
            while real.total_conns() > left {
                bed.pass(1);
            }
            assert_eq!(!real.is_overloaded(), left <= again_at, "{upper} {lower}: {left} left");
        }
        bed.director.check_invariants();
    }
}

#[test]
fn an_edit_decides_anew_but_for_what_lies_between_the_thresholds() {
    let bed = serving(Rr, &[limited("10.0.2.11:53", 0, 0)]);
    let real = bed.real_server(key(Udp, VIP), "10.0.2.11:53");
    for port in 0..10 {
        bed.udp(&format!("10.0.1.2:{}", port + 1), VIP);
    }
    for (upper, lower, is_full) in [
        (11, 0, false),
        (10, 0, true),
        (12, 9, true),
        (12, 11, false),
        (12, 10, false),
        (5, 1, true),
        (0, 0, false),
        (9, 9, true),
    ] {
        let edit = Command::EditServer(key(Udp, VIP), limited("10.0.2.11:53", upper, lower));
        bed.director.apply(&[edit]).unwrap();
        assert_eq!(real.is_overloaded(), is_full, "{upper} {lower}");
    }
    bed.director.apply(&[Command::DeleteServer(key(Udp, VIP), "10.0.2.11:53".parse().unwrap())]).unwrap();
    bed.director.apply(&[Command::AddServer(key(Udp, VIP), limited("10.0.2.11:53", 20, 0))]).unwrap();
    assert!(!real.is_overloaded(), "it has come back with other thresholds");
    assert_eq!(real.thresholds(), Thresholds { upper: 20, lower: 0 });
}

#[test]
fn a_template_leads_to_a_full_server_and_is_no_connection() {
    let bed = Bed::new();
    let persistence = Persistence {
        timeout: Duration::from_secs(300),
        clients: ClientMask::V4([255; 4].into()),
        engine: None,
    };
    let settings = ServiceSettings { persistence: Some(persistence), ..ServiceSettings::default() };
    bed.add_with(Tcp, VIP, Rr, settings, &[]);
    let service = key(Tcp, VIP);
    for address in ["10.0.2.11:53", "10.0.3.12:53"] {
        bed.director.apply(&[Command::AddServer(service, limited(address, 1, 0))]).unwrap();
    }
    assert_eq!(bed.tcp("10.0.1.2:1", VIP, SYN).destination(), "10.0.3.12:53");
    let full = bed.real_server(service, "10.0.3.12:53");
    assert!(full.is_overloaded());
    assert_eq!(bed.tcp("10.0.1.2:2", VIP, SYN).destination(), "10.0.3.12:53");
    assert_eq!(bed.tcp("10.0.1.3:1", VIP, SYN).destination(), "10.0.2.11:53");
    assert_eq!((full.total_conns(), full.templates()), (2, 1));
    bed.director.check_invariants();
}
