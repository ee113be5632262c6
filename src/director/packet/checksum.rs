//! Internet checksums: full sums (RFC 1071), incremental updates (RFC 1624), and the debt of an edited packet, be it
//! such a sum or the CRC32c of SCTP (`crc32c.rs`).
//!
//! [`Incomplete`] is a packet under edit. It holds the only reference to the bytes, learns of every change, and
//! its [`settle`](Incomplete::settle) is the only place where a [`Rewritten`] is made. A packet whose checksum is
//! still owed therefore cannot be passed on by forgetting it.

use std::ops::Range;

use super::crc32c;
use crate::director::DropReason;

/// Proof that a packet's bytes were changed and are complete: no checksum is owed.
#[derive(Debug, PartialEq, Eq)]
pub struct Rewritten {
    resized: Option<Vec<u8>>,
}

impl Rewritten {
    /// The whole packet if its length changed; `None`: it lies where it lay.
    pub fn into_resized(self) -> Option<Vec<u8>> {
        self.resized
    }

    /// The same of a packet that lies in `bytes`.
    pub(super) fn with_bytes(self, bytes: Vec<u8>) -> Rewritten {
        Rewritten { resized: Some(bytes) }
    }
}

/// A one's complement sum that has not been folded to 16 bits.
///
/// The words are added as they lie in memory: the sum of swapped words is the swapped sum (RFC 1071, 2 B), so one
/// swap at the end serves either byte order. 64 bits hold the lanes of 16 GB.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Sum(u64);

impl Sum {
    /// Adds `bytes`, which begin on a 16-bit boundary of what is summed. Only the last addition may be of odd
    /// length: it counts as padded with zero.
    ///
    /// Eight independent 64-bit lanes of 32-bit words, which the compiler turns into vector instructions.
    pub(super) fn add(self, bytes: &[u8]) -> Sum {
        let (blocks, rest) = bytes.as_chunks::<32>();
        let mut lanes = [0u64; 8];
        for block in blocks {
            for (lane, word) in lanes.iter_mut().zip(block.as_chunks::<4>().0) {
                *lane += u64::from(u32::from_ne_bytes(*word));
            }
        }
        let (words, tail) = rest.as_chunks::<4>();
        let mut sum = self.0 + lanes.iter().sum::<u64>();
        for word in words {
            sum += u64::from(u32::from_ne_bytes(*word));
        }
        let mut last = [0; 4];
        for (to, from) in last.iter_mut().zip(tail) {
            *to = *from;
        }
        Sum(sum + u64::from(u32::from_ne_bytes(last)))
    }

    /// The checksum of what was added: the complement of the folded sum, as the number a header field holds.
    ///
    /// A sum with any bit set folds to 1..=0xffff, never to 0, so the result is 0xffff only if nothing but zeros
    /// was added.
    pub(super) fn checksum(self) -> u16 {
        u16::from_be(!self.folded())
    }

    /// Whether the bytes added, their checksum field among them, are consistent.
    pub(super) fn is_right(self) -> bool {
        self.folded() == 0xffff
    }

    fn folded(self) -> u16 {
        let mut sum = self.0;
        while sum > 0xffff {
            sum = (sum >> 16) + (sum & 0xffff);
        }
        sum as u16
    }
}

/// What edits add to a one's complement sum: `~m + m'` for each 16-bit word `m` that became `m'`.
#[derive(Clone, Copy, Debug, Default)]
#[must_use = "a change that no checksum absorbs leaves the packet wrong"]
pub(super) struct Change(u64);

impl Change {
    /// Notes that `old`, at an even offset of what is summed and of even length, became `new`.
    pub(super) fn replace<const N: usize>(&mut self, old: [u8; N], new: [u8; N]) {
        const { assert!(N.is_multiple_of(2)) };
        for (old, new) in old.as_chunks::<2>().0.iter().zip(new.as_chunks::<2>().0) {
            self.0 += u64::from(!u16::from_ne_bytes(*old)) + u64::from(u16::from_ne_bytes(*new));
        }
    }

    /// Brings `checksum`, right or wrong before the change, to the same state after it (RFC 1624, equation 3).
    ///
    /// A right one comes out as a full computation would give it, including the choice between 0 and 0xffff: both
    /// are the complement of a folded sum that is not zero. The earlier formula of RFC 1141 fails exactly there.
    pub(super) fn apply(self, checksum: u16) -> u16 {
        Sum(u64::from(!checksum.to_be()) + self.0).checksum()
    }

    fn and(&mut self, other: Change) {
        self.0 += other.0;
    }
}

/// Which checksum: what it covers and where it lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Tcp,
    Udp,
    /// The only one that is no sum (RFC 9260, 6.8). No pseudo header: addresses do not matter to it.
    Sctp,
    /// AH and ESP: none of a kind that an edit could keep right.
    Ipsec,
    /// The only sum without a pseudo header (RFC 792).
    Icmpv4,
    Icmpv6,
}

