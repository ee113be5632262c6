//! The engine: one packet in, one verdict out (`net/netfilter/ipvs/ip_vs_core.c`).
//!
//! Steering only brings what may be ours: packets to a virtual address, packets whose source is a real server's
//! address and port or a service's, ICMP errors that embed any of them. The engine finds out what really is.

use super::bypass::is_passed;
use super::connection::{
    Connection, ConnectionTable, ConnectionView, Handle, InboundKey, Shard, TemplateView,
};
use super::defence::TableDefence;
use super::estimation::Estimation;
use super::icmp_budget::IcmpBudget;
use super::icmp_scheduling::ToServer;
use super::packet::{FlowInfo, IcmpErrorInfo, IcmpRewrite, Packet, Parsed, Rewrite, Signal};
use super::protocol::{Direction, Event, SctpEvent, State, TcpEvent, TcpState};
use super::scheduling::{Occasion, OccasionKind, Unscheduled, connect_once};
use super::service::{
    Family, ForwardMethod, Fwmark, OnRemove, RealServer, Services, Tunables, VirtualService,
};
use super::sync::Source;
use super::tunnel::Destination;
use super::{DropReason, Hook, Limits, PacketMeta, Refusal, ReplySource, TableHasher, Time, Verdict};
use arc_swap::ArcSwap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, MutexGuard};
use std::time::Duration;
use sync_proto::ConnFlags;

/// How often the table is swept; an entry is removed at most this much after its time.
const SWEEP_INTERVAL: Duration = Duration::from_secs(1);

/// The director. Every method may be called from any thread.
#[derive(Debug)]
pub struct Director {
    pub(super) services: ArcSwap<Services>,
    pub(super) changes: super::change::Changes,
    pub(super) estimation: Estimation,
    pub(super) table_defence: TableDefence,
    pub(super) icmp_budget: IcmpBudget,
    pub(super) hasher: TableHasher,
    pub(super) table: ConnectionTable,
    pub(super) nobody: super::nobody::Nobody,
    pub(super) sync: super::sync::Synchronisation,
    /// Whether servers were removed since that was last looked at.
    pub(super) has_removed: AtomicBool,
    drops: [AtomicU64; DropReason::ALL.len()],
}

impl Director {
    /// A director without services. `seed` must be unpredictable to clients: the table is hashed with it.
    pub fn new(limits: Limits, seed: u64) -> Director {
        let hasher = TableHasher::new(seed);
        Director {
            services: ArcSwap::from_pointee(Services::empty(&hasher)),
            changes: super::change::Changes::new(seed),
            estimation: Estimation::default(),
            table_defence: TableDefence::new(seed),
            icmp_budget: IcmpBudget::default(),
            table: ConnectionTable::new(limits.max_connections, &hasher),
            nobody: super::nobody::Nobody::new(),
            sync: super::sync::Synchronisation::default(),
            hasher,
            has_removed: AtomicBool::new(false),
            drops: std::array::from_fn(|_| AtomicU64::new(0)),
        }
    }

    /// Decides the fate of one packet, rewriting it in place where the verdict says so.
    pub fn handle_packet(&self, now: Time, meta: &PacketMeta, bytes: &mut [u8]) -> Verdict {
        let services = self.services.load();
        let mut packet = Packet::new(bytes, meta);
        let decided = packet.parse().and_then(|parsed| match parsed {
            Parsed::Flow(flow) if meta.hook == Hook::Late => self.set_source(now, &mut packet, &flow),
            Parsed::IcmpError(error) if meta.hook == Hook::Late => {
                self.set_error_source(now, &mut packet, &error)
            }
            Parsed::Flow(flow) => self.handle_flow(now, &services, meta, &mut packet, &flow),
            Parsed::IcmpError(error) => {
                self.handle_icmp_error(now, &services, (meta.hook, meta.mark), &mut packet, &error)
            }
            Parsed::Other if self.passes_requests(&services) => Ok(Verdict::Accept),
            Parsed::Other => Ok(self.handle_tunnelled_error(now, &mut packet).unwrap_or(Verdict::Accept)),
        });
        decided.unwrap_or_else(|reason| {
            self.note_drop(reason);
            Verdict::Drop(reason)
        })
    }

