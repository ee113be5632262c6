//! The bytes of messages, and what the encoder refuses.

use sync_proto::{
    Addresses, ConnFlags, Draft, EncodeError, Encoder, Engine, Message, OptionalParameters, Parties, Record,
    RecordError, SequenceShift, SequenceShifts, SyncId, Version,
};

/// Record by record, with the buffer given back in between, it is the same message.
#[test]
fn a_message_that_was_paused_goes_on_where_it_was() {
    let sequence = Some(SequenceShifts::default());
    let odd = Record { flags: ConnFlags::SEQUENCE, sequence, ..established(1) };
    for version in [Version::V0, Version::V1] {
        let mut whole = [0xff; 300];
        let mut encoder = Encoder::new(&mut whole, version, SyncId(7), 250).with_trailer(20);
        let mut paused = [0xff; 300];
        let mut draft = Draft::new(version, SyncId(7), 250).with_trailer(20);
        assert_eq!(draft.version(), version);
        loop {
            let pushed = encoder.push(&odd);
            let mut resumed = Encoder::resume(&mut paused, draft);
            assert_eq!(resumed.push(&odd), pushed);
            draft = resumed.pause();
            assert_eq!(draft.record_count(), encoder.record_count());
            assert_eq!(draft.message_len(), encoder.message_len());
            if pushed.is_err() {
                assert_eq!(pushed, Err(EncodeError::Full));
                break;
            }
        }
        assert!(draft.record_count() > 2);
        let resumed = Encoder::resume(&mut paused, draft).finish().map(|message| message.to_vec());
        assert_eq!(resumed.as_deref(), encoder.finish().as_deref());
    }
}

/// What was written to one buffer is not in another, but nothing is written outside either.
#[test]
fn a_message_that_goes_on_in_a_smaller_buffer_is_full() {
    let mut buffer = [0; 300];
    let mut encoder = Encoder::new(&mut buffer, Version::V1, SyncId(7), 1472);
    encoder.push(&established(1)).unwrap();
    let draft = encoder.pause();
    for len in 0..draft.message_len() + 36 {
        let mut smaller = vec![0; len];
        let mut encoder = Encoder::resume(&mut smaller, draft);
        assert_eq!(encoder.push(&established(2)), Err(EncodeError::Full), "{len}");
        assert_eq!(encoder.finish().is_some(), len >= draft.message_len(), "{len}");
    }
}

