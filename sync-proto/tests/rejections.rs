//! Every rule by which a message or a record is refused: what is malformed, what it is called, how much is lost.

use sync_proto::{Extent, Field, Message, MessageError, Parameter, RecordError, SyncId, Version};

/// The protocols' numbers.
const TCP: u8 = 6;
const UDP: u8 = 17;
const ESP: u8 = 50;
const AH: u8 = 51;
const SCTP: u8 = 132;

#[test]
fn a_wrong_header_costs_the_datagram() {
    let right = v1(&[&Raw::v4().bytes()]);
    assert!(Message::decode(&right, SyncId(7)).is_ok());
    let with_size = |size: usize| {
        let mut datagram = right.clone();
        datagram[2..4].copy_from_slice(&(size as u16).to_be_bytes());
        datagram
    };
    let size = |stated: usize, received| Err(MessageError::Size { stated: stated as u16, received });
    let syncid = |own, theirs| Err(MessageError::SyncId { own: SyncId(own), theirs: SyncId(theirs) });
    let mut of_zero = right.clone();
    of_zero[1] = 0;
    let rows = [
        ("nothing", vec![], 7, Err(MessageError::TooShort { received: 0 })),
        ("three bytes", vec![1, 7, 0], 7, Err(MessageError::TooShort { received: 3 })),
        ("size above", with_size(45), 7, size(45, 44)),
        ("size below", with_size(43), 7, size(43, 44)),
        ("size 0", with_size(0), 7, size(0, 44)),
        ("cut to the receiver's buffer", right[..40].to_vec(), 7, size(44, 40)),
        ("a byte too many", [&right[..], &[0]].concat(), 7, size(44, 45)),
        ("another syncid", right.clone(), 8, syncid(8, 7)),
        ("syncid 0 is another one", of_zero.clone(), 7, syncid(7, 0)),
        // Before the syncid is looked at.
        ("size and syncid", with_size(45), 8, size(45, 44)),
        ("a receiver of any syncid", right.clone(), 0, Ok(7)),
        ("a receiver of any syncid takes 0", of_zero, 0, Ok(0)),
    ];
    for (what, datagram, own, expected) in rows {
        let found = Message::decode(&datagram, SyncId(own)).map(|message| message.syncid().0);
        assert_eq!(found, expected, "{what}");
    }
}

