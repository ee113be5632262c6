//! ICMP where no connection is known: errors that are scheduled, and servers that are told.

use crate::bed::{
    ACK, Bed, INIT, INIT_ACK, RST, SYN, endpoints, icmp_payload, key, marked, raw, routed, sctp, server, tcp,
    udp, unreachable,
};
use etherparse::IpNumber;
use nfvs::director::defence::DefenceMode;
use nfvs::director::packet::Transport::{Sctp, Tcp, Udp};
use nfvs::director::scheduler::SchedulerKind::Rr;
use nfvs::director::service::{ClientMask, Family, Fwmark, Persistence, ServiceSettings, Tunables};
use nfvs::director::{Command, DropReason, Hook, Refusal, ReplySource, Verdict};
use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

const FAMILIES: [[&str; 3]; 2] =
    [[WEB, CLIENT, SERVER], ["[fd00::100]:80", "[fd00:1::2]:5000", "[fd00:2::11]:8080"]];
const WEB: &str = "10.0.0.100:80";
const CLIENT: &str = "10.0.1.2:5000";
const SERVER: &str = "10.0.2.11:8080";

fn host(endpoint: &str) -> String {
    endpoint.parse::<std::net::SocketAddr>().unwrap().ip().to_string()
}

/// Has errors scheduled.
fn scheduling() -> Tunables {
    Tunables { schedule_icmp: true, ..Tunables::default() }
}

/// The client's error about a packet that it got from a virtual address.
fn complaint(client: &str, vip: &str, about: &[u8]) -> Vec<u8> {
    unreachable(&host(client), &host(vip), about)
}

#[test]
fn an_error_about_an_unknown_reply_makes_a_connection_and_reaches_its_server() {
    for [vip, client, server] in FAMILIES {
        for (transport, about, state) in [
            // Flags do not matter.
            (Tcp, tcp(vip, client, RST | ACK, b""), "NONE"),
            (Udp, udp(vip, client, b"answer"), "UDP"),
            (Sctp, sctp(vip, client, INIT_ACK), "NONE"),
        ] {
            let bed = Bed::serving(transport, vip, Rr, &[server]);
            let mut error = complaint(client, vip, &about);
            assert_eq!(bed.handle(&mut error), Verdict::Accept, "the tunable is off");
            bed.tune(scheduling());
            let verdict = bed.handle(&mut error);
            assert!(matches!(verdict, Verdict::Forward { rewritten: Some(_), source: None }), "{verdict:?}");
            assert_eq!(endpoints(&error).1.ip().to_string(), host(server));
            let (from, to) = endpoints(icmp_payload(&error));
            assert_eq!((from.to_string(), to.to_string()), (server.to_owned(), client.to_owned()));

            let made = format!("{transport} {client} -> {vip} -> {server} {state} 3 0x0100");
            assert_eq!(bed.states(), [made]);
            let services = bed.director.services();
            let counts = services.get(&key(transport, vip)).unwrap().core.stats.snapshot();
            assert_eq!((counts.conns, counts.in_packets), (1, 1));
            bed.director.check_invariants();
        }
    }
}

#[test]
fn a_connection_made_for_an_error_is_used_by_what_follows() {
    let mut bed = Bed::serving(Tcp, WEB, Rr, &["10.0.3.12:80", SERVER]);
    bed.tune(scheduling());
    let about = tcp(WEB, CLIENT, ACK, b"");
    for _ in 0..2 {
        let mut error = complaint(CLIENT, WEB, &about);
        assert!(matches!(bed.handle(&mut error), Verdict::Forward { .. }));
        assert_eq!(endpoints(&error).1.ip().to_string(), host(SERVER));
    }
    assert_eq!(bed.tcp(CLIENT, WEB, SYN).destination(), SERVER);
    assert_eq!(bed.states().len(), 1);
    // Errors do not prolong what is known.
    bed.pass(30);
    let _ = bed.handle(&mut complaint(CLIENT, WEB, &about));
    assert!(bed.states()[0].contains(" SYN_RECV 30 "), "{:?}", bed.states());
}

