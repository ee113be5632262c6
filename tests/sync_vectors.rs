//! Replays what a kernel master sent, recorded in `tests/vectors/sync`: decoded, it is the table that a kernel backup
//! made of it; encoded again, it is the same bytes.
//!
//! `SYNC_VECTORS=DIR cargo test --release --test sync_vectors` replays another folder: `NAME.pcap` is what was sent,
//! `NAME.txt` what the backup showed a moment later.
//!
//! How a backup applies records is told here once more, in as few lines as the recordings need, so that they test the
//! decoder and nothing else.

use std::collections::BTreeMap;
use std::error::Error;
use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;
use sync_proto::capture::{Capture, Datagram};
use sync_proto::{ConnFlags, DEFAULT_PORT, Encoder, Message, Record, SyncId, Version};

type Outcome<T> = Result<T, Box<dyn Error>>;

#[test]
fn recordings_decode_to_the_table_of_the_kernels_backup_and_encode_to_the_same_bytes() {
    let folder = match std::env::var_os("SYNC_VECTORS") {
        Some(folder) => PathBuf::from(folder),
        None => recorded(),
    };
    let replayed = replay(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    for (name, Replayed { messages, records, entries }) in replayed {
        println!("{name}: {messages} messages, {records} records, {entries} entries");
    }
}

/// The kept copies have both versions, both families, and every kind of record that a kernel master made.
#[test]
fn the_kept_recordings_are_all_there() {
    let replayed = replay(&recorded()).expect("they were replayed");
    let names: Vec<&str> = replayed.keys().map(String::as_str).collect();
    let expected = [
        "v0-tcp4-established",
        "v0-tcp4-nat",
        "v0-udp4-persistent",
        "v1-fwmark-persistent",
        "v1-sip-pe",
        "v1-tcp4-established",
        "v1-tcp4-nat",
        "v1-tcp6-nat",
        "v1-udp4-maxlen",
        "v1-udp4-persistent",
        "v1-udp6-nat",
    ];
    assert_eq!(names, expected);
    assert_eq!(replayed["v1-udp4-maxlen"].entries, 100);
}

/// A folder that holds nothing to replay, or something else than it says, is not passed over.
#[test]
fn a_folder_that_cannot_be_replayed_is_an_error() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path();
    let fails = |why: &str| {
        let error = replay(path).expect_err(why).to_string();
        assert!(error.contains(why), "{why}: {error}");
    };
    fails("no recordings");
    fs::write(path.join("notes.md"), "").unwrap();
    fails("no recordings");
    assert!(replay(&path.join("missing")).is_err());

    let name = "v1-sip-pe";
    let [pcap, text] = ["pcap", "txt"].map(|extension| fs::read(file(&recorded(), name, extension)).unwrap());
    let write = |pcap: &[u8], text: &[u8]| {
        fs::write(file(path, name, "pcap"), pcap).unwrap();
        fs::write(file(path, name, "txt"), text).unwrap();
    };
    write(&pcap, &text);
    replay(path).expect("a copy");
    fs::write(path.join("other.txt"), &text).unwrap();
    fails("other.pcap");
    fs::remove_file(path.join("other.txt")).unwrap();
    fs::remove_file(file(path, name, "txt")).unwrap();
    fails("v1-sip-pe.txt");

    write(&pcap[..24], &text);
    fails("no messages");
    write(&pcap[..pcap.len() - 1], &text);
    fails("ends within a packet");
    write(&pcap, b"");
    fails("no section");
    let text = String::from_utf8(text).unwrap();
    let backup = text.find("# backup").expect("the backup's part");
    for (shown, other, why) in [
        ("ASSURED", "NONE   ", "entries"),
        ("0A00020B", "0A00020C", "entries"),
        ("9C46", "9C47", "entries"),
        ("UDP 0A", "TCP 0A", "entries"),
        ("abc123@", "abc124@", "entries"),
        (" sip ", " pis ", "entries"),
        ("SYNC       298", "LOCAL      298", "LOCAL"),
        ("SYNC       298", "SYNC       301", "301 s are left"),
        ("SYNC       298", "SYNC       200", "moments"),
        ("1      0          1", "1      1          0", "10.0.2.11:5060"),
        ("Masq ", "Route", "forwards"),
    ] {
        let changed = text[backup..].replace(shown, other);
        assert_ne!(changed, text[backup..], "{shown}");
        write(&pcap, changed.as_bytes());
        fails(why);
    }
    // A message that is not one.
    let mut damaged = pcap;
    let last = damaged.len() - 17;
    damaged[last] ^= 1;
    write(&damaged, text.as_bytes());
    assert!(replay(path).is_err());
}

