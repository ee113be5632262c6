//! What has a mark and finds no server, with `cache_bypass`.

use crate::bed::{ACK, Bed, FIN, SYN, marked};
use nfvs::director::packet::Transport::Tcp;
use nfvs::director::scheduler::SchedulerKind::Rr;
use nfvs::director::service::{Family, ServiceSettings, Tunables};
use nfvs::director::{Command, DropReason, Refusal, Verdict};

/// A client, what it asks, and what stands for no server.
const FAMILIES: [(Family, [&str; 3]); 2] = [
    (Family::V4, ["10.0.1.2:5000", "192.0.2.80:80", "0.0.0.0:0"]),
    (Family::V6, ["[fd00:1::2]:5000", "[2001:db8::80]:80", "[::]:0"]),
];
/// On, unchanged.
const PASSED: Verdict = Verdict::Forward { rewritten: None, source: None };

fn bypassing(bed: &Bed) {
    let tunables = Tunables { cache_bypass: true, ..Tunables::default() };
    bed.director.apply(&[Command::SetTunables(tunables)]).unwrap();
}

fn serving(family: Family, settings: ServiceSettings) -> Bed {
    let bed = Bed::new();
    bed.add_service(marked(5, family), Rr, settings, &[]);
    bed
}

#[test]
fn what_finds_no_server_goes_on_and_has_a_connection_that_nobody_counts() {
    for (family, [client, asked, nobody]) in FAMILIES {
        let bed = serving(family, ServiceSettings::default());
        let first = |bed: &Bed| bed.marked_tcp(5, client, asked, SYN).verdict;
        assert_eq!(first(&bed), Verdict::Refuse(Refusal::NoServer), "cache_bypass is off");
        bypassing(&bed);
        assert_eq!(first(&bed), PASSED);
        // IP_VS_CONN_F_BYPASS, and not even INACTIVE: no server is bound.
        assert_eq!(bed.states(), [format!("tcp {client} -> {asked} -> {nobody} SYN_RECV 60 0x0004")]);
        assert_eq!(bed.marked_tcp(5, client, asked, ACK).verdict, PASSED);
        assert_eq!(bed.states(), [format!("tcp {client} -> {asked} -> {nobody} ESTABLISHED 900 0x0004")]);
        let total = bed.director.services().total.snapshot();
        assert_eq!((total.conns, total.in_packets, total.out_packets), (0, 0, 0));
        bed.director.check_invariants();

        // A server that comes does not get what is on its way.
        let server =
            crate::bed::server(if family == Family::V4 { "10.0.2.11:8080" } else { "[fd00:2::11]:8080" }, 1);
        bed.director.apply(&[Command::AddServer(marked(5, family), server)]).unwrap();
        assert_eq!(bed.marked_tcp(5, client, asked, ACK).verdict, PASSED);
        let next = client.replace(":5000", ":5001");
        assert_eq!(bed.marked_tcp(5, &next, asked, SYN).destination(), server.address.to_string());
        bed.marked_tcp(5, client, asked, FIN | ACK);
        bed.director.check_invariants();
    }
}

#[test]
fn only_marked_packets_that_start_something_go_on() {
    let (family, [client, asked, _]) = FAMILIES[0];
    let bed = serving(family, ServiceSettings::default());
    bypassing(&bed);
    assert_eq!(bed.marked_tcp(5, client, asked, ACK).verdict, Verdict::Accept, "unknown, and left alone");
    assert_eq!(bed.director.connection_count().0, 0);
    bed.add(Tcp, "10.0.0.100:80", Rr, &[]);
    assert_eq!(
        bed.tcp(client, "10.0.0.100:80", SYN).verdict,
        Verdict::Refuse(Refusal::NoServer),
        "by address"
    );
}

#[test]
fn datagrams_of_a_one_packet_service_go_on_without_a_connection() {
    for (family, [client, asked, _]) in FAMILIES {
        let bed = serving(family, ServiceSettings { one_packet: true, ..ServiceSettings::default() });
        bypassing(&bed);
        assert_eq!(bed.marked_udp(5, client, asked).verdict, Verdict::Accept);
        assert_eq!(bed.director.connection_count().0, 0);
    }
}

#[test]
fn a_full_table_lets_nothing_pass() {
    let (family, [client, asked, _]) = FAMILIES[0];
    let bed = Bed::with_limit(0);
    bed.add_service(marked(5, family), Rr, ServiceSettings::default(), &[]);
    bypassing(&bed);
    assert_eq!(bed.marked_tcp(5, client, asked, SYN).verdict, Verdict::Drop(DropReason::TableFull));
}
