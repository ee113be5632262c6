//! Replays exchanges of packets through a kernel's director, recorded in `tests/vectors/states.jsonl`, through the
//! whole engine: real packets, virtual time. After each, state, time left and the server's counts are what the kernel
//! had.
//!
//! `STATE_VECTORS=FILE cargo test --release --test state_vectors` replays another file of that format.

use etherparse::{IpNumber, PacketBuilder, TcpHeader};
use nfvs::director::defence::DefenceMode;
use nfvs::director::packet::Transport;
use nfvs::director::scheduler::SchedulerKind;
use nfvs::director::service::{ForwardMethod, ServiceKey, Tunables, Weight};
use nfvs::director::{Command, Director, Hook, Limits, PacketMeta, ServerSpec, ServiceSpec, Time, Verdict};
use serde::Deserialize;
use std::collections::BTreeMap;
use std::net::SocketAddrV4;
use std::time::Duration;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Exchange {
    protocol: String,
    forward: String,
    /// The tunable's value: 2 and 3 are "on".
    secure_tcp: u32,
    steps: Vec<Step>,
}

/// A packet, and what the kernel showed a moment later.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Step {
    dir: Dir,
    event: String,
    state: String,
    /// Whole seconds left, rounded down.
    expires: u64,
    active: u32,
    inactive: u32,
}

#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Dir {
    In,
    Out,
}

const VIP: &str = "10.0.0.100:80";
const CLIENT: &str = "10.0.1.2:5000";
const SERVER: &str = "10.0.2.11:8080";

#[test]
fn every_exchange_comes_out_as_the_kernel_has_it() {
    let recorded = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/vectors/states.jsonl");
    let chosen = std::env::var("STATE_VECTORS").ok();
    let path = chosen.as_deref().unwrap_or(recorded);
    let text = std::fs::read_to_string(path).unwrap_or_else(|error| panic!("{path}: {error}"));
    let mut replayed: BTreeMap<String, (usize, usize)> = BTreeMap::new();
    for (number, line) in (1..).zip(text.lines()).filter(|(_, line)| !line.trim().is_empty()) {
        let exchange: Exchange = serde_json::from_str(line).unwrap_or_else(|e| panic!("line {number}: {e}"));
        replay(number, &exchange);
        let kind = format!("{} {} secure_tcp {}", exchange.protocol, exchange.forward, exchange.secure_tcp);
        let (exchanges, packets) = replayed.entry(kind).or_default();
        *exchanges += 1;
        *packets += exchange.steps.len();
    }
    for (kind, (exchanges, packets)) in &replayed {
        println!("{kind}: {exchanges} exchanges, {packets} packets");
    }
    let all = replayed.values().fold((0, 0), |sum, count| (sum.0 + count.0, sum.1 + count.1));
    if chosen.is_none() {
        assert_eq!((replayed.len(), all), (6, (360, 2_650)));
    }
    assert_ne!(all.1, 0, "{path} has no packet");
}

