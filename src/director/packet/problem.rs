//! ICMP errors that the director sends about packets that it does not send on (RFC 792, RFC 4443).

use std::net::{IpAddr, Ipv4Addr};

use pnet_packet::ip::IpNextHeaderProtocols;

use super::checksum::Sum;
use crate::director::DropReason;

/// Why a packet does not reach its server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Problem {
    /// It is longer than what fits, in bytes.
    TooBig {
        /// What would fit.
        mtu: u32,
    },
    /// It has no hop left.
    HopLimit,
    /// No route leads there.
    Unreachable,
    /// What a router on the way has said, by type and code of the packet's own family.
    Reported {
        /// The ICMP (ICMPv6) type.
        kind: u8,
        /// Its code.
        code: u8,
    },
}

impl Problem {
    /// What a packet with the problem is counted as.
    pub const fn drop_reason(self) -> DropReason {
        match self {
            Problem::TooBig { .. } => DropReason::TooBig,
            Problem::HopLimit => DropReason::HopLimit,
            Problem::Unreachable | Problem::Reported { .. } => DropReason::Unreachable,
        }
    }

    /// Type, code, and the four bytes behind the checksum.
    fn message(self, is_v6: bool) -> (u8, u8, u32) {
        match (self, is_v6) {
            // 16 bits, which an IPv4 packet never exceeds.
            (Problem::TooBig { mtu }, false) => (3, 4, mtu.min(0xffff)),
            (Problem::TooBig { mtu }, true) => (2, 0, mtu),
            (Problem::HopLimit, false) => (11, 0, 0),
            (Problem::HopLimit, true) => (3, 0, 0),
            (Problem::Unreachable, false) => (3, 1, 0),
            (Problem::Unreachable, true) => (1, 3, 0),
            (Problem::Reported { kind, code }, _) => (kind, code, 0),
        }
    }
}

/// The ICMP error about `packet`, or about the beginning of it that is at hand: a whole IP packet from the address the
/// packet was sent to, to the one it came from, with as much of it as such an error may carry.
///
/// `None`: there is no header, or no one host that it came from.
pub fn icmp_error(packet: &[u8], problem: Problem) -> Option<Vec<u8>> {
    match packet.first()? >> 4 {
        4 => icmpv4_error(packet, problem),
        6 => icmpv6_error(packet, problem),
        _ => None,
    }
}

fn icmpv4_error(packet: &[u8], problem: Problem) -> Option<Vec<u8>> {
    let (source, destination) = (packet.get(12..16)?, packet.get(16..20)?);
    let from = Ipv4Addr::from(*source.as_array()?);
    if from.is_unspecified() || from.is_multicast() || from.is_broadcast() {
        return None;
    }
    let about = packet.get(..ICMPV4_MAX - 28).unwrap_or(packet);
    let len = u16::try_from(28 + about.len()).ok()?;
    let mut header = [0; 20];
    header[0] = 0x45;
    header[1] = INTERNETWORK_CONTROL;
    header[2..4].copy_from_slice(&len.to_be_bytes());
    header[8] = HOP_LIMIT;
    header[9] = IpNextHeaderProtocols::Icmp.0;
    header[12..16].copy_from_slice(destination);
    header[16..20].copy_from_slice(source);
    let sum = Sum::default().add(&header).checksum();
    header[10..12].copy_from_slice(&sum.to_be_bytes());
    Some(with_message(&header, Sum::default(), problem.message(false), about))
}

fn icmpv6_error(packet: &[u8], problem: Problem) -> Option<Vec<u8>> {
    let (source, destination) = (packet.get(8..24)?, packet.get(24..40)?);
    let from = IpAddr::from(*source.as_array::<16>()?);
    if from.is_unspecified() || from.is_multicast() {
        return None;
    }
    let about = packet.get(..ICMPV6_MAX - 48).unwrap_or(packet);
    let len = u16::try_from(8 + about.len()).ok()?;
    let mut header = [0; 40];
    header[0] = 0x60;
    header[4..6].copy_from_slice(&len.to_be_bytes());
    header[6] = IpNextHeaderProtocols::Icmpv6.0;
    header[7] = HOP_LIMIT;
    header[8..24].copy_from_slice(destination);
    header[24..40].copy_from_slice(source);
    let pseudo_header =
        Sum::default().add(&header[8..]).add(&len.to_be_bytes()).add(&[0, IpNextHeaderProtocols::Icmpv6.0]);
    Some(with_message(&header, pseudo_header, problem.message(true), about))
}

/// A packet of the IP header and the ICMP message, whose checksum begins with `sum`.
fn with_message(header: &[u8], sum: Sum, (kind, code, rest): (u8, u8, u32), about: &[u8]) -> Vec<u8> {
    let mut message = [kind, code, 0, 0, 0, 0, 0, 0];
    message[4..8].copy_from_slice(&rest.to_be_bytes());
    let sum = sum.add(&message).add(about).checksum();
    message[2..4].copy_from_slice(&sum.to_be_bytes());
    [header, &message, about].concat()
}

/// The longest ICMP error: RFC 1812, 4.3.2.3 and RFC 4443, 2.4.
const ICMPV4_MAX: usize = 576;
const ICMPV6_MAX: usize = 1280;
/// RFC 1812, 4.3.2.5.
const INTERNETWORK_CONTROL: u8 = 0xc0;
/// RFC 1700, what Linux begins with too.
const HOP_LIMIT: u8 = 64;
