//! What is done: random, but the same for the same seed and the same answers of the directors.
//!
//! What docs/differences.md lists is left out: packets to servers that were removed (UDP) or of services that were
//! deleted, a server's SYN+ACK on a connection that is over, replies by direct routing across a director that has the
//! virtual address, from which address a refusal comes, SCTP that no service or association waits for, one server
//! behind two services, direct routing to another port, and the deletion of the last service.

use crate::director::Entry;
use crate::network::{CLIENT, SERVERS, VIPS};
use crate::packet::{Content, Packet, Protocol};
use fastrand::Rng;
use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::time::Duration;

const SCHEDULERS: [&str; 4] = ["rr", "wrr", "lc", "wlc"];
const PORTS: [(Protocol, u16); 5] = [
    (Protocol::Tcp, 80),
    (Protocol::Tcp, 443),
    (Protocol::Udp, 53),
    (Protocol::Udp, 123),
    (Protocol::Sctp, 3868),
];
const CLIENT_PORTS: std::ops::RangeInclusive<u16> = 40_001..=40_006;
/// Servers reached by NAT have this port, and one more for each service.
const FIRST_SERVER_PORT: u16 = 9000;
/// A service that stays, for each family: IPVS looks at no reply while it has none.
const LAST_PORT: u16 = 9999;
/// An entry that ends in so many seconds might be there in one director and not in the other.
const NEARLY: u64 = 2;

/// What names a service.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Key {
    pub(crate) protocol: Protocol,
    pub(crate) address: SocketAddr,
    /// Of a service by mark, which has of the others only the family.
    pub(crate) mark: Option<u16>,
}

/// Who chooses a service's servers, and what is set for it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Scheduler {
    pub(crate) name: &'static str,
    pub(crate) flags: &'static [&'static str],
}

/// A real server.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Server {
    pub(crate) address: SocketAddr,
    pub(crate) weight: u32,
    pub(crate) routed: bool,
    /// The upper and the lower one.
    pub(crate) thresholds: (u32, u32),
}

/// A change of services; the number is the time of persistence.
#[derive(Clone, Debug)]
pub(crate) enum Change {
    AddService(Key, Scheduler, Option<u32>),
    EditService(Key, Scheduler, Option<u32>),
    DeleteService(Key),
    AddServer(Key, Server),
    EditServer(Key, Server),
    DeleteServer(Key, SocketAddr),
}

/// One step.
#[derive(Clone, Debug)]
pub(crate) enum Step {
    Change(Change),
    Send(Packet),
    Wait(Duration),
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.mark {
            Some(mark) => write!(f, "fwmark {mark}"),
            None => write!(f, "{} {}", self.protocol.name(), self.address),
        }
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Step::Change(Change::AddService(key, scheduler, persistent)) => {
                write!(f, "add service {key} {} {:?} {persistent:?}", scheduler.name, scheduler.flags)
            }
            Step::Change(Change::EditService(key, scheduler, persistent)) => {
                write!(f, "edit service {key} {} {persistent:?}", scheduler.name)
            }
            Step::Change(Change::DeleteService(key)) => write!(f, "delete service {key}"),
            Step::Change(Change::AddServer(key, server)) => write!(f, "add to {key} {server:?}"),
            Step::Change(Change::EditServer(key, server)) => write!(f, "edit of {key} {server:?}"),
            Step::Change(Change::DeleteServer(key, server)) => write!(f, "delete from {key} {server}"),
            Step::Send(packet) => packet.fmt(f),
            Step::Wait(time) => write!(f, "wait {time:?}"),
        }
    }
}

/// Draws the steps.
pub(crate) struct Generator {
    rng: Rng,
    /// The services there are, and their servers.
    services: BTreeMap<Key, BTreeMap<SocketAddr, Server>>,
    /// How often each kind of step was taken, and came to something.
    taken: BTreeMap<&'static str, (usize, usize)>,
}

impl Generator {
    pub(crate) fn new(seed: u64) -> Generator {
        Generator { rng: Rng::with_seed(seed), services: BTreeMap::new(), taken: BTreeMap::new() }
    }