/// Each stands between two right records of a message, in the version that can have it.
#[test]
fn a_wrong_record_costs_itself_or_the_rest() {
    use Extent::{Record, Rest};
    let v4 = Raw::v4;
    let length = |kind, stated, left| RecordError::ParameterLength { kind, stated, left };
    let tcp = |state| RecordError::State { protocol: Some(TCP), state };
    let of_template = |state| RecordError::State { protocol: None, state };
    let rows: Vec<(&str, Vec<u8>, RecordError, Extent)> = vec![
        (
            "length past the message",
            v4().stated(0xfff).bytes(),
            RecordError::Length { stated: 0xfff, left: 36 + 36 },
            Rest,
        ),
        ("version of the record", v4().version(1).bytes(), RecordError::Version(1), Rest),
        ("version of the record, highest bit", v4().version(8).bytes(), RecordError::Version(8), Rest),
        ("type without bit 0", v4().kind(2).bytes(), RecordError::Type(2), Rest),
        ("type without bit 0, highest bit", v4().kind(0x80).bytes(), RecordError::Type(0x80), Rest),
        ("length 0", v4().stated(0).bytes(), RecordError::BelowFixedPart { stated: 0, fixed: 36 }, Rest),
        (
            "length one below IPv4's",
            v4().stated(35).bytes(),
            RecordError::BelowFixedPart { stated: 35, fixed: 36 },
            Rest,
        ),
        (
            "length one below IPv6's",
            Raw::v6().stated(71).bytes(),
            RecordError::BelowFixedPart { stated: 71, fixed: 72 },
            Rest,
        ),
        (
            "IPv4's length, IPv6's type",
            v4().kind(1).bytes(),
            RecordError::BelowFixedPart { stated: 36, fixed: 72 },
            Rest,
        ),
        (
            "a parameter without length",
            v4().with(&[2]).bytes(),
            RecordError::ParameterTruncated { kind: 2 },
            Rest,
        ),
        (
            "a parameter without length, behind another",
            v4().with(&[0x50, 1, 0, 9]).bytes(),
            RecordError::ParameterTruncated { kind: 9 },
            Rest,
        ),
        ("a parameter of length 0", v4().with(&[2, 0, 9]).bytes(), length(2, 0, 1), Rest),
        ("an optional parameter of length 0", v4().with(&[0x50, 0]).bytes(), length(0x50, 0, 0), Rest),
        ("a parameter past the record", v4().with(&[2, 3, 1, 2]).bytes(), length(2, 3, 2), Rest),
        // Before the type is looked at.
        ("an unknown parameter past the record", v4().with(&[9, 3, 1, 2]).bytes(), length(9, 3, 2), Rest),
        ("sequence data of 23 bytes", v4().parameter(1, &[0; 23]).bytes(), length(1, 23, 23), Rest),
        ("sequence data of 25 bytes", v4().parameter(0x41, &[0; 25]).bytes(), length(0x41, 25, 25), Rest),
        (
            "sequence data twice",
            v4().parameter(1, &[0; 24]).parameter(1, &[0; 24]).bytes(),
            RecordError::ParameterTwice { kind: 1 },
            Rest,
        ),
        (
            "engine data twice, once as optional",
            v4().parameter(2, b"a").parameter(0x42, b"a").bytes(),
            RecordError::ParameterTwice { kind: 0x42 },
            Rest,
        ),
        (
            "engine name twice",
            v4().parameter(3, b"sip").parameter(3, b"sip").bytes(),
            RecordError::ParameterTwice { kind: 3 },
            Rest,
        ),
        ("engine name of 17 bytes", v4().parameter(3, &[b'a'; 17]).bytes(), length(3, 17, 17), Rest),
        (
            "unknown parameter",
            v4().parameter(4, b"a").bytes(),
            RecordError::ParameterUnknown { kind: 4 },
            Record,
        ),
        (
            "unknown parameter, bit 0x80 means nothing",
            v4().parameter(0x81, &[0; 24]).bytes(),
            RecordError::ParameterUnknown { kind: 0x81 },
            Record,
        ),
        // What is behind it is not read.
        (
            "unknown parameter, then one of length 0",
            v4().parameter(4, b"a").with(&[2, 0]).bytes(),
            RecordError::ParameterUnknown { kind: 4 },
            Record,
        ),
        (
            "template without a client port",
            v4().flags(0x1800).bytes(),
            RecordError::TemplateWithoutPort,
            Record,
        ),
        ("one-packet", v4().flags(0x2000).bytes(), RecordError::OnePacket, Record),
        ("one-packet template", v4().flags(0x3000).bytes(), RecordError::OnePacket, Record),
        ("protocol 0 of a connection", v4().protocol(0).bytes(), RecordError::Protocol(0), Record),
        ("protocol 1", v4().protocol(1).bytes(), RecordError::Protocol(1), Record),
        ("state of TCP", v4().state(11).bytes(), tcp(11), Record),
        ("state of TCP, upper byte", v4().state(0x100).bytes(), tcp(0x100), Record),
        (
            "state of SCTP",
            v4().protocol(SCTP).state(14).bytes(),
            RecordError::State { protocol: Some(SCTP), state: 14 },
            Record,
        ),
        (
            "state of UDP",
            v4().protocol(UDP).state(1).bytes(),
            RecordError::State { protocol: Some(UDP), state: 1 },
            Record,
        ),
        (
            "state of ESP",
            v4().protocol(ESP).state(1).bytes(),
            RecordError::State { protocol: Some(ESP), state: 1 },
            Record,
        ),
        (
            "state of AH",
            v4().protocol(AH).state(1).bytes(),
            RecordError::State { protocol: Some(AH), state: 1 },
            Record,
        ),
        ("state of a template", v4().flags(0x1000).state(2).bytes(), of_template(2), Record),
        ("engine data without name", v4().parameter(2, b"a").bytes(), RecordError::EngineUnnamed, Record),
        (
            "engine data without name, IPv6",
            Raw::v6().parameter(2, b"a").bytes(),
            RecordError::EngineUnnamed,
            Record,
        ),
        // Each rule before the next one.
        (
            "length, version",
            v4().stated(0xfff).version(1).bytes(),
            RecordError::Length { stated: 0xfff, left: 72 },
            Rest,
        ),
        ("version, type", v4().version(1).kind(2).bytes(), RecordError::Version(1), Rest),
        ("type, length", v4().kind(2).stated(20).bytes(), RecordError::Type(2), Rest),
        (
            "parameter, flags",
            v4().flags(0x1800).with(&[2]).bytes(),
            RecordError::ParameterTruncated { kind: 2 },
            Rest,
        ),
        ("flags, flags", v4().flags(0x3800).bytes(), RecordError::TemplateWithoutPort, Record),
        ("flags, protocol", v4().flags(0x2000).protocol(1).bytes(), RecordError::OnePacket, Record),
        ("protocol, state", v4().protocol(1).state(99).bytes(), RecordError::Protocol(1), Record),
        ("state, engine", v4().state(11).parameter(2, b"a").bytes(), tcp(11), Record),
    ];
    for (what, record, expected, extent) in rows {
        let right = Raw::v4().bytes();
        let datagram = v1(&[&right, &record, &right]);
        let found = decode(&datagram);
        let mut lost = vec![Ok(()), Err(expected)];
        if extent == Record {
            lost.push(Ok(()));
        }
        assert_eq!(found, lost, "{what}");
        assert_eq!(expected.extent(), extent, "{what}");
        let message = Message::decode(&datagram, SyncId::ANY).expect("the header is right");
        assert_eq!(message.trailer().is_some(), extent == Record, "{what}");
    }
}

