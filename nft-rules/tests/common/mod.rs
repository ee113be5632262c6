//! Network namespaces of a test: each node is one, entered by a thread of its own, gone when the node is dropped.

#![allow(dead_code, reason = "each test binary uses a part")]

mod crc32c;
pub(crate) mod raw;
pub(crate) mod sctp;

use std::{
    fs::File,
    net::{IpAddr, SocketAddr},
    os::fd::AsRawFd,
    process::{Command, Output},
    thread,
};

use nft_rules::{Elements, Endpoint, QueuePlan, SourceId, Steering, probe, probe_direct_routing};
use nix::sched::{CloneFlags, setns, unshare};

pub(crate) const TCP: u8 = 6;
pub(crate) const UDP: u8 = 17;

/// A network namespace with lo up.
pub(crate) struct Node {
    namespace: File,
}

impl Node {
    pub(crate) fn new() -> Self {
        let namespace = thread::spawn(|| {
            unshare(CloneFlags::CLONE_NEWNET).expect("these tests need root: a new network namespace");
            File::open("/proc/thread-self/ns/net").expect("the namespace of this thread")
        })
        .join()
        .expect("a namespace");
        let node = Node { namespace };
        node.ip("link set lo up");
        node
    }

    /// Runs `body` in this namespace; sockets it makes stay there wherever they are used.
    pub(crate) fn run<T: Send>(&self, body: impl FnOnce() -> T + Send) -> T {
        let entered = || {
            setns(&self.namespace, CloneFlags::CLONE_NEWNET).expect("enter a namespace of this test");
            body()
        };
        thread::scope(|scope| scope.spawn(entered).join())
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }

    /// Runs a command line (words separated by blanks) here.
    pub(crate) fn command(&self, line: &str) -> Output {
        let words: Vec<_> = line.split_whitespace().collect();
        self.run(|| Command::new(words[0]).args(&words[1..]).output())
            .unwrap_or_else(|error| panic!("`{line}`: {error}: is the program installed?"))
    }

    /// Runs a command that must succeed, and returns what it prints.
    pub(crate) fn must(&self, line: &str) -> String {
        let output = self.command(line);
        assert!(output.status.success(), "`{line}`: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).expect("text")
    }

    pub(crate) fn ip(&self, line: &str) {
        self.must(&format!("ip {line}"));
    }

    /// Loads nft text.
    pub(crate) fn nft(&self, text: &str) {
        let mut file = tempfile();
        std::io::Write::write_all(&mut file, text.as_bytes()).expect("write a temporary file");
        self.must(&format!("nft -f /proc/{}/fd/{}", std::process::id(), file.as_raw_fd()));
    }

    pub(crate) fn ruleset(&self) -> String {
        self.must("nft list ruleset")
    }

    fn path(&self) -> String {
        format!("/proc/{}/fd/{}", std::process::id(), self.namespace.as_raw_fd())
    }
}

/// An anonymous file that a child can open through /proc.
fn tempfile() -> File {
    let path = std::env::temp_dir().join(format!("nft-rules-{:?}", thread::current().id()));
    let path = path.with_extension(std::process::id().to_string());
    let file = File::create_new(&path).expect("a temporary file");
    std::fs::remove_file(&path).expect("remove the name of a temporary file");
    file
}

/// Client, director and server in a row, IPv4 and IPv6. The director forwards, and its default route leads to the
/// server's node: what it should not forward shows up there. Every other sysctl is the kernel's default.
pub(crate) struct Row {
    pub(crate) client: Node,
    pub(crate) director: Node,
    pub(crate) server: Node,
}

pub(crate) const CLIENT: [&str; 2] = ["10.0.1.2", "fd00:1::2"];
pub(crate) const DIRECTOR: [&str; 2] = ["10.0.1.1", "fd00:1::1"];
pub(crate) const SERVER: [&str; 2] = ["10.0.2.11", "fd00:2::11"];
pub(crate) const VIP: [&str; 2] = ["10.0.0.100", "fd00::100"];

impl Row {
    pub(crate) fn new() -> Self {
        let row = Row { client: Node::new(), director: Node::new(), server: Node::new() };
        for (node, device, other, side) in [(&row.client, "dc", "cd", "1"), (&row.server, "ds", "sd", "2")] {
            let host = if side == "1" { "2" } else { "11" };
            row.director.ip(&format!("link add {device} type veth peer name {other} netns {}", node.path()));
            for (node, device, host) in [(&row.director, device, "1"), (node, other, host)] {
                node.ip(&format!("addr add 10.0.{side}.{host}/24 dev {device}"));
                node.ip(&format!("addr add fd00:{side}::{host}/64 dev {device} nodad"));
                node.ip(&format!("link set {device} up"));
            }
            node.ip(&format!("route add default via 10.0.{side}.1"));
            node.ip(&format!("route add default via fd00:{side}::1"));
        }
        row.director.ip("route add default via 10.0.2.11");
        row.director.ip("route add default via fd00:2::11");
        row.director.must("sysctl -qw net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1");
        // Links come up asynchronously; the first echo waits for them.
        for (from, to) in [(&row.client, DIRECTOR), (&row.director, SERVER)] {
            for address in to {
                from.must(&format!("ping -q -c 1 -W 5 {address}"));
            }
        }
        row
    }

