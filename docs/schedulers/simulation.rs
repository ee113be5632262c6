//! A simulation of servers that report their load late and inexactly, to a director that goes by it, or does not.
//!
//! In virtual time, and without functions whose last digits differ between machines: `tests/feedback.rs` asserts what
//! comes of it, and `load_chart.rs` draws it.

use nfvs::director::packet::Transport;
use nfvs::director::scheduler::{Arrival, SchedulerFlags, SchedulerKind, build};
use nfvs::director::service::{
    Factor, Feedback, ForwardMethod, Load, LoadSource, RealServer, ServiceKey, ServiceSettings, Thresholds,
    Tunables, Tunnel, Weight,
};
use nfvs::director::{Command, Director, Limits, ServerSpec, ServiceSpec, Time};
use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::net::{IpAddr, SocketAddr};
use std::ops::{Range, RangeInclusive};
use std::sync::Arc;
use std::time::Duration;

/// What becomes of reports.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Law {
    /// There are none: plain wlc.
    Wlc,
    /// What the director makes of them.
    Feedback,
    /// At each report, the factor is the mean load divided by the server's own: what comes to mind first.
    Naive,
}

/// A service and its clients.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    /// With how many connections each server is fully loaded.
    pub(crate) capacities: Vec<f64>,
    /// How many connections there are at once, on average.
    pub(crate) connections: f64,
    /// How long they last, on average; evenly distributed from none to twice that. In seconds.
    pub(crate) lifetime: f64,
    /// How old a report is when it comes, in seconds.
    pub(crate) delay: RangeInclusive<usize>,
    /// By what part a report may be wrong, in either direction.
    pub(crate) noise: f64,
    /// At this second a server has this capacity from now on.
    pub(crate) change: Option<(usize, usize, f64)>,
    /// The seconds in which no report comes.
    pub(crate) silence: Range<usize>,
    /// How long it is simulated, in seconds.
    pub(crate) seconds: usize,
    /// Of all that is random.
    pub(crate) seed: u64,
}

/// A second, by server.
#[derive(Clone, Debug)]
pub(crate) struct Moment {
    /// The true loads.
    pub(crate) loads: Vec<f64>,
    /// The factors of the weights.
    pub(crate) factors: Vec<f64>,
}

impl Moment {
    /// How much more load the most loaded server has than the least loaded one.
    pub(crate) fn spread(&self) -> f64 {
        let (least, most) = bounds(&self.loads);
        most - least
    }
}

/// The least and the greatest of some numbers.
pub(crate) fn bounds<'a>(numbers: impl IntoIterator<Item = &'a f64>) -> (f64, f64) {
    let widen = |(least, most): (f64, f64), number: &f64| (least.min(*number), most.max(*number));
    numbers.into_iter().fold((f64::INFINITY, f64::NEG_INFINITY), widen)
}

/// What happens in each second.
pub(crate) fn run(plan: &Plan, law: Law) -> Vec<Moment> {
    run_watched(plan, law, |_, _, _| {})
}

/// The same; `watch` is told of each new connection: its second, its server, and the one that wlc would have chosen.
pub(crate) fn run_watched(plan: &Plan, law: Law, mut watch: impl FnMut(usize, usize, usize)) -> Vec<Moment> {
    let mut world = World::new(plan, law);
    let mut pass = |second| world.pass(second, &mut |chosen, by_wlc| watch(second, chosen, by_wlc));
    (0..plan.seconds).map(&mut pass).collect()
}

struct World<'a> {
    plan: &'a Plan,
    law: Law,
    director: Director,
    key: ServiceKey,
    capacities: Vec<f64>,
    /// Of connections, and of reports.
    rngs: [fastrand::Rng; 2],
    /// When the next connection comes, and when those there are end, in milliseconds.
    next_arrival: f64,
    open: BinaryHeap<(Reverse<u64>, usize)>,
    /// The true loads of all seconds.
    history: Vec<Vec<f64>>,
}

const INTERVAL: Duration = Duration::from_secs(1);

