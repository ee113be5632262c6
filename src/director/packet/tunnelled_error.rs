//! ICMP errors about packets that were sent through a tunnel: they embed the outer packet, and that the client's
//! (`ipvs_udp_decap`, `ipvs_gre_decap`, `ip_vs_in_icmp` of `ip_vs_core.c`; RFC 2473, 8).

use std::net::{IpAddr, SocketAddr};

use pnet_packet::ip::IpNextHeaderProtocols;

use super::checksum::{Cover, Incomplete, Kind};
use super::view::{Fragment, Header, View};
use super::{Packet, Problem, Transport, icmp, ipv4, ipv6, transport};
use crate::director::service::Tunnel;

/// An ICMP error about a packet that had been sent inside another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TunnelledError {
    /// Where the outer packet went.
    pub server: IpAddr,
    /// The protocol of the client's packet.
    pub transport: Transport,
    /// Where that came from.
    pub client: SocketAddr,
    /// Where it went.
    pub virtual_address: SocketAddr,
    /// What the client is to be told; nothing of what it can do nothing about.
    pub problem: Option<Problem>,
    /// The length of the ICMP message in bytes, by its IP header and including it.
    pub len: usize,
    layers: Layers,
    inner: usize,
}

/// What the outer packet was made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Layers {
    Ipip,
    Gre { checksum: bool },
    Gue { port: u16 },
}

impl TunnelledError {
    /// Whether the outer packet was one of `tunnel`.
    pub fn is_of(&self, tunnel: Tunnel) -> bool {
        match (self.layers, tunnel) {
            (Layers::Ipip, Tunnel::Ipip) => true,
            (Layers::Gre { checksum }, Tunnel::Gre { checksum: of_tunnel }) => checksum == of_tunnel,
            (Layers::Gue { port }, Tunnel::Gue { port: of_tunnel, .. }) => port == of_tunnel,
            _ => false,
        }
    }
}

impl Packet<'_> {
    /// Reads the packet as an ICMP error about one in a tunnel, `None` if it is nothing of the kind.
    pub fn tunnelled_error(&mut self) -> Option<TunnelledError> {
        let (error, cover) = read(View::new(self.bytes, self.original_len))?;
        let is_right = Incomplete::begin(self.bytes, cover, self.checksum_owed).ok()?.is_right();
        is_right.then_some(error)
    }

    /// What is at hand of the client's packet in such an error, from its IP header on.
    pub fn inner_of(&self, error: &TunnelledError) -> &[u8] {
        let end = error.len.min(self.bytes.len());
        self.bytes.get(error.inner..end).unwrap_or_default()
    }
}

fn read(view: View<'_>) -> Option<(TunnelledError, Cover)> {
    let is_v4 = view.get(0, 1).ok()?[0] >> 4 == 4;
    let (header, view) = if is_v4 { ipv4::outer(view) } else { ipv6::outer(view) }.ok()?;
    let kind = match (is_v4, header.protocol) {
        (true, IpNextHeaderProtocols::Icmp) => Kind::Icmpv4,
        (false, IpNextHeaderProtocols::Icmpv6) => Kind::Icmpv6,
        _ => return None,
    };
    if header.fragment != Fragment::Whole {
        return None;
    }
    let [kind_of_error, code, _, _, mtu @ ..] =
        *view.get(header.transport_offset, icmp::HEADER_LEN).ok()?.first_chunk::<8>()?;
    let outer = embedded(view, header.transport_offset + icmp::HEADER_LEN, is_v4)?;
    let (layers, inner_is_v4, inner) = layers(view, &outer)?;
    let client_packet = embedded(view, inner, inner_is_v4)?;
    let (transport, ports) = match client_packet.protocol {
        IpNextHeaderProtocols::Ah | IpNextHeaderProtocols::Esp => (Transport::Udp, transport::KEY_EXCHANGE),
        protocol => (
            Transport::from_number(protocol.0)?,
            transport::read_ports(view, client_packet.transport_offset).ok()?,
        ),
    };
    let overhead = inner - (header.transport_offset + icmp::HEADER_LEN);
    let mtu = if is_v4 { u32::from(u16::from_be_bytes([mtu[2], mtu[3]])) } else { u32::from_be_bytes(mtu) };
    let dont_fragment = !inner_is_v4 || view.get(inner + 6, 1).ok()?[0] & 0x40 != 0;
    let error = TunnelledError {
        server: outer.destination,
        transport,
        client: SocketAddr::new(client_packet.source, ports.source),
        virtual_address: SocketAddr::new(client_packet.destination, ports.destination),
        problem: match (is_v4, kind_of_error, code) {
            (true, 3, 4) | (false, 2, _) => {
                dont_fragment.then(|| Problem::TooBig { mtu: room(mtu, overhead, inner_is_v4) })
            }
            (_, kind, code) => reported(is_v4, inner_is_v4, kind, code),
        },
        len: view.len(),
        layers,
        inner,
    };
    let offset = header.transport_offset;
    Some((error, Cover { kind, offset, len: view.len() - offset }))
}

