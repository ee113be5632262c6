//! Which server a new connection gets (`ip_vs_schedule`, `ip_vs_sched_persist` of `net/netfilter/ipvs/ip_vs_core.c`).

use super::app::Application;
use super::bypass::is_passed;
use super::connection::{
    Connection, Handle, InboundKey, NewTemplate, OutboundKey, Placement, Shard, Template, TemplateHandle,
    TemplateKey, TemplateShard, TemplateTarget,
};
use super::engine::Director;
use super::scheduler::Arrival;
use super::service::{
    FTP_PORT, Fwmark, Persistence, PersistenceEngine, RealServer, ServiceKey, Services, Tunables,
    VirtualService,
};
use super::{DropReason, Refusal, Time, Verdict};
use std::hash::BuildHasher;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

/// The port that data connections of active FTP come from.
const FTP_DATA_PORT: u16 = 20;
/// How many ports are tried to stand in for a client's before the connection is refused.
pub(super) const PORT_ATTEMPTS: u16 = 64;
const FIRST_STAND_IN_PORT: u16 = 1024;

/// Why a first packet gets no connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Unscheduled {
    Refused(Refusal),
    Dropped(DropReason),
}

impl Unscheduled {
    /// What becomes of the packet.
    pub(super) fn verdict(self) -> Result<Verdict, DropReason> {
        match self {
            Unscheduled::Refused(refusal) => Ok(Verdict::Refuse(refusal)),
            Unscheduled::Dropped(reason) => Err(reason),
        }
    }
}

/// The packet that a connection is made for.
#[derive(Clone, Copy, Debug)]
pub(super) struct Occasion<'a> {
    pub(super) kind: OccasionKind<'a>,
    /// An operator's mark on it.
    pub(super) mark: Option<Fwmark>,
}

#[derive(Clone, Copy, Debug)]
pub(super) enum OccasionKind<'a> {
    /// A client's first packet, which carries this.
    Request(&'a [u8]),
    /// An error about a packet from a server. It need not embed more than eight bytes of what IP carried, in which no
    /// persistence engine finds anything.
    Error,
}

impl<'a> Occasion<'a> {
    fn payload(self) -> &'a [u8] {
        match self.kind {
            OccasionKind::Request(payload) => payload,
            OccasionKind::Error => &[],
        }
    }

    fn fwmark(self) -> u32 {
        Fwmark::number_of(self.mark)
    }

    /// What schedulers may go by. An embedded packet is on its way to the client, and lblc, lblcr and dh go by that, as
    /// they do in the kernel.
    fn arrival<'b>(
        self,
        now: Time,
        key: &InboundKey,
        service: &VirtualService,
        tunables: &'b Tunables,
    ) -> Arrival<'b> {
        let destination = match self.kind {
            OccasionKind::Request(_) => key.virtual_address,
            OccasionKind::Error => key.client,
        };
        Arrival {
            now,
            client: key.client,
            destination: destination.ip(),
            flags: service.settings.scheduler_flags,
            tunables,
        }
    }
}

impl From<DropReason> for Unscheduled {
    fn from(reason: DropReason) -> Unscheduled {
        Unscheduled::Dropped(reason)
    }
}

impl Director {
    /// Makes the connection of a client's first packet.
    pub(super) fn schedule(
        &self,
        now: Time,
        services: &Services,
        shard: &mut Shard,
        key: &InboundKey,
        service: &VirtualService,
        occasion: Occasion<'_>,
    ) -> Result<Handle, Unscheduled> {
        self.make_room(now, services, shard, key, service);
        match self.place(now, &services.tunables, key, service, occasion) {
            Ok(placement) => Ok(self.connect(now, shard, key, service, placement)?),
            Err(unscheduled) if is_passed(services, service, unscheduled) => {
                Ok(self.pass(now, shard, key, service, occasion.mark)?)
            }
            Err(unscheduled) => Err(unscheduled),
        }
    }