#[test]
fn a_wrong_record_of_version_0_costs_itself_or_the_rest() {
    let right = v0_record(TCP, 0, 1);
    let rows = [
        ("template without a client port", v0_record(TCP, 0x1800, 0), RecordError::TemplateWithoutPort),
        ("one-packet", v0_record(TCP, 0x2000, 0), RecordError::OnePacket),
        ("protocol", v0_record(1, 0, 0), RecordError::Protocol(1)),
        ("state", v0_record(TCP, 0, 11), RecordError::State { protocol: Some(TCP), state: 11 }),
        (
            "state, with sequence data",
            [v0_record(TCP, 0x0200, 11), vec![0; 24]].concat(),
            RecordError::State { protocol: Some(TCP), state: 11 },
        ),
        ("state of a template", v0_record(UDP, 0x1100, 2), RecordError::State { protocol: None, state: 2 }),
    ];
    for (what, record, expected) in rows {
        assert_eq!(decode(&v0(&[&right, &record, &right])), [Ok(()), Err(expected), Ok(())], "{what}");
    }
    for flags in [0x0200, 0x0400, 0x0600] {
        let last = [v0_record(TCP, flags, 1), vec![0; 23]].concat();
        let expected = RecordError::Truncated { field: Field::SequenceData, left: 47 };
        assert_eq!(decode(&v0(&[&right, &last])), [Ok(()), Err(expected)], "sequence data for {flags:#x}");
    }
}

/// A message that ends early, with a size that says so, loses the record it ends in and all behind it.
#[test]
fn a_message_may_end_anywhere() {
    let rows = [
        (
            "version 1, IPv4",
            v1(&[&Raw::v4().bytes(), &Raw::v4().parameter(2, b"ab").parameter(3, b"c").bytes()]),
        ),
        ("version 1, IPv6", v1(&[&Raw::v6().bytes(), &Raw::v6().parameter(1, &[0; 24]).bytes()])),
        ("version 0", v0(&[&v0_record(TCP, 0, 1), &[v0_record(TCP, 0x600, 1), vec![0; 24]].concat()])),
    ];
    for (what, whole) in rows {
        assert_eq!(decode(&whole), [Ok(()), Ok(())], "{what}");
        let header = if whole[0] == 0 { 8 } else { 4 };
        // Where the second record begins.
        let second = match what {
            "version 1, IPv4" => 8 + 36,
            "version 1, IPv6" => 8 + 72,
            _ => 4 + 24,
        };
        for len in header..whole.len() {
            let mut datagram = whole[..len].to_vec();
            datagram[2..4].copy_from_slice(&(len as u16).to_be_bytes());
            let found = decode(&datagram);
            let (right, lost) = found.split_at(usize::from(len >= second));
            assert!(right.iter().all(Result::is_ok), "{what}, {len}: {found:?}");
            assert_eq!(lost.len(), 1, "{what}, {len}: {found:?}");
            assert_eq!(lost[0].unwrap_err().extent(), Extent::Rest, "{what}, {len}: {found:?}");
        }
    }
}

#[test]
fn what_is_missing_is_named() {
    use Field as F;
    let fields = [
        (0, F::Type),
        (1, F::Protocol),
        (2, F::VerSize),
        (4, F::Flags),
        (8, F::State),
        (10, F::ClientPort),
        (12, F::VirtualPort),
        (14, F::ServerPort),
        (16, F::Fwmark),
        (20, F::Timeout),
        (24, F::ClientAddress),
        (28, F::VirtualAddress),
        (32, F::ServerAddress),
        (36, F::ServerAddress),
    ];
    named(&fields, |left| v1(&[&Raw::v4().bytes()[..left]]));
    let fields = [
        (0, F::Type),
        (1, F::Protocol),
        (2, F::ClientPort),
        (4, F::VirtualPort),
        (6, F::ServerPort),
        (8, F::ClientAddress),
        (12, F::VirtualAddress),
        (16, F::ServerAddress),
        (20, F::Flags),
        (22, F::State),
        (24, F::SequenceData),
        (48, F::SequenceData),
    ];
    named(&fields, |left| v0(&[&[v0_record(TCP, 0x0200, 1), vec![0; 24]].concat()[..left]]));
}

