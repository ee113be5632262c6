//! Which queue a packet is offered to, read from the counters of the queue rules; nobody serves the queues.

mod common;

use std::{
    net::{TcpStream, UdpSocket},
    time::Duration,
};

use common::{
    CLIENT, Row, SERVER, TCP, UDP, VIP, at, both_services, elements, endpoint, packets,
    raw::{AH, ESP, Raw, SCTP},
    routed_services,
    sctp::{read_sctp, sctp},
    steering,
};
use nft_rules::{Marked, SourceId, Tables};

/// Packets offered to each queue by a chain, in the order of its rules.
fn offered(row: &Row, family: &str, chain: &str) -> Vec<u64> {
    let listing = row.director.must(&format!("nft list chain {family} nfvs {chain}"));
    listing.lines().filter(|line| line.contains(" queue ")).map(|line| packets(line, "queue")).collect()
}

#[test]
fn both_directions_of_a_flow_meet_in_one_queue() {
    const QUEUES: u16 = 3;
    const FLOWS: u16 = 24;
    let row = Row::new();
    row.director.run(|| Tables::install(&steering(QUEUES), elements(both_services()))).unwrap();
    for index in 0..VIP.len() {
        let family = ["ip", "ip6"][index];
        let server = row.server.run(|| UdpSocket::bind(at(SERVER[index], 8080))).unwrap();
        for port in 40_000..40_000 + FLOWS {
            let before = (offered(&row, family, "request_datagram"), offered(&row, family, "reply"));
            let client = row.client.run(|| UdpSocket::bind(at(CLIENT[index], port))).unwrap();
            client.send_to(b"?", at(VIP[index], 80)).unwrap();
            server.send_to(b"!", at(CLIENT[index], port)).unwrap();
            client.recv(&mut [0; 8]).unwrap();
            let after = (offered(&row, family, "request_datagram"), offered(&row, family, "reply"));
            let queue = |before: &[u64], after: &[u64]| {
                let risen: Vec<_> = (0..before.len()).filter(|&at| after[at] > before[at]).collect();
                assert_eq!(risen.len(), 1, "{before:?} {after:?}");
                risen[0]
            };
            assert_eq!(queue(&before.0, &after.0), queue(&before.1, &after.1), "{family} {port}");
        }
        let spread = offered(&row, family, "reply");
        assert_eq!(spread.len(), usize::from(QUEUES));
        assert!(spread.iter().all(|&packets| packets > 0), "{spread:?}");
    }
}

#[test]
fn each_kind_of_packet_has_its_class() {
    let row = Row::new();
    row.director.run(|| Tables::install(&steering(1), elements(both_services()))).unwrap();
    let flags = [
        ("SYN", 0x02, true),
        ("SYN ACK", 0x12, true),
        ("ACK", 0x10, false),
        ("RST", 0x04, false),
        ("", 0, false),
    ];
    for (vip, family) in VIP.into_iter().zip(["ip", "ip6"]) {
        for (name, flag, opens) in flags {
            let before =
                (offered(&row, family, "request_open"), offered(&row, family, "request_established"));
            row.client.nft(&format!(
                "table {family} craft {{\n chain out {{\n type filter hook output priority 0\n \
                 {family} daddr {vip} @th,104,8 set {flag:#x}\n }}\n}}\n"
            ));
            // All the client sends has these flags; how the attempt ends is no matter here.
            let attempt = || TcpStream::connect_timeout(&at(vip, 80), Duration::from_millis(300));
            drop(row.client.run(attempt));
            row.client.must(&format!("nft delete table {family} craft"));
            let after = (offered(&row, family, "request_open"), offered(&row, family, "request_established"));
            assert_eq!((after.0 > before.0, after.1 > before.1), (opens, !opens), "{family} {name}");
        }
        assert_eq!(offered(&row, family, "request_datagram"), [0], "{family}");
    }
}

