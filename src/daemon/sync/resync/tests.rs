//! Both sides of a connection, without a network between them, and what befalls them when the other side lies.

use super::super::seal::{Keys, Unsealed};
use super::super::secrets::{Secrets, Valid};
use super::guest::{Guest, Progress};
use super::host::Host;
use super::stream::Stream;
use super::wire::{Answer, Hello, Notice};
use super::{Failure, wire};
use crate::daemon::clock::Clock;
use crate::director::sync::BackupSettings;
use crate::director::{Director, Limits};
use arc_swap::ArcSwapOption;
use std::collections::BTreeSet;
use std::net::Ipv4Addr;
use std::sync::Arc;
use sync_proto::{Addresses, ConnFlags, Encoder, OptionalParameters, Record, SyncId, Version};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};
use tokio::net::{TcpListener, TcpStream};

const GROUP: SyncId = SyncId(7);
const FIRST: &str = "000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f";
const SECOND: &str = "f0f1f2f3f4f5f6f7f8f9fafbfcfdfeff000102030405060708090a0b0c0d0e0f";

fn secrets(keys: &[&str], required: bool) -> Valid {
    let secrets = Secrets { keys: Keys::read(&keys.join("\n")).expect("keys"), required };
    Arc::new(ArcSwapOption::from_pointee(secrets))
}

fn none() -> Valid {
    Valid::default()
}

fn director(connections: u32) -> Arc<Director> {
    let director = Director::new(Limits::default(), 1);
    director.start_sync_backup(BackupSettings { syncid: GROUP });
    for first in (0..connections).step_by(200) {
        let mut buffer = vec![0; 10_000];
        let mut encoder = Encoder::new(&mut buffer, Version::V1, GROUP, 10_000);
        (first..connections.min(first + 200)).for_each(|n| encoder.push(&record(n)).expect("room"));
        director.apply_sync(clock().now(), encoder.finish().expect("records"));
    }
    assert_eq!(director.connection_count().0, connections as usize);
    Arc::new(director)
}

fn record(number: u32) -> Record<'static> {
    let client = Ipv4Addr::from(0x0a00_0000 | number);
    Record {
        protocol: 6,
        flags: ConnFlags::from_bits(0),
        state: 1,
        client_port: 5000,
        virtual_port: 80,
        server_port: 8080,
        addresses: Addresses::new(client.into(), [10, 9, 9, 9].into(), [10, 8, 8, 8].into()).expect("IPv4"),
        fwmark: 0,
        timeout_seconds: 900,
        sequence: None,
        engine: None,
        optional: OptionalParameters::default(),
    }
}

fn clock() -> Clock {
    Clock::start()
}

fn host(director: &Arc<Director>, secrets: &Valid) -> Arc<Host> {
    Host::new(director, secrets, clock(), GROUP)
}

fn guest(director: &Arc<Director>, secrets: &Valid) -> Guest {
    let (director, secrets) = (Arc::clone(director), Arc::clone(secrets));
    Guest { interface: "lo".to_owned(), syncid: GROUP, director, secrets, clock: clock() }
}

fn clients(director: &Director) -> BTreeSet<String> {
    director.connections(clock().now()).flatten().map(|it| it.client.to_string()).collect()
}

fn run<T>(work: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(work)
}

/// What host and guest say of a table that is told.
fn exchange(host: &Host, guest: &Guest) -> (Result<(), Failure>, Result<Progress, Failure>) {
    run(async {
        let (mut one, mut other) = duplex(1 << 16);
        let told = async {
            let told = host.tell(&mut one, "test").await;
            drop(one);
            told
        };
        let came = async {
            let came = guest.take_in(&mut other, |_| {}).await;
            drop(other);
            came
        };
        tokio::join!(told, came)
    })
}

