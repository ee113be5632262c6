//! The receiving half: what records make of the table (`ip_vs_proc_conn` of `ip_vs_sync.c`).
//!
//! A record makes an entry, or brings one up to date; none ends one, but in favour of another of the same client. What
//! a record says of the server counts if no service has that server: then the entry is of no service, until a record
//! finds that one has.

use super::counters::{Applied, Rejection};
use super::emission::{Emission, Source};
use super::{BackupSettings, SyncOutcome};
use crate::director::app::Application;
use crate::director::connection::{
    Connection, Handle, InboundKey, NewTemplate, Placement, Shard, Template, TemplateHandle, TemplateKey,
    TemplateNews, TemplateShard, TemplateTarget,
};
use crate::director::engine::Director;
use crate::director::packet::Transport;
use crate::director::protocol::State;
use crate::director::scheduling::PORT_ATTEMPTS;
use crate::director::service::{ForwardMethod, Fwmark, PersistenceEngine, RealServer, ServiceCore, Services};
use crate::director::{DropReason, Time};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use sync_proto::{ConnFlags, Message, Record};

/// What a new entry takes of a record's flags (`IP_VS_CONN_F_BACKUP_MASK`).
const FLAGS_OF_NEW: u32 = 0x1f87;
/// What an entry takes that is there (`IP_VS_CONN_F_BACKUP_UPD_MASK`).
const FLAGS_OF_KNOWN: u32 = 0x0700;
/// How long an entry lasts of whose state neither the record nor this director says it.
const TIMEOUT_UNSAID: Duration = Duration::from_secs(3 * 60);

/// What a connection has room for: 49 days.
const LONGEST_TIMEOUT: Duration = Duration::from_millis(u32::MAX as u64);

/// What a record has done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Effect {
    Created,
    Updated,
    Replaced,
    /// More is known of the entry than the record says.
    Known,
}

/// A server, and the service that has it.
type Bound = (Arc<RealServer>, Arc<ServiceCore>);

/// What applying a record needs to know beside it.
struct Receiver<'a> {
    director: &'a Director,
    now: Time,
    services: &'a Services,
    /// How it is said.
    source: Source,
    /// The number of the table that is taken in.
    table: u8,
}

impl Director {
    /// Applies what another director says of its connections. Each record is applied by itself; what cannot be is
    /// counted, and leaves the table as it was.
    ///
    /// The same datagram once more changes nothing but when entries end.
    pub fn apply_sync(&self, now: Time, datagram: &[u8]) -> SyncOutcome {
        let table = self.sync.table.load(Ordering::Relaxed);
        self.apply_from(now, datagram, Source::Message(table), table)
    }

    /// Goes over to another table, before its master begins to tell of it: what messages say from now on is newer.
    pub fn begin_table(&self) {
        self.sync.table.fetch_add(1, Ordering::Relaxed);
    }

    /// Applies a message of a table: what has told of an entry since that was [begun](Self::begin_table), or has had a
    /// packet for it ever since another director told of it, knows better.
    pub fn apply_table(&self, now: Time, message: &[u8]) -> SyncOutcome {
        self.apply_from(now, message, Source::Table, self.sync.table.load(Ordering::Relaxed))
    }

    fn apply_from(&self, now: Time, datagram: &[u8], source: Source, table: u8) -> SyncOutcome {
        let backup = self.sync.backup.load();
        let Some(&BackupSettings { syncid }) = backup.as_deref() else { return SyncOutcome::NotRunning };
        let counters = &self.sync.counters;
        let message = match Message::decode(datagram, syncid) {
            Ok(message) => message,
            Err(error) => {
                counters.note_rejection(error.into());
                return SyncOutcome::Refused(error);
            }
        };
        counters.messages.add(1);
        let services = self.services.load();
        let receiver = Receiver { director: self, now, services: &services, source, table };
        let mut applied = Applied::default();
        for record in message.records() {
            let effect = record.map_err(Rejection::from).and_then(|record| receiver.apply(&record));
            match effect {
                Ok(Effect::Created) => applied.created += 1,
                Ok(Effect::Updated) => applied.updated += 1,
                Ok(Effect::Replaced) => applied.replaced += 1,
                Ok(Effect::Known) => applied.known += 1,
                Err(rejection) => {
                    applied.rejected += 1;
                    counters.note_rejection(rejection);
                }
            }
        }
        counters.note_applied(applied);
        SyncOutcome::Applied(applied)
    }
}

