//! Queues and the connection table: how many there are, and what happens when they are full.

use super::common::lab::{Lab, text, wait_for};
use super::{Daemon, assert_nothing_left, assert_serves, configure, queue_field};
use nft_rules::QueueClass;
use nfvs::daemon::queue;
use rustix::process::Signal;
use serde_json::{Value, json};
use std::fs;
use std::net::UdpSocket;
use std::time::Duration;

/// The echo service.
const ECHO: &str = "10.0.0.100:7";

#[test]
fn any_number_of_queues_of_either_backend_serves() {
    let lab = Lab::up("counts", "nat4", &["--no-daemon"]);
    for (base, count, backend) in [(0, 1, "batched"), (100, 3, "batched"), (0, 1, "nfq"), (100, 3, "nfq")] {
        configure(&lab, |config| {
            config["queues"] = json!({ "base": base, "count": count, "backend": backend });
        });
        let daemon = Daemon::start(&lab, &[]);
        assert_serves(&lab);
        let answer = lab.run("c1", &["dig", "+short", "+tries=1", "@10.0.0.100", "TXT", "server.lab"]);
        assert!(answer.starts_with("\"s"), "{answer}");

        let queues = lab.show("queues");
        let shown: Vec<(u64, String)> = queues
            .as_array()
            .unwrap()
            .iter()
            .map(|queue| (queue["queue"].as_u64().unwrap(), queue["class"].as_str().unwrap().to_owned()))
            .collect();
        let classes = QueueClass::ALL.into_iter().flat_map(|class| vec![class.to_string(); count]);
        assert_eq!(shown, (base..).zip(classes).collect::<Vec<_>>());
        for queue in queues.as_array().unwrap() {
            let expected =
                json!({ "backend": backend, "running": true, "unknown": null, "lost": 0, "dropped": 0 });
            for (key, value) in expected.as_object().unwrap() {
                assert_eq!(&queue[key], value, "{queue}");
            }
        }
        for class in ["established", "open", "datagram"] {
            let received: u64 = queues
                .as_array()
                .unwrap()
                .iter()
                .filter(|queue| queue["class"] == class)
                .map(|queue| queue["received"].as_u64().unwrap())
                .sum();
            assert!(received > 0, "{class}: {queues}");
        }
        assert_eq!(daemon.end(Signal::TERM).code(), Some(0));
        assert_nothing_left(&lab);
    }
}

/// Whether every thread of a process is stopped.
pub(super) fn is_stopped(pid: i32) -> bool {
    fs::read_dir(format!("/proc/{pid}/task")).unwrap().all(|task| {
        let stat = fs::read_to_string(task.unwrap().path().join("stat")).unwrap();
        stat.rsplit(") ").next().unwrap().starts_with('T')
    })
}

#[test]
fn a_queue_that_overflows_drops_counts_and_recovers() {
    const LENGTH: u32 = 1024;
    const SENT: u32 = 3000;
    let lab = Lab::up("overflow", "nat4", &["--no-daemon"]);
    for backend in ["batched", "nfq"] {
        configure(&lab, |config| {
            config["queues"] = json!({ "count": 1, "length": LENGTH, "backend": backend });
        });
        let daemon = Daemon::start(&lab, &[]);
        let socket = lab.enter("c1", || UdpSocket::bind("10.0.1.2:0").unwrap());
        socket.connect(ECHO).unwrap();

        daemon.signal(Signal::STOP);
        wait_for("the daemon to stop", || is_stopped(daemon.pid().as_raw_nonzero().get()));
        for number in 0..SENT {
            socket.send(&number.to_be_bytes()).unwrap();
        }
        let datagrams = || {
            let counters = lab.enter("director", || queue::read_counters().unwrap());
            let datagrams = counters.into_iter().find(|counters| counters.queue == 2).unwrap();
            (datagrams.waiting, datagrams.queue_dropped, datagrams.user_dropped)
        };
        wait_for("all to be queued or dropped", || datagrams() == (LENGTH, SENT - LENGTH, 0));
        daemon.signal(Signal::CONT);

        wait_for("the queues to be empty", || {
            queue_field(&lab, "waiting").iter().all(|waiting| waiting == 0)
        });
        let dropped = QueueClass::ALL.map(|class| match class {
            QueueClass::Datagram => json!(SENT - LENGTH),
            _ => json!(0),
        });
        assert_eq!(queue_field(&lab, "dropped"), dropped);
        let shown = text(&lab.nfvs(&["show", "queues"]).stdout);
        let column =
            shown.lines().next().unwrap().split_whitespace().position(|name| name == "Full").unwrap();
        let full = shown.lines().nth(3).unwrap().split_whitespace().nth(column).unwrap();
        assert_eq!(full, (SENT - LENGTH).to_string(), "{shown}");

        assert_serves(&lab);
        // What waited was answered.
        socket.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        let mut answer = [0; 8];
        let length = socket.recv(&mut answer).expect("an answer");
        assert!(u32::from_be_bytes(answer[..length].try_into().unwrap()) < LENGTH);
        assert_eq!(daemon.end(Signal::TERM).code(), Some(0));
        assert_nothing_left(&lab);
    }
}

#[test]
fn a_full_connection_table_drops_new_clients_counts_them_and_recovers() {
    const MAX: usize = 100;
    let lab = Lab::up("bound", "nat4", &["--no-daemon"]);
    configure(&lab, |config| config["connections"] = json!({ "max": MAX }));
    let _daemon = Daemon::start(&lab, &[]);
    let clients: Vec<UdpSocket> = lab.enter("c1", || {
        let client = || UdpSocket::bind("10.0.1.2:0").unwrap();
        (0..MAX + 50).map(|_| client()).collect()
    });
    for client in &clients {
        client.connect(ECHO).unwrap();
        client.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    }
    let ask = |client: &UdpSocket| {
        client.send(b"x").unwrap();
        client.recv(&mut [0; 8]).is_ok()
    };
    let (served, dropped) = clients.split_at(MAX);
    assert!(served.iter().all(ask));
    for client in dropped {
        client.send(b"x").unwrap();
    }
    let table_full = || lab.show("stats")["drops"]["table_full"].clone();
    wait_for("drops", || table_full() == dropped.len());
    let stats = lab.show("stats");
    assert_eq!((&stats["connections"], &stats["max_connections"]), (&json!(MAX), &json!(MAX)));
    let shown = text(&lab.nfvs(&["show", "stats"]).stdout);
    assert!(shown.ends_with("\nconnections: 100 of at most 100\ndropped: table_full 50\n"), "{shown}");
    for client in dropped {
        client.set_nonblocking(true).unwrap();
        assert!(client.recv(&mut [0; 8]).is_err());
    }

    // Those that are in are still served; then their time is over, and there is room.
    lab.request(&json!({ "command": "set-timeouts", "timeouts": { "udp": 1 } }));
    assert!(served.iter().all(ask));
    assert_eq!(table_full(), Value::from(dropped.len()));
    wait_for("connections to expire", || lab.show("stats")["connections"] == 0);
    for client in dropped {
        client.set_nonblocking(false).unwrap();
    }
    assert!(dropped.iter().all(ask));
    assert_eq!(table_full(), Value::from(dropped.len()));
}
