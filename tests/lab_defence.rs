//! A flood of SYNs from clients that do not exist, and real clients meanwhile.

mod common;

use common::lab::{Lab, text, wait_for};
use common::raw::{Raw, WHOLE_PACKETS};
use etherparse::{PacketBuilder, TcpHeader};
use serde_json::{Value, json};
use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

/// A flood ends by itself after so many packets.
const FLOOD: u32 = 600_000;
/// So many connections fit into the table.
const TABLE: usize = 2000;

const URLS: [&str; 2] = ["http://10.0.0.100", "http://[fd00::100]"];

/// A SYN from the client of this number, which nobody has the address of.
fn syn(number: u32, to: IpAddr) -> Vec<u8> {
    let [_, high, middle, low] = number.to_be_bytes();
    let from = 1024 + (number % 60_000) as u16;
    let header = TcpHeader { syn: true, ..TcpHeader::new(from, 80, number, 65_535) };
    let packet = match to {
        IpAddr::V4(to) => PacketBuilder::ipv4([198, 18 + high % 2, middle, low], to.octets(), 64),
        IpAddr::V6(to) => {
            let mut from = [0; 16];
            from[..2].copy_from_slice(&[0xfd, 0x99]);
            from[12..].copy_from_slice(&number.to_be_bytes());
            PacketBuilder::ipv6(from, to.octets(), 64)
        }
    };
    let mut bytes = Vec::new();
    packet.tcp_header(header).write(&mut bytes, &[]).expect("a Vec takes everything");
    bytes
}

/// Floods both virtual addresses with some thousand SYNs a second while `work` is done.
fn flooded(lab: &Lab, work: impl FnOnce()) {
    let ends: [(IpAddr, IpAddr); 2] = [("10.0.1.2", "10.0.0.100"), ("fd00:1::2", "fd00::100")]
        .map(|(from, to)| (from.parse().unwrap(), to.parse().unwrap()));
    let sockets = ends.map(|(from, to)| (Raw::new(lab, "c1", from, WHOLE_PACKETS), to));
    let is_over = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            for number in 0..FLOOD {
                if is_over.load(Ordering::Relaxed) {
                    return;
                }
                for (socket, to) in &sockets {
                    socket.send(*to, &syn(number, *to));
                }
                if number % 10 == 9 {
                    thread::sleep(Duration::from_millis(5));
                }
            }
        });
        // Also when the work ends in a panic, for the scope waits for the flood.
        let _end = End(&is_over);
        work();
    });
}

struct End<'a>(&'a AtomicBool);

impl Drop for End<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

#[test]
fn real_clients_are_served_during_a_flood_where_defences_are_automatic() {
    let servers = ["10.0.2.11", "10.0.3.12"].map(|address| json!({ "address": address, "port": 8080 }));
    let servers6 = ["fd00:2::11", "fd00:3::12"].map(|address| json!({ "address": address, "port": 8080 }));
    let config = json!({
        "services": [
            { "protocol": "tcp", "address": "10.0.0.100", "port": 80, "servers": servers },
            { "protocol": "tcp", "address": "fd00::100", "port": 80, "servers": servers6 },
        ],
        "connections": { "max": TABLE },
        // 128 connections are the reserve, so that the defence soon ends after the flood.
        "tunables": { "amemthresh": 4 },
    });
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("nfvs.json");
    std::fs::write(&file, config.to_string()).expect("a file");
    let lab = Lab::up("defence", "nat", &["--config", file.to_str().expect("text")]);
    let stats = || lab.show("stats");
    let secure = || lab.show("tunables")["secure_tcp"].clone();
    let ask = |patience: &str, url: &str| lab.try_run("c1", &["curl", "-sS", "--max-time", patience, url]);

    flooded(&lab, || {
        wait_for("a full table", || stats()["drops"]["table_full"].as_u64() > Some(0));
        for url in URLS {
            let answer = ask("3", url);
            assert_eq!(answer.status.code(), Some(28), "{url}: {}", text(&answer.stdout));
        }
        assert_eq!((secure(), &stats()["dropped_entries"]), (json!(0), &json!(0)));

        let defend = json!({ "drop_entry": 1, "secure_tcp": 1 });
        lab.request(&json!({ "command": "set-tunables", "tunables": defend }));
        assert_eq!(secure(), json!(2), "they act");
        for url in URLS {
            // A connection may be half-open in the very moment in which its part of the table is swept.
            let failed: Vec<String> = (0..20)
                .map(|_| ask("15", url))
                .filter(|answer| !answer.status.success())
                .map(|answer| text(&answer.stderr))
                .collect();
            assert!(failed.len() <= 1, "{url}: {failed:?}");
        }
        let now = stats();
        assert!(now["connections"].as_u64() <= Some(TABLE as u64), "{now}");
        let dropped = |stats: &Value| stats["dropped_entries"].as_u64().expect("a number");
        assert!(dropped(&now) > 100, "{now}");
        wait_for("more of the flood", || dropped(&stats()) > dropped(&now));
    });
    wait_for("the end of the defence", || secure() == json!(1));
    lab.assert_no_checksum_errors();
}