impl Receiver<'_> {
    fn apply(&self, record: &Record<'_>) -> Result<Effect, Rejection> {
        let engine = match record.engine {
            Some(engine) => {
                let known = PersistenceEngine::by_name(engine.name).ok_or(Rejection::EngineUnknown)?;
                Some((known, engine.data))
            }
            None => None,
        };
        if record.is_template() { self.apply_template(record, engine) } else { self.apply_connection(record) }
    }

    fn apply_connection(&self, record: &Record<'_>) -> Result<Effect, Rejection> {
        let transport = Transport::from_number(record.protocol).ok_or(Rejection::Ipsec)?;
        if (record.client_port == 0) != record.flags.contains(ConnFlags::NO_CPORT) {
            return Err(Rejection::ClientPort);
        }
        let (client, virtual_address, server) = ends(record);
        let key = InboundKey { transport, client, virtual_address };
        let Receiver { director, now, .. } = *self;
        let mut shard = director.table.shard(client.ip());
        let found = shard.find_inbound(&key, now).or_else(|| shard.find_expected(&key, now));
        let (handle, effect) = match found {
            Some(found) if self.is_outdated(&shard.get(found).emission) => return Ok(Effect::Known),
            Some(found) if shard.get(found).server_address() == server => {
                (self.update(&mut shard, found, record), Effect::Updated)
            }
            Some(_) if record.flags.contains(ConnFlags::INACTIVE) => return Err(Rejection::Stale),
            Some(found) => {
                let connection = self.connection(&shard, &key, server, record, Some(found))?;
                (director.table.replace(&mut shard, found, connection, now), Effect::Replaced)
            }
            None => {
                let connection = self.connection(&shard, &key, server, record, None)?;
                let filed = director.table.insert(&mut shard, connection, now);
                (filed.ok_or(Rejection::TableFull)?, Effect::Created)
            }
        };
        let connection = shard.get_mut(handle);
        if effect != Effect::Updated && !connection.is_bound() {
            director.sync.counters.unbound.add(1);
        }
        record.sequence.into_iter().for_each(|shifts| connection.adjust_sequence(shifts));
        let state = connection.state.with_number(record.state).ok_or(Rejection::State)?;
        let timeout = timeout_said(record).unwrap_or_else(|| self.own_timeout(connection, state));
        connection.take_over(state, self.packets(), timeout, self.source);
        shard.restart_timer(handle, now);
        Ok(effect)
    }

    /// Brings flags and server of a connection up to date, and the server's counters with them.
    fn update(&self, shard: &mut Shard, handle: Handle, record: &Record<'_>) -> Handle {
        let connection = shard.get_mut(handle);
        let was_active = connection.is_active();
        connection.flags = merged(connection.flags, record.flags);
        let is_active = connection.is_active();
        if was_active != is_active {
            connection.server.set_connection_active(is_active);
        }
        if connection.is_bound() {
            return handle;
        }
        self.bind(shard, handle).unwrap_or(handle)
    }

    /// Looks for a server of a connection that has none. `None`: no service has it, or the client has another
    /// connection to it in the way.
    fn bind(&self, shard: &mut Shard, handle: Handle) -> Option<Handle> {
        let connection = shard.get(handle);
        let (key, server) = (connection.inbound_key(), connection.server_address());
        let InboundKey { transport, virtual_address, .. } = key;
        let target = Target { fwmark: connection.fwmark(), transport: Some(transport), virtual_address };
        let bound = self.find_server(target, server, connection.flags)?;
        // The method is the server's from now on, and with it the name in which the server answers.
        let is_nat = bound.0.forwarding().method == ForwardMethod::Nat;
        let (answering, attempts) = if is_nat { (server, PORT_ATTEMPTS) } else { (virtual_address, 0) };
        let seen = self.director.server_side_port(self.now, shard, &key, answering, attempts, Some(handle));
        Some(self.director.table.bind(shard, handle, bound, seen.ok()?, self.now))
    }

    /// The connection that a record makes. `leaving` makes room for it.
    fn connection(
        &self,
        shard: &Shard,
        key: &InboundKey,
        server: SocketAddr,
        record: &Record<'_>,
        leaving: Option<Handle>,
    ) -> Result<Connection, Rejection> {
        let InboundKey { transport, virtual_address, .. } = *key;
        let target = Target { fwmark: record.fwmark, transport: Some(transport), virtual_address };
        let bound = self.find_server(target, server, record.flags);
        let (real, service) = bound.unwrap_or_else(|| self.nobody(target, server));
        let placement =
            Placement { server: real, server_port: server.port(), controller: None, fwmark: record.fwmark };
        let mut connection = Connection::new(key, placement, service);
        connection.flags = flags_of_new(record, &connection.server);
        let attempts = if connection.is_nat() { PORT_ATTEMPTS } else { 0 };
        let answering = connection.outbound_key().server;
        let seen = self.director.server_side_port(self.now, shard, key, answering, attempts, leaving);
        connection.translate_client_port(seen.map_err(|_: DropReason| Rejection::PortsExhausted)?);
        // The master does not say whether the client was the server itself; that it came over a link is most likely.
        connection.note_hairpin();
        connection.application = Application::of(&connection).map(Box::new);
        Ok(connection)
    }

    fn apply_template(
        &self,
        record: &Record<'_>,
        pe_data: Option<(PersistenceEngine, &[u8])>,
    ) -> Result<Effect, Rejection> {
        let target = template_target(record).ok_or(Rejection::Template)?;
        let clients = record.addresses.client();
        let key = TemplateKey { clients, target, pe_data };
        let Receiver { director, now, .. } = *self;
        let mut templates = director.table.templates(clients);
        let (handle, effect) = match templates.find(&key, now) {
            Some(found) if self.is_outdated(templates.emission(found)) => return Ok(Effect::Known),
            Some(found) => {
                self.bind_template(&mut templates, found, record);
                (found, Effect::Updated)
            }
            None => (self.new_template(&mut templates, &key, record)?, Effect::Created),
        };
        let flags = merged(templates.flags(handle), record.flags);
        let timeout = timeout_said(record).unwrap_or(TIMEOUT_UNSAID);
        let assured = record.state == 1;
        let news = TemplateNews { flags, assured, packets: self.packets(), source: self.source, timeout };
        templates.take_over(handle, &news, now);
        Ok(effect)
    }

    fn new_template(
        &self,
        templates: &mut TemplateShard,
        key: &TemplateKey<'_>,
        record: &Record<'_>,
    ) -> Result<TemplateHandle, Rejection> {
        let Receiver { director, now, .. } = *self;
        let (_, _, server) = ends(record);
        let target = Target::of_template(record.fwmark, key.target, record);
        let bound = self.find_server(target, server, record.flags);
        let is_bound = bound.is_some();
        let (real, service) = bound.unwrap_or_else(|| self.nobody(target, server));
        let mut flags = flags_of_new(record, &real);
        if is_bound {
            flags.insert(ConnFlags::INACTIVE);
        }
        let template = Template::new(real, server.port(), service);
        let new = NewTemplate { template, flags, fwmark: record.fwmark, timeout: TIMEOUT_UNSAID };
        let filed = director.table.insert_template(templates, *key, new, now).ok_or(Rejection::TableFull)?;
        if !is_bound {
            director.sync.counters.unbound.add(1);
        }
        Ok(filed)
    }

    /// Looks for a server of a template that has none.
    fn bind_template(&self, templates: &mut TemplateShard, handle: TemplateHandle, record: &Record<'_>) {
        let template = templates.get(handle);
        if !template.server.is_nobody() {
            return;
        }
        let server = SocketAddr::new(template.server.address, template.server_port);
        let (flags, fwmark) = (templates.flags(handle), templates.fwmark(handle));
        let target = Target::of_template(fwmark, templates.target(handle), record);
        if let Some(bound) = self.find_server(target, server, flags) {
            templates.bind(handle, bound);
        }
    }

    /// The server of a service that a record names (`ip_vs_find_dest`), by its port or as one of every port: those come
    /// first for a mark whose packets are not translated.
    fn find_server(&self, target: Target, server: SocketAddr, flags: ConnFlags) -> Option<Bound> {
        let service =
            self.services.find_synchronised(target.fwmark, target.transport, target.virtual_address)?;
        let is_nat = flags.bits() & ConnFlags::METHOD.bits() == 0;
        let first = if target.fwmark != 0 && !is_nat { 0 } else { server.port() };
        let found = [first, first ^ server.port()]
            .into_iter()
            .find_map(|port| service.position(SocketAddr::new(server.ip(), port)))?;
        Some((Arc::clone(&service.servers[found]), Arc::clone(&service.core)))
    }

    /// What stands for a server that no service has. Replies from there have the source of the service that it would be
    /// a server of.
    fn nobody(&self, target: Target, server: SocketAddr) -> Bound {
        let nobody = &self.director.nobody;
        let service =
            self.services.find_synchronised(target.fwmark, target.transport, target.virtual_address);
        let core = service.map_or_else(|| nobody.service(), |service| Arc::clone(&service.core));
        (nobody.at(server.ip()), core)
    }

    /// Whether a record has nothing to add to an entry: others have told of it since, or packets have come.
    fn is_outdated(&self, known: &Emission) -> bool {
        self.source == Source::Table && known.outdates_table(self.table)
    }

    /// How long a connection lasts whose record does not say it.
    fn own_timeout(&self, connection: &Connection, state: State) -> Duration {
        self.services.timeouts_of(&connection.service).of(state)
    }

    /// Of how many packets an entry is taken to have been told of.
    fn packets(&self) -> u32 {
        self.services.tunables.sync_threshold.packet
    }
}

