//! ICMP errors (RFC 792, RFC 4443) about packets that are balanced: outer and embedded headers.
//!
//! Follows `ip_vs_in_icmp`, `ip_vs_out_icmp` and `ip_vs_nat_icmp` of `ip_vs_core.c`, with two differences in what
//! counts as an error: of ICMPv4 the parameter problem (type 12) is translated too, because it is an error about a
//! packet like the others; of ICMPv6 only the errors that are defined (types 1 to 4) are, and not every type below
//! 128.

use std::net::SocketAddr;

use pnet_packet::icmp::{IcmpPacket, IcmpTypes};
use pnet_packet::icmpv6::{Icmpv6Packet, Icmpv6Types};
use pnet_packet::ip::IpNextHeaderProtocols;

use super::checksum::{Cover, Kind};
use super::transport::{self, Transport};
use super::view::{Fragment, Header, View};
use super::{IcmpErrorInfo, Parsed, ipv4, ipv6};
use crate::director::DropReason;

/// The part of an ICMP error before the packet that it is about, in bytes. The same in both families.
pub(super) const HEADER_LEN: usize = 8;

/// Reads the ICMPv4 message behind `outer`.
pub(super) fn read_v4(view: View<'_>, outer: &Header) -> Result<Parsed, DropReason> {
    let message = IcmpPacket::new(view.get(outer.transport_offset, HEADER_LEN)?);
    match message.ok_or(DropReason::Malformed)?.get_icmp_type() {
        IcmpTypes::DestinationUnreachable
        | IcmpTypes::SourceQuench
        | IcmpTypes::TimeExceeded
        | IcmpTypes::ParameterProblem => {
            read_error(view, outer, Kind::Icmpv4, ipv4::embedded(view, outer.transport_offset + HEADER_LEN))
        }
        _ => Ok(Parsed::Other),
    }
}

/// Reads the ICMPv6 message behind `outer`.
pub(super) fn read_v6(view: View<'_>, outer: &Header) -> Result<Parsed, DropReason> {
    let message = Icmpv6Packet::new(view.get(outer.transport_offset, HEADER_LEN)?);
    match message.ok_or(DropReason::Malformed)?.get_icmpv6_type() {
        Icmpv6Types::DestinationUnreachable
        | Icmpv6Types::PacketTooBig
        | Icmpv6Types::TimeExceeded
        | Icmpv6Types::ParameterProblem => {
            read_error(view, outer, Kind::Icmpv6, ipv6::embedded(view, outer.transport_offset + HEADER_LEN))
        }
        _ => Ok(Parsed::Other),
    }
}

/// Looks whether the embedded packet can be one of ours: a full IP header, a protocol that is balanced, and at least
/// the first eight bytes of its header. If not, the error is somebody else's and not judged.
fn read_error(
    view: View<'_>,
    outer: &Header,
    kind: Kind,
    embedded: Result<Header, DropReason>,
) -> Result<Parsed, DropReason> {
    let embedded = embedded.and_then(|header| {
        let ports = match header.protocol {
            IpNextHeaderProtocols::Ah | IpNextHeaderProtocols::Esp => transport::KEY_EXCHANGE,
            _ => transport::read_ports(view, header.transport_offset)?,
        };
        Ok((header, ports))
    });
    let (header, ports) = match embedded {
        Ok(embedded) => embedded,
        Err(DropReason::Truncated) => return Err(DropReason::Truncated),
        Err(_) => return Ok(Parsed::Other),
    };
    let (embedded_transport, has_ports) = match header.protocol {
        IpNextHeaderProtocols::Ah | IpNextHeaderProtocols::Esp => (Transport::Udp, false),
        _ if header.fragment == Fragment::Later => return Ok(Parsed::Other),
        protocol => match Transport::from_number(protocol.0) {
            Some(transport) => (transport, true),
            None => return Ok(Parsed::Other),
        },
    };
    Ok(Parsed::IcmpError(IcmpErrorInfo {
        source: outer.source,
        destination: outer.destination,
        embedded_transport,
        embedded_source: SocketAddr::new(header.source, ports.source),
        embedded_destination: SocketAddr::new(header.destination, ports.destination),
        len: view.len(),
        cover: Cover { kind, offset: outer.transport_offset, len: view.len() - outer.transport_offset },
        embedded_ports_offset: has_ports.then(|| header.transport_offset - outer.transport_offset),
    }))
}