impl World<'_> {
    fn new(plan: &Plan, law: Law) -> World<'_> {
        let director = Director::new(Limits::default(), plan.seed);
        let key =
            ServiceKey::Endpoint { transport: Transport::Tcp, address: [10, 0, 0, 100].into(), port: 80 };
        let source = LoadSource::File("/run/load/{address}".to_owned());
        let spec = ServiceSpec {
            key,
            name: "simulated".to_owned(),
            scheduler: if law == Law::Wlc { SchedulerKind::Wlc } else { SchedulerKind::Feedback },
            settings: ServiceSettings {
                feedback: Some(Feedback { source, interval: INTERVAL }),
                ..ServiceSettings::default()
            },
            servers: (0..plan.capacities.len())
                .map(|number| ServerSpec {
                    address: address(number),
                    weight: Weight::default(),
                    forward: ForwardMethod::Nat,
                    tunnel: Tunnel::default(),
                    thresholds: Thresholds::default(),
                })
                .collect(),
        };
        director.apply(&[Command::AddService(spec)]).expect("a service may be added");
        World {
            plan,
            law,
            director,
            key,
            capacities: plan.capacities.clone(),
            rngs: [0, 1].map(|which| fastrand::Rng::with_seed(2 * plan.seed + which)),
            next_arrival: 0.0,
            open: BinaryHeap::new(),
            history: Vec::new(),
        }
    }

    /// The servers, in the order of the plan.
    fn servers(&self) -> Vec<Arc<RealServer>> {
        let services = self.director.services();
        let servers = &services.get(&self.key).expect("the service").servers;
        servers.iter().rev().cloned().collect()
    }

    fn pass(&mut self, second: usize, watch: &mut dyn FnMut(usize, usize)) -> Moment {
        if let Some((when, server, capacity)) = self.plan.change
            && when == second
        {
            self.capacities[server] = capacity;
        }
        let servers = self.servers();
        let end = (second as u64 + 1) * 1000;
        self.connect_until(end, &servers, watch);
        let loads = servers.iter().zip(&self.capacities);
        let loads: Vec<f64> =
            loads.map(|(server, capacity)| f64::from(server.active_conns()) / capacity).collect();
        self.history.push(loads.clone());
        let now = Time::from_millis(end);
        if self.law != Law::Wlc && !self.plan.silence.contains(&second) {
            self.report(second, now, &servers);
        }
        let factors = servers.iter().map(|server| server.reported.factor(now).get()).collect();
        Moment { loads, factors }
    }

    /// Lets connections come and go.
    fn connect_until(&mut self, end: u64, servers: &[Arc<RealServer>], watch: &mut dyn FnMut(usize, usize)) {
        let gap = 1000.0 * self.plan.lifetime / self.plan.connections;
        let mut wlc = build(SchedulerKind::Wlc, 0);
        let number = |chosen: &RealServer| {
            servers.iter().position(|server| server.id == chosen.id).expect("a server of the service")
        };
        while self.next_arrival < end as f64 {
            let now = self.next_arrival as u64;
            self.end_until(now, servers);
            let arrival = Arrival {
                now: Time::from_millis(now),
                client: ([10, 0, 1, 2], 4242).into(),
                destination: [10, 0, 0, 100].into(),
                flags: SchedulerFlags::default(),
                tunables: &Tunables::default(),
            };
            let services = self.director.services();
            let service = services.get(&self.key).expect("the service");
            let chosen = service.schedule(&arrival).expect("a server");
            let by_wlc = wlc.schedule(&service.servers, &arrival).expect("a server");
            watch(number(&chosen), number(&by_wlc));
            chosen.bind_connection(true);
            let lasts = self.rngs[0].f64() * 2000.0 * self.plan.lifetime;
            self.open.push((Reverse(now + lasts as u64), number(&chosen)));
            self.next_arrival += self.rngs[0].f64() * 2.0 * gap;
        }
        self.end_until(end, servers);
    }

    fn end_until(&mut self, now: u64, servers: &[Arc<RealServer>]) {
        while let Some(&(Reverse(end), number)) = self.open.peek()
            && end <= now
        {
            servers[number].unbind_connection(true);
            self.open.pop();
        }
    }

    /// What was true some seconds ago, more or less, is reported now.
    fn report(&mut self, second: usize, now: Time, servers: &[Arc<RealServer>]) {
        let mut reports = Vec::new();
        for number in 0..servers.len() {
            let age = self.rngs[1].usize(self.plan.delay.clone());
            let noise = 1.0 + self.plan.noise * (2.0 * self.rngs[1].f64() - 1.0);
            reports.push(self.history[second.saturating_sub(age)][number] * noise);
            let load = Load::new(reports[number]);
            self.director.note_load(self.key, address(number), load, now);
        }
        match self.law {
            Law::Wlc => {}
            Law::Feedback => self.director.regulate(self.key, now),
            Law::Naive => {
                let mean = reports.iter().sum::<f64>() / reports.len() as f64;
                for (server, report) in servers.iter().zip(reports) {
                    server.reported.set_factor(Factor::nearest(mean / report.max(0.001)));
                }
            }
        }
    }
}

fn address(number: usize) -> SocketAddr {
    let last = u8::try_from(number + 1).expect("few servers");
    SocketAddr::new(IpAddr::from([10, 0, 2, last]), 80)
}
