//! Receive buffers for a burst of datagrams, filled by one `recvmmsg`.

use std::os::fd::{AsRawFd, BorrowedFd};
use std::{mem, ptr, slice};

use rustix::io::Errno;

/// Buffers of equal size in one block of memory, of which only what was received takes pages.
///
/// The kernel's view of the buffers (`headers`, `iovecs`) is built once; it points into `block` and stays right
/// because neither the block nor the two arrays ever move or change size.
pub(super) struct Ring {
    block: *mut [u8],
    pitch: usize,
    /// Pointed to by `headers`.
    _iovecs: Box<[libc::iovec]>,
    headers: Box<[libc::mmsghdr]>,
}

// SAFETY: the pointers lead to memory that the ring alone owns.
unsafe impl Send for Ring {}

impl Ring {
    /// `slots` buffers, for datagrams of at most `datagram_max` bytes.
    pub(super) fn new(slots: usize, datagram_max: usize) -> Ring {
        // An odd number of cache lines: the datagrams' heads, which are all that is read of most of them, then
        // spread over the whole cache, where a pitch of whole pages would put them on top of each other.
        let pitch = datagram_max.next_multiple_of(CACHE_LINE) | CACHE_LINE;
        // Zeroed memory of this size comes from the system untouched, and so takes no pages before it is used.
        let block = Box::into_raw(vec![0; slots * pitch].into_boxed_slice());
        let mut iovecs: Box<[libc::iovec]> = (0..slots)
            .map(|slot| libc::iovec {
                // SAFETY: `slot` is below `slots`, so the buffer starts inside the block.
                iov_base: unsafe { block.cast::<u8>().add(slot * pitch) }.cast(),
                iov_len: pitch,
            })
            .collect();
        let first = iovecs.as_mut_ptr();
        let headers = (0..slots)
            .map(|slot| {
                // SAFETY: all of `mmsghdr` is integers and pointers, for which zero is a value.
                let mut header: libc::mmsghdr = unsafe { mem::zeroed() };
                // SAFETY: `slot` is below the number of elements.
                header.msg_hdr.msg_iov = unsafe { first.add(slot) };
                header.msg_hdr.msg_iovlen = 1;
                header
            })
            .collect();
        Ring { block, pitch, _iovecs: iovecs, headers }
    }

    /// Receives what is there, at most one datagram a buffer. Waits for the first if `wait` is set, for as long as
    /// the socket's receive timeout says. A datagram that does not fit its buffer is cut.
    ///
    /// # Errors
    /// `AGAIN` if there was nothing; otherwise the socket's error.
    pub(super) fn receive(
        &mut self,
        socket: BorrowedFd<'_>,
        wait: bool,
    ) -> rustix::io::Result<Datagrams<'_>> {
        let flags = if wait { libc::MSG_WAITFORONE } else { libc::MSG_DONTWAIT };
        // SAFETY: each header points to an `iovec`, which points to a buffer of the given length; nothing else
        // refers to the block, because `Datagrams` borrows the ring mutably. The kernel writes back only lengths
        // and flags, so the headers can be used again.
        let received = unsafe {
            libc::recvmmsg(
                socket.as_raw_fd(),
                self.headers.as_mut_ptr(),
                self.headers.len() as libc::c_uint,
                flags as _,
                ptr::null_mut(),
            )
        };
        match usize::try_from(received) {
            Ok(count) => Ok(Datagrams { ring: self, next: 0, count }),
            Err(_) => Err(Errno::from_io_error(&std::io::Error::last_os_error()).unwrap_or(Errno::IO)),
        }
    }
}

impl Drop for Ring {
    fn drop(&mut self) {
        // SAFETY: the block came from `Box::into_raw` and is freed only here.
        drop(unsafe { Box::from_raw(self.block) });
    }
}

/// The datagrams of one [`Ring::receive`], each once.
pub(super) struct Datagrams<'r> {
    ring: &'r mut Ring,
    next: usize,
    count: usize,
}

impl<'r> Iterator for Datagrams<'r> {
    type Item = &'r mut [u8];

    fn next(&mut self) -> Option<&'r mut [u8]> {
        let slot = self.next;
        if slot == self.count {
            return None;
        }
        self.next += 1;
        let length = (self.ring.headers[slot].msg_len as usize).min(self.ring.pitch);
        // SAFETY: the buffer `slot` lies inside the block and holds `pitch` initialised bytes. Each slot is handed
        // out once, slots do not overlap, and the ring is borrowed mutably for `'r`, so nobody else refers to it.
        Some(unsafe {
            slice::from_raw_parts_mut(self.ring.block.cast::<u8>().add(slot * self.ring.pitch), length)
        })
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        let left = self.count - self.next;
        (left, Some(left))
    }
}

impl ExactSizeIterator for Datagrams<'_> {}

const CACHE_LINE: usize = 64;

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::net::{AddressFamily, SendFlags, SocketFlags, SocketType, send, socketpair};
    use std::os::fd::AsFd;

    #[test]
    fn a_burst_lies_in_order_and_apart_and_a_long_datagram_is_cut() {
        let (near, far) =
            socketpair(AddressFamily::UNIX, SocketType::DGRAM, SocketFlags::CLOEXEC, None).unwrap();
        let mut ring = Ring::new(3, 100);
        let pitch = ring.pitch;
        for (byte, length) in [(1, 10), (2, 4000), (3, 0), (4, 1)] {
            send(&far, &vec![byte; length], SendFlags::empty()).unwrap();
        }
        let received: Vec<_> =
            ring.receive(near.as_fd(), true).unwrap().map(|datagram| datagram.to_vec()).collect();
        assert_eq!(received, [vec![1; 10], vec![2; pitch], vec![]]);
        let received: Vec<_> =
            ring.receive(near.as_fd(), false).unwrap().map(|datagram| datagram.to_vec()).collect();
        assert_eq!(received, [[4]]);
        assert_eq!(ring.receive(near.as_fd(), false).err(), Some(Errno::AGAIN));
    }
}
