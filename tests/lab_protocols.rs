//! SCTP, AH and ESP through the daemon, in the scenario `nat`: packets made by hand, for the kernel of a lab need not
//! have such sockets.

mod common;

use common::lab::Lab;
use common::raw::{AH, ESP, Raw, SCTP, first_at};
use common::sctp::{read_sctp, sctp};
use serde_json::json;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::time::Duration;

const PATIENCE: Duration = Duration::from_secs(15);

const INIT: u8 = 1;
const INIT_ACK: u8 = 2;
const ABORT: u8 = 6;
const COOKIE_ECHO: u8 = 10;
const COOKIE_ACK: u8 = 11;

/// Virtual address, client, two servers.
const FAMILIES: [[&str; 4]; 2] = [
    ["10.0.0.100", "10.0.1.2", "10.0.2.11", "10.0.3.12"],
    ["fd00::100", "fd00:1::2", "fd00:2::11", "fd00:3::12"],
];

fn addresses(family: [&str; 4]) -> [IpAddr; 4] {
    family.map(|address| address.parse().unwrap())
}

/// Adds a service for each family, with the first two servers on `server_port`.
fn add_services(lab: &Lab, protocol: &str, port: u16, server_port: u16) {
    for [vip, _, servers @ ..] in FAMILIES {
        let servers = servers.map(|address| json!({ "address": address, "port": server_port }));
        lab.request(&json!({ "command": "add-service", "service": {
            "protocol": protocol, "address": vip, "port": port, "scheduler": "rr", "servers": servers,
        }}));
    }
}

const PORT: u16 = 36_412;

#[test]
fn associations_are_balanced_and_every_packet_arrives_with_a_right_crc() {
    for vip_place in ["none", "local"] {
        let lab = Lab::up("sctp", "nat", &["--vip", vip_place]);
        for (server_port, cookie) in [(3868, vec![0x5a; 301]), (PORT, vec![0; 1000])] {
            add_services(&lab, "sctp", PORT, server_port);
            for (family, director) in FAMILIES.into_iter().zip(["10.0.1.1", "fd00:1::1"]) {
                let [vip, client, servers @ ..] = addresses(family);
                for (node, address) in [("c1", client), ("director", director.parse().unwrap())] {
                    associate(&lab, vip, (node, address), servers, server_port, &cookie);
                }
                lab.request(&json!({ "command": "delete-service", "service": {
                    "protocol": "sctp", "address": vip, "port": PORT,
                }}));
            }
        }
    }
}

/// Begins and aborts four associations from one port of the client, one after the other.
fn associate(
    lab: &Lab,
    vip: IpAddr,
    (node, client_address): (&str, IpAddr),
    servers: [IpAddr; 2],
    server_port: u16,
    cookie: &[u8],
) {
    let client = Raw::new(lab, node, client_address, SCTP);
    let [one, other] = servers;
    let servers = [("s1", one), ("s2", other)].map(|(node, address)| Raw::new(lab, node, address, SCTP));
    let both = [&servers[0], &servers[1]];
    let to_server = |packet: &[u8]| read_sctp(packet).1 == server_port;
    let to_client = |packet: &[u8]| read_sctp(packet).1 == 5000;
    let mut chosen = Vec::new();
    for _ in 0..4 {
        client.send(vip, &sctp(5000, PORT, INIT, &[1; 16]));
        let (server, from, packet) = first_at(&both, to_server);
        assert_eq!((from, read_sctp(&packet)), (client_address, (5000, server_port, true)));
        for (chunk, answer) in [(INIT, INIT_ACK), (COOKIE_ECHO, COOKIE_ACK)] {
            if chunk != INIT {
                client.send(vip, &sctp(5000, PORT, chunk, cookie));
                let (same, _, packet) = first_at(&both, to_server);
                assert_eq!((same, read_sctp(&packet).2), (server, true), "chunk {chunk}");
            }
            servers[server].send(client_address, &sctp(server_port, 5000, answer, &[2; 7]));
            let (_, from, packet) = first_at(&[&client], to_client);
            assert_eq!((from, read_sctp(&packet)), (vip, (PORT, 5000, true)), "chunk {answer}");
        }
        assert_eq!(state(lab, client_address, vip), "ESTABLISHED");
        client.send(vip, &sctp(5000, PORT, ABORT, &[]));
        assert_eq!(first_at(&both, to_server).0, server);
        assert_eq!(state(lab, client_address, vip), "CLOSED");
        chosen.push(server);
    }
    let [first, second] = [chosen[0], 1 - chosen[0]];
    assert_eq!(chosen, [first, second, first, second], "an INIT that re-uses the port is scheduled");
}

