//! What holds of every record and every datagram.

mod invariants;

use proptest::array::{uniform4, uniform16};
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;
use proptest::sample::{Index, select};
use sync_proto::{
    Addresses, ConnFlags, EncodeError, Encoder, Engine, Message, OptionalParameters, Parties, Record,
    SequenceShift, SequenceShifts, SyncId, Version,
};

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    /// Messages are full when they have to be and not before, and what is in them arrives as it was sent.
    #[test]
    fn what_is_encoded_is_decoded(
        entries in vec(entry(), 1..40),
        version in version(),
        syncid: u8,
        max_len in 0_usize..2000,
        trailer in 0_usize..100,
    ) {
        let records: Vec<Record<'_>> = entries.iter().map(Entry::record).collect();
        let mut waiting = &records[..];
        while let [first, ..] = waiting {
            let mut buffer = [0xff; 8 + 4095 + 100];
            let mut encoder = Encoder::new(&mut buffer, version, SyncId(syncid), max_len).with_trailer(trailer);
            let (mut sent, mut len) = (0, version.header_len());
            let refused = loop {
                let Some(record) = waiting.get(sent) else { break None };
                match encoder.push(record) {
                    Ok(()) => sent += 1,
                    error => break error.err(),
                }
                let before = len.next_multiple_of(if version == Version::V0 { 1 } else { 4 });
                len = before + encoded_len(record, version);
                prop_assert_eq!(encoder.message_len(), len + trailer);
                prop_assert!(sent == 1 || encoder.message_len() <= max_len);
            };
            match refused {
                None | Some(EncodeError::Full) => {}
                Some(EncodeError::Ipv6) => prop_assert!(version == Version::V0 && is_ipv6(&waiting[sent])),
                Some(error) => prop_assert!(false, "{error:?}: {first:?}"),
            }
            if refused == Some(EncodeError::Full) {
                let start = len.next_multiple_of(if version == Version::V0 { 1 } else { 4 });
                let next = start + encoded_len(&waiting[sent], version) + trailer;
                prop_assert!(next > max_len, "there is room for {} in {}", next, max_len);
            }
            let skipped = usize::from(refused == Some(EncodeError::Ipv6));
            let message = encoder.finish();
            prop_assert_eq!(message.is_some(), sent > 0);
            if let Some(datagram) = message {
                prop_assert_eq!(datagram.len(), len + trailer);
                invariants::check(datagram);
                let message = Message::decode(datagram, SyncId(syncid)).unwrap();
                prop_assert_eq!((message.version(), message.syncid()), (version, SyncId(syncid)));
                let arrived: Vec<_> = message.records().collect();
                let expected: Vec<_> =
                    waiting[..sent].iter().map(|record| Ok(invariants::carried(record, version))).collect();
                prop_assert_eq!(arrived, expected);
                prop_assert_eq!(message.trailer(), Some(&vec![0; trailer][..]));
            }
            waiting = &waiting[sent + skipped..];
        }
    }

    #[test]
    fn any_bytes_are_refused_or_decoded(mut datagram in vec(any::<u8>(), 0..400), header in header()) {
        if let Some(start) = datagram.get_mut(..header.len()) {
            start.copy_from_slice(&header);
        }
        invariants::check(&datagram);
        restate(&mut datagram);
        invariants::check(&datagram);
    }

    #[test]
    fn damaged_messages_are_refused_or_decoded(
        entries in vec(entry(), 1..8),
        version in version(),
        damages in vec((any::<Index>(), any::<u8>()), 1..6),
        cut in option::of(any::<Index>()),
        added in vec(any::<u8>(), 0..10),
    ) {
        let mut buffer = [0; 8 * 4096];
        let mut encoder = Encoder::new(&mut buffer, version, SyncId(7), 8 * 4096);
        for entry in &entries {
            let pushed = encoder.push(&entry.record());
            prop_assert!(matches!(pushed, Ok(()) | Err(EncodeError::Ipv6)), "{pushed:?}");
        }
        let Some(message) = encoder.finish() else { return Ok(()) };
        let mut datagram = message.to_vec();
        for (place, value) in damages {
            *place.get_mut(&mut datagram) = value;
        }
        if let Some(cut) = cut {
            datagram.truncate(cut.index(datagram.len()));
        }
        datagram.extend(added);
        invariants::check(&datagram);
        restate(&mut datagram);
        invariants::check(&datagram);
    }
}

/// Makes the size right, so that the records are looked at.
fn restate(datagram: &mut [u8]) {
    let size = datagram.len() as u16;
    if let Some(field) = datagram.get_mut(2..4) {
        field.copy_from_slice(&size.to_be_bytes());
    }
}

