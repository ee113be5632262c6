//! Why a message or a record is refused, and how much goes with it.

use crate::SyncId;
use core::fmt;

/// Why a whole datagram is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MessageError {
    /// Not even a header.
    TooShort {
        /// Bytes of the datagram.
        received: usize,
    },
    /// The size in the header is not that of the datagram: truncated, or no message.
    Size {
        /// The header's.
        stated: u16,
        /// Bytes of the datagram.
        received: usize,
    },
    /// Of another group of directors.
    SyncId {
        /// The receiver's.
        own: SyncId,
        /// The message's.
        theirs: SyncId,
    },
}

impl fmt::Display for MessageError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            MessageError::TooShort { received } => write!(f, "header: {received} bytes, at least 4"),
            MessageError::Size { stated, received } => {
                write!(f, "size: {stated}, but the datagram has {received} bytes")
            }
            MessageError::SyncId { own: SyncId(own), theirs: SyncId(theirs) } => {
                write!(f, "syncid: {theirs}, not {own}")
            }
        }
    }
}

impl core::error::Error for MessageError {}

/// Why a record is refused. [`extent`](RecordError::extent) says what is lost with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RecordError {
    /// The message ends within the fixed part.
    Truncated {
        /// The first field that is not whole.
        field: Field,
        /// Bytes from the record's beginning to the message's end.
        left: usize,
    },
    /// The message ends before the record does.
    Length {
        /// The record's, in `ver_size`.
        stated: u16,
        /// Bytes from the record's beginning to the message's end.
        left: usize,
    },
    /// The version of the record, in `ver_size`, is not 0.
    Version(u8),
    /// Neither IPv4 nor IPv6.
    Type(u8),
    /// The record is stated to be shorter than its fixed part.
    BelowFixedPart {
        /// The record's length, in `ver_size`.
        stated: u16,
        /// The length of the fixed part for the record's type.
        fixed: u16,
    },
    /// The record ends behind the type of a parameter.
    ParameterTruncated {
        /// The type, as it stands there.
        kind: u8,
    },
    /// The length of a parameter is 0, passes the record's end, or is wrong for the type.
    ParameterLength {
        /// The type, as it stands there.
        kind: u8,
        /// The length, as it stands there.
        stated: u8,
        /// Bytes behind it in the record.
        left: usize,
    },
    /// Sequence data, engine data or engine name a second time.
    ParameterTwice {
        /// The type, as it stands there.
        kind: u8,
    },
    /// A parameter that is neither known nor optional.
    ParameterUnknown {
        /// The type, as it stands there.
        kind: u8,
    },
    /// The flags say both: a template, and that the client's port is unknown.
    TemplateWithoutPort,
    /// The flags say that the connection is for one packet.
    OnePacket,
    /// A connection of a protocol that is not balanced.
    Protocol(u8),
    /// No state of the protocol, or none of a template.
    State {
        /// What the state is of; none: a template.
        protocol: Option<u8>,
        /// The state, as it stands there.
        state: u16,
    },
    /// Data for a persistence engine without the engine's name.
    EngineUnnamed,
}

impl RecordError {
    /// What is lost.
    pub const fn extent(&self) -> Extent {
        match self {
            RecordError::Truncated { .. }
            | RecordError::Length { .. }
            | RecordError::Version(_)
            | RecordError::Type(_)
            | RecordError::BelowFixedPart { .. }
            | RecordError::ParameterTruncated { .. }
            | RecordError::ParameterLength { .. }
            | RecordError::ParameterTwice { .. } => Extent::Rest,
            RecordError::ParameterUnknown { .. }
            | RecordError::TemplateWithoutPort
            | RecordError::OnePacket
            | RecordError::Protocol(_)
            | RecordError::State { .. }
            | RecordError::EngineUnnamed => Extent::Record,
        }
    }
}

impl fmt::Display for RecordError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            RecordError::Truncated { field, left } => {
                write!(f, "{field}: the message ends in it, {left} bytes into the record")
            }
            RecordError::Length { stated, left } => {
                write!(f, "ver_size: a record of {stated} bytes, but the message ends after {left}")
            }
            RecordError::Version(version) => write!(f, "ver_size: version {version} of the record, not 0"),
            RecordError::Type(kind) => write!(f, "type: {kind:#04x}, neither IPv4 nor IPv6"),
            RecordError::BelowFixedPart { stated, fixed } => {
                write!(f, "ver_size: a record of {stated} bytes, at least {fixed}")
            }
            RecordError::ParameterTruncated { kind } => {
                write!(f, "parameter {kind:#04x}: the record ends before its length")
            }
            RecordError::ParameterLength { kind, stated, left } => {
                write!(f, "parameter {kind:#04x}: a length of {stated}, with {left} bytes left")
            }
            RecordError::ParameterTwice { kind } => write!(f, "parameter {kind:#04x}: a second one"),
            RecordError::ParameterUnknown { kind } => {
                write!(f, "parameter {kind:#04x}: neither known nor optional")
            }
            RecordError::TemplateWithoutPort => f.write_str("flags: a template without a client port"),
            RecordError::OnePacket => f.write_str("flags: a one-packet connection"),
            RecordError::Protocol(protocol) => write!(f, "protocol: {protocol} is not balanced"),
            RecordError::State { protocol: Some(protocol), state } => {
                write!(f, "state: {state} is none of protocol {protocol}")
            }
            RecordError::State { protocol: None, state } => {
                write!(f, "state: {state} is none of a template")
            }
            RecordError::EngineUnnamed => f.write_str("engine data: the engine's name is missing"),
        }
    }
}

impl core::error::Error for RecordError {}

/// How much of a datagram is lost by an error in one of its records.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Extent {
    /// The record; the next one follows.
    Record,
    /// The record and all behind it.
    Rest,
}

/// The fields of a record's fixed part.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Field {
    /// Address family; in version 0, reserved.
    Type,
    /// IP protocol number.
    Protocol,
    /// Version and length of the record.
    VerSize,
    /// [`ConnFlags`](crate::ConnFlags).
    Flags,
    /// State in its protocol.
    State,
    /// Port of the client.
    ClientPort,
    /// Port of the service.
    VirtualPort,
    /// Port of the real server.
    ServerPort,
    /// Firewall mark.
    Fwmark,
    /// Timeout.
    Timeout,
    /// Address of the client.
    ClientAddress,
    /// Address of the service.
    VirtualAddress,
    /// Address of the real server.
    ServerAddress,
    /// Sequence data; in version 0 only.
    SequenceData,
}

impl Field {
    /// The first field that is not whole in `left` bytes, by where each field ends but the last.
    pub(crate) fn cut(left: usize, ends: &[(usize, Field)], last: Field) -> Field {
        ends.iter().find(|(end, _)| left < *end).map_or(last, |(_, field)| *field)
    }
}

impl fmt::Display for Field {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Field::Type => "type",
            Field::Protocol => "protocol",
            Field::VerSize => "ver_size",
            Field::Flags => "flags",
            Field::State => "state",
            Field::ClientPort => "client port",
            Field::VirtualPort => "virtual port",
            Field::ServerPort => "server port",
            Field::Fwmark => "fwmark",
            Field::Timeout => "timeout",
            Field::ClientAddress => "client address",
            Field::VirtualAddress => "virtual address",
            Field::ServerAddress => "server address",
            Field::SequenceData => "sequence data",
        })
    }
}
