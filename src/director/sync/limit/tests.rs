use super::*;
use std::net::Ipv4Addr;
use sync_proto::{Addresses, ConnFlags, Message, SyncId};

use Urgency::{News, Repeated};

/// Messages of two records.
const SETTINGS: MasterSettings =
    MasterSettings { syncid: SyncId(7), max_len: 8 + 2 * SHORTEST, ports: 1, trailer: 0, rate: None };

struct Bench {
    backlog: Backlog,
    counters: Counters,
    queue_len: usize,
}

impl Bench {
    fn new(queue_len: usize) -> Bench {
        Bench { backlog: Backlog::default(), counters: Counters::default(), queue_len }
    }

    /// A record of the client of this number, which says this state.
    fn push(&mut self, now: u64, urgency: Urgency, client: u32, state: u16) -> Option<usize> {
        self.push_record(now, Version::V1, urgency, &record(client, state))
    }

    fn push_record(
        &mut self,
        now: u64,
        version: Version,
        urgency: Urgency,
        record: &Record<'_>,
    ) -> Option<usize> {
        let form = (version, self.queue_len);
        self.backlog.push(Time::from_millis(now), form, (urgency, record), &SETTINGS, &self.counters)
    }

    /// Client and state of each record that a message has.
    fn message(&mut self, now: u64) -> Option<Vec<(u32, u16)>> {
        let message = self.backlog.message(Time::from_millis(now), &SETTINGS, &self.counters)?;
        let message = Message::decode(&message, SyncId(7)).unwrap();
        let said = |record: Record<'_>| match record.addresses {
            Addresses::V4(parties) => (parties.client.to_bits(), record.state),
            Addresses::V6(_) => panic!("all are of IPv4"),
        };
        Some(message.records().map(|record| said(record.unwrap())).collect())
    }

    fn all(&mut self) -> Vec<(u32, u16)> {
        std::iter::from_fn(|| self.message(0)).flatten().collect()
    }

    fn unsent(&self, reason: Unsent) -> u64 {
        self.counters.snapshot().master.unsent(reason)
    }

    fn is_ready(&self, now: u64) -> bool {
        self.backlog.is_ready(Time::from_millis(now), &SETTINGS)
    }
}

fn record(client: u32, state: u16) -> Record<'static> {
    Record {
        protocol: 6,
        flags: ConnFlags::from_bits(0),
        state,
        client_port: 1000,
        virtual_port: 80,
        server_port: 80,
        addresses: Addresses::new(
            Ipv4Addr::from_bits(client).into(),
            [10, 0, 0, 100].into(),
            [10, 0, 2, 1].into(),
        )
        .unwrap(),
        fwmark: 0,
        timeout_seconds: 300,
        sequence: None,
        engine: None,
        optional: OptionalParameters::default(),
    }
}

#[test]
fn an_entry_waits_with_its_last_record_and_news_goes_first() {
    let mut bench = Bench::new(100);
    assert_eq!(bench.push(0, Repeated, 1, 1), Some(1));
    assert_eq!(bench.push(0, News, 2, 1), Some(2));
    assert_eq!(bench.push(0, Repeated, 3, 1), Some(3));
    assert_eq!(bench.push(0, News, 4, 1), Some(4));
    assert_eq!(bench.push(0, Repeated, 2, 5), None, "it stays news");
    assert_eq!(bench.push(0, News, 3, 4), None, "it has become news");
    assert_eq!(bench.push(0, Repeated, 1, 1), None, "it stays where it was");
    assert_eq!(bench.unsent(Unsent::Coalesced), 3);
    assert_eq!(bench.all(), [(2, 5), (4, 1), (3, 4), (1, 1)]);
    assert_eq!(bench.counters.snapshot().master.records, 4);
}

#[test]
fn what_is_told_again_is_left_out_before_news() {
    let mut bench = Bench::new(2);
    (1..=3).for_each(|client| assert!(bench.push(0, Repeated, client, 1).is_some()));
    assert_eq!(bench.push(0, News, 4, 1), Some(4), "as much as two messages hold");
    assert_eq!(bench.push(0, Repeated, 5, 1), None, "there is no room");
    assert_eq!(bench.push(0, News, 6, 1), None, "in place of the last that is told again");
    assert_eq!(bench.push(0, News, 7, 1), None);
    assert_eq!(bench.push(0, News, 8, 1), None);
    assert_eq!(bench.push(0, News, 9, 1), None, "all that waits is news");
    assert_eq!(bench.push(0, News, 4, 5), None, "what waits may become newer");
    assert_eq!(bench.unsent(Unsent::RateLimited), 5);
    assert_eq!(bench.all(), [(4, 5), (6, 1), (7, 1), (8, 1)]);
    let mut none = Bench::new(0);
    assert_eq!((none.push(0, News, 1, 1), none.all()), (None, vec![]));
}

