//! Counters and rates of a known number of packets.

use super::common::lab::{Lab, wait_for};
use serde_json::{Value, json};
use std::net::UdpSocket;
use std::time::Duration;

const QUESTION: usize = 72;
const ANSWER: usize = 172;
/// What IPv4 and UDP put in front.
const HEADERS: usize = 28;

/// A socket in a node, bound to a port of every address; 0: some port.
fn socket(lab: &Lab, node: &str, port: u16) -> UdpSocket {
    let socket = lab.enter(node, || UdpSocket::bind(("0.0.0.0", port)).expect("a free port"));
    socket.set_read_timeout(Some(Duration::from_secs(5))).expect("a read timeout");
    socket
}

/// Sends `count` questions and waits for the answer to each.
#[track_caller]
fn exchange(client: &UdpSocket, server: &UdpSocket, count: usize) {
    for _ in 0..count {
        client.send_to(&[0; QUESTION], "10.0.0.100:7007").expect("a route");
        let (_, asker) = server.recv_from(&mut [0; QUESTION]).expect("the question");
        server.send_to(&[0; ANSWER], asker).expect("a route");
        client.recv_from(&mut [0; ANSWER]).expect("the answer");
    }
}

fn counters(connections: usize, exchanges: usize) -> Value {
    json!({
        "connections": connections,
        "in_packets": exchanges, "in_bytes": exchanges * (HEADERS + QUESTION),
        "out_packets": exchanges, "out_bytes": exchanges * (HEADERS + ANSWER),
    })
}

/// One service's part of `show stats` or `show rates`.
fn of_service(shown: &Value, name: &str) -> Value {
    let services = shown["services"].as_array().expect("services");
    services.iter().find(|service| service["name"] == name).expect("the service").clone()
}

#[test]
fn every_packet_is_counted_once_and_makes_a_rate() {
    let lab = Lab::up("statistics", "nat4", &[]);
    let service = json!({
        "name": "counted", "protocol": "udp", "address": "10.0.0.100", "port": 7007,
        "servers": [{ "address": "10.0.2.11" }],
    });
    lab.request(&json!({ "command": "add-service", "service": service }));
    // The lab may have asked something itself.
    let asked = lab.nfvs(&["zero"]);
    assert!(asked.status.success() && asked.stdout.is_empty(), "{asked:?}");
    assert_eq!(lab.show("stats")["total"], counters(0, 0));

    let server = socket(&lab, "s1", 7007);
    let (first, second) = (socket(&lab, "c1", 0), socket(&lab, "c1", 0));
    exchange(&first, &server, 60);
    exchange(&second, &server, 40);
    let stats = lab.show("stats");
    let counted = of_service(&stats, "counted");
    assert_eq!(counted["stats"], counters(2, 100));
    assert_eq!(counted["servers"][0]["stats"], counters(2, 100));
    assert_eq!(stats["total"], counters(2, 100));

    let rate = |of: &Value, what: &str| of[format!("{what}_per_second")].as_u64().expect("a rate");
    let mut shown = Value::Null;
    wait_for("a rate", || {
        shown = lab.show("rates");
        rate(&shown["total"], "in_packets") > 0
    });
    let rates = of_service(&shown, "counted");
    // Nobody else has traffic. One packet may have come between the samples of the total and of the others.
    for of in [&rates["rates"], &rates["servers"][0]["rates"]] {
        for (what, packet) in
            [("connections", 1), ("in_packets", 1), ("out_packets", 1), ("in_bytes", 100), ("out_bytes", 200)]
        {
            assert!(rate(of, what).abs_diff(rate(&shown["total"], what)) <= packet, "{what}: {shown}");
        }
    }
    // A quarter of what two seconds had, and never more than all of it was seen in them.
    let [packets, replies, bytes, answered] =
        ["in_packets", "out_packets", "in_bytes", "out_bytes"].map(|what| rate(&shown["total"], what));
    assert!(packets <= 13 && replies <= 13, "{shown}");
    assert!(bytes.abs_diff(packets * 100) <= 100 && answered.abs_diff(replies * 200) <= 200, "{shown}");

    let zeroed = lab.nfvs(&["zero", "counted"]);
    assert!(zeroed.status.success(), "{zeroed:?}");
    let stats = lab.show("stats");
    let counted = of_service(&stats, "counted");
    assert_eq!((&counted["stats"], &counted["servers"][0]["stats"]), (&counters(0, 0), &counters(0, 0)));
    assert_eq!(stats["total"], counters(2, 100), "the total stays");
    assert_eq!(rate(&of_service(&lab.show("rates"), "counted")["rates"], "in_bytes"), 0);
    assert_eq!(counted["servers"][0]["inactive"], 2, "so do the connections");
    exchange(&first, &server, 1);
    assert_eq!(of_service(&lab.show("stats"), "counted")["stats"], counters(0, 1));

    lab.request(&json!({ "command": "zero" }));
    assert_eq!(lab.show("stats")["total"], counters(0, 0));
}