    /// The server of a client's first packet.
    pub(super) fn place(
        &self,
        now: Time,
        tunables: &Tunables,
        key: &InboundKey,
        service: &VirtualService,
        occasion: Occasion<'_>,
    ) -> Result<Placement, Unscheduled> {
        if key.client.port() == FTP_DATA_PORT {
            // A server's own data connection, which is either known or not ours.
            return Err(Unscheduled::Refused(Refusal::NotServed));
        }
        let arrival = occasion.arrival(now, key, service, tunables);
        match service.settings.persistence {
            Some(persistence) => {
                let data = pe_data(persistence, occasion.payload())?;
                let template = template_key(key, service, persistence, data);
                let new = NewEntry { fwmark: occasion.fwmark(), timeout: persistence.timeout };
                self.place_persistent(&arrival, key, service, &template, new)
            }
            None => {
                let server = choose(&arrival, key, service)?;
                let server_port = own_or(server.port, key.virtual_address.port());
                Ok(Placement { server, server_port, controller: None, fwmark: occasion.fwmark() })
            }
        }
    }

    /// The server that the client's template names, or else one that the scheduler chooses and a new template names
    /// from now on.
    fn place_persistent(
        &self,
        arrival: &Arrival<'_>,
        key: &InboundKey,
        service: &VirtualService,
        template_key: &TemplateKey<'_>,
        NewEntry { fwmark, timeout }: NewEntry,
    ) -> Result<Placement, Unscheduled> {
        let Arrival { now, tunables, .. } = *arrival;
        let mut templates = self.table.templates(template_key.clients);
        let found = find_template(&mut templates, template_key, now, |template| is_valid(template, tunables));
        let handle = match found {
            Some(handle) => handle,
            None => {
                let server = choose(arrival, key, service)?;
                let port = if template_key.has_port() { server.port } else { 0 };
                let template = Template::new(server, port, Arc::clone(&service.core));
                self.table
                    .insert_template(
                        &mut templates,
                        *template_key,
                        NewTemplate::new(template, fwmark, timeout),
                        now,
                    )
                    .ok_or(DropReason::TableFull)?
            }
        };
        let server = Arc::clone(&templates.get(handle).server);
        let asked = key.virtual_address.port();
        // A service of every port keeps the port, even if its server has one.
        let server_port = if asked == service.key().port() { own_or(server.port, asked) } else { asked };
        Ok(Placement { server, server_port, controller: Some(templates.control(handle, now)), fwmark })
    }

    /// Files a connection to where `placement` says, and counts it.
    pub(super) fn connect(
        &self,
        now: Time,
        shard: &mut Shard,
        key: &InboundKey,
        service: &VirtualService,
        placement: Placement,
    ) -> Result<Handle, DropReason> {
        let mut connection = Connection::new(key, placement, Arc::clone(&service.core));
        // Where nothing is translated, nothing can stand in.
        let attempts = if connection.is_nat() { PORT_ATTEMPTS } else { 0 };
        let answering = connection.outbound_key().server;
        connection.translate_client_port(self.server_side_port(now, shard, key, answering, attempts, None)?);
        connection.application = Application::of(&connection).map(Box::new);
        let handle = self.table.insert(shard, connection, now).ok_or(DropReason::TableFull)?;
        shard.get(handle).count_conn();
        Ok(handle)
    }

    /// Has schedulers forget what is too old. Call it every second.
    pub fn maintain_schedulers(&self, now: Time) {
        let services = self.services();
        for service in services.iter().filter(|service| service.scheduler.forgets()) {
            service.core.with_scheduler(|scheduler| scheduler.on_tick(now, &services.tunables));
        }
    }

    /// The client port the server is to see: the client's own, unless the client already uses it towards this
    /// server through another service. Then the server could not tell the two connections apart, nor we its
    /// replies, and another port stands in, if one of `attempts` others is free. What `leaving` has is free.
    pub(super) fn server_side_port(
        &self,
        now: Time,
        shard: &Shard,
        key: &InboundKey,
        server: SocketAddr,
        attempts: u16,
        leaving: Option<Handle>,
    ) -> Result<u16, DropReason> {
        let own = key.client.port();
        let span = u16::MAX - FIRST_STAND_IN_PORT + 1;
        let start = self.hasher.hash_one(key) as u16 % span;
        std::iter::once(own)
            .chain((0..attempts).map(|step| {
                let offset = (u32::from(start) + u32::from(step)) % u32::from(span);
                FIRST_STAND_IN_PORT + offset as u16
            }))
            .find(|&port| {
                let client = SocketAddr::new(key.client.ip(), port);
                let outbound = OutboundKey { transport: key.transport, client, server };
                let taken = shard.find_outbound(&outbound, now);
                taken.is_none() || taken == leaving
            })
            .ok_or(DropReason::PortsExhausted)
    }
}

