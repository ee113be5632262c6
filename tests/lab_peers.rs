//! Two directors of one virtual address, each a server of the other by direct routing: what one has balanced, the other
//! does not balance again.

mod common;

use common::lab::{Lab, OtherDaemon};
use serde_json::{Value, json};

/// The director of the scenario, and `s1`, which is one too.
const FIRST: &str = "director";
const SECOND: &str = "s1";
const URLS: [&str; 2] = ["http://10.0.0.100", "http://[fd00::100]"];
/// A virtual address that the second director does not have for its own.
const FOREIGN: &str = "http://10.0.0.101";

/// How many requests are made where they come to something.
const REQUESTS: u16 = 50;
/// How many rounds two directors may play with one SYN before this is called a storm.
const STORM: u64 = 10;

struct Pair {
    second: OtherDaemon,
    lab: Lab,
}

/// Brings up the scenario `dr` with a second daemon on `s1`. All that the first director has goes to the second, which
/// has itself and the first for servers.
fn pair() -> Pair {
    let lab = Lab::up("peers", "dr", &["--vip", "local"]);
    for (address, own) in [("10.0.0.100", "10.0.2.11"), ("fd00::100", "fd00:2::11")] {
        for other in ["10.0.2.12", "10.0.2.13", "fd00:2::12", "fd00:2::13"] {
            if own.contains(':') == other.contains(':') {
                let service = json!({ "protocol": "tcp", "address": address, "port": 80 });
                let server = json!({ "address": other, "port": 80 });
                lab.request(&json!({ "command": "delete-server", "service": service, "server": server }));
            }
        }
    }
    let foreign = service("10.0.0.101", &["10.0.2.11"]);
    lab.request(&json!({ "command": "add-service", "service": foreign }));

    lab.shell(
        SECOND,
        "echo 1 > /proc/sys/net/ipv4/ip_forward; echo 1 > /proc/sys/net/ipv6/conf/all/forwarding",
    );
    // Every SYN to a virtual address, before anybody has looked at it.
    lab.shell(
        SECOND,
        "nft 'add table inet count
              add chain inet count count { type filter hook prerouting priority -310; }
              add rule inet count count tcp flags & (syn | ack) == syn counter'",
    );
    Pair { second: lab.start_in(SECOND, &config(&[])), lab }
}

fn service(address: &str, servers: &[&str]) -> Value {
    let servers: Vec<Value> =
        servers.iter().map(|address| json!({ "address": address, "forward": "dr" })).collect();
    json!({ "protocol": "tcp", "address": address, "port": 80, "scheduler": "rr", "servers": servers })
}

/// The configuration of the second director.
fn config(peers: &[&str]) -> Value {
    let services = [
        service("10.0.0.100", &["10.0.2.11", "10.0.2.1"]),
        service("10.0.0.101", &["10.0.2.11", "10.0.2.1"]),
        service("fd00::100", &["fd00:2::11", "fd00:2::1"]),
    ];
    json!({ "services": services, "peers": peers })
}

impl Pair {
    /// How many connections the second director has made.
    fn made(&self) -> u64 {
        self.second.show("stats")["total"]["connections"].as_u64().unwrap()
    }

    /// How many SYNs have come to the second director.
    fn syns(&self) -> u64 {
        let rules = self.lab.run(SECOND, &["nft", "list", "table", "inet", "count"]);
        let counted = rules.split("counter packets ").nth(1).expect("a counter");
        counted.split(' ').next().unwrap().parse().unwrap()
    }
}

#[test]
fn what_a_peer_has_balanced_is_not_balanced_again() {
    let pair = pair();
    // Without a word about peers every other SYN goes to and fro between the two.
    for url in URLS {
        let before = pair.syns();
        let script = format!("for i in 1 2; do curl -sS --max-time 1 {url} || true; done");
        pair.lab.shell("c1", &script);
        assert!(pair.syns() - before > 2 * STORM, "{url}: {} SYNs and no storm", pair.syns() - before);
    }

    let mac = pair.lab.run(FIRST, &["cat", "/sys/class/net/lan/address"]);
    pair.second.reload(&config(&[mac.trim()]));
    let (syns, made) = (pair.syns(), pair.made());
    for url in URLS {
        let said = pair.lab.answers("c1", url, REQUESTS, &[]);
        assert_eq!(said, [("s1".to_owned(), REQUESTS.into())], "{url}");
    }
    assert_eq!(pair.syns() - syns, 2 * u64::from(REQUESTS), "each SYN comes once");
    assert_eq!(pair.made(), made, "the second director has balanced none of them");

    // It would route them back to where they came from.
    let said = pair.lab.try_run("c1", &["curl", "-sS", "--max-time", "5", FOREIGN]);
    const REFUSED: i32 = 7;
    assert_eq!(said.status.code(), Some(REFUSED), "{said:?}");
    assert_eq!(pair.syns() - syns, 2 * u64::from(REQUESTS) + 1);

    // What comes from elsewhere is still balanced: by the second director, between itself and the first.
    pair.lab.shell("r1", "ip route replace 10.0.0.100 via 10.0.2.11");
    pair.lab.shell("c1", "ip route replace 10.0.0.100 via 10.0.5.1");
    let said = pair.lab.answers("c1", URLS[0], 4, &[]);
    assert_eq!(
        said,
        [("s1".to_owned(), 4)],
        "the first gives the second's back to it: it has no other server"
    );
    assert_eq!(pair.made() - made, 4);
}
