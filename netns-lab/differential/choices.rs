//! What schedulers choose: random services, servers, thresholds and changes, and connections from everywhere.
//!
//! Servers are addresses behind `s1` at which nobody answers; where a connection went is seen on the way there.

use crate::director::{Balancer, Director};
use crate::network::{Network, VIPS, within};
use crate::packet::{Content, Packet, Protocol};
use crate::steps::{Change, Key, Scheduler, Server};
use anyhow::{Context, bail, ensure};
use fastrand::Rng;
use rustix::net::{AddressFamily, Protocol as Number, RawProtocol, SocketType, socket};
use std::collections::{BTreeMap, HashSet};
use std::io::{ErrorKind, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// Every scheduler of the VM's kernel, each with every combination of its flags. (It has no `twos`, which draws lots.)
const SCHEDULERS: [(&str, &[&[&str]]); 13] = [
    ("rr", &[&[]]),
    ("wrr", &[&[]]),
    ("lc", &[&[]]),
    ("wlc", &[&[]]),
    ("lblc", &[&[]]),
    ("lblcr", &[&[]]),
    ("dh", &[&[]]),
    ("sh", &[&[], &["sh-fallback"], &["sh-port"], &["sh-fallback", "sh-port"]]),
    ("mh", &[&[], &["mh-fallback"], &["mh-port"], &["mh-fallback", "mh-port"]]),
    ("sed", &[&[]]),
    ("nq", &[&[]]),
    ("fo", &[&[]]),
    ("ovf", &[&[]]),
];
/// Choices of a service before it makes room for another. In this time no connection ends by itself.
const CHOICES: usize = 40;
/// How many new connections come at once, at most.
const BATCH: usize = 8;
const SERVER_PORT: u16 = 5300;
/// The port of the first service, and one more for each.
const FIRST_PORT: u16 = 10_000;
const MOST_SERVICES: u16 = 5_000;
/// For how long two directors may differ in what they have sent.
const DELIVERY: Duration = Duration::from_secs(6);
/// How long nothing must arrive before nothing more is expected.
const QUIET: Duration = Duration::from_millis(80);

/// Has every scheduler choose at least `each` times with both directors.
pub(crate) fn compare(each: usize, seed: u64) -> anyhow::Result<()> {
    let mut table = Table {
        sides: [Side::up(Balancer::Ipvs)?, Side::up(Balancer::Nfvs)?],
        rng: Rng::with_seed(seed),
        clients: HashSet::new(),
        services: 0,
    };
    for (name, flags) in SCHEDULERS {
        let mut sum = Sum::default();
        while sum.choices < each {
            let flags = flags[table.rng.usize(..flags.len())];
            let said = format!("{name} {flags:?}, service {}, seed {seed}", table.services + 1);
            table.service(Scheduler { name, flags }, &mut sum).context(said)?;
        }
        println!("{name}: {sum}");
    }
    Ok(())
}

/// What was done with a scheduler.
#[derive(Default)]
struct Sum {
    services: usize,
    choices: usize,
    refused: usize,
    changes: usize,
}

impl std::fmt::Display for Sum {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Sum { services, choices, refused, changes } = self;
        write!(
            f,
            "{choices} choices the same, of them no server {refused}; {services} services, {changes} changes"
        )
    }
}

/// A connection that was made.
#[derive(Clone, Copy)]
struct Flow {
    client: SocketAddr,
    to: SocketAddr,
    server: SocketAddr,
}

/// Both directors, and what was drawn.
struct Table {
    sides: [Side; 2],
    rng: Rng,
    /// Every address and port that was used.
    clients: HashSet<SocketAddr>,
    services: u16,
}