    /// Configures the VIPs on the director's client side, as keepalived does.
    pub(crate) fn make_vips_local(&self) {
        self.director.ip(&format!("addr add {}/32 dev dc", VIP[0]));
        self.director.ip(&format!("addr add {}/128 dev dc nodad", VIP[1]));
    }
}

/// The steering for this kernel.
pub(crate) fn steering(count: u16) -> Steering {
    let queues = QueuePlan { base: 0, count };
    probe_direct_routing().expect("a way to route directly");
    Steering { queues, target: probe().expect("a way to queue"), direct_routing: true }
}

pub(crate) fn endpoint(
    protocol: u8,
    address: &str,
    port: Option<u16>,
    source: u16,
    server: (&str, Option<u16>),
) -> Endpoint {
    Endpoint {
        address: address.parse().expect("an address"),
        protocol,
        port,
        source: SourceId::new(source).expect("a source id"),
        servers: vec![(server.0.parse::<IpAddr>().expect("an address"), server.1)],
        routes: vec![],
        tunnels: vec![],
        accepts: true,
        answers_ping: true,
        ftp_data: false,
        reads_payload: false,
    }
}

/// TCP and UDP services on port 80 of both VIPs, their servers on port 8080.
pub(crate) fn both_services() -> Vec<Endpoint> {
    let mut endpoints = Vec::new();
    for (family, (vip, server)) in VIP.into_iter().zip(SERVER).enumerate() {
        for (kind, protocol) in [TCP, UDP].into_iter().enumerate() {
            let source = 1 + 2 * family as u16 + kind as u16;
            endpoints.push(endpoint(protocol, vip, Some(80), source, (server, Some(8080))));
        }
    }
    endpoints
}

/// TCP and UDP services on port 443 of both VIPs, whose one server is reached by direct routing.
pub(crate) fn routed_services() -> Vec<Endpoint> {
    let mut endpoints = Vec::new();
    for (family, (vip, server)) in VIP.into_iter().zip(SERVER).enumerate() {
        for (kind, protocol) in [TCP, UDP].into_iter().enumerate() {
            let source = 10 + 3 * family as u16 + kind as u16;
            let mut endpoint = endpoint(protocol, vip, Some(443), source, (server, None));
            let (address, _) = endpoint.servers.remove(0);
            let route = SourceId::new(12 + 3 * family as u16).expect("a source id");
            endpoint.routes.push((address, route));
            endpoints.push(endpoint);
        }
    }
    endpoints
}

pub(crate) fn elements(endpoints: Vec<Endpoint>) -> Elements {
    Elements::from_endpoints(endpoints)
}

pub(crate) fn at(address: &str, port: u16) -> SocketAddr {
    SocketAddr::new(address.parse().expect("an address"), port)
}

/// The sum of the counters in the lines of a listing that contain `what`.
pub(crate) fn packets(listing: &str, what: &str) -> u64 {
    listing
        .lines()
        .filter(|line| line.contains(what))
        .filter_map(|line| line.split("counter packets ").nth(1)?.split(' ').next()?.parse::<u64>().ok())
        .sum()
}