#[test]
fn errors_that_are_scheduled_take_the_way_of_requests() {
    let [vip, client, _] = FAMILIES[0];
    let bed = Bed::serving_specs(Tcp, vip, Rr, vec![routed("10.0.2.11:80")]);
    bed.tune(scheduling());
    let mut error = complaint(client, vip, &tcp(vip, client, ACK, b""));
    let before = error.clone();
    assert!(matches!(bed.handle(&mut error), Verdict::Route(_)));
    assert_eq!(error, before);

    let bed = Bed::new();
    let clients = ClientMask::V4(Ipv4Addr::BROADCAST);
    let persistence = Some(Persistence { timeout: Duration::from_secs(300), clients, engine: None });
    bed.add_with(
        Tcp,
        vip,
        Rr,
        ServiceSettings { persistence, ..Default::default() },
        &["10.0.3.12:80", SERVER],
    );
    bed.tune(scheduling());
    assert_eq!(bed.tcp("10.0.1.2:1", vip, SYN).destination(), SERVER);
    let mut error = complaint(client, vip, &tcp(vip, client, ACK, b""));
    assert!(matches!(bed.handle(&mut error), Verdict::Forward { .. }));
    assert_eq!(endpoints(&error).1.ip().to_string(), host(SERVER), "by the client's template");
    assert_eq!(bed.templates().len(), 1);
    bed.director.check_invariants();
}

#[test]
fn an_error_to_a_one_packet_service_leaves_no_connection() {
    let bed = Bed::new();
    let settings = ServiceSettings { one_packet: true, ..ServiceSettings::default() };
    bed.add_with(Udp, "10.0.0.100:53", Rr, settings, &["10.0.2.11:53", "10.0.3.12:53"]);
    bed.tune(scheduling());
    for expected in ["10.0.3.12", "10.0.2.11", "10.0.3.12"] {
        let mut error = complaint(CLIENT, "10.0.0.100:53", &udp("10.0.0.100:53", CLIENT, b"answer"));
        assert!(matches!(bed.handle(&mut error), Verdict::Forward { .. }));
        assert_eq!(endpoints(&error).1.ip().to_string(), expected);
        assert_eq!(bed.director.connection_count().0, 0);
    }
}

#[test]
fn an_error_with_a_mark_is_scheduled_by_its_service() {
    let bed = Bed::new();
    bed.add_service(marked(5, Family::V4), Rr, ServiceSettings::default(), &["10.0.2.11:0"]);
    bed.tune(scheduling());
    let error = || complaint(CLIENT, "10.77.0.5:80", &tcp("10.77.0.5:80", CLIENT, ACK, b""));
    assert_eq!(bed.handle(&mut error()), Verdict::Accept);
    let mut marked = error();
    let verdict = bed.handle_at(Hook::Prerouting, Fwmark::new(5), &mut marked);
    assert!(
        matches!(verdict, Verdict::Forward { rewritten: Some(_), source: Some(ReplySource::UNTRACKED) }),
        "{verdict:?}"
    );
    assert_eq!(endpoints(icmp_payload(&marked)).0.to_string(), "10.0.2.11:80");
}

#[test]
fn what_cannot_be_scheduled_is_left_alone_or_dropped() {
    let bed = Bed::serving(Tcp, WEB, Rr, &[]);
    bed.add(Udp, "10.0.0.100:500", Rr, &["10.0.2.11:500"]);
    bed.tune(scheduling());
    let address = |endpoint: &str| endpoint.parse::<IpAddr>().unwrap();
    let esp =
        raw(address("10.0.0.100"), address("10.0.1.2"), IpNumber::ENCAPSULATING_SECURITY_PAYLOAD, &[0; 16]);
    for (says, about, expected) in [
        ("no service", tcp("10.0.0.100:81", CLIENT, ACK, b""), Verdict::Accept),
        ("active FTP", tcp(WEB, "10.0.1.2:20", ACK, b""), Verdict::Accept),
        ("ESP starts nothing", esp, Verdict::Accept),
        ("no server", tcp(WEB, CLIENT, ACK, b""), Verdict::Drop(DropReason::NoServer)),
    ] {
        let mut error = complaint(CLIENT, WEB, &about);
        assert_eq!(bed.handle(&mut error), expected, "{says}");
    }
    assert_eq!(bed.director.connection_count().0, 0);
    assert_eq!(bed.director.drops(DropReason::NoServer), 1);

    bed.director.apply(&[Command::AddServer(key(Tcp, WEB), server(SERVER, 1))]).unwrap();
    bed.tune(Tunables { drop_packet: DefenceMode::Always, am_droprate: 1, ..scheduling() });
    let mut error = complaint(CLIENT, WEB, &tcp(WEB, CLIENT, ACK, b""));
    assert_eq!(bed.handle(&mut error), Verdict::Drop(DropReason::DropPacket));
}

