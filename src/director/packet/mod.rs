//! Packets: parsed once, edited in place, with every checksum settled.
//!
//! A [`Packet`] is the bytes from the IP header on, as a queue hands them over. [`Packet::parse`] says what it is in
//! the director's terms; [`Packet::rewrite`], [`Packet::rewrite_icmp_error`] and [`Packet::rewrite_segment`] change
//! addresses, ports and what TCP carries, and answer with [`Rewritten`], the proof that the bytes are complete.
//! [`Packet::enclose_flow`] makes a packet ready for a tunnel, and [`icmp_error`] tells its sender where none can take
//! it. What is not TCP, UDP, SCTP, AH, ESP or an ICMP error about one of them is [`Parsed::Other`] and none of our
//! business.
//!
//! # How bytes are read
//!
//! Bytes come from the network and may lie. Every header is taken through one length check (`View::get`), which
//! compares with what the packet claims to have and with what is at hand, and only then laid under a view of
//! `pnet_packet`, whose getters and setters stay within the fixed header (SCTP, of which that crate has none, is
//! taken apart as arrays). Of that crate nothing else is used: its `payload` clamps silently when a length lies, and
//! its checksums know neither partial packets nor updates. Nothing here panics, whatever the bytes are.
//!
//! # How checksums get right
//!
//! A checksum that stood for the packet is updated by what was changed (sums by RFC 1624, the CRC of SCTP by the
//! remainder of the difference), so one that was wrong when it arrived stays wrong, and the receiver sees it. A
//! checksum that the kernel still owed is computed whole, over exactly the bytes it covers. `checksum.rs` holds both,
//! and makes the only [`Rewritten`].
//!
//! ```
//! use nfvs::director::packet::{Packet, Parsed, Rewrite};
//! use nfvs::director::{Hook, PacketMeta};
//!
//! // An empty UDP datagram, 192.0.2.1:1000 -> 198.51.100.1:53.
//! let mut bytes = [
//!     0x45, 0, 0, 28, 0, 0, 0, 0, 64, 17, 0x8e, 0x9b, 192, 0, 2, 1, 198, 51, 100, 1, //
//!     0x03, 0xe8, 0, 53, 0, 8, 0x0f, 0x8b,
//! ];
//! let meta = PacketMeta { hook: Hook::Prerouting, checksum_owed: false, gso: false, original_len: bytes.len(), mark: None };
//! let mut packet = Packet::new(&mut bytes, &meta);
//! let Ok(Parsed::Flow(flow)) = packet.parse() else { panic!("a datagram") };
//! assert_eq!(flow.destination.to_string(), "198.51.100.1:53");
//!
//! let to_server = Rewrite { destination: Some("10.0.0.7:5353".parse()?), ..Rewrite::default() };
//! assert!(packet.rewrite(&flow, to_server).is_ok());
//! assert_eq!(bytes[16..20], [10, 0, 0, 7]);
//! # Ok::<(), std::net::AddrParseError>(())
//! ```

mod addresses;
mod announcement;
mod checksum;
mod crc32c;
mod enclosed;
mod icmp;
mod ipv4;
mod ipv6;
mod problem;
mod segment;
mod sequence;
#[cfg(test)]
mod tests;
mod transport;
mod tunnel_header;
mod tunnelled_error;
mod view;

use std::net::{IpAddr, SocketAddr};

use pnet_packet::ip::IpNextHeaderProtocols;
use pnet_packet::udp::UdpPacket;

pub use self::announcement::{arp_announcement, neighbour_advertisement};
pub use self::checksum::Rewritten;
pub use self::enclosed::Enclosed;
pub use self::problem::{Problem, icmp_error};
pub use self::segment::{Segment, SegmentEdit};
pub use self::sequence::{SequenceShift, is_after};
pub use self::transport::{SctpChunks, Signal, TcpFlags, Transport};
pub use self::tunnel_header::{TunnelHeader, outer_protocol};
pub use self::tunnelled_error::TunnelledError;

use self::addresses::Addresses;
use self::checksum::{Cover, Incomplete};
use self::view::{Fragment, View};
use crate::director::{DropReason, Hook, PacketMeta};

/// The bytes of one packet, from the IP header on, and what the kernel said about them.
///
/// An info is good for the packet that gave it. With another packet's, editing writes nonsense or fails with
/// [`DropReason::Malformed`], but does not panic.
#[derive(Debug)]
pub struct Packet<'a> {
    bytes: &'a mut [u8],
    hook: Hook,
    checksum_owed: bool,
    gso: bool,
    original_len: usize,
}

