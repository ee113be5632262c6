use super::*;
use std::net::IpAddr;
use std::num::NonZeroU32;
use sync_proto::{Addresses, ConnFlags, Engine, Message, OptionalParameters, SyncId};

/// Remembers what it was told.
#[derive(Debug, Default)]
struct Log(Mutex<Vec<(usize, usize)>>);

impl Wake for Log {
    fn queued(&self, port: usize, waiting: usize) {
        self.0.lock().unwrap().push((port, waiting));
    }
}

struct Bench {
    master: Master,
    counters: Counters,
    log: Arc<Log>,
    queue_len: usize,
}

impl Bench {
    fn new(max_len: usize, ports: usize, trailer: usize) -> Bench {
        let log = Arc::new(Log::default());
        let settings = MasterSettings { syncid: SyncId(7), max_len, ports, trailer, rate: None };
        let wake: Arc<dyn Wake> = Arc::<Log>::clone(&log);
        Bench { master: Master::new(settings, wake), counters: Counters::default(), log, queue_len: 100 }
    }

    /// The same, of a master that may send so many messages a second.
    fn limited(max_len: usize, rate: u32) -> Bench {
        let bench = Bench::new(max_len, 1, 0);
        let settings = MasterSettings { rate: NonZeroU32::new(rate), ..bench.master.settings };
        let wake: Arc<dyn Wake> = Arc::<Log>::clone(&bench.log);
        Bench { master: Master::new(settings, wake), ..bench }
    }

    fn push(&self, now: u64, version: Version, hash: u64, record: &Record<'_>) {
        let now = Time::from_millis(now);
        let told = (Urgency::News, record);
        self.master.push(now, (version, self.queue_len), hash, told, &self.counters);
    }

    fn take(&self, now: u64, port: usize, enough: usize) -> Vec<Vec<u8>> {
        self.master.take(Time::from_millis(now), port, enough, &self.counters)
    }
}

fn record(ip: &str) -> Record<'static> {
    let address: IpAddr = ip.parse().unwrap();
    Record {
        protocol: 17,
        flags: ConnFlags::INACTIVE,
        state: 0,
        client_port: 1000,
        virtual_port: 53,
        server_port: 53,
        addresses: Addresses::new(address, address, address).unwrap(),
        fwmark: 0,
        timeout_seconds: 300,
        sequence: None,
        engine: None,
        optional: OptionalParameters::default(),
    }
}

fn counts(messages: &[Vec<u8>]) -> Vec<(usize, u8)> {
    let decoded = |bytes: &Vec<u8>| Message::decode(bytes, SyncId(7)).unwrap().record_count();
    messages.iter().map(|bytes| (bytes.len(), decoded(bytes))).collect()
}

#[test]
fn a_full_message_waits_and_one_with_room_goes_after_two_seconds() {
    let bench = Bench::new(1472, 1, 0);
    (0..41).for_each(|_| bench.push(1000, Version::V1, 0, &record("10.0.0.1")));
    assert_eq!(*bench.log.0.lock().unwrap(), [(0, 1)]);
    assert_eq!(counts(&bench.take(2999, 0, 9)), [(1448, 40)], "with 1,472 bytes, 40 records of IPv4");
    assert_eq!(bench.take(2999, 0, 9), [[0; 0]; 0]);
    assert_eq!(counts(&bench.take(3000, 0, 9)), [(8 + 36, 1)]);
    assert_eq!(bench.take(9000, 0, 9), [[0; 0]; 0], "without records, nothing is sent");

    (0..21).for_each(|_| bench.push(9000, Version::V1, 0, &record("fd00::1")));
    assert_eq!(counts(&bench.take(11_000, 0, 1)), [(1448, 20)], "of IPv6, 20");
    assert_eq!(counts(&bench.take(11_000, 0, 1)), [(8 + 72, 1)]);
    let counters = bench.counters.snapshot().master;
    assert_eq!((counters.messages, counters.records, counters.discarded), (4, 62, 0));
}

#[test]
fn a_message_ends_with_its_255th_record() {
    let bench = Bench::new(65_507, 1, 0);
    (0..256).for_each(|_| bench.push(0, Version::V1, 0, &record("10.0.0.1")));
    assert_eq!(counts(&bench.take(2000, 0, 9)), [(8 + 255 * 36, 255), (8 + 36, 1)]);
}

#[test]
fn one_record_fits_whatever_the_length_of_messages() {
    let bench = Bench::new(1, 1, 0);
    let engine = Some(Engine { name: &[b'x'; 16], data: &[b'y'; 255] });
    let flags = ConnFlags::from_bits(0x1700);
    let sequence = Some(sync_proto::SequenceShifts::default());
    let longest = Record { engine, flags, sequence, ..record("fd00::1") };
    bench.push(0, Version::V1, 0, &longest);
    bench.push(0, Version::V1, 0, &record("10.0.0.1"));
    assert_eq!(counts(&bench.take(2000, 0, 9)), [(8 + 373, 1), (8 + 36, 1)]);
}

#[test]
fn another_version_begins_another_message() {
    let bench = Bench::new(1472, 1, 0);
    for version in [Version::V1, Version::V0, Version::V0, Version::V1] {
        bench.push(0, version, 0, &record("10.0.0.1"));
    }
    assert_eq!(counts(&bench.take(0, 0, 9)), [(8 + 36, 1), (4 + 2 * 24, 2)]);
    assert_eq!(*bench.log.0.lock().unwrap(), [(0, 1), (0, 2)]);
}