/// The connection of one datagram, which ends as it begins, to where `placement` says. Counts it.
pub(super) fn connect_once(key: &InboundKey, service: &VirtualService, placement: Placement) -> Connection {
    let connection = Connection::new(key, placement, Arc::clone(&service.core));
    connection.count_once();
    connection
}

/// The server that the scheduler chooses. If there is none, a packet that was only thought to be FTP's data is as good
/// as any that fits no service (`ip_vs_leave`).
fn choose(
    arrival: &Arrival<'_>,
    key: &InboundKey,
    service: &VirtualService,
) -> Result<Arc<RealServer>, Unscheduled> {
    let is_data = service.key().port() == FTP_PORT && key.virtual_address.port() != FTP_PORT;
    let refusal = if is_data { Refusal::NotServed } else { Refusal::NoServer };
    let server = service.schedule(arrival).ok_or(Unscheduled::Refused(refusal))?;
    // It is being removed. What the client sends again will find the services as they are then.
    if server.is_available() { Ok(server) } else { Err(DropReason::ServerRemoved.into()) }
}

/// A server's port, or the one that was asked for if the server has none of its own.
fn own_or(port: u16, asked: u16) -> u16 {
    if port == 0 { asked } else { port }
}

/// What the service's persistence engine, if it has one, finds in a first packet. Where that is nothing, there is no
/// falling back on addresses (`ip_vs_conn_fill_param_persist`).
fn pe_data(
    persistence: Persistence,
    payload: &[u8],
) -> Result<Option<(PersistenceEngine, &[u8])>, DropReason> {
    let Some(engine) = persistence.engine else { return Ok(None) };
    let data = engine.data(payload).ok_or(DropReason::NoCallId)?;
    Ok(Some((engine, data)))
}

/// The template of a connection to come. A service of every port has one for all of them, a mark one for all protocols
/// and addresses as well, and FTP one for all ports, because data
/// connections must reach the server of the control connection.
pub(super) fn template_key<'a>(
    key: &InboundKey,
    service: &VirtualService,
    persistence: Persistence,
    pe_data: Option<(PersistenceEngine, &'a [u8])>,
) -> TemplateKey<'a> {
    let asked = key.virtual_address;
    let target = match service.key() {
        ServiceKey::Mark { mark, .. } => TemplateTarget::Mark(mark),
        ServiceKey::Endpoint { transport, port, .. } => {
            let port = if asked.port() == port && port != FTP_PORT { port } else { 0 };
            TemplateTarget::Endpoint { transport, address: SocketAddr::new(asked.ip(), port) }
        }
    };
    TemplateKey { clients: persistence.clients.apply(key.client.ip()), target, pe_data }
}

/// The template that has the key, if it may be used; one that may not is void from now on.
pub(super) fn find_template(
    templates: &mut TemplateShard,
    key: &TemplateKey<'_>,
    now: Time,
    may_be_used: impl FnOnce(&Template) -> bool,
) -> Option<TemplateHandle> {
    let found = templates.find(key, now)?;
    if may_be_used(templates.get(found)) {
        return Some(found);
    }
    templates.invalidate(found);
    None
}

/// What a new template has of its own.
#[derive(Clone, Copy, Debug)]
struct NewEntry {
    fwmark: u32,
    timeout: Duration,
}

/// Whether a template may be used (`ip_vs_check_template`). Weight 0 and a full server do not matter to it.
pub(super) fn is_valid(template: &Template, tunables: &Tunables) -> bool {
    let server = &template.server;
    let is_quiescent = tunables.expire_quiescent_template && server.weight().get() == 0;
    server.is_available() && !server.is_nobody() && !is_quiescent
}
