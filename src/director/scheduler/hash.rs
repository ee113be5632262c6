//! The hashes by which a kernel's schedulers choose, bit for bit: those of any director lead a client to the same
//! server.
//!
//! `hash_32` of `include/linux/hash.h`, `hsiphash` of `lib/siphash.c` as a 64-bit kernel has it, and the folding of
//! addresses that `ip_vs_{dh,sh,mh,lblc,lblcr}.c` share.

use std::net::IpAddr;

/// An address in 32 bits: of IPv6, the exclusive or of its four words.
pub(super) fn fold(address: IpAddr) -> u32 {
    match address {
        IpAddr::V4(v4) => v4.to_bits(),
        IpAddr::V6(v6) => {
            let bits = v6.to_bits();
            (bits >> 96) as u32 ^ (bits >> 64) as u32 ^ (bits >> 32) as u32 ^ bits as u32
        }
    }
}

/// The first `bits` bits of `value` times the golden ratio (`hash_32`).
pub(super) const fn multiplied(value: u32, bits: u32) -> usize {
    (value.wrapping_mul(0x61c8_8647) >> (32 - bits)) as usize
}

/// SipHash-1-3 of one little-endian 32-bit word, folded to 32 bits (`hsiphash_1u32`). Both halves of the key are `key`.
pub(super) const fn sip(value: u32, key: u64) -> u32 {
    let block = 4 << 56 | value as u64;
    let mut state = [
        0x736f_6d65_7073_6575 ^ key,
        0x646f_7261_6e64_6f6d ^ key,
        0x6c79_6765_6e65_7261 ^ key,
        0x7465_6462_7974_6573 ^ key,
    ];
    state[3] ^= block;
    state = round(state);
    state[0] ^= block;
    state[2] ^= 0xff;
    let [v0, v1, v2, v3] = round(round(round(state)));
    (v0 ^ v1 ^ v2 ^ v3) as u32
}

/// SipRound (Aumasson and Bernstein, "SipHash: a fast short-input PRF", 2012).
const fn round([v0, v1, v2, v3]: [u64; 4]) -> [u64; 4] {
    let (v0, v2) = (v0.wrapping_add(v1), v2.wrapping_add(v3));
    let (v1, v3) = (v1.rotate_left(13) ^ v0, v3.rotate_left(16) ^ v2);
    let (v0, v2) = (v0.rotate_left(32), v2.wrapping_add(v1));
    let v0 = v0.wrapping_add(v3);
    let (v1, v3) = (v1.rotate_left(17) ^ v2, v3.rotate_left(21) ^ v0);
    [v0, v1, v2.rotate_left(32), v3]
}

#[cfg(test)]
mod tests {
    use super::super::mh::{FIRST_KEY, SECOND_KEY};
    use super::*;

    // What a model said that agreed with a kernel.
    #[test]
    fn hashes_are_those_of_the_kernel() {
        for (address, port, folded, of_256, of_1024, first, second) in [
            ("10.0.0.1", 0, 0x0a00_0001, 39, 159, 0x0308_0ce4, 965),
            ("192.0.2.10", 0, 0xc000_020a, 162, 651, 0x13d0_99c4, 3678),
            ("192.0.2.10", 49152, 0xc000_c20a, 7, 30, 0xf771_08c0, 2405),
            ("10.3.0.1", 80, 0x0a03_0051, 73, 293, 0x4e14_e366, 1360),
            ("10.3.0.2", 80, 0x0a03_0052, 171, 684, 0x846d_d90c, 902),
            ("10.3.0.3", 80, 0x0a03_0053, 12, 51, 0xfc50_a0bd, 2307),
            ("255.255.255.255", 1, 0, 0, 0, 0x1d5a_77c2, 859),
            ("2001:db8::1", 0, 0x2001_0db9, 63, 252, 0xcdc3_f189, 3168),
            ("fd00:3::1", 80, 0xfd00_0052, 125, 500, 0xf3ff_cfd3, 1770),
        ] {
            let value = fold(address.parse().unwrap()).wrapping_add(port);
            assert_eq!(value, folded, "{address} {port}");
            assert_eq!(multiplied(value, 8), of_256, "{address} {port}");
            assert_eq!(multiplied(value, 10), of_1024, "{address} {port}");
            assert_eq!(sip(value, FIRST_KEY), first, "{address} {port}");
            assert_eq!(sip(value, SECOND_KEY) % 4092, second, "{address} {port}");
        }
    }
}