#[test]
fn a_full_queue_discards_what_comes_behind() {
    let mut bench = Bench::new(44, 1, 0);
    bench.queue_len = 3;
    for port in 1..=6 {
        bench.push(0, Version::V1, 0, &Record { client_port: port, ..record("10.0.0.1") });
    }
    assert_eq!(*bench.log.0.lock().unwrap(), [(0, 1), (0, 2), (0, 3)]);
    assert_eq!(bench.counters.snapshot().master.discarded, 2);
    let taken = bench.take(2000, 0, 2);
    assert_eq!(taken.len(), 2, "no more than enough");
    bench.push(0, Version::V1, 0, &record("10.0.0.1"));
    assert_eq!(bench.log.0.lock().unwrap().last(), Some(&(0, 1)), "counted anew since some were taken");
    let port_of = |bytes: &Vec<u8>| {
        let message = Message::decode(bytes, SyncId(7)).unwrap();
        message.records().next().unwrap().unwrap().client_port
    };
    let ports: Vec<u16> = taken.iter().chain(&bench.take(2000, 0, 9)).map(port_of).collect();
    assert_eq!(ports, [1, 2, 3, 6, 1000], "the oldest first, the open one last");

    bench.queue_len = 0;
    (0..3).for_each(|_| bench.push(5000, Version::V1, 0, &record("10.0.0.1")));
    assert_eq!(bench.take(7000, 0, 9).len(), 1, "the open one is in no queue");
}

#[test]
fn ports_have_messages_of_their_own() {
    let bench = Bench::new(44, 4, 0);
    for hash in [0, 5, 5, 7, 4] {
        bench.push(0, Version::V1, hash, &record("10.0.0.1"));
    }
    let of_port = |port| bench.take(2000, port, 9).len();
    assert_eq!([0, 1, 2, 3, 4, usize::MAX].map(of_port), [2, 2, 0, 1, 0, 0]);
    assert_eq!(*bench.log.0.lock().unwrap(), [(1, 1), (0, 1)]);
    for (ports, expected) in [(0, 1), (1, 1), (64, 64), (1000, 64)] {
        assert_eq!(Bench::new(44, ports, 0).master.ports.len(), expected);
    }
}

#[test]
fn a_trailer_is_kept_free_behind_the_records() {
    let bench = Bench::new(8 + 2 * 36 + 16, 1, 16);
    (0..3).for_each(|_| bench.push(0, Version::V1, 0, &record("10.0.0.1")));
    let taken = bench.take(2000, 0, 9);
    assert_eq!(counts(&taken), [(8 + 2 * 36 + 16, 2), (8 + 36 + 16, 1)]);
    for message in &taken {
        assert_eq!(Message::decode(message, SyncId(7)).unwrap().trailer(), Some(&[0; 16][..]));
    }
}

#[test]
fn what_receivers_would_refuse_is_counted_and_not_sent() {
    let bench = Bench::new(1472, 1, 0);
    bench.push(0, Version::V1, 0, &Record { state: 9, ..record("10.0.0.1") });
    assert_eq!(bench.take(2000, 0, 9), [[0; 0]; 0]);
    assert_eq!(bench.counters.snapshot().master.unsent(Unsent::Refused), 1);
}

#[test]
fn a_rate_keeps_messages_back_until_it_allows_them() {
    let bench = Bench::limited(8 + 2 * 36, 10);
    let push =
        |now, port| bench.push(now, Version::V1, 0, &Record { client_port: port, ..record("10.0.0.1") });
    (1..=7).for_each(|port| push(1000, port));
    assert_eq!(*bench.log.0.lock().unwrap(), [(0, 1), (0, 2), (0, 3)], "as often as messages are full");
    push(1000, 7);
    let holds = |now| bench.master.holds(Time::from_millis(now), 0);
    assert!(holds(1000) && !bench.master.holds(Time::from_millis(1000), 1), "there is one port");
    assert_eq!(counts(&bench.take(1000, 0, 9)), [(80, 2)], "of three, one at once");
    assert_eq!(bench.take(1099, 0, 9), [[0; 0]; 0]);
    assert!(holds(1099));
    assert_eq!(counts(&bench.take(1100, 0, 9)), [(80, 2)]);
    assert_eq!(counts(&bench.take(1200, 0, 9)), [(80, 2)]);
    assert!(!holds(1300), "the last has room left");
    assert_eq!(bench.take(3199, 0, 9), [[0; 0]; 0]);
    assert_eq!(counts(&bench.take(3200, 0, 9)), [(44, 1)]);
    let counters = bench.counters.snapshot().master;
    assert_eq!((counters.messages, counters.records, counters.discarded), (4, 7, 0));
    assert_eq!(counters.unsent(Unsent::Coalesced), 1);
    assert_eq!(bench.take(9000, 1, 9), [[0; 0]; 0]);
    let free = Bench::new(8 + 2 * 36, 1, 0);
    (0..5).for_each(|_| free.push(0, Version::V1, 0, &record("10.0.0.1")));
    assert!(!free.master.holds(Time::from_millis(9000), 0), "nothing bounds it");
}