/// Accepted by a kernel as they stand here.
#[test]
fn messages_are_the_kernels_byte_for_byte() {
    let one = established(49152);
    let sequence = SequenceShifts {
        input: SequenceShift { init_seq: 0x1111_1111, delta: 5, previous_delta: 0 },
        output: SequenceShift { init_seq: 0x2222_2222, delta: 3_u32.wrapping_neg(), previous_delta: 2 },
    };
    let adjusted = Record { flags: ConnFlags::SEQUENCE, sequence: Some(sequence), ..one };
    let closing = Record { flags: ConnFlags::INACTIVE, state: 4, timeout_seconds: 120, ..established(49153) };
    let ipv6 = Record {
        protocol: 17,
        flags: ConnFlags::from_bits(0x0183),
        state: 0,
        client_port: 40000,
        virtual_port: 53,
        server_port: 53,
        fwmark: 9,
        timeout_seconds: 300,
        addresses: Addresses::V6(Parties {
            client: "2001:db8::c".parse().unwrap(),
            vip: "2001:db8::1".parse().unwrap(),
            server: "fd00:3::a".parse().unwrap(),
        }),
        ..one
    };
    let template = Record {
        protocol: 17,
        flags: ConnFlags::from_bits(0x1100),
        client_port: 0,
        virtual_port: 5060,
        server_port: 5060,
        timeout_seconds: 60,
        engine: Some(Engine { name: b"sip", data: b"abc" }),
        optional: OptionalParameters::new(&[0x7f, 1, 9]).unwrap(),
        ..one
    };
    let old = Record { timeout_seconds: 0, ..established(49200) };
    let old_adjusted = Record { flags: ConnFlags::SEQUENCE, sequence: Some(sequence), ..old };
    let shifts = if cfg!(target_endian = "little") {
        "111111110500000000000000 22222222fdffffff02000000"
    } else {
        "111111110000000500000000 22222222fffffffd00000002"
    };
    let rows = [
        (
            "sequence data, padding, a second record",
            Version::V1,
            vec![adjusted, closing],
            "0007006c02010000 0006003e00000600 0001c00000501f90 00000000 00000384 c000020a0a0700010a030001 \
             0118 111111110000000500000000 22222222fffffffd00000002 0000 \
             0006002400000100 0004c00100501f90 00000000 00000078 c000020a0a0700010a030001"
                .to_owned(),
        ),
        (
            "IPv6",
            Version::V1,
            vec![ipv6],
            "0007005001010000 0111004800000183 00009c4000350035 00000009 0000012c \
             20010db800000000000000000000000c 20010db8000000000000000000000001 fd00000300000000000000000000000a"
                .to_owned(),
        ),
        (
            "an engine and an optional parameter",
            Version::V1,
            vec![template],
            "0007003901010000 0011003100001100 0001000013c413c4 00000000 0000003c c000020a0a0700010a030001 \
             0203616263 0303736970 7f0109"
                .to_owned(),
        ),
        (
            "version 0",
            Version::V0,
            vec![old],
            "0107001c 0006c03000501f90 c000020a0a0700010a030001 00000001".to_owned(),
        ),
        (
            "version 0, sequence data",
            Version::V0,
            vec![old_adjusted, old],
            format!(
                "0207004c 0006c03000501f90 c000020a0a0700010a030001 06000001 {shifts} \
                 0006c03000501f90 c000020a0a0700010a030001 00000001"
            ),
        ),
    ];
    for (what, version, records, hex) in rows {
        let datagram = bytes(&hex);
        let mut buffer = [0xff; 1472];
        let mut encoder = Encoder::new(&mut buffer, version, SyncId(7), 1472);
        for record in &records {
            encoder.push(record).expect(what);
        }
        assert_eq!(encoder.finish().expect(what), datagram, "{what}");
        let message = Message::decode(&datagram, SyncId(7)).expect(what);
        assert!(message.records().eq(records.into_iter().map(Ok)), "{what}");
    }
}

#[test]
fn what_receivers_refuse_is_not_encoded() {
    use EncodeError::Refused;
    let right = established(1);
    let flags = |bits| ConnFlags::from_bits(bits);
    let engine = |name, data| Some(Engine { name, data });
    let length = |kind, stated, left| Refused(RecordError::ParameterLength { kind, stated, left });
    let long = [0; 256];
    let rows = [
        (
            "template without port",
            Record { flags: flags(0x1800), ..right },
            Refused(RecordError::TemplateWithoutPort),
        ),
        ("one-packet", Record { flags: flags(0x2000), ..right }, Refused(RecordError::OnePacket)),
        ("protocol", Record { protocol: 1, ..right }, Refused(RecordError::Protocol(1))),
        (
            "state",
            Record { state: 11, ..right },
            Refused(RecordError::State { protocol: Some(6), state: 11 }),
        ),
        ("flags without sequence data", Record { flags: flags(0x0200), ..right }, EncodeError::Sequence),
        (
            "sequence data without flags",
            Record { sequence: Some(SequenceShifts::default()), ..right },
            EncodeError::Sequence,
        ),
        ("engine without data", Record { engine: engine(b"sip", b""), ..right }, length(2, 0, 0)),
        ("engine without name", Record { engine: engine(b"", b"a"), ..right }, length(3, 0, 0)),
        ("long engine data", Record { engine: engine(b"sip", &long), ..right }, length(2, 255, 256)),
        ("long engine name", Record { engine: engine(&long[..17], b"a"), ..right }, length(3, 17, 17)),
    ];
    for (what, record, expected) in rows {
        let mut buffer = [0; 1472];
        let mut encoder = Encoder::new(&mut buffer, Version::V1, SyncId(7), 1472);
        assert_eq!(encoder.push(&record), Err(expected), "{what}");
        assert_eq!((encoder.record_count(), encoder.message_len()), (0, 8), "{what}");
        encoder.push(&right).expect("it is as it was");
        assert_eq!(encoder.push(&record), Err(expected), "{what}, behind another");
        assert_eq!(encoder.finish().expect(what).len(), 8 + 36, "{what}");
    }
}

