//! Replays the choices of a kernel's schedulers, recorded in `tests/vectors/`.
//!
//! `SCHEDULER_VECTORS=FILE cargo test --release --test scheduler_vectors` replays another file of that form
//! (`tests/vectors/README.md`) in their place.

use nfvs::director::Time;
use nfvs::director::scheduler::{Arrival, Scheduler, SchedulerFlag, SchedulerFlags, SchedulerKind, build};
use nfvs::director::service::{ForwardMethod, RealServer, ServerId, Thresholds, Tunables, Weight};
use serde::Deserialize;
use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::path::Path;
use std::sync::Arc;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Scenario {
    name: String,
    scheduler: String,
    /// As `ipvsadm -b` takes them.
    flags: Option<String>,
    ipv6: bool,
    fwmark: bool,
    /// UDP if absent.
    #[serde(default)]
    protocol: Protocol,
    dests: Vec<Dest>,
    thresholds: Option<HashMap<u64, (u32, u32)>>,
    events: BTreeMap<usize, Vec<(Operation, u64, u32)>>,
    connections: Vec<Connection>,
    picks: Vec<Option<u64>>,
}

#[derive(Clone, Copy, Default, Deserialize, PartialEq)]
#[serde(rename_all = "lowercase")]
enum Protocol {
    #[default]
    Udp,
    Tcp,
    Mixed,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Dest {
    id: u64,
    address: IpAddr,
    weight: u32,
}

#[derive(Clone, Copy, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Operation {
    Add,
    Edit,
    Del,
}

/// Client address and port, destination address and port, and in some files the protocol.
#[derive(Deserialize)]
#[serde(untagged)]
enum Connection {
    Udp(IpAddr, u16, IpAddr, u16),
    Of(IpAddr, u16, IpAddr, u16, Protocol),
}

impl Connection {
    fn client(&self) -> SocketAddr {
        let (Connection::Udp(address, port, ..) | Connection::Of(address, port, ..)) = self;
        SocketAddr::new(*address, *port)
    }

    fn destination(&self) -> SocketAddr {
        let (Connection::Udp(_, _, address, port) | Connection::Of(_, _, address, port, _)) = self;
        SocketAddr::new(*address, *port)
    }

    /// Whether it counts as active: TCP, in SYN_RECV.
    fn is_active(&self) -> bool {
        matches!(self, Connection::Of(.., Protocol::Tcp))
    }
}

impl Scenario {
    /// What the form of a scenario does not say, but the kernel would not have done otherwise.
    fn check(&self) -> Result<(), String> {
        let lasts = self.connections.len();
        let is_of_family = |address: IpAddr| address.is_ipv6() == self.ipv6;
        let of_protocol = |connection: &Connection| match self.protocol {
            Protocol::Udp => !connection.is_active(),
            Protocol::Tcp => connection.is_active(),
            Protocol::Mixed => true,
        };
        if self.picks.len() != lasts {
            Err(format!("{} choices of {lasts} connections", self.picks.len()))
        } else if let Some(index) = self.events.keys().find(|index| **index >= lasts) {
            Err(format!("an event before connection {index}, which there is none of"))
        } else if !self.dests.iter().all(|dest| is_of_family(dest.address)) {
            Err("a server of another family".to_owned())
        } else if !self.connections.iter().all(|connection| is_of_family(connection.destination().ip())) {
            Err("a connection of another family".to_owned())
        } else if !self.connections.iter().all(of_protocol) {
            Err("a connection of another protocol".to_owned())
        } else {
            Ok(())
        }
    }

    fn flags(&self) -> Result<SchedulerFlags, String> {
        let names = self.flags.iter().flat_map(|flags| flags.split(','));
        names
            .map(|name| {
                let found = SchedulerFlag::ALL.iter().copied().find(|flag| flag.name() == name);
                let flag = found.ok_or_else(|| format!("unknown flag {name:?}"))?;
                let is_its = flag.scheduler().name() == self.scheduler;
                is_its.then_some(flag).ok_or_else(|| format!("{} has no flag {flag}", self.scheduler))
            })
            .collect()
    }

    fn thresholds(&self, id: u64) -> Thresholds {
        let given = self.thresholds.as_ref().and_then(|thresholds| thresholds.get(&id));
        given.map(|&(upper, lower)| Thresholds { upper, lower }).unwrap_or_default()
    }

