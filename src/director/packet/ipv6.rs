//! IPv6 headers and their extensions (RFC 8200): where they lead, and their addresses.

use std::net::{IpAddr, Ipv6Addr};

use pnet_packet::ip::{IpNextHeaderProtocol, IpNextHeaderProtocols};
use pnet_packet::ipv6::{ExtensionPacket, FragmentPacket, Ipv6Packet, MutableIpv6Packet, RoutingPacket};

use super::checksum::Change;
use super::view::{Fragment, Header, View};
use crate::director::DropReason;

/// How many extension headers are walked. RFC 8200, 4.1 knows six that can stand before a transport header; a
/// longer chain serves only to make the walk expensive.
const MAX_EXTENSIONS: usize = 8;

/// Reads the header of the packet itself, and narrows the view to the length it claims.
///
/// A payload length of 0 claims that nothing follows. Jumbograms (RFC 2675) and IPv6 BIG TCP write it for packets
/// longer than 65535 bytes: more than a queue's verdict can carry, so they never come whole, and the first header
/// after this one is found to lie beyond the end.
pub(super) fn outer(view: View<'_>) -> Result<(Header, View<'_>), DropReason> {
    let header = base(view, 0)?;
    let view = view.narrowed(Ipv6Packet::minimum_packet_size() + usize::from(header.get_payload_length()))?;
    Ok((walk(view, 0, &header)?, view))
}

/// Reads the header that an ICMP error carries at `offset`. Its payload length is not looked at: the packet is cut
/// by design.
pub(super) fn embedded(view: View<'_>, offset: usize) -> Result<Header, DropReason> {
    walk(view, offset, &base(view, offset)?)
}

fn base(view: View<'_>, offset: usize) -> Result<Ipv6Packet<'_>, DropReason> {
    let header = Ipv6Packet::new(view.get(offset, Ipv6Packet::minimum_packet_size())?);
    header.filter(|header| header.get_version() == 6).ok_or(DropReason::Malformed)
}

/// Walks the extension headers up to the first that is none.
///
/// * Hop-by-hop options may only come first (RFC 8200, 4.1).
/// * A routing header with segments left ends the walk: the destination in the IPv6 header is a waypoint, which is
///   to process that header before anything behind it (RFC 8200, 4.4), and the transport checksum covers another
///   address (8.1). Such a packet is left to the host's IPv6. (`ipv6_find_hdr`, and so IPVS, looks behind it.)
/// * A fragment that is not the first ends the walk: what follows is payload.
/// * An authentication header is walked; editing behind it breaks its check value, as it does in IPVS.
/// * ESP, no next header, and everything unknown end the walk like a transport does.
fn walk(view: View<'_>, offset: usize, base: &Ipv6Packet<'_>) -> Result<Header, DropReason> {
    let mut header = Header {
        source: IpAddr::V6(base.get_source()),
        destination: IpAddr::V6(base.get_destination()),
        protocol: base.get_next_header(),
        transport_offset: offset + Ipv6Packet::minimum_packet_size(),
        fragment: Fragment::Whole,
    };
    for walked in 0..=MAX_EXTENSIONS {
        let at = header.transport_offset;
        let (next, len) = match header.protocol {
            IpNextHeaderProtocols::Hopopt if walked > 0 => return Err(DropReason::Malformed),
            IpNextHeaderProtocols::Hopopt | IpNextHeaderProtocols::Ipv6Opts => {
                let (next, units) = extension(view, at)?;
                (next, 8 + units * 8)
            }
            IpNextHeaderProtocols::Ipv6Route => {
                let routing = RoutingPacket::new(view.get(at, 8)?).ok_or(DropReason::Malformed)?;
                if routing.get_segments_left() > 0 {
                    return Ok(header);
                }
                (routing.get_next_header(), 8 + usize::from(routing.get_hdr_ext_len()) * 8)
            }
            IpNextHeaderProtocols::Ipv6Frag => {
                let fragment = FragmentPacket::new(view.get(at, 8)?).ok_or(DropReason::Malformed)?;
                // A second fragment header cannot make whole what the first one said was not.
                header.fragment = header.fragment.max(part(fragment.get_fragment_offset_with_flags()));
                (fragment.get_next_header(), 8)
            }
            IpNextHeaderProtocols::Ah => {
                // The one length in units of four bytes (RFC 4302, 2.2).
                let (next, units) = extension(view, at)?;
                (next, 8 + units * 4)
            }
            _ => return Ok(header),
        };
        view.get(at, len)?;
        header.protocol = next;
        header.transport_offset = at + len;
        if header.fragment == Fragment::Later {
            return Ok(header);
        }
    }
    Err(DropReason::Malformed)
}

/// The two fields that most extension headers begin with: what is next, and the length beyond 8 bytes in units.
fn extension(view: View<'_>, at: usize) -> Result<(IpNextHeaderProtocol, usize), DropReason> {
    let header = ExtensionPacket::new(view.get(at, 8)?).ok_or(DropReason::Malformed)?;
    Ok((header.get_next_header(), usize::from(header.get_hdr_ext_len())))
}

/// Reads the offset and flags of a fragment header: 13 bits, two reserved, "more fragments".
///
/// `FragmentPacket::get_fragment_offset` takes one of the reserved bits for part of the offset.
fn part(offset_and_flags: u16) -> Fragment {
    match (offset_and_flags >> 3, offset_and_flags & 1) {
        (0, 0) => Fragment::Whole,
        (0, _) => Fragment::First,
        _ => Fragment::Later,
    }
}

/// Writes addresses into the header at the start of `bytes`. The change is that of the addresses, as a pseudo
/// header sees it.
pub(super) fn set_addresses(
    bytes: &mut [u8],
    source: Option<Ipv6Addr>,
    destination: Option<Ipv6Addr>,
) -> Result<Change, DropReason> {
    let mut header = MutableIpv6Packet::new(bytes).ok_or(DropReason::Malformed)?;
    let mut change = Change::default();
    if let Some(source) = source {
        change.replace(header.get_source().octets(), source.octets());
        header.set_source(source);
    }
    if let Some(destination) = destination {
        change.replace(header.get_destination().octets(), destination.octets());
        header.set_destination(destination);
    }
    Ok(change)
}

/// Writes the length of the packet, its header included, into the header at the start of `bytes`.
pub(super) fn set_len(bytes: &mut [u8], len: usize) -> Result<(), DropReason> {
    let payload = len.checked_sub(Ipv6Packet::minimum_packet_size()).and_then(|len| u16::try_from(len).ok());
    let mut header = MutableIpv6Packet::new(bytes).ok_or(DropReason::Malformed)?;
    header.set_payload_length(payload.ok_or(DropReason::Malformed)?);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reserved_bits_of_a_fragment_header_are_not_its_offset() {
        assert_eq!(part(0b110), Fragment::Whole);
        assert_eq!(part(0b111), Fragment::First);
        assert_eq!(part(0b1000), Fragment::Later);
    }
}