/// What a packet is to the director.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Parsed {
    /// A packet of a protocol that is balanced.
    Flow(FlowInfo),
    /// An ICMP error about one.
    IcmpError(IcmpErrorInfo),
    /// Neither: goes on as if nfvs were absent.
    Other,
}

/// A packet of a protocol that is balanced. AH and ESP have no ports; such a packet goes by the name of the exchange
/// of keys that it follows: UDP, both ports 500.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FlowInfo {
    /// The protocol.
    pub transport: Transport,
    /// Where it comes from.
    pub source: SocketAddr,
    /// Where it goes.
    pub destination: SocketAddr,
    /// What else it says.
    pub signal: Signal,
    /// The length of the packet in bytes, by its IP header and including it.
    pub len: usize,
    cover: Cover,
}

/// An ICMP error about a packet that had been sent from `embedded_source` to `embedded_destination`, which are named
/// as in [`FlowInfo`].
///
/// ICMPv4 types 3, 4, 11 and 12, ICMPv6 types 1 to 4.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IcmpErrorInfo {
    /// Who complains.
    pub source: IpAddr,
    /// To whom.
    pub destination: IpAddr,
    /// The protocol of the packet complained about.
    pub embedded_transport: Transport,
    /// Where that packet came from.
    pub embedded_source: SocketAddr,
    /// Where that packet went.
    pub embedded_destination: SocketAddr,
    /// The length of the whole packet in bytes, by its outer IP header and including it.
    pub len: usize,
    cover: Cover,
    /// Where its ports stand, from the start of the ICMP message; AH and ESP have none.
    embedded_ports_offset: Option<usize>,
}

impl IcmpErrorInfo {
    /// Whether the packet complained about was one of AH or ESP.
    pub const fn is_about_ipsec(&self) -> bool {
        self.embedded_ports_offset.is_none()
    }
}

/// New endpoints for a packet; `None` leaves what is there.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Rewrite {
    /// Where it shall come from.
    pub source: Option<SocketAddr>,
    /// Where it shall go.
    pub destination: Option<SocketAddr>,
}

/// New addresses for an ICMP error and new endpoints for the packet it is about; `None` leaves what is there.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct IcmpRewrite {
    /// The outer source; `None` also if the kernel sets it later, for it updates the ICMPv6 checksum itself.
    pub source: Option<IpAddr>,
    /// The outer destination.
    pub destination: Option<IpAddr>,
    /// Where the embedded packet shall have come from.
    pub embedded_source: Option<SocketAddr>,
    /// Where the embedded packet shall have gone.
    pub embedded_destination: Option<SocketAddr>,
}

