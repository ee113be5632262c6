//! SCTP, AH and ESP through the daemon, in the scenario `nat`: packets made by hand, for the kernel of a lab need not
//! have such sockets.

mod common;

use common::lab::Lab;
use common::raw::{AH, ESP, Raw, SCTP, first_at};
use common::sctp::{read_sctp, sctp};
use serde_json::json;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::time::Duration;

const UDP: u8 = 17;
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
fn a_datagram_without_checksum_gets_one_on_its_way_to_the_server_only() {
    let lab = Lab::up("no-checksum", "nat", &[]);
    let [vip, client_address, server_address, _] = addresses(FAMILIES[0]);
    lab.request(&json!({ "command": "add-service", "service": {
        "protocol": "udp", "address": vip, "port": 9, "servers": [{ "address": server_address, "port": 9999 }],
    }}));
    // The sockets keep their kernels from answering that nobody is there.
    let bound =
        |node, address, port| lab.enter(node, || UdpSocket::bind(SocketAddr::new(address, port))).unwrap();
    let (_client, server) = (bound("c1", client_address, 4444), bound("s1", server_address, 9999));
    server.set_read_timeout(Some(PATIENCE)).unwrap();
    let [at_client, at_server] = [("c1", client_address), ("s1", server_address)]
        .map(|(node, address)| Raw::new(&lab, node, address, UDP));
    let datagram = |from: u16, to: u16| {
        [&from.to_be_bytes()[..], &to.to_be_bytes(), &13_u16.to_be_bytes(), &[0; 2], b"probe"].concat()
    };
    let checksum = |datagram: &[u8]| [datagram[6], datagram[7]];

    at_client.send(vip, &datagram(4444, 9));
    let (_, _, arrived) = first_at(&[&at_server], |it| it.ends_with(b"probe"));
    assert_ne!(checksum(&arrived), [0, 0]);
    assert_eq!(server.recv(&mut [0; 16]).expect("a datagram with a right checksum"), 5);
    at_server.send(client_address, &datagram(9999, 4444));
    let (_, from, arrived) = first_at(&[&at_client], |it| it.ends_with(b"probe"));
    assert_eq!((from, arrived), (vip, datagram(9, 4444)));
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

            // The long one goes in three pieces.
            let short = b"\x3b\x04\0\0spi.seq.check value..".to_vec();
            let long = [&short[..], &[b'x'; 3000]].concat();
            let count = || packets_in(&lab, vip);
            for (protocol, packet) in
                protocols.iter().flat_map(|protocol| [(protocol, &short), (protocol, &long)])
            {
                let before = count();
                let client = Raw::new(&lab, "c1", client_address, *protocol);
                let server = Raw::new(&lab, ["s1", "s2"][at], chosen, *protocol);
                client.send(vip, packet);
                let (_, from, arrived) = first_at(&[&server], |_| true);
                assert_eq!((from, &arrived), (client_address, packet), "protocol {protocol}");
                assert_eq!(count(), before + 1, "put together on the way");
                server.send(client_address, packet);
                let (_, from, arrived) = first_at(&[&client], |_| true);
                assert_eq!((from, &arrived), (vip, packet), "protocol {protocol}");
            }
        }
        lab.assert_no_checksum_errors();
    }
}

/// The packets that the service of IKE at `vip` has had from clients.
#[track_caller]
fn packets_in(lab: &Lab, vip: IpAddr) -> u64 {
    let services = lab.show("services");
    let mut all = services.as_array().expect("a list").iter();
    let service = all.find(|it| it["address"] == json!(vip) && it["port"] == 500).expect("the service");
    service["stats"]["in_packets"].as_u64().expect("a number")
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
