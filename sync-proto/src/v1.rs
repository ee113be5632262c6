//! The record of version 1 (`struct ip_vs_sync_v4`, `struct ip_vs_sync_v6`); its table stands in the crate's documentation.

use crate::fixed::{field, put};
use crate::parameter::Parameters;
use crate::{Addresses, ConnFlags, EncodeError, Field, Parties, Record, RecordError, states};
use core::net::Ipv6Addr;

/// Where addresses begin, whatever their family.
const COMMON: usize = 24;
const FIXED_V4: usize = COMMON + 3 * 4;
const FIXED_V6: usize = COMMON + 3 * 16;
/// What twelve bits hold.
const LONGEST: usize = 0xfff;
/// `STYPE_F_INET6`.
const IPV6: u8 = 0x01;

/// The bytes of one record, as long as it says it is.
pub(crate) struct Raw<'a> {
    common: &'a [u8; COMMON],
    addresses: RawAddresses<'a>,
    parameters: &'a [u8],
}

enum RawAddresses<'a> {
    V4(&'a [u8; 3 * 4]),
    V6(&'a [u8; 3 * 16]),
}

impl<'a> Raw<'a> {
    /// Takes the record that `bytes`, the remainder of a message, begins with, and returns what is behind it too.
    pub(crate) fn split(bytes: &'a [u8]) -> Result<(Raw<'a>, &'a [u8]), RecordError> {
        let left = bytes.len();
        let Some(fixed) = bytes.first_chunk::<FIXED_V4>() else {
            let field = Field::cut(left, &FIELDS, Field::ServerAddress);
            return Err(RecordError::Truncated { field, left });
        };
        let ver_size = u16::from_be_bytes(field::<2, 2, _>(fixed));
        let stated = ver_size & LONGEST as u16;
        let Some((record, behind)) = bytes.split_at_checked(usize::from(stated)) else {
            return Err(RecordError::Length { stated, left });
        };
        let version = (ver_size >> 12) as u8;
        if version != 0 {
            return Err(RecordError::Version(version));
        }
        // Other bits beside that of IPv6 mean nothing.
        let raw = match field::<0, 1, _>(fixed) {
            [kind] if kind & IPV6 != 0 => Raw::of_family(record, RawAddresses::V6),
            [0] => Raw::of_family(record, RawAddresses::V4),
            [kind] => return Err(RecordError::Type(kind)),
        }?;
        Ok((raw, behind))
    }

    /// Takes apart a record with `LEN` bytes of addresses.
    fn of_family<const LEN: usize>(
        record: &'a [u8],
        family: fn(&'a [u8; LEN]) -> RawAddresses<'a>,
    ) -> Result<Raw<'a>, RecordError> {
        let split = record.split_first_chunk().and_then(|(common, behind)| {
            let (addresses, parameters) = behind.split_first_chunk()?;
            Some(Raw { common, addresses: family(addresses), parameters })
        });
        split.ok_or(RecordError::BelowFixedPart { stated: record.len() as u16, fixed: (COMMON + LEN) as u16 })
    }

    pub(crate) fn decode(&self) -> Result<Record<'a>, RecordError> {
        let common = self.common;
        let parameters = Parameters::decode(self.parameters)?;
        let [protocol] = field::<1, 1, _>(common);
        let flags = ConnFlags::from_bits(u32::from_be_bytes(field::<4, 4, _>(common)));
        let state = u16::from_be_bytes(field::<8, 2, _>(common));
        states::check(flags, protocol, state)?;
        if parameters.unnamed {
            return Err(RecordError::EngineUnnamed);
        }
        Ok(Record {
            protocol,
            flags,
            state,
            client_port: u16::from_be_bytes(field::<10, 2, _>(common)),
            virtual_port: u16::from_be_bytes(field::<12, 2, _>(common)),
            server_port: u16::from_be_bytes(field::<14, 2, _>(common)),
            fwmark: u32::from_be_bytes(field::<16, 4, _>(common)),
            timeout_seconds: u32::from_be_bytes(field::<20, 4, _>(common)),
            addresses: match self.addresses {
                RawAddresses::V4(bytes) => Addresses::V4(Parties {
                    client: field::<0, 4, _>(bytes).into(),
                    vip: field::<4, 4, _>(bytes).into(),
                    server: field::<8, 4, _>(bytes).into(),
                }),
                RawAddresses::V6(bytes) => Addresses::V6(Parties {
                    client: Ipv6Addr::from(field::<0, 16, _>(bytes)),
                    vip: Ipv6Addr::from(field::<16, 16, _>(bytes)),
                    server: Ipv6Addr::from(field::<32, 16, _>(bytes)),
                }),
            },
            sequence: parameters.sequence,
            engine: parameters.engine,
            optional: parameters.optional,
        })
    }
}

