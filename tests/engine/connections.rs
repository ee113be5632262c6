//! Connections: made, found both ways, ended.

use crate::bed::{ACK, Bed, FIN, INIT, INIT_ACK, RST, SYN, endpoints, key, tcp, unreachable};
use nfvs::director::defence::DefenceMode;
use nfvs::director::packet::Transport::{Sctp, Tcp, Udp};
use nfvs::director::scheduler::SchedulerKind::{Rr, Wlc};
use nfvs::director::service::Tunables;
use nfvs::director::{DropReason, Hook, Refusal, Verdict};

/// A virtual address, its client and its servers, in both families.
const FAMILIES: [(&str, &str, [&str; 3]); 2] = [
    ("10.0.0.100:80", "10.0.1.2", ["10.0.2.11:8080", "10.0.3.12:8080", "10.0.4.13:8080"]),
    ("[fd00::100]:80", "[fd00:1::2]", ["[fd00:2::11]:8080", "[fd00:3::12]:8080", "[fd00:4::13]:8080"]),
];

#[test]
fn a_client_reaches_servers_in_turn_and_each_answers_in_the_name_of_the_service() {
    for (vip, client, servers) in FAMILIES {
        for transport in [Tcp, Udp, Sctp] {
            let bed = Bed::new();
            bed.add(transport, &vip.replace("100", "101"), Rr, &servers);
            bed.add(transport, vip, Rr, &servers);
            let service = bed.director.services().get(&key(transport, vip)).unwrap().core.source;
            for (number, expected) in [servers[2], servers[1], servers[0], servers[2]].iter().enumerate() {
                let from = format!("{client}:{}", 40000 + number);
                let (request, reply) = match transport {
                    Tcp => (bed.tcp(&from, vip, SYN), bed.tcp(expected, &from, SYN | ACK)),
                    Udp => (bed.udp(&from, vip), bed.udp(expected, &from)),
                    Sctp => (bed.sctp(&from, vip, INIT), bed.sctp(expected, &from, INIT_ACK)),
                };
                assert_eq!(request.destination(), *expected);
                assert_eq!(request.from.to_string(), from, "NAT keeps the client's address");
                assert_eq!(reply.source(), service);
                let Verdict::Forward { rewritten, .. } = reply.verdict else { panic!() };
                assert_eq!(rewritten, None, "the kernel sets the source of a reply");
            }
            bed.director.check_invariants();
        }
    }
}

#[test]
fn a_request_of_this_host_keeps_its_time_to_live() {
    let families = [
        ("10.0.0.100:80", "10.0.1.1:4000", "10.0.2.11:80", 8),
        ("[fd00::100]:80", "[fd00:1::1]:4000", "[fd00:2::11]:80", 7),
    ];
    for (vip, own, server, time_to_live) in families {
        let bed = Bed::serving(Tcp, vip, Rr, &[server]);
        let mut request = tcp(own, vip, SYN, b"");
        let verdict = bed.handle_at(Hook::Output, None, &mut request);
        assert!(matches!(verdict, Verdict::Forward { rewritten: Some(_), .. }), "{verdict:?}");
        assert_eq!(endpoints(&request).1.to_string(), server);
        assert_eq!(request[time_to_live], 64);
    }
}

#[test]
fn every_packet_of_a_connection_goes_to_its_server() {
    for (vip, client, servers) in FAMILIES {
        let bed = Bed::serving(Tcp, vip, Rr, &servers);
        let from = format!("{client}:5000");
        let server = bed.tcp(&from, vip, SYN).destination();
        for other in 0..7 {
            bed.tcp(&format!("{client}:{}", 6000 + other), vip, SYN);
        }
        for flags in [SYN, ACK, ACK, FIN | ACK, ACK] {
            assert_eq!(bed.tcp(&from, vip, flags).destination(), server);
        }
    }
}

