//! The engine: one packet in, one verdict out (`net/netfilter/ipvs/ip_vs_core.c`).
//!
//! Steering only brings what may be ours: packets to a virtual address, packets whose source is a real server's
//! address and port, ICMP errors that embed either. The engine finds out what really is.

use super::connection::{
    Connection, ConnectionTable, ConnectionView, Handle, InboundKey, OutboundKey, Shard,
};
use super::estimation::Estimation;
use super::packet::{FlowInfo, IcmpErrorInfo, IcmpRewrite, Packet, Parsed, Rewrite, Signal};
use super::protocol::{Direction, Event, SctpEvent, TcpEvent};
use super::service::{ForwardMethod, RealServer, Services, VirtualService};
use super::{DropReason, Limits, PacketMeta, Refusal, TableHasher, Time, Verdict};
use arc_swap::ArcSwap;
use std::hash::BuildHasher;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, MutexGuard};
use std::time::Duration;
use sync_proto::ConnFlags;

/// How often the table is swept; an entry is removed at most this much after its time.
const SWEEP_INTERVAL: Duration = Duration::from_secs(1);
/// How many ports are tried to stand in for a client's before the connection is refused.
const PORT_ATTEMPTS: u16 = 64;
const FIRST_STAND_IN_PORT: u16 = 1024;

