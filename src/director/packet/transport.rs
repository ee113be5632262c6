//! TCP (RFC 9293), UDP (RFC 768) and SCTP (RFC 9260) headers: ports, flags, chunks, and what their checksums cover.

use std::fmt;

use pnet_packet::ip::{IpNextHeaderProtocol, IpNextHeaderProtocols};
use pnet_packet::tcp::{self, TcpPacket};
use pnet_packet::udp::{MutableUdpPacket, UdpPacket};

use super::checksum::{Change, Cover, Kind};
use super::view::View;
use crate::director::DropReason;

/// A transport protocol that is balanced.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Transport {
    /// TCP, RFC 9293.
    Tcp,
    /// UDP, RFC 768.
    Udp,
    /// SCTP, RFC 9260.
    Sctp,
}

impl Transport {
    /// The IANA protocol number.
    pub const fn number(self) -> u8 {
        match self {
            Transport::Tcp => IpNextHeaderProtocols::Tcp.0,
            Transport::Udp => IpNextHeaderProtocols::Udp.0,
            Transport::Sctp => IpNextHeaderProtocols::Sctp.0,
        }
    }

    /// The transport with this IANA protocol number, if it is one of ours.
    pub const fn from_number(number: u8) -> Option<Transport> {
        match IpNextHeaderProtocol(number) {
            IpNextHeaderProtocols::Tcp => Some(Transport::Tcp),
            IpNextHeaderProtocols::Udp => Some(Transport::Udp),
            IpNextHeaderProtocols::Sctp => Some(Transport::Sctp),
            _ => None,
        }
    }
}

/// `tcp`, `udp` or `sctp`.
impl fmt::Display for Transport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Transport::Tcp => "tcp",
            Transport::Udp => "udp",
            Transport::Sctp => "sctp",
        })
    }
}

/// The control bits of a TCP segment, as they lie in byte 13 of its header.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct TcpFlags(pub u8);

impl TcpFlags {
    /// Whether SYN is set.
    pub const fn syn(self) -> bool {
        self.0 & tcp::TcpFlags::SYN != 0
    }

    /// Whether ACK is set.
    pub const fn ack(self) -> bool {
        self.0 & tcp::TcpFlags::ACK != 0
    }

    /// Whether RST is set.
    pub const fn rst(self) -> bool {
        self.0 & tcp::TcpFlags::RST != 0
    }

    /// Whether FIN is set.
    pub const fn fin(self) -> bool {
        self.0 & tcp::TcpFlags::FIN != 0
    }
}

/// The types of the chunks that an SCTP packet begins with (RFC 9260, 3.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct SctpChunks {
    /// The first.
    pub first: u8,
    /// The one behind it; `None` also if the kernel did not copy that far.
    pub second: Option<u8>,
}

/// What a packet says of its connection beside addresses and ports.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Signal {
    /// The flags of a TCP segment.
    Tcp(TcpFlags),
    /// UDP says nothing.
    Udp,
    /// The first chunks of an SCTP packet.
    Sctp(SctpChunks),
    /// AH and ESP say nothing that others could read.
    Ipsec,
}

/// What a whole transport header says.
#[derive(Clone, Copy, Debug)]
pub(super) struct TransportHeader {
    pub(super) ports: Ports,
    pub(super) signal: Signal,
    pub(super) cover: Cover,
}

/// Both ports of a TCP, UDP or SCTP header.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ports {
    pub(super) source: u16,
    pub(super) destination: u16,
}

/// Reads the transport header at `offset` of a packet that ends where the view does.
pub(super) fn read(
    view: View<'_>,
    offset: usize,
    transport: Transport,
) -> Result<TransportHeader, DropReason> {
    let available = view.len().saturating_sub(offset);
    let ports = read_ports(view, offset)?;
    match transport {
        Transport::Tcp => {
            let header = TcpPacket::new(view.get(offset, TcpPacket::minimum_packet_size())?);
            let header = header.ok_or(DropReason::Malformed)?;
            let header_len = usize::from(header.get_data_offset()) * 4;
            if !(TcpPacket::minimum_packet_size()..=available).contains(&header_len) {
                return Err(DropReason::Malformed);
            }
            let cover = Cover { kind: Kind::Tcp, offset, len: available };
            Ok(TransportHeader { ports, signal: Signal::Tcp(TcpFlags(header.get_flags())), cover })
        }
        Transport::Udp => {
            let header = UdpPacket::new(view.get(offset, UdpPacket::minimum_packet_size())?);
            let len = usize::from(header.ok_or(DropReason::Malformed)?.get_length());
            if !(UdpPacket::minimum_packet_size()..=available).contains(&len) {
                return Err(DropReason::Malformed);
            }
            // A datagram may end before its packet does. Its own length is what the pseudo header holds and the
            // checksum covers; a length of 0 ("until the end") belongs to jumbograms (RFC 2675, 4).
            Ok(TransportHeader { ports, signal: Signal::Udp, cover: Cover { kind: Kind::Udp, offset, len } })
        }
        Transport::Sctp => {
            let signal = Signal::Sctp(read_chunks(view, offset + SCTP_HEADER_LEN)?);
            Ok(TransportHeader { ports, signal, cover: Cover { kind: Kind::Sctp, offset, len: available } })
        }
    }
}

