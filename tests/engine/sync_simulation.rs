//! Two directors, a master and a backup of the same configuration, and a link between them that loses and reorders
//! messages, on a virtual clock.

use crate::bed::{ACK, Bed, FIN, RST, SYN, key, marked, server, tcp, udp};
use crate::sync_link::{start_backup, start_limited_master, start_master};
use nfvs::director::packet::Transport::{Tcp, Udp};
use nfvs::director::scheduler::SchedulerKind::Rr;
use nfvs::director::service::{
    ClientMask, Family, Fwmark, Persistence, ServiceSettings, SyncThreshold, Tunables,
};
use nfvs::director::sync::{SyncOutcome, Unsent};
use nfvs::director::{Command, Hook};
use std::collections::BTreeMap;
use std::time::Duration;

const WEB: &str = "10.0.0.100:80";
const DNS: &str = "10.0.0.100:53";
const WEB6: &str = "[fd00::100]:80";
const SHOP: &str = "10.0.0.101:443";
const MARK: u16 = 9;

/// A director with everything that is synchronised.
fn director() -> Bed {
    let bed = Bed::new();
    let clients = ClientMask::V4([255, 255, 255, 0].into());
    let persistence = Some(Persistence { timeout: Duration::from_secs(300), clients, engine: None });
    let persistent = ServiceSettings { persistence, ..ServiceSettings::default() };
    bed.add(Tcp, WEB, Rr, &["10.0.2.11:8080", "10.0.3.12:8080"]);
    bed.add(Udp, DNS, Rr, &["10.0.2.11:5300", "10.0.3.12:5300"]);
    bed.add(Tcp, WEB6, Rr, &["[fd00:2::11]:8080", "[fd00:3::12]:8080"]);
    bed.add_with(Tcp, SHOP, Rr, persistent.clone(), &["10.0.2.11:443", "10.0.3.12:443"]);
    bed.add_service(marked(MARK, Family::V4), Rr, persistent, &["10.0.2.11:0", "10.0.3.12:0"]);
    bed
}

/// A message on its way.
struct Flying {
    arrives: u64,
    datagram: Vec<u8>,
}

struct Simulation {
    random: fastrand::Rng,
    master: Bed,
    backup: Bed,
    link: Vec<Flying>,
    loses: bool,
    /// When messages were taken, in milliseconds.
    sent: Vec<u64>,
}

impl Simulation {
    fn new(seed: u64) -> Simulation {
        let (master, backup) = (director(), director());
        start_master(&master.director);
        start_backup(&backup.director);
        let random = fastrand::Rng::with_seed(seed);
        Simulation { random, master, backup, link: Vec::new(), loses: true, sent: Vec::new() }
    }

    /// Time goes on; a message may be lost, doubled or late.
    fn pass(&mut self, millis: u64) {
        let now = self.master.now + Duration::from_millis(millis);
        (self.master.now, self.backup.now) = (now, now);
        self.master.director.handle_timeout(now);
        self.backup.director.handle_timeout(now);
        for datagram in self.master.director.take_sync_messages(now, 0, usize::MAX) {
            self.sent.push(now.as_millis());
            let copies = if self.loses { [0, 1, 1, 1, 2][self.random.usize(..5)] } else { 1 };
            for _ in 0..copies {
                let late = if self.loses { self.random.u64(..3000) } else { 0 };
                self.link.push(Flying { arrives: now.as_millis() + late, datagram: datagram.clone() });
            }
        }
        let (arrived, flying) = self.link.drain(..).partition(|it| it.arrives <= now.as_millis());
        self.link = flying;
        let mut arrived: Vec<Flying> = arrived;
        arrived.sort_by_key(|it| it.arrives);
        for Flying { datagram, .. } in arrived {
            self.apply(&datagram);
        }
        self.backup.director.check_invariants();
    }

