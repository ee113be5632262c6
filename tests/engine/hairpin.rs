//! A client that is the very server that is chosen.

use crate::bed::{
    ACK, Bed, INIT, INIT_ACK, SYN, endpoints, icmp_payload, marked, routed, sctp, tcp, udp, unreachable,
};
use nfvs::director::packet::Transport::{self, Sctp, Tcp, Udp};
use nfvs::director::scheduler::SchedulerKind::Rr;
use nfvs::director::service::{Family, ServiceSettings};
use nfvs::director::{Hook, ReplySource, Verdict};

/// The VIP, a server, and itself as a client; at the VIP as the server sees it.
const FAMILIES: [[&str; 4]; 2] = [
    ["10.0.0.100:80", "10.0.2.11:8080", "10.0.2.11:5000", "10.0.0.100:5000"],
    ["[fd00::100]:80", "[fd00:2::11]:8080", "[fd00:2::11]:5000", "[fd00::100]:5000"],
];

fn request(transport: Transport, from: &str, to: &str) -> Vec<u8> {
    match transport {
        Tcp => tcp(from, to, SYN, b""),
        Udp => udp(from, to, b"question"),
        Sctp => sctp(from, to, INIT),
    }
}

fn reply(transport: Transport, from: &str, to: &str) -> Vec<u8> {
    match transport {
        Tcp => tcp(from, to, SYN | ACK, b""),
        Udp => udp(from, to, b"answer"),
        Sctp => sctp(from, to, INIT_ACK),
    }
}

fn ends(bytes: &[u8]) -> [String; 2] {
    let (from, to) = endpoints(bytes);
    [from.to_string(), to.to_string()]
}

/// A packet that meets the director before routing and again behind it.
#[track_caller]
fn pass_twice(bed: &Bed, mark: Option<u16>, mut bytes: Vec<u8>) -> ([String; 2], [String; 2]) {
    let mark = mark.and_then(nfvs::director::service::Fwmark::new);
    let verdict = bed.handle_at(Hook::Prerouting, mark, &mut bytes);
    let Verdict::Forward { rewritten: Some(_), source: Some(ReplySource::ASKED_AGAIN) } = verdict else {
        panic!("{verdict:?}")
    };
    let routed = ends(&bytes);
    let late = bed.handle_at(Hook::Late, None, &mut bytes);
    assert!(matches!(late, Verdict::Forward { rewritten: Some(_), source: None }), "{late:?}");
    (routed, ends(&bytes))
}

#[test]
fn a_server_that_serves_itself_sees_the_virtual_address() {
    for [vip, server, client, seen] in FAMILIES {
        for transport in [Tcp, Udp, Sctp] {
            let bed = Bed::serving(transport, vip, Rr, &[server]);
            let (routed, sent) = pass_twice(&bed, None, request(transport, client, vip));
            assert_eq!(routed, [client, server], "a local source would be a martian before routing");
            assert_eq!(sent, [seen, server], "{transport}");

            let mut answer = reply(transport, server, seen);
            let verdict = bed.handle(&mut answer);
            let Verdict::Forward { rewritten: Some(_), source: Some(source) } = verdict else {
                panic!("{verdict:?}")
            };
            assert_ne!(source, ReplySource::ASKED_AGAIN, "the rules know this source");
            assert_eq!(ends(&answer), [server, client], "{transport}");
            bed.director.check_invariants();
        }
    }
}

#[test]
fn other_clients_keep_their_addresses() {
    for [vip, server, client, _] in FAMILIES {
        let bed = Bed::serving(Tcp, vip, Rr, &[server]);
        let other = client.replace("11", "12");
        let outcome = bed.tcp(&other, vip, SYN);
        assert_eq!((outcome.destination(), outcome.from.to_string()), (server.to_owned(), other.clone()));
        assert_eq!(outcome.verdict_source(), None);
        assert_eq!(bed.tcp(server, &other, SYN | ACK).to.to_string(), other);
        // A client on the director reaches itself without leaving it.
        let mut own = tcp(client, vip, SYN, b"");
        let verdict = bed.handle_at(Hook::Output, None, &mut own);
        assert!(matches!(verdict, Verdict::Forward { source: None, .. }), "{verdict:?}");
        assert_eq!(ends(&own), [client, server]);
    }
    let bed = Bed::serving_specs(Tcp, "10.0.0.100:80", Rr, vec![routed("10.0.2.11:80")]);
    bed.tcp("10.0.2.11:5000", "10.0.0.100:80", SYN).route();
}