    /// Ends what has lasted long enough. Call it when [`Director::next_timeout`] says so.
    pub fn handle_timeout(&self, now: Time) {
        let services = self.services.load();
        if self.has_removed.swap(false, Ordering::Relaxed) && services.tunables.expire_nodest_conn {
            self.table.expire_orphans();
        }
        self.table.expire(
            now,
            |shard, handle| self.synchronise_extended(now, &services, shard, handle),
            |templates, handle| self.synchronise_extended_template(now, &services, templates, handle),
        );
    }

    /// How long the caller may wait before [`Director::handle_timeout`]; `None`: nothing can expire.
    pub fn next_timeout(&self) -> Option<Duration> {
        (!self.table.is_empty()).then_some(SWEEP_INTERVAL)
    }

    /// The services as they are now.
    pub fn services(&self) -> Arc<Services> {
        self.services.load_full()
    }

    /// All connections, a part at a time, so that no caller needs room for all of them.
    pub fn connections(&self, now: Time) -> impl Iterator<Item = Vec<ConnectionView>> + '_ {
        self.table.views(now)
    }

    /// All persistence templates, a part at a time.
    pub fn templates(&self, now: Time) -> impl Iterator<Item = Vec<TemplateView>> + '_ {
        self.table.template_views(now)
    }

    /// The number of connections and templates, and how many there may be of both together.
    pub fn connection_count(&self) -> (usize, usize) {
        (self.table.len(), self.table.capacity())
    }

    /// Counts a packet that was dropped for `reason` after its verdict.
    pub fn note_drop(&self, reason: DropReason) {
        self.drops[reason as usize].fetch_add(1, Ordering::Relaxed);
    }

    /// How many packets were dropped for `reason`.
    pub fn drops(&self, reason: DropReason) -> u64 {
        self.drops[reason as usize].load(Ordering::Relaxed)
    }

    /// Checks that everything that is held twice agrees.
    ///
    /// # Panics
    /// If it does not. Call it while nobody else uses the director.
    pub fn check_invariants(&self) {
        let services = self.services.load();
        let configured = services.iter().flat_map(|service| service.servers.iter().cloned());
        let servers: Vec<Arc<RealServer>> = configured.chain(self.changes.removed_servers()).collect();
        self.table.check_invariants(servers.iter().map(AsRef::as_ref));
    }

    fn handle_flow(
        &self,
        now: Time,
        services: &Services,
        meta: &PacketMeta,
        packet: &mut Packet<'_>,
        flow: &FlowInfo,
    ) -> Result<Verdict, DropReason> {
        let key =
            InboundKey { transport: flow.transport, client: flow.source, virtual_address: flow.destination };
        let marked = meta.mark.and_then(|mark| services.marked(mark, Family::of(flow.source.ip())));
        let is_virtual = services.has_address(flow.destination.ip());
        let passes_requests = self.passes_requests(services);
        let is_request = (marked.is_some() || is_virtual) && !passes_requests;
        if is_request {
            let mut shard = self.table.shard(key.client.ip());
            match self.find_request(now, services, &mut shard, &key, flow) {
                Ok(None) => {}
                Ok(Some(handle)) => return self.forward_request(now, services, shard, handle, packet, flow),
                Err(unscheduled) => return unscheduled.verdict(),
            }
        }
        // Before anything new is made: a client on this host may have a virtual address for its own, and then
        // replies to it go to a virtual address as well.
        if let Some(verdict) = self.handle_reply(now, services, packet, flow)? {
            return Ok(verdict);
        }
        if !is_request && let Some(verdict) = self.connect_out(now, services, packet, flow)? {
            return Ok(verdict);
        }
        let starts = event(flow).is_some_and(|event| event.starts_connection(services.strictness()));
        let service = marked.or_else(|| services.find(flow.transport, flow.destination));
        let Some(service) = service.filter(|_| starts && !passes_requests) else {
            if let Some(verdict) = one_packet_reply(services, flow).or_else(|| stray_reply(services, flow)) {
                return Ok(verdict);
            }
            // A mark is no address of ours: what it does not serve may be anybody's.
            return Ok(if is_virtual && !passes_requests {
                Verdict::Refuse(Refusal::NotServed)
            } else {
                Verdict::Accept
            });
        };
        if services.defence.drops_packet() {
            return Err(DropReason::DropPacket);
        }
        if service.settings.one_packet && flow.signal == Signal::Udp {
            return self.forward_once(now, services, (service, meta.mark), &key, packet, flow);
        }
        let mut shard = self.table.shard(key.client.ip());
        // Its twin may have come through another worker meanwhile.
        let handle = self.find_request(now, services, &mut shard, &key, flow).and_then(|found| match found {
            Some(handle) => Ok(handle),
            None => {
                let kind = OccasionKind::Request(packet.payload(flow));
                let occasion = Occasion { kind, mark: meta.mark };
                let handle = self.schedule(now, services, &mut shard, &key, service, occasion)?;
                // A client on this host reaches itself without leaving it.
                if meta.hook == Hook::Prerouting {
                    shard.get_mut(handle).note_hairpin();
                }
                Ok(handle)
            }
        });
        match handle {
            Ok(handle) => self.forward_request(now, services, shard, handle, packet, flow),
            Err(unscheduled) => unscheduled.verdict(),
        }
    }

    /// The connection of a client's packet (`ip_vs_in_hook`), unless the packet starts another in its place, or it lost
    /// its server and does not wait for it.
    fn find_request(
        &self,
        now: Time,
        services: &Services,
        shard: &mut Shard,
        key: &InboundKey,
        flow: &FlowInfo,
    ) -> Result<Option<Handle>, Unscheduled> {
        let found = shard.find_inbound(key, now).or_else(|| self.meet_expected(now, shard, key));
        let Some(handle) = found else { return Ok(None) };
        let (connection, tunables) = (shard.get(handle), &services.tunables);
        let fate = if starts_anew(connection, flow, tunables) {
            OnRemove::Reschedule
        } else if connection.server.is_available() {
            return Ok(Some(handle));
        } else {
            services.on_remove(&connection.service, flow.transport)
        };
        let is_mark = connection.service.key.is_mark();
        match fate {
            OnRemove::Keep if !tunables.expire_nodest_conn => Err(DropReason::ServerRemoved.into()),
            OnRemove::Keep | OnRemove::Reschedule => {
                self.table.remove(shard, handle);
                Ok(None)
            }
            OnRemove::Reset => {
                self.table.remove(shard, handle);
                // The rules know no more of a mark than that it has no server.
                Err(Unscheduled::Refused(if is_mark { Refusal::NoServer } else { Refusal::NotServed }))
            }
        }
    }

    /// Takes a client's packet to its connection's server.
    fn forward_request(
        &self,
        now: Time,
        services: &Services,
        mut shard: MutexGuard<'_, Shard>,
        handle: Handle,
        packet: &mut Packet<'_>,
        flow: &FlowInfo,
    ) -> Result<Verdict, DropReason> {
        let connection = shard.get_mut(handle);
        connection.count_in(flow.len);
        connection.note_packet();
        connection.answers_elsewhere = false;
        advance(connection, services, Direction::Input, flow);
        let way = towards(connection, services);
        let rewrite = Rewrite {
            source: connection.translates_client_port().then(|| connection.server_side_client()),
            destination: Some(connection.server_address()),
        };
        let source = connection.request_source();
        self.synchronise(now, services, &mut shard, handle);
        let edit = self.follow(now, services, (&mut *shard, handle), Direction::Input, packet, flow)?;
        shard.restart_timer(handle, now);
        // Sums over the whole packet need no lock.
        drop(shard);
        match way? {
            Way::Enclosed(to) => return self.encapsulate_flow(now, services, to, packet, flow),
            Way::Unchanged(verdict) => return Ok(verdict),
            Way::Translated => {}
        }
        let rewritten = packet.rewrite_segment(flow, rewrite, edit.as_ref())?;
        Ok(Verdict::Forward { rewritten: Some(rewritten), source })
    }

    /// Takes a datagram to a server of a one-packet service. Its connection ends as it begins.
    fn forward_once(
        &self,
        now: Time,
        services: &Services,
        (service, mark): (&VirtualService, Option<Fwmark>),
        key: &InboundKey,
        packet: &mut Packet<'_>,
        flow: &FlowInfo,
    ) -> Result<Verdict, DropReason> {
        let occasion = Occasion { kind: OccasionKind::Request(packet.payload(flow)), mark };
        let placement = match self.place(now, &services.tunables, key, service, occasion) {
            Ok(placement) => placement,
            Err(unscheduled) if is_passed(services, service, unscheduled) => return Ok(Verdict::Accept),
            Err(unscheduled) => return unscheduled.verdict(),
        };
        let connection = connect_once(key, service, placement);
        connection.count_in(flow.len);
        if let Some(controller) = &connection.controller {
            self.synchronise_once(now, services, controller.template());
        }
        match towards(&connection, services)? {
            Way::Enclosed(to) => return self.encapsulate_flow(now, services, to, packet, flow),
            Way::Unchanged(verdict) => return Ok(verdict),
            Way::Translated => {}
        }
        let rewrite = Rewrite { source: None, destination: Some(connection.server_address()) };
        let rewritten = packet.rewrite(flow, rewrite)?;
        Ok(Verdict::Forward { rewritten: Some(rewritten), source: connection.request_source() })
    }

    /// A packet from where a real server is (`ip_vs_out_hook`). `None`: it belongs to no connection.
    pub(super) fn handle_reply(
        &self,
        now: Time,
        services: &Services,
        packet: &mut Packet<'_>,
        flow: &FlowInfo,
    ) -> Result<Option<Verdict>, DropReason> {
        let found = self.find_reply(now, flow.transport, flow.source, flow.destination);
        let Some((mut shard, handle)) = found else { return Ok(None) };
        let connection = shard.get_mut(handle);
        connection.answers_elsewhere |= answers_another(connection, flow);
        advance(connection, services, Direction::Output, flow);
        if connection.answers_elsewhere {
            shard.restart_timer(handle, now);
            return Ok(Some(Verdict::Accept));
        }
        connection.count_out(flow.len);
        let unchanged = unchanged(connection, services);
        let source = connection.reply_source();
        // What comes again is then still found by what the server has written.
        let destination = connection.reply_destination(source == ReplySource::ASKED_AGAIN);
        let edit = self.follow(now, services, (&mut *shard, handle), Direction::Output, packet, flow)?;
        shard.restart_timer(handle, now);
        drop(shard);
        if let Some(verdict) = unchanged {
            return Ok(Some(verdict));
        }
        let rewritten = if destination.is_some() || edit.is_some() {
            let rewrite = Rewrite { source: None, destination };
            Some(packet.rewrite_segment(flow, rewrite, edit.as_ref())?)
        } else {
            None
        };
        Ok(Some(Verdict::Forward { rewritten, source: Some(source) }))
    }

    /// A reply that was here before: writes the source, which may be a local address now that it has been routed. What
    /// can be said of the connection was said then.
    fn set_source(&self, now: Time, packet: &mut Packet<'_>, flow: &FlowInfo) -> Result<Verdict, DropReason> {
        let found = self.find_reply(now, flow.transport, flow.source, flow.destination);
        let Some((shard, handle)) = found else { return self.set_hairpin_source(now, packet, flow) };
        let connection = shard.get(handle);
        let rewrite = Rewrite {
            source: Some(connection.virtual_address()),
            destination: connection.translates_client_port().then(|| connection.client()),
        };
        drop(shard);
        Ok(Verdict::Forward { rewritten: Some(packet.rewrite(flow, rewrite)?), source: None })
    }

    /// The same for an ICMP error about a request, which is in terms of the client already.
    fn set_error_source(
        &self,
        now: Time,
        packet: &mut Packet<'_>,
        error: &IcmpErrorInfo,
    ) -> Result<Verdict, DropReason> {
        let key = InboundKey {
            transport: error.embedded_transport,
            client: error.embedded_source,
            virtual_address: error.embedded_destination,
        };
        if self.table.shard(key.client.ip()).find_inbound(&key, now).is_none() {
            return Ok(Verdict::Accept);
        }
        let rewrite = IcmpRewrite { source: Some(key.virtual_address.ip()), ..IcmpRewrite::default() };
        let rewritten = packet.rewrite_icmp_error(error, rewrite)?;
        Ok(Verdict::Forward { rewritten: Some(rewritten), source: None })
    }

    /// An ICMP error, in either direction (`ip_vs_in_icmp`, `ip_vs_out_icmp`). Timers are not restarted.
    fn handle_icmp_error(
        &self,
        now: Time,
        services: &Services,
        (hook, mark): (Hook, Option<Fwmark>),
        packet: &mut Packet<'_>,
        error: &IcmpErrorInfo,
    ) -> Result<Verdict, DropReason> {
        let passes_requests = self.passes_requests(services);
        if !passes_requests
            && let Some(verdict) = self.handle_error_about_reply(now, services, packet, error)?
        {
            return Ok(verdict);
        }
        if let Some(verdict) = self.handle_error_about_request(now, packet, error)? {
            return Ok(verdict);
        }
        if passes_requests {
            return Ok(Verdict::Accept);
        }
        // Nobody else has seen a routed packet with the server's address.
        let routed = match hook {
            Hook::Output => self.handle_error_about_routed(now, services, packet, error)?,
            Hook::Prerouting | Hook::Late => None,
        };
        match routed.or_else(|| self.handle_tunnelled_error(now, packet)) {
            Some(verdict) => Ok(verdict),
            None => self.schedule_error(now, services, mark, packet, error),
        }
    }

    /// An error about a packet that a client got in the name of a virtual address, from us or from the server: on to
    /// the server.
    fn handle_error_about_reply(
        &self,
        now: Time,
        services: &Services,
        packet: &mut Packet<'_>,
        error: &IcmpErrorInfo,
    ) -> Result<Option<Verdict>, DropReason> {
        let key = InboundKey {
            transport: error.embedded_transport,
            client: error.embedded_destination,
            virtual_address: error.embedded_source,
        };
        let mut shard = self.table.shard(key.client.ip());
        let Some(handle) = shard.find_inbound(&key, now) else { return Ok(None) };
        let to_server = ToServer::of(shard.get_mut(handle), services, error);
        drop(shard);
        self.send_error(to_server?, packet, error).map(Some)
    }

    /// An error about a packet that we sent to a server for a client: on to the client.
    fn handle_error_about_request(
        &self,
        now: Time,
        packet: &mut Packet<'_>,
        error: &IcmpErrorInfo,
    ) -> Result<Option<Verdict>, DropReason> {
        let (client, server) = (error.embedded_source, error.embedded_destination);
        let found = self.find_reply(now, error.embedded_transport, server, client);
        let Some((shard, handle)) = found else { return Ok(None) };
        let connection = shard.get(handle);
        if connection.answers_elsewhere {
            return Ok(None);
        }
        connection.count_out(error.len);
        if !connection.is_nat() {
            return Ok(Some(Verdict::Accept));
        }
        let rewrite = IcmpRewrite {
            destination: connection.is_hairpin().then(|| connection.client().ip()),
            embedded_source: connection.translates_client().then(|| connection.client()),
            embedded_destination: Some(connection.virtual_address()),
            ..IcmpRewrite::default()
        };
        let source = connection.reply_source();
        drop(shard);
        let rewritten = packet.rewrite_icmp_error(error, rewrite)?;
        Ok(Some(Verdict::Forward { rewritten: Some(rewritten), source: Some(source) }))
    }

    /// An error that this host made about a packet on its way by direct routing, which had the server's address in
    /// place of the virtual one: about a request, on to the client; about a reply, on to the server.
    fn handle_error_about_routed(
        &self,
        now: Time,
        services: &Services,
        packet: &mut Packet<'_>,
        error: &IcmpErrorInfo,
    ) -> Result<Option<Verdict>, DropReason> {
        let (from, to) = (error.embedded_source, error.embedded_destination);
        let request = self.find_routed(now, services, error, from, to);
        if let Some((virtual_address, source)) = request.or_else(|| routed_once(services, error)) {
            let rewrite =
                IcmpRewrite { embedded_destination: Some(virtual_address), ..IcmpRewrite::default() };
            let rewritten = packet.rewrite_icmp_error(error, rewrite)?;
            return Ok(Some(Verdict::Forward { rewritten: Some(rewritten), source: Some(source) }));
        }
        if let Some((virtual_address, _)) = self.find_routed(now, services, error, to, from) {
            let rewrite = IcmpRewrite { embedded_source: Some(virtual_address), ..IcmpRewrite::default() };
            let rewritten = packet.rewrite_icmp_error(error, rewrite)?;
            return Ok(Some(Verdict::Forward { rewritten: Some(rewritten), source: None }));
        }
        Ok(None)
    }

    /// The virtual end of the connection between `client` and `server`, which has the virtual port.
    fn find_routed(
        &self,
        now: Time,
        services: &Services,
        error: &IcmpErrorInfo,
        client: SocketAddr,
        server: SocketAddr,
    ) -> Option<(SocketAddr, ReplySource)> {
        let virtual_addresses = services.routed_to(server.ip());
        if virtual_addresses.is_empty() {
            return None;
        }
        let shard = self.table.shard(client.ip());
        virtual_addresses.iter().find_map(|&address| {
            let virtual_address = SocketAddr::new(address, server.port());
            let key = InboundKey { transport: error.embedded_transport, client, virtual_address };
            let connection = shard.get(shard.find_inbound(&key, now)?);
            let is_its = !connection.is_nat() && connection.server.address == server.ip();
            is_its.then(|| (virtual_address, connection.service.source))
        })
    }
}

