//! Direct routing: packets go unchanged, by a route that the verdict names.

use crate::bed::{
    ACK, Bed, FIN, RST, SYN, endpoints, icmp_payload, key, routed, sctp, server, tcp, udp, unreachable,
};
use nfvs::director::packet::Transport::{Sctp, Tcp, Udp};
use nfvs::director::scheduler::SchedulerKind::Rr;
use nfvs::director::service::{ForwardMethod, ServiceSettings};
use nfvs::director::{
    Command, CommandError, DropReason, Hook, PacketMeta, Refusal, Route, ServerSpec, ServiceSpec,
    SteeredService, Verdict,
};
use std::net::{Ipv4Addr, SocketAddr};

/// The VIP, a client, two servers, and the director towards the client.
const FAMILIES: [[&str; 5]; 2] = [
    ["10.0.0.100:80", "10.0.1.2:5000", "10.0.2.11:80", "10.0.2.12:80", "10.0.1.1"],
    ["[fd00::100]:80", "[fd00:1::2]:5000", "[fd00:2::11]:80", "[fd00:2::12]:80", "fd00:1::1"],
];

fn host(endpoint: &str) -> String {
    endpoint.parse::<SocketAddr>().unwrap().ip().to_string()
}

fn bed(vip: &str, servers: &[&str]) -> Bed {
    Bed::serving_specs(Tcp, vip, Rr, servers.iter().map(|server| routed(server)).collect())
}

/// What steering knows of the service with this address.
fn steered(bed: &Bed, vip: &str) -> SteeredService {
    let all = bed.director.steering();
    all.into_iter().find(|service| service.key == key(Tcp, vip)).unwrap()
}

/// The route that steering has for a server.
fn route_to(bed: &Bed, vip: &str, server: &str) -> Route {
    let routes = steered(bed, vip).routes;
    routes.iter().find(|(address, _)| address.to_string() == host(server)).unwrap().1
}

#[test]
fn requests_and_replies_are_unchanged_and_take_the_route_of_the_connections_server() {
    for [vip, client, first, second, _] in FAMILIES {
        let bed = bed(vip, &[second, first]);
        for (number, server) in [first, second, first].into_iter().enumerate() {
            let from = SocketAddr::new(host(client).parse().unwrap(), 6000 + number as u16).to_string();
            let route = route_to(&bed, vip, server);
            for flags in [SYN, ACK, ACK | FIN] {
                let mut request = tcp(&from, vip, flags, b"");
                let before = request.clone();
                assert_eq!(bed.handle(&mut request), Verdict::Route(route), "{server} {flags:#x}");
                assert_eq!(request, before);
                let mut reply = tcp(vip, &from, flags | ACK, b"");
                let before = reply.clone();
                assert_eq!(bed.handle(&mut reply), Verdict::Route(route));
                assert_eq!(reply, before);
            }
        }
        bed.director.check_invariants();
    }
}

#[test]
fn the_first_bytes_of_a_packet_are_enough() {
    let [vip, client, server, ..] = FAMILIES[1];
    let bed = bed(vip, &[server]);
    let route = route_to(&bed, vip, server);
    let bytes = tcp(client, vip, SYN, &[0; 60_000]);
    let meta = PacketMeta {
        hook: Hook::Prerouting,
        checksum_owed: true,
        gso: false,
        original_len: bytes.len(),
        mark: None,
    };
    for at_hand in [100, 256] {
        let verdict = bed.director.handle_packet(bed.now, &meta, &mut bytes[..at_hand].to_vec());
        assert_eq!(verdict, Verdict::Route(route));
    }
    let services = bed.director.services();
    let service = services.get(&key(Tcp, vip)).unwrap();
    assert_eq!(service.core.stats.snapshot().in_bytes, 2 * bytes.len() as u64, "the whole counts");
}

