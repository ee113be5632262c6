//! Shows the synchronisation messages in a recording.
//!
//! ```text
//! tcpdump -i eth1 -w sync.pcap udp portrange 8848-8911
//! cargo run --example decode sync.pcap
//! ```

use std::error::Error;
use std::io::{self, Write};
use std::net::SocketAddr;
use std::{env, fs};
use sync_proto::capture::Capture;
use sync_proto::{DEFAULT_PORT, Extent, Message, Record, SyncId};

/// A director has up to 64 threads, each with a port of its own.
const PORTS: std::ops::Range<u16> = DEFAULT_PORT..DEFAULT_PORT + 64;

fn main() -> Result<(), Box<dyn Error>> {
    let path = env::args_os().nth(1).ok_or("usage: decode FILE.pcap")?;
    let mut out = io::stdout().lock();
    let file = fs::read(&path).map_err(|error| format!("{}: {error}", path.display()))?;
    for datagram in Capture::open(&file)? {
        let datagram = datagram?;
        if !PORTS.contains(&datagram.destination.port()) {
            continue;
        }
        write!(
            out,
            "{}.{:06} {} ",
            datagram.at.as_secs(),
            datagram.at.subsec_micros(),
            datagram.source.ip()
        )?;
        match Message::decode(datagram.payload, SyncId::ANY) {
            Ok(message) => show(&message, &mut out)?,
            Err(error) => writeln!(out, "no message: {error}")?,
        }
    }
    Ok(())
}

fn show(message: &Message<'_>, out: &mut impl Write) -> io::Result<()> {
    writeln!(
        out,
        "{:?}, syncid {}, {} records",
        message.version(),
        message.syncid().0,
        message.record_count()
    )?;
    for (number, record) in message.records().enumerate() {
        match record {
            Ok(record) => writeln!(out, "  {}", line(&record))?,
            Err(error) if error.extent() == Extent::Record => {
                writeln!(out, "  record {number} skipped: {error}")?;
            }
            Err(error) => writeln!(out, "  record {number} and all behind it lost: {error}")?,
        }
    }
    if let Some(trailer @ [_, ..]) = message.trailer() {
        writeln!(out, "  {} bytes behind the last record", trailer.len())?;
    }
    Ok(())
}

fn line(record: &Record<'_>) -> String {
    let what = if record.is_template() { "template" } else { "connection" };
    let client = SocketAddr::new(record.addresses.client(), record.client_port);
    let vip = match record.template_mark() {
        Some(mark) => format!("mark {mark}"),
        None => SocketAddr::new(record.addresses.vip(), record.virtual_port).to_string(),
    };
    let server = SocketAddr::new(record.addresses.server(), record.server_port);
    let mut line = format!(
        "{what} of protocol {}: {client} -> {vip} -> {server}, {}, flags {}",
        record.protocol,
        record.state_name().unwrap_or("?"),
        record.flags
    );
    if record.timeout_seconds != 0 {
        line += &format!(", {} s", record.timeout_seconds);
    }
    if record.fwmark != 0 {
        line += &format!(", fwmark {}", record.fwmark);
    }
    if let Some(sequence) = record.sequence {
        let (input, output) = (sequence.input, sequence.output);
        line += &format!(
            ", client's bytes {:+} from {}, server's {:+} from {}",
            input.delta.cast_signed(),
            input.init_seq,
            output.delta.cast_signed(),
            output.init_seq
        );
    }
    if let Some(engine) = record.engine {
        line += &format!(", {} {:?}", engine.name.escape_ascii(), engine.data.escape_ascii().to_string());
    }
    for parameter in record.optional.iter() {
        line += &format!(", parameter {:#04x} {}", parameter.kind, parameter.data.escape_ascii());
    }
    line
}