/// Which chain offered a packet more than before to its queue.
fn taken(row: &Row, family: &str, send: impl FnOnce()) -> Vec<&'static str> {
    const CHAINS: [&str; 8] = [
        "request_open",
        "request_established",
        "request_datagram",
        "reply",
        "request_routed_established",
        "reply_routed",
        "request_tunnelled_established",
        "request_tunnelled_datagram",
    ];
    let count = || CHAINS.map(|chain| offered(row, family, chain).iter().sum::<u64>());
    let before = count();
    send();
    let after = count();
    (0..CHAINS.len()).filter(|&at| after[at] > before[at]).map(|at| CHAINS[at]).collect()
}

#[test]
fn an_init_opens_and_every_other_first_chunk_does_not() {
    let row = Row::new();
    let services = (0..VIP.len())
        .map(|index| endpoint(SCTP, VIP[index], Some(80), 1 + index as u16, (SERVER[index], Some(8080))))
        .collect();
    row.director.run(|| Tables::install(&steering(1), elements(services))).unwrap();
    for (index, family) in ["ip", "ip6"].into_iter().enumerate() {
        let client = Raw::new(&row.client, VIP[index], SCTP);
        let server = Raw::new(&row.server, VIP[index], SCTP);
        for chunk in [0, 1, 2, 3, 6, 10, 255] {
            // The client hears of the refusal, or the server has the packet: either way the rules have seen it.
            let request = taken(&row, family, || {
                client.send(VIP[index], &sctp(5000, 80, chunk, &[1, 2, 3, 4]));
                row.client.must(&format!("ping -q -c 1 -W 5 {}", VIP[index]));
            });
            let expected = if chunk == 1 { "request_open" } else { "request_established" };
            assert_eq!(request, [expected], "{family} chunk {chunk}");
            let reply = taken(&row, family, || {
                server.send(CLIENT[index], &sctp(8080, 5000, chunk, &[1, 2, 3, 4]));
                client.receive(|packet| read_sctp(packet).0 == 8080);
            });
            assert_eq!(reply, ["reply"], "{family} chunk {chunk}");
        }
    }
}

#[test]
fn esp_and_ah_are_steered_where_keys_are_exchanged() {
    let row = Row::new();
    let exchange = |port| {
        let endpoints = (0..VIP.len()).map(|index| {
            endpoint(UDP, VIP[index], Some(port), 1 + index as u16, (SERVER[index], Some(port)))
        });
        elements(endpoints.collect())
    };
    let mut tables = row.director.run(|| Tables::install(&steering(1), exchange(500))).unwrap();
    let followers = [("ip", 0, ESP), ("ip", 0, AH), ("ip6", 1, ESP)];
    let bytes = b"\x3b\x04\0\0spi.seq.check value..";
    let sent = |protocol, index: usize| {
        let client = Raw::new(&row.client, VIP[index], protocol);
        let server = Raw::new(&row.server, VIP[index], protocol);
        let family = ["ip", "ip6"][index];
        let request = taken(&row, family, || {
            client.send(VIP[index], bytes);
            row.client.must(&format!("ping -q -c 1 -W 5 {}", VIP[index]));
        });
        let reply = taken(&row, family, || {
            server.send(CLIENT[index], bytes);
            client.receive(|packet| packet == bytes);
        });
        (request, reply)
    };
    for (family, index, protocol) in followers {
        let expected = (vec!["request_established"], vec!["reply"]);
        assert_eq!(sent(protocol, index), expected, "{family} {protocol}");
    }
    row.director.run(|| tables.update(exchange(53))).unwrap();
    for (family, index, protocol) in followers {
        assert_eq!(sent(protocol, index), (vec![], vec![]), "{family} {protocol}");
    }
}

