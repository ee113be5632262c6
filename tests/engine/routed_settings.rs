//! What can be set for services, with servers reached by direct routing.

use crate::bed::{
    ACK, Bed, FIN, Outcome, SYN, endpoints, icmp_payload, key, marked, routed, server, tcp, udp, unreachable,
};
use nfvs::director::packet::Transport::{self, Tcp, Udp};
use nfvs::director::scheduler::SchedulerKind::Rr;
use nfvs::director::service::{
    ClientMask, Family, ForwardMethod, OnRemove, OwnTimeouts, Persistence, ServiceSettings, Thresholds,
    Tunables,
};
use nfvs::director::{
    Command, CommandError, DropReason, Hook, Refusal, Route, ServerSpec, SteeredService, Verdict,
};
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

/// The VIP, a client, two servers, and the director towards the client.
const FAMILIES: [[&str; 5]; 2] = [
    ["10.0.0.100", "10.0.1.2", "10.0.2.11", "10.0.3.12", "10.0.1.1"],
    ["fd00::100", "fd00:1::2", "fd00:2::11", "fd00:3::12", "fd00:1::1"],
];

fn at(address: &str, port: u16) -> String {
    SocketAddr::new(address.parse().unwrap(), port).to_string()
}

/// A bed with a service that two servers serve by direct routing, the first being the first chosen.
fn serving(transport: Transport, vip: &str, settings: ServiceSettings, servers: [&str; 2]) -> Bed {
    let bed = Bed::new();
    let port = vip.parse::<SocketAddr>().unwrap().port();
    let servers = [servers[1], servers[0]].map(|server| routed(&at(server, port)));
    bed.add_specs(transport, vip, Rr, settings, servers.into());
    bed
}

fn persistent(client: &str) -> ServiceSettings {
    let clients = ClientMask::whole(client.parse::<IpAddr>().unwrap());
    let persistence = Persistence { timeout: Duration::from_secs(300), clients, engine: None };
    ServiceSettings { persistence: Some(persistence), ..ServiceSettings::default() }
}

fn one_packet() -> ServiceSettings {
    ServiceSettings { one_packet: true, ..ServiceSettings::default() }
}

fn on_remove(on_remove: OnRemove) -> ServiceSettings {
    ServiceSettings { on_remove: Some(on_remove), ..ServiceSettings::default() }
}

fn steered(bed: &Bed) -> SteeredService {
    let [service] = bed.director.steering().try_into().unwrap();
    service
}

/// The server that a packet was routed to.
#[track_caller]
fn server_of(bed: &Bed, outcome: &Outcome) -> String {
    let route = outcome.route();
    let routes: Vec<(IpAddr, Route)> = steered(bed).routes;
    routes.iter().find(|(_, other)| *other == route).unwrap().0.to_string()
}

#[test]
fn a_persistent_client_stays_with_its_server_and_its_port_stays_too() {
    for [vip, client, first, second, _] in FAMILIES {
        let bed = serving(Tcp, &at(vip, 80), persistent(client), [first, second]);
        for port in 1..4 {
            let outcome = bed.tcp(&at(client, port), &at(vip, 80), SYN);
            assert_eq!(server_of(&bed, &outcome), first);
            assert_eq!(bed.tcp(&at(vip, 80), &at(client, port), SYN | ACK).route(), outcome.route());
        }
        let flags = "NONE 300 0x1183";
        let template = format!("tcp {client} -> {} -> {} {flags}", at(vip, 80), at(first, 80));
        assert_eq!(bed.templates(), [template]);
        bed.tcp(&at(client, 1), &at(vip, 80), ACK);
        assert!(bed.templates()[0].contains(" ASSURED "), "{:?}", bed.templates());
        bed.director.check_invariants();
    }
}