    /// The next step, where both directors have these entries.
    pub(crate) fn next(&mut self, known: &[Entry]) -> Step {
        let missing = |vip: &&&str| !self.services.contains_key(&last_service(vip));
        if let Some(vip) = VIPS.iter().find(missing) {
            return Step::Change(Change::AddService(
                last_service(vip),
                Scheduler { name: "rr", flags: &[] },
                None,
            ));
        }
        if known.iter().any(|entry| entry.expires <= NEARLY) {
            return Step::Wait(Duration::from_secs(NEARLY + 1));
        }
        loop {
            // First something to talk to.
            let drawn = if self.services.len() < 6 && self.rng.bool() { 0 } else { self.rng.u8(..100) };
            let step = match drawn {
                0..20 => Some(Step::Change(self.change())),
                20..22 => Some(Step::Wait(Duration::from_millis(self.rng.u64(100..1500)))),
                22..75 => self.client_packet(known).map(Step::Send),
                75..92 => self.server_packet(known).map(Step::Send),
                92..96 => self.server_error(known).map(Step::Send),
                _ => self.client_error(known).map(Step::Send),
            };
            if let Some(step) = step {
                return step;
            }
        }
    }

    /// Takes notice of what came of a step.
    pub(crate) fn note(&mut self, step: &Step, done: bool) {
        let kind = match step {
            Step::Change(Change::AddService(..)) => "services added",
            Step::Change(Change::EditService(..)) => "services edited",
            Step::Change(Change::DeleteService(..)) => "services deleted",
            Step::Change(Change::AddServer(..)) => "servers added",
            Step::Change(Change::EditServer(..)) => "servers edited",
            Step::Change(Change::DeleteServer(..)) => "servers deleted",
            Step::Send(Packet { content: Content::Unreachable, .. }) => "errors sent",
            Step::Send(Packet { node, .. }) if node == "c1" => "packets sent by the client",
            Step::Send(_) => "packets sent by servers",
            Step::Wait(_) => "waits",
        };
        let (taken, worked) = self.taken.entry(kind).or_default();
        *taken += 1;
        *worked += usize::from(done);
        let Step::Change(change) = step else { return };
        if !done {
            return;
        }
        match change {
            Change::AddService(key, ..) => {
                self.services.insert(*key, BTreeMap::new());
            }
            Change::DeleteService(key) => {
                self.services.remove(key);
            }
            Change::AddServer(key, server) | Change::EditServer(key, server) => {
                self.services.entry(*key).or_default().insert(server.address, *server);
            }
            Change::DeleteServer(key, address) => {
                self.services.entry(*key).or_default().remove(address);
            }
            Change::EditService(..) => {}
        }
    }

    /// What was done, for people.
    pub(crate) fn summary(&self) -> String {
        let kinds: Vec<String> = self
            .taken
            .iter()
            .map(|(kind, (taken, worked))| match taken - worked {
                0 => format!("{kind} {taken}"),
                refused => format!("{kind} {taken}, of them refused {refused}"),
            })
            .collect();
        kinds.join("; ")
    }

    fn change(&mut self) -> Change {
        let index = self.rng.usize(..PORTS.len());
        let key = self.key(index);
        let scheduler = Scheduler { name: SCHEDULERS[self.rng.usize(..SCHEDULERS.len())], flags: &[] };
        let persistent = (self.rng.u8(..4) == 0).then_some(300);
        let present = self.services.get(&key);
        // Now and then what is not possible.
        if self.rng.u8(..20) != 0 {
            let Some(servers) = present else { return Change::AddService(key, scheduler, persistent) };
            if servers.len() < 2 {
                return Change::AddServer(key, self.server(index, key));
            }
        }
        match self.rng.u8(..12) {
            0 => Change::AddService(key, scheduler, persistent),
            1 => Change::EditService(key, scheduler, persistent),
            2 => Change::DeleteService(key),
            3..6 => Change::AddServer(key, self.server(index, key)),
            6..9 => Change::EditServer(key, self.server(index, key)),
            _ => Change::DeleteServer(key, self.server(index, key).address),
        }
    }

    fn key(&mut self, index: usize) -> Key {
        let (protocol, port) = PORTS[index];
        let vip = VIPS[self.rng.usize(..2)];
        Key { protocol, address: SocketAddr::new(vip.parse().expect("an address"), port), mark: None }
    }

    fn server(&mut self, index: usize, key: Key) -> Server {
        let host = SERVERS[self.rng.usize(..SERVERS.len())][usize::from(key.address.is_ipv6())];
        let routed = self.rng.u8(..4) == 0;
        let port = if routed { key.address.port() } else { FIRST_SERVER_PORT + index as u16 };
        let address = SocketAddr::new(host.parse().expect("an address"), port);
        Server { address, weight: self.rng.u32(..5), routed, thresholds: (0, 0) }
    }

