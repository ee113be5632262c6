//! The connection table: shards, its bound, and the counters of real servers that follow from it.

use super::{
    Connection, ConnectionView, DropEntry, Handle, NewTemplate, Shard, Template, TemplateHandle, TemplateKey,
    TemplateShard, TemplateView,
};
use crate::director::service::{RealServer, ServerId, ServiceCore};
use crate::director::sync::Emission;
use crate::director::{TableHasher, Time};
use std::collections::HashMap;
use std::hash::BuildHasher;
use std::net::IpAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

const SHARDS: usize = 64;

/// All connections, and the templates that some of them were made from. Both are entries, and the bound is theirs
/// together.
///
/// Whoever holds a shard of connections may lock one of templates, but not the other way round.
#[derive(Debug)]
pub struct ConnectionTable {
    shards: Box<[Mutex<Shard>]>,
    templates: Box<[Mutex<TemplateShard>]>,
    hasher: TableHasher,
    len: AtomicUsize,
    max: usize,
}

/// How far somebody has come who looks at the connections, or at the templates, part by part.
#[derive(Clone, Copy, Debug, Default)]
pub struct Place {
    shard: usize,
    part: usize,
}

impl ConnectionTable {
    /// A table for at most `max` entries.
    pub fn new(max: usize, hasher: &TableHasher) -> ConnectionTable {
        ConnectionTable {
            shards: (0..SHARDS).map(|_| Mutex::new(Shard::new(hasher.clone()))).collect(),
            templates: (0..SHARDS).map(|_| Mutex::new(TemplateShard::new(hasher.clone()))).collect(),
            hasher: hasher.clone(),
            len: AtomicUsize::new(0),
            max,
        }
    }

    /// The number of entries.
    pub fn len(&self) -> usize {
        self.len.load(Ordering::Relaxed)
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// How many entries the table may hold.
    pub fn capacity(&self) -> usize {
        self.max
    }

    /// Locks the shard of a client.
    pub fn shard(&self, client: IpAddr) -> MutexGuard<'_, Shard> {
        lock(&self.shards[self.hasher.hash_one(client) as usize % SHARDS])
    }