impl Kind {
    /// The protocol number in the pseudo header; `None`: there is no pseudo header.
    fn pseudo_protocol(self) -> Option<u8> {
        match self {
            Kind::Tcp => Some(6),
            Kind::Udp => Some(17),
            Kind::Icmpv6 => Some(58),
            Kind::Sctp | Kind::Ipsec | Kind::Icmpv4 => None,
        }
    }

    /// Where the checksum stands within the bytes it covers.
    fn field(self) -> Range<usize> {
        match self {
            Kind::Tcp => 16..18,
            Kind::Udp => 6..8,
            Kind::Sctp => crc32c::FIELD_OFFSET..crc32c::FIELD_OFFSET + 4,
            Kind::Ipsec => 0..0,
            Kind::Icmpv4 | Kind::Icmpv6 => 2..4,
        }
    }
}

/// The bytes that a checksum covers, within a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Cover {
    pub(super) kind: Kind,
    /// From the start of the packet, in bytes.
    pub(super) offset: usize,
    /// In bytes, without the pseudo header.
    pub(super) len: usize,
}

/// How the checksum gets right again.
enum Debt {
    /// A sum that stood for the bytes before the edits and absorbs them.
    Changes(Change),
    /// A sum that stands for nothing: computed from all the bytes.
    WholeSum,
    /// A CRC that stood for a packet that began with these ports, the only bytes of SCTP that are ever edited.
    Ports([u8; 4]),
    /// A CRC that stands for nothing: computed from all the bytes.
    WholeCrc,
    /// There is no checksum.
    Nothing,
}

/// A packet under edit, whose transport or ICMP checksum does not stand for its bytes.
#[must_use = "an edited packet is complete only after `settle`"]
pub(super) struct Incomplete<'a> {
    /// Everything before the covered bytes: the IP header and its extensions.
    network: &'a mut [u8],
    covered: &'a mut [u8],
    kind: Kind,
    debt: Debt,
}

impl<'a> Incomplete<'a> {
    /// Begins to edit a packet. `checksum_owed`: the kernel left a partial sum in the field.
    ///
    /// A UDP checksum of zero ("none") gets computed, in IPv4 as `udp_dnat_handler` of `ip_vs_proto_udp.c` does
    /// it, and in IPv6, where zero is a privilege of tunnels (RFC 6935), as well.
    ///
    /// # Errors
    ///
    /// [`DropReason::Malformed`] if `cover` does not lie within `bytes` or is shorter than its checksum field.
    pub(super) fn begin(bytes: &'a mut [u8], cover: Cover, checksum_owed: bool) -> Result<Self, DropReason> {
        let (network, rest) = bytes.split_at_mut_checked(cover.offset).ok_or(DropReason::Malformed)?;
        addresses(network).ok_or(DropReason::Malformed)?;
        let covered = rest.get_mut(..cover.len).ok_or(DropReason::Malformed)?;
        let field = covered.get(cover.kind.field()).ok_or(DropReason::Malformed)?;
        let debt = match cover.kind {
            Kind::Ipsec => Debt::Nothing,
            Kind::Sctp if checksum_owed => Debt::WholeCrc,
            Kind::Sctp => Debt::Ports(*covered.first_chunk().ok_or(DropReason::Malformed)?),
            _ if checksum_owed => Debt::WholeSum,
            Kind::Udp if field == [0, 0] => Debt::WholeSum,
            _ => Debt::Changes(Change::default()),
        };
        Ok(Incomplete { network, covered, kind: cover.kind, debt })
    }

    /// Whether the sum stands for the bytes. One that is owed cannot be wrong. Those of ICMP messages matter here, and
    /// of segments that are read; others are for their receivers to judge.
    pub(super) fn is_right(&self) -> bool {
        !matches!(self.debt, Debt::Changes(_)) || self.sum().is_right()
    }

    /// Edits the addresses in the outer IP header; `edit` answers by how much their sum changed.
    pub(super) fn edit_addresses(
        &mut self,
        edit: impl FnOnce(&mut [u8]) -> Result<Change, DropReason>,
    ) -> Result<(), DropReason> {
        let change = edit(self.network)?;
        if self.kind.pseudo_protocol().is_some() {
            self.note(change);
        }
        Ok(())
    }

    /// Edits the covered bytes; `edit` answers by how much their sum changed.
    pub(super) fn edit_covered(
        &mut self,
        edit: impl FnOnce(&mut [u8]) -> Result<Change, DropReason>,
    ) -> Result<(), DropReason> {
        let change = edit(self.covered)?;
        self.note(change);
        Ok(())
    }

