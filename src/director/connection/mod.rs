//! Connections: the table workers share, its keys and its expiry (`net/netfilter/ipvs/ip_vs_conn.c`).
//!
//! The table is split into shards by **client address**, one mutex each, so that both directions of a connection,
//! and the ICMP errors about it, meet in the same shard whatever worker they arrive at. An entry is indexed twice:
//! as clients' packets name it (client, virtual) and as servers' packets do (client as the server sees it,
//! server; where the director does not translate, the server answers in the name of the virtual address).

mod arena;
mod drop_entry;
mod index;
mod shard;
mod table;
mod templates;
mod wheel;

pub use drop_entry::DropEntry;
pub use shard::{Handle, Shard};
pub use table::{ConnectionTable, Place};
pub use templates::{
    Controller, NewTemplate, Template, TemplateHandle, TemplateKey, TemplateNews, TemplateShard,
    TemplateTarget, TemplateView,
};

use crate::director::app::{Application, Control, Hold};
use crate::director::packet::Transport;
use crate::director::protocol::{NEW_CONNECTION_TIMEOUT, SctpState, State, TcpState};
use crate::director::service::{ForwardMethod, RealServer, ServiceCore, ServiceKey, Services, Stats};
use crate::director::sync::{Emission, Source};
use crate::director::{ReplySource, Route, Time};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;
use sync_proto::{ConnFlags, SequenceShifts};

/// How a client's packet names its connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct InboundKey {
    /// The protocol.
    pub transport: Transport,
    /// Who asks.
    pub client: SocketAddr,
    /// What is asked for.
    pub virtual_address: SocketAddr,
}

/// How a server's packet names its connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct OutboundKey {
    /// The protocol.
    pub transport: Transport,
    /// The client as the server sees it.
    pub client: SocketAddr,
    /// In whose name the server answers: its own, or the virtual one where nothing is translated.
    pub server: SocketAddr,
}

/// Which server a new connection gets, and why.
#[derive(Debug)]
pub struct Placement {
    /// The server.
    pub server: Arc<RealServer>,
    /// The port on it.
    pub server_port: u16,
    /// The template that says so, if not the scheduler.
    pub controller: Option<Controller>,
    /// The mark of the packet that the connection is made for; 0: none.
    pub fwmark: u32,
}

/// One connection (`struct ip_vs_conn`).
///
/// Ports and addresses are laid out for size: a million of these is what a busy director holds.
#[derive(Debug)]
pub struct Connection {
    client: IpAddr,
    virtual_address: IpAddr,
    client_port: u16,
    /// The client's port as the server sees it; differs from `client_port` only where the client already uses that
    /// port towards the same server through another service.
    server_side_client_port: u16,
    virtual_port: u16,
    server_port: u16,
    /// The protocol.
    pub transport: Transport,
    /// The protocol's state.
    pub state: State,
    /// Flags, as the synchronisation protocol numbers them.
    pub flags: ConnFlags,
    /// The server has answered a packet that did not come through the director: until the client sends another one
    /// here, the server's packets are none of ours.
    pub answers_elsewhere: bool,
    /// The client is the server itself.
    is_hairpin: bool,
    packets: u32,
    fwmark: u32,
    timeout_millis: u32,
    /// What other directors were told of it last.
    pub emission: Emission,
    /// The real server that has it.
    pub server: Arc<RealServer>,
    /// The service that made it.
    pub service: Arc<ServiceCore>,
    /// The persistence template that it was made from.
    pub controller: Option<Controller>,
    /// What it is to FTP, if anything.
    pub application: Option<Box<Application>>,
}

impl Connection {
    /// A connection that `key` names, to where `placement` says, in its first state and by the server's present method.
    pub fn new(key: &InboundKey, placement: Placement, service: Arc<ServiceCore>) -> Connection {
        let Placement { server, server_port, controller, fwmark } = placement;
        let method = server.forwarding().method;
        let mut flags = method.connection_flags();
        // `ip_vs_bind_dest` sets it, which is not called where there is no server.
        if method != ForwardMethod::Bypass {
            flags.insert(ConnFlags::INACTIVE);
        }
        Connection {
            client: key.client.ip(),
            virtual_address: key.virtual_address.ip(),
            client_port: key.client.port(),
            server_side_client_port: key.client.port(),
            virtual_port: key.virtual_address.port(),
            server_port,
            transport: key.transport,
            state: match key.transport {
                Transport::Tcp => State::Tcp(TcpState::None),
                Transport::Udp => State::Udp,
                Transport::Sctp => State::Sctp(SctpState::None),
            },
            flags,
            answers_elsewhere: false,
            is_hairpin: false,
            packets: 0,
            fwmark,
            emission: Emission::default(),
            timeout_millis: millis(NEW_CONNECTION_TIMEOUT),
            server,
            service,
            controller,
            application: None,
        }
    }

