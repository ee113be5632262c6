//! The netlink socket: options, and sends.

use std::io::{self, IoSlice};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};

use rustix::io::Errno;
use rustix::net::{
    self, AddressFamily, RecvFlags, SendAncillaryBuffer, SendFlags, SocketFlags, SocketType, sockopt,
};

use super::netlink::{self, Event};

/// A netfilter socket in the network namespace of the calling thread. The kernel gives it a port with the first
/// send.
pub(super) fn open() -> io::Result<OwnedFd> {
    let socket = net::socket_with(
        AddressFamily::NETLINK,
        SocketType::RAW,
        SocketFlags::CLOEXEC,
        Some(net::netlink::NETFILTER),
    )?;
    // A full receive buffer would otherwise make one receive fail, which tells less than the kernel's counters.
    set_option(socket.as_raw_fd(), libc::NETLINK_NO_ENOBUFS, true)?;
    // A refused verdict would otherwise come back with the whole packet in it.
    set_option(socket.as_raw_fd(), libc::NETLINK_CAP_ACK, true)?;
    Ok(socket)
}

/// Sets the sizes of both buffers, beyond the system's limits if the process may do that, else up to them.
pub(super) fn size_buffers(socket: BorrowedFd<'_>, receive: usize, send: usize) -> io::Result<()> {
    match sockopt::set_socket_recv_buffer_size_force(socket, receive) {
        Err(Errno::PERM) => sockopt::set_socket_recv_buffer_size(socket, receive)?,
        result => result?,
    }
    match sockopt::set_socket_send_buffer_size_force(socket, send) {
        Err(Errno::PERM) => sockopt::set_socket_send_buffer_size(socket, send)?,
        result => result?,
    }
    Ok(())
}

/// Sends one datagram to the kernel, which works through it before this returns.
pub(super) fn send(socket: BorrowedFd<'_>, slices: &[IoSlice<'_>]) -> rustix::io::Result<()> {
    net::sendmsg(socket, slices, &mut SendAncillaryBuffer::default(), SendFlags::empty()).map(drop)
}

/// Whether this process may configure queues, and the kernel has them: `Ok`, or the kernel's error.
pub(super) fn probe() -> io::Result<()> {
    const SEQUENCE: u32 = 1;
    let socket = open()?;
    send(socket.as_fd(), &[IoSlice::new(&netlink::probe_message(SEQUENCE))])?;
    let mut answer = [0; 512];
    let (length, _) = net::recv(&socket, &mut answer, RecvFlags::DONTWAIT)?;
    match netlink::events(&mut answer[..length]).next() {
        Some(Event::Answer { sequence: SEQUENCE, errno: 0 }) => Ok(()),
        Some(Event::Answer { sequence: SEQUENCE, errno }) => Err(io::Error::from_raw_os_error(errno)),
        _ => Err(io::ErrorKind::InvalidData.into()),
    }
}

/// Sets a netlink option that is on or off.
fn set_option(socket: RawFd, option: libc::c_int, on: bool) -> io::Result<()> {
    let value = libc::c_int::from(on);
    // SAFETY: the kernel reads the given number of bytes from `value`, which lives that long. A file descriptor that
    // is no netlink socket only makes the call fail.
    let result = unsafe {
        libc::setsockopt(
            socket,
            libc::SOL_NETLINK,
            option,
            (&raw const value).cast(),
            size_of_val(&value) as libc::socklen_t,
        )
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Reads a netlink option that is on or off; `None` if `file` is not an open netlink socket.
pub(super) fn option(file: RawFd, option: libc::c_int) -> Option<bool> {
    let mut value: libc::c_int = 0;
    let mut length = size_of_val(&value) as libc::socklen_t;
    // SAFETY: the kernel writes at most `length` bytes to `value` and the new length to `length`; both live that
    // long. A file descriptor that is not open, or no netlink socket, only makes the call fail.
    let result = unsafe {
        libc::getsockopt(file, libc::SOL_NETLINK, option, (&raw mut value).cast(), &raw mut length)
    };
    (result == 0).then_some(value != 0)
}
