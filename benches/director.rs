//! What a connection costs in memory, and a packet in time, without kernel and queues around it.
//!
//! * `director memory v4|v6 COUNT`: bytes a connection at `COUNT` connections, by the growth of the resident set.
//! * `director cost`: nanoseconds a packet with 10, 1,000 and 10,000 services; a line for each work, share of the
//!   services that traffic goes to, and number of services: median, least and most of the rounds. The copy of the
//!   packet that is handled is in it (40 bytes).
//!
//! `benches/run` calls it.

#![allow(clippy::disallowed_methods, reason = "the clock is what is measured with")]

use etherparse::PacketBuilder;
use nfvs::director::packet::Transport;
use nfvs::director::scheduler::SchedulerKind;
use nfvs::director::service::{ForwardMethod, ServiceKey, ServiceSettings, Weight};
use nfvs::director::{Command, Director, Hook, Limits, PacketMeta, ServerSpec, ServiceSpec, Time, Verdict};
use std::error::Error;
use std::fs;
use std::hint::black_box;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::{Duration, Instant};

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).filter(|argument| argument != "--bench").collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["memory", "v4", count] => memory(count.parse()?, |n| Ipv4Addr::from(0x6440_0000 | n).into()),
        ["memory", "v6", count] => {
            memory(count.parse()?, |n| Ipv6Addr::from(0xfd64 << 112 | u128::from(n)).into())
        }
        ["cost"] => cost(),
        _ => Err("usage: director memory v4|v6 COUNT, or director cost".into()),
    }
}

/// Fills a director with connections, 16 of each client.
fn memory(count: u32, client: fn(u32) -> IpAddr) -> Result<(), Box<dyn Error>> {
    let director = Director::new(Limits { max_connections: count as usize }, 1);
    let vip = SocketAddr::new(if client(0).is_ipv4() { "10.0.0.1" } else { "fd00::1" }.parse()?, 80);
    add_services(&director, &[vip], SchedulerKind::Wlc)?;
    let before = resident_bytes()?;
    for n in 0..count {
        let client = SocketAddr::new(client(n / 16), 1024 + (n % 16) as u16);
        forward(&director, Time::ZERO, &mut segment(client, vip, Flags::Syn));
    }
    let grown = resident_bytes()? - before;
    assert_eq!(director.connection_count().0, count as usize);
    println!("{}", grown / u64::from(count));
    Ok(())
}

/// `VmRSS` of proc(5).
fn resident_bytes() -> Result<u64, Box<dyn Error>> {
    let status = fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).ok_or("no VmRSS")?;
    Ok(line.trim().trim_end_matches(" kB").parse::<u64>()? * 1024)
}

const SERVICES: [u32; 3] = [10, 1_000, 10_000];
/// Connections of a round, whatever the number of services.
const FLOWS: u32 = 10_000;
const ROUNDS: usize = 21;

/// Times the works in turn: each round has every work with every number of services.
fn cost() -> Result<(), Box<dyn Error>> {
    let mut works: Vec<Work> = Vec::new();
    for busy in [Busy::Ten, Busy::All] {
        for services in SERVICES {
            let mix = Mix { services, busy };
            works.push(Work::established(mix)?);
            works.push(Work::first("first packet, rr", mix, SchedulerKind::Rr)?);
            works.push(Work::first("first packet, wlc", mix, SchedulerKind::Wlc)?);
        }
    }
    for _ in 0..ROUNDS {
        works.iter_mut().for_each(Work::run);
    }
    for work in &mut works {
        work.nanoseconds.sort_by(f64::total_cmp);
        let [least, median, most] = [0, ROUNDS / 2, ROUNDS - 1].map(|place| work.nanoseconds[place]);
        let Mix { services, busy } = work.mix;
        println!("{}\t{busy:?}\t{services}\t{median:.0}\t{least:.0}\t{most:.0}", work.name);
    }
    Ok(())
}

/// How many services there are, and which of them the traffic is for. With ten busy ones everything that packets
/// touch stays in the processor's caches, and what is left is the cost of looking up.
#[derive(Clone, Copy)]
struct Mix {
    services: u32,
    busy: Busy,
}

#[derive(Clone, Copy, Debug)]
enum Busy {
    Ten,
    All,
}

impl Mix {
    /// Clients and the services they talk to.
    fn flows(self) -> impl Iterator<Item = (SocketAddr, SocketAddr)> {
        (0..FLOWS).map(move |n| {
            let number = match self.busy {
                Busy::Ten => n % 10 * (self.services / 10),
                Busy::All => n % self.services,
            };
            (SocketAddr::new(Ipv4Addr::from(0x6440_0000 | n).into(), 40_000), service(number))
        })
    }

    /// A packet of each flow, in an order without pattern.
    fn packets(self, flags: Flags) -> Vec<[u8; 40]> {
        let mut packets: Vec<[u8; 40]> = self
            .flows()
            .map(|(client, vip)| segment(client, vip, flags).try_into().expect("a segment without options"))
            .collect();
        fastrand::Rng::with_seed(1).shuffle(&mut packets);
        packets
    }
}

/// The same packets again and again.
struct Work {
    name: &'static str,
    mix: Mix,
    director: Director,
    packets: Vec<[u8; 40]>,
    /// Every packet opens a connection; all of them are over before the next round.
    opens: bool,
    now: Time,
    nanoseconds: Vec<f64>,
}