/// A record that version 1 can carry.
pub(crate) struct Checked<'a> {
    record: &'a Record<'a>,
    parameters: Parameters<'a>,
    len: u16,
}

impl<'a> Checked<'a> {
    pub(crate) fn new(record: &'a Record<'a>) -> Result<Checked<'a>, EncodeError> {
        let &Record { sequence, engine, optional, .. } = record;
        let parameters = Parameters { sequence, engine, optional, unnamed: false };
        parameters.check().map_err(EncodeError::Refused)?;
        let fixed = match record.addresses {
            Addresses::V4(_) => FIXED_V4,
            Addresses::V6(_) => FIXED_V6,
        };
        let len = fixed + parameters.encoded_len();
        match u16::try_from(len) {
            Ok(len) if usize::from(len) <= LONGEST => Ok(Checked { record, parameters, len }),
            _ => Err(EncodeError::TooLong { len }),
        }
    }

    pub(crate) fn len(&self) -> usize {
        usize::from(self.len)
    }

    /// Writes it to `to`, which is [as long](Self::len) as it is.
    pub(crate) fn encode(&self, to: &mut [u8]) {
        let record = self.record;
        let mut common = [0; COMMON];
        put::<1, 1, _>(&mut common, [record.protocol]);
        put::<2, 2, _>(&mut common, self.len.to_be_bytes());
        put::<4, 4, _>(&mut common, record.flags.sent().bits().to_be_bytes());
        put::<8, 2, _>(&mut common, record.state.to_be_bytes());
        put::<10, 2, _>(&mut common, record.client_port.to_be_bytes());
        put::<12, 2, _>(&mut common, record.virtual_port.to_be_bytes());
        put::<14, 2, _>(&mut common, record.server_port.to_be_bytes());
        put::<16, 4, _>(&mut common, record.fwmark.to_be_bytes());
        put::<20, 4, _>(&mut common, record.timeout_seconds.to_be_bytes());
        match record.addresses {
            Addresses::V4(Parties { client, vip, server }) => {
                let mut addresses = [0; 3 * 4];
                put::<0, 4, _>(&mut addresses, client.octets());
                put::<4, 4, _>(&mut addresses, vip.octets());
                put::<8, 4, _>(&mut addresses, server.octets());
                self.write(&common, &addresses, to);
            }
            Addresses::V6(Parties { client, vip, server }) => {
                put::<0, 1, _>(&mut common, [IPV6]);
                let mut addresses = [0; 3 * 16];
                put::<0, 16, _>(&mut addresses, client.octets());
                put::<16, 16, _>(&mut addresses, vip.octets());
                put::<32, 16, _>(&mut addresses, server.octets());
                self.write(&common, &addresses, to);
            }
        }
    }

    fn write<const LEN: usize>(&self, common: &[u8; COMMON], addresses: &[u8; LEN], to: &mut [u8]) {
        let (to_common, to) = to.split_at_mut(COMMON);
        to_common.copy_from_slice(common);
        let (to_addresses, to) = to.split_at_mut(LEN);
        to_addresses.copy_from_slice(addresses);
        self.parameters.encode(to);
    }
}

/// Where each field of the smaller fixed part ends but the last, the server's address.
const FIELDS: [(usize, Field); 12] = [
    (1, Field::Type),
    (2, Field::Protocol),
    (4, Field::VerSize),
    (8, Field::Flags),
    (10, Field::State),
    (12, Field::ClientPort),
    (14, Field::VirtualPort),
    (16, Field::ServerPort),
    (20, Field::Fwmark),
    (24, Field::Timeout),
    (28, Field::ClientAddress),
    (32, Field::VirtualAddress),
];