/// How a client's packets go on to a connection's server.
pub(super) enum Way {
    /// In terms of the server.
    Translated,
    /// As they are.
    Unchanged(Verdict),
    /// As they are, inside others.
    Enclosed(Destination),
}

/// How a client's packets go on to a connection's server. Where that is of no service, nothing says how to wrap them,
/// and a route leads there only if a service of the same address has one.
pub(super) fn towards(connection: &Connection, services: &Services) -> Result<Way, DropReason> {
    let is_bound = connection.is_bound();
    match (unchanged(connection, services), connection.tunnel()) {
        (_, Some(to)) if is_bound => Ok(Way::Enclosed(to)),
        (_, Some(_)) => Err(DropReason::Unbound),
        (Some(Verdict::Forward { .. }), None) if !is_bound && connection.forward() == ForwardMethod::Dr => {
            Err(DropReason::Unbound)
        }
        (Some(verdict), None) => Ok(Way::Unchanged(verdict)),
        (None, None) => Ok(Way::Translated),
    }
}

/// What becomes of a connection's packets, in both directions, where nothing is translated.
fn unchanged(connection: &Connection, services: &Services) -> Option<Verdict> {
    match connection.route(services) {
        Some(route) => Some(Verdict::Route(route)),
        None if connection.is_nat() => None,
        None => Some(Verdict::Forward { rewritten: None, source: None }),
    }
}

