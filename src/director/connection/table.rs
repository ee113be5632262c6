//! The connection table: shards, its bound, and the counters of real servers that follow from it.

use super::{Connection, ConnectionView, Handle, Shard};
use crate::director::service::{RealServer, ServerId};
use crate::director::{TableHasher, Time};
use std::collections::HashMap;
use std::hash::BuildHasher;
use std::net::IpAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

const SHARDS: usize = 64;

/// All connections.
#[derive(Debug)]
pub struct ConnectionTable {
    shards: Box<[Mutex<Shard>]>,
    hasher: TableHasher,
    len: AtomicUsize,
    max: usize,
}

impl ConnectionTable {
    /// A table for at most `max` connections.
    pub fn new(max: usize, hasher: &TableHasher) -> ConnectionTable {
        ConnectionTable {
            shards: (0..SHARDS).map(|_| Mutex::new(Shard::new(hasher.clone()))).collect(),
            hasher: hasher.clone(),
            len: AtomicUsize::new(0),
            max,
        }
    }

    /// The number of connections.
    pub fn len(&self) -> usize {
        self.len.load(Ordering::Relaxed)
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// How many connections the table may hold.
    pub fn capacity(&self) -> usize {
        self.max
    }

    /// Locks the shard of a client.
    pub fn shard(&self, client: IpAddr) -> MutexGuard<'_, Shard> {
        lock(&self.shards[self.hasher.hash_one(client) as usize % SHARDS])
    }

    /// Adds a connection and counts it at its server; `None` if the table is full.
    pub fn insert(&self, shard: &mut Shard, connection: Connection, now: Time) -> Option<Handle> {
        if self.len.fetch_add(1, Ordering::Relaxed) >= self.max {
            self.len.fetch_sub(1, Ordering::Relaxed);
            return None;
        }
        connection.server.bind_connection(connection.is_active());
        Some(shard.insert(connection, now, |old| self.ended(&old)))
    }

    /// Ends a connection before its time.
    pub fn remove(&self, shard: &mut Shard, handle: Handle) {
        let connection = shard.take(handle);
        self.ended(&connection);
    }

    /// Ends every connection whose time is over.
    pub fn expire(&self, now: Time) {
        for shard in &self.shards {
            lock(shard).expire(now, |connection| self.ended(&connection));
        }
    }

    /// The table's content for people, a shard at a time.
    pub fn views(&self, now: Time) -> impl Iterator<Item = Vec<ConnectionView>> + '_ {
        self.shards.iter().map(move |shard| lock(shard).views(now))
    }

    /// Checks every shard, that the shards hold as many connections as were counted, and that the counters of every
    /// real server in `servers` are what its connections add up to.
    ///
    /// # Panics
    /// If something does not agree. Call it while nobody else uses the table.
    pub fn check_invariants<'a>(&self, servers: impl Iterator<Item = &'a RealServer>) {
        let mut len = 0;
        let mut held: HashMap<ServerId, (u32, u32)> = HashMap::new();
        for shard in &self.shards {
            let shard = lock(shard);
            shard.check_invariants();
            len += shard.len();
            for connection in shard.iter() {
                let (active, total) = held.entry(connection.server.id).or_default();
                *active += u32::from(connection.is_active());
                *total += 1;
            }
        }
        assert_eq!(len, self.len());
        for server in servers {
            let expected = held.get(&server.id).copied().unwrap_or_default();
            assert_eq!((server.active_conns(), server.total_conns()), expected, "{server:?}");
        }
    }

    fn ended(&self, connection: &Connection) {
        self.len.fetch_sub(1, Ordering::Relaxed);
        connection.server.unbind_connection(connection.is_active());
    }
}

/// A worker that panicked held the shard between whole operations or inside one; the indexes are checked on each
/// access, so going on is better than losing every connection of the shard.
fn lock(shard: &Mutex<Shard>) -> MutexGuard<'_, Shard> {
    shard.lock().unwrap_or_else(PoisonError::into_inner)
}
