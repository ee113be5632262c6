//! The record of version 0 (`struct ip_vs_sync_conn_v0`); its table stands in the crate's documentation.

use crate::fixed::{field, put};
use crate::{
    Addresses, ConnFlags, EncodeError, Field, OptionalParameters, Parties, Record, RecordError,
    SequenceShifts, states,
};

/// Without sequence data.
const FIXED: usize = 24;
const SEQUENCE: usize = 24;

/// The bytes of one record.
pub(crate) struct Raw<'a> {
    fixed: &'a [u8; FIXED],
    sequence: Option<&'a [u8; SEQUENCE]>,
}

impl<'a> Raw<'a> {
    /// Takes the record that `bytes`, the remainder of a message, begins with, and returns what is behind it too.
    pub(crate) fn split(bytes: &'a [u8]) -> Result<(Raw<'a>, &'a [u8]), RecordError> {
        let left = bytes.len();
        let Some((fixed, behind)) = bytes.split_first_chunk() else {
            let field = Field::cut(left, &FIELDS, Field::State);
            return Err(RecordError::Truncated { field, left });
        };
        if !flags(fixed).intersects(ConnFlags::SEQUENCE) {
            return Ok((Raw { fixed, sequence: None }, behind));
        }
        let Some((sequence, behind)) = behind.split_first_chunk() else {
            return Err(RecordError::Truncated { field: Field::SequenceData, left });
        };
        Ok((Raw { fixed, sequence: Some(sequence) }, behind))
    }

    pub(crate) fn decode<'m>(&self) -> Result<Record<'m>, RecordError> {
        let fixed = self.fixed;
        let [protocol] = field::<1, 1, _>(fixed);
        let state = u16::from_be_bytes(field::<22, 2, _>(fixed));
        states::check(flags(fixed), protocol, state)?;
        Ok(Record {
            protocol,
            flags: flags(fixed),
            state,
            client_port: u16::from_be_bytes(field::<2, 2, _>(fixed)),
            virtual_port: u16::from_be_bytes(field::<4, 2, _>(fixed)),
            server_port: u16::from_be_bytes(field::<6, 2, _>(fixed)),
            addresses: Addresses::V4(Parties {
                client: field::<8, 4, _>(fixed).into(),
                vip: field::<12, 4, _>(fixed).into(),
                server: field::<16, 4, _>(fixed).into(),
            }),
            fwmark: 0,
            timeout_seconds: 0,
            // The kernel copies the numbers as they lie in its memory.
            sequence: self.sequence.map(|bytes| SequenceShifts::read(bytes, u32::from_ne_bytes)),
            engine: None,
            optional: OptionalParameters::default(),
        })
    }
}

fn flags(fixed: &[u8; FIXED]) -> ConnFlags {
    ConnFlags::from_bits(u32::from(u16::from_be_bytes(field::<20, 2, _>(fixed))))
}

/// A record that version 0 can carry.
pub(crate) struct Checked<'a> {
    record: &'a Record<'a>,
    parties: Parties<core::net::Ipv4Addr>,
}

impl<'a> Checked<'a> {
    pub(crate) fn new(record: &'a Record<'a>) -> Result<Checked<'a>, EncodeError> {
        match record.addresses {
            Addresses::V4(parties) => Ok(Checked { record, parties }),
            Addresses::V6(_) => Err(EncodeError::Ipv6),
        }
    }

    pub(crate) const fn len(&self) -> usize {
        if self.record.sequence.is_some() { FIXED + SEQUENCE } else { FIXED }
    }

    /// Writes it to `to`, which is [as long](Self::len) as it is.
    pub(crate) fn encode(&self, to: &mut [u8]) {
        let Checked { record, parties } = self;
        let mut fixed = [0; FIXED];
        put::<1, 1, _>(&mut fixed, [record.protocol]);
        put::<2, 2, _>(&mut fixed, record.client_port.to_be_bytes());
        put::<4, 2, _>(&mut fixed, record.virtual_port.to_be_bytes());
        put::<6, 2, _>(&mut fixed, record.server_port.to_be_bytes());
        put::<8, 4, _>(&mut fixed, parties.client.octets());
        put::<12, 4, _>(&mut fixed, parties.vip.octets());
        put::<16, 4, _>(&mut fixed, parties.server.octets());
        // What version 0 knows of flags is their lower half.
        put::<20, 2, _>(&mut fixed, (record.flags.sent().bits() as u16).to_be_bytes());
        put::<22, 2, _>(&mut fixed, record.state.to_be_bytes());
        let (to_fixed, to_sequence) = to.split_at_mut(FIXED);
        to_fixed.copy_from_slice(&fixed);
        if let Some(sequence) = record.sequence {
            to_sequence.copy_from_slice(&sequence.written(u32::to_ne_bytes));
        }
    }
}

/// Where each field of the fixed part ends but the last, the state.
const FIELDS: [(usize, Field); 9] = [
    (1, Field::Type),
    (2, Field::Protocol),
    (4, Field::ClientPort),
    (6, Field::VirtualPort),
    (8, Field::ServerPort),
    (12, Field::ClientAddress),
    (16, Field::VirtualAddress),
    (20, Field::ServerAddress),
    (22, Field::Flags),
];
