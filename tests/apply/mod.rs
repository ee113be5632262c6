//! What holds of every datagram that a backup gets, shared by the tests and the fuzz target.

#![allow(unreachable_pub, reason = "part of several crates")]

use nfvs::director::packet::Transport;
use nfvs::director::scheduler::SchedulerKind;
use nfvs::director::service::{
    ClientMask, Family, ForwardMethod, Fwmark, Persistence, PersistenceEngine, ServiceKey, ServiceSettings,
    Thresholds, Tunnel, Weight,
};
use nfvs::director::sync::{BackupSettings, SyncOutcome};
use nfvs::director::{Command, Director, Hook, Limits, PacketMeta, ServerSpec, ServiceSpec, Time};
use std::cell::Cell;
use std::net::IpAddr;
use std::time::Duration;
use sync_proto::{Message, SyncId};

/// A backup, and its time. One for all datagrams: what hashes a table is never given back.
struct Bench {
    director: Director,
    now: Cell<Time>,
}

/// Longer than any entry lasts.
const LONG: Duration = Duration::from_secs(100 * 24 * 60 * 60);

/// Panics where one does not hold.
pub fn check(datagram: &[u8]) {
    thread_local! {
        static BENCH: Bench = Bench { director: director(), now: Cell::new(Time::ZERO) };
    }
    BENCH.with(|bench| {
        bench.now.set(bench.now.get() + LONG);
        bench.check(bench.now.get(), datagram);
        bench.director.handle_timeout(bench.now.get() + LONG);
        assert_eq!(bench.director.connection_count().0, 0, "every entry ends");
        bench.now.set(bench.now.get() + LONG);
    });
}

impl Bench {
    fn check(&self, now: Time, datagram: &[u8]) {
        let Bench { director, .. } = self;
        let outcome = director.apply_sync(now, datagram);
        director.check_invariants();
        let Ok(message) = Message::decode(datagram, SyncId::ANY) else {
            assert!(matches!(outcome, SyncOutcome::Refused(_)));
            assert_eq!(director.connection_count().0, 0);
            return;
        };
        let SyncOutcome::Applied(once) = outcome else { panic!("{outcome:?}") };
        let total = once.created + once.updated + once.replaced + once.rejected;
        assert_eq!(usize::from(total), message.records().count(), "each record had an outcome");
        assert_eq!(director.connection_count().0, usize::from(once.created), "each that was made is there");
        assert!(message.records().filter(Result::is_err).count() <= usize::from(once.rejected));

        // Where no connection was replaced, the same once more changes nothing.
        let before = table(director, now);
        let SyncOutcome::Applied(twice) = director.apply_sync(now, datagram) else { panic!("not again") };
        director.check_invariants();
        assert_eq!(twice.created, 0, "what was made is found again");
        if once.replaced == 0 {
            assert_eq!(table(director, now), before);
            assert_eq!((twice.replaced, twice.rejected), (0, once.rejected));
        }

        // Packets may come for it, and its time passes.
        packets(director, now);
        director.check_invariants();
        director.handle_timeout(now + Duration::from_secs(130));
        director.check_invariants();
    }
}

fn table(director: &Director, now: Time) -> Vec<String> {
    let connections = director.connections(now).flatten().map(|it| format!("{it:?}"));
    let mut table: Vec<String> =
        connections.chain(director.templates(now).flatten().map(|it| format!("{it:?}"))).collect();
    table.sort();
    table
}

/// From each client to each virtual address, and from each server to each client, as the table has them.
fn packets(director: &Director, now: Time) {
    let views: Vec<_> = director.connections(now).flatten().collect();
    for view in views {
        let protocol = view.transport.number();
        for (from, to) in [(view.client, view.virtual_address), (view.server, view.client)] {
            let payload = [&from.port().to_be_bytes()[..], &to.port().to_be_bytes(), &[0; 16]].concat();
            let len = payload.len() as u16;
            let (mut bytes, addresses) = match (from.ip(), to.ip()) {
                (IpAddr::V4(from), IpAddr::V4(to)) => {
                    let [high, low] = (20 + len).to_be_bytes();
                    let header = vec![0x45, 0, high, low, 0, 0, 0, 0, 64, protocol, 0, 0];
                    (header, [from.octets().to_vec(), to.octets().to_vec()])
                }
                (IpAddr::V6(from), IpAddr::V6(to)) => {
                    let [high, low] = len.to_be_bytes();
                    let header = vec![0x60, 0, 0, 0, high, low, protocol, 64];
                    (header, [from.octets().to_vec(), to.octets().to_vec()])
                }
                _ => panic!("the families of a record are one"),
            };
            bytes.extend([addresses.concat(), payload].concat());
            let original_len = bytes.len();
            let hook = Hook::Prerouting;
            let meta = PacketMeta { hook, checksum_owed: false, gso: false, original_len, mark: None };
            let _ = director.handle_packet(now, &meta, &mut bytes);
        }
    }
}

fn director() -> Director {
    let director = Director::new(Limits { max_connections: 1000 }, 7);
    let web = ServiceKey::Endpoint { transport: Transport::Tcp, address: [10, 0, 0, 100].into(), port: 80 };
    let sip = ServiceKey::Endpoint { transport: Transport::Udp, address: [10, 0, 0, 100].into(), port: 5060 };
    let ftp = ServiceKey::Endpoint { transport: Transport::Tcp, address: [10, 0, 0, 100].into(), port: 21 };
    let marked = ServiceKey::Mark { mark: Fwmark::new(85).expect("not 0"), family: Family::V4 };
    let of = |engine| {
        let clients = ClientMask::V4([255; 4].into());
        let persistence = Some(Persistence { timeout: Duration::from_secs(60), clients, engine });
        ServiceSettings { persistence, ..ServiceSettings::default() }
    };
    for (key, settings, servers) in [
        (
            web,
            ServiceSettings::default(),
            [("10.0.2.11:8080", ForwardMethod::Nat), ("10.0.3.12:80", ForwardMethod::Dr)],
        ),
        (
            sip,
            of(Some(PersistenceEngine::Sip)),
            [("10.0.2.11:5060", ForwardMethod::Nat), ("10.0.3.12:5060", ForwardMethod::Nat)],
        ),
        (ftp, of(None), [("10.0.2.11:21", ForwardMethod::Nat), ("10.0.3.12:0", ForwardMethod::Nat)]),
        (marked, of(None), [("10.0.2.11:0", ForwardMethod::Nat), ("10.0.3.12:0", ForwardMethod::Tunnel)]),
    ] {
        let servers = servers
            .into_iter()
            .map(|(address, forward)| ServerSpec {
                address: address.parse().expect("an address"),
                weight: Weight::default(),
                forward,
                tunnel: Tunnel::default(),
                thresholds: Thresholds::default(),
            })
            .collect();
        let spec =
            ServiceSpec { key, name: key.to_string(), scheduler: SchedulerKind::Rr, settings, servers };
        director.apply(&[Command::AddService(spec)]).expect("it can be");
    }
    director.start_sync_backup(BackupSettings { syncid: SyncId::ANY });
    director
}