    /// Pays the debt: after this the checksum stands for the bytes, or is as wrong as it was when it arrived.
    pub(super) fn settle(mut self) -> Rewritten {
        match self.debt {
            Debt::Changes(change) => {
                let present = u16::from_be_bytes(*self.field());
                self.set_sum(change.apply(present));
            }
            Debt::WholeSum => {
                *self.field() = [0, 0];
                self.set_sum(self.sum().checksum());
            }
            Debt::Ports(old) => {
                let (new, behind) = self.covered.split_first_chunk().expect("`begin` found the ports");
                let (new, behind) = (*new, behind.len());
                if new != old {
                    *self.field() = crc32c::update(*self.field(), old, new, behind);
                }
            }
            Debt::WholeCrc => *self.field() = crc32c::checksum(self.covered),
            Debt::Nothing => {}
        }
        Rewritten { resized: None }
    }

    fn set_sum(&mut self, sum: u16) {
        // RFC 768: a computed zero is sent as all ones, because zero says "no checksum".
        let sum = if self.kind == Kind::Udp && sum == 0 { 0xffff } else { sum };
        *self.field() = sum.to_be_bytes();
    }

    fn note(&mut self, change: Change) {
        if let Debt::Changes(changes) = &mut self.debt {
            changes.and(change);
        }
    }

    fn field<const N: usize>(&mut self) -> &mut [u8; N] {
        let field = self.covered.get_mut(self.kind.field()).and_then(<[u8]>::as_mut_array);
        field.expect("`begin` found the field, of as many bytes")
    }

    /// The sum over the pseudo header, if any, and the covered bytes.
    fn sum(&self) -> Sum {
        let sum = Sum::default();
        let sum = match self.kind.pseudo_protocol() {
            // The families lay these out differently (RFC 9293, 3.1 and RFC 8200, 8.1) and sum to the same.
            Some(protocol) => sum
                .add(addresses(self.network).expect("`begin` found the addresses"))
                .add(&(self.covered.len() as u32).to_be_bytes())
                .add(&[0, protocol]),
            None => sum,
        };
        sum.add(self.covered)
    }
}

/// Both addresses of an IP header, as they lie in it.
fn addresses(network: &[u8]) -> Option<&[u8]> {
    match network.first()? >> 4 {
        4 => network.get(12..20),
        6 => network.get(8..40),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// RFC 1071 as it is written: big-endian words, one after the other.
    fn by_the_book(bytes: &[u8]) -> u16 {
        let mut sum = 0u32;
        for word in bytes.chunks(2) {
            sum += u32::from(word[0]) << 8 | u32::from(*word.get(1).unwrap_or(&0));
            sum = (sum & 0xffff) + (sum >> 16);
        }
        !(sum as u16)
    }

    #[test]
    fn the_example_of_rfc_1071_sums_to_ddf2() {
        assert_eq!(Sum::default().add(&[0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7]).checksum(), !0xddf2);
    }

    #[test]
    fn the_example_of_rfc_1624_gives_zero_and_not_its_complement() {
        let mut change = Change::default();
        change.replace([0x55, 0x55], [0x32, 0x85]);
        assert_eq!(change.apply(0xdd2f), 0x0000);
    }

    #[test]
    fn every_length_and_alignment_sums_by_the_book() {
        let bytes: Vec<u8> = (0..200u32).map(|i| (i * i * 31 + 7) as u8).collect();
        for start in 0..16 {
            for end in start..bytes.len() {
                let part = &bytes[start..end];
                assert_eq!(Sum::default().add(part).checksum(), by_the_book(part), "{start}..{end}");
            }
        }
    }

    #[test]
    fn the_largest_packet_of_ones_does_not_overflow() {
        let ones = vec![0xff; 65_535];
        assert_eq!(Sum::default().add(&ones).checksum(), by_the_book(&ones));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(5_000))]

        #[test]
        fn an_update_is_what_a_full_sum_would_have_been(
            // Few distinct values, so that sums of 0 and 0xffff are common.
            mut words in prop::collection::vec(prop_oneof![Just(0u16), Just(0xffff), Just(1), Just(0xfffe), any::<u16>()], 1..12),
            at in any::<prop::sample::Index>(),
            new in prop_oneof![Just(0u16), Just(0xffff), Just(1), any::<u16>()],
        ) {
            // The pseudo header holds the protocol, so at least one word is never zero.
            let sum_of = |words: &[u16]| {
                words.iter().fold(Sum::default().add(&[0, 6]), |sum, word| sum.add(&word.to_be_bytes())).checksum()
            };
            let before = sum_of(&words);
            let at = at.index(words.len());
            let mut change = Change::default();
            change.replace(words[at].to_be_bytes(), new.to_be_bytes());
            words[at] = new;
            prop_assert_eq!(change.apply(before), sum_of(&words));
        }

        #[test]
        fn a_wrong_checksum_stays_wrong_by_as_much(right: u16, error in 1..0xffffu16, old: [u8; 4], new: [u8; 4]) {
            let mut change = Change::default();
            change.replace(old, new);
            let residue = |checksum: u16| u32::from(checksum) % 0xffff;
            let wrong = ((u32::from(right) + u32::from(error)) % 0xffff) as u16;
            let gap = (residue(change.apply(wrong)) + 0xffff - residue(change.apply(right))) % 0xffff;
            prop_assert_eq!(gap, u32::from(error));
        }
    }
}