/// Whether a client re-uses its port for a new connection, and is to have one in place of the old: that is over
/// (`is_new_conn_expected`), or its server is to get no new ones (`expire_nodest_conn`).
fn starts_anew(connection: &Connection, flow: &FlowInfo, tunables: &Tunables) -> bool {
    if !opens(flow) {
        return false;
    }
    if tunables.expire_nodest_conn && connection.server.weight().get() == 0 {
        return true;
    }
    let mode = tunables.conn_reuse_mode;
    let is_half_seen =
        connection.state == State::Tcp(TcpState::FinWait) && connection.flags.contains(ConnFlags::NOOUTPUT);
    // A template would name the same server again, and no service takes a data connection.
    let is_free = !connection.is_controlled();
    mode != 0 && is_free && (connection.state.is_reusable() || mode & 2 != 0 && is_half_seen)
}

/// What becomes of a datagram from a server of a one-packet service: no connection knows where it was asked, but there
/// is one address that it can have been. IPVS lets it go as it is; see docs/differences.md.
fn one_packet_reply(services: &Services, flow: &FlowInfo) -> Option<Verdict> {
    let (service, server) = services.one_packet_reply(flow.source).filter(|_| flow.signal == Signal::Udp)?;
    server.stats.count_out(flow.len);
    service.core.stats.count_out(flow.len);
    service.core.total.count_out(flow.len);
    Some(Verdict::Forward { rewritten: None, source: Some(service.core.source) })
}