#[test]
fn what_is_not_ours_is_left_alone() {
    let bed = Bed::serving(Tcp, "10.0.0.100:80", Rr, &["10.0.2.11:80"]);
    let outcomes = [
        ("a direct client's request", bed.tcp("10.0.1.2:4000", "10.0.2.11:80", SYN)),
        ("the answer to it", bed.tcp("10.0.2.11:80", "10.0.1.2:4000", SYN | ACK)),
        ("a datagram between strangers", bed.udp("10.0.1.2:53", "10.0.9.9:53")),
    ];
    for (what, outcome) in outcomes {
        assert_eq!(outcome.verdict, Verdict::Accept, "{what}");
    }
    assert_eq!(bed.director.connection_count().0, 0);
}

#[test]
fn what_fits_no_service_or_no_connection_is_refused() {
    let bed = Bed::serving(Tcp, "10.0.0.100:80", Rr, &["10.0.2.11:80"]);
    let outcomes = [
        ("a port without a service", bed.tcp("10.0.1.2:4000", "10.0.0.100:81", SYN)),
        ("another protocol", bed.udp("10.0.1.2:4000", "10.0.0.100:80")),
        ("the middle of an unknown connection", bed.tcp("10.0.1.2:4000", "10.0.0.100:80", ACK)),
        ("a reset that opens nothing", bed.tcp("10.0.1.2:4000", "10.0.0.100:80", SYN | RST)),
    ];
    for (what, outcome) in outcomes {
        assert_eq!(outcome.verdict, Verdict::Refuse(Refusal::NotServed), "{what}");
    }
    assert_eq!(bed.director.connection_count().0, 0);
}

#[test]
fn where_rules_are_sloppy_a_connection_starts_in_its_middle_but_not_with_a_reset() {
    let bed = Bed::serving(Tcp, "10.0.0.100:80", Rr, &["10.0.2.11:80"]);
    let sloppy = Tunables { sloppy_tcp: true, ..Tunables::default() };
    bed.tune(sloppy);
    let reset = bed.tcp("10.0.1.2:4000", "10.0.0.100:80", RST | ACK);
    assert_eq!(reset.verdict, Verdict::Refuse(Refusal::NotServed));
    assert_eq!(bed.tcp("10.0.1.2:4000", "10.0.0.100:80", ACK).destination(), "10.0.2.11:80");
    assert!(bed.states()[0].ends_with("ESTABLISHED 900 0x0000"), "{:?}", bed.states());
}

#[test]
fn under_attack_a_client_alone_makes_no_connection_last() {
    let bed = Bed::serving(Tcp, "10.0.0.100:80", Rr, &["10.0.2.11:80"]);
    let secure = Tunables { secure_tcp: DefenceMode::Always, ..Tunables::default() };
    bed.tune(secure);
    bed.tcp("10.0.1.2:4000", "10.0.0.100:80", SYN);
    bed.tcp("10.0.1.2:4000", "10.0.0.100:80", ACK);
    assert!(bed.states()[0].contains("SYN_RECV 60"), "{:?}", bed.states());
    // Off again, the next packet goes by the usual tables.
    bed.tune(Tunables::default());
    bed.tcp("10.0.1.2:4000", "10.0.0.100:80", ACK);
    assert!(bed.states()[0].contains("ESTABLISHED 900"), "{:?}", bed.states());
}

#[test]
fn a_service_without_an_available_server_answers_unreachable() {
    let bed = Bed::serving(Tcp, "10.0.0.100:80", Wlc, &[]);
    let refused = bed.tcp("10.0.1.2:4000", "10.0.0.100:80", SYN);
    assert_eq!(refused.verdict, Verdict::Refuse(Refusal::NoServer));
}

#[test]
fn a_port_0_service_takes_what_no_other_has_and_keeps_the_port() {
    let bed = Bed::serving(Tcp, "10.0.0.100:0", Rr, &["10.0.2.11:0"]);
    bed.add(Tcp, "10.0.0.100:443", Rr, &["10.0.3.12:8443"]);
    assert_eq!(bed.tcp("10.0.1.2:1", "10.0.0.100:443", SYN).destination(), "10.0.3.12:8443");
    let any = bed.tcp("10.0.1.2:2", "10.0.0.100:8000", SYN);
    assert_eq!(any.destination(), "10.0.2.11:8000");
    let reply = bed.tcp("10.0.2.11:8000", "10.0.1.2:2", SYN | ACK);
    let other = bed.tcp("10.0.3.12:8443", "10.0.1.2:1", SYN | ACK);
    assert_ne!(reply.source(), other.source());
}