    /// Locks the shard of the templates of some clients.
    pub fn templates(&self, clients: IpAddr) -> MutexGuard<'_, TemplateShard> {
        lock(&self.templates[self.hasher.hash_one(clients) as usize % SHARDS])
    }

    /// Adds a connection and counts it at its server; `None` if the table is full.
    pub fn insert(&self, shard: &mut Shard, connection: Connection, now: Time) -> Option<Handle> {
        self.reserve()?;
        Some(self.file(shard, connection, now))
    }

    /// The same in place of another connection, which gives it its room: a full table is no matter.
    pub fn replace(&self, shard: &mut Shard, old: Handle, connection: Connection, now: Time) -> Handle {
        self.len.fetch_add(1, Ordering::Relaxed);
        self.remove(shard, old);
        self.file(shard, connection, now)
    }

    fn file(&self, shard: &mut Shard, mut connection: Connection, now: Time) -> Handle {
        connection.emission = Emission::new(now, connection.emission);
        connection.server.bind_connection(connection.is_active());
        shard.insert(connection, now, |old| self.ended(&old))
    }

    /// Gives a connection that is of no service to a server of one, which is to see `client_port`.
    pub fn bind(
        &self,
        shard: &mut Shard,
        handle: Handle,
        (server, service): (Arc<RealServer>, Arc<ServiceCore>),
        client_port: u16,
        now: Time,
    ) -> Handle {
        self.rekey(shard, handle, now, |connection| {
            connection.server.unbind_connection(connection.is_active());
            connection.bind(server, service);
            connection.translate_client_port(client_port);
            connection.server.bind_connection(connection.is_active());
        })
    }

    /// Adds a template and counts it at its server; `None` if the table is full.
    pub fn insert_template(
        &self,
        shard: &mut TemplateShard,
        key: TemplateKey<'_>,
        new: NewTemplate,
        now: Time,
    ) -> Option<TemplateHandle> {
        self.reserve()?;
        new.template.server.bind_template();
        Some(shard.insert(key, new, now, |old| self.template_ended(old)))
    }

    /// Files a connection anew after `change`, which may change its keys. Others of the new keys give way.
    pub fn rekey(
        &self,
        shard: &mut Shard,
        handle: Handle,
        now: Time,
        change: impl FnOnce(&mut Connection),
    ) -> Handle {
        let mut connection = shard.take(handle);
        change(&mut connection);
        shard.insert(connection, now, |old| self.ended(&old))
    }

    /// Ends a connection before its time.
    pub fn remove(&self, shard: &mut Shard, handle: Handle) {
        let connection = shard.take(handle);
        self.ended(&connection);
    }

    /// Ends every entry whose time is over. Those that control others go on, and are shown to `extended`, or
    /// `extended_template`.
    pub fn expire(
        &self,
        now: Time,
        mut extended: impl FnMut(&mut Shard, Handle),
        mut extended_template: impl FnMut(&mut TemplateShard, TemplateHandle),
    ) {
        for shard in &self.shards {
            let mut shard = lock(shard);
            for handle in shard.expire(now, |connection| self.ended(&connection)) {
                extended(&mut shard, handle);
            }
        }
        for shard in &self.templates {
            let mut shard = lock(shard);
            for handle in shard.expire(now, |template| self.template_ended(template)) {
                extended_template(&mut shard, handle);
            }
        }
    }

    /// Ends every connection whose server was removed, and the templates that led to it
    /// (`ip_vs_expire_nodest_conn_flush`).
    pub fn expire_orphans(&self) {
        for shard in &self.shards {
            lock(shard).take_orphans().iter().for_each(|connection| self.ended(connection));
        }
        for shard in &self.templates {
            lock(shard).take_orphans().iter().for_each(|template| self.template_ended(template));
        }
    }

    /// Drops what is worth least in a random thirty-second of the table (`ip_vs_random_dropentry`), and says how many
    /// entries that were. `is_one_packet` tells of which services templates count packets.
    pub fn drop_entries(
        &self,
        choice: &mut DropEntry,
        is_one_packet: impl Fn(&ServiceCore) -> bool,
        now: Time,
    ) -> usize {
        let mut count = 0;
        for shard in &self.shards {
            let parts = choice.parts(lock(shard).parts());
            for part in parts {
                let dropped = lock(shard).take_dropped(part, choice, now);
                count +=
                    dropped.into_iter().map(|connection| self.drop_connection(connection)).sum::<usize>();
            }
        }
        for shard in &self.templates {
            let parts = choice.parts(lock(shard).parts());
            for part in parts {
                let dropped = lock(shard).take_dropped(part, choice, &is_one_packet, now);
                count += dropped.len();
                dropped.iter().for_each(|template| self.template_ended(template));
            }
        }
        count
    }

    /// Makes room in a full table for `wanted` entries, as far as a half-open connection of `shard` or two can make it,
    /// which `choice` leads to. Says how many entries gave way.
    pub fn make_room(&self, shard: &mut Shard, wanted: usize, choice: u64) -> usize {
        let mut count = 0;
        for attempt in 0..wanted as u64 {
            if self.len() + wanted <= self.max {
                break;
            }
            let found = shard.take_half_open(choice.wrapping_add(attempt));
            count += found.map_or(0, |connection| self.drop_connection(connection));
        }
        count
    }

    /// The connections for people, a shard at a time.
    pub fn views(&self, now: Time) -> impl Iterator<Item = Vec<ConnectionView>> + '_ {
        self.shards.iter().map(move |shard| lock(shard).views(now))
    }

    /// The templates for people, a shard at a time.
    pub fn template_views(&self, now: Time) -> impl Iterator<Item = Vec<TemplateView>> + '_ {
        self.templates.iter().map(move |shard| lock(shard).views(now))
    }

    /// Shows the next part of the connections, whose shard is locked for as long as that takes. `false`: that was all.
    pub fn next_part(&self, place: &mut Place, show: impl FnOnce(&Shard, usize)) -> bool {
        next_part(&self.shards, place, Shard::parts, show)
    }

    /// The same of the templates.
    pub fn next_template_part(&self, place: &mut Place, show: impl FnOnce(&TemplateShard, usize)) -> bool {
        next_part(&self.templates, place, TemplateShard::parts, show)
    }

    /// Checks every shard, that the shards hold as many entries as were counted, and that the counters of every
    /// template, every control connection and every real server in `servers` are what their connections add up to.
    ///
    /// # Panics
    /// If something does not agree. Call it while nobody else uses the table.
    pub fn check_invariants<'a>(&self, servers: impl Iterator<Item = &'a RealServer>) {
        let mut len = 0;
        let mut held: HashMap<ServerId, (u32, u32)> = HashMap::new();
        let mut controlled: HashMap<*const Template, u32> = HashMap::new();
        let mut data_connections: HashMap<*const (), u32> = HashMap::new();
        let mut bound: HashMap<ServerId, u32> = HashMap::new();
        for shard in &self.shards {
            let shard = lock(shard);
            shard.check_invariants();
            len += shard.len();
            for hold in shard.iter().filter_map(Connection::held_by) {
                *data_connections.entry(hold.held()).or_default() += 1;
            }
            for control in shard.iter().filter_map(Connection::control) {
                let holds = control.data_connections();
                let expected = data_connections.get(&holds.held()).copied().unwrap_or_default();
                assert_eq!(holds.count(), expected, "{control:?}");
            }
            for connection in shard.iter() {
                let (active, total) = held.entry(connection.server.id).or_default();
                *active += u32::from(connection.is_active());
                *total += 1;
                if let Some(controller) = &connection.controller {
                    *controlled.entry(Arc::as_ptr(controller.template())).or_default() += 1;
                }
            }
        }
        for shard in &self.templates {
            let shard = lock(shard);
            shard.check_invariants();
            len += shard.len();
            for template in shard.iter() {
                *bound.entry(template.server.id).or_default() += 1;
                let expected = controlled.remove(&Arc::as_ptr(template)).unwrap_or_default();
                assert_eq!(template.controls(), expected, "{template:?}");
            }
        }
        assert!(controlled.is_empty(), "a template outlives the connections that were made from it");
        assert_eq!(len, self.len());
        for server in servers {
            let expected = held.get(&server.id).copied().unwrap_or_default();
            assert_eq!((server.active_conns(), server.total_conns()), expected, "{server:?}");
            assert_eq!(server.templates(), bound.get(&server.id).copied().unwrap_or_default(), "{server:?}");
        }
    }

    /// Makes room for one entry, if there is any.
    fn reserve(&self) -> Option<()> {
        if self.len.fetch_add(1, Ordering::Relaxed) >= self.max {
            self.len.fetch_sub(1, Ordering::Relaxed);
            return None;
        }
        Some(())
    }

    /// Ends a connection, and the template that it alone was made from unless that has come to something
    /// (`ip_vs_conn_del`). Says how many entries that were.
    fn drop_connection(&self, mut connection: Connection) -> usize {
        self.ended(&connection);
        let Some(controller) = connection.controller.take() else { return 1 };
        let template = Arc::clone(controller.template());
        drop(controller);
        let Some(clients) = template.home().filter(|_| template.is_forsaken()) else { return 1 };
        let taken = self.templates(clients).take_forsaken(&template);
        taken.iter().for_each(|template| self.template_ended(template));
        1 + usize::from(taken.is_some())
    }

    fn template_ended(&self, template: &Template) {
        self.len.fetch_sub(1, Ordering::Relaxed);
        template.server.unbind_template();
    }

    fn ended(&self, connection: &Connection) {
        self.len.fetch_sub(1, Ordering::Relaxed);
        connection.server.unbind_connection(connection.is_active());
    }
}

fn next_part<T>(
    shards: &[Mutex<T>],
    place: &mut Place,
    parts: impl Fn(&T) -> usize,
    show: impl FnOnce(&T, usize),
) -> bool {
    while let Some(shard) = shards.get(place.shard) {
        let shard = lock(shard);
        if place.part < parts(&shard) {
            show(&shard, place.part);
            place.part += 1;
            return true;
        }
        *place = Place { shard: place.shard + 1, part: 0 };
    }
    false
}

/// A worker that panicked held the shard between whole operations or inside one; the indexes are checked on each
/// access, so going on is better than losing every entry of the shard.
fn lock<T>(shard: &Mutex<T>) -> MutexGuard<'_, T> {
    shard.lock().unwrap_or_else(PoisonError::into_inner)
}