/// The daemon writes none of these back. The servers have the VIP and answer in its name.
#[test]
fn packets_of_direct_routing_have_classes_of_their_own_and_meet_in_one_queue() {
    const QUEUES: u16 = 3;
    const FLOWS: u16 = 12;
    let row = Row::new();
    let held = elements([both_services(), routed_services()].concat());
    row.director.run(|| Tables::install(&steering(QUEUES), held)).unwrap();
    for (index, (prefix, family)) in
        ["32 dev lo", "128 dev lo nodad"].into_iter().zip(["ip", "ip6"]).enumerate()
    {
        row.server.ip(&format!("address add {}/{prefix}", VIP[index]));
        let server = row.server.run(|| UdpSocket::bind(at(VIP[index], 443))).unwrap();
        for port in 40_000..40_000 + FLOWS {
            let offered = |chain: &str| offered(&row, family, chain);
            let before = (offered("request_routed_datagram"), offered("reply_routed"));
            let client = row.client.run(|| UdpSocket::bind(at(CLIENT[index], port))).unwrap();
            client.send_to(b"?", at(VIP[index], 443)).unwrap();
            server.send_to(b"!", at(CLIENT[index], port)).unwrap();
            // Nobody serves the queues: a question is refused, the answer passes.
            client.recv(&mut [0; 8]).unwrap();
            let after = (offered("request_routed_datagram"), offered("reply_routed"));
            let risen = |before: &[u64], after: &[u64]| -> Vec<usize> {
                (0..before.len()).filter(|&queue| after[queue] > before[queue]).collect()
            };
            let queues = risen(&before.0, &after.0);
            assert_eq!(queues.len(), 1, "{family} {port}");
            assert_eq!(queues, risen(&before.1, &after.1), "{family} {port}");
        }
        assert_eq!(offered(&row, family, "request_datagram"), [0, 0, 0], "{family}");

        // Opening a connection is a class of its own, whoever rewrites; an acknowledgement is not.
        row.client.nft(&format!(
            "table {family} craft {{\n chain out {{\n type filter hook output priority 0\n \
             {family} daddr {} @th,104,8 set 0x10\n }}\n}}\n",
            VIP[index]
        ));
        let attempt = || TcpStream::connect_timeout(&at(VIP[index], 443), Duration::from_millis(300));
        drop(row.client.run(attempt));
        assert!(offered(&row, family, "request_routed_established").iter().sum::<u64>() > 0, "{family}");
        assert_eq!(offered(&row, family, "request_open"), [0, 0, 0], "{family}");
        row.client.must(&format!("nft delete table {family} craft"));
        drop(row.client.run(attempt));
        assert!(offered(&row, family, "request_open").iter().sum::<u64>() > 0, "{family}");
        assert_eq!(offered(&row, family, "request_established"), [0, 0, 0], "{family}");
    }
}

/// A TCP header with these flags; nothing here looks at its checksum.
fn tcp(source: u16, destination: u16, flags: u8) -> Vec<u8> {
    let ports = [source.to_be_bytes(), destination.to_be_bytes()].concat();
    [&ports[..], &[0; 8], &[0x50, flags], &[0; 6]].concat()
}

/// Whether a packet is sent through the tunnel or rewritten for another server, the rules cannot know.
#[test]
fn packets_that_may_go_through_a_tunnel_have_classes_of_their_own() {
    const MARK: u16 = 5;
    let row = Row::new();
    let tunnelled = |index: usize, protocol: u8| {
        let source = 1 + u16::from(protocol);
        let mut endpoint = endpoint(protocol, VIP[index], Some(80), source, (SERVER[index], Some(8080)));
        // One of the other family.
        endpoint.tunnels.push(SERVER[1 - index].parse().unwrap());
        endpoint
    };
    let endpoints = [0, 1].into_iter().flat_map(|index| [TCP, UDP, SCTP].map(|of| tunnelled(index, of)));
    let marked = [false, true].map(|ipv6| Marked {
        mark: MARK,
        ipv6,
        servers: vec![],
        tunnels: vec![SERVER[0].parse().unwrap()],
        accepts: true,
    });
    let held = elements(endpoints.collect()).with_marked(marked);
    row.director.run(|| Tables::install(&steering(1), held)).unwrap();
    for (index, family) in ["ip", "ip6"].into_iter().enumerate() {
        row.director.nft(&format!(
            "table {family} operator {{\n chain marks {{\n type filter hook prerouting priority -310\n \
             {family} daddr {} @th,16,16 81 meta mark set {MARK}\n }}\n}}\n",
            VIP[index]
        ));
        for (protocol, packet, class) in [
            (TCP, tcp as fn(u16, u16, u8) -> Vec<u8>, ["request_open", "request_tunnelled_established"]),
            (UDP, udp, ["request_tunnelled_datagram"; 2]),
            (
                SCTP,
                |from, to, chunk| sctp(from, to, chunk, &[1, 2, 3, 4]),
                ["request_open", "request_tunnelled_established"],
            ),
        ] {
            let client = Raw::new(&row.client, VIP[index], protocol);
            // By address, and by mark.
            for port in [80, 81] {
                let opens = if protocol == TCP { 0x02 } else { 1 };
                for (kind, class) in [opens, 0x10].into_iter().zip(class) {
                    let request = taken(&row, family, || {
                        client.send(VIP[index], &packet(5000, port, kind));
                        row.client.must(&format!("ping -q -c 1 -W 5 {}", VIP[index]));
                    });
                    assert_eq!(request, [class], "{family} {protocol} {port} {kind:#x}");
                }
            }
        }
    }
}