    /// Has the backup apply a message, and once more, which changes nothing.
    fn apply(&mut self, datagram: &[u8]) {
        let SyncOutcome::Applied(_) = self.backup.director.apply_sync(self.backup.now, datagram) else {
            panic!("not applied");
        };
        let table = entries(&self.backup);
        let SyncOutcome::Applied(again) = self.backup.director.apply_sync(self.backup.now, datagram) else {
            panic!("not applied");
        };
        assert_eq!((again.created, again.replaced), (0, 0));
        assert_eq!(entries(&self.backup), table, "a duplicate changes nothing");
    }

    /// One packet of a client, or of the server that has its connection.
    fn packet(&mut self, client: u8, port: u16, kind: u8, flags: u8) {
        let v4 = format!("10.0.1.{client}:{port}");
        let (from, vip, mark) = match kind {
            0 => (v4, WEB, None),
            1 => (v4, DNS, None),
            2 => (format!("[fd00:1::{client}]:{port}"), WEB6, None),
            3 => (v4, SHOP, None),
            _ => (v4, "10.9.9.9:7", Fwmark::new(MARK)),
        };
        let mut bytes = if kind == 1 { udp(&from, vip, b"question") } else { tcp(&from, vip, flags, b"") };
        let _ = self.master.handle_at(Hook::Prerouting, mark, &mut bytes);
        if self.random.bool() {
            let found = self.master.director.connections(self.master.now).flatten();
            let server = found
                .filter(|it| it.client.to_string() == from && it.virtual_address.to_string() == vip)
                .map(|it| it.server.to_string())
                .next();
            if let Some(server) = server {
                let mut reply = if kind == 1 {
                    udp(&server, &from, b"answer")
                } else {
                    let answer =
                        if flags == SYN { SYN | ACK } else { [ACK, ACK, FIN | ACK][self.random.usize(..3)] };
                    tcp(&server, &from, answer, b"")
                };
                let _ = self.master.handle(&mut reply);
            }
        }
    }
}

/// Connections with server, state and activity, and templates with server and state. Not when they end.
fn entries(bed: &Bed) -> BTreeMap<String, String> {
    let mut entries = BTreeMap::new();
    for it in bed.director.connections(bed.now).flatten() {
        let flags = it.flags.bits() & !0x20;
        let names = format!("{} {} {}", it.transport, it.client, it.virtual_address);
        entries.insert(names, format!("{} {} {flags:#x}", it.server, it.state));
    }
    for it in bed.director.templates(bed.now).flatten() {
        let flags = it.flags.bits() & !0x20;
        let names = format!("template {:?} {} {}", it.transport, it.clients, it.virtual_address);
        entries.insert(names, format!("{} {} {flags:#x}", it.server, it.state()));
    }
    entries
}

/// The states that are told of.
fn is_told(entry: &(&String, &String)) -> bool {
    let (name, state) = entry;
    name.starts_with("template")
        || ["UDP", "ESTABLISHED", "FIN_WAIT", "TIME_WAIT", "CLOSE ", "CLOSE_WAIT"]
            .iter()
            .any(|told| format!("{state} ").contains(told))
}

#[test]
fn a_backup_behind_a_bad_link_has_the_masters_table_in_the_end() {
    let seeds: Vec<u64> = match std::env::var("NFVS_SEED").ok().and_then(|text| text.parse().ok()) {
        Some(seed) => vec![seed],
        None => (0..8).collect(),
    };
    for seed in seeds {
        println!("seed {seed} (NFVS_SEED chooses another)");
        simulate(seed);
    }
}