    fn client_packet(&mut self, known: &[Entry]) -> Option<Packet> {
        let index = self.rng.usize(..PORTS.len());
        let key = self.key(index);
        let host = CLIENT[usize::from(key.address.is_ipv6())];
        let client = SocketAddr::new(host.parse().expect("an address"), self.rng.u16(CLIENT_PORTS));
        let is_it = |entry: &&Entry| {
            (entry.protocol, entry.client, entry.virtual_address) == (key.protocol, client, key.address)
        };
        let entry = known.iter().find(is_it);
        let service = self.services.get(&key);
        if let Some(entry) = entry {
            let has_server = service?.contains_key(&entry.server);
            if !has_server && key.protocol == Protocol::Udp {
                return None;
            }
        }
        let content = match key.protocol {
            Protocol::Tcp => Content::Flags(*self.one_of(&[0x02, 0x02, 0x10, 0x10, 0x18, 0x11, 0x04, 0x14])),
            Protocol::Udp => Content::Data(self.rng.usize(..100)),
            Protocol::Sctp => {
                service?;
                // INIT; of an association DATA, COOKIE ECHO, SHUTDOWN and its ACK, SHUTDOWN COMPLETE, ABORT.
                let later: &[u8] = if entry.is_some() { &[1, 0, 10, 10, 7, 8, 14, 6] } else { &[1] };
                Content::Chunk(*self.one_of(later))
            }
        };
        Some(Packet { node: "c1".to_owned(), protocol: key.protocol, from: client, to: key.address, content })
    }

    fn server_packet(&mut self, known: &[Entry]) -> Option<Packet> {
        let (entry, node) = self.answered(known)?;
        let content = match (entry.protocol, entry.state.as_str()) {
            (Protocol::Tcp, "TIME_WAIT" | "CLOSE") => Content::Flags(*self.one_of(&[0x10, 0x11, 0x04])),
            (Protocol::Tcp, _) => Content::Flags(*self.one_of(&[0x12, 0x12, 0x10, 0x18, 0x11, 0x04])),
            (Protocol::Udp, _) => Content::Data(self.rng.usize(..100)),
            (Protocol::Sctp, "CLOSED") => return None,
            // INIT ACK, COOKIE ACK, DATA, SHUTDOWN and its ACK, SHUTDOWN COMPLETE, ABORT.
            (Protocol::Sctp, _) => Content::Chunk(*self.one_of(&[2, 2, 11, 11, 0, 7, 8, 14, 6])),
        };
        Some(Packet { node, protocol: entry.protocol, from: entry.server, to: entry.client, content })
    }

    /// A server says of a client's packet that nobody listens.
    fn server_error(&mut self, known: &[Entry]) -> Option<Packet> {
        let (entry, node) = self.answered(known)?;
        let content = Content::Unreachable;
        Some(Packet { node, protocol: entry.protocol, from: entry.server, to: entry.client, content })
    }

    /// The client says it of a server's.
    fn client_error(&mut self, known: &[Entry]) -> Option<Packet> {
        let (entry, _) = self.answered(known)?;
        let (node, content) = ("c1".to_owned(), Content::Unreachable);
        Some(Packet {
            node,
            protocol: entry.protocol,
            from: entry.client,
            to: entry.virtual_address,
            content,
        })
    }

    /// A connection whose server answers through the director, and that server's node.
    fn answered<'e>(&mut self, known: &'e [Entry]) -> Option<(&'e Entry, String)> {
        let is_answered = |entry: &&Entry| {
            let is_template = entry.client.port() == 0;
            !is_template && (FIRST_SERVER_PORT..LAST_PORT).contains(&entry.server.port())
        };
        let mut answered: Vec<&Entry> = known.iter().filter(is_answered).collect();
        // The two directors list them in orders of their own.
        answered.sort();
        if answered.is_empty() {
            return None;
        }
        let entry = answered[self.rng.usize(..answered.len())];
        let host = entry.server.ip().to_string();
        let number = SERVERS.iter().position(|addresses| addresses.contains(&host.as_str()))?;
        Some((entry, format!("s{}", number + 1)))
    }

    fn one_of<'t, T>(&mut self, these: &'t [T]) -> &'t T {
        &these[self.rng.usize(..these.len())]
    }
}

fn last_service(vip: &str) -> Key {
    let address = SocketAddr::new(vip.parse().expect("an address"), LAST_PORT);
    Key { protocol: Protocol::Tcp, address, mark: None }
}