/// The director. Every method may be called from any thread.
#[derive(Debug)]
pub struct Director {
    pub(super) services: ArcSwap<Services>,
    pub(super) changes: super::change::Changes,
    pub(super) estimation: Estimation,
    pub(super) hasher: TableHasher,
    table: ConnectionTable,
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
            table: ConnectionTable::new(limits.max_connections, &hasher),
            hasher,
            drops: std::array::from_fn(|_| AtomicU64::new(0)),
        }
    }

    /// Decides the fate of one packet, rewriting it in place where the verdict says so.
    pub fn handle_packet(&self, now: Time, meta: &PacketMeta, bytes: &mut [u8]) -> Verdict {
        let services = self.services.load();
        let mut packet = Packet::new(bytes, meta);
        let decided = packet.parse().and_then(|parsed| match parsed {
            Parsed::Flow(flow) => self.handle_flow(now, &services, &mut packet, &flow),
            Parsed::IcmpError(error) => self.handle_icmp_error(now, &mut packet, &error),
            Parsed::Other => Ok(Verdict::Accept),
        });
        decided.unwrap_or_else(|reason| {
            self.drops[reason as usize].fetch_add(1, Ordering::Relaxed);
            Verdict::Drop(reason)
        })
    }

    /// Ends what has lasted long enough. Call it when [`Director::next_timeout`] says so.
    pub fn handle_timeout(&self, now: Time) {
        self.table.expire(now);
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

    /// The number of connections, and how many there may be.
    pub fn connection_count(&self) -> (usize, usize) {
        (self.table.len(), self.table.capacity())
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
        packet: &mut Packet<'_>,
        flow: &FlowInfo,
    ) -> Result<Verdict, DropReason> {
        let key =
            InboundKey { transport: flow.transport, client: flow.source, virtual_address: flow.destination };
        let is_request = services.has_address(flow.destination.ip());
        if is_request {
            let mut shard = self.table.shard(key.client.ip());
            if let Some(handle) = self.find_request(now, &mut shard, &key, flow) {
                return forward_request(now, services, shard, handle, packet, flow);
            }
        }
        // Before anything new is made: a client on this host may have a virtual address for its own, and then
        // replies to it go to a virtual address as well.
        if let Some(verdict) = self.handle_reply(now, services, packet, flow)? {
            return Ok(verdict);
        }
        if !is_request {
            return Ok(Verdict::Accept);
        }
        let starts = event(flow).is_some_and(|event| event.starts_connection(services.strictness));
        let Some(service) = services.find(flow.transport, flow.destination).filter(|_| starts) else {
            return Ok(Verdict::Refuse(Refusal::NotServed));
        };
        let mut shard = self.table.shard(key.client.ip());
        // Its twin may have come through another worker meanwhile.
        let handle = match self.find_request(now, &mut shard, &key, flow) {
            Some(handle) => handle,
            None => {
                let Some(server) = service.schedule() else {
                    return Ok(Verdict::Refuse(Refusal::NoServer));
                };
                self.connect(now, &mut shard, &key, service, server)?
            }
        };
        forward_request(now, services, shard, handle, packet, flow)
    }

    /// The connection of a client's packet (`ip_vs_in_hook`), unless the packet starts another in its place.
    fn find_request(
        &self,
        now: Time,
        shard: &mut Shard,
        key: &InboundKey,
        flow: &FlowInfo,
    ) -> Option<Handle> {
        let handle = shard.find_inbound(key, now)?;
        if starts_anew(shard.get(handle), flow) {
            self.table.remove(shard, handle);
            return None;
        }
        Some(handle)
    }

    /// A packet from where a real server is (`ip_vs_out_hook`). `None`: it belongs to no connection.
    fn handle_reply(
        &self,
        now: Time,
        services: &Services,
        packet: &mut Packet<'_>,
        flow: &FlowInfo,
    ) -> Result<Option<Verdict>, DropReason> {
        let key = OutboundKey { transport: flow.transport, client: flow.destination, server: flow.source };
        let mut shard = self.table.shard(flow.destination.ip());
        let Some(handle) = shard.find_outbound(&key, now) else { return Ok(None) };
        let connection = shard.get_mut(handle);
        connection.answers_elsewhere |= answers_another(connection, flow);
        advance(connection, services, Direction::Output, flow);
        if connection.answers_elsewhere {
            shard.restart_timer(handle, now);
            return Ok(Some(Verdict::Accept));
        }
        connection.count_out(flow.len);
        let source = connection.is_nat().then_some(connection.service.source);
        let client = connection.translates_client_port().then(|| connection.client());
        shard.restart_timer(handle, now);
        drop(shard);
        let rewritten = match client {
            Some(client) => Some(packet.rewrite(flow, Rewrite { source: None, destination: Some(client) })?),
            None => None,
        };
        Ok(Some(Verdict::Forward { rewritten, source }))
    }

    /// An ICMP error, in either direction (`ip_vs_in_icmp`, `ip_vs_out_icmp`). Timers are not restarted.
    fn handle_icmp_error(
        &self,
        now: Time,
        packet: &mut Packet<'_>,
        error: &IcmpErrorInfo,
    ) -> Result<Verdict, DropReason> {
        if let Some(verdict) = self.handle_error_about_reply(now, packet, error)? {
            return Ok(verdict);
        }
        Ok(self.handle_error_about_request(now, packet, error)?.unwrap_or(Verdict::Accept))
    }

    /// An error about a packet that we sent to a client in the name of a virtual address: on to the server.
    fn handle_error_about_reply(
        &self,
        now: Time,
        packet: &mut Packet<'_>,
        error: &IcmpErrorInfo,
    ) -> Result<Option<Verdict>, DropReason> {
        let key = InboundKey {
            transport: error.embedded_transport,
            client: error.embedded_destination,
            virtual_address: error.embedded_source,
        };
        let shard = self.table.shard(key.client.ip());
        let Some(handle) = shard.find_inbound(&key, now) else { return Ok(None) };
        let connection = shard.get(handle);
        connection.count_in(error.len);
        if !connection.is_nat() {
            return Ok(Some(UNCHANGED));
        }
        let server = connection.server_address();
        let rewrite = IcmpRewrite {
            destination: Some(server.ip()),
            embedded_source: Some(server),
            embedded_destination: connection
                .translates_client_port()
                .then(|| connection.server_side_client()),
            ..IcmpRewrite::default()
        };
        drop(shard);
        let rewritten = packet.rewrite_icmp_error(error, rewrite)?;
        Ok(Some(Verdict::Forward { rewritten: Some(rewritten), source: None }))
    }

    /// An error about a packet that we sent to a server for a client: on to the client.
    fn handle_error_about_request(
        &self,
        now: Time,
        packet: &mut Packet<'_>,
        error: &IcmpErrorInfo,
    ) -> Result<Option<Verdict>, DropReason> {
        let key = OutboundKey {
            transport: error.embedded_transport,
            client: error.embedded_source,
            server: error.embedded_destination,
        };
        let shard = self.table.shard(key.client.ip());
        let Some(handle) = shard.find_outbound(&key, now) else { return Ok(None) };
        let connection = shard.get(handle);
        if connection.answers_elsewhere {
            return Ok(None);
        }
        connection.count_out(error.len);
        if !connection.is_nat() {
            return Ok(Some(UNCHANGED));
        }
        let rewrite = IcmpRewrite {
            embedded_source: connection.translates_client_port().then(|| connection.client()),
            embedded_destination: Some(connection.virtual_address()),
            ..IcmpRewrite::default()
        };
        let source = connection.service.source;
        drop(shard);
        let rewritten = packet.rewrite_icmp_error(error, rewrite)?;
        Ok(Some(Verdict::Forward { rewritten: Some(rewritten), source: Some(source) }))
    }

    /// Makes the connection of a first packet.
    fn connect(
        &self,
        now: Time,
        shard: &mut Shard,
        key: &InboundKey,
        service: &VirtualService,
        server: &Arc<RealServer>,
    ) -> Result<Handle, DropReason> {
        let server_port = if server.port == 0 { key.virtual_address.port() } else { server.port };
        let port = match server.forward {
            ForwardMethod::Nat => {
                let server = SocketAddr::new(server.address, server_port);
                self.server_side_port(now, shard, key, server, PORT_ATTEMPTS)?
            }
            // Where nothing is translated, nothing can stand in.
            ForwardMethod::Dr | ForwardMethod::Tunnel => {
                self.server_side_port(now, shard, key, key.virtual_address, 0)?
            }
        };
        let connection =
            Connection::new(key, Arc::clone(server), server_port, port, Arc::clone(&service.core));
        let handle = self.table.insert(shard, connection, now).ok_or(DropReason::TableFull)?;
        shard.get(handle).count_conn();
        Ok(handle)
    }

    /// The client port the server is to see: the client's own, unless the client already uses it towards this
    /// server through another service. Then the server could not tell the two connections apart, nor we its
    /// replies, and another port stands in, if one of `attempts` others is free.
    fn server_side_port(
        &self,
        now: Time,
        shard: &Shard,
        key: &InboundKey,
        server: SocketAddr,
        attempts: u16,
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
                shard.find_outbound(&outbound, now).is_none()
            })
            .ok_or(DropReason::PortsExhausted)
    }
}

