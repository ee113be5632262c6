//! TCP (RFC 9293) and UDP (RFC 768) headers: ports, flags, and what their checksums cover.

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
}

impl Transport {
    /// The IANA protocol number.
    pub const fn number(self) -> u8 {
        match self {
            Transport::Tcp => IpNextHeaderProtocols::Tcp.0,
            Transport::Udp => IpNextHeaderProtocols::Udp.0,
        }
    }

    /// The transport with this IANA protocol number, if it is one of ours.
    pub const fn from_number(number: u8) -> Option<Transport> {
        match IpNextHeaderProtocol(number) {
            IpNextHeaderProtocols::Tcp => Some(Transport::Tcp),
            IpNextHeaderProtocols::Udp => Some(Transport::Udp),
            _ => None,
        }
    }
}

/// `tcp` or `udp`.
impl fmt::Display for Transport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Transport::Tcp => "tcp",
            Transport::Udp => "udp",
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

/// What a whole transport header says.
#[derive(Clone, Copy, Debug)]
pub(super) struct TransportHeader {
    pub(super) ports: Ports,
    pub(super) tcp_flags: Option<TcpFlags>,
    pub(super) cover: Cover,
}

/// Both ports of a TCP or UDP header.
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
            Ok(TransportHeader { ports, tcp_flags: Some(TcpFlags(header.get_flags())), cover })
        }
        Transport::Udp => {
            let header = UdpPacket::new(view.get(offset, UdpPacket::minimum_packet_size())?);
            let len = usize::from(header.ok_or(DropReason::Malformed)?.get_length());
            if !(UdpPacket::minimum_packet_size()..=available).contains(&len) {
                return Err(DropReason::Malformed);
            }
            // A datagram may end before its packet does. Its own length is what the pseudo header holds and the
            // checksum covers; a length of 0 ("until the end") belongs to jumbograms (RFC 2675, 4).
            Ok(TransportHeader { ports, tcp_flags: None, cover: Cover { kind: Kind::Udp, offset, len } })
        }
    }
}

/// Reads the ports of the TCP or UDP header at `offset`, of which eight bytes suffice: as much as an ICMP error is
/// sure to carry. Both protocols begin with the ports, so the smaller view serves both.
pub(super) fn read_ports(view: View<'_>, offset: usize) -> Result<Ports, DropReason> {
    let header = UdpPacket::new(view.get(offset, UdpPacket::minimum_packet_size())?);
    let header = header.ok_or(DropReason::Malformed)?;
    Ok(Ports { source: header.get_source(), destination: header.get_destination() })
}

/// Writes ports into the TCP or UDP header that `bytes` begin with; answers how the sum of the bytes changed.
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
        for transport in [Transport::Tcp, Transport::Udp] {
            assert_eq!(Transport::from_number(transport.number()), Some(transport));
        }
        assert_eq!((Transport::Tcp.number(), Transport::Udp.number()), (6, 17));
        assert_eq!(Transport::from_number(132), None);
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