/// Flags as in the kernel: DROUTE, NOOUTPUT until a reply passes (TCP only), INACTIVE.
#[test]
fn a_connection_has_the_flags_and_states_of_one_whose_replies_are_not_seen() {
    let [vip, client, server, ..] = FAMILIES[0];
    let bed = bed(vip, &[server]);
    let row = |state: &str, expires: u32, flags: &str| {
        vec![format!("tcp {client} -> {vip} -> {server} {state} {expires} {flags}")]
    };
    for (flags, expected) in [
        (SYN, row("SYN_RECV", 60, "0x0083")),
        (ACK, row("ESTABLISHED", 900, "0x0083")),
        (FIN | ACK, row("FIN_WAIT", 120, "0x0183")),
    ] {
        bed.tcp(client, vip, flags);
        assert_eq!(bed.states(), expected);
    }
    // A reply passes after all: from here on both directions count.
    bed.tcp(vip, client, FIN | ACK);
    assert_eq!(bed.states(), row("FIN_WAIT", 120, "0x0103"));
    bed.tcp(client, vip, FIN | ACK);
    assert_eq!(bed.states(), row("TIME_WAIT", 120, "0x0103"));

    let bed = Bed::serving_specs(Udp, vip, Rr, vec![routed(server)]);
    bed.udp(client, vip);
    bed.udp(vip, client);
    assert_eq!(bed.states(), [format!("udp {client} -> {vip} -> {server} UDP 300 0x0183")]);
}

#[test]
fn a_client_that_uses_a_port_again_is_scheduled_anew_and_a_stranger_is_refused() {
    let [vip, client, first, second, _] = FAMILIES[0];
    let bed = bed(vip, &[second, first]);
    assert_eq!(bed.tcp(client, vip, SYN).route(), route_to(&bed, vip, first));
    for flags in [ACK, RST] {
        bed.tcp(client, vip, flags);
    }
    assert_eq!(bed.tcp(client, vip, SYN).route(), route_to(&bed, vip, second));
    assert_eq!(bed.tcp("10.0.1.3:1", vip, ACK).verdict, Verdict::Refuse(Refusal::NotServed));
    assert_eq!(bed.tcp(vip, "10.0.1.3:1", ACK).verdict, Verdict::Accept, "no reply of ours");
}

/// Nothing is translated, so nothing is ambiguous.
#[test]
fn two_services_on_one_server_leave_a_client_its_port() {
    let [vip, client, server, ..] = FAMILIES[0];
    let bed = bed(vip, &[server]);
    let other = "10.0.0.101:80";
    bed.add_specs(Tcp, other, Rr, ServiceSettings::default(), vec![routed(server)]);
    let routes = [vip, other].map(|vip| bed.tcp(client, vip, SYN).route());
    assert_eq!(routes, [vip, other].map(|vip| route_to(&bed, vip, server)));
    assert_ne!(routes[0], routes[1]);
    assert_eq!([vip, other].map(|vip| bed.tcp(vip, client, SYN | ACK).route()), routes);

    // Not even where the same port is in use towards the same server by translation.
    bed.add(Tcp, "10.0.0.102:80", Rr, &["10.0.2.12:80"]);
    assert_eq!(bed.tcp(client, "10.0.0.102:80", SYN).destination(), "10.0.2.12:80");
    let third = "10.0.0.103:80";
    bed.add_specs(Tcp, third, Rr, ServiceSettings::default(), vec![routed("10.0.2.12:80")]);
    let route = bed.tcp(client, third, SYN).route();
    assert_eq!(bed.tcp(third, client, SYN | ACK).route(), route);
    bed.director.check_invariants();
}

#[test]
fn errors_about_replies_take_the_route_as_they_are() {
    for [vip, client, server, ..] in FAMILIES {
        let bed = bed(vip, &[server]);
        bed.tcp(client, vip, SYN);
        let mut error = unreachable(&host(client), &host(vip), &tcp(vip, client, SYN | ACK, b""));
        let before = error.clone();
        assert_eq!(bed.handle(&mut error), Verdict::Route(route_to(&bed, vip, server)));
        assert_eq!(error, before);
    }
}