impl Work {
    /// Packets of connections that exist.
    fn established(mix: Mix) -> Result<Work, Box<dyn Error>> {
        let work = Work::new("established", mix, SchedulerKind::Rr)?;
        for (client, vip) in mix.flows() {
            let mut syn = segment(client, vip, Flags::Syn);
            forward(&work.director, work.now, &mut syn);
            let server =
                SocketAddr::new(Ipv4Addr::new(syn[16], syn[17], syn[18], syn[19]).into(), SERVER_PORT);
            forward(&work.director, work.now, &mut segment(server, client, Flags::SynAck));
            forward(&work.director, work.now, &mut segment(client, vip, Flags::Ack));
        }
        Ok(Work { packets: mix.packets(Flags::Ack), ..work })
    }

    /// First packets of connections.
    fn first(name: &'static str, mix: Mix, scheduler: SchedulerKind) -> Result<Work, Box<dyn Error>> {
        let work = Work::new(name, mix, scheduler)?;
        Ok(Work { packets: mix.packets(Flags::Syn), opens: true, ..work })
    }

    fn new(name: &'static str, mix: Mix, scheduler: SchedulerKind) -> Result<Work, Box<dyn Error>> {
        let director = Director::new(Limits { max_connections: FLOWS as usize }, 1);
        let addresses: Vec<SocketAddr> = (0..mix.services).map(service).collect();
        add_services(&director, &addresses, scheduler)?;
        let (packets, nanoseconds) = (Vec::new(), Vec::new());
        Ok(Work { name, mix, director, packets, opens: false, now: Time::ZERO, nanoseconds })
    }

    fn run(&mut self) {
        let start = Instant::now();
        for packet in &self.packets {
            forward(&self.director, self.now, &mut black_box(*packet));
        }
        let spent = start.elapsed();
        self.nanoseconds.push(spent.as_nanos() as f64 / self.packets.len() as f64);
        if self.opens {
            self.now = self.now + Duration::from_secs(3600);
            self.director.handle_timeout(self.now);
            assert_eq!(self.director.connection_count().0, 0);
        }
    }
}

/// The endpoint of a service: an address of its own.
fn service(number: u32) -> SocketAddr {
    SocketAddr::new(Ipv4Addr::from(0x0a00_0000 | number).into(), 80)
}

const SERVER_PORT: u16 = 8080;

/// Adds services with three servers each.
fn add_services(
    director: &Director,
    addresses: &[SocketAddr],
    scheduler: SchedulerKind,
) -> Result<(), Box<dyn Error>> {
    let add = |(number, address): (usize, &SocketAddr)| {
        let server = |n: u32| {
            let number = number as u32 * 3 + n;
            let address: IpAddr = match address.ip() {
                IpAddr::V4(_) => Ipv4Addr::from(0x0a80_0000 | number).into(),
                IpAddr::V6(_) => Ipv6Addr::from(0xfd80 << 112 | u128::from(number)).into(),
            };
            ServerSpec {
                address: SocketAddr::new(address, SERVER_PORT),
                weight: Weight::default(),
                forward: ForwardMethod::Nat,
                tunnel: Default::default(),
                thresholds: Default::default(),
            }
        };
        Command::AddService(ServiceSpec {
            key: ServiceKey::Endpoint {
                transport: Transport::Tcp,
                address: address.ip(),
                port: address.port(),
            },
            name: format!("service-{number}"),
            scheduler,
            settings: ServiceSettings::default(),
            servers: (0..3).map(server).collect(),
        })
    };
    Ok(director.apply(&addresses.iter().enumerate().map(add).collect::<Vec<_>>())?)
}

#[derive(Clone, Copy)]
enum Flags {
    Syn,
    SynAck,
    Ack,
}

/// A TCP segment without payload.
fn segment(source: SocketAddr, destination: SocketAddr, flags: Flags) -> Vec<u8> {
    let builder = match (source.ip(), destination.ip()) {
        (IpAddr::V4(from), IpAddr::V4(to)) => PacketBuilder::ipv4(from.octets(), to.octets(), 64),
        (IpAddr::V6(from), IpAddr::V6(to)) => PacketBuilder::ipv6(from.octets(), to.octets(), 64),
        _ => unreachable!("both ends of a flow are of one family"),
    };
    let builder = builder.tcp(source.port(), destination.port(), 1, 65_535);
    let builder = match flags {
        Flags::Syn => builder.syn(),
        Flags::SynAck => builder.syn().ack(1),
        Flags::Ack => builder.ack(1),
    };
    let mut bytes = Vec::with_capacity(builder.size(0));
    builder.write(&mut bytes, &[]).expect("a vector takes everything");
    bytes
}

/// Hands a packet to the director, which must forward it.
fn forward(director: &Director, now: Time, bytes: &mut [u8]) {
    let meta = PacketMeta {
        hook: Hook::Prerouting,
        checksum_owed: false,
        gso: false,
        original_len: bytes.len(),
        mark: None,
    };
    let verdict = director.handle_packet(now, &meta, bytes);
    assert!(matches!(verdict, Verdict::Forward { .. }), "{verdict:?}");
    black_box(bytes);
}