#[test]
fn a_persistent_service_of_every_port_leaves_each_port_as_it_is() {
    for [vip, client, first, second, _] in FAMILIES {
        let bed = serving(Tcp, &at(vip, 0), persistent(client), [first, second]);
        for port in [80, 443] {
            let outcome = bed.tcp(&at(client, port), &at(vip, port), SYN);
            assert_eq!(server_of(&bed, &outcome), first);
            assert!(bed.states().iter().any(|state| state.contains(&at(first, port))), "{:?}", bed.states());
        }
        assert_eq!(bed.templates().len(), 1);
        bed.director.check_invariants();
    }
}

#[test]
fn a_template_outlives_a_change_of_the_method_and_new_connections_follow_it() {
    let [vip, client, first, second, _] = FAMILIES[0];
    let service = at(vip, 80);
    let bed = serving(Tcp, &service, persistent(client), [first, second]);
    let route = bed.tcp(&at(client, 1), &service, SYN).route();
    let edit = Command::EditServer(key(Tcp, &service), server(&at(first, 80), 1));
    bed.director.apply(&[edit]).unwrap();
    assert_eq!(bed.tcp(&at(client, 2), &service, SYN).destination(), at(first, 80));
    assert_eq!(bed.tcp(&at(client, 1), &service, ACK).route(), route);
    assert_eq!(bed.templates().len(), 1);
    bed.director.check_invariants();
}

#[test]
fn data_connections_of_ftp_take_the_route_of_the_control_connection() {
    for [vip, client, first, second, director] in FAMILIES {
        let bed = serving(Tcp, &at(vip, 21), persistent(client), [first, second]);
        assert!(steered(&bed).ftp_data);
        assert_eq!(steered(&bed).servers, [], "nothing is translated");
        let control = bed.tcp(&at(client, 5000), &at(vip, 21), SYN);
        assert_eq!(server_of(&bed, &control), first);
        for port in [20, 1024, 40000] {
            let from = at(client, 6000 + port % 1000);
            let data = bed.tcp(&from, &at(vip, port), SYN).route();
            assert_eq!(data, control.route(), "{port}");
            assert_eq!(bed.tcp(&at(vip, port), &from, SYN | ACK).route(), data, "{port}");
        }
        let about = tcp(&at(client, 6024), &at(first, 1024), ACK, b"");
        let mut error = unreachable(director, client, &about);
        let verdict = bed.handle_at(Hook::Output, None, &mut error);
        assert!(matches!(verdict, Verdict::Forward { rewritten: Some(_), source: Some(_) }), "{verdict:?}");
        assert_eq!(endpoints(icmp_payload(&error)).1.to_string(), at(vip, 1024));
        bed.director.check_invariants();
    }
}

#[test]
fn datagrams_of_a_one_packet_service_are_routed_in_turn_and_leave_nothing_behind() {
    for [vip, client, first, second, _] in FAMILIES {
        let bed = serving(Udp, &at(vip, 53), one_packet(), [first, second]);
        for expected in [first, second, first] {
            let outcome = bed.udp(&at(client, 5000), &at(vip, 53));
            assert_eq!(server_of(&bed, &outcome), expected);
            assert_eq!(bed.director.connection_count().0, 0);
        }
        let real = bed.real_server(key(Udp, &at(vip, 53)), &at(first, 53));
        assert_eq!((real.total_conns(), real.stats.snapshot().conns), (0, 2));
        // The server answers as the VIP, and nobody else has its address to be taken for it.
        assert_eq!(bed.udp(&at(vip, 53), &at(client, 5000)).verdict, Verdict::Accept);
        assert_eq!(bed.udp(&at(first, 53), &at(client, 5000)).verdict, Verdict::Accept);
        bed.director.check_invariants();
    }
}

