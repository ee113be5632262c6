//! The late rewriting of a reply's source: the mark that a verdict carries becomes the virtual address and port
//! on the way out (POSTROUTING) or in (INPUT), with right checksums, whoever has to compute them.
//!
//! A table before ours plays the daemon: it rewrites requests without state and marks replies.

mod common;

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpListener, TcpStream, UdpSocket},
    os::fd::AsRawFd,
    thread,
    time::Duration,
};

use common::{
    CLIENT, DIRECTOR, Node, Row, SERVER, TCP, UDP, VIP, at, elements, endpoint, packets,
    raw::{Raw, SCTP},
    sctp::{read_sctp, sctp},
    steering,
};
use nft_rules::{Elements, Tables};

const PATIENCE: Duration = Duration::from_secs(10);
/// The half of the mark that is the operator's, and must come out as it went in.
const OPERATORS: u16 = 0x42;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum End {
    /// On a node of its own.
    Remote,
    /// On the director.
    Director,
}

/// Where client and server are, and whether the VIP is configured on the director.
struct Scenario {
    client: End,
    server: End,
    vip_local: bool,
}

impl Scenario {
    fn all() -> impl Iterator<Item = Scenario> {
        [End::Remote, End::Director].into_iter().flat_map(|client| {
            [End::Remote, End::Director]
                .into_iter()
                .flat_map(move |server| [false, true].map(|vip_local| Scenario { client, server, vip_local }))
        })
    }

    fn addresses(&self) -> [&'static str; 2] {
        match self.server {
            End::Remote => SERVER,
            End::Director => ["10.0.2.1", "fd00:2::1"],
        }
    }
}

/// The services: source ids 1 to 3 are TCP, UDP and SCTP of IPv4, 4 to 6 of IPv6.
fn services(servers: [&str; 2], port: Option<u16>, server_port: Option<u16>) -> Elements {
    let mut endpoints = Vec::new();
    for (family, (vip, server)) in VIP.into_iter().zip(servers).enumerate() {
        for (kind, protocol) in [TCP, UDP, SCTP].into_iter().enumerate() {
            let source = 1 + 3 * family as u16 + kind as u16;
            endpoints.push(endpoint(protocol, vip, port, source, (server, server_port)));
        }
    }
    elements(endpoints)
}

/// The daemon's part as rules right before ours, and a firewall and counters behind them.
fn play_daemon(director: &Node, servers: [&str; 2], server_port: u16) {
    let mut text = String::new();
    for (index, family) in ["ip", "ip6"].into_iter().enumerate() {
        let (vip, server) = (VIP[index], servers[index]);
        let errors = ["icmp type destination-unreachable", "icmpv6 type destination-unreachable"][index];
        let mut rules = String::new();
        for (kind, protocol) in ["tcp", "udp", "sctp"].into_iter().enumerate() {
            let mark = ((1 + 3 * index + kind) as u32) << 16 | u32::from(OPERATORS);
            rules += &format!(
                "{family} daddr {vip} {protocol} dport 80 notrack {protocol} dport set {server_port} \
                 {family} daddr set {server}\n\
                 {family} saddr {server} {protocol} sport {server_port} meta mark set {mark:#x}\n"
            );
        }
        let udp_mark = ((2 + 3 * index) as u32) << 16 | u32::from(OPERATORS);
        rules += &format!("{family} saddr {server} {errors} meta mark set {udp_mark:#x}\n");
        text += &format!(
            "table {family} daemon {{\n\
             chain pre {{\n type filter hook prerouting priority -301\n iif \"lo\" accept\n {rules} }}\n\
             chain out {{\n type route hook output priority -301\n {rules} }}\n\
             }}\n\
             table {family} behind {{\n\
             chain forward {{\n type filter hook forward priority 0; policy drop;\n ct state untracked accept\n }}\n\
             chain input {{\n type filter hook input priority 0\n {family} saddr {vip} meta mark {OPERATORS:#x} counter\n }}\n\
             chain post {{\n type filter hook postrouting priority 0\n \
             {family} saddr {vip} meta mark {OPERATORS:#x} counter\n \
             {family} saddr {server} {{tcp,udp}} sport {server_port} counter\n }}\n\
             }}\n"
        )
        .replace(&format!("{{tcp,udp}} sport {server_port}"), &format!("th sport {server_port}"));
    }
    director.nft(&text);
}