/// The state of the one SCTP connection of `client` to `vip`.
#[track_caller]
fn state(lab: &Lab, client: IpAddr, vip: IpAddr) -> String {
    let connections = lab.show("connections");
    let ends =
        (json!(SocketAddr::new(client, 5000).to_string()), json!(SocketAddr::new(vip, PORT).to_string()));
    let all = connections.as_array().unwrap().iter();
    let found: Vec<_> = all
        .filter(|it| (&it["client"], &it["virtual"]) == (&ends.0, &ends.1) && it["protocol"] == "sctp")
        .collect();
    assert_eq!(found.len(), 1, "{connections}");
    found[0]["state"].as_str().unwrap().to_owned()
}

#[test]
fn what_ike_protects_follows_it() {
    for vip_place in ["none", "local"] {
        let lab = Lab::up("ipsec", "nat", &["--vip", vip_place]);
        add_services(&lab, "udp", 500, 500);
        for (family, protocols) in FAMILIES.into_iter().zip([&[ESP, AH][..], &[ESP]]) {
            let [vip, client_address, servers @ ..] = addresses(family);
            let bound = |node, address| {
                let socket = lab.enter(node, || UdpSocket::bind(SocketAddr::new(address, 500))).unwrap();
                socket.set_read_timeout(Some(PATIENCE)).unwrap();
                socket
            };
            let keys = bound("c1", client_address);
            let server_keys =
                [("s1", servers[0]), ("s2", servers[1])].map(|(node, address)| bound(node, address));
            keys.send_to(b"keys", SocketAddr::new(vip, 500)).unwrap();
            // Whoever has the exchange answers; the answer says which.
            let chosen = chosen_server(&lab, vip);
            let at = servers.iter().position(|server| *server == chosen).unwrap();
            let mut bytes = [0; 16];
            let (_, from) = server_keys[at].recv_from(&mut bytes).unwrap();
            server_keys[at].send_to(b"mine", from).unwrap();
            assert_eq!(keys.recv_from(&mut bytes).unwrap().1, SocketAddr::new(vip, 500));

            for protocol in protocols {
                let packet = b"\x3b\x04\0\0spi.seq.check value..";
                let client = Raw::new(&lab, "c1", client_address, *protocol);
                let server = Raw::new(&lab, ["s1", "s2"][at], chosen, *protocol);
                client.send(vip, packet);
                let (_, from, arrived) = first_at(&[&server], |_| true);
                assert_eq!((from, &arrived[..]), (client_address, &packet[..]), "protocol {protocol}");
                server.send(client_address, packet);
                let (_, from, arrived) = first_at(&[&client], |_| true);
                assert_eq!((from, &arrived[..]), (vip, &packet[..]), "protocol {protocol}");
            }
        }
        lab.assert_no_checksum_errors();
    }
}

/// The server that has IKE through `vip`.
#[track_caller]
fn chosen_server(lab: &Lab, vip: IpAddr) -> IpAddr {
    let mut server = None;
    common::lab::wait_for("IKE", || {
        let virtual_address = SocketAddr::new(vip, 500).to_string();
        let connections = lab.show("connections");
        server = connections
            .as_array()
            .unwrap()
            .iter()
            .find(|connection| connection["virtual"] == virtual_address)
            .map(|connection| connection["server"].as_str().unwrap().parse::<SocketAddr>().unwrap().ip());
        server.is_some()
    });
    server.unwrap()
}
