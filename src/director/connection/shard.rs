//! One shard of the connection table.

use super::arena::Arena;
use super::drop_entry::{Age, DropEntry, Worth};
use super::index::Index;
use super::templates::{EXTENSION, extended};
use super::wheel::{Timed, Timer, Wheel};
use super::{Connection, ConnectionView, InboundKey, OutboundKey};
use crate::director::{TableHasher, Time};
use std::hash::{BuildHasher, Hash};
use std::net::SocketAddr;
use sync_proto::ConnFlags;

/// Names an entry while the shard stays locked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Handle(u32);

/// The connections of some clients.
#[derive(Debug)]
pub struct Shard {
    arena: Arena<Entry>,
    inbound: Index,
    outbound: Index,
    wheel: Wheel,
    hasher: TableHasher,
    /// Connections whose clients' ports are not known yet (`ip_vs_conn_no_cport_cnt`).
    expected: usize,
}

#[derive(Debug)]
struct Entry {
    connection: Connection,
    timer: Timer,
}

impl Entry {
    /// When it ends if no packets come and the connections that it controls go on.
    fn end(&self, now: Time) -> Time {
        let deadline = self.timer.deadline();
        let overdue = deadline <= now && self.connection.controls() > 0;
        if overdue { extended(deadline, now) } else { deadline }
    }
}

impl Timed for Entry {
    fn timer(&self) -> &Timer {
        &self.timer
    }
    fn timer_mut(&mut self) -> &mut Timer {
        &mut self.timer
    }
}

impl Shard {
    pub(super) fn new(hasher: TableHasher) -> Shard {
        Shard {
            arena: Arena::new(),
            inbound: Index::default(),
            outbound: Index::default(),
            wheel: Wheel::new(),
            hasher,
            expected: 0,
        }
    }