fn recorded() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/vectors/sync")
}

fn file(folder: &Path, name: &str, extension: &str) -> PathBuf {
    folder.join(name).with_extension(extension)
}

#[derive(Debug)]
struct Replayed {
    messages: usize,
    records: usize,
    entries: usize,
}

/// Replays every recording of a folder, by name.
fn replay(folder: &Path) -> Outcome<BTreeMap<String, Replayed>> {
    let mut replayed = BTreeMap::new();
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        let is_ours = path.extension().is_some_and(|extension| extension == "pcap" || extension == "txt");
        let Some(name) = path.file_stem().and_then(|name| name.to_str()).filter(|_| is_ours) else {
            continue;
        };
        if !replayed.contains_key(name) {
            let one = replay_one(folder, name).map_err(|error| format!("{name}: {error}"))?;
            replayed.insert(name.to_owned(), one);
        }
    }
    if replayed.is_empty() {
        return Err("no recordings here".into());
    }
    Ok(replayed)
}

fn replay_one(folder: &Path, name: &str) -> Outcome<Replayed> {
    let [pcap, text] = ["pcap", "txt"].map(|extension| {
        let path = file(folder, name, extension);
        fs::read(&path).map_err(|error| format!("{}: {error}", path.display()))
    });
    let (pcap, text) = (pcap?, String::from_utf8(text?)?);
    let mut backup = Backup::default();
    let mut replayed = Replayed { messages: 0, records: 0, entries: 0 };
    let mut last = Duration::ZERO;
    for datagram in Capture::open(&pcap)? {
        let datagram = datagram?;
        // What else there was on the link.
        if !datagram.destination.ip().is_multicast() || !PORTS.contains(&datagram.destination.port()) {
            continue;
        }
        let message = Message::decode(datagram.payload, SyncId::ANY)?;
        if encoded_again(&message)? != datagram.payload {
            return Err(format!("message {} has other bytes when encoded again", replayed.messages).into());
        }
        for record in message.records() {
            backup.apply(&datagram, message.version(), &record?);
            replayed.records += 1;
        }
        replayed.messages += 1;
        last = datagram.at;
    }
    if replayed.records == 0 {
        return Err("no messages".into());
    }
    replayed.entries = backup.entries.len();
    backup.compare(&text, last)?;
    Ok(replayed)
}

/// A director has up to 64 threads, each with a port of its own.
const PORTS: std::ops::Range<u16> = DEFAULT_PORT..DEFAULT_PORT + 64;

fn encoded_again(message: &Message<'_>) -> Outcome<Vec<u8>> {
    let mut buffer = vec![0xff; 65535];
    let mut encoder = Encoder::new(&mut buffer, message.version(), message.syncid(), 65535);
    for record in message.records() {
        encoder.push(&record?)?;
    }
    Ok(encoder.finish().ok_or("a message without records")?.to_vec())
}

/// What makes an entry another one.
type Key = (bool, u8, SocketAddr, SocketAddr, Vec<u8>);

/// A backup's table.
#[derive(Default)]
struct Backup {
    entries: BTreeMap<Key, Entry>,
}

struct Entry {
    flags: ConnFlags,
    server: SocketAddr,
    fwmark: u32,
    engine: Option<(String, String)>,
    state: &'static str,
    timeout: Duration,
    /// When the last record of it came.
    at: Duration,
}

impl Backup {
    fn apply(&mut self, datagram: &Datagram<'_>, version: Version, record: &Record<'_>) {
        let addresses = record.addresses;
        let engine = record.engine.map(|engine| (text(engine.name), text(engine.data)));
        let key = (
            record.is_template(),
            record.protocol,
            SocketAddr::new(addresses.client(), record.client_port),
            SocketAddr::new(addresses.vip(), record.virtual_port),
            record.engine.map(|engine| engine.data.to_vec()).unwrap_or_default(),
        );
        let server = SocketAddr::new(addresses.server(), record.server_port);
        let fresh = || Entry {
            flags: ConnFlags::from_bits(record.flags.bits() & NEW),
            server,
            fwmark: record.fwmark,
            engine,
            state: "",
            timeout: Duration::ZERO,
            at: Duration::ZERO,
        };
        let entry = match self.entries.get_mut(&key) {
            None => self.entries.entry(key).or_insert_with(fresh),
            // Late news of a connection that another has replaced.
            Some(entry) if !record.is_template() && entry.server != server => {
                if record.flags.contains(ConnFlags::INACTIVE) {
                    return;
                }
                *entry = fresh();
                entry
            }
            Some(entry) => {
                let kept = entry.flags.bits() & !UPDATED;
                entry.flags = ConnFlags::from_bits(kept | record.flags.bits() & UPDATED);
                entry
            }
        };
        entry.state = record.state_name().expect("a record that was decoded has a state");
        entry.timeout = match record.timeout_seconds {
            0 => own_timeout(record),
            seconds => Duration::from_secs(seconds.into()),
        };
        assert!(version == Version::V1 || record.timeout_seconds == 0);
        entry.at = datagram.at;
    }