#[test]
fn a_client_that_uses_one_port_through_two_services_of_one_server_gets_both() {
    for (vip, other, client, server) in [
        ("10.0.0.100:80", "10.0.0.101:80", "10.0.1.2:5000", "10.0.2.11:8080"),
        ("[fd00::100]:80", "[fd00::101]:80", "[fd00:1::2]:5000", "[fd00:2::11]:8080"),
    ] {
        let bed = Bed::serving(Tcp, vip, Rr, &[server]);
        bed.add(Tcp, other, Rr, &[server]);
        let first = bed.tcp(client, vip, SYN);
        let second = bed.tcp(client, other, SYN);
        assert_eq!((first.destination(), second.destination()), (server.to_owned(), server.to_owned()));
        assert_eq!(first.from.to_string(), client);
        assert_ne!(second.from, first.from, "the server must be able to tell the connections apart");
        assert_eq!(second.from.ip(), first.from.ip(), "and still see the client's address");

        let to_first = bed.tcp(server, client, SYN | ACK);
        let to_second = bed.tcp(server, &second.from.to_string(), SYN | ACK);
        assert_eq!(to_second.destination(), client, "the client's own port comes back");
        assert_ne!(to_first.source(), to_second.source(), "each answers in its own name");
        assert_eq!(bed.tcp(client, other, ACK).from, second.from, "the stand-in stays");
        bed.director.check_invariants();
    }
}

#[test]
fn a_closing_connection_is_rescheduled_by_the_very_syn_that_reuses_its_port() {
    let mut bed = Bed::serving(Tcp, "10.0.0.100:80", Rr, &["10.0.2.11:80", "10.0.3.12:80"]);
    let mut servers = Vec::new();
    for _ in 0..1000 {
        let server = bed.tcp("10.0.1.2:5000", "10.0.0.100:80", SYN).destination();
        bed.tcp(&server, "10.0.1.2:5000", SYN | ACK);
        bed.tcp("10.0.1.2:5000", "10.0.0.100:80", ACK);
        bed.tcp(&server, "10.0.1.2:5000", FIN | ACK);
        bed.tcp("10.0.1.2:5000", "10.0.0.100:80", FIN | ACK);
        assert!(bed.states()[0].contains("TIME_WAIT"), "{:?}", bed.states());
        servers.push(server);
        bed.pass(1);
    }
    assert_eq!(servers.iter().filter(|server| *server == "10.0.2.11:80").count(), 500);
    assert_eq!(bed.director.connection_count().0, 1);
    bed.director.check_invariants();
}

#[test]
fn a_client_that_turns_to_the_server_directly_from_a_port_it_used_before_is_left_alone() {
    let (vip, client, server) = ("10.0.0.100:80", "10.0.1.2:5000", "10.0.2.11:80");
    let bed = Bed::serving(Tcp, vip, Rr, &[server]);
    bed.tcp(client, vip, SYN);
    bed.tcp(server, client, SYN | ACK);
    bed.tcp(client, vip, ACK);
    bed.tcp(server, client, FIN | ACK);
    bed.tcp(client, vip, FIN | ACK);
    // The SYN itself is not steered to us; the answer is.
    for flags in [SYN | ACK, ACK, FIN | ACK] {
        assert_eq!(bed.tcp(server, client, flags).verdict, Verdict::Accept);
    }
    let mut error = unreachable("10.0.2.1", "10.0.1.2", &tcp(client, server, ACK, b""));
    assert_eq!(bed.handle(&mut error), Verdict::Accept, "nor are errors about it ours");
    bed.director.check_invariants();
    // Once it comes back through us, the server answers in our name again.
    bed.tcp(client, vip, SYN);
    assert!(matches!(bed.tcp(server, client, SYN | ACK).verdict, Verdict::Forward { source: Some(_), .. }));
}

