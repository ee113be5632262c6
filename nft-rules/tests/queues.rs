//! Which queue a packet is offered to, read from the counters of the queue rules; nobody serves the queues.

mod common;

use std::{
    net::{TcpStream, UdpSocket},
    time::Duration,
};

use common::{CLIENT, Row, SERVER, VIP, at, both_services, elements, packets, routed_services, steering};
use nft_rules::Tables;

/// Packets offered to each queue by a chain, in the order of its rules.
fn offered(row: &Row, family: &str, chain: &str) -> Vec<u64> {
    let listing = row.director.must(&format!("nft list chain {family} nfvs {chain}"));
    listing.lines().filter(|line| line.contains("queue num")).map(|line| packets(line, "queue")).collect()
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

/// The daemon writes none of these back. The servers have the VIP and answer in its name.
#[test]
fn packets_of_direct_routing_have_classes_of_their_own_and_meet_in_one_queue() {
    const QUEUES: u16 = 3;
    const FLOWS: u16 = 12;
    let row = Row::new();
    let held = elements([both_services(), routed_services()].concat());
    row.director.run(|| Tables::install(&steering(QUEUES), held)).unwrap();
    for (index, (prefix, family)) in ["32", "128"].into_iter().zip(["ip", "ip6"]).enumerate() {
        row.server.ip(&format!("address add {}/{prefix} dev lo", VIP[index]));
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