/// A client on the director may have the virtual address for its own: what looks like a reply is then its request.
#[test]
fn an_error_about_a_known_request_of_this_host_is_none_about_a_reply() {
    let bed = Bed::serving_specs(Tcp, "10.0.0.100:0", Rr, vec![routed("10.0.2.11:0")]);
    bed.tune(scheduling());
    let (own, vip) = ("10.0.0.100:5000", "10.0.0.100:80");
    let mut request = tcp(own, vip, SYN, b"");
    assert!(matches!(bed.handle_at(Hook::Output, None, &mut request), Verdict::Route(_)));
    let mut error = unreachable("10.0.0.100", "10.0.0.100", &tcp(own, vip, SYN, b""));
    assert_eq!(bed.handle_at(Hook::Output, None, &mut error), Verdict::Accept);
    assert_eq!(bed.states().len(), 1);
}

#[test]
fn a_server_that_sends_what_belongs_to_no_connection_is_told_by_nat_icmp_send() {
    for [vip, client, server] in FAMILIES {
        let bed = Bed::serving(Tcp, vip, Rr, &[server]);
        bed.add(Sctp, vip, Rr, &[server]);
        let told = Verdict::Refuse(Refusal::NoServer);
        let stray = |what: &str| match what {
            "segment" => bed.tcp(server, client, SYN | ACK).verdict,
            "reset" => bed.tcp(server, client, RST).verdict,
            "chunk" => bed.sctp(server, client, INIT).verdict,
            "abort" => bed.sctp(server, client, 6).verdict,
            "datagram" => bed.udp(server, client).verdict,
            _ => bed.tcp(&server.replace("8080", "8081"), client, SYN).verdict,
        };
        let all = ["segment", "reset", "chunk", "abort", "datagram", "from another port"];
        assert_eq!(all.map(stray), all.map(|_| Verdict::Accept), "the tunable is off");
        bed.tune(Tunables { nat_icmp_send: true, ..Tunables::default() });
        for (what, expected) in [
            ("segment", &told),
            ("reset", &Verdict::Accept),
            ("chunk", &told),
            ("abort", &Verdict::Accept),
            ("datagram", &Verdict::Accept),
            ("from another port", &Verdict::Accept),
        ] {
            assert_eq!(&stray(what), expected, "{what}");
        }
        bed.tcp(client, vip, SYN);
        assert!(matches!(stray("segment"), Verdict::Forward { .. }), "a reply");
    }
}

#[test]
fn who_is_told_follows_the_servers_there_are() {
    let bed = Bed::serving(Tcp, WEB, Rr, &[SERVER]);
    bed.tune(Tunables { nat_icmp_send: true, ..Tunables::default() });
    let is_told = |from: &str| bed.udp(from, CLIENT).verdict == Verdict::Refuse(Refusal::NoServer);
    let web_is_told = || bed.tcp(SERVER, CLIENT, ACK).verdict == Verdict::Refuse(Refusal::NoServer);
    bed.add_service(marked(5, Family::V4), Rr, ServiceSettings::default(), &["10.0.3.12:5353"]);
    assert_eq!(
        (is_told("10.0.3.12:5353"), is_told(SERVER), web_is_told()),
        (true, false, true),
        "a mark has every protocol"
    );
    bed.director.apply(&[Command::DeleteServer(key(Tcp, WEB), SERVER.parse().unwrap())]).unwrap();
    assert!(!web_is_told(), "it is removed");
    bed.director.apply(&[Command::AddServer(key(Tcp, "10.0.0.100:80"), routed("10.0.2.11:80"))]).unwrap();
    assert_eq!(bed.tcp("10.0.2.11:80", CLIENT, ACK).verdict, Verdict::Accept, "reached by direct routing");

    let one_packet = ServiceSettings { one_packet: true, ..ServiceSettings::default() };
    bed.add_with(Udp, "10.0.0.100:53", Rr, one_packet, &["10.0.4.13:53"]);
    let answer = bed.udp("10.0.4.13:53", CLIENT).verdict;
    assert!(matches!(answer, Verdict::Forward { .. }), "no connection, and yet a reply: {answer:?}");
}
