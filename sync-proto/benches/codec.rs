//! Records of the synchronisation protocol encoded and decoded in a second, on one core.
//!
//! Prints millions of records a second; a line for each work and kind of record: median, least and most of the rounds.
//! Seconds are of CPU time, so that other programs do not count.
//!
//! Decoding reads every field of every record; encoding makes messages of the kernel's default length.
//!
//! `benches/run` calls it.

use std::error::Error;
use std::hint::black_box;
use std::{fs, thread};
use sync_proto::{
    Addresses, ConnFlags, EncodeError, Encoder, Engine, Message, OptionalParameters, Parties, Record,
    SequenceShifts, SyncId, Version,
};

/// Records of a round.
const RECORDS: u32 = 1_000_000;
const ROUNDS: usize = 11;
/// What a kernel sends unless told otherwise.
const MAX_LEN: usize = 1472;

fn main() -> Result<(), Box<dyn Error>> {
    let works = [
        ("version 1, IPv4", Version::V1, tcp()),
        ("version 1, IPv6", Version::V1, Record { addresses: v6(), ..tcp() }),
        ("version 1, IPv4, sequence data", Version::V1, adjusted()),
        ("version 1, IPv4, template of an engine", Version::V1, template()),
        ("version 0", Version::V0, Record { timeout_seconds: 0, ..tcp() }),
        ("version 0, sequence data", Version::V0, Record { timeout_seconds: 0, ..adjusted() }),
    ];
    let mut seconds = works.map(|_| [[0.0; ROUNDS]; 2]);
    for round in 0..ROUNDS {
        for ((_, version, record), seconds) in works.iter().zip(&mut seconds) {
            seconds[0][round] = encode(*version, record)?;
            seconds[1][round] = decode(*version, record)?;
        }
    }
    for ((what, ..), seconds) in works.iter().zip(&mut seconds) {
        for (done, seconds) in ["encoded", "decoded"].into_iter().zip(seconds) {
            seconds.sort_by(f64::total_cmp);
            let [most, median, least] =
                [0, ROUNDS / 2, ROUNDS - 1].map(|place| f64::from(RECORDS) / seconds[place] / 1e6);
            println!("{what}\t{done}\t{median:.1}\t{least:.1}\t{most:.1}");
        }
    }
    Ok(())
}

/// Seconds for the round's records, each with a port of its own.
fn encode(version: Version, record: &Record<'_>) -> Result<f64, Box<dyn Error>> {
    let mut buffer = [0; MAX_LEN];
    let start = cpu_seconds()?;
    let mut number = 0;
    while number < RECORDS {
        let mut message = Encoder::new(&mut buffer, version, SyncId(7), MAX_LEN);
        while number < RECORDS {
            let record = Record { client_port: number as u16, ..*black_box(record) };
            match message.push(&record) {
                Ok(()) => number += 1,
                Err(EncodeError::Full) => break,
                Err(error) => return Err(error.into()),
            }
        }
        black_box(message.finish());
    }
    Ok(cpu_seconds()? - start)
}

/// Seconds for the round's records.
fn decode(version: Version, record: &Record<'_>) -> Result<f64, Box<dyn Error>> {
    let mut buffer = [0; MAX_LEN];
    let mut message = Encoder::new(&mut buffer, version, SyncId(7), MAX_LEN);
    while message.push(record).is_ok() {}
    let datagram = message.finish().ok_or("there is no record")?;
    let start = cpu_seconds()?;
    let mut number = 0;
    while number < RECORDS {
        for record in Message::decode(black_box(datagram), SyncId(7))?.records() {
            black_box(&record?);
            number += 1;
        }
    }
    // A last message that is not needed whole.
    Ok((cpu_seconds()? - start) * f64::from(RECORDS) / f64::from(number))
}

/// How long this thread has had a processor (`schedstat` of proc(5)).
fn cpu_seconds() -> Result<f64, Box<dyn Error>> {
    // The kernel adds the time up when it schedules.
    thread::yield_now();
    let text = fs::read_to_string("/proc/thread-self/schedstat")?;
    let nanoseconds: u64 = text.split_whitespace().next().ok_or("an empty schedstat")?.parse()?;
    Ok(nanoseconds as f64 / 1e9)
}

/// An established connection through NAT.
fn tcp() -> Record<'static> {
    Record {
        protocol: 6,
        flags: ConnFlags::default(),
        state: 1,
        client_port: 40000,
        virtual_port: 80,
        server_port: 8080,
        addresses: Addresses::V4(Parties {
            client: [10, 0, 1, 2].into(),
            vip: [10, 0, 0, 100].into(),
            server: [10, 0, 2, 11].into(),
        }),
        fwmark: 0,
        timeout_seconds: 900,
        sequence: None,
        engine: None,
        optional: OptionalParameters::default(),
    }
}

fn v6() -> Addresses {
    let address = |last: u16| [0xfd00, 1, 0, 0, 0, 0, 0, last].into();
    Addresses::V6(Parties { client: address(2), vip: address(100), server: address(11) })
}

fn adjusted() -> Record<'static> {
    Record { flags: ConnFlags::SEQUENCE, sequence: Some(SequenceShifts::default()), ..tcp() }
}

fn template() -> Record<'static> {
    let engine = Some(Engine { name: b"sip", data: b"a84b4c76e66710@pc33.example.org" });
    let flags = ConnFlags::from_bits(ConnFlags::TEMPLATE.bits() | ConnFlags::INACTIVE.bits());
    Record { protocol: 17, flags, timeout_seconds: 300, engine, ..tcp() }
}
