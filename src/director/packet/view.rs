//! What is at hand of a packet, and the one length check behind which everything is read.

use std::net::IpAddr;

use pnet_packet::ip::IpNextHeaderProtocol;

use crate::director::DropReason;

/// The bytes at hand, and how many the packet has by its own account.
///
/// The second number begins as the length on the wire and is narrowed to what the IP header claims.
#[derive(Clone, Copy, Debug)]
pub(super) struct View<'a> {
    at_hand: &'a [u8],
    len: usize,
}

impl<'a> View<'a> {
    /// A packet of which the kernel copied `at_hand`, and which has `original_len` bytes.
    pub(super) fn new(at_hand: &'a [u8], original_len: usize) -> View<'a> {
        View { at_hand, len: original_len.max(at_hand.len()) }
    }

    /// How many bytes the packet has by its own account.
    pub(super) fn len(self) -> usize {
        self.len
    }

    /// The `len` bytes at `offset`.
    ///
    /// # Errors
    ///
    /// [`DropReason::Malformed`] if the packet has no such bytes, [`DropReason::Truncated`] if it has, but the copy
    /// was cut before their end.
    pub(super) fn get(self, offset: usize, len: usize) -> Result<&'a [u8], DropReason> {
        let end = offset.checked_add(len).filter(|end| *end <= self.len).ok_or(DropReason::Malformed)?;
        self.at_hand.get(offset..end).ok_or(DropReason::Truncated)
    }

    /// The same packet, said to end after `len` bytes. What follows is padding of the link and nobody's business.
    ///
    /// # Errors
    ///
    /// [`DropReason::Malformed`] if the packet is shorter than that.
    pub(super) fn narrowed(self, len: usize) -> Result<View<'a>, DropReason> {
        if len > self.len {
            return Err(DropReason::Malformed);
        }
        Ok(View { len, ..self })
    }
}

/// What an IP header, with all its extensions, says.
#[derive(Clone, Copy, Debug)]
pub(super) struct Header {
    pub(super) source: IpAddr,
    pub(super) destination: IpAddr,
    /// The first header that is not part of IP, or one that must not be looked behind.
    pub(super) protocol: IpNextHeaderProtocol,
    /// Where that header begins, in bytes from the start of the packet.
    pub(super) transport_offset: usize,
    pub(super) fragment: Fragment,
}

/// Which part of a datagram a packet carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Fragment {
    /// All of it.
    Whole,
    /// The beginning, with the transport header.
    First,
    /// A part that begins somewhere inside.
    Later,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cut_copy_and_a_lying_length_are_told_apart() {
        let view = View::new(&[0; 8], 10);
        assert_eq!(view.get(0, 8), Ok(&[0; 8][..]));
        assert_eq!(view.get(4, 5), Err(DropReason::Truncated));
        assert_eq!(view.get(4, 7), Err(DropReason::Malformed));
        assert_eq!(view.get(usize::MAX, 1), Err(DropReason::Malformed));
        assert_eq!(view.narrowed(6).unwrap().get(4, 4), Err(DropReason::Malformed));
        assert_eq!(view.narrowed(11).unwrap_err(), DropReason::Malformed);
    }

    #[test]
    fn an_original_length_below_the_bytes_at_hand_means_nothing() {
        assert_eq!(View::new(&[0; 8], 0).len(), 8);
    }
}