    /// The number of connections.
    pub fn len(&self) -> usize {
        self.arena.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The connection of a client's packet. One whose time is over counts as absent.
    pub fn find_inbound(&self, key: &InboundKey, now: Time) -> Option<Handle> {
        self.indexed_inbound(self.hash(key), key).filter(|handle| self.is_alive(*handle, now))
    }

    /// The connection that waits for this client, from whatever port it comes.
    pub fn find_expected(&self, key: &InboundKey, now: Time) -> Option<Handle> {
        if self.expected == 0 {
            return None;
        }
        let client = SocketAddr::new(key.client.ip(), 0);
        let handle = self.find_inbound(&InboundKey { client, ..*key }, now)?;
        self.get(handle).flags.contains(ConnFlags::NO_CPORT).then_some(handle)
    }

    /// The connection of a server's packet. One whose time is over counts as absent.
    pub fn find_outbound(&self, key: &OutboundKey, now: Time) -> Option<Handle> {
        self.indexed_outbound(self.hash(key), key).filter(|handle| self.is_alive(*handle, now))
    }

    /// Files a new connection. Entries of the same keys whose time is over give way; a live one must not exist.
    pub(super) fn insert(
        &mut self,
        connection: Connection,
        now: Time,
        mut removed: impl FnMut(Connection),
    ) -> Handle {
        let (inbound, outbound) = (connection.inbound_key(), connection.outbound_key());
        let hashes = [self.hash(&inbound), self.hash(&outbound)];
        let stale = [self.indexed_inbound(hashes[0], &inbound), self.indexed_outbound(hashes[1], &outbound)];
        if let Some(entry) = stale[0] {
            removed(self.take(entry));
        }
        if let Some(entry) = stale[1].filter(|entry| stale[0] != Some(*entry)) {
            removed(self.take(entry));
        }
        let deadline = now + connection.timeout();
        self.expected += usize::from(connection.flags.contains(ConnFlags::NO_CPORT));
        let entry = self.arena.insert(Entry { connection, timer: Timer::unfiled() });
        self.inbound.insert(hashes[0], entry);
        self.outbound.insert(hashes[1], entry);
        self.wheel.insert(&mut self.arena, entry, deadline);
        Handle(entry)
    }

    /// The connection.
    pub fn get(&self, handle: Handle) -> &Connection {
        &self.arena.get(handle.0).connection
    }

    /// The connection, to change its state. Its keys cannot change, nor whether its client's port is known.
    pub fn get_mut(&mut self, handle: Handle) -> &mut Connection {
        &mut self.arena.get_mut(handle.0).connection
    }

    /// Restarts the connection's timer with its timeout.
    pub fn restart_timer(&mut self, handle: Handle, now: Time) {
        let deadline = now + self.get(handle).timeout();
        self.wheel.reschedule(&mut self.arena, handle.0, deadline);
    }

    /// Takes the connection out.
    pub(super) fn take(&mut self, handle: Handle) -> Connection {
        self.wheel.remove(&mut self.arena, handle.0);
        self.forget(handle.0)
    }

    /// Takes out every connection whose time is over and that controls no other; those that do get more time, and are
    /// returned (`ip_vs_conn_expire`).
    pub(super) fn expire(&mut self, now: Time, mut removed: impl FnMut(Connection)) -> Vec<Handle> {
        let (mut due, mut extended_ones) = (Vec::new(), Vec::new());
        self.wheel.sweep(&mut self.arena, now, |_, entry| due.push(entry));
        for entry in due {
            let found = self.arena.get_mut(entry);
            if found.connection.controls() > 0 {
                let deadline = extended(found.timer.deadline(), now);
                found.connection.set_timeout(EXTENSION);
                self.wheel.insert(&mut self.arena, entry, deadline);
                extended_ones.push(Handle(entry));
            } else {
                removed(self.forget(entry));
            }
        }
        extended_ones
    }

    /// Takes out every connection whose server was removed.
    pub(super) fn take_orphans(&mut self) -> Vec<Connection> {
        let is_orphan = |entry: &u32| !self.get(Handle(*entry)).server.is_available();
        let orphans: Vec<u32> = self.arena.indices().filter(is_orphan).collect();
        orphans.into_iter().map(|entry| self.take(Handle(entry))).collect()
    }

    /// How many parts there are, of 256 entries at most, for who does not want to be held up by the whole shard.
    pub(super) fn parts(&self) -> usize {
        self.arena.chunks()
    }

    /// Takes out of one part what is dropped under attack.
    pub(super) fn take_dropped(&mut self, part: usize, choice: &mut DropEntry, now: Time) -> Vec<Connection> {
        let is_dropped = |entry: &u32| {
            let Entry { connection, timer } = self.arena.get(*entry);
            let age = Age {
                timeout: connection.timeout(),
                deadline: timer.deadline(),
                packets: connection.packets(),
            };
            choice.drops(worth(connection), age, now)
        };
        let dropped: Vec<u32> = self.arena.indices_of(part).filter(is_dropped).collect();
        dropped.into_iter().map(|entry| self.take(Handle(entry))).collect()
    }

    /// Takes out the half-open connection that has been silent for longest, in the part that `choice` leads to: who is
    /// about to answer is not among the oldest of many.
    pub(super) fn take_half_open(&mut self, choice: u64) -> Option<Connection> {
        let part = (choice as usize).checked_rem(self.parts())?;
        let is_half_open = |entry: &u32| worth(self.get(Handle(*entry))) == Worth::Nothing;
        let deadline = |entry: &u32| self.arena.get(*entry).timer.deadline();
        let oldest = self.arena.indices_of(part).filter(is_half_open).min_by_key(deadline)?;
        Some(self.take(Handle(oldest)))
    }

    /// The connections of one part whose time is not over.
    pub fn living(&self, part: usize, now: Time) -> impl Iterator<Item = &Connection> {
        let entries = self.arena.indices_of(part).map(|entry| self.arena.get(entry));
        entries.filter(move |entry| entry.end(now) > now).map(|entry| &entry.connection)
    }

    /// What the shard holds, for people.
    pub(super) fn views(&self, now: Time) -> Vec<ConnectionView> {
        self.arena
            .indices()
            .map(|entry| self.arena.get(entry))
            .filter(|entry| entry.end(now) > now)
            .map(|entry| ConnectionView::new(&entry.connection, entry.end(now), now))
            .collect()
    }

    /// All connections, those included whose time is over but that were not swept yet.
    pub(super) fn iter(&self) -> impl Iterator<Item = &Connection> {
        self.arena.indices().map(|entry| self.get(Handle(entry)))
    }

    /// Checks that arena, indexes and each other agree.
    ///
    /// # Panics
    /// If they do not.
    pub fn check_invariants(&self) {
        assert_eq!(
            self.inbound.len(),
            self.arena.len(),
            "each entry is indexed once by its client's packets"
        );
        assert_eq!(
            self.outbound.len(),
            self.arena.len(),
            "each entry is indexed once by its server's packets"
        );
        let is_expected = |entry: &u32| self.get(Handle(*entry)).flags.contains(ConnFlags::NO_CPORT);
        assert_eq!(self.arena.indices().filter(is_expected).count(), self.expected);
        for entry in self.arena.indices() {
            let connection = self.get(Handle(entry));
            let inbound = connection.inbound_key();
            let outbound = connection.outbound_key();
            let found = self.indexed_inbound(self.hash(&inbound), &inbound);
            assert_eq!(found, Some(Handle(entry)));
            let found = self.indexed_outbound(self.hash(&outbound), &outbound);
            assert_eq!(found, Some(Handle(entry)));
        }
    }

    fn is_alive(&self, handle: Handle, now: Time) -> bool {
        self.arena.get(handle.0).end(now) > now
    }

    fn forget(&mut self, entry: u32) -> Connection {
        self.inbound.remove(entry);
        self.outbound.remove(entry);
        let connection = self.arena.remove(entry).connection;
        self.expected -= usize::from(connection.flags.contains(ConnFlags::NO_CPORT));
        connection
    }

    /// The connection of a client's packet, alive or not.
    fn indexed_inbound(&self, hash: u64, key: &InboundKey) -> Option<Handle> {
        let is_meant = |entry| self.arena.get(entry).connection.inbound_key() == *key;
        self.inbound.find(hash, is_meant).map(Handle)
    }

    /// The connection of a server's packet, alive or not.
    fn indexed_outbound(&self, hash: u64, key: &OutboundKey) -> Option<Handle> {
        let is_meant = |entry| self.arena.get(entry).connection.outbound_key() == *key;
        self.outbound.find(hash, is_meant).map(Handle)
    }

    fn hash(&self, key: &impl Hash) -> u64 {
        self.hasher.hash_one(key)
    }
}

/// What a connection is to the defence: one that controls others stays, as they do (`todrop_entry`).
fn worth(connection: &Connection) -> Worth {
    if connection.controls() > 0 { Worth::Much } else { Worth::of(connection.state) }
}
