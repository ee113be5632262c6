//! What the rules do alone, with no daemon on any queue: refuse, answer echo requests, let the rest be.

mod common;

use std::{
    io::ErrorKind,
    net::{TcpStream, UdpSocket},
    time::Duration,
};

use common::{
    CLIENT, Node, Row, SERVER, VIP, at, both_services, elements, endpoint, packets, routed_services, steering,
};
use nft_rules::{DECIDED, Endpoint, Marked, Tables};

const PATIENCE: Duration = Duration::from_secs(5);

/// Where no answer is the right one.
const LITTLE_PATIENCE: Duration = Duration::from_millis(700);

/// How a TCP connection attempt ends.
fn tcp(node: &Node, address: &str, port: u16) -> Result<(), ErrorKind> {
    tcp_within(PATIENCE, node, address, port)
}

fn tcp_within(patience: Duration, node: &Node, address: &str, port: u16) -> Result<(), ErrorKind> {
    node.run(|| TcpStream::connect_timeout(&at(address, port), patience))
        .map(drop)
        .map_err(|error| error.kind())
}

/// Whether a TCP connection attempt meets with no answer at all.
fn is_ignored(node: &Node, address: &str, port: u16) -> bool {
    tcp_within(LITTLE_PATIENCE, node, address, port) == Err(ErrorKind::TimedOut)
}

/// What comes of a datagram: an answer, a refusal, or nothing.
fn udp(node: &Node, address: &str, port: u16) -> Result<usize, ErrorKind> {
    udp_within(PATIENCE, node, address, port)
}

fn udp_within(patience: Duration, node: &Node, address: &str, port: u16) -> Result<usize, ErrorKind> {
    node.run(|| {
        let any = if address.contains(':') { "[::]:0" } else { "0.0.0.0:0" };
        let socket = UdpSocket::bind(any).unwrap();
        socket.set_read_timeout(Some(patience)).unwrap();
        socket.connect(at(address, port)).unwrap();
        // A rule in OUTPUT that refuses a packet fails its sender on the same host as well.
        if let Err(error) = socket.send(b"?") {
            assert_eq!(error.kind(), ErrorKind::PermissionDenied);
        }
        socket.recv(&mut [0; 16])
    })
    .map_err(|error| error.kind())
}

fn ping(node: &Node, options: &str, address: &str) -> bool {
    node.command(&format!("ping -q -c 2 -i 0.2 -W 2 {options} {address}")).status.success()
}

/// Counts what arrives at the server's node, where the director's default route leads, for a VIP.
fn watch(row: &Row) {
    row.server.nft(&format!(
        "table ip watch {{\n chain in {{\n type filter hook prerouting priority -400\n ip daddr {} counter drop\n }}\n}}\n\
         table ip6 watch {{\n chain in {{\n type filter hook prerouting priority -400\n ip6 daddr {} counter drop\n }}\n}}\n",
        VIP[0], VIP[1]
    ));
}

/// Packets for a VIP that were forwarded out, in both families.
fn forwarded(row: &Row) -> u64 {
    packets(&row.server.ruleset(), "daddr")
}

fn install(row: &Row, endpoints: Vec<Endpoint>) -> Tables {
    row.director.run(|| Tables::install(&steering(2), elements(endpoints))).unwrap()
}

fn not_pingable() -> Vec<Endpoint> {
    both_services().into_iter().map(|endpoint| Endpoint { answers_ping: false, ..endpoint }).collect()
}

/// Without the rules, packets to a VIP on no interface go on to the default route: the loop to be prevented.
#[test]
fn the_lab_forwards_to_a_vip_when_there_are_no_rules() {
    let row = Row::new();
    watch(&row);
    for vip in VIP {
        let before = forwarded(&row);
        assert!(!ping(&row.client, "", vip));
        assert_eq!(forwarded(&row) - before, 2);
    }
}

#[test]
fn a_vip_on_no_interface_refuses_and_is_never_forwarded() {
    let row = Row::new();
    watch(&row);
    install(&row, both_services());
    for node in [&row.client, &row.director] {
        for vip in VIP {
            // Port 80 is a service whose queue nobody serves, port 81 is none.
            for port in [80, 81] {
                assert_eq!(tcp(node, vip, port), Err(ErrorKind::ConnectionRefused), "tcp {vip} {port}");
                assert_eq!(udp(node, vip, port), Err(ErrorKind::ConnectionRefused), "udp {vip} {port}");
            }
        }
    }
    // An ICMP type that nobody answers (13: timestamp) goes nowhere either.
    row.client.nft(&format!(
        "table ip craft {{\n chain out {{\n type filter hook output priority 0\n ip daddr {} icmp type echo-request icmp type set 13\n }}\n}}\n",
        VIP[0]
    ));
    assert!(!ping(&row.client, "", VIP[0]), "timestamp requests get no answer");
    assert_eq!(forwarded(&row), 0);
    for family in ["ip", "ip6"] {
        let refused = row.director.must(&format!("nft list chain {family} nfvs refuse"));
        assert!(packets(&refused, "tcp reset") >= 4, "{refused}");
    }
}

