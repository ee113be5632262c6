//! Sequence numbers of a TCP stream that was made longer or shorter on its way (`struct ip_vs_seq` of `ip_vs.h`;
//! adjusted as `nf_conntrack_seqadj.c` does it, which is what serves the kernel's FTP).

/// By how much the sequence numbers of one direction differ behind the director. Deltas are two's complement.
///
/// ```
/// use nfvs::director::packet::SequenceShift;
///
/// let mut shift = SequenceShift::default();
/// shift.note(1000, 3);
/// assert_eq!(shift.sent(1000), 1000, "the segment that grew begins where it did");
/// assert_eq!(shift.sent(1050), 1053);
/// assert_eq!(shift.acknowledged(1053), 1050);
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SequenceShift {
    /// Where the segment begins that changed its length last, as its sender counts.
    pub init_seq: u32,
    /// What is added to the numbers behind it.
    pub delta: u32,
    /// What is added to the numbers up to it.
    pub previous_delta: u32,
}

impl SequenceShift {
    /// As the synchronisation protocol has it.
    pub const fn told(self) -> sync_proto::SequenceShift {
        let SequenceShift { init_seq, delta, previous_delta } = self;
        sync_proto::SequenceShift { init_seq, delta, previous_delta }
    }

    /// What the synchronisation protocol tells.
    pub const fn of_told(told: sync_proto::SequenceShift) -> SequenceShift {
        let sync_proto::SequenceShift { init_seq, delta, previous_delta } = told;
        SequenceShift { init_seq, delta, previous_delta }
    }

    /// Whether numbers stay as they are.
    pub fn is_none(self) -> bool {
        self.delta == 0 && self.previous_delta == 0
    }

    /// Notes that the segment that begins at `sequence`, as its sender counts, became longer by `by` bytes. A segment
    /// no newer than the last one noted is that one, sent again.
    pub fn note(&mut self, sequence: u32, by: i32) {
        if self.delta == self.previous_delta || is_after(sequence, self.init_seq) {
            self.init_seq = sequence;
            self.previous_delta = self.delta;
            self.delta = self.delta.wrapping_add_signed(by);
        }
    }

    /// A number of the sender, as the receiver is to see it.
    pub fn sent(self, sequence: u32) -> u32 {
        let delta = if is_after(sequence, self.init_seq) { self.delta } else { self.previous_delta };
        sequence.wrapping_add(delta)
    }

    /// A number that the receiver acknowledges, as the sender is to see it.
    pub fn acknowledged(self, number: u32) -> u32 {
        let before = number.wrapping_sub(self.previous_delta);
        if is_after(before, self.init_seq) { number.wrapping_sub(self.delta) } else { before }
    }
}

/// Whether `number` comes behind `other` in a stream (RFC 9293, 3.4).
pub fn is_after(number: u32, other: u32) -> bool {
    other.wrapping_sub(number).cast_signed() < 0
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_segment_that_is_sent_again_changes_nothing() {
        let mut shift = SequenceShift::default();
        shift.note(100, 1);
        shift.note(200, -3);
        let once = shift;
        assert_eq!(once, SequenceShift { init_seq: 200, delta: 2_u32.wrapping_neg(), previous_delta: 1 });
        shift.note(200, -3);
        shift.note(100, 1);
        assert_eq!(shift, once);
    }

    #[test]
    fn numbers_go_round() {
        let mut shift = SequenceShift::default();
        shift.note(u32::MAX - 10, 4);
        assert_eq!(shift.sent(u32::MAX - 2), 1);
        assert_eq!(shift.acknowledged(1), u32::MAX - 2);
        assert_eq!(shift.acknowledged(u32::MAX - 10), u32::MAX - 10);
    }

    proptest! {
        #[test]
        fn what_is_acknowledged_is_what_was_sent(
            start: u32,
            // The length of each changed segment, what it became, and how much follows it unchanged.
            segments in prop::collection::vec((20_u32..60, 20_u32..60, 0_u32..2000), 1..20),
        ) {
            let mut shift = SequenceShift::default();
            let (mut at, mut seen) = (start, start);
            for (length, became, behind) in segments {
                shift.note(at, became.cast_signed() - length.cast_signed());
                prop_assert_eq!(shift.sent(at), seen, "where the changed segment begins");
                prop_assert_eq!(shift.acknowledged(seen), at, "it has not arrived");
                at = at.wrapping_add(length);
                seen = seen.wrapping_add(became);
                for more in [0, behind] {
                    at = at.wrapping_add(more);
                    seen = seen.wrapping_add(more);
                    prop_assert_eq!(shift.sent(at), seen);
                    prop_assert_eq!(shift.acknowledged(seen), at, "it has arrived");
                }
            }
        }
    }
}