/// A lab with everything in place.
fn lab(scenario: &Scenario, port: Option<u16>, server_port: u16) -> Row {
    let row = Row::new();
    if scenario.vip_local {
        row.make_vips_local();
    }
    let elements = services(scenario.addresses(), port, port.map(|_| server_port));
    row.director.run(|| Tables::install(&steering(2), elements)).unwrap();
    play_daemon(&row.director, scenario.addresses(), server_port);
    row
}

impl Row {
    fn client_of(&self, scenario: &Scenario) -> &Node {
        match scenario.client {
            End::Remote => &self.client,
            End::Director => &self.director,
        }
    }

    fn server_of(&self, scenario: &Scenario) -> &Node {
        match scenario.server {
            End::Remote => &self.server,
            End::Director => &self.director,
        }
    }

    /// Who computes checksums: the devices of veth never do, so that a packet from a sender with offload arrives
    /// with its checksum still owed, and a director without offload has to complete it.
    fn offload(&self, server: bool, director: bool) {
        let word = |on| if on { "on" } else { "off" };
        self.server.must(&format!("ethtool -K sd tx {}", word(server)));
        for device in ["dc", "ds"] {
            self.director.must(&format!("ethtool -K {device} tx {}", word(director)));
        }
    }

    fn no_checksum_errors(&self) {
        for node in [&self.client, &self.director, &self.server] {
            let counters = node.must("cat /proc/net/snmp6");
            for line in counters.lines().filter(|line| line.contains("InCsumErrors")) {
                assert!(line.ends_with("\t0") || line.ends_with(" 0"), "{line}");
            }
            let counters = node.must(
                "nstat -asz IpInCsumErrors IpInHdrErrors TcpInCsumErrors UdpInCsumErrors IcmpInCsumErrors",
            );
            for line in counters.lines().filter(|line| line.contains("Errors")) {
                assert_eq!(line.split_whitespace().nth(1), Some("0"), "{line}");
            }
        }
    }
}

/// `len` bytes each way over TCP through the VIP; both ends see what the other sent.
fn tcp_exchange(client: &Node, server: &Node, vip: &str, server_at: SocketAddr, len: usize) {
    let sent: Vec<u8> = (0..len).map(|n| (n % 251) as u8).collect();
    let listener = server.run(|| TcpListener::bind(server_at)).unwrap();
    // The kernel completes the handshake before anybody accepts: nothing below waits for a failed connect(2).
    let connected = client.run(|| TcpStream::connect_timeout(&at(vip, 80), PATIENCE));
    let mut stream = connected.unwrap_or_else(|error| panic!("{vip}: {error}"));
    assert_eq!(stream.peer_addr().unwrap(), at(vip, 80));
    thread::scope(|scope| {
        let served = scope.spawn(|| {
            let (mut stream, _) = listener.accept().unwrap();
            stream.set_read_timeout(Some(PATIENCE)).unwrap();
            let mut got = vec![0; len];
            stream.read_exact(&mut got).unwrap();
            stream.write_all(&got).unwrap();
        });
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let mut got = vec![0; len];
        stream.write_all(&sent).unwrap();
        stream.read_exact(&mut got).unwrap();
        assert!(got == sent);
        served.join().unwrap();
    });
}

