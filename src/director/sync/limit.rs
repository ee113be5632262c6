//! What waits while a master may not send as much as it has to tell: a record for each entry, the last one, and by what
//! is sent of them first. The kernel has no such limit.
//!
//! News comes before what is only repeated: of an entry that nobody was told of, or of another state. Within both, the
//! entry that waits longest comes first. What waits is bounded: where there is no room, what is repeated is left out
//! before news is, and what came last before what came first. An entry that is left out is told of with its next record.

use super::MasterSettings;
use super::counters::{Counters, Unsent};
use super::master::{FLUSH_AFTER, Open};
use crate::director::Time;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::num::NonZeroU32;
use sync_proto::{EncodeError, Engine, OptionalParameters, Record, Version};

/// The most records that wait for a port, some 30 MB.
const MOST: usize = 65_536;
/// The shortest record of version 1.
const SHORTEST: usize = 36;
/// What a token is divided into: one is worth a message.
const TOKEN: u64 = 1000;
/// The part of a second whose messages may go at once.
const BURST: u64 = 20;

/// Why a record is told; what is told first is less.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(in crate::director) enum Urgency {
    /// Nobody was told of the entry, or it has another state.
    News,
    /// It is told again.
    Repeated,
}

/// Tokens of messages: so many come in a second, and a twentieth of that, one at least, can be saved up.
#[derive(Debug)]
pub(super) struct Bucket {
    rate: u64,
    tokens: u64,
    filled: Time,
}

impl Bucket {
    /// A full one, of so many messages a second.
    pub(super) fn new(rate: NonZeroU32) -> Bucket {
        let rate = u64::from(rate.get());
        Bucket { rate, tokens: Bucket::room(rate), filled: Time::ZERO }
    }

    /// Takes the token of a message, if there is one.
    pub(super) fn take(&mut self, now: Time) -> bool {
        // A thousandth of a second brings a thousandth of the rate.
        let millis = now.as_millis().saturating_sub(self.filled.as_millis());
        self.tokens =
            self.tokens.saturating_add(millis.saturating_mul(self.rate)).min(Bucket::room(self.rate));
        self.filled = self.filled.max(now);
        let left = self.tokens.checked_sub(TOKEN);
        self.tokens = left.unwrap_or(self.tokens);
        left.is_some()
    }

    fn room(rate: u64) -> u64 {
        (rate * TOKEN / BURST).max(TOKEN)
    }
}

/// The records that wait for one port.
#[derive(Debug, Default)]
pub(super) struct Backlog {
    waiting: BTreeMap<Place, Waiting>,
    places: BTreeMap<Entry, Place>,
    /// The number of the last record that came to wait.
    number: u64,
    /// When the first one came, or the last message was made.
    since: Option<Time>,
}

/// By what records are sent.
type Place = (Urgency, u64);

/// What tells an entry from others.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Entry {
    protocol: u8,
    is_template: bool,
    client: SocketAddr,
    virtual_address: SocketAddr,
    engine: Option<Box<[u8]>>,
}

impl Entry {
    fn of(record: &Record<'_>) -> Entry {
        let addresses = record.addresses;
        Entry {
            protocol: record.protocol,
            is_template: record.is_template(),
            client: SocketAddr::new(addresses.client(), record.client_port),
            virtual_address: SocketAddr::new(addresses.vip(), record.virtual_port),
            engine: record.engine.map(|engine| engine.data.into()),
        }
    }
}

/// An engine's name, and what it goes by.
type OwnedEngine = (Box<[u8]>, Box<[u8]>);

/// A record that waits.
#[derive(Debug)]
struct Waiting {
    version: Version,
    /// Without its engine.
    record: Record<'static>,
    engine: Option<OwnedEngine>,
}

impl Waiting {
    fn new(version: Version, record: &Record<'_>) -> Waiting {
        let engine = record.engine.map(|Engine { name, data }| (name.into(), data.into()));
        let record = Record { engine: None, optional: OptionalParameters::default(), ..*record };
        Waiting { version, record, engine }
    }

    fn record(&self) -> Record<'_> {
        let engine = self.engine.as_ref().map(|(name, data)| Engine { name, data });
        Record { engine, ..self.record }
    }
}

impl Backlog {
    /// How many records a full message has, at most.
    pub(super) fn records_a_message(settings: &MasterSettings) -> usize {
        (settings.max_len.saturating_sub(8 + settings.trailer) / SHORTEST).clamp(1, 255)
    }

    /// Has a record wait, in place of another one of its entry. At most what `queue_len` messages hold waits. How many
    /// wait then, if there are more than before.
    pub(super) fn push(
        &mut self,
        now: Time,
        (version, queue_len): (Version, usize),
        (urgency, record): (Urgency, &Record<'_>),
        settings: &MasterSettings,
        counters: &Counters,
    ) -> Option<usize> {
        let (entry, new) = (Entry::of(record), Waiting::new(version, record));
        if let Some(&place) = self.places.get(&entry) {
            counters.note_unsent(Unsent::Coalesced);
            // Where it waited, or where news does that it has become.
            let next = if urgency < place.0 { (urgency, self.next_number()) } else { place };
            self.waiting.remove(&place);
            self.waiting.insert(next, new);
            self.places.insert(entry, next);
            return None;
        }
        let most = queue_len.saturating_mul(Backlog::records_a_message(settings)).min(MOST);
        let is_full = self.waiting.len() >= most;
        if is_full {
            counters.note_unsent(Unsent::RateLimited);
            let last = self.waiting.last_key_value().map(|(&place, _)| place);
            let last = last.filter(|(least, _)| urgency < *least)?;
            self.remove(last);
        }
        let place = (urgency, self.next_number());
        self.waiting.insert(place, new);
        self.places.insert(entry, place);
        self.since.get_or_insert(now);
        (!is_full).then_some(self.waiting.len())
    }

    /// Whether a message is to be sent: a full one, or one whose first record is old enough.
    pub(super) fn is_ready(&self, now: Time, settings: &MasterSettings) -> bool {
        let is_old = |since: Time| now.since(since) >= FLUSH_AFTER;
        self.waiting.len() >= Backlog::records_a_message(settings) || self.since.is_some_and(is_old)
    }

    /// The next message, of those that are to be sent first.
    pub(super) fn message(
        &mut self,
        now: Time,
        settings: &MasterSettings,
        counters: &Counters,
    ) -> Option<Vec<u8>> {
        let version = self.waiting.first_key_value()?.1.version;
        let mut open = Open::new(settings, version, now);
        while let Some((&place, first)) = self.waiting.first_key_value()
            && first.version == version
        {
            match open.push(&first.record()) {
                Ok(()) => counters.sent_records.add(1),
                Err(EncodeError::Full) => break,
                Err(_) => counters.note_unsent(Unsent::Refused),
            }
            self.remove(place);
        }
        self.since = (!self.waiting.is_empty()).then_some(now);
        open.finish()
    }

    fn remove(&mut self, place: Place) {
        if let Some(removed) = self.waiting.remove(&place) {
            self.places.remove(&Entry::of(&removed.record()));
        }
    }

    fn next_number(&mut self) -> u64 {
        self.number += 1;
        self.number
    }
}

#[cfg(test)]
mod tests;
