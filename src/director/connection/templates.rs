//! Persistence templates: which server a client stays with (`ip_vs_sched_persist`, `ip_vs_check_template`).
//!
//! In the kernel a template is a connection of a special kind. Here it is a thing of its own, in a table of its own:
//! it has a client network instead of a client, takes no packets, and is asked for only when a connection is made. With
//! a persistence engine it is one call's, or whatever else the engine tells apart (`ip_vs_pe.c`).
//! What a connection needs of it afterwards, counting and assuring, takes no lock.

use super::arena::Arena;
use super::drop_entry::{Age, DropEntry, Worth};
use super::index::Index;
use super::wheel::{Timed, Timer, Wheel};
use crate::director::packet::Transport;
use crate::director::service::{Fwmark, PersistenceEngine, RealServer, ServiceCore};
use crate::director::sync::{Emission, Source};
use crate::director::{TableHasher, Time};
use std::hash::BuildHasher;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;
use sync_proto::{Addresses, ConnFlags, Engine, OptionalParameters, Record};

/// What the timeout of a template, or of a control connection, becomes when its time is over while it still has
/// connections; a template's for good.
pub(super) const EXTENSION: Duration = Duration::from_secs(60);
/// Both ports of a template that was made void, where it is shown.
const VOID_PORT: u16 = 0xffff;

/// What a template is found by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct TemplateKey<'a> {
    /// What the clients that count as one have in common.
    pub clients: IpAddr,
    /// What they ask for.
    pub target: TemplateTarget,
    /// What a persistence engine has found that they have in common beside that (`pe_data`), if one was asked.
    pub pe_data: Option<(PersistenceEngine, &'a [u8])>,
}

impl TemplateKey<'_> {
    /// Whether the template is for one port.
    pub fn has_port(&self) -> bool {
        matches!(self.target, TemplateTarget::Endpoint { address, .. } if address.port() != 0)
    }
}

/// What the clients of a template ask for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum TemplateTarget {
    /// A virtual address and port.
    Endpoint {
        /// The protocol.
        transport: Transport,
        /// Address and port; port 0: whatever port.
        address: SocketAddr,
    },
    /// Whatever has this mark, of every protocol.
    Mark(Fwmark),
}

/// A template (`struct ip_vs_conn` with `IP_VS_CONN_F_TEMPLATE`).
#[derive(Debug)]
pub struct Template {
    /// The server that the clients stay with.
    pub server: Arc<RealServer>,
    /// The port on it; 0: each connection's own.
    pub server_port: u16,
    /// The service that made it.
    pub service: Arc<ServiceCore>,
    /// Connections that were made from it and have not ended (`n_control`).
    controls: AtomicU32,
    assured: AtomicBool,
    packets: AtomicU32,
    home: Option<Home>,
}

/// A template before it is filed.
#[derive(Debug)]
pub struct NewTemplate {
    /// The template.
    pub template: Template,
    /// Its flags.
    pub flags: ConnFlags,
    /// The mark of the packet that it is made for; 0: none.
    pub fwmark: u32,
    /// How long it lasts without new connections.
    pub timeout: Duration,
}

impl NewTemplate {
    /// One that is made here.
    pub fn new(template: Template, fwmark: u32, timeout: Duration) -> NewTemplate {
        NewTemplate { flags: flags_of(&template.server), template, fwmark, timeout }
    }
}

/// The flags of a template to a server of a service.
fn flags_of(server: &RealServer) -> ConnFlags {
    let mut flags = server.forwarding().method.connection_flags();
    flags.insert(ConnFlags::INACTIVE);
    flags.insert(ConnFlags::TEMPLATE);
    flags
}

/// Where a template is filed.
#[derive(Clone, Copy, Debug)]
struct Home {
    clients: IpAddr,
    entry: u32,
}

impl Template {
    /// A template for connections to `server`.
    pub fn new(server: Arc<RealServer>, server_port: u16, service: Arc<ServiceCore>) -> Template {
        Template {
            server,
            server_port,
            service,
            controls: AtomicU32::new(0),
            assured: AtomicBool::new(false),
            packets: AtomicU32::new(0),
            home: None,
        }
    }

    /// How many connections were made from it and have not ended.
    pub fn controls(&self) -> u32 {
        self.controls.load(Ordering::Relaxed)
    }

    /// Notes a packet of one of its connections, and says how many that makes (`in_pkts`). It counts where a master
    /// looks at it, and those of one-packet services always; goes round.
    pub fn note_packet(&self) -> u32 {
        self.packets.fetch_add(1, Ordering::Relaxed).wrapping_add(1)
    }