    /// A data connection of this one, which is translated, before its first packet (`ip_vs_tcp_conn_listen`). Client
    /// port 0: it is known once the client comes.
    pub fn announced(&self, client_port: u16, virtual_port: u16, server_port: u16) -> Connection {
        let key = InboundKey {
            transport: self.transport,
            client: SocketAddr::new(self.client, client_port),
            virtual_address: SocketAddr::new(self.virtual_address, virtual_port),
        };
        let (server, fwmark) = (Arc::clone(&self.server), self.fwmark);
        let placement = Placement { server, server_port, controller: None, fwmark };
        let mut flags = ConnFlags::INACTIVE;
        if client_port == 0 {
            flags.insert(ConnFlags::NO_CPORT);
        }
        let state = State::Tcp(TcpState::Listen);
        let service = Arc::clone(&self.service);
        Connection { state, flags, is_hairpin: self.is_hairpin, ..Connection::new(&key, placement, service) }
    }

    /// Learns from which port the client comes, and which one the server is to see.
    pub(super) fn meet(&mut self, client_port: u16, server_side_client_port: u16) {
        self.client_port = client_port;
        self.server_side_client_port = server_side_client_port;
        self.flags.remove(ConnFlags::NO_CPORT);
    }

    /// What is remembered of it if it is a control connection of FTP.
    pub fn control(&self) -> Option<&Control> {
        match self.application.as_deref() {
            Some(Application::Control(control)) => Some(control),
            _ => None,
        }
    }

    /// The same, to be changed.
    pub fn control_mut(&mut self) -> Option<&mut Control> {
        match self.application.as_deref_mut() {
            Some(Application::Control(control)) => Some(control),
            _ => None,
        }
    }

    /// Its hold on the control connection that has announced it, if it is a data connection of FTP.
    pub fn held_by(&self) -> Option<&Hold> {
        match self.application.as_deref() {
            Some(Application::Data(hold)) => Some(hold),
            _ => None,
        }
    }

    /// Whether it is a data connection of FTP that a control connection has announced.
    pub fn is_data(&self) -> bool {
        self.held_by().is_some()
    }

    /// How many connections it controls and must not end before (`n_control`).
    pub fn controls(&self) -> u32 {
        self.control().map_or(0, |control| control.data_connections().count())
    }

    /// Whether a template or another connection controls it (`control`).
    pub fn is_controlled(&self) -> bool {
        self.controller.is_some() || self.is_data()
    }

    /// The client.
    pub fn client(&self) -> SocketAddr {
        SocketAddr::new(self.client, self.client_port)
    }

    /// The client by the port at which the server sees it.
    pub fn server_side_client(&self) -> SocketAddr {
        SocketAddr::new(self.client, self.server_side_client_port)
    }

    /// Has the server see another client port than the client has.
    pub fn translate_client_port(&mut self, stand_in: u16) {
        self.server_side_client_port = stand_in;
    }

    /// Whether the server sees another client port than the client has.
    pub fn translates_client_port(&self) -> bool {
        self.client_port != self.server_side_client_port
    }

    /// Notes that the client, whose packets come over a link, may be the server itself.
    pub fn note_hairpin(&mut self) {
        self.is_hairpin = self.is_nat() && self.client == self.server.address;
    }

    /// Whether the client is the server itself, which sees it at the virtual address.
    pub fn is_hairpin(&self) -> bool {
        self.is_hairpin
    }

    /// Whether the server sees another address or port than the client has.
    pub fn translates_client(&self) -> bool {
        self.is_hairpin || self.translates_client_port()
    }

    /// The client as the server sees it in the end: at the virtual address if it is the server itself.
    pub fn client_as_seen(&self) -> SocketAddr {
        let address = if self.is_hairpin { self.virtual_address } else { self.client };
        SocketAddr::new(address, self.server_side_client_port)
    }

