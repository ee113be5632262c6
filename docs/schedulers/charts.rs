//! A simulation of each scheduler, and a chart of what it does: who gets how much, who moves when a server is lost, what a
//! choice costs.
//!
//! Eight servers, of weights 10 to 40 twice. Costs are not simulated; they are those that `benches/run f` has measured,
//! from `cost.tsv`.

use nfvs::director::Time;
use nfvs::director::scheduler::{Arrival, Scheduler, SchedulerFlag, SchedulerKind, build};
use nfvs::director::service::{ForwardMethod, RealServer, ServerId, Tunables, Weight};
use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::fmt::Write;
use std::net::Ipv4Addr;
use std::sync::Arc;

const WEIGHTS: [u32; 8] = [10, 20, 30, 40, 10, 20, 30, 40];
const CLIENTS: u32 = 2_000;
/// New connections of the first part.
const CONNECTIONS: u64 = 20_000;
/// How many connections there are at once, on average; the weights' sum is 200.
const AT_ONCE: u64 = 160;
/// The server that is lost, of weight 40.
const LOST: usize = 3;
const COUNTS: [&str; 3] = ["2", "32", "1024"];

/// The charts, by the scheduler's name.
pub(crate) fn all(costs: &str) -> impl Iterator<Item = (SchedulerKind, String)> {
    SchedulerKind::ALL.iter().map(|&kind| {
        let costs = COUNTS.map(|count| cost(costs, kind, count));
        (kind, draw(kind, &spread(kind), &disruption(kind), costs))
    })
}

/// The median of nanoseconds a choice, from lines "NAME COUNT MEDIAN LEAST MOST".
fn cost(costs: &str, kind: SchedulerKind, count: &str) -> f64 {
    let mut lines = costs.lines().map(|line| line.split('\t').collect::<Vec<_>>());
    let line = lines.find(|line| line[..2] == [kind.name(), count]).expect("a cost of each scheduler");
    line[2].parse().expect("a cost is a number")
}

/// A service with the eight servers.
struct Service {
    scheduler: Box<dyn Scheduler>,
    /// Newest first.
    servers: Vec<Arc<RealServer>>,
    tunables: Tunables,
}

impl Service {
    fn new(kind: SchedulerKind) -> Service {
        let mut service =
            Service { scheduler: build(kind, 5), servers: Vec::new(), tunables: Tunables::default() };
        for (number, weight) in (0..).zip(WEIGHTS) {
            let address = Ipv4Addr::new(10, 0, 2, 11 + number).into();
            let weight = Weight::new(weight).expect("a small weight");
            let server = RealServer::new(ServerId(number.into()), address, 80, ForwardMethod::Nat, weight);
            service.servers.insert(0, Arc::new(server));
            service.scheduler.on_added(&service.servers);
        }
        service
    }

    /// The server of a client's new connection, which is counted. Each client has a destination of its own.
    fn connect(&mut self, client: u32) -> Option<Arc<RealServer>> {
        let fallback = [SchedulerFlag::ShFallback, SchedulerFlag::MhFallback];
        let arrival = Arrival {
            now: Time::ZERO,
            client: (Ipv4Addr::from(0x6440_0000 | client), 40_000).into(),
            destination: Ipv4Addr::from(0xc612_0000 | client).into(),
            flags: fallback.into_iter().collect(),
            tunables: &self.tunables,
        };
        let server = self.scheduler.schedule(&self.servers, &arrival)?;
        server.bind_connection(true);
        Some(server)
    }

    fn position(&self, number: usize) -> usize {
        WEIGHTS.len() - 1 - number
    }
}

/// What the servers got while connections came and went.
struct Spread {
    /// In comparison with what the weight says, by server.
    got: [f64; 8],
    /// The part of the connections that found no server.
    refused: f64,
}

fn spread(kind: SchedulerKind) -> Spread {
    let mut rng = fastrand::Rng::with_seed(11);
    let mut service = Service::new(kind);
    let mut open: BinaryHeap<(Reverse<u64>, u64)> = BinaryHeap::new();
    let mut by_number: Vec<Arc<RealServer>> = service.servers.clone();
    by_number.reverse();
    let (mut counts, mut refused) = ([0_u32; 8], 0_u32);
    for now in 0..CONNECTIONS {
        while let Some(&(Reverse(end), number)) = open.peek()
            && end <= now
        {
            by_number[number as usize].unbind_connection(true);
            open.pop();
        }
        match service.connect(rng.u32(..CLIENTS)) {
            Some(server) => {
                counts[server.id.0 as usize] += 1;
                open.push((Reverse(now + rng.u64(1..=2 * AT_ONCE)), server.id.0));
            }
            None => refused += 1,
        }
    }
    let fair = |number: usize| {
        CONNECTIONS as f64 * f64::from(WEIGHTS[number]) / f64::from(WEIGHTS.iter().sum::<u32>())
    };
    Spread {
        got: std::array::from_fn(|number| f64::from(counts[number]) / fair(number)),
        refused: f64::from(refused) / CONNECTIONS as f64,
    }
}

/// Whose server is another one after a server was lost: of all clients, the part that it had, and the part that was
/// with others and moved all the same.
struct Disruption {
    lost: f64,
    /// When it was removed.
    by_removal: f64,
    /// When it was set to weight 0.
    by_weight: f64,
}