    /// Where a server is that is not among the first ones: as the first of these, but for the last part of the address.
    fn address(&self, id: u64) -> IpAddr {
        if let Some(dest) = self.dests.iter().find(|dest| dest.id == id) {
            return dest.address;
        }
        match self.dests[0].address {
            IpAddr::V4(v4) => {
                let [a, b, c, _] = v4.octets();
                [a, b, c, id as u8].into()
            }
            IpAddr::V6(v6) => Ipv6Addr::from_bits(v6.to_bits() & !0xffff | u128::from(id)).into(),
        }
    }
}

/// A service as the kernel keeps it: the newest server first, removed ones kept with their counters.
struct Service {
    scheduler: Box<dyn Scheduler>,
    flags: SchedulerFlags,
    tunables: Tunables,
    port: u16,
    servers: Vec<Arc<RealServer>>,
    removed: HashMap<u64, Arc<RealServer>>,
    returns: usize,
}

impl Service {
    fn of(scenario: &Scenario) -> Result<Service, String> {
        let kind: SchedulerKind =
            scenario.scheduler.parse().map_err(|error| format!("{error} {:?}", scenario.scheduler))?;
        let mut service = Service {
            scheduler: build(kind, 0),
            flags: scenario.flags()?,
            tunables: Tunables::default(),
            port: if scenario.fwmark { 0 } else { 5300 },
            servers: Vec::new(),
            removed: HashMap::new(),
            returns: 0,
        };
        for dest in &scenario.dests {
            service.add(dest.id, dest.address, dest.weight, scenario.thresholds(dest.id));
        }
        Ok(service)
    }

    fn position(&self, id: u64) -> usize {
        self.servers.iter().position(|server| server.id == ServerId(id)).expect("a server of the service")
    }

    fn add(&mut self, id: u64, address: IpAddr, weight: u32, thresholds: Thresholds) {
        let weight = Weight::new(weight).unwrap();
        let server = match self.removed.remove(&id) {
            Some(server) => {
                self.returns += 1;
                server.reset_weight(weight);
                server.set_available(true);
                server
            }
            None => Arc::new(RealServer::new(ServerId(id), address, self.port, ForwardMethod::Nat, weight)),
        };
        server.set_thresholds(thresholds);
        self.servers.insert(0, server);
        self.scheduler.on_added(&self.servers);
    }

    fn apply(&mut self, operation: Operation, id: u64, scenario: &Scenario, weight: u32) {
        let thresholds = scenario.thresholds(id);
        match operation {
            Operation::Add => self.add(id, scenario.address(id), weight, thresholds),
            Operation::Edit => {
                let server = &self.servers[self.position(id)];
                server.set_weight(Weight::new(weight).unwrap());
                server.set_thresholds(thresholds);
                self.scheduler.on_changed(&self.servers);
            }
            Operation::Del => {
                let position = self.position(id);
                let server = self.servers.remove(position);
                server.set_available(false);
                self.removed.insert(id, server);
                self.scheduler.on_removed(ServerId(id), position, &self.servers);
            }
        }
    }

    fn connect(&mut self, connection: &Connection) -> Option<u64> {
        let arrival = Arrival {
            now: Time::ZERO,
            client: connection.client(),
            destination: connection.destination().ip(),
            flags: self.flags,
            tunables: &self.tunables,
        };
        let server = self.scheduler.schedule(&self.servers, &arrival)?;
        server.bind_connection(connection.is_active());
        Some(server.id.0)
    }
}

/// What was replayed.
#[derive(Debug, Default, PartialEq)]
struct Tally {
    scenarios: usize,
    choices: usize,
    equal: usize,
    /// Servers that came back with their counters.
    returns: usize,
    /// Choices of each scheduler.
    schedulers: BTreeMap<String, usize>,
}

