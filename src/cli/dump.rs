//! `nfvs sync dump`: what directors tell each other, as text or JSON.

use crate::daemon::Listener;
use anyhow::Context;
use serde_json::{Value, json};
use std::fs;
use std::io::Write;
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;
use sync_proto::capture::{Capture, Datagram};
use sync_proto::{
    ConnFlags, DEFAULT_PORT, Extent, Message, MessageError, Record, RecordError, SequenceShift, SyncId,
    Version,
};

/// Prints the messages in a recording. `port` is that of the first sync thread; a director has up to 64.
pub(super) fn recording(
    pcap: &Path,
    port: Option<u16>,
    as_json: bool,
    out: &mut impl Write,
) -> anyhow::Result<()> {
    let at = || pcap.display().to_string();
    let file = fs::read(pcap).with_context(at)?;
    let first = port.unwrap_or(DEFAULT_PORT);
    let ports = first..first.saturating_add(64);
    for datagram in Capture::open(&file).with_context(at)? {
        let datagram = datagram.with_context(at)?;
        if !ports.contains(&datagram.destination.port()) {
            continue;
        }
        print(&datagram, as_json, out)?;
    }
    Ok(())
}

/// Prints the messages to a group as they come, without end.
pub(super) fn listen(listener: &Listener, as_json: bool, out: &mut impl Write) -> anyhow::Result<()> {
    let mut buffer = vec![0; usize::from(u16::MAX)];
    loop {
        let (length, source, at) = listener.receive(&mut buffer).context("cannot receive")?;
        let datagram = Datagram { at, source, destination: listener.group(), payload: &buffer[..length] };
        print(&datagram, as_json, out)?;
        out.flush()?;
    }
}

fn print(datagram: &Datagram<'_>, as_json: bool, out: &mut impl Write) -> anyhow::Result<()> {
    let message = Message::decode(datagram.payload, SyncId::ANY);
    if !as_json {
        return print_message(datagram, message, out);
    }
    serde_json::to_writer(&mut *out, &message_json(datagram, message))?;
    Ok(writeln!(out)?)
}

fn print_message(
    datagram: &Datagram<'_>,
    message: Result<Message<'_>, MessageError>,
    out: &mut impl Write,
) -> anyhow::Result<()> {
    write!(out, "{} {} -> {}: ", seconds(datagram.at), datagram.source, datagram.destination)?;
    let message = match message {
        Ok(message) => message,
        Err(error) => return Ok(writeln!(out, "refused: {error}")?),
    };
    let SyncId(syncid) = message.syncid();
    writeln!(out, "v{}, syncid {syncid}, records {}", version(message), message.record_count())?;
    for (number, record) in (1..).zip(message.records()) {
        match record {
            Ok(record) => print_record(&record, out)?,
            Err(error) => {
                let more = if error.extent() == Extent::Rest { ", the rest is lost" } else { "" };
                writeln!(out, "  record {number} refused{more}: {error}")?;
            }
        }
    }
    if let Some(trailer @ [_, ..]) = message.trailer() {
        writeln!(out, "  {} bytes behind the last record", trailer.len())?;
    }
    Ok(())
}

fn print_record(record: &Record<'_>, out: &mut impl Write) -> anyhow::Result<()> {
    let what = if record.is_template() { " template" } else { "" };
    let client = SocketAddr::new(record.addresses.client(), record.client_port);
    let vip = match record.template_mark() {
        Some(mark) => format!("fwmark {mark}"),
        None => SocketAddr::new(record.addresses.vip(), record.virtual_port).to_string(),
    };
    let server = SocketAddr::new(record.addresses.server(), record.server_port);
    let (protocol, state) = (protocol(record.protocol), state(record));
    write!(out, "  {protocol}{what} {client} -> {vip} -> {server} {state}, {}", method(record))?;
    write!(out, ", flags {}", record.flags)?;
    if record.timeout_seconds > 0 {
        write!(out, ", timeout {} s", record.timeout_seconds)?;
    }
    if record.fwmark > 0 {
        write!(out, ", mark {}", record.fwmark)?;
    }
    if let Some(shifts) = record.sequence {
        for (whose, shift) in [("client", shifts.input), ("server", shifts.output)] {
            let [delta, before] = [shift.delta, shift.previous_delta].map(u32::cast_signed);
            write!(
                out,
                ", sequence numbers of the {whose} {delta:+} behind {}, {before:+} before",
                shift.init_seq
            )?;
        }
    }
    if let Some(engine) = record.engine {
        write!(out, ", engine {} \"{}\"", engine.name.escape_ascii(), engine.data.escape_ascii())?;
    }
    for parameter in record.optional.iter() {
        write!(out, ", parameter {:#04x} \"{}\"", parameter.kind, parameter.data.escape_ascii())?;
    }
    Ok(writeln!(out)?)
}