/// What becomes of a packet from where a server is reached by NAT, of no connection, if the server is to be told
/// (`nat_icmp_send`).
fn stray_reply(services: &Services, flow: &FlowInfo) -> Option<Verdict> {
    let ends = match flow.signal {
        Signal::Tcp(flags) => flags.rst(),
        Signal::Sctp(_) => event(flow) == Some(Event::Sctp(SctpEvent::Abort)),
        Signal::Udp => false,
        Signal::Ipsec => true,
    };
    let is_told = !ends && services.tells_strays(flow.transport, flow.source);
    is_told.then_some(Verdict::Refuse(Refusal::NoServer))
}

/// The virtual address that a datagram was sent to before it was routed to a server of a one-packet service, going by
/// an error about it: no connection knows.
fn routed_once(services: &Services, error: &IcmpErrorInfo) -> Option<(SocketAddr, ReplySource)> {
    let server = error.embedded_destination;
    services.routed_to(server.ip()).iter().find_map(|&address| {
        let virtual_address = SocketAddr::new(address, server.port());
        let service = services.find(error.embedded_transport, virtual_address)?;
        let is_its =
            |real: &Arc<RealServer>| real.address == server.ip() && real.forwarding().method.is_routed();
        let routes_once = service.is_one_packet() && service.servers.iter().any(is_its);
        routes_once.then(|| (virtual_address, service.core.source))
    })
}