/// The recording has no UDP; the format has.
#[test]
fn an_exchange_of_datagrams_may_be_recorded_too() {
    for forward in ["nat", "dr", "tunnel"] {
        let step = |dir: &str| {
            format!(r#"{{"dir":"{dir}","event":"","state":"UDP","expires":299,"active":0,"inactive":1}}"#)
        };
        let steps = [step("in"), step("out"), step("in")].join(",");
        let line = format!(r#"{{"protocol":"udp","forward":"{forward}","secure_tcp":0,"steps":[{steps}]}}"#);
        replay(1, &serde_json::from_str(&line).expect("an exchange"));
    }
}

fn replay(number: usize, exchange: &Exchange) {
    let transport = match exchange.protocol.as_str() {
        "tcp" => Transport::Tcp,
        "udp" => Transport::Udp,
        "sctp" => Transport::Sctp,
        other => panic!("line {number}: protocol {other}"),
    };
    let forward = match exchange.forward.as_str() {
        "nat" => ForwardMethod::Nat,
        "dr" => ForwardMethod::Dr,
        "tunnel" => ForwardMethod::Tunnel,
        other => panic!("line {number}: forward {other}"),
    };
    let secure_tcp = if exchange.secure_tcp > 1 { DefenceMode::Always } else { DefenceMode::Off };
    let director = director(transport, forward, secure_tcp);
    let mut now = Time::from_millis(1_000_000);
    for (index, step) in exchange.steps.iter().enumerate() {
        let place = format!("line {number}, packet {index}: {:?} {}", step.dir, step.event);
        let (from, to) = match (step.dir, forward) {
            (Dir::In, _) => (CLIENT, VIP),
            (Dir::Out, ForwardMethod::Nat) => (SERVER, CLIENT),
            (Dir::Out, _) => (VIP, CLIENT),
        };
        let mut bytes =
            packet(transport, from, to, &step.event).unwrap_or_else(|| panic!("{place}: no such event"));
        let original_len = bytes.len();
        let meta =
            PacketMeta { hook: Hook::Prerouting, checksum_owed: false, gso: false, original_len, mark: None };
        let verdict = director.handle_packet(now, &meta, &mut bytes);
        assert!(!matches!(verdict, Verdict::Drop(_) | Verdict::Refuse(_)), "{place}: {verdict:?}");

        let connections: Vec<_> = director.connections(now).flatten().collect();
        let [connection] = connections.as_slice() else { panic!("{place}: {connections:?}") };
        let services = director.services();
        let server = &services.iter().next().expect("the service").servers[0];
        assert_eq!(
            (connection.state.to_string(), server.active_conns(), server.inactive_conns()),
            (step.state.clone(), step.active, step.inactive),
            "{place}"
        );
        // The kernel's table was read a moment after the packet, so a fresh 60 shows as 59; within the same tick of
        // the kernel's clock, as 60.
        let fresh = connection.expires.as_secs();
        assert!([fresh - 1, fresh].contains(&step.expires), "{place}: {fresh}, recorded {}", step.expires);
        director.check_invariants();
        now = now + Duration::from_millis(1);
    }
}

/// A director with one service with one server.
fn director(transport: Transport, forward: ForwardMethod, secure_tcp: DefenceMode) -> Director {
    let director = Director::new(Limits::default(), 7);
    let address: SocketAddrV4 = VIP.parse().expect("an address");
    let service = ServiceSpec {
        key: ServiceKey::Endpoint { transport, address: (*address.ip()).into(), port: address.port() },
        name: "recorded".to_owned(),
        scheduler: SchedulerKind::Rr,
        settings: Default::default(),
        servers: vec![ServerSpec {
            tunnel: Default::default(),
            thresholds: Default::default(),
            address: SERVER.parse().expect("an address"),
            weight: Weight::default(),
            forward,
        }],
    };
    let tunables = Tunables { secure_tcp, ..Tunables::default() };
    director
        .apply(&[Command::AddService(service), Command::SetTunables(tunables)])
        .expect("a service like any other");
    director
}

/// The packet of an event: TCP by its flags, SCTP by its first chunk; of UDP there is one kind.
fn packet(transport: Transport, from: &str, to: &str, event: &str) -> Option<Vec<u8>> {
    let [from, to]: [SocketAddrV4; 2] = [from, to].map(|it| it.parse().expect("an address"));
    let ip = PacketBuilder::ipv4(from.ip().octets(), to.ip().octets(), 64);
    let mut bytes = Vec::new();
    match transport {
        Transport::Tcp => {
            let mut header = TcpHeader::new(from.port(), to.port(), 1000, 4096);
            for letter in event.chars() {
                match letter {
                    'F' => header.fin = true,
                    'S' => header.syn = true,
                    'R' => header.rst = true,
                    'P' => header.psh = true,
                    'A' => header.ack = true,
                    _ => return None,
                }
            }
            ip.tcp_header(header).write(&mut bytes, b"").ok()?;
        }
        Transport::Udp => ip.udp(from.port(), to.port()).write(&mut bytes, event.as_bytes()).ok()?,
        Transport::Sctp => {
            let chunk = CHUNKS.iter().find(|(name, _)| *name == event)?.1;
            let header = [&from.port().to_be_bytes()[..], &to.port().to_be_bytes(), &[0; 8]].concat();
            ip.write(&mut bytes, IpNumber::SCTP, &[&header[..], &[chunk, 0, 0, 4]].concat()).ok()?;
        }
    }
    Some(bytes)
}

/// RFC 9260, 3.2.
const CHUNKS: [(&str, u8); 15] = [
    ("DATA", 0),
    ("INIT", 1),
    ("INIT_ACK", 2),
    ("SACK", 3),
    ("HEARTBEAT", 4),
    ("HEARTBEAT_ACK", 5),
    ("ABORT", 6),
    ("SHUTDOWN", 7),
    ("SHUTDOWN_ACK", 8),
    ("ERROR", 9),
    ("COOKIE_ECHO", 10),
    ("COOKIE_ACK", 11),
    ("ECNE", 12),
    ("CWR", 13),
    ("SHUTDOWN_COMPLETE", 14),
];