fn simulate(seed: u64) {
    let mut simulation = Simulation::new(seed);
    let mut clients: Vec<(u8, u16, u8)> = Vec::new();
    for step in 0..1500 {
        let random = &mut simulation.random;
        let (client, port, kind) = match random.u8(..) {
            0..40 => {
                let new = (random.u8(1..30), random.u16(1000..1020), random.u8(..5));
                clients.push(new);
                new
            }
            _ if clients.is_empty() => continue,
            _ => clients[random.usize(..clients.len())],
        };
        let flags = [SYN, ACK, ACK, ACK, ACK, ACK, ACK, FIN | ACK, RST][random.usize(..9)];
        let millis = random.u64(..400);
        simulation.packet(client, port, kind, flags);
        simulation.pass(millis);
        simulation.master.director.check_invariants();
        if step == 700 {
            // The backup learns of a server later.
            let more = server("10.0.4.13:8080", 1);
            simulation.master.change(Command::AddServer(key(Tcp, WEB), more));
        }
        if step == 900 {
            let more = server("10.0.4.13:8080", 1);
            simulation.backup.change(Command::AddServer(key(Tcp, WEB), more));
        }
        if step % 100 == 0 {
            let version = [sync_proto::Version::V0, sync_proto::Version::V1][simulation.random.usize(..2)];
            let threshold = SyncThreshold { packet: simulation.random.u32(..3), period: 5 };
            let tunables =
                Tunables { sync_version: version, sync_threshold: threshold, ..Tunables::default() };
            simulation.master.tune(tunables);
        }
    }
    settle(&mut simulation, &clients);
    assert_told(&simulation, seed);
    for service in [key(Tcp, WEB), key(Udp, DNS), key(Tcp, WEB6), key(Tcp, SHOP)] {
        // What the backup keeps longer is idle.
        let [master, backup] = [&simulation.master, &simulation.backup].map(|bed| bed.director.services());
        let (master, backup) = (master.get(&service).unwrap(), backup.get(&service).unwrap());
        for (one, other) in master.servers.iter().zip(&backup.servers) {
            assert!(other.total_conns() + 40 >= one.total_conns(), "{service}: {one:?} {other:?}");
        }
    }
}

/// The backup has what the master tells of, as the master has it.
fn assert_told(simulation: &Simulation, seed: u64) {
    let (master, backup) = (entries(&simulation.master), entries(&simulation.backup));
    let told: BTreeMap<&String, &String> = master.iter().filter(is_told).collect();
    let known: BTreeMap<&String, &String> =
        backup.iter().filter(|(name, _)| told.contains_key(name)).collect();
    assert!(told.len() > 20, "{told:#?}");
    assert_eq!(known, told, "seed {seed}");
    simulation.backup.director.check_invariants();
}

/// The link is good from now on, and each connection that is left has a packet, which is told with what controls it.
fn settle(simulation: &mut Simulation, clients: &[(u8, u16, u8)]) {
    simulation.loses = false;
    simulation.pass(5000);
    let threshold = SyncThreshold { packet: 0, period: 1 };
    simulation.master.tune(Tunables { sync_threshold: threshold, ..Tunables::default() });
    clients.iter().for_each(|&client| greet(simulation, client));
    simulation.pass(2000);
    simulation.pass(1);
}

/// A packet of a client that knows its connection.
fn greet(simulation: &mut Simulation, (client, port, kind): (u8, u16, u8)) {
    let from = format!("10.0.1.{client}:{port}");
    let (vip, mark, from) = match kind {
        0 => (WEB, None, from),
        1 => (DNS, None, from),
        2 => (WEB6, None, format!("[fd00:1::{client}]:{port}")),
        3 => (SHOP, None, from),
        _ => ("10.9.9.9:7", Fwmark::new(MARK), from),
    };
    let mut bytes = if kind == 1 { udp(&from, vip, b"question") } else { tcp(&from, vip, ACK, b"") };
    let _ = simulation.master.handle_at(Hook::Prerouting, mark, &mut bytes);
}