/// Whether the packet opens a connection by its protocol's own rules (`is_new_conn`).
fn opens(flow: &FlowInfo) -> bool {
    match flow.signal {
        Signal::Tcp(flags) => flags.syn(),
        Signal::Sctp(_) => event(flow) == Some(Event::Sctp(SctpEvent::Init)),
        Signal::Udp | Signal::Ipsec => false,
    }
}

/// Whether the server answers a client that did not open through us: it re-uses the port of a connection that is over
/// to reach the server directly. `ip_vs_out` would rewrite that server's packets; see docs/differences.md.
fn answers_another(connection: &Connection, flow: &FlowInfo) -> bool {
    let answers = opens(flow) || event(flow) == Some(Event::Sctp(SctpEvent::InitAck));
    answers && connection.is_nat() && connection.state.is_reusable()
}

/// What the packet means to the state tables; AH and ESP mean nothing to them.
fn event(flow: &FlowInfo) -> Option<Event> {
    match flow.signal {
        Signal::Tcp(flags) => Some(Event::Tcp(TcpEvent::from_flags(flags.0))),
        Signal::Udp => Some(Event::Udp),
        Signal::Sctp(chunks) => Some(Event::Sctp(SctpEvent::from_chunks(chunks.first, chunks.second))),
        Signal::Ipsec => None,
    }
}