/// While the director's kernel routes a packet, it has the server's address in place of the virtual one.
#[test]
fn errors_of_this_host_speak_of_the_virtual_address_again() {
    for [vip, client, server, _, director] in FAMILIES {
        for transport in [Tcp, Udp, Sctp] {
            let bed = Bed::serving_specs(transport, vip, Rr, vec![routed(server)]);
            let packet = |from: &str, to: &str| match transport {
                Tcp => tcp(from, to, SYN, b""),
                Udp => udp(from, to, b"question"),
                Sctp => sctp(from, to, 1),
            };
            let mut opening = packet(client, vip);
            let _ = bed.handle(&mut opening);
            let source = bed.director.steering()[0].source;

            let mut error = unreachable(director, &host(client), &packet(client, server));
            assert_eq!(bed.handle(&mut error), Verdict::Accept, "somebody else cannot have seen that packet");
            let verdict = bed.handle_at(Hook::Output, None, &mut error);
            assert!(
                matches!(verdict, Verdict::Forward { rewritten: Some(_), source: Some(named) } if named == source),
                "{verdict:?}"
            );
            assert_eq!(endpoints(&error).1.ip().to_string(), host(client));
            let (from, to) = endpoints(icmp_payload(&error));
            assert_eq!([from.to_string(), to.to_string()], [client, vip]);

            let mut error = unreachable(director, &host(server), &packet(server, client));
            let verdict = bed.handle_at(Hook::Output, None, &mut error);
            assert!(matches!(verdict, Verdict::Forward { rewritten: Some(_), source: None }), "{verdict:?}");
            assert_eq!(endpoints(&error).1.ip().to_string(), host(server));
            let (from, to) = endpoints(icmp_payload(&error));
            assert_eq!([from.to_string(), to.to_string()], [vip, client]);
        }
    }
}

#[test]
fn errors_about_direct_flows_to_a_routed_server_are_left_alone() {
    let [vip, client, server, other, director] = FAMILIES[0];
    let bed = bed(vip, &[server]);
    bed.tcp(client, vip, SYN);
    for about in [
        tcp("10.0.1.2:6000", server, SYN, b""),
        tcp(server, "10.0.1.2:6000", SYN, b""),
        tcp(client, other, SYN, b""),
    ] {
        let mut error = unreachable(director, &host(client), &about);
        let before = error.clone();
        assert_eq!(bed.handle_at(Hook::Output, None, &mut error), Verdict::Accept);
        assert_eq!(error, before);
    }
}

fn edit(vip: &str, server: &str, forward: ForwardMethod) -> Command {
    Command::EditServer(key(Tcp, vip), ServerSpec { forward, ..routed(server) })
}

#[test]
fn connections_keep_the_method_they_began_with() {
    let [vip, client, server, ..] = FAMILIES[0];
    let bed = bed(vip, &[server]);
    let route = bed.tcp(client, vip, SYN).route();
    assert_eq!(steered(&bed, vip).servers, []);

    bed.director.apply(&[edit(vip, server, ForwardMethod::Nat)]).unwrap();
    assert_eq!(steered(&bed, vip).servers, [server.parse().unwrap()], "the rules know of both");
    assert_eq!(route_to(&bed, vip, server), route);
    assert_eq!(bed.tcp("10.0.1.2:5001", vip, SYN).destination(), server);
    assert_eq!(bed.tcp(client, vip, ACK).route(), route);

    bed.director.apply(&[edit(vip, server, ForwardMethod::Dr)]).unwrap();
    assert_eq!(steered(&bed, vip).servers, [server.parse().unwrap()]);
    assert_eq!(bed.tcp("10.0.1.2:5001", vip, ACK).destination(), server);
    assert_eq!(bed.tcp("10.0.1.2:5002", vip, SYN).route(), route);
    bed.director.check_invariants();
}