/// A mandatory parameter would cost the record where it is not known; a known one has a field of its own.
#[test]
fn only_optional_parameters_are_taken_for_such() {
    let rows: [(&str, &[u8], bool); 9] = [
        ("none", &[], true),
        ("one", &[0x44, 1, 9], true),
        ("two, the second with bit 0x80", &[0x7f, 1, 9, 0xc1, 2, 8, 9], true),
        ("a mandatory one", &[0x04, 1, 9], false),
        ("a mandatory one behind", &[0x44, 1, 9, 0x84, 1, 9], false),
        ("a known one", &[0x42, 1, 9], false),
        ("one of length 0", &[0x44, 0], false),
        ("one without length", &[0x44, 1, 9, 0x44], false),
        ("one past the end", &[0x44, 2, 9], false),
    ];
    for (what, bytes, taken) in rows {
        assert_eq!(OptionalParameters::new(bytes).is_some(), taken, "{what}");
    }
}

#[test]
fn parameters_may_be_too_long_for_twelve_bits() {
    let mut buffer = [0; 5000];
    // 17 parameters of 236 bytes and one of what is left.
    for (last, len) in [(47, 4095), (48, 4096)] {
        let parameter = |len: usize| [&[0x50, len as u8], &vec![1; len][..]].concat();
        let bytes = [parameter(234).repeat(17), parameter(last - 2)].concat();
        assert_eq!(36 + bytes.len(), len);
        let optional = OptionalParameters::new(&bytes).unwrap();
        let record = Record { optional, ..established(1) };
        let mut encoder = Encoder::new(&mut buffer, Version::V1, SyncId(7), 5000);
        let pushed = encoder.push(&record);
        if len == 4095 {
            assert_eq!(pushed, Ok(()));
            let message = Message::decode(encoder.finish().unwrap(), SyncId(7)).unwrap();
            assert_eq!(message.records().next().unwrap().unwrap().optional, optional);
        } else {
            assert_eq!(pushed, Err(EncodeError::TooLong { len }));
        }
    }
}

/// `sync_maxlen`, the size of the buffer, the count's one byte and the size's two, each where it is what limits.
#[test]
fn messages_are_full_at_their_limits() {
    let v1 = Version::V1;
    // Version, buffer, length that messages shall have, trailer, and how many IPv4 records fit.
    let rows = [
        ("the kernel's default", v1, 1472, 1472, 0, 40),
        ("a byte less than 40 records need", v1, 1472, 8 + 40 * 36 - 1, 0, 39),
        ("just what 40 records need", v1, 1472, 8 + 40 * 36, 0, 40),
        ("a trailer in what is left", v1, 1472, 1472, 24, 40),
        ("a trailer that takes a record's place", v1, 1472, 1472, 25, 39),
        ("less than one record", v1, 1472, 20, 0, 1),
        ("less than the trailer", v1, 1472, 20, 40, 1),
        ("the buffer is smaller", v1, 8 + 2 * 36, 1472, 0, 2),
        ("the buffer is smaller, with trailer", v1, 8 + 2 * 36, 1472, 1, 1),
        ("255 records", v1, 65535, 65535, 0, 255),
        ("version 0", Version::V0, 1472, 1472, 0, 61),
        ("version 0, 255 records", Version::V0, 65535, 65535, 0, 255),
    ];
    for (what, version, len, max_len, trailer, expected) in rows {
        let mut buffer = vec![0xff; len];
        let mut encoder = Encoder::new(&mut buffer, version, SyncId(7), max_len).with_trailer(trailer);
        let refused = (0..).find_map(|port| encoder.push(&established(port)).err());
        assert_eq!(refused, Some(EncodeError::Full), "{what}");
        assert_eq!(encoder.record_count(), expected, "{what}");
        let datagram = encoder.finish().expect(what);
        let message = Message::decode(datagram, SyncId(7)).expect(what);
        assert_eq!(message.records().filter(Result::is_ok).count(), usize::from(expected), "{what}");
        assert_eq!(message.trailer().map(<[u8]>::len), Some(trailer), "{what}");
    }
}

