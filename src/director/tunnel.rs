//! Tunnels: packets to real servers that travel inside other packets (`ip_vs_tunnel_xmit`, `ip_vs_tunnel_xmit_v6` of
//! `net/netfilter/ipvs/ip_vs_xmit.c`).
//!
//! The engine says with an [`Encapsulation`] that a packet goes so. On which way it goes is the system's to say
//! ([`Path`]), and what comes of it there is again a matter of bytes and numbers ([`Onward`]).

use super::connection::{Connection, InboundKey};
use super::engine::Director;
use super::packet::{
    Enclosed, FlowInfo, IcmpErrorInfo, Packet, Problem, Signal, TunnelHeader, icmp_error, outer_protocol,
};
use super::service::{Services, Tunnel};
use super::{DropReason, ReplySource, Time, Verdict};
use std::hash::BuildHasher;
use std::net::IpAddr;

/// A packet that is to be sent to a real server inside another. Its bytes are those that the verdict was asked about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Encapsulation {
    /// Where the outer packet goes.
    pub server: IpAddr,
    /// How the packet is wrapped.
    pub tunnel: Tunnel,
    /// The packet itself.
    pub inner: Enclosed,
    /// Whether the outer packet may be fragmented, as opposed to the client being told that the packet is too big.
    pub may_be_fragmented: bool,
    /// The UDP port that a GUE packet comes from, the same for all of a flow.
    pub source_port: u16,
}

/// The way from here to a real server at this moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Path {
    /// The address that packets there come from.
    pub source: IpAddr,
    /// The longest packet that passes, in bytes.
    pub mtu: u32,
}

/// What comes of a packet to be encapsulated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Onward {
    /// The server is this host: the packet goes on as it came, for the virtual address.
    Local,
    /// It is sent inside this one.
    Send(Outer),
    /// It ends here, and its sender is told.
    Tell(Problem),
    /// It ends here.
    Drop(DropReason),
}

/// The headers of an outer packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Outer {
    /// The address it has to come from, where a checksum covers that.
    pub source: Option<IpAddr>,
    /// The address it goes to.
    pub destination: IpAddr,
    /// The protocol in its IP header.
    pub protocol: u8,
    /// Its time to live (hop limit): that of the inner packet.
    pub hop_limit: u8,
    /// Its type of service (traffic class).
    pub traffic_class: u8,
    /// Whether it may be fragmented; if not, it has the flag DF (IPv4) and is not fragmented here (IPv6).
    pub may_be_fragmented: bool,
    /// What stands between its IP header and the inner packet.
    pub header: TunnelHeader,
    /// How long the inner packet is, in bytes.
    pub inner_len: usize,
}

impl Encapsulation {
    /// What comes of the packet, which `packet` begins with, on this path.
    pub fn onward(&self, path: Path, packet: &[u8]) -> Onward {
        if path.source == self.server {
            return Onward::Local;
        }
        let ip_header = if self.server.is_ipv4() { 20 } else { 40 };
        let overhead = ip_header + self.tunnel.header_len() as u32;
        let room = path.mtu.saturating_sub(overhead);
        if room < IPV4_MIN_MTU {
            return Onward::Drop(DropReason::TunnelMtu);
        }
        if !self.may_be_fragmented && self.inner.len > room as usize {
            let mtu = if self.inner.is_v6 { room.max(IPV6_MIN_MTU) } else { room };
            return Onward::Tell(Problem::TooBig { mtu });
        }
        let inner = packet.get(..self.inner.len).unwrap_or(packet);
        let header = TunnelHeader::new(self.tunnel, inner, self.source_port, path.source, self.server);
        match header {
            None => Onward::Drop(DropReason::TunnelMtu),
            Some(header) => Onward::Send(Outer {
                source: self.tunnel.covers_addresses().then_some(path.source),
                destination: self.server,
                protocol: outer_protocol(self.tunnel, self.inner.is_v6),
                hop_limit: self.inner.hop_limit,
                traffic_class: ecn_encapsulated(self.inner.traffic_class),
                may_be_fragmented: self.may_be_fragmented,
                header,
                inner_len: inner.len(),
            }),
        }
    }
}

impl Director {
    /// The verdict about a packet of a connection to a server behind a tunnel.
    pub(super) fn encapsulate_flow(
        &self,
        now: Time,
        services: &Services,
        to: Destination,
        packet: &mut Packet<'_>,
        flow: &FlowInfo,
    ) -> Result<Verdict, DropReason> {
        let Some(inner) = packet.enclose_flow(flow)? else {
            return self.refuse(now, Problem::HopLimit, packet.bytes());
        };
        // What every IPv6 link takes cannot be too big for its sender (RFC 2473, 7.1). Nor can a datagram that was put
        // together from fragments, which look like any other here; of TCP there are none.
        let must_fit = match (inner.is_v6, flow.signal) {
            (false, _) => inner.dont_fragment,
            (true, Signal::Tcp(_)) => inner.len > IPV6_MIN_MTU as usize,
            (true, _) => false,
        };
        let may_be_fragmented = !must_fit || !services.tunables.pmtu_disc;
        Ok(Verdict::Encapsulate(self.encapsulation(to, inner, may_be_fragmented)))
    }

