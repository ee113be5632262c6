//! ICMP errors, both ways, both families.

use crate::bed::{ACK, Bed, INIT, SYN, endpoints, icmp_payload, sctp, tcp, udp, unreachable};
use nfvs::director::packet::Transport::{Sctp, Tcp, Udp};
use nfvs::director::scheduler::SchedulerKind::Rr;
use nfvs::director::{DropReason, Verdict};

const FAMILIES: [[&str; 4]; 2] = [
    ["10.0.0.100:80", "10.0.1.2:5000", "10.0.2.11:8080", "10.0.2.1"],
    ["[fd00::100]:80", "[fd00:1::2]:5000", "[fd00:2::11]:8080", "fd00:2::1"],
];

fn host(endpoint: &str) -> String {
    endpoint.parse::<std::net::SocketAddr>().unwrap().ip().to_string()
}

#[test]
fn an_error_about_a_request_comes_back_in_terms_of_the_virtual_address() {
    for [vip, client, server, router] in FAMILIES {
        for transport in [Tcp, Udp, Sctp] {
            let bed = Bed::serving(transport, vip, Rr, &[server]);
            let sent = match transport {
                Tcp => {
                    bed.tcp(client, vip, SYN);
                    tcp(client, server, SYN, b"")
                }
                Udp => {
                    bed.udp(client, vip);
                    udp(client, server, b"question")
                }
                Sctp => {
                    bed.sctp(client, vip, INIT);
                    sctp(client, server, INIT)
                }
            };
            let mut error = unreachable(router, &host(client), &sent);
            let verdict = bed.handle(&mut error);
            let Verdict::Forward { rewritten: Some(_), source: Some(_) } = verdict else {
                panic!("{verdict:?}")
            };
            let (from, to) = endpoints(icmp_payload(&error));
            assert_eq!((from.to_string(), to.to_string()), (client.to_owned(), vip.to_owned()));
            assert_eq!(endpoints(&error).1.ip().to_string(), host(client));
        }
    }
}

#[test]
fn an_error_about_a_reply_reaches_the_server_in_terms_of_its_own_address() {
    for [vip, client, server, _] in FAMILIES {
        let bed = Bed::serving(Tcp, vip, Rr, &[server]);
        bed.tcp(client, vip, SYN);
        let seen = tcp(vip, client, SYN | ACK, b"");
        let mut error = unreachable(&host(client), &host(vip), &seen);
        let verdict = bed.handle(&mut error);
        let Verdict::Forward { rewritten: Some(_), source: None } = verdict else { panic!("{verdict:?}") };
        assert_eq!(endpoints(&error).1.ip().to_string(), host(server));
        let (from, to) = endpoints(icmp_payload(&error));
        assert_eq!((from.to_string(), to.to_string()), (server.to_owned(), client.to_owned()));
    }
}

#[test]
fn an_error_about_a_reply_counts_as_a_packet_to_the_server_if_its_checksum_is_right() {
    let [vip, client, server, _] = FAMILIES[0];
    let bed = Bed::serving(Tcp, vip, Rr, &[server]);
    bed.tcp(client, vip, SYN);
    let error = unreachable(&host(client), &host(vip), &tcp(vip, client, SYN | ACK, b""));
    assert!(matches!(bed.handle(&mut error.clone()), Verdict::Forward { .. }));
    let services = bed.director.services();
    let stats = services.iter().next().unwrap().core.stats.snapshot();
    // A segment of 40 bytes, and one in an error of 28.
    assert_eq!((stats.in_packets, stats.in_bytes, stats.out_packets), (2, 40 + 68, 0));
    let mut damaged = error;
    damaged[22] ^= 1;
    assert_eq!(bed.handle(&mut damaged), Verdict::Drop(DropReason::BadChecksum));
}

#[test]
fn a_stand_in_port_is_undone_in_errors_both_ways() {
    let [vip, client, server, router] = FAMILIES[0];
    let bed = Bed::serving(Tcp, vip, Rr, &[server]);
    bed.add(Tcp, "10.0.0.101:80", Rr, &[server]);
    bed.tcp(client, vip, SYN);
    let stand_in = bed.tcp(client, "10.0.0.101:80", SYN).from.to_string();

    let mut error = unreachable(router, &host(client), &tcp(&stand_in, server, SYN, b""));
    assert!(matches!(bed.handle(&mut error), Verdict::Forward { .. }));
    let (from, to) = endpoints(icmp_payload(&error));
    assert_eq!((from.to_string(), to.to_string()), (client.to_owned(), "10.0.0.101:80".to_owned()));

    let mut error = unreachable(&host(client), "10.0.0.101", &tcp("10.0.0.101:80", client, ACK, b""));
    assert!(matches!(bed.handle(&mut error), Verdict::Forward { .. }));
    let (from, to) = endpoints(icmp_payload(&error));
    assert_eq!((from.to_string(), to.to_string()), (server.to_owned(), stand_in));
}

#[test]
fn an_error_about_somebody_elses_packet_is_left_alone() {
    let [vip, client, server, router] = FAMILIES[0];
    let bed = Bed::serving(Tcp, vip, Rr, &[server]);
    let mut error = unreachable(router, &host(client), &tcp(client, server, SYN, b""));
    let before = error.clone();
    assert_eq!(bed.handle(&mut error), Verdict::Accept);
    assert_eq!(error, before);
}

#[test]
fn an_error_with_a_wrong_checksum_is_dropped_and_counted() {
    let [vip, client, server, router] = FAMILIES[0];
    let bed = Bed::serving(Tcp, vip, Rr, &[server]);
    bed.tcp(client, vip, SYN);
    let mut error = unreachable(router, &host(client), &tcp(client, server, SYN, b""));
    error[22] ^= 1;
    assert_eq!(bed.handle(&mut error), Verdict::Drop(DropReason::BadChecksum));
    assert_eq!(bed.director.drops(DropReason::BadChecksum), 1);
}