/// Takes the connection's state, timeout and activity one packet further.
fn advance(connection: &mut Connection, services: &Services, direction: Direction, flow: &FlowInfo) {
    connection.emission.note_source(Source::Packet);
    let Some(event) = event(flow) else { return };
    let replies_elsewhere = connection.flags.contains(ConnFlags::NOOUTPUT);
    let direction = match direction {
        Direction::Input if replies_elsewhere => Direction::InputOnly,
        direction => direction,
    };
    // `udp_state_transition` has one state and no use for the flag.
    if direction == Direction::Output && event != Event::Udp {
        connection.flags.remove(ConnFlags::NOOUTPUT);
    }
    let timeouts = services.timeouts_of(&connection.service);
    let step = connection.state.advance(direction, event, services.strictness(), &timeouts);
    connection.state = step.state;
    connection.set_timeout(step.timeout);
    if let Some(controller) = connection.controller.as_ref().filter(|_| step.assures) {
        controller.assure();
    }
    // Nobody counts what has no server.
    if let Some(active) = step.activity.filter(|_| connection.is_bound()) {
        if active {
            connection.flags.remove(ConnFlags::INACTIVE);
        } else {
            connection.flags.insert(ConnFlags::INACTIVE);
        }
        connection.server.set_connection_active(active);
    }
}