impl Table {
    /// A service with this scheduler, from its beginning to its end.
    fn service(&mut self, scheduler: Scheduler, sum: &mut Sum) -> anyhow::Result<()> {
        let is_ipv6 = self.rng.bool();
        let protocol = if self.rng.u8(..3) == 0 { Protocol::Udp } else { Protocol::Tcp };
        // Only a mark stands for many destinations, by which these choose.
        let chooses_by_destination = matches!(scheduler.name, "dh" | "lblc" | "lblcr");
        let by_mark = self.rng.u8(..4) < if chooses_by_destination { 3 } else { 1 };
        let key = self.key(protocol, is_ipv6, by_mark)?;

        let many = self.rng.bool();
        let count = if many { self.rng.u8(1..=40) } else { self.rng.u8(1..=6) };
        let mut servers: BTreeMap<u8, Server> = BTreeMap::new();
        let mut changes = vec![Change::AddService(key, scheduler, None)];
        for number in 1..=count {
            let server = self.server(number, is_ipv6);
            servers.insert(number, server);
            changes.push(Change::AddServer(key, server));
        }
        self.make(&changes)?;

        let mut flows: Vec<Flow> = Vec::new();
        let mut told = Vec::new();
        let mut made = 0;
        while made < CHOICES {
            if self.rng.u8(..4) == 0 {
                let change = self.change(key, &mut servers);
                told.push(format!("{change:?}"));
                self.make(&[change])?;
                sum.changes += 1;
            }
            if protocol == Protocol::Tcp && !flows.is_empty() {
                self.go_on(&flows)?;
            }
            let batch = self.rng.usize(1..=BATCH).min(CHOICES - made);
            let new: Vec<(SocketAddr, SocketAddr)> =
                (0..batch).map(|_| (self.client(is_ipv6), self.destination(key))).collect();
            let content = if protocol == Protocol::Tcp { Content::Flags(0x02) } else { Content::Data(8) };
            let packets: Vec<Packet> = new
                .iter()
                .map(|&(from, to)| Packet { node: "c1".to_owned(), protocol, from, to, content })
                .collect();
            let [ipvs, nfvs] = self.exchange(&packets)?;
            for (client, to) in new {
                let server_of =
                    |seen: &[Seen]| seen.iter().find(|seen| seen.from == client).map(|seen| seen.to);
                let (theirs, ours) = (server_of(&ipvs), server_of(&nfvs));
                told.push(format!("{client} to {to}: IPVS {theirs:?}, nfvs {ours:?}"));
                if theirs != ours {
                    for side in &mut self.sides {
                        let services = side.director.services()?;
                        println!("{}: {services:#?}", side.director);
                    }
                    bail!("another choice:\n{}", told.join("\n"));
                }
                match ours {
                    Some(server) => flows.push(Flow { client, to, server }),
                    None => sum.refused += 1,
                }
            }
            made += batch;
            sum.choices += batch;
        }
        let [ipvs, nfvs] = &mut self.sides;
        let (theirs, ours) = (ipvs.director.services()?, nfvs.director.services()?);
        ensure!(theirs == ours, "IPVS knows {theirs:#?}, nfvs {ours:#?}\n{}", told.join("\n"));
        sum.services += 1;
        self.make(&[Change::DeleteService(key)])
    }

    fn key(&mut self, protocol: Protocol, is_ipv6: bool, by_mark: bool) -> anyhow::Result<Key> {
        ensure!(self.services < MOST_SERVICES, "no port is left for another service");
        let port = FIRST_PORT + self.services;
        self.services += 1;
        let address = SocketAddr::new(VIPS[usize::from(is_ipv6)].parse()?, port);
        Ok(Key { protocol, address, mark: by_mark.then_some(port) })
    }

    /// Where a client of the service turns to.
    fn destination(&mut self, key: Key) -> SocketAddr {
        let host = self.rng.u8(1..=12);
        let address = match (key.mark, key.address.ip()) {
            (None, address) => address,
            (Some(_), IpAddr::V4(_)) => Ipv4Addr::new(10, 77, 0, host).into(),
            (Some(_), IpAddr::V6(_)) => Ipv6Addr::new(0xfd77, 0, 0, 0, 0, 0, 0, host.into()).into(),
        };
        SocketAddr::new(address, key.address.port())
    }

    /// A client that nobody has seen.
    fn client(&mut self, is_ipv6: bool) -> SocketAddr {
        loop {
            let rng = &mut self.rng;
            let address: IpAddr = if is_ipv6 {
                Ipv6Addr::new(0xfd16, 0, 0, 0, rng.u16(..), rng.u16(..), rng.u16(..), rng.u16(..)).into()
            } else {
                Ipv4Addr::new(172, 16 + rng.u8(..16), rng.u8(..), rng.u8(1..=254)).into()
            };
            let client = SocketAddr::new(address, rng.u16(1024..));
            if self.clients.insert(client) {
                return client;
            }
        }
    }

    fn server(&mut self, number: u8, is_ipv6: bool) -> Server {
        let rng = &mut self.rng;
        let address: IpAddr = if is_ipv6 {
            Ipv6Addr::new(0xfd02, 0, 0, 0, 0, 0, 0, number.into()).into()
        } else {
            Ipv4Addr::new(10, 2, 0, number).into()
        };
        let weight = match rng.u8(..8) {
            0 => 0,
            1..5 => rng.u32(1..=5),
            _ => rng.u32(1..=255),
        };
        let thresholds = match rng.u8(..5) {
            0 => {
                let upper = rng.u32(1..=6);
                (upper, rng.u32(..upper))
            }
            _ => (0, 0),
        };
        Server { address: SocketAddr::new(address, SERVER_PORT), weight, routed: false, thresholds }
    }