    /// Compares with what the kernel showed after the message that came at `last`.
    fn compare(&self, text: &str, last: Duration) -> Outcome<()> {
        let mut expected: Vec<(String, &Entry)> =
            self.entries.iter().map(|(key, entry)| (row(key, entry), entry)).collect();
        expected.sort_by(|(one, _), (other, _)| one.cmp(other));

        let mut shown = Vec::new();
        for line in section(text, "backup: /proc/net/ip_vs_conn_sync")? {
            let columns: Vec<&str> = line.split_whitespace().collect();
            let [ends @ .., origin, left] = &columns[..] else { return Err(format!("{line}?").into()) };
            if *origin != "SYNC" {
                return Err(format!("an entry of its own, {origin}: {line}").into());
            }
            shown.push((ends.join(" "), Duration::from_secs(left.parse()?)));
        }
        shown.sort();
        same(
            &mut expected.iter().map(|(row, _)| row.as_str()),
            &mut shown.iter().map(|(row, _)| row.as_str()),
        )?;
        let left: Vec<Duration> = shown.into_iter().map(|(_, left)| left).collect();
        moments(&expected, &left, last)?;

        // The same once more, with engines.
        let mut engines = Vec::new();
        for line in section(text, "backup: /proc/net/ip_vs_conn")? {
            let columns: Vec<&str> = line.split_whitespace().collect();
            let (ends, rest) = columns.split_at_checked(8).ok_or_else(|| format!("{line}?"))?;
            engines.push([ends, rest.get(1..).unwrap_or_default()].concat().join(" "));
        }
        engines.sort();
        let mut with_engines: Vec<String> = expected
            .iter()
            .map(|(row, entry)| match &entry.engine {
                Some((name, data)) => format!("{row} {name} {data}"),
                None => row.clone(),
            })
            .collect();
        with_engines.sort();
        same(&mut with_engines.iter().map(String::as_str), &mut engines.iter().map(String::as_str))?;
        self.compare_servers(text)
    }

    /// The servers' forwarding method and counts, which flags make.
    fn compare_servers(&self, text: &str) -> Outcome<()> {
        let mut service = None;
        for line in section(text, "backup: ipvsadm -Ln")? {
            let columns: Vec<&str> = line.split_whitespace().collect();
            match columns[..] {
                ["->", "RemoteAddress:Port", ..] | ["Prot" | "IP", ..] | [] => {}
                ["->", server, method, _, active, inactive] => {
                    let service = service.ok_or_else(|| format!("a server of no service: {line}"))?;
                    let server: SocketAddr = server.parse()?;
                    let bound = |(key, entry): &(&Key, &Entry)| {
                        is_of(key, entry, service) && (entry.server == server || is_any_port(server, entry))
                    };
                    let mut counts = [0_u32; 2];
                    for (key, entry) in self.entries.iter().filter(bound) {
                        let number = entry.flags.bits() & ConnFlags::METHOD.bits();
                        let forwards = ["Masq", "Local", "Tunnel", "Route"][number as usize];
                        if forwards != method {
                            return Err(format!("{line} forwards otherwise than {forwards}").into());
                        }
                        let (is_template, ..) = key;
                        let is_inactive = entry.flags.contains(ConnFlags::INACTIVE);
                        counts[usize::from(is_inactive)] += u32::from(!is_template);
                    }
                    if counts != [active.parse()?, inactive.parse()?] {
                        return Err(format!("{counts:?} connections, shown: {line}").into());
                    }
                }
                [protocol, address, ..] => service = Some((protocol, address)),
                _ => return Err(format!("{line}?").into()),
            }
        }
        service.map(|_| ()).ok_or_else(|| "no services".into())
    }
}

/// Which flags a backup takes for a new entry, and which for one that it has (`IP_VS_CONN_F_BACKUP_MASK` and
/// `IP_VS_CONN_F_BACKUP_UPD_MASK` of `ip_vs.h`).
const NEW: u32 = 0x1f87;
const UPDATED: u32 = 0x0700;

