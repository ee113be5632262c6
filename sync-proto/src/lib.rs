//! The IPVS connection synchronisation protocol, versions 0 and 1: its messages, as bytes and as values.
//!
//! Directors tell each other of their connections in UDP datagrams; `net/netfilter/ipvs/ip_vs_sync.c` is where Linux
//! does it, and what this crate follows. One datagram is one *message*: a header and up to 255 *records*, each about
//! one connection or one template of persistence. There are no answers, no acknowledgements and no deletions.
//!
//! This is the wire format alone: no sockets, no clock, no connection table, no allocation, no `std`. A receiver
//! [decodes](Message::decode) a datagram in place; a sender [appends](Encoder::push) records to a buffer of its own.
//!
//! ```
//! use sync_proto::{ConnFlags, Encoder, Message, SyncId, Version};
//! # let datagram = b"\x00\x07\x00\x2c\x01\x01\x00\x00\x00\x06\x00\x24\x00\x00\x01\x83\x00\x04\x9c\x41\
//! #     \x00\x50\x00\x50\x00\x00\x00\x00\x00\x00\x00\x78\x0a\x32\x01\x01\x0a\x07\x00\x01\x0a\x03\x00\x01";
//! // `datagram` came from a socket; our own syncid is 7.
//! let message = Message::decode(datagram, SyncId(7))?;
//! let mut buffer = [0; 1472];
//! let mut copy = Encoder::new(&mut buffer, Version::V1, SyncId(7), 1472);
//! for record in message.records() {
//!     let record = record?;
//!     assert_eq!(record.state_name(), Some("FIN_WAIT"));
//!     assert!(record.flags.contains(ConnFlags::INACTIVE));
//!     copy.push(&record)?;
//! }
//! assert_eq!(copy.finish().unwrap(), datagram);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # The message
//!
//! Version 1 begins with eight bytes:
//!
//! | offset | size | field | |
//! |---|---|---|---|
//! | 0 | 1 | reserved | 0, so that version 0 counts no records |
//! | 1 | 1 | syncid | of the sender |
//! | 2 | 2 | size | of the whole payload, big-endian |
//! | 4 | 1 | count | of records |
//! | 5 | 1 | version | 1 |
//! | 6 | 2 | spare | 0 |
//!
//! Version 0 has four: count (not 0), syncid, size. A receiver takes for version 1 what has 1 as version and zeros as
//! reserved and spare, and **everything else** for version 0: a message of a later version then holds no records.
//!
//! What stands behind the last record is counted in the size and read by nobody: [`Message::trailer`] and
//! [`Encoder::with_trailer`] are for what peers agree on beyond the protocol.
//!
//! # The record of version 1
//!
//! | offset | size | field | |
//! |---|---|---|---|
//! | 0 | 1 | type | 0: IPv4; bit 0 set: IPv6 |
//! | 1 | 1 | protocol | IP protocol number; 0 in templates of a firewall mark |
//! | 2 | 2 | ver_size | upper 4 bits: version of the record, 0; lower 12: its length with parameters, without padding |
//! | 4 | 4 | flags | [`ConnFlags`] |
//! | 8 | 2 | state | see [`Record::state_name`] |
//! | 10 | 2 | client port | |
//! | 12 | 2 | virtual port | |
//! | 14 | 2 | server port | |
//! | 16 | 4 | fwmark | 0: none |
//! | 20 | 4 | timeout | seconds; 0: the receiver's own |
//! | 24 | 4 or 16 | client address | |
//! | 28 or 40 | 4 or 16 | virtual address | in templates of a firewall mark: the mark, then zeros |
//! | 32 or 56 | 4 or 16 | server address | |
//! | 36 or 72 | | parameters | |
//!
//! All numbers are big-endian. Records begin at multiples of 4 from the beginning of the message; zeros fill up what is
//! missing, but for none behind the last record.
//!
//! A parameter is a byte of type, a byte of length (not 0) and the data, without alignment. Bit 0x40 of the type says
//! that who does not know the type may skip the parameter; [`OptionalParameters`] are those.
//!
//! | type | data |
//! |---|---|
//! | 1 | sequence data, 24 bytes: [`SequenceShifts`], the six numbers in the order of the fields |
//! | 2 | engine data, 1 to 255 bytes |
//! | 3 | engine name, 1 to 16 bytes, no terminating zero |
//!
//! # The record of version 0
//!
//! | offset | size | field |
//! |---|---|---|
//! | 0 | 1 | reserved |
//! | 1 | 1 | protocol |
//! | 2 | 2 | client port |
//! | 4 | 2 | virtual port |
//! | 6 | 2 | server port |
//! | 8 | 4 | client address |
//! | 12 | 4 | virtual address |
//! | 16 | 4 | server address |
//! | 20 | 2 | flags, the lower 16 bits |
//! | 22 | 2 | state |
//! | 24 | 24 | sequence data, only if the [flags](ConnFlags::SEQUENCE) say so; **in the byte order of the sender's machine** |
//!
//! Records follow each other without padding. There is no IPv6, no timeout, no mark, no engine.
//!
//! # What is refused, and what goes with it
//!
//! [`MessageError`] costs the whole datagram. [`RecordError`] costs the record, or it and what follows it in the
//! datagram ([`RecordError::extent`]); what came before stays valid. Rules are tried in this order:
//!
//! | rule | error | lost |
//! |---|---|---|
//! | at least 4 bytes | [`MessageError::TooShort`] | datagram |
//! | size as received | [`MessageError::Size`] | datagram |
//! | syncid as expected, if one is | [`MessageError::SyncId`] | datagram |
//! | the fixed part of a record is there (36 bytes; version 0: 24, with sequence data 48) | [`RecordError::Truncated`] | rest |
//! | its length fits | [`RecordError::Length`] | rest |
//! | version of the record 0 | [`RecordError::Version`] | rest |
//! | type IPv4 or IPv6 | [`RecordError::Type`] | rest |
//! | length not below that of the fixed part | [`RecordError::BelowFixedPart`] | rest |
//! | of each parameter: type and length are there | [`RecordError::ParameterTruncated`] | rest |
//! | length not 0, and the data is there | [`RecordError::ParameterLength`] | rest |
//! | sequence data has 24 bytes, an engine's name at most 16 | [`RecordError::ParameterLength`] | rest |
//! | sequence data, engine data and name once each | [`RecordError::ParameterTwice`] | rest |
//! | type known, or optional | [`RecordError::ParameterUnknown`] | record; what follows the parameter is not read |
//! | flags: no template without a client port | [`RecordError::TemplateWithoutPort`] | record |
//! | flags: not one-packet | [`RecordError::OnePacket`] | record |
//! | not a template: protocol TCP, UDP, SCTP, AH or ESP | [`RecordError::Protocol`] | record |
//! | state one of the protocol's, or of templates | [`RecordError::State`] | record |
//! | engine data has a name with it (a name alone is ignored) | [`RecordError::EngineUnnamed`] | record |
//!
//! One rule is left to the receiver: a record with an [`Engine`] that it does not have is to be skipped. Names count to
//! the letter.

#![cfg_attr(not(test), no_std)]
#![forbid(unsafe_code)]

pub mod capture;

mod encoder;
mod error;
mod fixed;
mod flags;
mod header;
mod message;
mod parameter;
mod record;
mod states;
mod v0;
mod v1;

pub use encoder::{Draft, EncodeError, Encoder};
pub use error::{Extent, Field, MessageError, RecordError};
pub use flags::ConnFlags;
pub use header::{SyncId, Version};
pub use message::{Message, Records};
pub use parameter::{OptionalParameters, Parameter};
pub use record::{Addresses, Engine, Parties, Record, SequenceShift, SequenceShifts};
pub use states::state_name;

/// The UDP port of the first sync thread unless configured; each further thread (up to 64) has the next one.
pub const DEFAULT_PORT: u16 = 8848;

/// The examples of README.md, compiled.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
