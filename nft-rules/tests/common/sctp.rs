//! SCTP packets, for tests of every crate here.

use super::crc32c::crc32c;

/// An SCTP packet (RFC 9260) of one chunk with `content` behind its header.
pub(crate) fn sctp(source: u16, destination: u16, chunk: u8, content: &[u8]) -> Vec<u8> {
    let mut packet = [&source.to_be_bytes()[..], &destination.to_be_bytes(), b"vtag", &[0; 4]].concat();
    packet.extend([chunk, 0]);
    packet.extend((4 + content.len() as u16).to_be_bytes());
    packet.extend(content);
    packet.resize(packet.len().next_multiple_of(4), 0);
    let crc = crc32c(&packet);
    packet[8..12].copy_from_slice(&crc);
    packet
}

/// Source and destination port of an SCTP packet, and whether its CRC is right.
pub(crate) fn read_sctp(packet: &[u8]) -> (u16, u16, bool) {
    let port = |at: usize| u16::from_be_bytes([packet[at], packet[at + 1]]);
    let mut unsummed = packet.to_vec();
    unsummed[8..12].fill(0);
    (port(0), port(2), packet[8..12] == crc32c(&unsummed))
}