    /// The clients by whom its shard is found, once it has been filed.
    pub fn home(&self) -> Option<IpAddr> {
        self.home.map(|home| home.clients)
    }

    /// Whether nothing has come of it, and no connection is left.
    pub(super) fn is_forsaken(&self) -> bool {
        self.controls() == 0 && !self.is_assured()
    }

    /// Whether a connection made from it has come to something: established, or answered.
    pub fn is_assured(&self) -> bool {
        self.assured.load(Ordering::Relaxed)
    }
}

/// A connection's hold on the template that it was made from; the template outlives it.
#[derive(Debug)]
pub struct Controller(Arc<Template>);

impl Controller {
    fn new(template: &Arc<Template>) -> Controller {
        template.controls.fetch_add(1, Ordering::Relaxed);
        Controller(Arc::clone(template))
    }

    /// The template.
    pub fn template(&self) -> &Arc<Template> {
        &self.0
    }

    /// Notes that the connection has come to something.
    pub fn assure(&self) {
        // Most packets find it noted, and the template's line is shared by all workers.
        if !self.0.is_assured() {
            self.0.assured.store(true, Ordering::Relaxed);
        }
    }
}

impl Drop for Controller {
    fn drop(&mut self) {
        self.0.controls.fetch_sub(1, Ordering::Relaxed);
    }
}

/// What another director says of a template.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TemplateNews {
    /// Its flags from now on.
    pub flags: ConnFlags,
    /// Whether a connection made from it has come to something.
    pub assured: bool,
    /// How many packets are taken for counted.
    pub packets: u32,
    /// How it was said.
    pub(in crate::director) source: Source,
    /// How long it lasts without new connections.
    pub timeout: Duration,
}

/// Names a template while its shard stays locked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TemplateHandle(u32);

/// The templates of some client networks.
#[derive(Debug)]
pub struct TemplateShard {
    arena: Arena<Entry>,
    index: Index,
    wheel: Wheel,
    hasher: TableHasher,
}

#[derive(Debug)]
struct Entry {
    clients: IpAddr,
    target: TemplateTarget,
    pe_data: Option<(PersistenceEngine, Box<[u8]>)>,
    template: Arc<Template>,
    flags: ConnFlags,
    fwmark: u32,
    timeout: Duration,
    /// What other directors were told of it last.
    emission: Emission,
    /// Its time was over and it got more, and a master has not looked at it since.
    is_extended: bool,
    /// Made void: not found any more, and only kept for the connections made from it.
    is_void: bool,
    timer: Timer,
}