#[test]
fn a_master_that_may_not_send_all_keeps_to_its_rate_and_the_backup_has_the_table_in_the_end() {
    for seed in 0..6 {
        let mut simulation = Simulation::new(seed);
        simulation.loses = false;
        let rate = simulation.random.u32(2..12);
        start_limited_master(&simulation.master.director, rate);
        let every = SyncThreshold { packet: 0, period: 1 };
        // With the first seeds there is room for all, with the others for less than half of it.
        let sync_qlen_max = if seed < 3 { 8192 } else { 20 };
        let tunables = Tunables { sync_threshold: every, sync_qlen_max, ..Tunables::default() };
        simulation.master.tune(tunables);
        let mut clients: Vec<(u8, u16, u8)> = Vec::new();
        for _ in 0..3000 {
            let random = &mut simulation.random;
            let new = (random.u8(1..30), random.u16(1000..1010), random.u8(..5));
            let old = clients.get(random.usize(..clients.len() + 1)).copied();
            let (client, port, kind) = old.filter(|_| random.u8(..5) > 0).unwrap_or(new);
            clients.push((client, port, kind));
            let flags = [SYN, ACK, ACK, ACK, ACK, ACK, ACK, FIN | ACK, RST][random.usize(..9)];
            let millis = random.u64(..4);
            simulation.packet(client, port, kind, flags);
            simulation.pass(millis);
        }
        // Whoever is still there says something from time to time, each a little later than the one before.
        clients.sort_unstable();
        clients.dedup();
        for &it in &clients {
            greet(&mut simulation, it);
            (0..5).for_each(|_| simulation.pass(100));
        }
        (0..50).for_each(|_| simulation.pass(100));
        assert!(!simulation.master.director.holds_sync_messages(simulation.master.now, 0));
        assert_told(&simulation, seed);

        let counters = simulation.master.director.sync_counters().master;
        assert!(counters.unsent(Unsent::Coalesced) > 100, "{counters:?}");
        assert_eq!(counters.unsent(Unsent::RateLimited) > 0, seed >= 3, "{counters:?}");
        assert_eq!(counters.messages, simulation.sent.len() as u64);
        for (first, begin) in simulation.sent.iter().enumerate() {
            for (before, end) in simulation.sent[first..].iter().enumerate() {
                let most = 1 + (end - begin) * u64::from(rate) / 1000;
                assert!(before as u64 <= most, "seed {seed}, rate {rate}: {before} in {}", end - begin);
            }
        }
    }
}

/// Workers, the one who receives, the one who sends and the one whose clock ticks have locks in common.
#[test]
fn threads_share_a_director_that_is_master_and_backup() {
    let (bed, other) = (director(), director());
    start_master(&other.director);
    let every = SyncThreshold { packet: 0, period: 1 };
    for bed in [&bed, &other] {
        bed.tune(Tunables { sync_threshold: every, ..Tunables::default() });
        start_master(&bed.director);
        start_backup(&bed.director);
    }
    let (bed, other) = (&bed, &other);
    let handle = |bed: &Bed, random: &mut fastrand::Rng| {
        let client = format!("10.0.1.{}:{}", random.u8(1..9), random.u16(1000..1010));
        let vip = [WEB, SHOP][random.usize(..2)];
        let flags = [SYN, ACK, ACK, FIN | ACK, RST][random.usize(..5)];
        let _ = bed.handle(&mut tcp(&client, vip, flags, b""));
    };
    std::thread::scope(|scope| {
        for seed in 0..2 {
            scope.spawn(move || {
                let mut random = fastrand::Rng::with_seed(seed);
                (0..5000).for_each(|_| handle(bed, &mut random));
            });
        }
        scope.spawn(move || {
            let mut random = fastrand::Rng::with_seed(7);
            let later = bed.now + Duration::from_secs(2);
            for _ in 0..2000 {
                handle(other, &mut random);
                for message in other.director.take_sync_messages(later, 0, usize::MAX) {
                    let _ = bed.director.apply_sync(bed.now, &message);
                }
                drop(bed.director.take_sync_messages(later, 0, usize::MAX));
                bed.director.handle_timeout(bed.now);
            }
        });
    });
    bed.director.check_invariants();
    let counters = bed.director.sync_counters();
    assert!(counters.master.records > 1000 && counters.backup.updated > 1000, "{counters:?}");
}