#[test]
fn a_client_that_lost_its_handshake_and_still_comes_through_us_is_answered_in_our_name() {
    let (vip, client, server) = ("10.0.0.100:80", "10.0.1.2:5000", "10.0.2.11:80");
    let bed = Bed::serving(Tcp, vip, Rr, &[server]);
    bed.tcp(client, vip, SYN);
    bed.tcp(server, client, SYN | ACK);
    // The ACK and the first FIN behind it are lost on their way to the server, which repeats itself.
    bed.tcp(client, vip, FIN | ACK);
    assert_eq!(bed.tcp(server, client, SYN | ACK).verdict, Verdict::Accept);
    bed.tcp(client, vip, FIN | ACK);
    bed.tcp(server, client, ACK).source();
}

#[test]
fn connections_end_when_their_time_is_over() {
    let mut bed = Bed::serving(Tcp, "10.0.0.100:80", Rr, &["10.0.2.11:80"]);
    bed.add(Udp, "10.0.0.100:53", Rr, &["10.0.2.11:53"]);
    bed.tcp("10.0.1.2:1", "10.0.0.100:80", SYN);
    bed.tcp("10.0.2.11:80", "10.0.1.2:1", SYN | ACK);
    bed.tcp("10.0.1.2:1", "10.0.0.100:80", ACK);
    bed.tcp("10.0.1.2:2", "10.0.0.100:80", SYN);
    bed.udp("10.0.1.2:3", "10.0.0.100:53");
    assert_eq!(
        bed.states(),
        [
            "tcp 10.0.1.2:1 -> 10.0.0.100:80 -> 10.0.2.11:80 ESTABLISHED 900 0x0000",
            "tcp 10.0.1.2:2 -> 10.0.0.100:80 -> 10.0.2.11:80 SYN_RECV 60 0x0000",
            "udp 10.0.1.2:3 -> 10.0.0.100:53 -> 10.0.2.11:53 UDP 300 0x0100",
        ]
    );
    for (seconds, left) in [(59, 3), (2, 2), (238, 2), (2, 1), (598, 1), (3, 0)] {
        bed.pass(seconds);
        assert_eq!(bed.states().len(), left, "after another {seconds} s");
        bed.director.check_invariants();
    }
    bed.pass(2);
    assert_eq!(bed.director.connection_count().0, 0);
    assert_eq!(bed.director.next_timeout(), None);
}

#[test]
fn a_full_table_drops_and_counts_and_recovers() {
    let mut bed = Bed::with_limit(10);
    bed.add(Udp, "10.0.0.100:53", Rr, &["10.0.2.11:53"]);
    for port in 0..15 {
        let outcome = bed.udp(&format!("10.0.1.2:{}", 1000 + port), "10.0.0.100:53");
        let is_room = port < 10;
        assert_eq!(matches!(outcome.verdict, Verdict::Forward { .. }), is_room, "connection {port}");
    }
    assert_eq!(bed.director.drops(DropReason::TableFull), 5);
    assert_eq!(bed.director.connection_count(), (10, 10));
    bed.pass(302);
    assert!(matches!(bed.udp("10.0.1.2:9", "10.0.0.100:53").verdict, Verdict::Forward { .. }));
    bed.director.check_invariants();
}

#[test]
fn statistics_count_packets_and_bytes_of_both_directions() {
    let bed = Bed::serving(Udp, "10.0.0.100:53", Rr, &["10.0.2.11:53"]);
    for _ in 0..3 {
        bed.udp("10.0.1.2:1000", "10.0.0.100:53");
    }
    bed.udp("10.0.2.11:53", "10.0.1.2:1000");
    let services = bed.director.services();
    let service = services.iter().next().unwrap();
    for stats in [service.core.stats.snapshot(), service.servers[0].stats.snapshot()] {
        // 20 bytes of IPv4, 8 of UDP, 8 of payload.
        assert_eq!(
            (stats.conns, stats.in_packets, stats.in_bytes, stats.out_packets, stats.out_bytes),
            (1, 3, 108, 1, 36)
        );
    }
}