impl Entry {
    fn key(&self) -> TemplateKey<'_> {
        let pe_data = self.pe_data.as_ref().map(|(engine, data)| (*engine, &**data));
        TemplateKey { clients: self.clients, target: self.target, pe_data }
    }

    /// Protocol, virtual address and server, as others know them.
    fn ends(&self) -> (Option<Transport>, SocketAddr, SocketAddr) {
        let (transport, mut virtual_address) = match self.target {
            TemplateTarget::Endpoint { transport, address } => (Some(transport), address),
            TemplateTarget::Mark(mark) => (None, SocketAddr::new(mark_as_address(mark, self.clients), 0)),
        };
        let mut server = SocketAddr::new(self.template.server.address, self.template.server_port);
        if self.is_void {
            virtual_address.set_port(VOID_PORT);
            server.set_port(VOID_PORT);
        }
        (transport, virtual_address, server)
    }

    /// When it ends if its connections stay as they are.
    fn end(&self, now: Time) -> Time {
        let deadline = self.timer.deadline();
        let overdue = deadline <= now && self.template.controls() > 0;
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

/// The first time after `now` at which a timer fires that fired at `deadline` and was started again each time.
pub(super) fn extended(deadline: Time, now: Time) -> Time {
    let times = (now - deadline).as_millis() / EXTENSION.as_millis() + 1;
    deadline + EXTENSION * u32::try_from(times).unwrap_or(u32::MAX)
}

impl TemplateShard {
    pub(super) fn new(hasher: TableHasher) -> TemplateShard {
        TemplateShard { arena: Arena::new(), index: Index::default(), wheel: Wheel::new(), hasher }
    }

    /// The number of templates, void ones included.
    pub fn len(&self) -> usize {
        self.arena.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The template of these clients. One whose time is over, and that has no connections, counts as absent.
    pub fn find(&mut self, key: &TemplateKey<'_>, now: Time) -> Option<TemplateHandle> {
        let hash = self.hasher.hash_one(key);
        let entry = self.index.find(hash, |entry| self.arena.get(entry).key() == *key)?;
        let found = self.arena.get(entry);
        if found.timer.deadline() <= now {
            if found.template.controls() == 0 {
                return None;
            }
            let deadline = extended(found.timer.deadline(), now);
            let found = self.arena.get_mut(entry);
            found.timeout = EXTENSION;
            found.is_extended = true;
            self.wheel.reschedule(&mut self.arena, entry, deadline);
        }
        Some(TemplateHandle(entry))
    }

    /// Files a new template. One of the same key whose time is over gives way; a live one must not exist.
    pub(super) fn insert(
        &mut self,
        key: TemplateKey<'_>,
        new: NewTemplate,
        now: Time,
        removed: impl FnOnce(&Template),
    ) -> TemplateHandle {
        let hash = self.hasher.hash_one(key);
        if let Some(stale) = self.index.find(hash, |entry| self.arena.get(entry).key() == key) {
            removed(&self.take(stale));
        }
        let TemplateKey { clients, target, pe_data } = key;
        let NewTemplate { template, flags, fwmark, timeout } = new;
        let entry = self.arena.insert(Entry {
            clients,
            target,
            pe_data: pe_data.map(|(engine, data)| (engine, data.into())),
            template: Arc::new(template),
            flags,
            fwmark,
            timeout,
            emission: Emission::new(now, Emission::default()),
            is_extended: false,
            is_void: false,
            timer: Timer::unfiled(),
        });
        let filed = Arc::get_mut(&mut self.arena.get_mut(entry).template).expect("nobody else has it yet");
        filed.home = Some(Home { clients, entry });
        self.index.insert(hash, entry);
        self.wheel.insert(&mut self.arena, entry, now + timeout);
        TemplateHandle(entry)
    }

    /// The template.
    pub fn get(&self, handle: TemplateHandle) -> &Template {
        &self.arena.get(handle.0).template
    }

    /// How long the template lasts without new connections.
    pub fn timeout(&self, handle: TemplateHandle) -> Duration {
        self.arena.get(handle.0).timeout
    }

    /// What other directors were told of the template last.
    pub fn emission_mut(&mut self, handle: TemplateHandle) -> &mut Emission {
        &mut self.arena.get_mut(handle.0).emission
    }

    /// The same, to look at.
    pub fn emission(&self, handle: TemplateHandle) -> &Emission {
        &self.arena.get(handle.0).emission
    }

    /// Whether the template's time was over and it got more since this was last asked.
    pub fn take_extended(&mut self, handle: TemplateHandle) -> bool {
        std::mem::take(&mut self.arena.get_mut(handle.0).is_extended)
    }

    /// Where a template is filed, if it still is, void or not.
    pub fn filed(&self, template: &Arc<Template>) -> Option<TemplateHandle> {
        let entry = template.home?.entry;
        let found = self.arena.find(entry)?;
        Arc::ptr_eq(&found.template, template).then_some(TemplateHandle(entry))
    }

    /// What other directors are to know of the template. `None`: its clients and its server have addresses of
    /// different families.
    pub fn record(&self, handle: TemplateHandle) -> Option<Record<'_>> {
        let entry = self.arena.get(handle.0);
        let (transport, virtual_address, server) = entry.ends();
        Some(Record {
            protocol: transport.map_or(0, Transport::number),
            flags: entry.flags,
            state: entry.template.is_assured().into(),
            client_port: 0,
            virtual_port: virtual_address.port(),
            server_port: server.port(),
            addresses: Addresses::new(entry.clients, virtual_address.ip(), server.ip())?,
            fwmark: entry.fwmark,
            timeout_seconds: entry.timeout.as_secs().try_into().unwrap_or(u32::MAX),
            sequence: None,
            engine: entry.pe_data.as_ref().map(|(engine, data)| Engine { name: engine.name(), data }),
            optional: OptionalParameters::default(),
        })
    }

    /// Takes over what another director says of a template that it has, and restarts the template's timer.
    pub fn take_over(&mut self, handle: TemplateHandle, news: &TemplateNews, now: Time) {
        let TemplateNews { flags, assured, packets, source, timeout } = *news;
        let entry = self.arena.get_mut(handle.0);
        entry.flags = flags;
        entry.timeout = timeout;
        entry.emission.note_state(assured.into());
        entry.emission.note_source(source);
        entry.template.assured.store(assured, Ordering::Relaxed);
        entry.template.packets.store(packets, Ordering::Relaxed);
        self.wheel.reschedule(&mut self.arena, handle.0, now + timeout);
    }

    /// What the template is for.
    pub fn target(&self, handle: TemplateHandle) -> TemplateTarget {
        self.arena.get(handle.0).target
    }

    /// Whether the template is for clients with addresses of IPv6.
    pub fn is_ipv6(&self, handle: TemplateHandle) -> bool {
        self.arena.get(handle.0).clients.is_ipv6()
    }

    /// The mark of the packet that the template was made for; 0: none.
    pub fn fwmark(&self, handle: TemplateHandle) -> u32 {
        self.arena.get(handle.0).fwmark
    }

    /// The template's flags.
    pub fn flags(&self, handle: TemplateHandle) -> ConnFlags {
        self.arena.get(handle.0).flags
    }

    /// Gives a template that leads to a server of no service to a server of one. No connection was made from it: it
    /// was of no use to any.
    pub fn bind(&mut self, handle: TemplateHandle, (server, service): (Arc<RealServer>, Arc<ServiceCore>)) {
        let entry = self.arena.get_mut(handle.0);
        let Some(template) = Arc::get_mut(&mut entry.template) else { return };
        let mut flags = flags_of(&server);
        flags.insert(ConnFlags::from_bits(entry.flags.bits() & !METHOD_FLAGS));
        entry.flags = flags;
        template.server.unbind_template();
        server.bind_template();
        template.server = server;
        template.service = service;
    }

    /// Makes a connection the template's, and restarts the template's timer with its timeout.
    pub fn control(&mut self, handle: TemplateHandle, now: Time) -> Controller {
        let entry = self.arena.get_mut(handle.0);
        entry.emission.note_source(Source::Packet);
        let (controller, deadline) = (Controller::new(&entry.template), now + entry.timeout);
        self.wheel.reschedule(&mut self.arena, handle.0, deadline);
        controller
    }

    /// Makes the template void: it is not found any more, and ends when its timer does.
    pub fn invalidate(&mut self, handle: TemplateHandle) {
        self.index.remove(handle.0);
        self.arena.get_mut(handle.0).is_void = true;
    }

    /// Takes out every template whose time is over and that has no connections; those that have get more time, and are
    /// returned.
    pub(super) fn expire(&mut self, now: Time, mut removed: impl FnMut(&Template)) -> Vec<TemplateHandle> {
        let (mut due, mut extended_ones) = (Vec::new(), Vec::new());
        self.wheel.sweep(&mut self.arena, now, |_, entry| due.push(entry));
        for entry in due {
            let found = self.arena.get_mut(entry);
            if found.template.controls() > 0 {
                found.timeout = EXTENSION;
                let deadline = extended(found.timer.deadline(), now);
                self.wheel.insert(&mut self.arena, entry, deadline);
                extended_ones.push(TemplateHandle(entry));
            } else {
                removed(&self.forget(entry));
            }
        }
        extended_ones
    }

    /// Takes out every template whose server was removed and that has no connections.
    pub(super) fn take_orphans(&mut self) -> Vec<Arc<Template>> {
        let is_orphan = |entry: &u32| {
            let template = &self.arena.get(*entry).template;
            !template.server.is_available() && template.controls() == 0
        };
        let orphans: Vec<u32> = self.arena.indices().filter(is_orphan).collect();
        orphans.into_iter().map(|entry| self.take(entry)).collect()
    }

    /// How many parts there are, as of [connections](super::Shard).
    pub(super) fn parts(&self) -> usize {
        self.arena.chunks()
    }

    /// Takes out of one part what is dropped under attack.
    pub(super) fn take_dropped(
        &mut self,
        part: usize,
        choice: &mut DropEntry,
        is_one_packet: impl Fn(&ServiceCore) -> bool,
        now: Time,
    ) -> Vec<Arc<Template>> {
        let is_dropped = |entry: &u32| {
            let Entry { template, timeout, timer, .. } = self.arena.get(*entry);
            let worth = if template.controls() > 0 {
                Worth::Much
            } else if is_one_packet(&template.service) {
                Worth::Little
            } else if template.is_assured() {
                Worth::Much
            } else {
                Worth::Nothing
            };
            let packets = template.packets.load(Ordering::Relaxed);
            choice.drops(worth, Age { timeout: *timeout, deadline: timer.deadline(), packets }, now)
        };
        let dropped: Vec<u32> = self.arena.indices_of(part).filter(is_dropped).collect();
        dropped.into_iter().map(|entry| self.take(entry)).collect()
    }

    /// Takes out a template if it is still here and [forsaken](Template::is_forsaken).
    pub(super) fn take_forsaken(&mut self, template: &Arc<Template>) -> Option<Arc<Template>> {
        let TemplateHandle(entry) = self.filed(template)?;
        template.is_forsaken().then(|| self.take(entry))
    }

    /// The templates of one part that are found and whose time is not over.
    pub fn living(&self, part: usize, now: Time) -> impl Iterator<Item = TemplateHandle> {
        let is_living = move |entry: &u32| {
            let entry = self.arena.get(*entry);
            !entry.is_void && entry.end(now) > now
        };
        self.arena.indices_of(part).filter(is_living).map(TemplateHandle)
    }

    /// What the shard holds, for people.
    pub(super) fn views(&self, now: Time) -> Vec<TemplateView> {
        self.arena
            .indices()
            .map(|entry| self.arena.get(entry))
            .filter(|entry| entry.end(now) > now)
            .map(|entry| TemplateView::new(entry, now))
            .collect()
    }

    /// All templates, those included whose time is over but that were not swept yet.
    pub(super) fn iter(&self) -> impl Iterator<Item = &Arc<Template>> {
        self.arena.indices().map(|entry| &self.arena.get(entry).template)
    }

    /// Checks that arena and index agree.
    ///
    /// # Panics
    /// If they do not.
    pub fn check_invariants(&self) {
        let valid = self.arena.indices().filter(|&entry| !self.arena.get(entry).is_void);
        let mut indexed = 0;
        for entry in valid {
            let key = self.arena.get(entry).key();
            let found =
                self.index.find(self.hasher.hash_one(key), |other| self.arena.get(other).key() == key);
            assert_eq!(found, Some(entry), "{key:?} is found");
            indexed += 1;
        }
        assert_eq!(self.index.len(), indexed, "each template that is not void is indexed once");
    }

    fn take(&mut self, entry: u32) -> Arc<Template> {
        self.wheel.remove(&mut self.arena, entry);
        self.forget(entry)
    }

    fn forget(&mut self, entry: u32) -> Arc<Template> {
        if !self.arena.get(entry).is_void {
            self.index.remove(entry);
        }
        self.arena.remove(entry).template
    }
}

/// What a server of a service says in place of a record: the method, and that replies go by themselves.
const METHOD_FLAGS: u32 = ConnFlags::METHOD.bits() | ConnFlags::NOOUTPUT.bits();

/// A template as it is shown.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TemplateView {
    /// The protocol; none: a template for all of them.
    pub transport: Option<Transport>,
    /// What its clients have in common.
    pub clients: IpAddr,
    /// The virtual address and port; port 0: every port. A mark stands in the first four bytes of the address.
    pub virtual_address: SocketAddr,
    /// The real server; port 0: each connection's own.
    pub server: SocketAddr,
    /// Whether a connection made from it has come to something.
    pub assured: bool,
    /// When it ends unless connections are made.
    pub expires: Duration,
    /// Its flags.
    pub flags: ConnFlags,
    /// The persistence engine that it is of, and what that has found.
    pub pe_data: Option<(PersistenceEngine, Box<[u8]>)>,
}

impl TemplateView {
    /// The name of its state in `/proc/net/ip_vs_conn`.
    pub fn state(&self) -> &'static str {
        if self.assured { "ASSURED" } else { "NONE" }
    }

    fn new(entry: &Entry, now: Time) -> TemplateView {
        let (transport, virtual_address, server) = entry.ends();
        TemplateView {
            transport,
            clients: entry.clients,
            virtual_address,
            server,
            assured: entry.template.is_assured(),
            expires: entry.end(now).since(now),
            flags: entry.flags,
            pe_data: entry.pe_data.clone(),
        }
    }
}

/// A mark where an address of the family of `like` is shown, as the kernel has it there.
fn mark_as_address(mark: Fwmark, like: IpAddr) -> IpAddr {
    let number = u32::from(mark.get());
    match like {
        IpAddr::V4(_) => Ipv4Addr::from_bits(number).into(),
        IpAddr::V6(_) => Ipv6Addr::from_bits(u128::from(number) << 96).into(),
    }
}
