//! A packet on its way into a tunnel: what its outer header takes from it, and its hop (`ip_vs_prepare_tunneled_skb`,
//! `decrement_ttl` of `ip_vs_xmit.c`).

use super::checksum::{Change, Cover, Incomplete};
use super::view::View;
use super::{FlowInfo, IcmpErrorInfo, Packet, ipv4, ipv6};
use crate::director::{DropReason, Hook};

/// A packet that is whole and may be sent inside another: it has lost its hop, and no checksum is owed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Enclosed {
    /// Its length in bytes, by its IP header and including it.
    pub len: usize,
    /// Whether it is of IPv6.
    pub is_v6: bool,
    /// The time to live (hop limit) that is left.
    pub hop_limit: u8,
    /// Type of service (traffic class), ECN included.
    pub traffic_class: u8,
    /// Whether no router may fragment it; IPv6 has no other packets.
    pub dont_fragment: bool,
}

impl Packet<'_> {
    /// Makes a packet of a flow ready to be sent inside another. It loses its hop unless this host has made it.
    ///
    /// `None`: it had none left.
    ///
    /// # Errors
    ///
    /// * [`DropReason::Truncated`]: the copy was cut.
    /// * [`DropReason::TunnelSegments`]: several segments in one, of which nobody but the kernel could make packets.
    pub fn enclose_flow(&mut self, flow: &FlowInfo) -> Result<Option<Enclosed>, DropReason> {
        self.enclose(flow.cover)
    }

    /// The same of an ICMP error.
    ///
    /// # Errors
    ///
    /// As [`enclose_flow`](Packet::enclose_flow).
    pub fn enclose_error(&mut self, error: &IcmpErrorInfo) -> Result<Option<Enclosed>, DropReason> {
        self.enclose(error.cover)
    }

    fn enclose(&mut self, cover: Cover) -> Result<Option<Enclosed>, DropReason> {
        if self.gso {
            return Err(DropReason::TunnelSegments);
        }
        let at_hand = View::new(self.bytes, self.original_len);
        let is_v6 = at_hand.get(0, 1)?[0] >> 4 == 6;
        let len = if is_v6 { ipv6::outer(at_hand)?.1.len() } else { ipv4::outer(at_hand)?.1.len() };
        if self.bytes.len() < len {
            return Err(DropReason::Truncated);
        }
        if self.checksum_owed {
            Incomplete::begin(self.bytes, cover, true)?.settle();
        }
        let (header, _) = self.bytes.split_first_chunk_mut().ok_or(DropReason::Malformed)?;
        let is_ours = self.hook == Hook::Output;
        Ok(if is_v6 { hop_v6(header, len, is_ours) } else { hop_v4(header, len, is_ours) })
    }
}

fn hop_v4(header: &mut [u8; 20], len: usize, is_ours: bool) -> Option<Enclosed> {
    const DONT_FRAGMENT: u8 = 0x40;
    let [_, tos, _, _, _, _, flags, _, ttl, protocol, high, low, ..] = *header;
    let left = hop(ttl, is_ours)?;
    let mut change = Change::default();
    change.replace([ttl, protocol], [left, protocol]);
    header[8] = left;
    header[10..12].copy_from_slice(&change.apply(u16::from_be_bytes([high, low])).to_be_bytes());
    let dont_fragment = flags & DONT_FRAGMENT != 0;
    Some(Enclosed { len, is_v6: false, hop_limit: left, traffic_class: tos, dont_fragment })
}

fn hop_v6(header: &mut [u8; 20], len: usize, is_ours: bool) -> Option<Enclosed> {
    header[7] = hop(header[7], is_ours)?;
    let traffic_class = header[0] << 4 | header[1] >> 4;
    Some(Enclosed { len, is_v6: true, hop_limit: header[7], traffic_class, dont_fragment: true })
}

/// What is left of a time to live.
fn hop(limit: u8, is_ours: bool) -> Option<u8> {
    if is_ours { (limit > 0).then_some(limit) } else { limit.checked_sub(1).filter(|left| *left > 0) }
}