fn embedded(view: View<'_>, offset: usize, is_v4: bool) -> Option<Header> {
    let header = if is_v4 { ipv4::embedded(view, offset) } else { ipv6::embedded(view, offset) }.ok()?;
    (header.fragment != Fragment::Later).then_some(header)
}

/// What the outer packet was made of, whether the inner one is of IPv4, and where that begins.
fn layers(view: View<'_>, outer: &Header) -> Option<(Layers, bool, usize)> {
    let at = outer.transport_offset;
    match outer.protocol {
        IpNextHeaderProtocols::Ipv4 => Some((Layers::Ipip, true, at)),
        IpNextHeaderProtocols::Ipv6 => Some((Layers::Ipip, false, at)),
        IpNextHeaderProtocols::Gre => {
            let [flags, version, ethertype @ ..] = *view.get(at, 4).ok()?.first_chunk::<4>()?;
            let (checksum, len) = match (flags, version) {
                (0, 0) => (false, 4),
                (0x80, 0) => (true, 8),
                _ => return None,
            };
            let is_v4 = match u16::from_be_bytes(ethertype) {
                0x0800 => true,
                0x86dd => false,
                _ => return None,
            };
            Some((Layers::Gre { checksum }, is_v4, at + len))
        }
        IpNextHeaderProtocols::Udp => {
            let header = *view.get(at, 12).ok()?.first_chunk::<12>()?;
            // Variant 0, no control message, no optional fields.
            let is_v4 = match header[8..12] {
                [0, protocol, 0, 0] if protocol == IpNextHeaderProtocols::Ipv4.0 => true,
                [0, protocol, 0, 0] if protocol == IpNextHeaderProtocols::Ipv6.0 => false,
                _ => return None,
            };
            Some((Layers::Gue { port: u16::from_be_bytes([header[2], header[3]]) }, is_v4, at + 12))
        }
        _ => None,
    }
}

/// What of a path's MTU is left within a tunnel: as it is where it cannot be (`ip_vs_in_icmp`), and of IPv6 never less
/// than every link has.
fn room(mtu: u32, overhead: usize, is_v4: bool) -> u32 {
    let overhead = overhead as u32;
    let room = if mtu > 68 + overhead { mtu - overhead } else { mtu };
    if is_v4 { room } else { room.max(1280) }
}

/// The same error in the family of the client's packet. What a parameter problem points at, the client has not written.
fn reported(is_v4: bool, inner_is_v4: bool, kind: u8, code: u8) -> Option<Problem> {
    match (is_v4, inner_is_v4, kind) {
        (true, true, 3 | 4 | 11) | (false, false, 1 | 3) => Some(Problem::Reported { kind, code }),
        (true, false, 3) | (false, true, 1) => Some(Problem::Unreachable),
        (true, false, 11) => Some(Problem::Reported { kind: 3, code }),
        (false, true, 3) => Some(Problem::Reported { kind: 11, code }),
        _ => None,
    }
}