/// Replays the scenarios of a text, one a line.
///
/// # Errors
/// The first line that is no scenario that can be replayed.
fn replay(text: &str) -> Result<Tally, String> {
    let mut tally = Tally::default();
    for (line, number) in text.lines().zip(1..) {
        let scenario: Scenario =
            serde_json::from_str(line).map_err(|error| format!("line {number}: {error}"))?;
        let place = |what: String| format!("line {number}, {}: {what}", scenario.name);
        scenario.check().map_err(place)?;
        let mut service = Service::of(&scenario).map_err(place)?;
        for (index, (connection, &expected)) in scenario.connections.iter().zip(&scenario.picks).enumerate() {
            for &(operation, id, weight) in scenario.events.get(&index).into_iter().flatten() {
                service.apply(operation, id, &scenario, weight);
            }
            let chosen = service.connect(connection);
            tally.choices += 1;
            *tally.schedulers.entry(scenario.scheduler.clone()).or_default() += 1;
            if chosen == expected {
                tally.equal += 1;
            } else {
                println!("{}, connection {index}: {chosen:?}, and the kernel {expected:?}", scenario.name);
                // What follows depends on it.
                tally.choices += scenario.picks.len() - index - 1;
                break;
            }
        }
        tally.scenarios += 1;
        tally.returns += service.returns;
    }
    Ok(tally)
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// Replays a file, of which every choice must be the kernel's.
fn replay_file(path: &Path) -> Tally {
    let tally = replay(&read(path)).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let Tally { scenarios, choices, equal, schedulers, .. } = &tally;
    println!("{}: {scenarios} scenarios, {equal} of {choices} choices equal; {schedulers:?}", path.display());
    assert!(*choices > 0, "{}: nothing to replay", path.display());
    assert_eq!(equal, choices, "{}", path.display());
    tally
}

fn recorded(file: &str) -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/vectors").join(file)
}

/// All schedulers of the kernel but `twos`, which Debian's does not have.
const OF_THE_KERNEL: [&str; 13] =
    ["dh", "fo", "lblc", "lblcr", "lc", "mh", "nq", "ovf", "rr", "sed", "sh", "wlc", "wrr"];

#[test]
fn every_choice_is_the_kernels() {
    if let Some(file) = std::env::var_os("SCHEDULER_VECTORS") {
        replay_file(Path::new(&file));
        return;
    }
    let (udp, active) =
        (replay_file(&recorded("schedulers.jsonl")), replay_file(&recorded("schedulers-active.jsonl")));
    println!("{} of {} choices equal", udp.equal + active.equal, udp.choices + active.choices);
    assert_eq!((udp.scenarios, udp.equal), (298, 17_880));
    assert_eq!((active.scenarios, active.equal), (180, 7_200));
    assert!(active.returns > 0, "no server has come back");
    assert!(udp.schedulers.keys().eq(OF_THE_KERNEL), "{:?}", udp.schedulers);
}

#[test]
fn what_cannot_be_replayed_is_refused() {
    let text = read(&recorded("schedulers.jsonl"));
    let line = text
        .lines()
        .find(|line| line.contains("\"sh\"") && line.contains("sh-port"))
        .expect("sh with sh-port");
    assert_eq!(replay(line).map(|tally| (tally.choices, tally.equal)), Ok((60, 60)));
    for (what, from, to, complaint) in [
        (
            "an unknown scheduler",
            "\"scheduler\": \"sh\"",
            "\"scheduler\": \"shh\"",
            "unknown scheduler \"shh\"",
        ),
        (
            "another scheduler's flag",
            "\"scheduler\": \"sh\"",
            "\"scheduler\": \"wlc\"",
            "wlc has no flag sh-port",
        ),
        ("an unknown flag", "\"sh-port\"", "\"sh-prt\"", "unknown flag \"sh-prt\""),
        ("an unknown field", "\"fwmark\"", "\"weights\": 1, \"fwmark\"", "unknown field `weights`"),
        ("a field that is not there", "\"ipv6\": false,", "", "missing field `ipv6`"),
        ("another family", "\"ipv6\": false", "\"ipv6\": true", "a server of another family"),
        (
            "another protocol",
            "\"fwmark\"",
            "\"protocol\": \"tcp\", \"fwmark\"",
            "a connection of another protocol",
        ),
        (
            "an event too late",
            "\"events\": {",
            "\"events\": {\"60\": [[\"del\", 1, 0]]",
            "before connection 60",
        ),
        ("a choice too few", "\"picks\": [", "\"picks\": [] , \"picks\": [", "duplicate field"),
        ("no JSON", "{", "", "line 1"),
    ] {
        assert!(line.contains(from), "{what}: {from}");
        let error = replay(&line.replacen(from, to, 1)).expect_err(what);
        assert!(error.contains(complaint), "{what}: {error}");
    }
}

// A replay that found everything equal would show nothing.
#[test]
fn another_choice_is_seen() {
    let text = read(&recorded("schedulers.jsonl"));
    let line =
        text.lines().find(|line| line.contains("\"rr\"") && line.contains("\"events\": {}")).expect("rr");
    let picks = line.find("\"picks\": [").expect("choices") + "\"picks\": [".len();
    let mut changed = line.to_owned();
    changed.replace_range(picks..=picks, "9");
    assert_eq!(replay(&changed).map(|tally| (tally.choices, tally.equal)), Ok((60, 0)));
}