    /// What the destination of a reply becomes, if it changes; what `comes_again` is still found by the port then.
    pub fn reply_destination(&self, comes_again: bool) -> Option<SocketAddr> {
        match comes_again {
            true => self.is_hairpin.then(|| self.server_side_client()),
            false => self.translates_client().then(|| self.client()),
        }
    }

    /// Whether addresses and ports are translated, as opposed to packets being sent on as they are. The method is that
    /// which the server had when the connection was made.
    pub fn is_nat(&self) -> bool {
        self.flags.bits() & ConnFlags::METHOD.bits() == 0
    }

    /// How packets reach the server.
    pub fn forward(&self) -> ForwardMethod {
        ForwardMethod::of_connection(self.flags)
    }

    /// Whether packets reach the server through a tunnel.
    pub fn is_tunnelled(&self) -> bool {
        self.forward() == ForwardMethod::Tunnel
    }

    /// Whether a service has, or had, its server, and counts what goes there.
    pub fn is_bound(&self) -> bool {
        !self.server.is_nobody()
    }

    /// The route that its packets take where nothing is translated: in both directions by a
    /// [method that routes](ForwardMethod::is_routed), from the server if others reach it through a tunnel. To a server
    /// of no service, that which a service of the same virtual address has, if one has.
    pub fn route(&self, services: &Services) -> Option<Route> {
        match self.forward() {
            ForwardMethod::Nat | ForwardMethod::Bypass => None,
            _ if self.is_bound() => self.server.forwarding().route,
            _ => services.route(self.virtual_address, self.server.address),
        }
    }

    /// The virtual address and port.
    pub fn virtual_address(&self) -> SocketAddr {
        SocketAddr::new(self.virtual_address, self.virtual_port)
    }

    /// The real server's address and the port in use on it.
    pub fn server_address(&self) -> SocketAddr {
        SocketAddr::new(self.server.address, self.server_port)
    }

    /// What the kernel writes as the source of its replies, where they are translated: the service's, unless that has
    /// another port, or leaves the server's where that is not the virtual one.
    pub fn reply_source(&self) -> ReplySource {
        let ServiceKey::Endpoint { port, .. } = self.service.key else { return ReplySource::ASKED_AGAIN };
        let written = if port == 0 { self.server_port } else { port };
        if written == self.virtual_port { self.service.source } else { ReplySource::ASKED_AGAIN }
    }

    /// What is to be done about the client's packets, beside their destination, where the rules cannot know that they
    /// are ours: those of a mark, and data connections of FTP; and where their source changes.
    pub fn request_source(&self) -> Option<ReplySource> {
        if self.is_hairpin {
            return Some(ReplySource::ASKED_AGAIN);
        }
        (self.reply_source() == ReplySource::ASKED_AGAIN).then_some(ReplySource::UNTRACKED)
    }

    /// How long the connection lasts without a packet.
    pub fn timeout(&self) -> Duration {
        Duration::from_millis(u64::from(self.timeout_millis))
    }

    /// Changes how long the connection lasts without a packet; 49 days at most.
    pub fn set_timeout(&mut self, timeout: Duration) {
        self.timeout_millis = millis(timeout);
    }

    /// How many packets of the client's the connection has passed on (`in_pkts`); goes round.
    pub fn packets(&self) -> u32 {
        self.packets
    }

    /// Notes that a packet of the client's is passed on.
    pub fn note_packet(&mut self) {
        self.packets = self.packets.wrapping_add(1);
    }

    /// The mark of the packet that it was made for; 0: none.
    pub fn fwmark(&self) -> u32 {
        self.fwmark
    }

    /// Takes over what another director says of a connection that it has: it goes on from there.
    pub(in crate::director) fn take_over(
        &mut self,
        state: State,
        packets: u32,
        timeout: Duration,
        source: Source,
    ) {
        self.state = state;
        self.emission.note_state(state.number());
        self.emission.note_source(source);
        self.packets = packets;
        self.set_timeout(timeout);
    }

    /// How sequence numbers are adjusted, if anything is known of that.
    pub fn sequence_shifts(&self) -> Option<SequenceShifts> {
        self.application.as_deref().and_then(Application::sequence_shifts)
    }

