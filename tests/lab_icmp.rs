//! ICMP through the daemon where no connection is known: errors that are scheduled, and servers that are told.

mod common;

use common::lab::{Lab, wait_for};
use common::raw::{Raw, WHOLE_PACKETS, first_at};
use etherparse::PacketBuilder;
use serde_json::json;
use std::io::ErrorKind;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::time::Duration;

const ICMP: u8 = 1;
const ICMPV6: u8 = 58;

/// Virtual address, client, the three servers.
const FAMILIES: [[&str; 5]; 2] = [
    ["10.0.0.100", "10.0.1.2", "10.0.2.11", "10.0.3.12", "10.0.4.13"],
    ["fd00::100", "fd00:1::2", "fd00:2::11", "fd00:3::12", "fd00:4::13"],
];

/// The client's complaint that a segment from port 80 of the virtual address was too large for its path, with so much of
/// what was in it.
fn too_large(client: IpAddr, vip: IpAddr, length: usize) -> Vec<u8> {
    let payload = vec![b'x'; length];
    let mut about = Vec::new();
    let mut complaint = Vec::new();
    match (client, vip) {
        (IpAddr::V4(client), IpAddr::V4(vip)) => {
            let segment = PacketBuilder::ipv4(vip.octets(), client.octets(), 60).tcp(80, 4711, 1, 1000);
            segment.write(&mut about, &payload).expect("a Vec takes everything");
            let error = PacketBuilder::ipv4(client.octets(), vip.octets(), 64);
            error
                .icmpv4_raw(3, 4, [0, 0, 4, 176])
                .write(&mut complaint, &about)
                .expect("a Vec takes everything");
        }
        (IpAddr::V6(client), IpAddr::V6(vip)) => {
            let segment = PacketBuilder::ipv6(vip.octets(), client.octets(), 60).tcp(80, 4711, 1, 1000);
            segment.write(&mut about, &payload).expect("a Vec takes everything");
            let error = PacketBuilder::ipv6(client.octets(), vip.octets(), 64);
            error
                .icmpv6_raw(2, 0, [0, 0, 5, 20])
                .write(&mut complaint, &about)
                .expect("a Vec takes everything");
        }
        _ => panic!("addresses of two families"),
    }
    complaint
}

/// Where the packet came from that an ICMP error is about.
fn embedded_source(error: &[u8], is_ipv6: bool) -> Option<SocketAddr> {
    let about = error.get(8..)?;
    let (address, port) = if is_ipv6 {
        let address: [u8; 16] = about.get(8..24)?.try_into().ok()?;
        (IpAddr::from(address), about.get(40..42)?)
    } else {
        let address: [u8; 4] = about.get(12..16)?.try_into().ok()?;
        (IpAddr::from(address), about.get(20..22)?)
    };
    Some(SocketAddr::new(address, u16::from_be_bytes([port[0], port[1]])))
}

#[test]
fn an_error_about_a_reply_that_another_director_has_passed_on_reaches_a_server() {
    for vip_place in ["none", "local"] {
        let lab = Lab::up("schedule-icmp", "nat", &["--vip", vip_place]);
        lab.request(&json!({ "command": "set-tunables", "tunables": { "schedule_icmp": 1 } }));
        for family in FAMILIES {
            let [vip, client, servers @ ..] =
                family.map(|address| address.parse::<IpAddr>().expect("an address"));
            let protocol = if vip.is_ipv6() { ICMPV6 } else { ICMP };
            let nodes = ["s1", "s2", "s3"];
            let at = [0, 1, 2].map(|index| Raw::new(&lab, nodes[index], servers[index], protocol));
            let complaint = too_large(client, vip, 0);
            Raw::new(&lab, "c1", client, WHOLE_PACKETS).send(vip, &complaint);
            let is_it = |error: &[u8]| {
                let source = embedded_source(error, vip.is_ipv6());
                source.is_some_and(|source| servers.contains(&source.ip()) && source.port() == 8080)
            };
            let (index, from, error) = first_at(&at.each_ref(), is_it);
            let source = embedded_source(&error, vip.is_ipv6()).expect("an error");
            assert_eq!((from, source.ip()), (client, servers[index]));

            let shown = lab.show("connections");
            let virtual_address = SocketAddr::new(vip, 80).to_string();
            let ours = |entry: &&serde_json::Value| entry["virtual"] == virtual_address;
            let made: Vec<_> = shown.as_array().expect("a list").iter().filter(ours).collect();
            let [made] = made[..] else { panic!("{shown}") };
            assert_eq!((&made["state"], &made["server"]), (&json!("NONE"), &json!(source.to_string())));

            // As long an error as comes in two pieces is put together, and goes to the same server.
            let (header, length) = if vip.is_ipv6() { (40, 2000) } else { (20, 2000) };
            let complaint = too_large(client, vip, length);
            Raw::new(&lab, "c1", client, protocol).send(vip, &complaint[header..]);
            let is_long = |error: &[u8]| is_it(error) && error.len() == complaint.len() - header;
            assert_eq!(first_at(&at.each_ref(), is_long).0, index);
        }
        lab.assert_no_checksum_errors();
    }
}

