//! IPv4 headers (RFC 791): where they lead, and their addresses.

use std::net::{IpAddr, Ipv4Addr};

use pnet_packet::ipv4::{Ipv4Flags, Ipv4Packet, MutableIpv4Packet};

use super::checksum::Change;
use super::view::{Fragment, Header, View};
use crate::director::DropReason;

/// Reads the header of the packet itself, and narrows the view to the length it claims.
pub(super) fn outer(view: View<'_>) -> Result<(Header, View<'_>), DropReason> {
    let (header, total_len) = read(view, 0)?;
    // A total length of 0 is IPv4 BIG TCP, longer than 65535 bytes: more than a queue's verdict can carry, so it
    // never comes whole and ends here with the other contradictions.
    if total_len < header.transport_offset {
        return Err(DropReason::Malformed);
    }
    Ok((header, view.narrowed(total_len)?))
}

/// Reads the header that an ICMP error carries at `offset`.
///
/// Its total length is not looked at: the packet is cut by design, and some senders return the field altered.
pub(super) fn embedded(view: View<'_>, offset: usize) -> Result<Header, DropReason> {
    Ok(read(view, offset)?.0)
}

/// Reads the fixed part of a header, and its total length. That the options lie within the packet is for the caller
/// to see, from the total length or from what it reads behind them.
fn read(view: View<'_>, offset: usize) -> Result<(Header, usize), DropReason> {
    let header = Ipv4Packet::new(view.get(offset, Ipv4Packet::minimum_packet_size())?);
    let header = header.ok_or(DropReason::Malformed)?;
    let header_len = usize::from(header.get_header_length()) * 4;
    if header.get_version() != 4 || header_len < Ipv4Packet::minimum_packet_size() {
        return Err(DropReason::Malformed);
    }
    let fragment = match (header.get_fragment_offset(), header.get_flags() & Ipv4Flags::MoreFragments) {
        (0, 0) => Fragment::Whole,
        (0, _) => Fragment::First,
        _ => Fragment::Later,
    };
    let read = Header {
        source: IpAddr::V4(header.get_source()),
        destination: IpAddr::V4(header.get_destination()),
        protocol: header.get_next_level_protocol(),
        transport_offset: offset + header_len,
        fragment,
    };
    Ok((read, usize::from(header.get_total_length())))
}

/// Writes addresses into the header at the start of `bytes` and updates the header's own checksum.
///
/// The change is that of the addresses, as a pseudo header sees it. The header with its checksum sums to the same
/// as before.
pub(super) fn set_addresses(
    bytes: &mut [u8],
    source: Option<Ipv4Addr>,
    destination: Option<Ipv4Addr>,
) -> Result<Change, DropReason> {
    let mut header = MutableIpv4Packet::new(bytes).ok_or(DropReason::Malformed)?;
    let mut change = Change::default();
    if let Some(source) = source {
        change.replace(header.get_source().octets(), source.octets());
        header.set_source(source);
    }
    if let Some(destination) = destination {
        change.replace(header.get_destination().octets(), destination.octets());
        header.set_destination(destination);
    }
    header.set_checksum(change.apply(header.get_checksum()));
    Ok(change)
}

/// Writes the length of the packet into the header at the start of `bytes` and updates the header's own checksum.
pub(super) fn set_len(bytes: &mut [u8], len: usize) -> Result<(), DropReason> {
    let len = u16::try_from(len).map_err(|_| DropReason::Malformed)?;
    let mut header = MutableIpv4Packet::new(bytes).ok_or(DropReason::Malformed)?;
    let mut change = Change::default();
    change.replace(header.get_total_length().to_be_bytes(), len.to_be_bytes());
    header.set_total_length(len);
    header.set_checksum(change.apply(header.get_checksum()));
    Ok(())
}
