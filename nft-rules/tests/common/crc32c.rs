//! The checksum of SCTP, for tests of every crate here: written otherwise than the one they judge.

/// RFC 9260, appendix A, a bit at a time.
pub(crate) fn crc32c(packet: &[u8]) -> [u8; 4] {
    let crc = packet.iter().fold(!0u32, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| (crc >> 1) ^ ((crc & 1) * 0x82f6_3b78))
    });
    (!crc).to_le_bytes()
}
