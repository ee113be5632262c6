//! The sending half: records are written into one open message for each port, and full ones wait there to be taken
//! (`ip_vs_sync_conn`, `sb_queue_tail`, `get_curr_sync_buff` of `ip_vs_sync.c`).

use super::counters::{Counters, Unsent};
use super::limit::{Backlog, Bucket, Urgency};
use super::{MasterSettings, Wake};
use crate::director::Time;
use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use sync_proto::{Draft, EncodeError, Encoder, Record, Version};

/// How old an open message gets before it goes as it is (`IPVS_SYNC_FLUSH_TIME`).
pub(super) const FLUSH_AFTER: Duration = Duration::from_secs(2);
/// What any message has room for, whatever the length that messages shall have: a header and the longest record that
/// is sent, of IPv6 with sequence data, 255 bytes of engine data and an engine's name of 16.
const LEAST_ROOM: usize = 8 + 373;

/// A master that runs. Its ports are the last locks that are taken: nothing else is locked inside one.
#[derive(Debug)]
pub(super) struct Master {
    settings: MasterSettings,
    wake: Arc<dyn Wake>,
    ports: Box<[Mutex<Port>]>,
    /// Bounds what is taken, if anything does; inside a port's lock.
    bucket: Option<Mutex<Bucket>>,
}

/// What waits for one port.
#[derive(Debug, Default)]
struct Port {
    open: Option<Open>,
    queue: VecDeque<Vec<u8>>,
    /// What waits in place of messages where a rate bounds these.
    backlog: Backlog,
    /// How many messages were queued since some were taken.
    waiting: usize,
}

/// A message that has room left.
#[derive(Debug)]
pub(super) struct Open {
    buffer: Vec<u8>,
    draft: Draft,
    since: Time,
}

impl Open {
    pub(super) fn new(settings: &MasterSettings, version: Version, now: Time) -> Open {
        let room = settings.max_len.max(LEAST_ROOM + settings.trailer).min(usize::from(u16::MAX));
        let draft = Draft::new(version, settings.syncid, settings.max_len).with_trailer(settings.trailer);
        Open { buffer: vec![0; room], draft, since: now }
    }

    pub(super) fn push(&mut self, record: &Record<'_>) -> Result<(), EncodeError> {
        let mut encoder = Encoder::resume(&mut self.buffer, self.draft);
        let pushed = encoder.push(record);
        self.draft = encoder.pause();
        pushed
    }

    /// The message; none if there is no record in it.
    pub(super) fn finish(mut self) -> Option<Vec<u8>> {
        let len = Encoder::resume(&mut self.buffer, self.draft).finish()?.len();
        self.buffer.truncate(len);
        Some(self.buffer)
    }
}

impl Master {
    pub(super) fn new(settings: MasterSettings, wake: Arc<dyn Wake>) -> Master {
        let ports = settings.ports.clamp(1, MasterSettings::MAX_PORTS);
        let bucket = settings.rate.map(|rate| Mutex::new(Bucket::new(rate)));
        Master { ports: (0..ports).map(|_| Mutex::default()).collect(), settings, wake, bucket }
    }

    /// Writes a record into the open message of the port that `hash` leads to. At most `queue_len` messages wait there;
    /// what is full while as many do is discarded.
    pub(super) fn push(
        &self,
        now: Time,
        (version, queue_len): (Version, usize),
        hash: u64,
        (urgency, record): (Urgency, &Record<'_>),
        counters: &Counters,
    ) {
        let index = hash as usize % self.ports.len();
        let mut port = self.lock(index);
        if self.bucket.is_some() {
            let form = (version, queue_len);
            let waiting = port.backlog.push(now, form, (urgency, record), &self.settings, counters);
            let is_whole =
                |waiting: &usize| waiting.is_multiple_of(Backlog::records_a_message(&self.settings));
            let waiting = waiting.filter(is_whole).map(|_| port.count());
            drop(port);
            if let Some(waiting) = waiting {
                self.wake.queued(index, waiting);
            }
            return;
        }
        let mut waiting = None;
        let of_other_version = port.open.take_if(|open| open.draft.version() != version);
        if let Some(closed) = of_other_version {
            waiting = port.queue(closed, queue_len, counters);
        }
        let open = port.open.get_or_insert_with(|| Open::new(&self.settings, version, now));
        let mut pushed = open.push(record);
        if pushed == Err(EncodeError::Full) {
            let mut next = Open::new(&self.settings, version, now);
            pushed = next.push(record);
            let closed = std::mem::replace(open, next);
            waiting = port.queue(closed, queue_len, counters).or(waiting);
        }
        drop(port);
        match pushed {
            Ok(()) => counters.sent_records.add(1),
            Err(_) => counters.note_unsent(Unsent::Refused),
        }
        if let Some(waiting) = waiting {
            self.wake.queued(index, waiting);
        }
    }

    /// The oldest messages of a port, `enough` at most, and the open one behind them if it is old enough.
    pub(super) fn take(&self, now: Time, port: usize, enough: usize, counters: &Counters) -> Vec<Vec<u8>> {
        if port >= self.ports.len() {
            return Vec::new();
        }
        let mut port = self.lock(port);
        port.waiting = 0;
        if let Some(bucket) = &self.bucket {
            let mut bucket = bucket.lock().unwrap_or_else(PoisonError::into_inner);
            let mut taken = Vec::new();
            while taken.len() < enough && port.backlog.is_ready(now, &self.settings) && bucket.take(now) {
                taken.extend(port.backlog.message(now, &self.settings, counters));
            }
            counters.sent_messages.add(taken.len() as u64);
            return taken;
        }
        let count = enough.min(port.queue.len());
        let mut taken: Vec<Vec<u8>> = port.queue.drain(..count).collect();
        if taken.len() < enough {
            let is_old = |open: &mut Open| now.since(open.since) >= FLUSH_AFTER;
            taken.extend(port.open.take_if(is_old).and_then(Open::finish));
        }
        counters.sent_messages.add(taken.len() as u64);
        taken
    }

    /// Whether the rate keeps messages of a port back.
    pub(super) fn holds(&self, now: Time, port: usize) -> bool {
        self.bucket.is_some()
            && port < self.ports.len()
            && self.lock(port).backlog.is_ready(now, &self.settings)
    }

    fn lock(&self, port: usize) -> MutexGuard<'_, Port> {
        self.ports[port].lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Port {
    /// Queues a message, if there is one and the queue has room. How many wait then.
    fn queue(&mut self, closed: Open, queue_len: usize, counters: &Counters) -> Option<usize> {
        let message = closed.finish()?;
        if self.queue.len() >= queue_len {
            counters.discarded.add(1);
            return None;
        }
        self.queue.push_back(message);
        Some(self.count())
    }

    /// One more waits. How many do then.
    fn count(&mut self) -> usize {
        self.waiting += 1;
        self.waiting
    }
}

#[cfg(test)]
mod tests;