#[test]
fn the_director_s_own_errors_about_one_datagram_speak_of_the_virtual_address() {
    for [vip, client, first, second, director] in FAMILIES {
        let bed = serving(Udp, &at(vip, 53), one_packet(), [first, second]);
        let _ = bed.udp(&at(client, 5000), &at(vip, 53));
        let mut error = unreachable(director, client, &udp(&at(client, 5000), &at(first, 53), b"question"));
        let verdict = bed.handle_at(Hook::Output, None, &mut error);
        let source = steered(&bed).source;
        assert!(
            matches!(verdict, Verdict::Forward { rewritten: Some(_), source: Some(named) } if named == source),
            "{verdict:?}"
        );
        assert_eq!(endpoints(icmp_payload(&error)).1.to_string(), at(vip, 53));

        // The server of another service of the address.
        let [other, web] = [at(second, 53), at(vip, 80)];
        let gone = Command::DeleteServer(key(Udp, &at(vip, 53)), other.parse().unwrap());
        bed.director.apply(&[gone]).unwrap();
        bed.add_specs(Tcp, &web, Rr, ServiceSettings::default(), vec![routed(&at(second, 80))]);
        for (what, to, about) in [
            ("another port", client, udp(&at(client, 5000), &at(first, 54), b"question")),
            ("another protocol", client, tcp(&at(client, 5000), &at(first, 53), SYN, b"")),
            ("another server", client, udp(&at(client, 5000), &other, b"question")),
            ("an answer", first, udp(&at(first, 53), &at(client, 5000), b"answer")),
        ] {
            let mut direct = unreachable(director, to, &about);
            assert_eq!(bed.handle_at(Hook::Output, None, &mut direct), Verdict::Accept, "{what}");
        }
    }
}

#[test]
fn a_one_packet_server_answers_by_the_method_it_has() {
    let [vip, client, first, second, _] = FAMILIES[0];
    let service = at(vip, 53);
    let bed = serving(Udp, &service, one_packet(), [first, second]);
    let edit = |spec| bed.director.apply(&[Command::EditServer(key(Udp, &service), spec)]).unwrap();
    edit(server(&at(first, 53), 1));
    assert_eq!(bed.udp(&at(first, 53), &at(client, 5000)).source(), steered(&bed).source);
    edit(routed(&at(first, 53)));
    assert_eq!(bed.udp(&at(first, 53), &at(client, 5000)).verdict, Verdict::Accept);
}

#[test]
fn a_full_server_is_passed_over_and_keeps_what_it_has() {
    for [vip, client, first, second, _] in FAMILIES {
        let service = at(vip, 53);
        let bed = serving(Udp, &service, ServiceSettings::default(), [first, second]);
        for server in [first, second] {
            let limited =
                ServerSpec { thresholds: Thresholds { upper: 2, lower: 0 }, ..routed(&at(server, 53)) };
            bed.director.apply(&[Command::EditServer(key(Udp, &service), limited)]).unwrap();
        }
        let went: Vec<_> = (1..5).map(|port| bed.udp(&at(client, port), &service)).collect();
        for server in [first, second] {
            assert_eq!(went.iter().filter(|outcome| server_of(&bed, outcome) == server).count(), 2);
            assert!(bed.real_server(key(Udp, &service), &at(server, 53)).is_overloaded());
        }
        assert_eq!(bed.udp(&at(client, 5), &service).verdict, Verdict::Refuse(Refusal::NoServer));
        assert_eq!(bed.udp(&at(client, 1), &service).route(), went[0].route());
        bed.director.check_invariants();
    }
}

#[test]
fn weight_thresholds_and_method_change_together() {
    let [vip, client, first, second, _] = FAMILIES[0];
    let service = at(vip, 80);
    let bed = serving(Tcp, &service, ServiceSettings::default(), [first, second]);
    let thresholds = Thresholds { upper: 9, lower: 3 };
    let spec = ServerSpec { thresholds, ..server(&at(first, 80), 7) };
    bed.director.apply(&[Command::EditServer(key(Tcp, &service), spec)]).unwrap();
    let real = bed.real_server(key(Tcp, &service), &at(first, 80));
    assert_eq!(
        (real.weight().get(), real.thresholds(), real.forwarding().method),
        (7, thresholds, ForwardMethod::Nat)
    );
    assert_eq!(bed.tcp(&at(client, 1), &service, SYN).destination(), at(first, 80));
}

