//! Carries out the same random steps with the kernel's IPVS and with nfvs, and compares after each of them what clients
//! and servers got and what the directors know: services, servers, connections, states and counts.
//!
//! ```text
//! differential STEPS SEED
//! differential choices EACH SEED
//! ```
//!
//! The second has schedulers choose: at least `EACH` times every one that the kernel has.
//!
//! It needs root, a kernel with IPVS, `ipvsadm`, and a built nfvs: `netns-lab/lab vm differential` has them all. Ends
//! with 1 at the first difference, and says with which seed it comes again.
#![allow(clippy::disallowed_methods, reason = "what has arrived shows in real time")]

mod choices;
#[path = "../../nft-rules/tests/common/crc32c.rs"]
mod crc32c;
mod director;
mod network;
mod packet;
mod steps;

use anyhow::{Context, bail, ensure};
use director::{Balancer, Director};
use network::Network;
use std::collections::{HashSet, VecDeque};
use std::time::{Duration, Instant};
use steps::{Change, Generator, Step};

/// For how long two directors may know different things: the kernel adds up its counters every two seconds, and its
/// timers for minutes go off up to 16 seconds late (`kernel/time/timer.c`).
const PATIENCE: Duration = Duration::from_secs(30);
/// For how long they may differ in what they have sent.
const DELIVERY: Duration = Duration::from_secs(6);
/// How long nothing must arrive before nothing more is expected.
const QUIET: Duration = Duration::from_millis(60);
/// How often the traffic counters are compared, in steps.
const COUNTERS: usize = 50;
/// How many of the last steps are told when there is a difference.
const TOLD: usize = 20;

fn main() -> anyhow::Result<()> {
    let mut arguments = std::env::args().skip(1).peekable();
    let chooses = arguments.next_if(|first| first == "choices").is_some();
    let mut number = |what: &str| -> anyhow::Result<u64> {
        let given = arguments.next().with_context(|| format!("usage: differential STEPS SEED ({what}?)"))?;
        given.parse().with_context(|| format!("{what}: \"{given}\" is no number"))
    };
    let (steps, seed) = (number("STEPS")?, number("SEED")?);
    if chooses {
        return choices::compare(usize::try_from(steps)?, seed);
    }
    let mut pair = Pair::up()?;
    let mut generator = Generator::new(seed);
    let mut told = VecDeque::new();
    for number in 0..usize::try_from(steps)? {
        let step = generator.next(&pair.known);
        if told.len() == TOLD {
            told.pop_front();
        }
        told.push_back(format!("{number}: {step}"));
        let compared = pair.take(&step, number % COUNTERS == 0).map(|done| generator.note(&step, done));
        if let Err(difference) = compared {
            for step in &told {
                println!("{step}");
            }
            for director in &mut pair.directors {
                println!("{director}: {:#?}", director.services()?);
            }
            bail!("{difference:#}\nseed {seed}, step {number}");
        }
    }
    println!("{steps} steps with seed {seed}: the same with the kernel's IPVS and with nfvs");
    println!("{}", generator.summary());
    Ok(())
}

/// Two networks that differ in who balances.
struct Pair {
    networks: [Network; 2],
    directors: [Director; 2],
    /// What both directors knew after the last step.
    known: Vec<director::Entry>,
    /// Every server there was, and those that came back, as counters name them.
    added: HashSet<String>,
    uncounted: HashSet<String>,
}

impl Pair {
    fn up() -> anyhow::Result<Pair> {
        let up = |balancer| -> anyhow::Result<(Network, Director)> {
            let network = Network::up(balancer)?;
            let director = Director::new(balancer, &network)?;
            Ok((network, director))
        };
        let (ipvs, nfvs) = (up(Balancer::Ipvs)?, up(Balancer::Nfvs)?);
        Ok(Pair {
            networks: [ipvs.0, nfvs.0],
            directors: [ipvs.1, nfvs.1],
            known: Vec::new(),
            added: HashSet::new(),
            uncounted: HashSet::new(),
        })
    }

    /// Takes a step in both networks. Returns whether it came to something.
    fn take(&mut self, step: &Step, with_counters: bool) -> anyhow::Result<bool> {
        if let Step::Change(Change::AddServer(key, server)) = step {
            // One that comes back counts from zero, and for IPVS that is what its estimator had seen when it went.
            let name = format!("{key} -> {}", server.address);
            if !self.added.insert(name.clone()) {
                self.uncounted.insert(name);
            }
        }
        let done = match step {
            Step::Change(change) => {
                let [ipvs, nfvs] = &mut self.directors;
                let (ipvs, nfvs) = (ipvs.change(change)?, nfvs.change(change)?);
                ensure!(ipvs == nfvs, "IPVS {}, nfvs {}", granted(ipvs), granted(nfvs));
                ipvs
            }
            Step::Send(packet) => {
                for network in &mut self.networks {
                    network.send(packet)?;
                }
                true
            }
            Step::Wait(time) => {
                std::thread::sleep(*time);
                true
            }
        };
        let arrived = self.arrived()?;
        ensure!(arrived[0] == arrived[1], "arrived with IPVS {:#?}\nwith nfvs {:#?}", arrived[0], arrived[1]);
        self.compare("what is known", Director::state)?;
        if with_counters {
            let uncounted = self.uncounted.clone();
            self.compare("counters", |director| {
                let is_counted = |(name, _): &(String, String)| !uncounted.contains(name);
                let counters = director.counters()?.into_iter().filter(is_counted);
                Ok(counters.map(|(name, numbers)| format!("{name} {numbers}")).collect())
            })?;
        }
        self.known = self.directors[1].entries()?;
        Ok(done)
    }

    /// What has arrived in each network, once both have got the same, or nothing more comes.
    fn arrived(&mut self) -> anyhow::Result<[Vec<String>; 2]> {
        let mut arrived = [Vec::new(), Vec::new()];
        let deadline = Instant::now() + DELIVERY;
        let mut quiet_since = Instant::now();
        loop {
            for (network, arrived) in self.networks.iter_mut().zip(&mut arrived) {
                let new = network.receive()?;
                if !new.is_empty() {
                    quiet_since = Instant::now();
                    arrived.extend(new);
                }
            }
            let is_quiet = quiet_since.elapsed() >= QUIET;
            if is_quiet && arrived[0] == arrived[1] || Instant::now() >= deadline {
                return Ok(arrived);
            }
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    /// Compares what the directors say, until it is the same or patience is over.
    fn compare(
        &mut self,
        what: &str,
        read: impl Fn(&mut Director) -> anyhow::Result<Vec<String>>,
    ) -> anyhow::Result<()> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let [ipvs, nfvs] = &mut self.directors;
            let (ipvs, nfvs) = (read(ipvs)?, read(nfvs)?);
            if ipvs == nfvs {
                return Ok(());
            }
            if Instant::now() >= deadline {
                let only = |these: &[String], those: &[String]| {
                    let only = these.iter().filter(|line| !those.contains(line));
                    only.map(|line| format!("\n  {line}")).collect::<String>()
                };
                bail!("{what}: only IPVS has{}\nonly nfvs has{}", only(&ipvs, &nfvs), only(&nfvs, &ipvs));
            }
            std::thread::sleep(Duration::from_millis(100));
        }
    }
}

fn granted(done: bool) -> &'static str {
    if done { "grants the change" } else { "refuses the change" }
}