    /// A server comes, goes, comes again, or is changed.
    fn change(&mut self, key: Key, servers: &mut BTreeMap<u8, Server>) -> Change {
        let number = self.rng.u8(1..=40);
        let known: Vec<u8> = servers.keys().copied().collect();
        let server = self.server(number, key.address.is_ipv6());
        if known.len() < 2 || !servers.contains_key(&number) && self.rng.u8(..3) == 0 {
            let number = if servers.contains_key(&number) { known.len() as u8 + 40 } else { number };
            let server = Server { address: self.server(number, key.address.is_ipv6()).address, ..server };
            servers.insert(number, server);
            return Change::AddServer(key, server);
        }
        let number = known[self.rng.usize(..known.len())];
        let address = servers[&number].address;
        if self.rng.u8(..3) == 0 {
            servers.remove(&number);
            return Change::DeleteServer(key, address);
        }
        let server = Server { address, ..server };
        servers.insert(number, server);
        Change::EditServer(key, server)
    }

    /// Some connections come further, or to an end.
    fn go_on(&mut self, flows: &[Flow]) -> anyhow::Result<()> {
        for _ in 0..self.rng.u8(..3) {
            let Flow { client, to, server } = flows[self.rng.usize(..flows.len())];
            // SYN+ACK and FIN of the server, ACK, FIN and RST of the client.
            let from_server = self.rng.bool();
            let flags: &[u8] = if from_server { &[0x12, 0x12, 0x11] } else { &[0x10, 0x11, 0x14] };
            let content = Content::Flags(flags[self.rng.usize(..flags.len())]);
            let (node, from, to) = if from_server { ("s1", server, client) } else { ("c1", client, to) };
            let protocol = Protocol::Tcp;
            let [ipvs, nfvs] =
                self.exchange(&[Packet { node: node.to_owned(), protocol, from, to, content }])?;
            ensure!(
                ipvs.len() == nfvs.len(),
                "{client} {content:?} from {node}: IPVS {ipvs:?}, nfvs {nfvs:?}"
            );
        }
        Ok(())
    }

    fn make(&mut self, changes: &[Change]) -> anyhow::Result<()> {
        self.sides.iter_mut().try_for_each(|side| side.director.make(changes))
    }

    /// Sends packets in both networks. Returns what has arrived, once it is as many, or nothing more comes.
    fn exchange(&mut self, packets: &[Packet]) -> anyhow::Result<[Vec<Seen>; 2]> {
        for packet in packets {
            self.sides.iter().try_for_each(|side| side.send(packet))?;
        }
        let mut arrived = [Vec::new(), Vec::new()];
        let (start, mut quiet_since) = (Instant::now(), Instant::now());
        loop {
            for (side, arrived) in self.sides.iter().zip(&mut arrived) {
                let before = arrived.len();
                side.receive(arrived)?;
                if arrived.len() > before {
                    quiet_since = Instant::now();
                }
            }
            if arrived.iter().all(|arrived| arrived.len() == packets.len()) {
                return Ok(arrived);
            }
            let is_quiet = quiet_since.elapsed() >= QUIET && arrived[0].len() == arrived[1].len();
            if is_quiet || start.elapsed() >= DELIVERY {
                return Ok(arrived);
            }
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}

/// A packet behind the director.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Seen {
    from: SocketAddr,
    to: SocketAddr,
}

/// A director and its network.
struct Side {
    director: Director,
    /// Client and server, with a socket for each family, and the interfaces' packets.
    ends: [End; 2],
    _network: Network,
}

struct End {
    node: &'static str,
    senders: [UdpSocket; 2],
    tap: UdpSocket,
}

impl Side {
    fn up(balancer: Balancer) -> anyhow::Result<Side> {
        // One queue of each class keeps in order what comes in order.
        let network = Network::alone(balancer, "{ \"services\": [], \"queues\": { \"count\": 1 } }")?;
        for route in [
            "10.2.0.0/24 via 10.0.2.11",
            "fd02::/64 via fd00:2::11",
            "172.16.0.0/12 via 10.0.1.2",
            "fd16::/64 via fd00:1::2",
            "local 10.77.0.0/24 dev lo",
            "local fd77::/64 dev lo",
        ] {
            let family = if route.contains("::") { "-6" } else { "-4" };
            let words: Vec<&str> =
                ["ip", family, "route", "add"].into_iter().chain(route.split(' ')).collect();
            network.run("director", &words)?;
        }
        mark_by_port(&network.namespace("director"))?;
        let director = Director::new(balancer, &network)?;
        let ends = [End::new(&network, "c1")?, End::new(&network, "s1")?];
        Ok(Side { director, ends, _network: network })
    }