/// A datagram to the VIP and one back. A connected socket takes the answer from nowhere but the VIP.
fn udp_exchange(client: &Node, server: &Node, vip: &str, server_at: SocketAddr, summed: bool) {
    let answering = server.run(|| UdpSocket::bind(server_at)).unwrap();
    let asking =
        client.run(|| UdpSocket::bind(if vip.contains(':') { "[::]:0" } else { "0.0.0.0:0" })).unwrap();
    if !summed {
        send_without_checksum(&answering);
        accept_without_checksum(&asking);
    }
    for socket in [&answering, &asking] {
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
    }
    client.run(|| asking.connect(at(vip, 80))).unwrap();
    asking.send(b"question").unwrap();
    let mut bytes = [0; 32];
    let (len, from) = answering.recv_from(&mut bytes).unwrap();
    assert_eq!(&bytes[..len], b"question");
    answering.send_to(b"an answer", from).unwrap();
    let len = asking.recv(&mut bytes).unwrap_or_else(|error| panic!("{vip}: {error}"));
    assert_eq!(&bytes[..len], b"an answer");
}

/// An SCTP packet to the VIP and one back, each with a right CRC when it arrives.
fn sctp_exchange(client: &Node, server: &Node, vip: &str, server_at: SocketAddr) {
    let client = Raw::new(client, vip, SCTP);
    let server = Raw::bound(server, server_at.ip(), SCTP);
    let server_port = server_at.port();
    client.send(vip, &sctp(5000, 80, 1, &[1, 2, 3, 4]));
    let (from, request) = server.receive(|packet| read_sctp(packet).1 == server_port);
    assert_eq!(read_sctp(&request), (5000, server_port, true), "{vip}");
    server.send(&from.to_string(), &sctp(server_port, 5000, 2, &[1, 2, 3, 4]));
    let (from, reply) = client.receive(|packet| read_sctp(packet).1 == 5000);
    assert_eq!(from.to_string(), vip);
    assert_eq!(read_sctp(&reply), (80, 5000, true), "{vip}");
}

fn send_without_checksum(socket: &UdpSocket) {
    const UDP_NO_CHECK6_TX: i32 = 101;
    set(socket, libc::SOL_SOCKET, libc::SO_NO_CHECK);
    if socket.local_addr().unwrap().is_ipv6() {
        set(socket, libc::IPPROTO_UDP, UDP_NO_CHECK6_TX);
    }
}

fn accept_without_checksum(socket: &UdpSocket) {
    const UDP_NO_CHECK6_RX: i32 = 102;
    if socket.local_addr().unwrap().is_ipv6() {
        set(socket, libc::IPPROTO_UDP, UDP_NO_CHECK6_RX);
    }
}

fn set(socket: &UdpSocket, level: i32, option: i32) {
    let on: libc::c_int = 1;
    let len = size_of_val(&on) as libc::socklen_t;
    // SAFETY: the options take an int, which lives through the call.
    let result = unsafe { libc::setsockopt(socket.as_raw_fd(), level, option, (&raw const on).cast(), len) };
    assert_eq!(result, 0, "{}", std::io::Error::last_os_error());
}

#[test]
fn every_place_of_client_and_server_and_vip() {
    for scenario in Scenario::all() {
        let what = format!(
            "client {:?}, server {:?}, VIP local: {}",
            scenario.client, scenario.server, scenario.vip_local
        );
        println!("{what}");
        let row = lab(&scenario, Some(80), 8080);
        let (client, server) = (row.client_of(&scenario), row.server_of(&scenario));
        for (offload_server, offload_director) in [(true, true), (true, false), (false, false)] {
            row.offload(offload_server, offload_director);
            for (vip, address) in VIP.into_iter().zip(scenario.addresses()) {
                let server_at = at(address, 8080);
                tcp_exchange(client, server, vip, server_at, 1 << 20);
                udp_exchange(client, server, vip, server_at, true);
                udp_exchange(client, server, vip, server_at, false);
                sctp_exchange(client, server, vip, server_at);
            }
        }
        row.no_checksum_errors();
        for (family, vip) in ["ip", "ip6"].into_iter().zip(VIP) {
            let behind = row.director.must(&format!("nft list table {family} behind"));
            assert!(packets(&behind, &format!("saddr {vip} meta mark")) > 0, "{what}: {behind}");
            assert_eq!(packets(&behind, "th sport 8080"), 0, "{what}: the server shows: {behind}");
        }
    }
}