#[test]
fn a_server_whose_packet_belongs_to_no_connection_gets_port_unreachable() {
    let lab = Lab::up("nat-icmp-send", "nat", &[]);
    for [vip, client, server, ..] in FAMILIES {
        let servers = json!([{ "address": server, "port": 9999 }]);
        lab.request(&json!({ "command": "add-service", "service": {
            "protocol": "udp", "address": vip, "port": 9, "servers": servers,
        }}));
        let bind = |node: &str, address: &str, port: u16| {
            let address = SocketAddr::new(address.parse().expect("an address"), port);
            lab.enter(node, || UdpSocket::bind(address).expect("a socket"))
        };
        let (at_client, at_server) = (bind("c1", client, 4444), bind("s1", server, 9999));
        at_server.connect(at_client.local_addr().expect("an address")).expect("a way");
        at_client.set_read_timeout(Some(Duration::from_secs(15))).expect("a time");
        at_server.set_nonblocking(true).expect("a socket that does not wait");
        at_server.send(b"direct").expect("a datagram that leaves");
        let mut bytes = [0; 16];
        assert_eq!(at_client.recv(&mut bytes).expect("the datagram"), 6);

        lab.request(&json!({ "command": "set-tunables", "tunables": { "nat_icmp_send": 1 } }));
        // Sending says it, too, when the answer is there before the next datagram.
        let is_refused = |error: &std::io::Error| error.kind() == ErrorKind::ConnectionRefused;
        wait_for("port unreachable", || {
            let sent = at_server.send(b"stray");
            sent.is_err_and(|error| is_refused(&error))
                || at_server.recv(&mut bytes).is_err_and(|error| is_refused(&error))
        });
        at_client.set_nonblocking(true).expect("a socket that does not wait");
        assert!(at_client.recv(&mut bytes).is_err(), "nothing more has come to the client");
        lab.request(&json!({ "command": "set-tunables", "tunables": { "nat_icmp_send": 0 } }));
    }
}

#[test]
fn an_error_to_a_client_of_direct_routing_passes_and_is_not_counted() {
    let lab = Lab::up("routed-error", "nat", &[]);
    let [vip, client, router, ..] = FAMILIES[0];
    lab.request(&json!({ "command": "add-service", "service": {
        "protocol": "udp", "address": vip, "port": 9, "servers": [{ "address": "10.0.3.12", "forward": "dr" }],
    }}));
    let [client, vip, router] =
        [client, vip, router].map(|address| address.parse::<IpAddr>().expect("an address"));
    let socket = lab.enter("c1", || UdpSocket::bind(SocketAddr::new(client, 4444)).expect("a socket"));
    socket.send_to(b"request", SocketAddr::new(vip, 9)).expect("a datagram that leaves");
    let service = || {
        let services = lab.show("services");
        services.as_array().expect("a list").iter().find(|it| it["port"] == 9).expect("the service").clone()
    };
    wait_for("the request", || service()["stats"]["in_packets"] == 1);

    // Whoever is on the way to the server says that it cannot be reached, in whose name the client sent it.
    let (IpAddr::V4(from), IpAddr::V4(to), IpAddr::V4(at)) = (client, vip, router) else { panic!("of IPv6") };
    let (mut about, mut error) = (Vec::new(), Vec::new());
    let request = PacketBuilder::ipv4(from.octets(), to.octets(), 60).udp(4444, 9);
    request.write(&mut about, b"request").expect("a Vec takes everything");
    let unreachable = PacketBuilder::ipv4(at.octets(), from.octets(), 64).icmpv4_raw(3, 1, [0; 4]);
    unreachable.write(&mut error, &about).expect("a Vec takes everything");
    let at_client = Raw::new(&lab, "c1", client, ICMP);
    Raw::new(&lab, "s1", router, WHOLE_PACKETS).send(client, &error);
    let (_, from, arrived) = first_at(&[&at_client], |error| error.first() == Some(&3));
    assert_eq!((from, &arrived[8..]), (router, &about[..]), "as it was sent");
    assert_eq!(
        (&service()["stats"]["in_packets"], &service()["stats"]["out_packets"]),
        (&json!(1), &json!(0))
    );
}
