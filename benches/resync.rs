//! What a whole table costs the two directors that exchange it, and messages a backup.
//!
//! * `resync cost COUNT`, without the connection between them: fills a director with `COUNT` connections, has it tell of all of them, and an empty one take them in;
//!   then again by the one that has them already. A line for each part of the work: name, seconds of the rounds (median,
//!   least and most), and how long the longest hold of a shard's lock was in microseconds (the same), where it is held.
//! * `resync apply COUNT`: has a director take in messages of the usual length that tell of `COUNT` connections, which it does
//!   not have, and again. For each the name, millions of records a second, and thousands of messages (median, least, most).
//! * `resync fill COUNT VIP SERVER TO`: tells the backup at the address and port `TO` of `COUNT` connections through `VIP`,
//!   port 80, to port 8080 of `SERVER`.
//!
//! `benches/run` calls it.

#![allow(clippy::disallowed_methods, reason = "the clock is what is measured with")]

use nfvs::director::packet::Transport;
use nfvs::director::scheduler::SchedulerKind;
use nfvs::director::service::{ForwardMethod, ServiceKey, ServiceSettings, Weight};
use nfvs::director::sync::{BackupSettings, SyncOutcome, Walk};
use nfvs::director::{Command, Director, Limits, ServerSpec, ServiceSpec, Time};
use std::error::Error;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::time::{Duration, Instant};
use sync_proto::{Addresses, ConnFlags, Encoder, OptionalParameters, Record, SyncId, Version};

const GROUP: SyncId = SyncId(7);
const VIP: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 1);
const SERVERS: u32 = 16;
const ROUNDS: usize = 5;
/// The lengths of messages: as masters send them on Ethernet, and few for many records.
const ETHERNET: usize = 1_472;
const LONGEST: usize = 9_000;

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).filter(|argument| argument != "--bench").collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match arguments[..] {
        ["cost", count] => cost(count.parse()?),
        ["apply", count] => apply(count.parse()?),
        ["fill", count, vip, server, to] => {
            let (vip, server) = (vip.parse()?, server.parse()?);
            send_all(count.parse()?, to.parse()?, |number| record(number, vip, server))
        }
        _ => Err("usage: resync cost COUNT | apply COUNT | fill COUNT VIP SERVER TO".into()),
    }
}

fn cost(count: u32) -> Result<(), Box<dyn Error>> {
    let master = director(count)?;
    fill(&master, count);
    let mut times: [Vec<f64>; 4] = Default::default();
    for _ in 0..ROUNDS {
        let (messages, told, longest) = tell(&master);
        let backup = director(count)?;
        let taken_in = take_in(&backup, &messages);
        assert_eq!(backup.connection_count().0, count as usize);
        let again = take_in(&backup, &messages);
        for (times, time) in times.iter_mut().zip([told, longest, taken_in, again]) {
            times.push(time.as_secs_f64());
        }
    }
    let [told, longest, taken_in, again] = times.map(spread);
    println!("told\t{}\t{}", text(told, 1.0), text(longest, 1e6));
    println!("taken in\t{}\t", text(taken_in, 1.0));
    println!("taken in again\t{}\t", text(again, 1.0));
    Ok(())
}

fn apply(count: u32) -> Result<(), Box<dyn Error>> {
    let mut told = Vec::new();
    let of_network = |number| record(number, VIP.into(), server(number % SERVERS));
    messages(count, ETHERNET, of_network, |message| told.push(message.to_vec()));
    let mut seconds: [Vec<f64>; 2] = Default::default();
    for _ in 0..ROUNDS {
        let backup = director(count)?;
        for seconds in &mut seconds {
            let start = Instant::now();
            for message in &told {
                let applied = backup.apply_sync(Time::ZERO, message);
                assert!(matches!(applied, SyncOutcome::Applied(_)), "{applied:?}");
            }
            seconds.push(start.elapsed().as_secs_f64());
        }
        assert_eq!(backup.connection_count().0, count as usize);
    }
    for (name, seconds) in ["of new connections", "of connections that are known"].into_iter().zip(seconds) {
        let [median, most, least] = spread(seconds).map(|seconds| 1.0 / seconds);
        let rates =
            |number: f64| [median, least, most].map(|rate| format!("{:.2}", number * rate)).join("\t");
        println!("{name}\t{}\t{}", rates(f64::from(count) / 1e6), rates(told.len() as f64 / 1e3));
    }
    Ok(())
}