#[test]
fn icmp_errors_to_a_vip_on_no_interface_go_nowhere_without_a_daemon() {
    let row = Row::new();
    watch(&row);
    install(&row, both_services());
    // Every echo request leaves the client as a destination unreachable.
    row.client.nft(&format!(
        "table ip craft {{\n chain out {{\n type filter hook output priority 0\n ip daddr {} icmp type echo-request icmp type set 3\n }}\n}}\n\
         table ip6 craft {{\n chain out {{\n type filter hook output priority 0\n ip6 daddr {} icmpv6 type echo-request icmpv6 type set 1\n }}\n}}\n",
        VIP[0], VIP[1]
    ));
    for (vip, family) in VIP.into_iter().zip(["ip", "ip6"]) {
        assert!(!ping(&row.client, "", vip));
        let queued = row.director.must(&format!("nft list chain {family} nfvs icmp_errors"));
        assert_eq!(packets(&queued, "queue"), 2, "{queued}");
        let dropped = row.director.must(&format!("nft list chain {family} nfvs leftover_icmp"));
        assert_eq!(packets(&dropped, "drop"), 2, "{dropped}");
    }
    assert_eq!(forwarded(&row), 0);
}

#[test]
fn a_local_vip_refuses_too() {
    let row = Row::new();
    row.make_vips_local();
    install(&row, both_services());
    for node in [&row.client, &row.director] {
        for vip in VIP {
            for port in [80, 81] {
                assert_eq!(tcp(node, vip, port), Err(ErrorKind::ConnectionRefused), "tcp {vip} {port}");
                assert_eq!(udp(node, vip, port), Err(ErrorKind::ConnectionRefused), "udp {vip} {port}");
            }
        }
    }
}

/// A service is refused by the rules even if a program listens to its port on every address; what fits no service
/// is the host's own: ssh on the one address of a small director must not be locked out.
#[test]
fn a_local_vip_keeps_the_host_s_own_ports() {
    let row = Row::new();
    row.make_vips_local();
    install(&row, both_services());
    let listeners: Vec<_> =
        row.director.run(|| [80, 22].map(|port| std::net::TcpListener::bind(at("::", port)).unwrap())).into();
    for node in [&row.client, &row.director] {
        for vip in VIP {
            assert_eq!(tcp(node, vip, 80), Err(ErrorKind::ConnectionRefused), "{vip}");
            assert_eq!(tcp(node, vip, 22), Ok(()), "{vip}");
        }
    }
    drop(listeners);
    // And a connection of the host's own from the VIP to a server gets its answers.
    let (vip, server) = (VIP[0], SERVER[0]);
    let listener = row.server.run(|| std::net::TcpListener::bind(at(server, 8080)).unwrap());
    row.director.must(&format!("ip route replace {server}/32 dev ds src {vip}"));
    row.server.must(&format!("ip route replace {vip}/32 via 10.0.2.1"));
    let connection = row.director.run(|| TcpStream::connect_timeout(&at(server, 8080), PATIENCE)).unwrap();
    assert_eq!(connection.local_addr().unwrap().ip().to_string(), vip);
    drop((connection, listener));
}

#[test]
fn a_service_of_every_port_refuses_every_port() {
    let row = Row::new();
    watch(&row);
    let every = VIP
        .into_iter()
        .zip(SERVER)
        .zip([(6, 1), (6, 2)])
        .map(|((vip, server), (protocol, source))| endpoint(protocol, vip, None, source, (server, None)));
    install(&row, every.collect());
    for vip in VIP {
        for port in [1, 80, 65_535] {
            assert_eq!(tcp(&row.client, vip, port), Err(ErrorKind::ConnectionRefused));
        }
        assert_eq!(udp(&row.client, vip, 53), Err(ErrorKind::ConnectionRefused));
    }
    assert_eq!(forwarded(&row), 0);
}

/// Does what the verdicts of a daemon do by a rule before ours.
fn decide(node: &Node, mark: u32) {
    for family in ["ip", "ip6"] {
        node.nft(&format!(
            "table {family} verdict {{\n chain pre {{\n type filter hook prerouting priority -301\n \
             meta l4proto {{ tcp, udp }} meta mark set {mark:#x}\n }}\n}}\n"
        ));
    }
}