#[test]
fn whatever_comes_no_more_waits_than_there_is_room_for() {
    let mut random = fastrand::Rng::with_seed(1);
    let mut bench = Bench::new(50);
    for _ in 0..20_000 {
        let urgency = if random.bool() { News } else { Repeated };
        bench.push(0, urgency, random.u32(..1000), 1);
        if random.u8(..) == 0 {
            drop(bench.message(0));
        }
        assert!(bench.backlog.waiting.len() <= 100);
        assert_eq!(bench.backlog.waiting.len(), bench.backlog.places.len());
    }
    let mut large = Bench::new(usize::MAX);
    for client in 0..70_000 {
        large.push(0, News, client, 1);
    }
    assert_eq!(large.backlog.waiting.len(), MOST);
    assert_eq!(large.unsent(Unsent::RateLimited), 70_000 - MOST as u64);
}

#[test]
fn a_message_is_ready_when_it_is_full_or_old() {
    let mut bench = Bench::new(100);
    assert!(!bench.is_ready(9000) && bench.message(9000).is_none());
    bench.push(9000, News, 1, 1);
    bench.push(9500, News, 1, 5);
    assert!(!bench.is_ready(10_999) && bench.is_ready(11_000), "two seconds after the first record");
    bench.push(9600, News, 2, 1);
    assert!(bench.is_ready(9600), "it is full");
    bench.push(9700, News, 3, 1);
    assert_eq!(bench.message(9700).unwrap().len(), 2);
    assert!(!bench.is_ready(11_699) && bench.is_ready(11_700), "what is left waits from then on");
}

#[test]
fn a_message_is_of_one_version_and_records_are_as_they_were() {
    let mut bench = Bench::new(100);
    bench.push_record(0, Version::V0, News, &record(1, 1));
    bench.push_record(0, Version::V1, News, &record(2, 1));
    assert_eq!((bench.message(0), bench.message(0)), (Some(vec![(1, 1)]), Some(vec![(2, 1)])));
    let data = |data| Some(Engine { name: b"sip", data });
    let flags = ConnFlags::from_bits(0x1100);
    let template = |engine| Record { flags, engine, client_port: 0, ..record(1, 1) };
    for engine in [None, data(b"a"), data(b"b"), data(b"a")] {
        bench.push_record(0, Version::V1, News, &template(engine));
    }
    assert_eq!(bench.unsent(Unsent::Coalesced), 1, "calls are told apart");
    let said: Vec<Vec<u8>> =
        std::iter::from_fn(|| bench.backlog.message(Time::ZERO, &SETTINGS, &bench.counters)).collect();
    let mut told = Vec::new();
    for message in &said {
        let message = Message::decode(message, SyncId(7)).unwrap();
        told.extend(
            message.records().map(|record| record.unwrap().engine.map(|engine| engine.data.to_vec())),
        );
    }
    assert_eq!(told, [None, Some(b"a".to_vec()), Some(b"b".to_vec())]);
    bench.push_record(0, Version::V1, News, &record(1, 99));
    assert_eq!((bench.message(0), bench.unsent(Unsent::Refused)), (None, 1), "receivers would refuse it");
}

#[test]
fn no_span_of_time_has_more_messages_than_the_rate_allows() {
    for (seed, rate) in [1, 7, 20, 999, 5000, 1_000_000].into_iter().enumerate() {
        let mut random = fastrand::Rng::with_seed(seed as u64);
        let mut bucket = Bucket::new(NonZeroU32::new(rate).unwrap());
        let (mut now, mut times) = (50_000, Vec::new());
        for _ in 0..3000 {
            now += random.u64(..40);
            times.extend((0..random.usize(..9)).filter(|_| bucket.take(Time::from_millis(now))).map(|_| now));
        }
        let rate = u64::from(rate);
        for (first, begin) in times.iter().enumerate() {
            for (count, end) in times[first..].iter().enumerate().take(500) {
                let allowed = Bucket::room(rate) + (end - begin) * rate;
                assert!((count as u64 + 1) * TOKEN <= allowed, "{rate}: {count} from {begin} to {end}");
            }
        }
        // Nor much less, where there is enough to tell.
        let most = (now - 50_000) * rate / TOKEN;
        assert!(times.len() as u64 >= most.min(3000) / 2, "{rate}: {} of {most}", times.len());
    }
}