#[test]
fn what_goes_to_another_virtual_address_or_port_is_not_of_the_connection() {
    let [vip, server, client, seen] = FAMILIES[0];
    let bed = Bed::serving(Tcp, vip, Rr, &[server]);
    bed.add(Tcp, "10.0.0.101:80", Rr, &["10.0.3.12:80"]);
    bed.tcp(client, vip, SYN);
    for to in ["10.0.0.101:5000", "10.0.0.100:5001", "10.0.9.9:5000"] {
        let verdict = bed.tcp(server, to, ACK).verdict;
        assert!(!matches!(verdict, Verdict::Forward { .. }), "{to}: {verdict:?}");
    }
    assert!(matches!(bed.tcp(server, seen, SYN | ACK).verdict, Verdict::Forward { .. }));
}

#[test]
fn two_virtual_addresses_of_one_server_are_told_apart_by_the_port() {
    let [vip, server, client, seen] = FAMILIES[0];
    let bed = Bed::serving(Tcp, vip, Rr, &[server]);
    bed.add(Tcp, "10.0.0.101:80", Rr, &[server]);
    assert_eq!(pass_twice(&bed, None, request(Tcp, client, vip)).1, [seen, server]);
    let (routed, sent) = pass_twice(&bed, None, request(Tcp, client, "10.0.0.101:80"));
    let stand_in: std::net::SocketAddr = sent[0].parse().unwrap();
    assert_eq!(stand_in.ip().to_string(), "10.0.0.101");
    assert_ne!(stand_in.port(), 5000);
    assert_eq!(routed[0], format!("10.0.2.11:{}", stand_in.port()));
    let mut answer = reply(Tcp, server, &sent[0]);
    assert!(matches!(bed.handle(&mut answer), Verdict::Forward { .. }));
    assert_eq!(ends(&answer), [server, client]);
    bed.director.check_invariants();
}

#[test]
fn a_service_by_mark_is_served_by_its_client_as_well() {
    for ([_, server, client, _], (family, asked, seen)) in FAMILIES.into_iter().zip([
        (Family::V4, "192.0.2.80:80", "192.0.2.80:5000"),
        (Family::V6, "[2001:db8::80]:80", "[2001:db8::80]:5000"),
    ]) {
        let bed = Bed::new();
        bed.add_service(marked(5, family), Rr, ServiceSettings::default(), &[server]);
        assert_eq!(pass_twice(&bed, Some(5), request(Tcp, client, asked)).1, [seen, server]);
        let (routed, sent) = pass_twice(&bed, None, reply(Tcp, server, seen));
        assert_eq!((routed, sent), ([server, client].map(str::to_owned), [asked, client].map(str::to_owned)));
    }
}

#[test]
fn an_error_about_a_request_comes_back_to_the_client_it_was() {
    for [vip, server, client, seen] in FAMILIES {
        let bed = Bed::serving(Udp, vip, Rr, &[server]);
        bed.udp(client, vip);
        let host = |endpoint: &str| endpoint.parse::<std::net::SocketAddr>().unwrap().ip().to_string();
        let mut error = unreachable(&host(server), &host(vip), &udp(seen, server, b"question"));
        let verdict = bed.handle(&mut error);
        assert!(matches!(verdict, Verdict::Forward { rewritten: Some(_), source: Some(_) }), "{verdict:?}");
        assert_eq!(endpoints(&error).1.ip().to_string(), host(client));
        assert_eq!(ends(icmp_payload(&error)), [client, vip]);
    }
}