#[test]
fn where_others_may_go_on_nobody_says_a_word() {
    let row = Row::new();
    watch(&row);
    let mut tables = install(&row, both_services());
    row.director.run(|| tables.update(elements(both_services()).silent_alone())).unwrap();
    let silent =
        |family: &str| packets(&row.director.must(&format!("nft list chain {family} nfvs silence")), "drop");
    for ((vip, server), family) in VIP.into_iter().zip(SERVER).zip(["ip", "ip6"]) {
        for node in [&row.client, &row.director] {
            assert!(is_ignored(node, vip, 80), "to a service: {vip}");
            let answer = udp_within(LITTLE_PATIENCE, node, vip, 80);
            assert_eq!(answer, Err(ErrorKind::WouldBlock), "to a service: {vip}");
            assert_eq!(tcp(node, vip, 81), Err(ErrorKind::ConnectionRefused), "fits no service: {vip}");
        }
        let requests = silent(family);
        assert!(requests >= 4, "{requests}");
        // Nobody listens there: the server resets, which a client at a VIP would not survive either.
        assert!(is_ignored(&row.client, server, 8080), "from a server: {server}");
        assert!(silent(family) > requests);
        assert_eq!(tcp(&row.client, server, 8081), Err(ErrorKind::ConnectionRefused), "{server}");
        assert!(ping(&row.client, "", vip) && ping(&row.client, "", server));
    }
    assert_eq!(forwarded(&row), 0);

    // A daemon that lives has the last word.
    decide(&row.director, DECIDED);
    for (vip, server) in VIP.into_iter().zip(SERVER) {
        for (address, port) in [(vip, 80), (server, 8080)] {
            assert_eq!(tcp(&row.client, address, port), Err(ErrorKind::ConnectionRefused), "{address}");
            assert_eq!(udp(&row.client, address, port), Err(ErrorKind::ConnectionRefused), "{address}");
        }
    }
    row.director.nft("delete table ip verdict\ndelete table ip6 verdict\n");

    row.director.run(|| tables.update(elements(both_services()))).unwrap();
    for (vip, server) in VIP.into_iter().zip(SERVER) {
        assert_eq!(tcp(&row.client, vip, 80), Err(ErrorKind::ConnectionRefused));
        assert_eq!(tcp(&row.client, server, 8080), Err(ErrorKind::ConnectionRefused));
    }
}

#[test]
fn what_is_decided_about_without_more_is_refused_as_what_nobody_wants_and_loses_its_mark() {
    let row = Row::new();
    install(&row, both_services());
    decide(&row.director, DECIDED | 0x42);
    row.director.nft(
        "table inet late {\n chain late {\n type filter hook postrouting priority 400\n \
         meta mark 0x42 counter\n }\n}\n",
    );
    for (vip, server) in VIP.into_iter().zip(SERVER) {
        assert_eq!(tcp(&row.client, vip, 80), Err(ErrorKind::ConnectionRefused));
        assert_eq!(tcp(&row.client, server, 8080), Err(ErrorKind::ConnectionRefused));
    }
    assert!(packets(&row.director.ruleset(), "meta mark 0x00000042") >= 2, "the operator's half stays");
}

/// The services of a port reached by direct routing, of every port, of FTP, and by mark.
#[test]
fn silence_is_for_what_goes_to_queues_but_not_for_replies_that_are_right_as_they_are() {
    let row = Row::new();
    let (vip, server) = (VIP[0], SERVER[0]);
    let ftp = Endpoint { ftp_data: true, ..endpoint(6, vip, Some(21), 20, (server, Some(21))) };
    let services = [routed_services(), vec![ftp]].concat();
    let marked = Marked { mark: 5, ipv6: false, servers: vec![], tunnels: vec![], accepts: true };
    let held = elements(services).with_marked([marked]).silent_alone();
    row.director.run(|| Tables::install(&steering(1), held)).unwrap();
    row.director.nft(
        "table ip marks {\n chain pre {\n type filter hook prerouting priority -301\n \
         tcp dport 82 meta mark set 5\n }\n}\n",
    );
    for port in [443, 21, 20, 1024, 82] {
        assert!(is_ignored(&row.client, vip, port), "{port}");
    }
    assert_eq!(tcp(&row.client, vip, 81), Err(ErrorKind::ConnectionRefused));
    // Its server has the VIP, and answers as that.
    row.server.ip(&format!("addr add {vip}/32 dev sd"));
    let silent = || packets(&row.director.must("nft list chain ip nfvs silence"), "drop");
    let before = silent();
    row.server.run(|| UdpSocket::bind(at(vip, 443)).unwrap().send_to(b"!", at(CLIENT[0], 1234))).unwrap();
    let queued = row.director.must("nft list chain ip nfvs reply_routed");
    assert_eq!((silent(), packets(&queued, "queue")), (before, 1), "{queued}");
}

