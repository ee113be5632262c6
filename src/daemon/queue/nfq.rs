//! The simple backend: the crate `nfq`, one packet at a time.
//!
//! Version 0.2.5 of the crate shows no file descriptor, so the socket is found among those of the process: it is the
//! one whose option changes when the crate is told to change it. It needs finding for three things: the size of its
//! buffers, waiting with a limit, and not leaking into child processes (those started after it was found: the crate
//! opens it without `SOCK_CLOEXEC`).
//!
//! Every setting of the crate reads from the socket until it has the kernel's acknowledgement, and throws away,
//! without verdict, the packets it meets on the way; so does `bind` itself, whose second message starts the flow of
//! packets. There is no order of calls that avoids it. So nothing may steer packets to the queue before
//! [`NfqQueue::open`] has returned, and settings cannot change later.

use std::io;
use std::os::fd::{BorrowedFd, RawFd};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use nfq::{Message, Queue, Verdict};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::{Errno, FdFlags, fcntl_setfd};

use super::{
    Action, Decision, OpenError, PacketQueue, QueueConfig, QueueIoStats, QueuedPacket, consult,
    director_hook, socket,
};
use crate::director::PacketMeta;
use crate::director::service::Fwmark;

/// A queue served by the crate `nfq`.
pub(super) struct NfqQueue {
    queue: Queue,
    /// The queue's socket. Open as long as `queue`, which closes it.
    socket: RawFd,
    number: u16,
    batch: usize,
    /// A copy of the packet under decision: the crate writes back every packet whose bytes were lent mutably.
    copy: Vec<u8>,
    stats: QueueIoStats,
}

impl NfqQueue {
    pub(super) fn open(config: &QueueConfig) -> Result<NfqQueue, OpenError> {
        let failed = |step| move |error| OpenError::explain(config.number, step, error);
        let mut queue = Queue::open().map_err(failed("open a socket for"))?;
        let socket = find_socket(&mut queue).map_err(failed("find the socket of"))?;
        let mut queue = NfqQueue {
            queue,
            socket,
            number: config.number,
            batch: config.batch.max(1),
            copy: Vec::new(),
            stats: QueueIoStats::default(),
        };
        let socket = queue.socket();
        fcntl_setfd(socket, FdFlags::CLOEXEC)
            .map_err(io::Error::from)
            .and_then(|()| socket::size_buffers(socket, config.receive_buffer, config.send_buffer))
            .map_err(failed("size the buffers of"))?;
        queue.configure(config).map_err(failed("configure"))?;
        Ok(queue)
    }

    fn configure(&mut self, config: &QueueConfig) -> io::Result<()> {
        self.queue.bind(config.number)?;
        let copied = u16::try_from(config.copied_bytes()).expect("at most WHOLE_PACKET");
        self.queue.set_copy_range(config.number, copied)?;
        self.queue.set_queue_max_len(config.number, config.max_len)?;
        self.queue.set_recv_gso(config.number, config.gso)?;
        self.queue.set_fail_open(config.number, config.fail_open)?;
        self.queue.set_nonblocking(true);
        Ok(())
    }

