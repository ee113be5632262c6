//! Packets that are unusual by who sends them, or to whom: for another host on the link, from a loopback address, of a
//! socket that forbids defragmentation.

mod common;

use common::lab::{Lab, wait_for};
use serde_json::Value;
use std::net::{SocketAddr, UdpSocket};
use std::time::Duration;

/// Virtual address and client, and the director's addresses on the client's link and on the loopback interface.
const FAMILIES: [[&str; 4]; 2] =
    [["10.0.0.100", "10.0.1.2", "10.0.1.1", "127.0.0.1"], ["fd00::100", "fd00:1::2", "fd00:1::1", "::1"]];

/// The connections whose client has this address.
fn connections_of(lab: &Lab, client: &str) -> Vec<Value> {
    let client: std::net::IpAddr = client.parse().expect("an address");
    let is_its = |shown: &&Value| {
        let shown = shown["client"].as_str().expect("text");
        shown.parse::<SocketAddr>().expect("an address and a port").ip() == client
    };
    lab.show("connections").as_array().expect("a list").iter().filter(is_its).cloned().collect()
}

#[test]
fn a_packet_for_another_host_on_the_link_is_left_alone() {
    let lab = Lab::up("other-host", "nat", &[]);
    // As beside a switch that does not know yet who is where, while somebody looks at the traffic.
    lab.shell("director", "ip link set c1 promisc on");
    for [vip, client, director, _] in FAMILIES {
        let socket =
            lab.enter("c1", || UdpSocket::bind(SocketAddr::new(client.parse().unwrap(), 0)).unwrap());
        socket.connect(SocketAddr::new(vip.parse().unwrap(), 7)).unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(15))).unwrap();
        lab.shell("c1", &format!("ip neigh replace {director} lladdr 02:00:00:00:00:99 dev director"));
        let seen = lab.capture("director", &format!("dst {vip} and udp port 7"));
        socket.send(b"for another").unwrap();
        seen.wait_for(vip);
        lab.shell("c1", &format!("ip neigh del {director} dev director"));
        socket.send(b"mine").unwrap();
        let mut answer = [0; 16];
        assert_eq!(socket.recv(&mut answer).unwrap(), 4, "the one that was for the director");
        let [connection] = &connections_of(&lab, client)[..] else { panic!("{}", lab.show("connections")) };
        let services = lab.show("services");
        let service = services.as_array().unwrap().iter().find(|it| it["address"] == vip && it["port"] == 7);
        assert_eq!(service.unwrap()["stats"]["in_packets"], 1, "{connection} {services}");
    }
}

#[test]
fn a_socket_that_forbids_defragmentation_is_balanced_all_the_same() {
    let lab = Lab::up("nodefrag", "nat", &[]);
    // A datagram from port 4444 to 7, of 5 bytes, without checksum; and IP_NODEFRAG (linux/in.h).
    let datagram = r"\x11\x5c\x00\x07\x00\x0d\x00\x00probe";
    lab.shell(
        "director",
        &format!("printf '{datagram}' | socat -u - IP4-SENDTO:10.0.0.100:17,setsockopt-int=0:22:1"),
    );
    wait_for("the connection", || connections_of(&lab, "10.0.1.1").len() == 1);
    assert_eq!(connections_of(&lab, "10.0.1.1")[0]["client"], "10.0.1.1:4444");
}

#[test]
fn a_client_of_a_loopback_address_reaches_no_server_elsewhere() {
    let lab = Lab::up("loopback-client", "nat", &[]);
    for ([vip, _, director, loopback], url) in
        FAMILIES.into_iter().zip(["http://10.0.0.100", "http://[fd00::100]"])
    {
        let server = if vip.contains(':') { "fd00:2::11" } else { "10.0.2.11" };
        let left = lab.capture("director", &format!("src {loopback} and dst {server}"));
        let answers = lab.capture("s1", &format!("src {server} and dst {loopback}"));
        let is_answered = |address: &str| {
            let curl = ["curl", "-sS", "--max-time", "2", "--interface", address, url];
            lab.try_run("director", &curl).status.success()
        };
        for _ in 0..3 {
            assert!(is_answered(director), "{url}");
            assert!(!is_answered(loopback), "{url}");
        }
        // Nothing leaves over IPv4. What leaves over IPv6 is dropped by whom it reaches.
        assert_eq!(left.text().contains(" Out "), vip.contains(':'), "{}", left.text());
        assert_eq!(answers.text(), "");
    }
}
