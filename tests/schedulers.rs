//! Replays the choices of a kernel's schedulers, recorded in `tests/vectors/`.

use nfvs::director::scheduler::{Scheduler, SchedulerKind, build};
use nfvs::director::service::{ForwardMethod, RealServer, ServerId, Thresholds, Weight};
use serde::Deserialize;
use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::net::IpAddr;
use std::sync::Arc;

#[derive(Deserialize)]
struct Scenario {
    name: String,
    scheduler: String,
    /// UDP if absent.
    protocol: Option<String>,
    dests: Vec<Dest>,
    thresholds: Option<HashMap<u64, (u32, u32)>>,
    events: BTreeMap<usize, Vec<(Operation, u64, u32)>>,
    connections: Vec<Vec<serde_json::Value>>,
    picks: Vec<Option<u64>>,
}

#[derive(Deserialize)]
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

impl Scenario {
    fn thresholds(&self, id: u64) -> Thresholds {
        let given = self.thresholds.as_ref().and_then(|thresholds| thresholds.get(&id));
        given.map(|&(upper, lower)| Thresholds { upper, lower }).unwrap_or_default()
    }

    /// Whether connection `index` counts as active: TCP, in SYN_RECV.
    fn is_active(&self, index: usize) -> bool {
        match self.protocol.as_deref() {
            Some("mixed") => self.connections[index][4] == "tcp",
            Some("tcp") => true,
            None | Some("udp") => false,
            Some(other) => panic!("{}: protocol {other}", self.name),
        }
    }
}

/// A service as the kernel keeps it: the newest server first, removed ones kept with their counters.
struct Service {
    scheduler: Box<dyn Scheduler>,
    servers: Vec<Arc<RealServer>>,
    removed: HashMap<u64, Arc<RealServer>>,
    returns: usize,
}

impl Service {
    fn new(kind: SchedulerKind) -> Service {
        Service { scheduler: build(kind, 0), servers: Vec::new(), removed: HashMap::new(), returns: 0 }
    }

    fn position(&self, id: u64) -> usize {
        self.servers.iter().position(|server| server.id == ServerId(id)).expect("a server of the service")
    }

    fn add(&mut self, id: u64, address: IpAddr, weight: u32, thresholds: Thresholds) {
        let weight = Weight::new(weight).unwrap();
        let server = match self.removed.remove(&id) {
            Some(server) => {
                self.returns += 1;
                server.set_weight(weight);
                server
            }
            None => Arc::new(RealServer::new(ServerId(id), address, 5300, ForwardMethod::Nat, weight)),
        };
        server.set_thresholds(thresholds);
        self.servers.insert(0, server);
        self.scheduler.on_added(&self.servers);
    }

    fn apply(&mut self, operation: Operation, id: u64, address: IpAddr, weight: u32, thresholds: Thresholds) {
        match operation {
            Operation::Add => self.add(id, address, weight, thresholds),
            Operation::Edit => {
                let server = &self.servers[self.position(id)];
                server.set_weight(Weight::new(weight).unwrap());
                server.set_thresholds(thresholds);
                self.scheduler.on_changed(&self.servers);
            }
            Operation::Del => {
                let position = self.position(id);
                self.removed.insert(id, self.servers.remove(position));
                self.scheduler.on_removed(ServerId(id), position, &self.servers);
            }
        }
    }

    fn connect(&mut self, active: bool) -> Option<u64> {
        let server = &self.servers[self.scheduler.schedule(&self.servers)?];
        server.bind_connection(active);
        Some(server.id.0)
    }
}

/// How many scenarios of a file were replayed, and why others were not.
#[derive(Debug, Default, PartialEq)]
struct Tally {
    replayed: usize,
    connections: usize,
    /// Servers that came back with their counters.
    returns: usize,
    /// Another scheduler than ours.
    other_scheduler: usize,
}

fn replay(file: &str) -> Tally {
    let path = format!("{}/tests/vectors/{file}", env!("CARGO_MANIFEST_DIR"));
    let text = fs::read_to_string(&path).unwrap_or_else(|error| panic!("{path}: {error}"));
    let mut tally = Tally::default();
    for line in text.lines() {
        let scenario: Scenario = serde_json::from_str(line).unwrap_or_else(|error| panic!("{file}: {error}"));
        let Ok(kind) = scenario.scheduler.parse() else {
            tally.other_scheduler += 1;
            continue;
        };
        let mut service = Service::new(kind);
        for dest in &scenario.dests {
            service.add(dest.id, dest.address, dest.weight, scenario.thresholds(dest.id));
        }
        for (index, &expected) in scenario.picks.iter().enumerate() {
            for &(operation, id, weight) in scenario.events.get(&index).into_iter().flatten() {
                let thresholds = scenario.thresholds(id);
                service.apply(operation, id, scenario.dests[0].address, weight, thresholds);
            }
            let chosen = service.connect(scenario.is_active(index));
            assert_eq!(chosen, expected, "{}: connection {index}", scenario.name);
        }
        tally.replayed += 1;
        tally.connections += scenario.picks.len();
        tally.returns += service.returns;
    }
    println!("{file}: {tally:?}");
    tally
}

#[test]
fn udp_scenarios() {
    let expected = Tally { replayed: 64, connections: 3840, returns: 0, other_scheduler: 234 };
    assert_eq!(replay("schedulers.jsonl"), expected);
}

#[test]
fn scenarios_with_active_connections() {
    let expected = Tally { replayed: 48, connections: 1920, returns: 1, other_scheduler: 132 };
    assert_eq!(replay("schedulers-active.jsonl"), expected);
}