    /// Takes over how another director adjusts sequence numbers. A data connection of FTP has none adjusted.
    pub fn adjust_sequence(&mut self, shifts: SequenceShifts) {
        match self.application.as_deref_mut() {
            Some(application) => application.adjust_sequence(shifts),
            None => self.application = Some(Box::new(Application::Foreign(shifts))),
        }
    }

    /// Gives it to a server of a service that was of none: by the server's method, and with the service's
    /// applications (`ip_vs_try_bind_dest`). How active it is stays.
    pub(super) fn bind(&mut self, server: Arc<RealServer>, service: Arc<ServiceCore>) {
        self.flags.remove(ConnFlags::METHOD);
        self.flags.remove(ConnFlags::NOOUTPUT);
        self.flags.insert(server.forwarding().method.connection_flags());
        self.server = server;
        self.service = service;
        self.is_hairpin = false;
        self.note_hairpin();
        let shifts = self.sequence_shifts();
        if !self.is_data() {
            self.application = Application::of(self).map(Box::new);
            shifts.into_iter().for_each(|shifts| self.adjust_sequence(shifts));
        }
    }

    /// Counts the connection itself, for server, service and total (`ip_vs_conn_stats`); not without a server.
    pub fn count_conn(&self) {
        if self.is_bound() {
            self.stats().into_iter().for_each(Stats::count_conn);
        }
    }

    /// Counts a connection that ends as it begins, at its server as well: nobody files it (`ONE_PACKET`).
    pub fn count_once(&self) {
        self.server.bind_connection(self.is_active());
        self.server.unbind_connection(self.is_active());
        self.count_conn();
    }

    /// Counts a packet of `bytes` from the client, for server, service and total; not once the server was removed, nor
    /// without one (`ip_vs_in_stats`).
    pub fn count_in(&self, bytes: usize) {
        if self.is_counted() {
            self.stats().into_iter().for_each(|stats| stats.count_in(bytes));
        }
    }

    /// Counts a packet of `bytes` to the client, as [`count_in`](Connection::count_in) does.
    pub fn count_out(&self, bytes: usize) {
        if self.is_counted() {
            self.stats().into_iter().for_each(|stats| stats.count_out(bytes));
        }
    }

    fn is_counted(&self) -> bool {
        self.server.is_available() && self.is_bound()
    }

    fn stats(&self) -> [&Stats; 3] {
        [&self.server.stats, &self.service.stats, &self.service.total]
    }

    /// Whether the connection counts as active.
    pub fn is_active(&self) -> bool {
        !self.flags.contains(ConnFlags::INACTIVE)
    }

    /// The key of the client's packets.
    pub fn inbound_key(&self) -> InboundKey {
        InboundKey {
            transport: self.transport,
            client: self.client(),
            virtual_address: self.virtual_address(),
        }
    }

    /// The key of the server's packets (`ip_vs_conn_out_get`).
    pub fn outbound_key(&self) -> OutboundKey {
        OutboundKey {
            transport: self.transport,
            client: self.server_side_client(),
            server: if self.is_nat() { self.server_address() } else { self.virtual_address() },
        }
    }
}

fn millis(timeout: Duration) -> u32 {
    u32::try_from(timeout.as_millis()).unwrap_or(u32::MAX)
}

/// A connection as it is shown.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConnectionView {
    /// The protocol.
    pub transport: Transport,
    /// The client.
    pub client: SocketAddr,
    /// The virtual address and port.
    pub virtual_address: SocketAddr,
    /// The real server.
    pub server: SocketAddr,
    /// How packets reach it.
    pub forward: ForwardMethod,
    /// The protocol's state.
    pub state: State,
    /// When it ends unless packets come.
    pub expires: Duration,
    /// Its flags.
    pub flags: ConnFlags,
}

impl ConnectionView {
    fn new(connection: &Connection, deadline: Time, now: Time) -> ConnectionView {
        ConnectionView {
            transport: connection.transport,
            client: connection.client(),
            virtual_address: connection.virtual_address(),
            server: connection.server_address(),
            forward: connection.forward(),
            state: connection.state,
            expires: deadline.since(now),
            flags: connection.flags,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_million_connections_are_104_megabytes() {
        assert_eq!(size_of::<Connection>(), 104);
    }
}