/// It says so by another error than a full message does: whoever begins another message would do so for ever.
#[test]
fn a_buffer_without_room_for_one_record_is_no_full_message() {
    for (version, len, trailer) in [
        (Version::V1, 0, 0),
        (Version::V1, 43, 0),
        (Version::V1, 60, 17),
        (Version::V1, 99, usize::MAX),
        (Version::V0, 27, 0),
    ] {
        let mut buffer = vec![0; len];
        let mut encoder = Encoder::new(&mut buffer, version, SyncId(7), 1472).with_trailer(trailer);
        let record_len = if version == Version::V1 { 36 } else { 24 };
        assert_eq!(encoder.push(&established(1)), Err(EncodeError::TooLong { len: record_len }));
        assert!(encoder.message_len() >= trailer);
        assert_eq!(encoder.finish(), None);
    }
}

/// A size of two bytes.
#[test]
fn no_message_is_longer_than_its_header_can_say() {
    let data = [b'a'; 255];
    let engine = Some(Engine { name: b"sip", data: &data });
    // 36 + 257 + 5, with padding 300 bytes each.
    let record = Record { engine, ..established(1) };
    let mut buffer = vec![0; 100_000];
    let mut encoder = Encoder::new(&mut buffer, Version::V1, SyncId(7), 100_000);
    while encoder.push(&record).is_ok() {}
    assert_eq!(encoder.push(&record), Err(EncodeError::Full));
    let datagram = encoder.finish().unwrap();
    assert_eq!(datagram.len(), 8 + 217 * 300 + 298);
    assert_eq!(Message::decode(datagram, SyncId(7)).unwrap().records().count(), 218);
}

#[test]
fn version_0_has_no_ipv6() {
    let localhost = "::1".parse().unwrap();
    let addresses = Addresses::V6(Parties { client: localhost, vip: localhost, server: localhost });
    let mut buffer = [0; 1472];
    let mut encoder = Encoder::new(&mut buffer, Version::V0, SyncId(7), 1472);
    assert_eq!(encoder.push(&Record { addresses, ..established(1) }), Err(EncodeError::Ipv6));
    assert_eq!(encoder.finish(), None);
}

/// The mark of a template stands in place of the virtual address, at its beginning.
#[test]
fn templates_of_a_mark_name_it() {
    let template = Record { protocol: 0, flags: ConnFlags::from_bits(0x1100), ..established(0) };
    let of = |vip: &str| {
        let vip = vip.parse().unwrap();
        let other = "fd00::1".parse().unwrap();
        Record { addresses: Addresses::V6(Parties { client: other, vip, server: other }), ..template }
    };
    let v4 =
        Parties { client: [10, 0, 0, 1].into(), vip: [0, 1, 0, 85].into(), server: [10, 0, 0, 2].into() };
    let rows = [
        (Record { addresses: Addresses::V4(v4), ..template }, Some(0x10055)),
        (of("1:55::"), Some(0x10055)),
        (Record { protocol: 6, ..of("1:55::") }, None),
        (Record { flags: ConnFlags::INACTIVE, ..of("1:55::") }, None),
    ];
    for (record, mark) in rows {
        assert_eq!(record.template_mark(), mark, "{record:?}");
    }
}

/// TCP through NAT, from 192.0.2.10.
fn established(client_port: u16) -> Record<'static> {
    Record {
        protocol: 6,
        flags: ConnFlags::default(),
        state: 1,
        client_port,
        virtual_port: 80,
        server_port: 8080,
        addresses: Addresses::V4(Parties {
            client: [192, 0, 2, 10].into(),
            vip: [10, 7, 0, 1].into(),
            server: [10, 3, 0, 1].into(),
        }),
        fwmark: 0,
        timeout_seconds: 900,
        sequence: None,
        engine: None,
        optional: OptionalParameters::default(),
    }
}

fn bytes(hex: &str) -> Vec<u8> {
    let digits: Vec<u32> = hex.chars().filter_map(|digit| digit.to_digit(16)).collect();
    digits.chunks(2).map(|pair| (pair[0] << 4 | pair[1]) as u8).collect()
}