/// Whether an entry belongs to a service as `ipvsadm -Ln` shows it.
fn is_of((_, protocol, _, vip, _): &Key, entry: &Entry, (kind, service): (&str, &str)) -> bool {
    let same_address = || service.parse().is_ok_and(|address: SocketAddr| address == *vip);
    match kind {
        "FWM" => entry.fwmark.to_string() == service,
        _ => kind == protocol_name(*protocol) && same_address(),
    }
}

/// Whether the entry's server is one that takes every port.
fn is_any_port(server: SocketAddr, entry: &Entry) -> bool {
    server.port() == 0 && server.ip() == entry.server.ip()
}

/// A row of the table in `/proc`, without time.
fn row((_, protocol, client, vip, _): &Key, entry: &Entry) -> String {
    let end = |address: &SocketAddr| format!("{} {:04X}", hex(address.ip()), address.port());
    let protocol = protocol_name(*protocol);
    format!("{protocol} {} {} {} {}", end(client), end(vip), end(&entry.server), entry.state)
}

fn hex(address: IpAddr) -> String {
    match address {
        IpAddr::V4(address) => format!("{:08X}", Ipv4Addr::to_bits(address)),
        IpAddr::V6(address) => Ipv6Addr::segments(&address).map(|segment| format!("{segment:04x}")).join(":"),
    }
}

fn protocol_name(number: u8) -> &'static str {
    match number {
        0 => "IP",
        6 => "TCP",
        17 => "UDP",
        50 => "ESP",
        51 => "AH",
        132 => "SCTP",
        _ => "?",
    }
}

/// The timeout that a backup gives where the record has none: that of the state, and 180 seconds of what has no states.
fn own_timeout(record: &Record<'_>) -> Duration {
    let name = record.state_name().expect("a record that was decoded has a state");
    let seconds = match (record.is_template(), record.protocol, name) {
        (false, 6, "ESTABLISHED") | (false, 132, "ESTABLISHED") => 900,
        (false, 6, "SYN_SENT" | "FIN_WAIT" | "TIME_WAIT" | "LISTEN" | "SYNACK") => 120,
        (false, 6, "SYN_RECV" | "CLOSE_WAIT") => 60,
        (false, 6, "LAST_ACK") => 30,
        (false, 6, "CLOSE") => 10,
        (false, 6 | 132, "NONE") => 2,
        (false, 132, "INIT1" | "REJECTED") => 4,
        (false, 132, _) => 61,
        (false, 17, _) => 300,
        _ => 180,
    };
    Duration::from_secs(seconds)
}

/// All entries were shown at one moment: behind the last message, and as long after each entry's last record as its
/// timeout has run down. Shown are whole seconds, rounded down.
fn moments(expected: &[(String, &Entry)], left: &[Duration], last: Duration) -> Outcome<()> {
    let (mut earliest, mut latest) = (last, last + A_MOMENT);
    for ((row, entry), left) in expected.iter().zip(left) {
        let run_down = entry
            .timeout
            .checked_sub(*left)
            .ok_or_else(|| format!("{row}: of {:?}, {} s are left", entry.timeout, left.as_secs()))?;
        let shown = entry.at + run_down;
        latest = latest.min(shown + TICKS);
        earliest = earliest.max((shown - TICKS).saturating_sub(Duration::from_secs(1)));
    }
    if earliest > latest {
        return Err(format!("times of different moments, {earliest:?} and {latest:?}").into());
    }
    Ok(())
}

/// How long after the last message the tables may have been read.
const A_MOMENT: Duration = Duration::from_secs(30);
/// The kernel's timers, and the tables are read one row after the other.
const TICKS: Duration = Duration::from_millis(500);

/// Compares sorted rows.
fn same(expected: &mut dyn Iterator<Item = &str>, shown: &mut dyn Iterator<Item = &str>) -> Outcome<()> {
    let (expected, shown): (Vec<&str>, Vec<&str>) = (expected.collect(), shown.collect());
    if expected == shown {
        return Ok(());
    }
    Err(format!("entries decoded:\n{}\nentries shown:\n{}", expected.join("\n"), shown.join("\n")).into())
}

/// The lines of a section of the text, without the heads of tables.
fn section<'a>(text: &'a str, name: &str) -> Outcome<impl Iterator<Item = &'a str>> {
    let title = format!("# {name}");
    if !text.lines().any(|line| line == title) {
        return Err(format!("no section {name:?}").into());
    }
    let behind = text.lines().skip_while(move |line| *line != title).skip(1);
    Ok(behind.take_while(|line| !line.starts_with("# ")).filter(|line| !line.starts_with("Pro ")))
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}