#[test]
fn a_table_goes_over_whole_with_keys_and_without() {
    let master = director(3_000);
    let rotated = |keys: &[&str]| secrets(keys, true);
    for (own, theirs) in [
        (none(), none()),
        (rotated(&[FIRST]), rotated(&[FIRST])),
        (rotated(&[FIRST]), rotated(&[SECOND, FIRST])),
        (rotated(&[SECOND, FIRST]), rotated(&[FIRST])),
        (secrets(&[FIRST], false), none()),
        (none(), secrets(&[FIRST], false)),
        (secrets(&[FIRST], false), secrets(&[SECOND], false)),
    ] {
        let backup = director(100);
        let (host, guest) = (host(&master, &own), guest(&backup, &theirs));
        let (told, came) = exchange(&host, &guest);
        told.expect("all was told");
        let came = came.expect("all has come");
        assert_eq!((came.entries, came.came, came.known, came.rejected), (3_000, 3_000, 0, 0));
        assert_eq!(clients(&backup), clients(&master));
        backup.check_invariants();
        assert_eq!(host.given().entries, 3_000);
    }
}

#[test]
fn nobody_is_told_without_the_key_or_told_by_who_lacks_it() {
    let (master, empty) = (director(300), director(0));
    let refused = |answer| format!("the other director refuses: {answer}");
    for (what, own, theirs, told, came) in [
        ("no key", secrets(&[FIRST], true), none(), "no_key", refused(Answer::NoKey)),
        ("another key", secrets(&[FIRST], true), secrets(&[SECOND], true), "no_key", refused(Answer::NoKey)),
        ("a host without", none(), secrets(&[FIRST], true), "ended", Failure::NoKey.to_string()),
        (
            "a host with another",
            secrets(&[SECOND], false),
            secrets(&[FIRST], true),
            "ended",
            Failure::NoKey.to_string(),
        ),
    ] {
        let (host, guest) = (host(&master, &own), guest(&empty, &theirs));
        let (was_told, has_come) = exchange(&host, &guest);
        assert_eq!(was_told.expect_err(what).name(), told, "{what}");
        assert_eq!(has_come.expect_err(what).to_string(), came, "{what}");
    }
    assert_eq!(clients(&empty).len(), 0);
    let other = Guest { syncid: SyncId(8), ..guest(&empty, &none()) };
    let (told, came) = exchange(&host(&master, &none()), &other);
    assert_eq!(told.expect_err("another group").name(), "garbage");
    assert_eq!(came.expect_err("another group").to_string(), refused(Answer::OtherGroup));
}

fn question(keys: [wire::KeyId; 2]) -> Hello {
    Hello { syncid: GROUP, answer: Answer::Yes, keys, lot: [5; 16] }
}

#[test]
fn as_many_as_there_are_places_for_are_told_at_a_time() {
    let (master, backup) = (director(10), director(0));
    let host = host(&master, &none());
    run(async {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let listening = tokio::spawn(Arc::clone(&host).listen(listener));
        let mut places = Vec::new();
        for _ in 0..4 {
            places.push(TcpStream::connect(address).await.expect("the port is open"));
        }
        let guest = guest(&backup, &none());
        let mut fifth = TcpStream::connect(address).await.expect("the port is open");
        let refused = guest.take_in(&mut fifth, |_| {}).await;
        assert!(matches!(refused, Err(Failure::Refused(Answer::Busy))), "{refused:?}");
        let given = host.given().clone();
        assert_eq!((given.running, given.failed["busy"]), (4, 1));
        // A place is free once one of them has gone.
        places.pop();
        let came = loop {
            let mut next = TcpStream::connect(address).await.expect("the port is open");
            match guest.take_in(&mut next, |_| {}).await {
                Err(Failure::Refused(Answer::Busy)) => {}
                came => break came,
            }
        };
        assert_eq!(came.expect("a table").came, 10);
        listening.abort();
    });
}