    fn send(&self, packet: &Packet) -> anyhow::Result<()> {
        let end = self.ends.iter().find(|end| end.node == packet.node).context("a node that sends")?;
        let sender = &end.senders[usize::from(packet.to.is_ipv6())];
        sender.send_to(&packet.with_header()?, SocketAddr::new(packet.to.ip(), 0))?;
        Ok(())
    }

    fn receive(&self, arrived: &mut Vec<Seen>) -> anyhow::Result<()> {
        let mut bytes = [0; 2048];
        for end in &self.ends {
            loop {
                match end.tap.recv(&mut bytes) {
                    Ok(len) => arrived.extend(seen(&bytes[..len]).filter(|seen| end.is_for(seen.to.ip()))),
                    Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                    Err(error) => return Err(error).context("a node's packets"),
                }
            }
        }
        Ok(())
    }
}

impl End {
    fn new(network: &Network, node: &'static str) -> anyhow::Result<End> {
        /// `IPPROTO_RAW`: whoever sends has written the header.
        const WITH_HEADER: u32 = 255;
        /// `ETH_P_ALL`, in network byte order.
        const ALL: u32 = 0x0003_u16.to_be() as u32;
        let open = |family, kind, number| -> anyhow::Result<UdpSocket> {
            let protocol = RawProtocol::new(number).map(Number::from_raw);
            let made = within(&network.namespace(node), || socket(family, kind, protocol))??;
            let made = UdpSocket::from(made);
            made.set_nonblocking(true)?;
            Ok(made)
        };
        let sender = |family| open(family, SocketType::RAW, WITH_HEADER);
        let senders = [sender(AddressFamily::INET)?, sender(AddressFamily::INET6)?];
        Ok(End { node, senders, tap: open(AddressFamily::PACKET, SocketType::DGRAM, ALL)? })
    }

    /// Whether a packet to `address` has arrived here, rather than begun.
    fn is_for(&self, address: IpAddr) -> bool {
        let first: [u8; 2] = match address {
            IpAddr::V4(address) => [address.octets()[0], address.octets()[1]],
            IpAddr::V6(address) => [address.octets()[0], address.octets()[1]],
        };
        match self.node {
            "c1" => matches!(first, [172, 16..32] | [0xfd, 0x16]),
            _ => matches!(first, [10, 2] | [0xfd, 0x02]),
        }
    }
}

/// A packet of TCP or UDP.
fn seen(bytes: &[u8]) -> impl Iterator<Item = Seen> {
    let port = |at: usize| bytes.get(at..at + 2).map(|port| u16::from_be_bytes([port[0], port[1]]));
    let read = || {
        let (header, protocol, from, to): (usize, u8, IpAddr, IpAddr) = match bytes.first()? >> 4 {
            4 => {
                let octets =
                    |at: usize| bytes.get(at..at + 4).and_then(|octets| <[u8; 4]>::try_from(octets).ok());
                let header = usize::from(bytes[0] & 0x0f) * 4;
                (header, *bytes.get(9)?, octets(12)?.into(), octets(16)?.into())
            }
            6 => {
                let octets =
                    |at: usize| bytes.get(at..at + 16).and_then(|octets| <[u8; 16]>::try_from(octets).ok());
                (40, *bytes.get(6)?, octets(8)?.into(), octets(24)?.into())
            }
            _ => return None,
        };
        let ports = (port(header)?, port(header + 2)?);
        let seen = Seen { from: SocketAddr::new(from, ports.0), to: SocketAddr::new(to, ports.1) };
        matches!(protocol, 6 | 17).then_some(seen)
    };
    read().into_iter()
}

/// Has the director mark what goes to the networks of services by mark: with the port.
fn mark_by_port(namespace: &str) -> anyhow::Result<()> {
    let last = FIRST_PORT + MOST_SERVICES;
    // What is a port for nftables is no mark; a map makes one of the other.
    let elements: Vec<String> = (FIRST_PORT..last).map(|port| format!("{port} : {port}")).collect();
    let rules = format!(
        "table inet marks {{
           map by_port {{ type inet_service : mark; elements = {{ {} }} }}
           chain prerouting {{ type filter hook prerouting priority -310
             ip daddr 10.77.0.0/24 meta l4proto {{ tcp, udp }} meta mark set th dport map @by_port
             ip6 daddr fd77::/64 meta l4proto {{ tcp, udp }} meta mark set th dport map @by_port
           }}
         }}",
        elements.join(", ")
    );
    let mut nft = Command::new("ip")
        .args(["netns", "exec", namespace, "nft", "-f", "-"])
        .stdin(Stdio::piped())
        .spawn()?;
    nft.stdin.take().context("a pipe")?.write_all(rules.as_bytes())?;
    ensure!(nft.wait()?.success(), "the rules that mark are refused");
    Ok(())
}