impl<'a> Packet<'a> {
    /// A packet of which `bytes`, beginning with the IP header, are at hand.
    pub fn new(bytes: &'a mut [u8], meta: &PacketMeta) -> Packet<'a> {
        let PacketMeta { hook, checksum_owed, gso, original_len, .. } = *meta;
        Packet { bytes, hook, checksum_owed, gso, original_len }
    }

    /// The bytes at hand as they are now.
    pub fn bytes(&self) -> &[u8] {
        self.bytes
    }

    /// Says what the packet is. Checksums are not looked at.
    ///
    /// Bytes after the length that the IP header claims are ignored.
    ///
    /// # Errors
    ///
    /// * [`DropReason::Malformed`]: a header is cut short, or a length contradicts the packet.
    /// * [`DropReason::Truncated`]: a header lies beyond what the kernel copied.
    /// * [`DropReason::Fragment`]: a fragment, of whatever protocol; the kernel reassembles before it queues. An
    ///   IPv6 packet with a fragment header that makes it the only fragment is whole (RFC 6946).
    pub fn parse(&self) -> Result<Parsed, DropReason> {
        let view = View::new(self.bytes, self.original_len);
        let (header, view) = match view.get(0, 1)?.first().map(|first| first >> 4) {
            Some(4) => ipv4::outer(view)?,
            Some(6) => ipv6::outer(view)?,
            _ => return Err(DropReason::Malformed),
        };
        if header.fragment != Fragment::Whole {
            return Err(DropReason::Fragment);
        }
        let (transport, segment) = match (header.protocol, header.source) {
            (IpNextHeaderProtocols::Icmp, IpAddr::V4(_)) => return icmp::read_v4(view, &header),
            (IpNextHeaderProtocols::Icmpv6, IpAddr::V6(_)) => return icmp::read_v6(view, &header),
            (IpNextHeaderProtocols::Ah | IpNextHeaderProtocols::Esp, _) => {
                (Transport::Udp, transport::ipsec(view, header.transport_offset))
            }
            (protocol, _) => match Transport::from_number(protocol.0) {
                Some(transport) => (transport, transport::read(view, header.transport_offset, transport)?),
                None => return Ok(Parsed::Other),
            },
        };
        Ok(Parsed::Flow(FlowInfo {
            transport,
            source: SocketAddr::new(header.source, segment.ports.source),
            destination: SocketAddr::new(header.destination, segment.ports.destination),
            signal: segment.signal,
            len: view.len(),
            cover: segment.cover,
        }))
    }

    /// What a datagram of UDP carries, as far as it is at hand; nothing of another protocol.
    pub fn payload(&self, flow: &FlowInfo) -> &[u8] {
        if flow.signal != Signal::Udp {
            return &[];
        }
        let Cover { offset, len, .. } = flow.cover;
        let end = self.bytes.len().min(offset + len);
        self.bytes.get(offset + UdpPacket::minimum_packet_size()..end).unwrap_or_default()
    }

    /// Writes new endpoints (of AH and ESP only addresses), updates the IPv4 header's checksum and settles that of the
    /// transport. With nothing to write it still pays an owed checksum.
    ///
    /// A UDP checksum that was absent is computed, as IPVS does. The checksum of SCTP does not cover addresses: unless
    /// it is owed, it changes with a port only.
    ///
    /// # Errors
    ///
    /// * [`DropReason::Truncated`]: the copy was cut, and written back it would cut the packet.
    /// * [`DropReason::SctpSegments`]: several SCTP packets in one. The kernel keeps them as a list of packets, which
    ///   writing back would destroy.
    /// * [`DropReason::Malformed`]: an endpoint of the other address family. Neither configuration nor
    ///   synchronisation lets one come here. The bytes are as they were.
    pub fn rewrite(&mut self, flow: &FlowInfo, rewrite: Rewrite) -> Result<Rewritten, DropReason> {
        if self.gso && matches!(flow.signal, Signal::Sctp(_)) {
            return Err(DropReason::SctpSegments);
        }
        let Rewrite { source, destination } = rewrite;
        let present = flow.source.ip();
        let addresses = Addresses::new(present, source.map(|it| it.ip()), destination.map(|it| it.ip()))?;

        let mut packet = self.edit(flow.cover)?;
        packet.edit_addresses(|header| addresses.write(header))?;
        if flow.signal != Signal::Ipsec {
            packet.edit_covered(|segment| {
                transport::set_ports(segment, source.map(|it| it.port()), destination.map(|it| it.port()))
            })?;
        }
        Ok(packet.settle())
    }

    /// Writes new outer addresses and new embedded endpoints, updates the IPv4 headers' checksums, each from the
    /// state it is in, and settles that of ICMP.
    ///
    /// The embedded transport checksum stays as it is, as in `ip_vs_nat_icmp`: whoever gets the error has only the
    /// beginning of the segment and cannot verify it.
    ///
    /// # Errors
    ///
    /// As [`rewrite`](Packet::rewrite), and [`DropReason::BadChecksum`] if the ICMP checksum is wrong.
    pub fn rewrite_icmp_error(
        &mut self,
        error: &IcmpErrorInfo,
        rewrite: IcmpRewrite,
    ) -> Result<Rewritten, DropReason> {
        let IcmpRewrite { source, destination, embedded_source, embedded_destination } = rewrite;
        let outer = Addresses::new(error.source, source, destination)?;
        let present = error.embedded_source.ip();
        let (from, to) = (embedded_source, embedded_destination);
        let embedded = Addresses::new(present, from.map(|it| it.ip()), to.map(|it| it.ip()))?;

        let mut packet = self.edit(error.cover)?;
        if !packet.is_right() {
            return Err(DropReason::BadChecksum);
        }
        packet.edit_addresses(|header| outer.write(header))?;
        packet.edit_covered(|message| {
            let header = message.get_mut(icmp::HEADER_LEN..).ok_or(DropReason::Malformed)?;
            embedded.write_embedded(header)
        })?;
        if let Some(offset) = error.embedded_ports_offset {
            packet.edit_covered(|message| {
                let segment = message.get_mut(offset..).ok_or(DropReason::Malformed)?;
                transport::set_ports(segment, from.map(|it| it.port()), to.map(|it| it.port()))
            })?;
        }
        Ok(packet.settle())
    }

    /// Begins an edit that ends with the checksum over `cover` settled.
    fn edit(&mut self, cover: Cover) -> Result<Incomplete<'_>, DropReason> {
        if self.bytes.len() < self.original_len {
            return Err(DropReason::Truncated);
        }
        Incomplete::begin(self.bytes, cover, self.checksum_owed)
    }
}