/// By the tables of the wire, not by the code.
fn encoded_len(record: &Record<'_>, version: Version) -> usize {
    let sequence = record.sequence.map_or(0, |_| 24);
    if version == Version::V0 {
        return 24 + sequence;
    }
    let fixed = if is_ipv6(record) { 72 } else { 36 };
    let optional: usize = record.optional.iter().map(|parameter| 2 + parameter.data.len()).sum();
    let engine = record.engine.map_or(0, |engine| 2 + engine.data.len() + 2 + engine.name.len());
    fixed + record.sequence.map_or(0, |_| 2 + sequence) + engine + optional
}

fn is_ipv6(record: &Record<'_>) -> bool {
    matches!(record.addresses, Addresses::V6(_))
}

/// A record that receivers take, with what it borrows.
#[derive(Clone, Debug)]
struct Entry {
    /// Without what is borrowed.
    record: Record<'static>,
    engine: Option<(Vec<u8>, Vec<u8>)>,
    optional: Vec<u8>,
}

impl Entry {
    fn record(&self) -> Record<'_> {
        let engine = self.engine.as_ref().map(|(name, data)| Engine { name, data });
        let optional = OptionalParameters::new(&self.optional).expect("they are optional");
        Record { engine, optional, ..self.record }
    }
}

fn entry() -> impl Strategy<Value = Entry> {
    let optional = vec((0x44_u8..0x80, vec(any::<u8>(), 1..256)), 0..4).prop_map(|parameters| {
        let bytes = parameters.iter().map(|(kind, data)| [&[*kind, data.len() as u8], &data[..]].concat());
        bytes.collect::<Vec<_>>().concat()
    });
    let engine = option::of((vec(any::<u8>(), 1..17), vec(any::<u8>(), 1..256)));
    (record(), engine, prop_oneof![3 => Just(vec![]), 1 => optional])
        .prop_map(|(record, engine, optional)| Entry { record, engine, optional })
}

fn record() -> impl Strategy<Value = Record<'static>> {
    let template = (any::<u8>(), 0_u16..2, Just(ConnFlags::TEMPLATE));
    let connection = select(vec![(6_u8, 11_u16), (17, 1), (132, 14), (50, 1), (51, 1)])
        .prop_flat_map(|(protocol, states)| (Just(protocol), 0..states, Just(ConnFlags::default())));
    let kind = prop_oneof![template, connection];
    (kind, any::<(u32, u16, u16, u16, u32, u32)>(), addresses(), shifts()).prop_map(
        |((protocol, state, kind), numbers, addresses, shifts)| {
            let (flags, client_port, virtual_port, server_port, fwmark, timeout_seconds) = numbers;
            let mut flags = ConnFlags::from_bits(flags);
            flags.remove(ConnFlags::TEMPLATE);
            flags.remove(ConnFlags::ONE_PACKET);
            flags.insert(kind);
            if flags.contains(ConnFlags::TEMPLATE) {
                flags.remove(ConnFlags::NO_CPORT);
            }
            Record {
                protocol,
                flags,
                state,
                client_port,
                virtual_port,
                server_port,
                addresses,
                fwmark,
                timeout_seconds,
                sequence: flags.intersects(ConnFlags::SEQUENCE).then_some(shifts),
                engine: None,
                optional: OptionalParameters::default(),
            }
        },
    )
}

fn addresses() -> impl Strategy<Value = Addresses> {
    let v4 = (uniform4(0_u8..), uniform4(0_u8..), uniform4(0_u8..)).prop_map(|(client, vip, server)| {
        Addresses::V4(Parties { client: client.into(), vip: vip.into(), server: server.into() })
    });
    let v6 = (uniform16(0_u8..), uniform16(0_u8..), uniform16(0_u8..)).prop_map(|(client, vip, server)| {
        Addresses::V6(Parties { client: client.into(), vip: vip.into(), server: server.into() })
    });
    prop_oneof![v4, v6]
}

fn shifts() -> impl Strategy<Value = SequenceShifts> {
    let shift = || {
        any::<(u32, u32, u32)>().prop_map(|(init_seq, delta, previous_delta)| SequenceShift {
            init_seq,
            delta,
            previous_delta,
        })
    };
    (shift(), shift()).prop_map(|(input, output)| SequenceShifts { input, output })
}

fn version() -> impl Strategy<Value = Version> {
    select(vec![Version::V0, Version::V1])
}

/// What a message may begin with, so that random bytes are read as records at all.
fn header() -> impl Strategy<Value = Vec<u8>> {
    let v1 = (0_u8..6).prop_map(|count| vec![0, 7, 0, 0, count, 1, 0, 0, 0, 6, 0]);
    prop_oneof![v1, (1_u8..6).prop_map(|count| vec![count, 7]), Just(vec![])]
}