    fn socket(&self) -> BorrowedFd<'static> {
        // SAFETY: `self.queue` keeps the socket open until it is dropped, together with `self`; all uses of the
        // result end within a method of `self`.
        unsafe { BorrowedFd::borrow_raw(self.socket) }
    }

    /// Waits until there is something to receive, at most `patience`.
    fn wait(&self, patience: Duration) -> io::Result<()> {
        // Longer than the kernel can count is for ever.
        let patience = Timespec::try_from(patience).ok();
        let socket = self.socket();
        match poll(&mut [PollFd::new(&socket, PollFlags::IN)], patience.as_ref()) {
            Ok(_) | Err(Errno::INTR) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    fn decide(&mut self, mut message: Message, decide: &mut dyn FnMut(QueuedPacket<'_>) -> Decision) {
        self.copy.clear();
        self.copy.extend_from_slice(message.get_payload());
        let packet = QueuedPacket {
            payload: &mut self.copy,
            meta: PacketMeta {
                hook: director_hook(message.get_hook()),
                checksum_owed: !message.is_checksum_ready(),
                gso: message.is_seg_offloaded(),
                original_len: message.get_original_len(),
                mark: Fwmark::of_packet(message.get_nfmark()),
            },
            mark: message.get_nfmark(),
        };
        let decision = consult(packet, decide, &mut self.stats);
        match decision.action {
            Action::Accept => message.set_verdict(Verdict::Accept),
            Action::AcceptRewritten => {
                message.set_verdict(Verdict::Accept);
                message.get_payload_mut().copy_from_slice(&self.copy);
            }
            Action::AcceptResized(packet) => {
                message.set_verdict(Verdict::Accept);
                message.set_payload(packet);
            }
            Action::Drop => message.set_verdict(Verdict::Drop),
        }
        if let Some(mark) = decision.mark {
            message.set_nfmark(mark);
        }
        let id = message.get_packet_id();
        match self.queue.verdict(message) {
            Ok(()) => self.stats.verdicts += 1,
            Err(error) => {
                self.stats.send_failures += 1;
                tracing::debug!(queue = self.number, %error, "a verdict was not sent");
                self.stats.drop_instead(self.socket(), self.number, id);
            }
        }
    }
}

impl PacketQueue for NfqQueue {
    fn serve(
        &mut self,
        patience: Duration,
        decide: &mut dyn FnMut(QueuedPacket<'_>) -> Decision,
    ) -> io::Result<usize> {
        let mut handled = 0;
        let mut waited = patience.is_zero();
        while handled < self.batch {
            match self.queue.recv() {
                Ok(message) => {
                    self.decide(message, decide);
                    handled += 1;
                }
                Err(error) => match error.raw_os_error() {
                    Some(libc::EAGAIN) if handled > 0 || waited => break,
                    Some(libc::EAGAIN) => {
                        self.wait(patience)?;
                        waited = true;
                    }
                    Some(libc::EINTR) => break,
                    // An earlier verdict: the crate hands its error to whoever receives next. The first two are the
                    // kernel's words for one it cannot use, the third for want of memory to say so.
                    Some(libc::ENOENT | libc::EINVAL | libc::ENOBUFS) => self.stats.refused += 1,
                    _ => return Err(error),
                },
            }
        }
        Ok(handled)
    }

    fn resize(&mut self, _max_len: u32) -> io::Result<()> {
        Err(io::Error::new(io::ErrorKind::Unsupported, "the nfq backend would lose the packets that wait"))
    }

    fn stats(&self) -> QueueIoStats {
        self.stats
    }
}

/// The file descriptor of the crate's socket: of all netlink sockets of this process, the one that follows when the
/// crate switches `NETLINK_NO_ENOBUFS` off and on again. No other socket does: whoever sets this option, sets it on
/// and leaves it, except another call of this function, which the lock keeps out.
fn find_socket(queue: &mut Queue) -> io::Result<RawFd> {
    static SWITCHING: Mutex<()> = Mutex::new(());
    let _alone = SWITCHING.lock().unwrap_or_else(PoisonError::into_inner);

    let mut candidates: Vec<RawFd> = Vec::new();
    for entry in std::fs::read_dir("/proc/thread-self/fd")? {
        candidates.extend(entry?.file_name().to_str().and_then(|name| name.parse::<RawFd>().ok()));
    }
    // The crate opens its sockets with the option on.
    for ignores_loss in [true, false, true] {
        queue.set_recv_enobufs(!ignores_loss)?;
        candidates.retain(|file| socket::option(*file, libc::NETLINK_NO_ENOBUFS) == Some(ignores_loss));
    }
    match candidates[..] {
        [socket] => Ok(socket),
        _ => {
            Err(io::Error::new(io::ErrorKind::NotFound, "no file descriptor behaves like the queue's socket"))
        }
    }
}