#[test]
fn a_service_of_every_port_keeps_the_port() {
    let scenario = Scenario { client: End::Remote, server: End::Remote, vip_local: false };
    let row = lab(&scenario, None, 80);
    row.offload(true, false);
    for (vip, address) in VIP.into_iter().zip(SERVER) {
        tcp_exchange(&row.client, &row.server, vip, at(address, 80), 1 << 16);
        udp_exchange(&row.client, &row.server, vip, at(address, 80), true);
        sctp_exchange(&row.client, &row.server, vip, at(address, 80));
    }
}

/// The kernel computes a new CRC with a port that it writes, and damage on the way would have a right one then.
#[test]
fn a_damaged_sctp_reply_stays_damaged_where_no_port_is_written() {
    let scenario = Scenario { client: End::Remote, server: End::Remote, vip_local: false };
    for (server_port, is_right) in [(80, false), (8080, true)] {
        let row = lab(&scenario, Some(80), server_port);
        row.offload(true, false);
        for (vip, address) in VIP.into_iter().zip(SERVER) {
            let client = Raw::new(&row.client, vip, SCTP);
            let server = Raw::bound(&row.server, address.parse().unwrap(), SCTP);
            let mut reply = sctp(server_port, 5000, 2, &[1, 2, 3, 4]);
            *reply.last_mut().unwrap() ^= 1;
            server.send(CLIENT[usize::from(vip.contains(':'))], &reply);
            let (from, reply) = client.receive(|packet| read_sctp(packet).1 == 5000);
            assert_eq!(from.to_string(), vip);
            assert_eq!(read_sctp(&reply), (80, 5000, is_right), "{vip} {server_port}");
        }
    }
}

#[test]
fn an_icmp_error_gets_the_source_and_a_right_checksum() {
    let scenario = Scenario { client: End::Remote, server: End::Remote, vip_local: false };
    let row = lab(&scenario, Some(80), 8080);
    row.offload(false, false);
    row.client.nft(&format!(
        "table ip seen {{\n chain in {{\n type filter hook input priority 0\n ip saddr {} icmp type 3 counter\n }}\n}}\n\
         table ip6 seen {{\n chain in {{\n type filter hook input priority 0\n ip6 saddr {} icmpv6 type 1 counter\n }}\n}}\n",
        VIP[0], VIP[1]
    ));
    for (vip, own) in VIP.into_iter().zip(CLIENT) {
        // No socket at the server's port: its host answers with port unreachable.
        let socket = row.client.run(|| UdpSocket::bind(at(own, 0))).unwrap();
        row.client.run(|| socket.send_to(b"?", at(vip, 80))).unwrap();
    }
    // The answers come while echo requests to the server and back do.
    for address in DIRECTOR.into_iter().chain(SERVER) {
        let _ = row.client.command(&format!("ping -q -c 1 -W 2 {address}"));
    }
    let seen = row.client.ruleset();
    assert_eq!(packets(&seen, "counter"), 2, "{seen}");
    row.no_checksum_errors();
}

#[test]
fn what_the_operator_marks_is_not_ours() {
    let row = Row::new();
    row.director.run(|| Tables::install(&steering(1), services(SERVER, Some(80), Some(8080)))).unwrap();
    // A number that is no source of ours, and a tracked packet that has one.
    for mark in [0x7777_0042u32, 0x0001_0042] {
        let priority = if mark == 0x0001_0042 { -200 + 1 } else { -301 };
        row.director.nft(&format!(
            "table ip operator {{\n\
             chain pre {{\n type filter hook prerouting priority {priority}\n meta mark set {mark:#x}\n }}\n\
             chain post {{\n type filter hook postrouting priority 0\n ip saddr {} meta mark {mark:#x} counter\n }}\n\
             }}\n",
            SERVER[0]
        ));
        let listener = row.server.run(|| TcpListener::bind(at(SERVER[0], 8080))).unwrap();
        row.client.run(|| TcpStream::connect_timeout(&at(SERVER[0], 8080), PATIENCE)).unwrap();
        drop(listener);
        let operator = row.director.must("nft list table ip operator");
        assert!(packets(&operator, "saddr") > 0, "{operator}");
        row.director.must("nft delete table ip operator");
    }
}
