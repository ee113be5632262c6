//! What holds of every datagram, shared by the tests and the fuzz target.

#![allow(unreachable_pub, reason = "part of several crates")]

use sync_proto::{Addresses, OptionalParameters};
use sync_proto::{ConnFlags, EncodeError, Encoder, Extent, Message, MessageError, Record, SyncId, Version};

/// Panics where one does not hold.
pub fn check(datagram: &[u8]) {
    let Ok(message) = Message::decode(datagram, SyncId::ANY) else {
        let size = datagram.get(2..4).map(|size| usize::from(size[0]) << 8 | usize::from(size[1]));
        assert!(size != Some(datagram.len()), "refused in spite of its size");
        return;
    };
    for own in [7, message.syncid().0] {
        match Message::decode(datagram, SyncId(own)) {
            Ok(taken) => assert_eq!(taken, message),
            Err(error) => {
                assert_eq!(error, MessageError::SyncId { own: SyncId(own), theirs: message.syncid() });
                assert_ne!(own, message.syncid().0);
            }
        }
    }
    let mut records = message.records();
    let mut count = 0;
    let mut is_cut = false;
    for record in records.by_ref() {
        assert!(!is_cut, "the rest was lost");
        count += 1;
        match record {
            Ok(record) => survives(&record),
            Err(error) => {
                is_cut = error.extent() == Extent::Rest;
                assert!(!error.to_string().is_empty());
            }
        }
    }
    assert!(records.next().is_none(), "the end stays the end");
    assert!(is_cut || count == message.record_count());
    match message.trailer() {
        Some(trailer) => assert!(!is_cut && datagram.ends_with(trailer)),
        None => assert!(is_cut),
    }
}

/// A record that was decoded can be sent on in either version, as far as the version carries it.
fn survives(record: &Record<'_>) {
    let contradicts = record.flags.intersects(ConnFlags::SEQUENCE) != record.sequence.is_some();
    for version in [Version::V0, Version::V1] {
        let mut buffer = [0xff; 8 + 4095];
        let mut encoder = Encoder::new(&mut buffer, version, SyncId(7), 0);
        let is_ipv6 = matches!(record.addresses, Addresses::V6(_));
        let expected = match version {
            _ if contradicts => Err(EncodeError::Sequence),
            Version::V0 if is_ipv6 => Err(EncodeError::Ipv6),
            _ => Ok(()),
        };
        assert_eq!(encoder.push(record), expected, "{record:?}");
        if expected.is_ok() {
            let datagram = encoder.finish().expect("there is a record");
            let message = Message::decode(datagram, SyncId(7)).expect("what was encoded is decoded");
            assert_eq!(message.version(), version);
            assert!(message.records().eq([Ok(carried(record, version))]), "{record:?}");
            assert_eq!(message.trailer(), Some(&[][..]));
        }
    }
}

/// What arrives of a record.
pub fn carried<'a>(record: &Record<'a>, version: Version) -> Record<'a> {
    let mut record = *record;
    record.flags.remove(ConnFlags::HASHED);
    if version == Version::V0 {
        record.flags = ConnFlags::from_bits(record.flags.bits() & 0xffff);
        record.fwmark = 0;
        record.timeout_seconds = 0;
        record.engine = None;
        record.optional = OptionalParameters::default();
    }
    record
}