#[test]
fn the_rules_learn_of_a_method_before_packets_use_it() {
    let [vip, client, server, ..] = FAMILIES[0];
    let bed = Bed::serving(Tcp, vip, Rr, &[server]);
    let plan = bed.director.plan(&[edit(vip, server, ForwardMethod::Dr)]).unwrap();
    let [planned] = plan.steering().try_into().unwrap();
    assert_eq!(planned.routes.len(), 1);
    assert_eq!(bed.tcp(client, vip, SYN).destination(), server, "not before the commit");
    bed.director.commit(plan);
    assert_eq!(bed.tcp("10.0.1.2:1", vip, SYN).route(), planned.routes[0].1);
}

#[test]
fn a_removed_server_comes_back_with_another_method_and_its_route_stays_while_it_is_known() {
    let [vip, client, server, ..] = FAMILIES[0];
    let mut bed = bed(vip, &[server]);
    let service = key(Tcp, vip);
    let address: SocketAddr = server.parse().unwrap();
    let route = bed.tcp(client, vip, SYN).route();
    bed.director.apply(&[Command::DeleteServer(service, address)]).unwrap();
    assert_eq!(bed.tcp(client, vip, ACK).verdict, Verdict::Drop(DropReason::ServerRemoved));
    assert_eq!(bed.tcp(vip, client, ACK).route(), route, "replies pass");
    assert_eq!(route_to(&bed, vip, server), route);

    bed.director.apply(&[Command::AddServer(service, crate::bed::server(server, 1))]).unwrap();
    assert_eq!(bed.tcp(client, vip, ACK).route(), route);
    assert_eq!(bed.tcp("10.0.1.2:1", vip, SYN).destination(), server);
    bed.director.apply(&[Command::DeleteServer(service, address)]).unwrap();

    bed.pass(2000);
    assert!(!bed.director.empty_trash(bed.now));
    bed.pass(200);
    assert!(bed.director.empty_trash(bed.now));
    assert_eq!(steered(&bed, vip).routes, []);
    bed.director.check_invariants();
}

#[test]
fn services_of_an_address_share_their_routes_and_no_number_means_two_things() {
    let [vip, _, first, second, _] = FAMILIES[0];
    let bed = bed(vip, &[first, second]);
    let https = "10.0.0.100:443";
    bed.add_specs(
        Tcp,
        https,
        Rr,
        ServiceSettings::default(),
        vec![routed("10.0.2.11:443"), server("10.0.2.13:443", 1)],
    );
    assert_eq!(route_to(&bed, https, first), route_to(&bed, vip, first));
    let mut numbers: Vec<u16> = bed
        .director
        .steering()
        .iter()
        .flat_map(|service| service.routes.iter().map(|(_, route)| route.0).chain([service.source.0]))
        .collect();
    numbers.sort_unstable();
    numbers.dedup();
    assert_eq!(numbers.len(), 4, "two services, two routes: {numbers:?}");
}

#[test]
fn services_and_routes_share_65530_numbers() {
    let bed = Bed::new();
    let service = |number: u32, servers: u32| {
        let servers = (0..servers).map(|n| {
            let address = Ipv4Addr::from_bits(0x0a01_0000 + n);
            routed(&format!("{address}:80"))
        });
        Command::AddService(ServiceSpec {
            key: key(Tcp, &format!("10.0.{number}.100:80")),
            name: number.to_string(),
            scheduler: Rr,
            settings: ServiceSettings::default(),
            servers: servers.collect(),
        })
    };
    // Each takes a number for itself and one for each server.
    let all_but_two: Vec<Command> =
        (0..64).map(|number| service(number, 1022)).chain([service(64, 55)]).collect();
    bed.director.apply(&all_but_two).unwrap();
    let refused = bed.director.apply(&[service(65, 2)]).unwrap_err();
    assert_eq!(refused, CommandError::TooManyServices { max: 65_530 });
    assert_eq!(
        refused.to_string(),
        "too many services and servers with \"dr\", \"local\" or \"tunnel\": 65530 of one address family are \
         possible together"
    );
    bed.director.apply(&[service(65, 1)]).unwrap();
}
