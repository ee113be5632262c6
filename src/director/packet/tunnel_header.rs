//! What stands between the outer IP header and the packet in a tunnel: nothing, GRE (RFC 2784), or UDP and GUE
//! (draft-ietf-intarea-gue, variant 0), as `ipvs_gre_encap` and `ipvs_gue_encap` of `ip_vs_xmit.c` write them.

use std::net::IpAddr;
use std::ops::Deref;

use pnet_packet::ip::IpNextHeaderProtocols;

use super::checksum::Sum;
use crate::director::service::{GueChecksum, Tunnel};

/// The headers of a tunnel, in network byte order. None at all for IP in IP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TunnelHeader {
    bytes: [u8; MAX_LEN],
    len: usize,
}

impl Deref for TunnelHeader {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        self.bytes.get(..self.len).unwrap_or_default()
    }
}

/// The protocol that the outer IP header names for a packet of IPv4 or IPv6 (`inner_is_v6`) in `tunnel`.
pub fn outer_protocol(tunnel: Tunnel, inner_is_v6: bool) -> u8 {
    match tunnel {
        Tunnel::Ipip => ip_in_ip(inner_is_v6),
        Tunnel::Gue { .. } => IpNextHeaderProtocols::Udp.0,
        Tunnel::Gre { .. } => IpNextHeaderProtocols::Gre.0,
    }
}

impl TunnelHeader {
    /// The headers of `tunnel` before `inner`, a whole packet. Of GUE, `source_port` tells flows apart on the way, and
    /// the checksum covers the outer addresses, `source` and `destination`.
    ///
    /// `None`: with them the packet would be longer than a datagram can be.
    pub fn new(
        tunnel: Tunnel,
        inner: &[u8],
        source_port: u16,
        source: IpAddr,
        destination: IpAddr,
    ) -> Option<TunnelHeader> {
        let inner_is_v6 = inner.first()? >> 4 == 6;
        let mut bytes = [0; MAX_LEN];
        match tunnel {
            Tunnel::Ipip => {}
            Tunnel::Gre { checksum } => {
                let ethertype = if inner_is_v6 { ETHERTYPE_IPV6 } else { ETHERTYPE_IPV4 };
                bytes[2..4].copy_from_slice(&ethertype.to_be_bytes());
                if checksum {
                    bytes[0] = GRE_HAS_CHECKSUM;
                    let sum = Sum::default().add(&bytes[..8]).add(inner).checksum();
                    bytes[4..6].copy_from_slice(&sum.to_be_bytes());
                }
            }
            Tunnel::Gue { port, checksum } => {
                let len = u16::try_from(tunnel.header_len() + inner.len()).ok()?;
                bytes[0..2].copy_from_slice(&source_port.to_be_bytes());
                bytes[2..4].copy_from_slice(&port.to_be_bytes());
                bytes[4..6].copy_from_slice(&len.to_be_bytes());
                // Variant 0, no control message, no optional fields.
                bytes[9] = ip_in_ip(inner_is_v6);
                if checksum != GueChecksum::None {
                    let sum = pseudo_header(source, destination, len).add(&bytes).add(inner).checksum();
                    // RFC 768: zero says "no checksum".
                    bytes[6..8].copy_from_slice(&if sum == 0 { 0xffff } else { sum }.to_be_bytes());
                }
            }
        }
        Some(TunnelHeader { bytes, len: tunnel.header_len() })
    }
}

fn ip_in_ip(inner_is_v6: bool) -> u8 {
    if inner_is_v6 { IpNextHeaderProtocols::Ipv6.0 } else { IpNextHeaderProtocols::Ipv4.0 }
}

fn pseudo_header(source: IpAddr, destination: IpAddr, len: u16) -> Sum {
    let add = |sum: Sum, address| match address {
        IpAddr::V4(address) => sum.add(&address.octets()),
        IpAddr::V6(address) => sum.add(&address.octets()),
    };
    let addresses = add(add(Sum::default(), source), destination);
    addresses.add(&len.to_be_bytes()).add(&[0, IpNextHeaderProtocols::Udp.0])
}

/// UDP and GUE.
const MAX_LEN: usize = 12;
const GRE_HAS_CHECKSUM: u8 = 0x80;
const ETHERTYPE_IPV4: u16 = 0x0800;
const ETHERTYPE_IPV6: u16 = 0x86dd;
