//! One client port, connection after connection, each closed by the server: the next is answered at once, and by a
//! server that is to have new ones.
//!
//! A SYN that has to be sent twice costs its client a second. Whether that happened is what the client's kernel has
//! counted; how long connections took is printed and asserted by nobody.

mod common;

use common::lab::Lab;
use rustix::io::Errno;
use serde_json::{Value, json};
use std::net::SocketAddr;
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};

const CONNECTIONS: usize = 1000;
const FAMILIES: [(&str, &str); 2] =
    [("10.0.1.2:40000", "10.0.0.100:80"), ("[fd00:1::2]:40000", "[fd00::100]:80")];
/// How long what was before may keep the client's port, and an answer may take.
const PATIENCE: Duration = Duration::from_secs(30);

/// A connection from `own`, once the one before has left the port.
#[expect(clippy::disallowed_methods, reason = "tests wait in real time")]
async fn connect(own: SocketAddr, vip: SocketAddr) -> (TcpStream, Instant) {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let socket = if own.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }.expect("a socket");
        socket.set_reuseaddr(true).expect("an option of every socket");
        socket.bind(own).expect("the port is shared with what is closing");
        let start = Instant::now();
        match socket.connect(vip).await {
            Ok(stream) => return (stream, start),
            Err(error) if Errno::from_io_error(&error) == Some(Errno::ADDRNOTAVAIL) => {
                assert!(Instant::now() < deadline, "the last connection does not end");
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            Err(error) => panic!("{vip}: {error}"),
        }
    }
}

/// One request in a connection of its own, which the server closes: who answered, and after how long.
async fn ask(own: SocketAddr, vip: SocketAddr) -> (String, Duration) {
    let (mut stream, start) = connect(own, vip).await;
    let request = b"GET / HTTP/1.1\r\nHost: lab\r\nConnection: close\r\n\r\n";
    stream.write_all(request).await.expect("an open connection");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.expect("an answer and its end");
    let took = start.elapsed();
    let (_, name) = answer.split_once("\r\n\r\n").expect("an answer with a body");
    (name.trim().to_owned(), took)
}

/// Who answered each of `count` connections, one after the other. No SYN may have been sent twice.
#[track_caller]
fn answers(lab: &Lab, what: &str, [own, vip]: [&str; 2], count: usize) -> Vec<String> {
    let [own, vip] = [own, vip].map(|address| address.parse().expect("address and port"));
    let before = sent_twice(lab);
    let (names, mut times): (Vec<String>, Vec<Duration>) = lab.enter("c1", || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        runtime.block_on(async {
            let mut asked = Vec::new();
            for _ in 0..count {
                let answered = tokio::time::timeout(PATIENCE, ask(own, vip)).await;
                asked.push(answered.expect("an answer in time"));
            }
            asked.into_iter().unzip()
        })
    });
    times.sort_unstable();
    println!("{what}, {vip}: median {:?}, longest {:?}", times[count / 2], times[count - 1]);
    assert_eq!(sent_twice(lab) - before, 0, "SYNs to {vip} that were sent again, {what}");
    names
}

/// How many SYNs the client's kernel has sent again.
fn sent_twice(lab: &Lab) -> u64 {
    let counters = lab.run("c1", &["cat", "/proc/net/netstat"]);
    let mut lines = counters.lines().filter(|line| line.starts_with("TcpExt:")).map(str::split_whitespace);
    let (mut names, mut numbers) = (lines.next().expect("names"), lines.next().expect("numbers"));
    let position = names.position(|name| name == "TCPSynRetrans").expect("a counter of Linux");
    numbers.nth(position).expect("as many numbers").parse().expect("a number")
}

fn web(vip: &str) -> Value {
    let address: SocketAddr = vip.parse().expect("address and port");
    json!({ "protocol": "tcp", "address": address.ip().to_string(), "port": 80 })
}

fn set_weight(lab: &Lab, vip: &str, name: &str, weight: u32) {
    let servers = [["10.0.2.11", "10.0.3.12", "10.0.4.13"], ["fd00:2::11", "fd00:3::12", "fd00:4::13"]];
    let number: usize = name[1..].parse().expect("s1, s2 or s3");
    let address = servers[usize::from(vip.contains('['))][number - 1];
    let server = json!({ "address": address, "port": 8080, "weight": weight });
    lab.request(&json!({ "command": "edit-server", "service": web(vip), "server": server }));
}

fn tune(lab: &Lab, tunables: &Value) {
    lab.request(&json!({ "command": "set-tunables", "tunables": tunables }));
}

fn has_each(names: &[String]) -> bool {
    ["s1", "s2", "s3"].iter().all(|server| names.iter().any(|name| name == server))
}

#[test]
fn a_port_that_is_used_again_gets_the_next_server_at_once() {
    let lab = Lab::up("reuse", "nat", &[]);
    for mode in [1, 2] {
        tune(&lab, &json!({ "conn_reuse_mode": mode }));
        for (own, vip) in FAMILIES {
            let what = format!("conn_reuse_mode {mode}");
            let names = answers(&lab, &what, [own, vip], CONNECTIONS / 2);
            assert!(has_each(&names), "{what}: {names:?}");
            // The last one's connection is closing there.
            let drained = names.last().expect("many").clone();
            set_weight(&lab, vip, &drained, 0);
            let names = answers(&lab, &what, [own, vip], CONNECTIONS / 2);
            assert!(!names.contains(&drained), "{what}: {drained} is to have no new connections");
            set_weight(&lab, vip, &drained, 1);
        }
    }
    lab.assert_no_checksum_errors();
}

#[test]
fn with_mode_0_it_stays_with_its_server_and_is_answered_at_once() {
    let lab = Lab::up("reuse-0", "nat", &[]);
    tune(&lab, &json!({ "conn_reuse_mode": 0 }));
    for (own, vip) in FAMILIES {
        let names = answers(&lab, "conn_reuse_mode 0", [own, vip], CONNECTIONS);
        assert!(names.iter().all(|name| *name == names[0]), "{names:?}");
    }
}

#[test]
fn a_persistent_client_is_answered_at_once_by_its_server_until_that_is_drained() {
    let lab = Lab::up("reuse-persistent", "nat", &[]);
    for (own, vip) in FAMILIES {
        let mut persistent = web(vip);
        persistent["persistence"] = json!({ "timeout": 300 });
        lab.request(&json!({ "command": "edit-service", "service": persistent }));
        tune(&lab, &json!({ "expire_nodest_conn": 0, "expire_quiescent_template": 0 }));
        let names = answers(&lab, "persistence", [own, vip], CONNECTIONS);
        let first = names[0].clone();
        assert!(names.iter().all(|name| *name == first), "{names:?}");

        tune(&lab, &json!({ "expire_nodest_conn": 1, "expire_quiescent_template": 1 }));
        set_weight(&lab, vip, &first, 0);
        let names = answers(&lab, "persistence, drained", [own, vip], CONNECTIONS);
        assert!(!names.contains(&first), "{first} is to have no new connections");
    }
}
