//! Two directors that synchronise: the backup has what the master has, roles change while they run, and clients do not
//! notice that another director goes on with their connections.

mod alike;
mod announce;
#[path = "../../netns-lab/takeover/clients.rs"]
mod clients;
#[path = "../common/mod.rs"]
mod common;
mod keepalived;
mod keys;
mod rate;
mod resync;
mod selftest;
mod takeover;

use common::lab::{Lab, text};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::os::unix::fs::PermissionsExt;
use std::thread;
use std::time::{Duration, Instant};

/// The director whose interface towards the other is named after that.
const SECOND: &str = "second";
const VIPS: [&str; 2] = ["10.0.0.100", "fd00::100"];
/// Long enough for whatever a master gathers before it sends it.
const PATIENCE: Duration = Duration::from_secs(10);

/// The services of the lab, and this for `sync`.
fn config(lab: &Lab, sync: Value) -> Value {
    let mut config: Value =
        serde_json::from_slice(&fs::read(lab.file("nfvs.json")).expect("the configuration")).expect("JSON");
    config["sync"] = sync;
    config
}

/// Has the director run with this for `sync`.
#[track_caller]
fn reload(lab: &Lab, sync: Value) {
    fs::write(lab.file("nfvs.json"), config(lab, sync).to_string()).expect("the configuration");
    let reloaded = lab.nfvs(&["reload"]);
    assert!(reloaded.status.success(), "{}", text(&reloaded.stderr));
}

/// A director's file of keys, one a digit, and what the configuration says of it.
fn key_file(lab: &Lab, node: &str, digits: &[char]) -> Value {
    let path = lab.file(&format!("{node}.keys"));
    let lines: Vec<String> = digits.iter().map(|digit| digit.to_string().repeat(64)).collect();
    fs::write(&path, lines.join("\n")).expect("a file");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).expect("a mode");
    json!({ "keys": path })
}

/// A connection or template as both directors have to show it, which is without how long it lasts and where it was
/// made.
fn entry(shown: &Value) -> Option<String> {
    let mut entry = shown.as_object()?.clone();
    let flags = entry.get("flags")?.as_str()?.trim_start_matches("0x").to_owned();
    let flags = u32::from_str_radix(&flags, 16).ok()?;
    const SYNC: u32 = 0x20;
    entry.insert("flags".to_owned(), (flags & !SYNC).into());
    entry.retain(|key, _| key != "expires" && key != "origin");
    Some(Value::from(entry).to_string())
}

fn entries(shown: &Value) -> BTreeSet<String> {
    shown.as_array().expect("a list").iter().filter_map(entry).collect()
}

/// Waits until the backup shows what the master shows, and returns how many entries that is.
#[track_caller]
#[expect(clippy::disallowed_methods, reason = "tests wait in real time")]
fn assert_alike(master: impl Fn() -> Value, backup: impl Fn() -> Value) -> usize {
    let mut both = (BTreeSet::new(), BTreeSet::new());
    let start = Instant::now();
    while start.elapsed() < PATIENCE {
        both = (entries(&master()), entries(&backup()));
        if both.0 == both.1 {
            return both.0.len();
        }
        pause(Duration::from_millis(100));
    }
    let only_master: Vec<&String> = both.0.difference(&both.1).collect();
    let only_backup: Vec<&String> = both.1.difference(&both.0).collect();
    panic!("only the master has {only_master:#?}\nonly the backup has {only_backup:#?}");
}

fn pause(time: Duration) {
    thread::sleep(time);
}

/// Gets a page on a new connection that stays.
fn hold(vip: SocketAddr) -> TcpStream {
    let mut stream = TcpStream::connect(vip).expect("a connection");
    stream.write_all(b"GET / HTTP/1.1\r\nHost: lab\r\n\r\n").expect("a request");
    let mut answer = [0; 1024];
    let length = stream.read(&mut answer).expect("an answer");
    assert!(answer.starts_with(b"HTTP/1.1 200") && length < answer.len());
    stream
}

/// Sends datagrams to the echo and has them back.
fn exchange(vip: SocketAddr, count: usize) -> UdpSocket {
    let any: SocketAddr = if vip.is_ipv4() { ([0; 4], 0).into() } else { ([0_u16; 8], 0).into() };
    let socket = UdpSocket::bind(any).expect("a socket");
    socket.connect(vip).expect("an address");
    socket.set_read_timeout(Some(PATIENCE)).expect("a timeout");
    for _ in 0..count {
        socket.send(b"probe").expect("a datagram");
        assert_eq!(socket.recv(&mut [0; 16]).expect("an echo"), 5);
    }
    socket
}

fn endpoint(vip: &str, port: u16) -> SocketAddr {
    SocketAddr::new(vip.parse().expect("an address"), port)
}