/// Asks for every length up to that of the last row, which is the whole record.
#[track_caller]
fn named(begins: &[(usize, Field)], cut: impl Fn(usize) -> Vec<u8>) {
    for pair in begins.windows(2) {
        for left in pair[0].0..pair[1].0 {
            let expected = RecordError::Truncated { field: pair[0].1, left };
            assert_eq!(decode(&cut(left)), [Err(expected)], "{left}");
            assert!(expected.to_string().starts_with(&pair[0].1.to_string()), "{expected}");
        }
    }
}

/// Looks wrong, and is not.
#[test]
fn what_receivers_put_up_with() {
    let v4 = Raw::v4;
    let rows = [
        ("other bits of the type beside IPv6's", Raw::v6().kind(0x83).bytes()),
        ("an engine's name without data", v4().parameter(3, b"sip").bytes()),
        ("an engine's name of 16 bytes", v4().parameter(3, &[b'a'; 16]).parameter(2, b"a").bytes()),
        ("engine data of 255 bytes", v4().parameter(2, &[0; 255]).parameter(3, b"a").bytes()),
        ("known parameters as optional", v4().parameter(0x42, b"a").parameter(0x43, b"b").bytes()),
        ("sequence data that flags do not speak of", v4().parameter(1, &[0; 24]).bytes()),
        ("flags that speak of sequence data that is not there", v4().flags(0x0600).bytes()),
        ("flags that nobody knows", v4().flags(0xffff_4038).bytes()),
        ("a protocol that nobody balances, of a template", v4().protocol(1).flags(0x1000).bytes()),
        ("the last state of TCP", v4().state(10).bytes()),
        ("the last state of SCTP", v4().protocol(SCTP).state(13).bytes()),
        ("the last state of a template", v4().flags(0x1000).bytes()),
        ("AH", v4().protocol(AH).state(0).bytes()),
        ("ESP", v4().protocol(ESP).state(0).bytes()),
        ("the longest timeout", v4().timeout(u32::MAX).bytes()),
    ];
    for (what, record) in rows {
        let right = Raw::v4().bytes();
        assert_eq!(decode(&v1(&[&right, &record, &right])), [Ok(()); 3], "{what}");
    }
    let unknown = v4().parameter(0x41, &[0; 24]).parameter(0xc4, b"ab").parameter(0x44, b"c").bytes();
    let datagram = v1(&[&unknown]);
    let message = Message::decode(&datagram, SyncId(7)).unwrap();
    let record = message.records().next().unwrap().unwrap();
    assert!(record.sequence.is_some());
    assert!(
        record
            .optional
            .iter()
            .eq([Parameter { kind: 0xc4, data: b"ab" }, Parameter { kind: 0x44, data: b"c" }])
    );
}

#[test]
fn what_is_behind_the_last_record_is_the_trailer() {
    let record = Raw::v4().parameter(0x50, b"a").bytes();
    for trailer in [&b""[..], b"abc", b"abcdefghi"] {
        let mut datagram = v1(&[&record, &record]);
        datagram.extend(trailer);
        restate(&mut datagram);
        let message = Message::decode(&datagram, SyncId(7)).unwrap();
        assert_eq!(message.records().count(), 2);
        assert_eq!(message.trailer(), Some(trailer));
        let mut datagram = v0(&[&v0_record(TCP, 0, 1)]);
        datagram.extend(trailer);
        restate(&mut datagram);
        assert_eq!(Message::decode(&datagram, SyncId(7)).unwrap().trailer(), Some(trailer));
    }
    // Two records where one is counted: the second is trailer, its padding included.
    let mut datagram = v1(&[&record, &record]);
    datagram[4] = 1;
    let message = Message::decode(&datagram, SyncId(7)).unwrap();
    assert_eq!(message.records().count(), 1);
    assert_eq!(message.trailer(), Some(&datagram[8 + record.len()..]));
    // A message of a version to come.
    let mut datagram = v1(&[&record]);
    datagram[5] = 2;
    let message = Message::decode(&datagram, SyncId(7)).unwrap();
    assert_eq!((message.version(), message.records().count()), (Version::V0, 0));
    assert_eq!(message.trailer(), Some(&datagram[4..]));
}