/// The form is described in docs/operations.md.
fn message_json(datagram: &Datagram<'_>, message: Result<Message<'_>, MessageError>) -> Value {
    let mut value = json!({
        "time": seconds(datagram.at),
        "from": datagram.source,
        "to": datagram.destination,
        "bytes": datagram.payload.len(),
    });
    let more = match message {
        Err(error) => json!({"error": error.to_string(), "lost": "datagram"}),
        Ok(message) => json!({
            "version": version(message),
            "syncid": message.syncid().0,
            "count": message.record_count(),
            "records": message.records().map(record_json).collect::<Vec<_>>(),
            "trailer_bytes": message.trailer().map(<[u8]>::len),
        }),
    };
    add(&mut value, more);
    value
}

fn record_json(record: Result<Record<'_>, RecordError>) -> Value {
    let record = match record {
        Ok(record) => record,
        Err(error) => return json!({"error": error.to_string(), "lost": lost(error)}),
    };
    let addresses = record.addresses;
    let mut value = json!({
        "protocol": protocol(record.protocol),
        "client": SocketAddr::new(addresses.client(), record.client_port),
        "virtual": SocketAddr::new(addresses.vip(), record.virtual_port),
        "server": SocketAddr::new(addresses.server(), record.server_port),
        "state": state(&record),
        "template": record.is_template(),
        "forward": method(&record),
        "flags": record.flags.to_string(),
        "fwmark": record.fwmark,
        "timeout": record.timeout_seconds,
    });
    if let Some(shifts) = record.sequence {
        let shift = |SequenceShift { init_seq, delta, previous_delta }| {
            json!({
                "init_seq": init_seq,
                "delta": u32::cast_signed(delta),
                "previous_delta": u32::cast_signed(previous_delta),
            })
        };
        add(&mut value, json!({"sequence": {"input": shift(shifts.input), "output": shift(shifts.output)}}));
    }
    if let Some(engine) = record.engine {
        let text = |bytes: &[u8]| bytes.escape_ascii().to_string();
        add(&mut value, json!({"pe_name": text(engine.name), "pe_data": text(engine.data)}));
    }
    let optional: Vec<Value> = record
        .optional
        .iter()
        .map(|parameter| json!({"type": parameter.kind, "data": parameter.data.escape_ascii().to_string()}))
        .collect();
    if !optional.is_empty() {
        add(&mut value, json!({"parameters": optional}));
    }
    value
}

/// Adds the fields of one object to another.
fn add(value: &mut Value, more: Value) {
    if let (Value::Object(value), Value::Object(more)) = (value, more) {
        value.extend(more);
    }
}

fn seconds(at: Duration) -> String {
    format!("{}.{:06}", at.as_secs(), at.subsec_micros())
}

fn version(message: Message<'_>) -> u8 {
    match message.version() {
        Version::V0 => 0,
        Version::V1 => 1,
    }
}

fn lost(error: RecordError) -> &'static str {
    match error.extent() {
        Extent::Record => "record",
        Extent::Rest => "rest",
    }
}

/// The name of a protocol as in other output; its number where none is balanced, as templates may have it.
fn protocol(number: u8) -> String {
    match number {
        0 => "ip".to_owned(),
        6 => "tcp".to_owned(),
        17 => "udp".to_owned(),
        50 => "esp".to_owned(),
        51 => "ah".to_owned(),
        132 => "sctp".to_owned(),
        _ => number.to_string(),
    }
}

fn state(record: &Record<'_>) -> &'static str {
    record.state_name().expect("a record that was decoded has a state")
}

/// The forwarding method by its name in the configuration.
fn method(record: &Record<'_>) -> &'static str {
    match record.flags.bits() & ConnFlags::METHOD.bits() {
        0 => "nat",
        1 => "local",
        2 => "tunnel",
        3 => "dr",
        4 => "bypass",
        _ => "unknown",
    }
}