    /// The same about an ICMP error to the server, about which no other is sent.
    pub(super) fn encapsulate_error(
        &self,
        to: Destination,
        packet: &mut Packet<'_>,
        error: &IcmpErrorInfo,
    ) -> Result<Verdict, DropReason> {
        let inner = packet.enclose_error(error)?.ok_or(DropReason::HopLimit)?;
        Ok(Verdict::Encapsulate(self.encapsulation(to, inner, true)))
    }

    fn encapsulation(&self, to: Destination, inner: Enclosed, may_be_fragmented: bool) -> Encapsulation {
        let source_port = match to.tunnel {
            Tunnel::Gue { .. } => FIRST_SOURCE_PORT | self.hasher.hash_one(to.flow) as u16,
            Tunnel::Ipip | Tunnel::Gre { .. } => 0,
        };
        Encapsulation { server: to.server, tunnel: to.tunnel, inner, may_be_fragmented, source_port }
    }

    /// The ICMP error that tells the sender of `packet` what keeps it from its server, if it is to be told now.
    ///
    /// What it needs for finding the path's MTU is told always, the rest within bounds, as the kernel does
    /// (`icmpv4_global_allow`).
    pub fn tell(&self, now: Time, problem: Problem, packet: &[u8]) -> Option<Vec<u8>> {
        let is_told = matches!(problem, Problem::TooBig { .. }) || self.icmp_budget.take(now);
        if is_told { icmp_error(packet, problem) } else { None }
    }

    fn refuse(&self, now: Time, problem: Problem, packet: &[u8]) -> Result<Verdict, DropReason> {
        let error = self.tell(now, problem, packet).ok_or(problem.drop_reason())?;
        self.note_drop(problem.drop_reason());
        Ok(Verdict::Tell { error, goes_on: false })
    }

    /// An ICMP error about a packet that was sent through a tunnel: the client is told of it, and the kernel, which
    /// learns the MTU of the path from it, gets it as well.
    pub(super) fn handle_tunnelled_error(&self, now: Time, packet: &mut Packet<'_>) -> Option<Verdict> {
        let error = packet.tunnelled_error()?;
        let key = InboundKey {
            transport: error.transport,
            client: error.client,
            virtual_address: error.virtual_address,
        };
        let shard = self.table.shard(key.client.ip());
        let connection = shard.get(shard.find_inbound(&key, now)?);
        let to = connection.tunnel()?;
        if to.server != error.server || !error.is_of(to.tunnel) {
            return None;
        }
        connection.count_out(error.len);
        drop(shard);
        let told = error.problem.and_then(|problem| self.tell(now, problem, packet.inner_of(&error)));
        Some(match told {
            Some(error) => Verdict::Tell { error, goes_on: true },
            None => Verdict::Forward { rewritten: None, source: Some(ReplySource::UNTRACKED) },
        })
    }
}

/// Where packets of a connection go, if they go through a tunnel.
#[derive(Clone, Copy, Debug)]
pub(super) struct Destination {
    server: IpAddr,
    tunnel: Tunnel,
    flow: InboundKey,
}

impl Connection {
    /// Where its packets go, if they go through a tunnel: the server's present one, by the method that the connection
    /// began with.
    pub(super) fn tunnel(&self) -> Option<Destination> {
        self.is_tunnelled().then(|| Destination {
            server: self.server.address,
            tunnel: self.server.tunnel(),
            flow: self.inbound_key(),
        })
    }
}

/// The outer type of service for an inner one: "congestion experienced" is said again by whoever experiences it on the
/// outer way (`INET_ECN_encapsulate`; RFC 3168, 9.1.1).
fn ecn_encapsulated(traffic_class: u8) -> u8 {
    const ECN: u8 = 0b11;
    const CONGESTION_EXPERIENCED: u8 = 0b11;
    const CAPABLE: u8 = 0b10;
    match traffic_class & ECN {
        CONGESTION_EXPERIENCED => traffic_class & !ECN | CAPABLE,
        _ => traffic_class,
    }
}

/// The smallest MTU of a link (RFC 791).
const IPV4_MIN_MTU: u32 = 68;
/// The same for IPv6 (RFC 8200, 5).
const IPV6_MIN_MTU: u32 = 1280;
/// GUE packets come from 49152 to 65535, the ports for such purposes (RFC 6335, 6).
const FIRST_SOURCE_PORT: u16 = 0xc000;