/// Ports and verification tag, then the checksum.
const SCTP_HEADER_LEN: usize = 12;
/// Type, flags, and the length in two bytes; `pnet_packet` has no view of either header.
const CHUNK_HEADER_LEN: usize = 4;

/// Reads the types of the first chunks. A packet has one at least (RFC 9260, 3).
fn read_chunks(view: View<'_>, offset: usize) -> Result<SctpChunks, DropReason> {
    let chunk = |at| Ok(*view.get(at, CHUNK_HEADER_LEN)?.first_chunk().ok_or(DropReason::Malformed)?);
    let [first, _, len @ ..]: [u8; CHUNK_HEADER_LEN] = chunk(offset)?;
    // The length is that without padding; one that is shorter than its own header leads nowhere.
    let len = usize::from(u16::from_be_bytes(len));
    let second = (len >= CHUNK_HEADER_LEN).then(|| chunk(offset + len.next_multiple_of(4)).ok()).flatten();
    Ok(SctpChunks { first, second: second.map(|[kind, ..]| kind) })
}

/// What stands for the header of AH or ESP at `offset`, of which nothing is read: the ports of IKE
/// (RFC 7296, 2), by which IPVS knows the connection that such a packet belongs to (`ip_vs_proto_ah_esp.c`).
pub(super) fn ipsec(view: View<'_>, offset: usize) -> TransportHeader {
    TransportHeader {
        ports: KEY_EXCHANGE,
        signal: Signal::Ipsec,
        cover: Cover { kind: Kind::Ipsec, offset, len: view.len().saturating_sub(offset) },
    }
}

/// Both ports of IKE, which AH and ESP follow, over UDP.
pub(super) const KEY_EXCHANGE: Ports = Ports { source: 500, destination: 500 };

/// Reads the ports of the transport header at `offset`, of which eight bytes suffice: as much as an ICMP error is
/// sure to carry. All three protocols begin with the ports, so the smallest view serves all.
pub(super) fn read_ports(view: View<'_>, offset: usize) -> Result<Ports, DropReason> {
    let header = UdpPacket::new(view.get(offset, UdpPacket::minimum_packet_size())?);
    let header = header.ok_or(DropReason::Malformed)?;
    Ok(Ports { source: header.get_source(), destination: header.get_destination() })
}

/// Writes ports into the transport header that `bytes` begin with; answers how the sum of the bytes changed.
pub(super) fn set_ports(
    bytes: &mut [u8],
    source: Option<u16>,
    destination: Option<u16>,
) -> Result<Change, DropReason> {
    let mut header = MutableUdpPacket::new(bytes).ok_or(DropReason::Malformed)?;
    let mut change = Change::default();
    if let Some(source) = source {
        change.replace(header.get_source().to_be_bytes(), source.to_be_bytes());
        header.set_source(source);
    }
    if let Some(destination) = destination {
        change.replace(header.get_destination().to_be_bytes(), destination.to_be_bytes());
        header.set_destination(destination);
    }
    Ok(change)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn protocol_numbers_go_both_ways() {
        for (transport, number) in [(Transport::Tcp, 6), (Transport::Udp, 17), (Transport::Sctp, 132)] {
            assert_eq!(transport.number(), number);
            assert_eq!(Transport::from_number(number), Some(transport));
        }
        assert_eq!(Transport::from_number(136), None);
    }

    #[test]
    fn each_flag_is_its_bit_of_rfc_9293() {
        let of = |bits| {
            [TcpFlags::fin, TcpFlags::syn, TcpFlags::rst, TcpFlags::ack].map(|flag| flag(TcpFlags(bits)))
        };
        assert_eq!(of(0x01), [true, false, false, false]);
        assert_eq!(of(0x02), [false, true, false, false]);
        assert_eq!(of(0x04), [false, false, true, false]);
        assert_eq!(of(0x10), [false, false, false, true]);
        assert_eq!(of(!0x17), [false; 4]);
    }
}
