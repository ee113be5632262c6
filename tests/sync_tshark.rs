//! Another reader of the synchronisation protocol, Wireshark's (`packet-ipvs-syncd.c`), sees in our messages what we put
//! into them, field for field. It does not step over parameters or padding, so each message has one record without
//! either. The Debian package is `tshark`.

use etherparse::PacketBuilder;
use std::fs::File;
use std::io::{self, Write};
use std::path::Path;
use std::process::Command;
use sync_proto::{
    Addresses, ConnFlags, Encoder, Message, OptionalParameters, Parties, Record, SyncId, Version,
};

const MESSAGES: usize = 400;

#[test]
fn wireshark_reads_what_we_wrote() {
    let seed = std::env::var("NFVS_SEED").ok().and_then(|text| text.parse().ok()).unwrap_or(0x6970_7673);
    println!("seed {seed} (NFVS_SEED chooses another)");
    let mut random = fastrand::Rng::with_seed(seed);
    let mut recording = Recording::default();
    let mut expected = Vec::new();
    for number in 0..MESSAGES {
        let version = [Version::V0, Version::V1][number % 2];
        let syncid = SyncId(random.u8(..));
        let record = record(&mut random, version);
        let mut buffer = [0; 1472];
        let mut encoder = Encoder::new(&mut buffer, version, syncid, 1472);
        encoder.push(&record).expect("a record that version carries");
        let datagram = encoder.finish().expect("a message");
        let message = Message::decode(datagram, syncid).expect("our own message");
        assert!(message.records().eq([Ok(record)]));
        expected.push(fields(version, syncid, datagram.len(), &record));
        recording.add(datagram);
    }
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("messages.pcap");
    recording.write(&path).expect("the recording is written");
    let read = tshark(&path);
    assert_eq!(read.len(), expected.len());
    for (number, (read, expected)) in read.iter().zip(&expected).enumerate() {
        assert_eq!(read, expected, "message {number}: {}", NAMES.join(" "));
    }
}

/// The fields as Wireshark names them.
const NAMES: [&str; 20] = [
    "ipvs.version",
    "ipvs.conncount",
    "ipvs.syncid",
    "ipvs.size",
    "ipvs.type",
    "ipvs.ver",
    "ipvs.size.v1",
    "ipvs.proto",
    "ipvs.flags",
    "ipvs.flags.v1",
    "ipvs.state",
    "ipvs.cport",
    "ipvs.vport",
    "ipvs.dport",
    "ipvs.fwmark",
    "ipvs.timeout",
    "ipvs.caddr",
    "ipvs.vaddr",
    "ipvs.daddr",
    "ipvs.caddr6",
];

/// What Wireshark is to show for each of [`NAMES`] and the two addresses behind; empty is a field that is not there.
fn fields(version: Version, syncid: SyncId, size: usize, record: &Record<'_>) -> String {
    let is_v6 = record.addresses.client().is_ipv6();
    let only = |condition: bool, text: String| if condition { text } else { String::new() };
    let v1 = |text: String| only(version == Version::V1, text);
    let flags = record.flags.bits();
    let record_len = if is_v6 { 72 } else { 36 };
    let [client, vip, server] =
        [record.addresses.client(), record.addresses.vip(), record.addresses.server()].map(|a| a.to_string());
    let mut fields = vec![
        v1("1".to_owned()),
        "1".to_owned(),
        syncid.0.to_string(),
        size.to_string(),
        v1(u8::from(is_v6).to_string()),
        v1("0".to_owned()),
        v1(record_len.to_string()),
        format!("0x{:02x}", record.protocol),
        only(version == Version::V0, format!("0x{flags:04x}")),
        v1(format!("0x{flags:08x}")),
        format!("0x{:04x}", record.state),
        record.client_port.to_string(),
        record.virtual_port.to_string(),
        record.server_port.to_string(),
        v1(format!("0x{:08x}", record.fwmark)),
        v1(record.timeout_seconds.to_string()),
    ];
    for family in [false, true] {
        fields.extend([&client, &vip, &server].map(|address| only(family == is_v6, address.clone())));
    }
    fields.join("\t")
}

/// What Wireshark reads in each message.
fn tshark(path: &Path) -> Vec<String> {
    let mut command = Command::new("tshark");
    // Nothing from the user's settings, no look-ups.
    command.args(["-n", "-o", "udp.check_checksum:FALSE", "-T", "fields", "-E", "separator=/t", "-r"]);
    command.arg(path).env("HOME", path.parent().expect("a folder"));
    for name in NAMES.into_iter().chain(["ipvs.vaddr6", "ipvs.daddr6"]) {
        command.args(["-e", name]);
    }
    let output = command.output().unwrap_or_else(|error| {
        panic!("tshark: {error}; packaging/install-deps lab installs it");
    });
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("text").lines().map(str::to_owned).collect()
}

/// A record without parameters that the version carries whole.
fn record(random: &mut fastrand::Rng, version: Version) -> Record<'static> {
    let mut flags = ConnFlags::from_bits(random.u32(..));
    flags.remove(ConnFlags::HASHED);
    flags.remove(ConnFlags::SEQUENCE);
    flags.remove(ConnFlags::ONE_PACKET);
    let (protocol, states) = random.choice([(6, 11), (17, 1), (132, 14), (50, 1), (51, 1)]).expect("several");
    let mut state = random.u16(..states);
    if flags.contains(ConnFlags::TEMPLATE) {
        flags.remove(ConnFlags::NO_CPORT);
        state %= 2;
    }
    let v4 = Addresses::V4(Parties {
        client: random.u32(..).into(),
        vip: random.u32(..).into(),
        server: random.u32(..).into(),
    });
    let record = Record {
        protocol,
        flags,
        state,
        client_port: random.u16(..),
        virtual_port: random.u16(..),
        server_port: random.u16(..),
        addresses: v4,
        fwmark: random.u32(..),
        timeout_seconds: random.u32(..),
        sequence: None,
        engine: None,
        optional: OptionalParameters::default(),
    };
    match version {
        Version::V0 => Record {
            flags: ConnFlags::from_bits(flags.bits() & 0xffff),
            fwmark: 0,
            timeout_seconds: 0,
            ..record
        },
        Version::V1 if random.bool() => record,
        Version::V1 => Record {
            addresses: Addresses::V6(Parties {
                client: random.u128(..).into(),
                vip: random.u128(..).into(),
                server: random.u128(..).into(),
            }),
            ..record
        },
    }
}

/// Datagrams to the port that Wireshark knows, as a pcap file of bare IP packets.
#[derive(Default)]
struct Recording(Vec<u8>);

impl Recording {
    fn add(&mut self, payload: &[u8]) {
        let builder = PacketBuilder::ipv4([10, 0, 9, 1], [224, 0, 0, 81], 1).udp(40000, 8848);
        let len = builder.size(payload.len()) as u32;
        self.0.extend([0, 0, len, len].iter().flat_map(|number| number.to_ne_bytes()));
        builder.write(&mut self.0, payload).expect("a vector takes everything");
    }

    fn write(&self, path: &Path) -> io::Result<()> {
        let mut file = File::create(path)?;
        file.write_all(&0xa1b2_c3d4_u32.to_ne_bytes())?;
        for version in [2_u16, 4] {
            file.write_all(&version.to_ne_bytes())?;
        }
        for number in [0, 0, 65535, LINKTYPE_RAW] {
            file.write_all(&number.to_ne_bytes())?;
        }
        file.write_all(&self.0)
    }
}

const LINKTYPE_RAW: u32 = 101;