/// Records are counted, not only looked for.
#[test]
fn a_count_above_the_records_is_an_error() {
    let mut datagram = v1(&[&Raw::v4().bytes()]);
    datagram[4] = 3;
    let expected = RecordError::Truncated { field: Field::Type, left: 0 };
    assert_eq!(decode(&datagram), [Ok(()), Err(expected)]);
    let record = Raw::v4().parameter(0x50, b"a").bytes();
    let mut datagram = v1(&[&record]);
    datagram[4] = 2;
    assert_eq!(decode(&datagram), [Ok(()), Err(expected)], "the padding would begin behind the end");
}

fn decode(datagram: &[u8]) -> Vec<Result<(), RecordError>> {
    let message = Message::decode(datagram, SyncId(7)).expect("the header is right");
    message.records().map(|record| record.map(|_| ())).collect()
}

fn v1(records: &[&[u8]]) -> Vec<u8> {
    let mut datagram = vec![0, 7, 0, 0, records.len() as u8, 1, 0, 0];
    for record in records {
        datagram.resize(datagram.len().next_multiple_of(4), 0);
        datagram.extend(*record);
    }
    restate(&mut datagram);
    datagram
}

fn v0(records: &[&[u8]]) -> Vec<u8> {
    let mut datagram = [&[records.len() as u8, 7, 0, 0], &records.concat()[..]].concat();
    restate(&mut datagram);
    datagram
}

/// Writes the size.
fn restate(datagram: &mut [u8]) {
    let size = u16::try_from(datagram.len()).unwrap();
    datagram[2..4].copy_from_slice(&size.to_be_bytes());
}

fn v0_record(protocol: u8, flags: u16, state: u16) -> Vec<u8> {
    let ends = [0x9c, 0x41, 0, 80, 0, 80, 10, 0, 1, 2, 10, 0, 0, 100, 10, 0, 2, 11];
    [&[0, protocol], &ends[..], &flags.to_be_bytes(), &state.to_be_bytes()].concat()
}

/// A record of version 1 with whatever in its fields.
struct Raw {
    kind: u8,
    protocol: u8,
    version: u16,
    stated: Option<u16>,
    flags: u32,
    state: u16,
    timeout: u32,
    addresses: Vec<u8>,
    parameters: Vec<u8>,
}

impl Raw {
    fn v4() -> Raw {
        let addresses = vec![10; 12];
        let parameters = vec![];
        Raw {
            kind: 0,
            protocol: TCP,
            version: 0,
            stated: None,
            flags: 0,
            state: 1,
            timeout: 9,
            addresses,
            parameters,
        }
    }

    fn v6() -> Raw {
        Raw { kind: 1, addresses: vec![0xfd; 48], ..Raw::v4() }
    }

    fn kind(self, kind: u8) -> Raw {
        Raw { kind, ..self }
    }

    fn protocol(self, protocol: u8) -> Raw {
        Raw { protocol, ..self }
    }

    fn version(self, version: u16) -> Raw {
        Raw { version, ..self }
    }

    fn stated(self, stated: u16) -> Raw {
        Raw { stated: Some(stated), ..self }
    }

    fn flags(self, flags: u32) -> Raw {
        Raw { flags, ..self }
    }

    fn state(self, state: u16) -> Raw {
        Raw { state, ..self }
    }

    fn timeout(self, timeout: u32) -> Raw {
        Raw { timeout, ..self }
    }

    /// Adds bytes where parameters are.
    fn with(mut self, bytes: &[u8]) -> Raw {
        self.parameters.extend(bytes);
        self
    }

    fn parameter(self, kind: u8, data: &[u8]) -> Raw {
        self.with(&[&[kind, data.len() as u8], data].concat())
    }

    fn bytes(&self) -> Vec<u8> {
        let len = (24 + self.addresses.len() + self.parameters.len()) as u16;
        let ver_size = self.version << 12 | self.stated.unwrap_or(len);
        let mut bytes = vec![self.kind, self.protocol];
        bytes.extend(ver_size.to_be_bytes());
        bytes.extend(self.flags.to_be_bytes());
        bytes.extend(self.state.to_be_bytes());
        bytes.extend([0x9c, 0x41, 0, 80, 0, 80, 0, 0, 0, 0]);
        bytes.extend(self.timeout.to_be_bytes());
        bytes.extend(&self.addresses);
        bytes.extend(&self.parameters);
        bytes
    }
}