/// A datagram without content, and without checksum (over IPv6, nothing here looks at it either).
fn udp(source: u16, destination: u16, _: u8) -> Vec<u8> {
    [source.to_be_bytes(), destination.to_be_bytes(), 8u16.to_be_bytes(), [0; 2]].concat()
}

#[test]
fn data_connections_of_ftp_have_the_class_of_their_service() {
    const SYN: u8 = 0x02;
    const ACK: u8 = 0x10;
    let row = Row::new();
    let ftp = |index: usize, translated: bool, routed: bool| {
        let mut endpoint = endpoint(TCP, VIP[index], Some(21), 1, (SERVER[index], None));
        endpoint.ftp_data = true;
        if routed {
            let (address, _) = endpoint.servers[0];
            endpoint.routes.push((address, SourceId::new(2).unwrap()));
        }
        if !translated {
            endpoint.servers.clear();
        }
        endpoint
    };
    let held =
        |translated, routed| elements((0..VIP.len()).map(|index| ftp(index, translated, routed)).collect());
    let mut tables = row.director.run(|| Tables::install(&steering(1), held(true, false))).unwrap();
    for prefix in [format!("{}/32 dev lo", VIP[0]), format!("{}/128 dev lo nodad", VIP[1])] {
        row.server.ip(&format!("address add {prefix}"));
    }
    for (translated, routed, established, replies) in [
        (true, false, "request_established", &[][..]),
        (true, true, "request_established", &["reply_routed"]),
        (false, true, "request_routed_established", &["reply_routed"]),
    ] {
        row.director.run(|| tables.update(held(translated, routed))).unwrap();
        for (index, family) in ["ip", "ip6"].into_iter().enumerate() {
            let client = Raw::new(&row.client, VIP[index], TCP);
            let server = Raw::bound(&row.server, VIP[index].parse().unwrap(), TCP);
            for port in [20, 1024, 40_000] {
                for (flags, class) in [(SYN, "request_open"), (ACK, established)] {
                    let request = taken(&row, family, || {
                        client.send(VIP[index], &tcp(5000, port, flags));
                        row.client.must(&format!("ping -q -c 1 -W 5 {}", VIP[index]));
                    });
                    assert_eq!(request, [class], "{family} {port} {flags:#x}");
                }
                let reply = taken(&row, family, || {
                    server.send(CLIENT[index], &tcp(port, 5000, ACK));
                    row.server.must(&format!("ping -q -c 1 -W 5 {}", CLIENT[index]));
                });
                assert_eq!(reply, replies, "{family} {port}: a server that has the VIP");
            }
            let below = taken(&row, family, || {
                client.send(VIP[index], &tcp(5000, 1023, SYN));
                row.client.must(&format!("ping -q -c 1 -W 5 {}", VIP[index]));
            });
            assert_eq!(below, [""; 0], "{family}: no port for data");
        }
    }
}