fn disruption(kind: SchedulerKind) -> Disruption {
    let (lost, by_removal) = moved(kind, |service| {
        let position = service.position(LOST);
        let removed = service.servers.remove(position);
        removed.set_available(false);
        service.scheduler.on_removed(removed.id, position, &service.servers);
    });
    let (_, by_weight) = moved(kind, |service| {
        service.servers[service.position(LOST)].set_weight(Weight::new(0).expect("a small weight"));
        service.scheduler.on_changed(&service.servers);
    });
    Disruption { lost, by_removal, by_weight }
}

/// Each client has a connection at a time, before and after, in another order.
fn moved(kind: SchedulerKind, lose: impl Fn(&mut Service)) -> (f64, f64) {
    let mut service = Service::new(kind);
    let mut rng = fastrand::Rng::with_seed(12);
    let mut clients: Vec<u32> = (0..CLIENTS).collect();
    let mut round = |service: &mut Service| {
        rng.shuffle(&mut clients);
        let mut servers = vec![None; CLIENTS as usize];
        let mut open = std::collections::VecDeque::new();
        for &client in &clients {
            if let Some(server) = service.connect(client) {
                servers[client as usize] = Some(server.id);
                open.push_back(server);
            }
            if open.len() as u64 > AT_ONCE / 2 {
                open.pop_front().expect("one of many").unbind_connection(true);
            }
        }
        open.iter().for_each(|server| server.unbind_connection(true));
        servers
    };
    let before = round(&mut service);
    lose(&mut service);
    let after = round(&mut service);
    let had = |server: &Option<ServerId>| *server == Some(ServerId(LOST as u64));
    let lost = before.iter().filter(|server| had(server)).count();
    let others = before.iter().zip(&after).filter(|(before, after)| !had(before) && before != after).count();
    (lost as f64 / f64::from(CLIENTS), others as f64 / f64::from(CLIENTS))
}

const INK: &str = "#333";
const BAR: &str = "#4878a8";
const LIGHT: &str = "#a8c0d8";

/// Three panels, side by side.
fn draw(kind: SchedulerKind, spread: &Spread, disruption: &Disruption, costs: [f64; 3]) -> String {
    let mut panels = String::new();
    draw_spread(&mut panels, spread);
    draw_disruption(&mut panels, disruption);
    draw_costs(&mut panels, costs);
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"760\" height=\"190\" viewBox=\"0 0 760 190\" role=\"img\" \
         font-family=\"sans-serif\" font-size=\"11\" fill=\"{INK}\">\n<title>{kind}</title>\n\
         <rect width=\"760\" height=\"190\" fill=\"#fff\"/>\n{panels}</svg>\n"
    )
}

fn text(out: &mut String, x: f64, y: f64, anchor: &str, words: &str) {
    writeln!(out, "<text x=\"{x:.0}\" y=\"{y:.0}\" text-anchor=\"{anchor}\">{words}</text>").expect("room");
}

fn bar(out: &mut String, [x, y, width, height]: [f64; 4], fill: &str) {
    writeln!(
        out,
        "<rect x=\"{x:.1}\" y=\"{y:.1}\" width=\"{width:.1}\" height=\"{height:.1}\" fill=\"{fill}\"/>"
    )
    .expect("room");
}

/// A bar that ends at 150, for each server; twice its share and more fill the panel.
fn draw_spread(out: &mut String, spread: &Spread) {
    let refused = format!("{:.1} % refused", spread.refused * 100.0);
    text(out, 10.0, 20.0, "start", "connections, 1 = share by weight");
    text(out, 240.0, 182.0, "end", &refused);
    for (number, (got, weight)) in spread.got.into_iter().zip(WEIGHTS).enumerate() {
        let x = 14.0 + 29.0 * number as f64;
        let height = got.min(2.0) * 50.0;
        bar(out, [x, 150.0 - height, 20.0, height], BAR);
        text(out, x + 10.0, 145.0 - height, "middle", &format!("{got:.1}"));
        text(out, x + 10.0, 164.0, "middle", &weight.to_string());
    }
    text(out, 10.0, 182.0, "start", "weights of eight servers");
    writeln!(out, "<path d=\"M10 100H246\" stroke=\"{INK}\" stroke-dasharray=\"3 3\"/>").expect("room");
}

fn draw_disruption(out: &mut String, disruption: &Disruption) {
    text(out, 275.0, 20.0, "start", "clients that move when a server is lost");
    let Disruption { lost, by_removal, by_weight } = *disruption;
    for (row, (words, part, fill)) in [
        ("its own", lost, LIGHT),
        ("others, when it is removed", by_removal, BAR),
        ("others, when its weight becomes 0", by_weight, BAR),
    ]
    .into_iter()
    .enumerate()
    {
        let y = 40.0 + 42.0 * row as f64;
        text(out, 275.0, y + 8.0, "start", words);
        bar(out, [275.0, y + 13.0, part * 180.0, 14.0], fill);
        text(out, 281.0 + part * 180.0, y + 24.0, "start", &format!("{:.1} %", part * 100.0));
    }
}

/// On a logarithmic scale from 1 ns.
fn draw_costs(out: &mut String, costs: [f64; 3]) {
    text(out, 540.0, 20.0, "start", "ns a choice (logarithmic)");
    for (column, (cost, count)) in costs.into_iter().zip(COUNTS).enumerate() {
        let x = 556.0 + 64.0 * column as f64;
        let height = cost.max(1.0).log10() * 28.0;
        bar(out, [x, 150.0 - height, 32.0, height], BAR);
        text(out, x + 16.0, 145.0 - height, "middle", &format!("{cost:.0}"));
        text(out, x + 16.0, 164.0, "middle", count);
    }
    text(out, 540.0, 182.0, "start", "servers");
}