#[test]
fn for_want_of_a_server_the_answer_is_port_unreachable() {
    let row = Row::new();
    install(&row, both_services());
    // What the daemon's verdict does, done by a rule before ours.
    for family in ["ip", "ip6"] {
        row.director.nft(&format!(
            "table {family} verdict {{\n chain pre {{\n type filter hook prerouting priority -301\n \
             tcp dport 80 meta mark set 0xffff0042\n }}\n}}\n"
        ));
    }
    for (vip, family) in VIP.into_iter().zip(["ip", "ip6"]) {
        assert_eq!(tcp(&row.client, vip, 80), Err(ErrorKind::ConnectionRefused));
        let answered = row.director.must(&format!("nft list chain {family} nfvs answered"));
        // The client tries again where the answer finds its socket still busy with the connect(2).
        assert!(packets(&answered, "reject") >= 1, "{answered}");
        let refuse = row.director.must(&format!("nft list chain {family} nfvs refuse"));
        assert_eq!(packets(&refuse, "tcp reset"), 0, "{refuse}");
    }
}

#[test]
fn a_vip_on_no_interface_answers_echo_requests() {
    let row = Row::new();
    watch(&row);
    let mut tables = install(&row, both_services());
    for node in [&row.client, &row.director] {
        for vip in VIP {
            assert!(ping(node, "", vip), "{vip}");
            assert!(ping(node, "-s 20000", vip), "{vip}: in fragments");
        }
    }
    // A host's hop limit, less one for the way, and checksums that hold without the devices' help.
    for device in ["dc", "ds"] {
        row.director.must(&format!("ethtool -K {device} tx off gso off tso off"));
    }
    for vip in VIP {
        let said = row.client.must(&format!("ping -c 1 -W 2 {vip}"));
        assert!(said.contains("ttl=63"), "{said}");
    }
    row.director.run(|| tables.update(elements(not_pingable()))).unwrap();
    for node in [&row.client, &row.director] {
        for vip in VIP {
            assert!(!ping(node, "", vip), "{vip}");
        }
    }
    assert_eq!(forwarded(&row), 0);
}

#[test]
fn a_local_vip_answers_echo_requests() {
    let row = Row::new();
    row.make_vips_local();
    let mut tables = install(&row, both_services());
    for node in [&row.client, &row.director] {
        for vip in VIP {
            assert!(ping(node, "", vip), "{vip}");
            assert!(ping(node, "-s 20000", vip), "{vip}: in fragments");
        }
    }
    row.director.run(|| tables.update(elements(not_pingable()))).unwrap();
    for node in [&row.client, &row.director] {
        for vip in VIP {
            assert!(!ping(node, "", vip), "{vip}");
        }
    }
    for address in common::DIRECTOR {
        assert!(ping(&row.client, "", address), "addresses that are no VIPs: {address}");
    }
}

#[test]
fn a_direct_flow_to_a_server_stays_tracked() {
    let row = Row::new();
    install(&row, both_services());
    row.director.nft(
        "table inet firewall {\n chain forward {\n type filter hook forward priority 0; policy drop;\n \
         ct state established,related accept\n ct state new accept\n ct state untracked counter\n }\n}\n",
    );
    for server in SERVER {
        let listener = row.server.run(|| std::net::TcpListener::bind(at(server, 8080)).unwrap());
        let echo = row.server.run(|| UdpSocket::bind(at(server, 8080)).unwrap());
        assert_eq!(tcp(&row.client, server, 8080), Ok(()));
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let mut bytes = [0; 16];
                let (len, from) = echo.recv_from(&mut bytes).unwrap();
                echo.send_to(&bytes[..len], from).unwrap();
            });
            assert_eq!(udp(&row.client, server, 8080), Ok(1));
        });
        drop(listener);
        // The server's port unreachable about a direct flow is a related packet, queue or not.
        drop(echo);
        assert_eq!(udp(&row.client, server, 8080), Err(ErrorKind::ConnectionRefused));
    }
    let firewall = row.director.ruleset();
    assert_eq!(packets(&firewall, "ct state untracked"), 0, "{firewall}");
    let queued = row.director.must("nft list chain ip nfvs reply");
    assert!(packets(&queued, "queue") >= 3, "the replies were offered to the daemon: {queued}");
    let entries = row.director.must("conntrack -L -p tcp");
    assert!(entries.contains(&format!("src={} dst={}", CLIENT[0], SERVER[0])), "{entries}");
    let errors = row.director.must("nft list chain ip nfvs icmp_errors");
    assert_eq!(packets(&errors, "queue"), 1, "{errors}");
}