/// A director with a service, which takes in what it is told.
fn director(count: u32) -> Result<Director, Box<dyn Error>> {
    let director = Director::new(Limits { max_connections: count as usize }, 1);
    let server = |number| ServerSpec {
        address: SocketAddr::new(server(number), 8080),
        weight: Weight::default(),
        forward: ForwardMethod::Nat,
        tunnel: Default::default(),
        thresholds: Default::default(),
    };
    let service = ServiceSpec {
        key: ServiceKey::Endpoint { transport: Transport::Tcp, address: VIP.into(), port: 80 },
        name: "web".to_owned(),
        scheduler: SchedulerKind::Wlc,
        settings: ServiceSettings::default(),
        servers: (0..SERVERS).map(server).collect(),
    };
    director.apply(&[Command::AddService(service)])?;
    director.start_sync_backup(BackupSettings { syncid: GROUP });
    Ok(director)
}

fn server(number: u32) -> IpAddr {
    Ipv4Addr::from(0x0a80_0000 | number).into()
}

/// Established connections, 16 of each client.
fn fill(director: &Director, count: u32) {
    messages(
        count,
        LONGEST,
        |number| record(number, VIP.into(), server(number % SERVERS)),
        |message| {
            let applied = director.apply_sync(Time::ZERO, message);
            assert!(matches!(applied, SyncOutcome::Applied(_)), "{applied:?}");
        },
    );
    assert_eq!(director.connection_count().0, count as usize);
}

/// Tells a backup, not faster than it takes them in.
fn send_all(
    count: u32,
    to: SocketAddr,
    record: impl Fn(u32) -> Record<'static>,
) -> Result<(), Box<dyn Error>> {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
    let mut sent = Ok(());
    messages(count, LONGEST, record, |message| {
        if sent.is_ok() {
            sent = socket.send_to(message, to).map(drop);
        }
        std::thread::sleep(Duration::from_micros(500));
    });
    Ok(sent?)
}

/// Makes messages of so many records, each as full as its length allows, and hands them over.
fn messages(count: u32, length: usize, record: impl Fn(u32) -> Record<'static>, mut take: impl FnMut(&[u8])) {
    let mut buffer = vec![0; length];
    let mut number = 0;
    while number < count {
        let mut encoder = Encoder::new(&mut buffer, Version::V1, GROUP, length);
        while number < count && encoder.push(&record(number)).is_ok() {
            number += 1;
        }
        take(encoder.finish().expect("there are records in it"));
    }
}

fn record(number: u32, vip: IpAddr, server: IpAddr) -> Record<'static> {
    let client = Ipv4Addr::from(0x6440_0000 | (number / 16));
    Record {
        protocol: 6,
        flags: ConnFlags::from_bits(0),
        state: 1,
        client_port: 1024 + (number % 16) as u16,
        virtual_port: 80,
        server_port: 8080,
        addresses: Addresses::new(client.into(), vip, server).expect("all are of IPv4"),
        fwmark: 0,
        timeout_seconds: 900,
        sequence: None,
        engine: None,
        optional: OptionalParameters::default(),
    }
}

/// All messages, how long that took, and the longest part of it.
fn tell(master: &Director) -> (Vec<Vec<u8>>, Duration, Duration) {
    let mut walk = Walk::new(GROUP, 0);
    let (mut messages, mut longest) = (Vec::new(), Duration::ZERO);
    let start = Instant::now();
    let mut last = start;
    while !walk.is_over() {
        messages.extend(master.walk_on(Time::ZERO, &mut walk));
        let now = Instant::now();
        longest = longest.max(now - last);
        last = now;
    }
    (messages, start.elapsed(), longest)
}

fn take_in(backup: &Director, messages: &[Vec<u8>]) -> Duration {
    let start = Instant::now();
    backup.begin_table();
    for message in messages {
        let applied = backup.apply_table(Time::ZERO, message);
        assert!(matches!(applied, SyncOutcome::Applied(_)), "{applied:?}");
    }
    start.elapsed()
}

/// Median, least and most.
fn spread(mut seconds: Vec<f64>) -> [f64; 3] {
    seconds.sort_by(f64::total_cmp);
    [ROUNDS / 2, 0, ROUNDS - 1].map(|place| seconds[place])
}

fn text(spread: [f64; 3], unit: f64) -> String {
    spread.map(|it| format!("{:.3}", it * unit)).join("\t")
}
