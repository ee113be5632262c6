//! What synchronisation counts: what was sent and what was not, what came and what became of it.

use std::sync::atomic::{AtomicU64, Ordering};
use sync_proto::{MessageError, RecordError};

/// Gives an enum of reasons their names, and a list of all of them in the order of their counters.
macro_rules! reasons {
    ($(#[$enum_doc:meta])* $name:ident: $($(#[$doc:meta])* $variant:ident = $word:literal,)*) => {
        $(#[$enum_doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum $name { $($(#[$doc])* $variant,)* }

        impl $name {
            /// All reasons, in the order of their counters.
            pub const ALL: &[$name] = &[$($name::$variant,)*];

            /// The reason's name in statistics.
            pub const fn name(self) -> &'static str {
                match self { $($name::$variant => $word,)* }
            }
        }
    };
}

reasons! {
    /// Why a record that was due is not sent. Closed: each is counted under one of these.
    Unsent:
    /// Client and server have addresses of different families (a tunnel), and a record has one family.
    TwoFamilies = "two_families",
    /// A template of a persistence engine without a server of a service (`ip_vs_sync_conn`).
    EngineUnbound = "engine_unbound",
    /// The encoder refuses it: receivers would, or no message has room for it.
    Refused = "refused",
    /// There was no room for it while others waited for the rate to allow them.
    RateLimited = "rate_limited",
    /// While it waited for that, another record of the entry came in its place.
    Coalesced = "coalesced",
}

reasons! {
    /// Why a datagram or a record that came has no effect. Closed: each is counted under one of these.
    Rejection:
    /// A datagram that does not even hold a header.
    TooShort = "too_short",
    /// A datagram of another size than its header says.
    Size = "size",
    /// A datagram of another group of directors.
    SyncId = "syncid",
    /// The message ends within the fixed part of a record, which costs what is left of it.
    Truncated = "truncated",
    /// A record is longer than what is left of the message, which is lost.
    Length = "length",
    /// Another version of the record than 0, which costs what is left of the message.
    Version = "version",
    /// A record neither of IPv4 nor of IPv6, which costs what is left of the message.
    Type = "type",
    /// A record shorter than its fixed part, which costs what is left of the message.
    BelowFixedPart = "below_fixed_part",
    /// A parameter without a length, which costs what is left of the message.
    ParameterTruncated = "parameter_truncated",
    /// A parameter of a wrong length, which costs what is left of the message.
    ParameterLength = "parameter_length",
    /// A parameter that may stand once, and stands twice, which costs what is left of the message.
    ParameterTwice = "parameter_twice",
    /// A parameter that is neither known nor optional.
    ParameterUnknown = "parameter_unknown",
    /// A template whose client's port is not known.
    TemplateWithoutPort = "template_without_port",
    /// A connection for one packet.
    OnePacket = "one_packet",
    /// A connection of a protocol that IPVS does not balance.
    Protocol = "protocol",
    /// A state that the protocol does not have.
    State = "state",
    /// Data for a persistence engine without the engine's name.
    EngineUnnamed = "engine_unnamed",
    /// A persistence engine that is not there.
    EngineUnknown = "engine_unknown",
    /// A connection of AH or ESP: those follow the connection of the key exchange here, and have none of their own.
    Ipsec = "ipsec",
    /// A connection whose client's port is 0 without the flag that says so, or the other way round.
    ClientPort = "client_port",
    /// A template of a client's port, of a protocol that is not balanced, or of a mark that no service can have.
    Template = "template",
    /// Late news of a connection that another has replaced.
    Stale = "stale",
    /// The table is full.
    TableFull = "table_full",
    /// Every port that could stand in for the client's towards a shared server is taken.
    PortsExhausted = "ports_exhausted",
}

impl From<MessageError> for Rejection {
    fn from(error: MessageError) -> Rejection {
        match error {
            MessageError::TooShort { .. } => Rejection::TooShort,
            MessageError::Size { .. } => Rejection::Size,
            MessageError::SyncId { .. } => Rejection::SyncId,
        }
    }
}

impl From<RecordError> for Rejection {
    fn from(error: RecordError) -> Rejection {
        match error {
            RecordError::Truncated { .. } => Rejection::Truncated,
            RecordError::Length { .. } => Rejection::Length,
            RecordError::Version(_) => Rejection::Version,
            RecordError::Type(_) => Rejection::Type,
            RecordError::BelowFixedPart { .. } => Rejection::BelowFixedPart,
            RecordError::ParameterTruncated { .. } => Rejection::ParameterTruncated,
            RecordError::ParameterLength { .. } => Rejection::ParameterLength,
            RecordError::ParameterTwice { .. } => Rejection::ParameterTwice,
            RecordError::ParameterUnknown { .. } => Rejection::ParameterUnknown,
            RecordError::TemplateWithoutPort => Rejection::TemplateWithoutPort,
            RecordError::OnePacket => Rejection::OnePacket,
            RecordError::Protocol(_) => Rejection::Protocol,
            RecordError::State { .. } => Rejection::State,
            RecordError::EngineUnnamed => Rejection::EngineUnnamed,
        }
    }
}

/// What became of a datagram that came to a backup.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SyncOutcome {
    /// No backup runs; nothing was looked at.
    NotRunning,
    /// The datagram is no message for this backup; nothing of it was applied.
    Refused(MessageError),
    /// Its records were looked at one by one.
    Applied(Applied),
}