/// What a host says of somebody who sends these bytes, and no more.
fn ask_with(host: &Host, bytes: &[u8]) -> Failure {
    run(async {
        let (mut one, mut other) = duplex(1 << 16);
        other.write_all(bytes).await.expect("room");
        let mut answered = Vec::new();
        let told = async {
            let told = host.tell(&mut one, "test").await;
            drop(one);
            told
        };
        let heard = async {
            other.shutdown().await.expect("the end");
            let _ = other.read_to_end(&mut answered).await;
        };
        tokio::join!(told, heard).0.expect_err("it is not told")
    })
}

#[test]
fn garbage_ends_a_connection_to_the_host() {
    let master = director(10);
    let host = host(&master, &secrets(&[FIRST], true));
    let names = host_names(&host);
    assert_eq!(ask_with(&host, b"").name(), "ended");
    assert_eq!(ask_with(&host, b"nfvr\x01").name(), "ended");
    assert_eq!(ask_with(&host, b"GET / HTTP/1.1\r\nHost: a\r\n\r\nGET / HTTP/1.1\r\n").name(), "garbage");
    assert_eq!(ask_with(&host, &[0xff; 100]).name(), "garbage");
    let hello = question(names).encode();
    assert_eq!(ask_with(&host, &hello).name(), "ended", "no proof");
    assert_eq!(ask_with(&host, &[&hello[..], &[0; 32]].concat()).name(), "no_key", "a wrong proof");
    assert_eq!(host.given().entries, 0, "nothing was told");
}

/// The names of the host's keys.
fn host_names(host: &Host) -> [wire::KeyId; 2] {
    run(async {
        let (mut one, mut other) = duplex(1 << 16);
        other.write_all(&question([*b"none"; 2]).encode()).await.expect("room");
        let _ = host.tell(&mut one, "test").await;
        let mut bytes = [0; Hello::LENGTH];
        other.read_exact(&mut bytes).await.expect("a hello");
        Hello::decode(&bytes).expect("a hello").keys
    })
}

/// What a guest says of a host that sends these bytes, whatever the guest says.
fn answer_with(guest: &Guest, bytes: &[u8]) -> Result<Progress, Failure> {
    run(async {
        let (mut one, mut other) = duplex(1 << 20);
        one.write_all(bytes).await.expect("room");
        one.shutdown().await.expect("the end");
        guest.take_in(&mut other, |_| {}).await
    })
}

#[test]
fn garbage_ends_a_connection_to_the_guest() {
    let hello = question(Default::default()).encode();
    let begin = Notice::Begin { entries: 1 }.encode(GROUP, 0);
    let end = Notice::End { told: 1, left_out: 0 }.encode(GROUP, 0);
    let mut buffer = vec![0; 1000];
    let mut encoder = Encoder::new(&mut buffer, Version::V1, GROUP, 1000);
    encoder.push(&record(1)).expect("room");
    let message = encoder.finish().expect("a record").to_vec();
    let mut foreign = message.clone();
    foreign[1] = 8;
    let offer = Notice::Offer { port: 1, session: 1 }.encode(GROUP, 0);
    for (what, said, failure) in [
        ("nothing", vec![], "ended"),
        ("no hello", vec![&b"HTTP/1.1 400 Bad Request\r\n\r\nClose"[..]], "garbage"),
        ("half a hello", vec![&hello[..20]], "ended"),
        ("no table", vec![&hello], "ended"),
        ("no beginning", vec![&hello, &message], "garbage"),
        ("an end at once", vec![&hello, &end], "garbage"),
        ("a size of nothing", vec![&hello, &begin, &[0; 8]], "garbage"),
        ("half a message", vec![&hello, &begin, &message[..20]], "ended"),
        ("no end", vec![&hello, &begin, &message], "ended"),
        ("two beginnings", vec![&hello, &begin, &begin], "garbage"),
        ("an offer", vec![&hello, &begin, &offer], "garbage"),
        ("another group's", vec![&hello, &begin, &foreign, &end], "garbage"),
        ("one too few", vec![&hello, &begin, &end], "incomplete"),
        ("one too many", vec![&hello, &begin, &message, &message, &end], "incomplete"),
        ("noise", vec![&hello, &begin, &[0xff; 65_535], &end], "garbage"),
    ] {
        let guest = guest(&director(0), &none());
        let came = answer_with(&guest, &said.concat());
        assert_eq!(came.expect_err(what).name(), failure, "{what}");
        guest.director.check_invariants();
    }
    let guest = guest(&director(0), &none());
    let came = answer_with(&guest, &[&hello[..], &begin, &message, &end].concat());
    assert_eq!(came.expect("a table").came, 1);
}

