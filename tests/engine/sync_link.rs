//! What the tests of synchronisation share: masters, backups, and messages in between.

use crate::bed::Bed;
use nfvs::director::sync::{BackupSettings, MasterSettings, SyncOutcome, Wake};
use nfvs::director::{Command, Director, Time};
use std::net::SocketAddr;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;
use sync_proto::{
    Addresses, ConnFlags, Encoder, Engine, Message, OptionalParameters, Record, SyncId, Version,
};

/// The group of directors in the tests.
pub(crate) const SYNCID: SyncId = SyncId(7);

/// Wakes nobody: the tests ask.
#[derive(Debug)]
struct Quiet;

impl Wake for Quiet {
    fn queued(&self, _port: usize, _waiting: usize) {}
}

pub(crate) fn start_master(director: &Director) {
    let settings = MasterSettings { syncid: SYNCID, max_len: 1472, ports: 1, trailer: 0, rate: None };
    director.start_sync_master(settings, Arc::new(Quiet));
}

/// A master that may send so many messages a second, of four records of IPv4 each.
pub(crate) fn start_limited_master(director: &Director, rate: u32) {
    let rate = NonZeroU32::new(rate);
    let settings = MasterSettings { syncid: SYNCID, max_len: 8 + 4 * 36, ports: 1, trailer: 0, rate };
    director.start_sync_master(settings, Arc::new(Quiet));
}

pub(crate) fn start_backup(director: &Director) {
    director.start_sync_backup(BackupSettings { syncid: SYNCID });
}

/// All messages, the open one included.
pub(crate) fn messages(director: &Director, now: Time) -> Vec<Vec<u8>> {
    director.take_sync_messages(now + Duration::from_secs(2), 0, usize::MAX)
}

/// What the master has told since this was last asked, a line for each record.
pub(crate) fn told(bed: &Bed) -> Vec<String> {
    let mut lines = Vec::new();
    for message in messages(&bed.director, bed.now) {
        let message = Message::decode(&message, SYNCID).unwrap();
        lines.extend(message.records().map(|record| line(&record.unwrap())));
    }
    lines
}

/// A record as a line.
pub(crate) fn line(record: &Record<'_>) -> String {
    let of = |address, port| SocketAddr::new(address, port);
    let addresses = record.addresses;
    let (client, vip) =
        (of(addresses.client(), record.client_port), of(addresses.vip(), record.virtual_port));
    let server = of(addresses.server(), record.server_port);
    let state = record.state_name().unwrap();
    let mut line = format!(
        "{} {client} -> {vip} -> {server} {state} {} {}",
        record.protocol, record.timeout_seconds, record.flags
    );
    if record.fwmark != 0 {
        line += &format!(" mark {}", record.fwmark);
    }
    if let Some(engine) = record.engine {
        let [name, data] = [engine.name, engine.data].map(String::from_utf8_lossy);
        line += &format!(" {name} {data}");
    }
    if let Some(shifts) = record.sequence {
        line += &format!(" {:?}", [shifts.input.delta, shifts.output.delta].map(u32::cast_signed));
    }
    line
}

/// A record of a connection, as the kernel's master would write it.
pub(crate) fn record(protocol: u8, ends: [&str; 3], state: u16, flags: u32) -> Record<'static> {
    let [client, vip, server] = ends.map(|end| end.parse::<SocketAddr>().unwrap());
    Record {
        protocol,
        flags: ConnFlags::from_bits(flags),
        state,
        client_port: client.port(),
        virtual_port: vip.port(),
        server_port: server.port(),
        addresses: Addresses::new(client.ip(), vip.ip(), server.ip()).unwrap(),
        fwmark: 0,
        timeout_seconds: 0,
        sequence: None,
        engine: None,
        optional: OptionalParameters::default(),
    }
}

/// The same of a template of the Call-ID `data`.
pub(crate) fn with_engine<'a>(record: Record<'a>, name: &'a [u8], data: &'a [u8]) -> Record<'a> {
    Record { engine: Some(Engine { name, data }), ..record }
}

/// A message of records.
pub(crate) fn message(version: Version, records: &[Record<'_>]) -> Vec<u8> {
    let mut buffer = [0; 9000];
    let mut encoder = Encoder::new(&mut buffer, version, SYNCID, 9000);
    for record in records {
        encoder.push(record).unwrap();
    }
    encoder.finish().unwrap().to_vec()
}

/// Applies records; how many were created, updated, replaced, rejected.
pub(crate) fn apply(bed: &Bed, records: &[Record<'_>]) -> [u8; 4] {
    apply_bytes(bed, &message(Version::V1, records))
}

pub(crate) fn apply_bytes(bed: &Bed, message: &[u8]) -> [u8; 4] {
    match bed.director.apply_sync(bed.now, message) {
        SyncOutcome::Applied(it) => [it.created, it.updated, it.replaced, it.rejected],
        other => panic!("{other:?}"),
    }
}

impl Bed {
    /// Applies a change that is possible.
    pub(crate) fn change(&self, command: Command) {
        self.director.apply(&[command]).unwrap();
    }
}