/// What became of the records of one message. A message has 255 at most.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Applied {
    /// Records that made an entry.
    pub created: u8,
    /// Records of an entry that was there.
    pub updated: u8,
    /// Records that put an entry in place of one to another server.
    pub replaced: u8,
    /// Records of a table about an entry of which more is known.
    pub known: u8,
    /// Records that had no effect. What was lost behind one of them is not counted.
    pub rejected: u8,
}

/// What has been counted since the director was made, whether or not master and backup run now.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SyncCounters {
    /// What was sent.
    pub master: MasterCounters,
    /// What came.
    pub backup: BackupCounters,
}

/// What a master has counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MasterCounters {
    /// Messages that were taken to be sent.
    pub messages: u64,
    /// Records that were written into messages.
    pub records: u64,
    /// Messages that were discarded because the queue was full.
    pub discarded: u64,
    unsent: [u64; Unsent::ALL.len()],
}

impl MasterCounters {
    /// Records that were due and not sent, for this reason.
    pub const fn unsent(&self, reason: Unsent) -> u64 {
        self.unsent[reason as usize]
    }
}

/// What a backup has counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BackupCounters {
    /// Datagrams that were messages for it.
    pub messages: u64,
    /// Records in them, as far as they could be told apart.
    pub records: u64,
    /// Records that made an entry.
    pub created: u64,
    /// Records of an entry that was there.
    pub updated: u64,
    /// Records that put an entry in place of one to another server.
    pub replaced: u64,
    /// Of those that made an entry, in place of another or not: those for which no service had the server.
    pub unbound: u64,
    rejected: [u64; Rejection::ALL.len()],
}

impl BackupCounters {
    /// Datagrams or records that had no effect, for this reason.
    pub const fn rejected(&self, reason: Rejection) -> u64 {
        self.rejected[reason as usize]
    }
}

/// One counter.
#[derive(Debug, Default)]
pub(super) struct Counter(AtomicU64);

impl Counter {
    pub(super) fn add(&self, count: u64) {
        self.0.fetch_add(count, Ordering::Relaxed);
    }

    fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// The counters, for those who count.
#[derive(Debug, Default)]
pub(super) struct Counters {
    pub(super) sent_messages: Counter,
    pub(super) sent_records: Counter,
    pub(super) discarded: Counter,
    unsent: [Counter; Unsent::ALL.len()],
    pub(super) messages: Counter,
    records: Counter,
    created: Counter,
    updated: Counter,
    replaced: Counter,
    pub(super) unbound: Counter,
    rejected: [Counter; Rejection::ALL.len()],
}

impl Counters {
    pub(super) fn note_unsent(&self, reason: Unsent) {
        self.unsent[reason as usize].add(1);
    }

    pub(super) fn note_rejection(&self, reason: Rejection) {
        self.rejected[reason as usize].add(1);
    }

    pub(super) fn note_applied(&self, applied: Applied) {
        let Applied { created, updated, replaced, known, rejected } = applied;
        let counts = [created, updated, replaced, known, rejected].map(u64::from);
        self.records.add(counts.iter().sum());
        for (counter, count) in [&self.created, &self.updated, &self.replaced].into_iter().zip(counts) {
            counter.add(count);
        }
    }

    pub(super) fn snapshot(&self) -> SyncCounters {
        SyncCounters {
            master: MasterCounters {
                messages: self.sent_messages.get(),
                records: self.sent_records.get(),
                discarded: self.discarded.get(),
                unsent: self.unsent.each_ref().map(Counter::get),
            },
            backup: BackupCounters {
                messages: self.messages.get(),
                records: self.records.get(),
                created: self.created.get(),
                updated: self.updated.get(),
                replaced: self.replaced.get(),
                unbound: self.unbound.get(),
                rejected: self.rejected.each_ref().map(Counter::get),
            },
        }
    }
}
