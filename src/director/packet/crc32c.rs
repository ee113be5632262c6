//! CRC32c, the checksum of SCTP (RFC 9260, 6.8 and appendix A): over a whole packet, and updated by a difference.
//!
//! Polynomials over GF(2) of degree 31 and less, as 32 bits of which the highest stands for x^0 ("reflected"), modulo
//! the Castagnoli polynomial.

/// The Castagnoli polynomial without its x^32.
const POLYNOMIAL: u32 = 0x82f6_3b78;

/// Where the checksum stands in an SCTP packet, in bytes.
pub(super) const FIELD_OFFSET: usize = 8;

/// The checksum of an SCTP packet, as it stands in its header. The field itself counts as zero, whatever is there.
pub(super) fn checksum(packet: &[u8]) -> [u8; 4] {
    let before = packet.get(..FIELD_OFFSET).unwrap_or(packet);
    let behind = packet.get(FIELD_OFFSET + 4..).unwrap_or_default();
    (!add(add(add(!0, before), &[0; 4]), behind)).to_le_bytes()
}

/// The checksum after four bytes `old` became `new`, with `behind` bytes behind them that stay. One that was wrong
/// stays wrong by as much.
pub(super) fn update(checksum: [u8; 4], old: [u8; 4], new: [u8; 4], behind: usize) -> [u8; 4] {
    // A remainder is linear but for what it starts and ends with, and both cancel out in a difference.
    let difference = add(0, &(u32::from_ne_bytes(old) ^ u32::from_ne_bytes(new)).to_ne_bytes());
    (u32::from_le_bytes(checksum) ^ shifted(difference, behind)).to_le_bytes()
}

/// Goes on with `bytes` from the remainder `crc`: eight at a time, then one by one.
fn add(mut crc: u32, bytes: &[u8]) -> u32 {
    let (blocks, rest) = bytes.as_chunks::<8>();
    for block in blocks {
        let low = crc.to_le_bytes();
        crc = 0;
        for (at, byte) in block.iter().enumerate() {
            let byte = byte ^ low.get(at).copied().unwrap_or_default();
            crc ^= TABLES[7 - at][usize::from(byte)];
        }
    }
    for byte in rest {
        crc = (crc >> 8) ^ TABLES[0][usize::from(crc as u8 ^ byte)];
    }
    crc
}

/// `crc` after another `len` bytes of zero: times x^(8 * len).
fn shifted(mut crc: u32, len: usize) -> u32 {
    for (bit, power) in POWERS.iter().enumerate() {
        if len >> bit & 1 == 1 {
            crc = times(crc, *power);
        }
    }
    crc
}

/// The product of two polynomials.
const fn times(a: u32, mut b: u32) -> u32 {
    let mut product = 0;
    let mut bit = 32;
    while bit > 0 {
        bit -= 1;
        if a >> bit & 1 == 1 {
            product ^= b;
        }
        b = times_x(b);
    }
    product
}

const fn times_x(a: u32) -> u32 {
    if a & 1 == 1 { a >> 1 ^ POLYNOMIAL } else { a >> 1 }
}

/// `TABLES[n][byte]`: what a byte adds that has `n` others behind it.
static TABLES: [[u32; 256]; 8] = {
    let mut tables = [[0; 256]; 8];
    let mut byte = 0;
    while byte < 256 {
        let mut crc = byte as u32;
        let mut n = 0;
        while n < 8 {
            let mut bit = 0;
            while bit < 8 {
                crc = times_x(crc);
                bit += 1;
            }
            tables[n][byte] = crc;
            n += 1;
        }
        byte += 1;
    }
    tables
};

/// `POWERS[n]`: x^(8 * 2^n), enough for lengths up to 128 KiB.
const POWERS: [u32; 17] = {
    let mut powers = [1 << (31 - 8); 17];
    let mut n = 1;
    while n < powers.len() {
        powers[n] = times(powers[n - 1], powers[n - 1]);
        n += 1;
    }
    powers
};

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The definition, a bit at a time.
    fn by_the_book(bytes: &[u8]) -> u32 {
        !bytes.iter().fold(!0, |crc, byte| (0..8).fold(crc ^ u32::from(*byte), |crc, _| times_x(crc)))
    }

    #[test]
    fn the_examples_of_rfc_3720_and_the_check_value() {
        let of = |bytes: &[u8]| !add(!0, bytes);
        assert_eq!(of(b"123456789"), 0xe306_9283);
        assert_eq!(of(&[0; 32]).to_le_bytes(), [0xaa, 0x36, 0x91, 0x8a]);
        assert_eq!(of(&[0xff; 32]).to_le_bytes(), [0x43, 0xab, 0xa8, 0x62]);
        assert_eq!(
            of(&std::array::from_fn::<u8, 32, _>(|i| i as u8)).to_le_bytes(),
            [0x4e, 0x79, 0xdd, 0x46]
        );
    }

    proptest! {
        #[test]
        fn eight_at_a_time_is_one_by_one(bytes in prop::collection::vec(any::<u8>(), 0..70)) {
            prop_assert_eq!(!add(!0, &bytes), by_the_book(&bytes));
        }

        #[test]
        fn the_field_counts_as_zero(mut packet in prop::collection::vec(any::<u8>(), 12..70)) {
            let found = checksum(&packet);
            packet[FIELD_OFFSET..FIELD_OFFSET + 4].fill(0);
            prop_assert_eq!(found, by_the_book(&packet).to_le_bytes());
        }

        #[test]
        fn an_update_is_what_a_full_computation_would_have_been(
            mut packet in prop::collection::vec(any::<u8>(), 16..2000),
            new: [u8; 4],
        ) {
            let before = checksum(&packet);
            let old = *packet.first_chunk().unwrap();
            packet[..4].copy_from_slice(&new);
            prop_assert_eq!(update(before, old, new, packet.len() - 4), checksum(&packet));
        }

        #[test]
        fn a_wrong_checksum_stays_wrong_by_as_much(right: [u8; 4], error: u32, old: [u8; 4], new: [u8; 4], len in 0..65_536usize) {
            let wrong = (u32::from_le_bytes(right) ^ error).to_le_bytes();
            let [of_right, of_wrong] = [right, wrong].map(|it| u32::from_le_bytes(update(it, old, new, len)));
            prop_assert_eq!(of_right ^ of_wrong, error);
        }
    }
}
