//! What a choice costs, by scheduler and number of servers, and what building mh's table costs.
//!
//! * `schedulers cost`: nanoseconds a choice with 2, 32 and 1,024 servers, a line for each scheduler and number: median,
//!   least and most of the rounds. Looking at the clock and freeing what was chosen is in it.
//! * `schedulers table`: nanoseconds for mh's table with 1,024 servers, in the same form.
//!
//! `benches/run` calls it.

#![allow(clippy::disallowed_methods, reason = "the clock is what is measured with")]

use nfvs::director::Time;
use nfvs::director::scheduler::{Arrival, Scheduler, SchedulerFlags, SchedulerKind, build};
use nfvs::director::service::{ForwardMethod, RealServer, ServerId, Tunables, Weight};
use std::error::Error;
use std::hint::black_box;
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Instant;

const COUNTS: [u32; 3] = [2, 32, 1_024];
/// Choices of a round.
const CHOICES: u32 = 2_048;
const ROUNDS: usize = 101;

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).filter(|argument| argument != "--bench").collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["cost"] => cost(),
        ["table"] => table(),
        _ => return Err("usage: schedulers cost, or schedulers table".into()),
    }
    Ok(())
}

/// Times the schedulers in turn: each round has every one with every number of servers.
fn cost() {
    let mut works: Vec<Work> =
        SchedulerKind::ALL.iter().flat_map(|&kind| COUNTS.map(|count| Work::new(kind, count))).collect();
    for _ in 0..ROUNDS {
        works.iter_mut().for_each(Work::run);
    }
    for work in &mut works {
        print(work.kind.name(), work.servers.len(), &mut work.nanoseconds);
    }
}

fn table() {
    let servers = servers(1_024);
    let mut scheduler = build(SchedulerKind::Mh, 1);
    let mut nanoseconds: Vec<f64> = (0..ROUNDS)
        .map(|_| {
            let start = Instant::now();
            scheduler.on_changed(black_box(&servers));
            start.elapsed().as_nanos() as f64
        })
        .collect();
    print("mh", servers.len(), &mut nanoseconds);
}

fn print(name: &str, count: usize, nanoseconds: &mut [f64]) {
    nanoseconds.sort_by(f64::total_cmp);
    let [least, median, most] = [0, ROUNDS / 2, ROUNDS - 1].map(|place| nanoseconds[place]);
    println!("{name}\t{count}\t{median:.1}\t{least:.1}\t{most:.1}");
}

/// A scheduler that chooses for the same arrivals again and again.
struct Work {
    kind: SchedulerKind,
    scheduler: Box<dyn Scheduler>,
    servers: Vec<Arc<RealServer>>,
    /// Clients and destinations, in an order without pattern.
    arrivals: Vec<Arrival<'static>>,
    nanoseconds: Vec<f64>,
}

impl Work {
    fn new(kind: SchedulerKind, count: u32) -> Work {
        let servers = servers(count);
        let mut scheduler = build(kind, 1);
        scheduler.on_changed(&servers);
        let tunables: &'static Tunables = Box::leak(Box::default());
        let mut arrivals: Vec<Arrival<'static>> = (0..CHOICES)
            .map(|number| Arrival {
                now: Time::ZERO,
                client: (Ipv4Addr::from(0x6440_0000 | number), 40_000).into(),
                destination: Ipv4Addr::from(0xc612_0000 | number).into(),
                flags: SchedulerFlags::default(),
                tunables,
            })
            .collect();
        fastrand::Rng::with_seed(1).shuffle(&mut arrivals);
        Work { kind, scheduler, servers, arrivals, nanoseconds: Vec::new() }
    }

    fn run(&mut self) {
        let start = Instant::now();
        for arrival in &self.arrivals {
            let chosen = self.scheduler.schedule(&self.servers, black_box(arrival));
            black_box(chosen.expect("an eligible server"));
        }
        self.nanoseconds.push(start.elapsed().as_nanos() as f64 / self.arrivals.len() as f64);
    }
}

/// Servers of weights 1 to 4, each with some connections.
fn servers(count: u32) -> Vec<Arc<RealServer>> {
    let mut rng = fastrand::Rng::with_seed(2);
    let server = |number: u32| {
        let address = Ipv4Addr::from(0x0a80_0000 | number).into();
        let weight = Weight::new(number % 4 + 1).expect("a small weight");
        let server = RealServer::new(ServerId(number.into()), address, 80, ForwardMethod::Nat, weight);
        // ovf takes servers of few connections only.
        server.bind_connection(rng.bool());
        Arc::new(server)
    };
    (1..=count).map(server).collect()
}