/// Takes a client's packet to its connection's server.
fn forward_request(
    now: Time,
    services: &Services,
    mut shard: MutexGuard<'_, Shard>,
    handle: Handle,
    packet: &mut Packet<'_>,
    flow: &FlowInfo,
) -> Result<Verdict, DropReason> {
    let connection = shard.get_mut(handle);
    if !connection.server.is_available() {
        return Err(DropReason::ServerRemoved);
    }
    connection.count_in(flow.len);
    connection.answers_elsewhere &= !opens(flow);
    advance(connection, services, Direction::Input, flow);
    let rewrite = connection.is_nat().then(|| Rewrite {
        source: connection.translates_client_port().then(|| connection.server_side_client()),
        destination: Some(connection.server_address()),
    });
    shard.restart_timer(handle, now);
    // Sums over the whole packet need no lock.
    drop(shard);
    let Some(rewrite) = rewrite else { return Ok(UNCHANGED) };
    Ok(Verdict::Forward { rewritten: Some(packet.rewrite(flow, rewrite)?), source: None })
}

/// Ours, and sent on as it is.
const UNCHANGED: Verdict = Verdict::Forward { rewritten: None, source: None };

/// Whether a client re-uses its port for a new connection while the old one is closing: rescheduled at once
/// (`conn_reuse_mode` = 1; `is_new_conn_expected`).
fn starts_anew(connection: &Connection, flow: &FlowInfo) -> bool {
    opens(flow) && connection.state.is_reusable()
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
    let step = connection.state.advance(direction, event, services.strictness, &services.timeouts);
    connection.state = step.state;
    connection.set_timeout(step.timeout);
    if let Some(active) = step.activity {
        if active {
            connection.flags.remove(ConnFlags::INACTIVE);
        } else {
            connection.flags.insert(ConnFlags::INACTIVE);
        }
        connection.server.set_connection_active(active);
    }
}