/// By what the service of an entry is found.
#[derive(Clone, Copy, Debug)]
struct Target {
    fwmark: u32,
    transport: Option<Transport>,
    virtual_address: SocketAddr,
}

impl Target {
    fn of_template(fwmark: u32, target: TemplateTarget, record: &Record<'_>) -> Target {
        match target {
            TemplateTarget::Endpoint { transport, address } => {
                Target { fwmark, transport: Some(transport), virtual_address: address }
            }
            // Of the address, only the family counts.
            TemplateTarget::Mark(_) => Target {
                fwmark,
                transport: None,
                virtual_address: SocketAddr::new(record.addresses.vip(), 0),
            },
        }
    }
}

/// Client, virtual address and server of a record.
fn ends(record: &Record<'_>) -> (SocketAddr, SocketAddr, SocketAddr) {
    let addresses = record.addresses;
    (
        SocketAddr::new(addresses.client(), record.client_port),
        SocketAddr::new(addresses.vip(), record.virtual_port),
        SocketAddr::new(addresses.server(), record.server_port),
    )
}

/// What a template is for. `None`: a director of ours can have no such template.
fn template_target(record: &Record<'_>) -> Option<TemplateTarget> {
    if record.client_port != 0 {
        return None;
    }
    if let Some(mark) = record.template_mark() {
        let mark = u16::try_from(mark).ok().and_then(Fwmark::new)?;
        return (record.virtual_port == 0).then_some(TemplateTarget::Mark(mark));
    }
    let transport = Transport::from_number(record.protocol)?;
    let (_, address, _) = ends(record);
    Some(TemplateTarget::Endpoint { transport, address })
}

/// The flags of an entry that a record makes: its own, but method and what follows from it by the server's, if a
/// service has that.
fn flags_of_new(record: &Record<'_>, server: &RealServer) -> ConnFlags {
    let mut flags = ConnFlags::from_bits(record.flags.bits() & FLAGS_OF_NEW);
    flags.insert(ConnFlags::SYNC);
    if !server.is_nobody() {
        flags.remove(ConnFlags::METHOD);
        flags.remove(ConnFlags::NOOUTPUT);
        flags.insert(server.forwarding().method.connection_flags());
    }
    flags
}

/// The flags of an entry after a record of it.
fn merged(known: ConnFlags, news: ConnFlags) -> ConnFlags {
    ConnFlags::from_bits(news.bits() & FLAGS_OF_KNOWN | known.bits() & !FLAGS_OF_KNOWN)
}

/// How long an entry lasts, if its record says so; see docs/differences.md.
fn timeout_said(record: &Record<'_>) -> Option<Duration> {
    let said = Duration::from_secs(record.timeout_seconds.into());
    (record.timeout_seconds != 0).then(|| said.min(LONGEST_TIMEOUT))
}
