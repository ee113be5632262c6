//! What lblc and lblcr remember of destinations, and when they forget it (`ip_vs_lblc.c`, `ip_vs_lblcr.c`).

use super::hash::{fold, multiplied};
use crate::director::Time;
use crate::director::service::RealServer;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

/// Bits of a bucket's number (`CONFIG_IP_VS_LBLC_TAB_BITS`).
const BITS: u32 = 10;
const BUCKETS: usize = 1 << BITS;
/// More entries than this are too many (`max_size`).
const COMFORTABLE: usize = 16 * BUCKETS;
/// With as many as this no entry is added.
const MOST: usize = COMFORTABLE * 3 / 2;
/// How often is looked what may be forgotten (`CHECK_EXPIRE_INTERVAL`).
const INTERVAL: Duration = Duration::from_secs(60);
/// Each so manieth time is for the entries that are too old (`COUNT_FOR_FULL_EXPIRATION`), the others only for too many.
const ROUNDS: u32 = 30;
/// How long an entry that is one of too many must have been of no use to go (`ENTRY_TIMEOUT`).
const SPARED: Duration = Duration::from_secs(360);

/// Something for each of many destinations.
#[derive(Debug)]
pub(super) struct Cache<T> {
    buckets: Vec<Vec<Entry<T>>>,
    entries: usize,
    /// The bucket that was looked through last.
    rover: usize,
    /// Which round comes next, from 1.
    round: u32,
    due: Option<Time>,
}

#[derive(Debug)]
struct Entry<T> {
    destination: IpAddr,
    last_use: Time,
    value: T,
}

impl<T> Default for Cache<T> {
    fn default() -> Cache<T> {
        let buckets = std::iter::repeat_with(Vec::new).take(BUCKETS).collect();
        Cache { buckets, entries: 0, rover: 0, round: 1, due: None }
    }
}

/// Where the entry of a destination is, or would be.
#[derive(Clone, Copy, Debug)]
pub(super) struct Slot {
    destination: IpAddr,
    bucket: usize,
    place: Option<usize>,
}

impl<T> Cache<T> {
    /// Finds the entry of a destination, and notes that it is of use.
    pub(super) fn visit(&mut self, destination: IpAddr, now: Time) -> Slot {
        let bucket = multiplied(fold(destination), BITS);
        let entries = &mut self.buckets[bucket];
        let place = entries.iter().position(|entry| entry.destination == destination);
        if let Some(place) = place {
            entries[place].last_use = now;
        }
        Slot { destination, bucket, place }
    }

    /// What is remembered there. The slot must be of the latest visit.
    pub(super) fn get(&mut self, slot: Slot) -> Option<&mut T> {
        Some(&mut self.buckets[slot.bucket][slot.place?].value)
    }

    /// Remembers something there, unless too much is remembered already.
    pub(super) fn put(&mut self, slot: Slot, now: Time, value: T) {
        if self.entries >= MOST {
            return;
        }
        let entry = Entry { destination: slot.destination, last_use: now, value };
        let entries = &mut self.buckets[slot.bucket];
        match slot.place {
            Some(place) => entries[place] = entry,
            None => {
                entries.push(entry);
                self.entries += 1;
            }
        }
    }

    /// What is remembered of a destination.
    #[cfg(test)]
    pub(super) fn peek(&self, destination: IpAddr) -> Option<&T> {
        let entries = &self.buckets[multiplied(fold(destination), BITS)];
        entries.iter().find(|entry| entry.destination == destination).map(|entry| &entry.value)
    }

    /// Every minute forgets what is too old, or too much. `expiration`: how long an entry of no use is kept at most.
    pub(super) fn on_tick(&mut self, now: Time, expiration: Duration) {
        let due = *self.due.get_or_insert(now + INTERVAL);
        if now < due {
            return;
        }
        self.due = Some(now + INTERVAL);
        if self.round.is_multiple_of(ROUNDS) {
            self.forget(now, expiration, usize::MAX);
            self.round = 1;
        } else if self.entries <= COMFORTABLE {
            self.round += 1;
        } else {
            // The round stays, as in the kernel: what is too old waits while there is too much.
            let goal = (self.entries - COMFORTABLE) * 4 / 3;
            self.forget(now, SPARED, goal.min(COMFORTABLE / 2));
        }
    }

    /// Goes on from the bucket that was looked through last, until `goal` entries are gone that have been of no use for
    /// `age`. The bucket in which that happens is looked through whole.
    fn forget(&mut self, now: Time, age: Duration, goal: usize) {
        let before = self.entries;
        for _ in 0..BUCKETS {
            self.rover = (self.rover + 1) % BUCKETS;
            let entries = &mut self.buckets[self.rover];
            let length = entries.len();
            entries.retain(|entry| now < entry.last_use + age);
            self.entries -= length - entries.len();
            if before - self.entries >= goal {
                break;
            }
        }
    }
}

/// Whether a server has more active connections than its weight says, while another one has less than half as many
/// (`is_overloaded`).
pub(super) fn is_busy(server: &RealServer, servers: &[Arc<RealServer>]) -> bool {
    let is_idle =
        |server: &Arc<RealServer>| u64::from(server.active_conns()) * 2 < u64::from(server.weight().get());
    server.active_conns() > server.weight().get() && servers.iter().any(is_idle)
}