/// Somebody in the middle, who has all that the host says go through `change`.
fn through(host: &Host, guest: &Guest, change: impl Fn(&mut Vec<u8>)) -> Result<Progress, Failure> {
    run(async {
        let (mut one, mut near) = duplex(1 << 20);
        let (mut far, mut other) = duplex(1 << 20);
        let told = async {
            let _ = host.tell(&mut one, "test").await;
            drop(one);
        };
        let between = async {
            pass::<{ Hello::LENGTH }>(&mut far, &mut near).await;
            pass::<{ Hello::LENGTH }>(&mut near, &mut far).await;
            pass::<32>(&mut far, &mut near).await;
            let mut said = Vec::new();
            near.read_to_end(&mut said).await.expect("all of it");
            change(&mut said);
            let _ = far.write_all(&said).await;
            drop(far);
        };
        let came = guest.take_in(&mut other, |_| {});
        tokio::join!(told, between, came).2
    })
}

async fn pass<const N: usize>(from: &mut DuplexStream, to: &mut impl Stream) {
    let mut bytes = [0; N];
    from.read_exact(&mut bytes).await.expect("so many bytes");
    to.write_all(&bytes).await.expect("room");
}

#[test]
fn nobody_changes_leaves_out_or_repeats_what_is_told_with_a_key() {
    let master = director(2);
    let keys = secrets(&[FIRST], true);
    let host = host(&master, &keys);
    let (begin, message, end) = (96, 8 + 2 * 36 + 64, 96);
    let fresh = || guest(&director(0), &keys);
    let whole = fresh();
    assert_eq!(through(&host, &whole, |_| {}).expect("nothing is changed").came, 2);
    for at in (0..begin + message + end).step_by(3) {
        let guest = fresh();
        let came = through(&host, &guest, |said| {
            assert_eq!(said.len(), begin + message + end);
            said[at] ^= 0x04;
        });
        let failure = came.expect_err("a byte is changed");
        assert!(
            matches!(failure, Failure::Unsealed(_) | Failure::Ended | Failure::Garbage),
            "byte {at}: {failure}"
        );
        if at < begin + message {
            assert_eq!(guest.director.connection_count().0, 0, "byte {at}");
        }
    }
    let come = |change: &dyn Fn(&mut Vec<u8>)| through(&host, &fresh(), change).expect_err("it is changed");
    let left_out = come(&|said| drop(said.drain(begin..begin + message)));
    assert!(matches!(left_out, Failure::Unsealed(Unsealed::Replayed)), "{left_out}");
    let twice = come(&|said| {
        let copy = said[begin..begin + message].to_vec();
        said.splice(begin..begin, copy);
    });
    assert!(matches!(twice, Failure::Unsealed(Unsealed::Replayed)), "{twice}");
}

#[test]
fn what_was_told_once_is_worth_nothing_in_another_connection() {
    let master = director(2);
    let keys = secrets(&[FIRST], true);
    let host = host(&master, &keys);
    let recorded = std::cell::RefCell::new(Vec::new());
    let first = guest(&director(0), &keys);
    through(&host, &first, |said| recorded.borrow_mut().clone_from(said)).expect("a table");
    let second = guest(&director(0), &keys);
    let came = through(&host, &second, |said| said.clone_from(&recorded.borrow()));
    assert!(matches!(came, Err(Failure::Unsealed(Unsealed::UnknownKey))), "{came:?}");
    assert_eq!(second.director.connection_count().0, 0);
}