#[test]
fn on_remove_says_what_becomes_of_routed_connections() {
    const DROPPED: Verdict = Verdict::Drop(DropReason::ServerRemoved);
    const REFUSED: Verdict = Verdict::Refuse(Refusal::NotServed);
    for [vip, client, first, second, _] in FAMILIES {
        let service = at(vip, 80);
        for (fate, packet, syn_moves) in [
            (OnRemove::Keep, DROPPED, false),
            (OnRemove::Reset, REFUSED, true),
            (OnRemove::Reschedule, REFUSED, true),
        ] {
            let bed = serving(Tcp, &service, on_remove(fate), [first, second]);
            let from = at(client, 5000);
            for flags in [SYN, ACK] {
                assert_eq!(server_of(&bed, &bed.tcp(&from, &service, flags)), first);
            }
            let gone = Command::DeleteServer(key(Tcp, &service), at(first, 80).parse().unwrap());
            bed.director.apply(&[gone]).unwrap();
            assert_eq!(bed.tcp(&from, &service, ACK).verdict, packet, "{fate}");
            let next = bed.tcp(&from, &service, SYN);
            match syn_moves {
                true => assert_eq!(server_of(&bed, &next), second, "{fate}"),
                false => assert_eq!(next.verdict, DROPPED, "{fate}"),
            }
            bed.director.check_invariants();
        }
    }
}

#[test]
fn expire_nodest_conn_ends_routed_connections_with_their_server() {
    let [vip, client, first, second, _] = FAMILIES[0];
    let service = at(vip, 80);
    let mut bed = serving(Tcp, &service, persistent(client), [first, second]);
    let tunables = Tunables { expire_nodest_conn: true, ..Tunables::default() };
    bed.tune(tunables);
    bed.tcp(&at(client, 1), &service, SYN);
    let gone = Command::DeleteServer(key(Tcp, &service), at(first, 80).parse().unwrap());
    bed.director.apply(&[gone]).unwrap();
    bed.pass(1);
    assert_eq!(bed.director.connection_count().0, 0);
    assert_eq!(server_of(&bed, &bed.tcp(&at(client, 1), &service, SYN)), second);
    bed.director.check_invariants();
}

#[test]
fn a_services_own_timeouts_count_where_replies_are_not_seen() {
    let seconds = Duration::from_secs;
    for [vip, client, first, second, _] in FAMILIES {
        let timeouts = OwnTimeouts { tcp: Some(seconds(50)), tcp_fin: Some(seconds(7)), udp: None };
        let settings = ServiceSettings { timeouts, ..ServiceSettings::default() };
        let bed = serving(Tcp, &at(vip, 80), settings, [first, second]);
        for (flags, state) in [(SYN, " SYN_RECV 60 "), (ACK, " ESTABLISHED 50 "), (FIN | ACK, " FIN_WAIT 7 ")]
        {
            bed.tcp(&at(client, 1), &at(vip, 80), flags);
            assert!(bed.states()[0].contains(state), "{:?}", bed.states());
        }
    }
}

#[test]
fn a_service_by_mark_takes_no_server_of_direct_routing() {
    for ([_, _, first, ..], family) in FAMILIES.into_iter().zip([Family::V4, Family::V6]) {
        let bed = Bed::new();
        let service = marked(5, family);
        let address = at(first, 0);
        bed.add_service(service, Rr, ServiceSettings::default(), &[]);
        let method = ForwardMethod::Dr;
        let refusal = CommandError::RouteFromMark { service, server: address.parse().unwrap(), method };
        let refused = Err(refusal.clone());
        assert_eq!(bed.director.apply(&[Command::AddServer(service, routed(&address))]), refused);
        bed.director.apply(&[Command::AddServer(service, server(&address, 1))]).unwrap();
        assert_eq!(bed.director.apply(&[Command::EditServer(service, routed(&address))]), refused);
        bed.director.apply(&[Command::DeleteServer(service, address.parse().unwrap())]).unwrap();
        assert_eq!(
            bed.director.apply(&[Command::AddServer(service, routed(&address))]),
            refused,
            "come back"
        );
        assert_eq!(
            refusal.to_string(),
            format!(
                "server {address} of service fwmark 5 {family} cannot have \"dr\": a route leads from an address, and \
                 a mark has none"
            )
        );
    }
}
