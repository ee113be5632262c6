//! NFQUEUE: packets come from the kernel, verdicts go back.
//!
//! One trait, [`PacketQueue`], and two implementations behind [`open`]:
//! * [`Backend::Batched`], the default: one `recvmmsg` takes a burst of packets, one `sendmsg` carries all their
//!   verdicts, and bytes written back go out of the very buffers they came into.
//! * [`Backend::Nfq`]: the crate `nfq`, two system calls a packet; for comparison and for debugging.
//!
//! What both hold to, following `net/netfilter/nfnetlink_queue.c` of Linux:
//! * Every packet the kernel hands over gets exactly one verdict, in order of arrival. A verdict that cannot be sent
//!   becomes a drop; a message that cannot be understood but names a packet becomes a drop.
//! * A packet that was copied in part is never written back: the kernel would cut it to what was written.
//! * Errors that the kernel reports later about a verdict (`ENOENT`: the packet is gone, because its device went
//!   down) are counted, not fatal.
//! * Losses in the kernel show only in [`read_counters`].
//!
//! A queue must be open before any rule steers packets to it.
//!
//! ```no_run
//! use nfvs::daemon::queue::{self, Action, Backend, Decision, QueueConfig};
//! use std::time::Duration;
//!
//! let mut queue = queue::open(Backend::Batched, &QueueConfig::new(7))?;
//! queue.serve(Duration::from_millis(100), &mut |packet| {
//!     println!("{} bytes at {:?}", packet.meta.original_len, packet.meta.hook);
//!     Decision { action: Action::Accept, mark: None }
//! })?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod batched;
mod counters;
mod error;
mod netlink;
mod nfq;
mod ring;
mod socket;

use std::fmt;
use std::io::{self, IoSlice};
use std::os::fd::BorrowedFd;
use std::str::FromStr;
use std::time::Duration;

use crate::director::{Hook, PacketMeta};

pub use counters::{QueueCounters, read_counters, share_counters};
pub use error::{OpenError, UnknownBackend};

/// One NFQUEUE, owned by one worker thread. Dropping it gives the queue number free; the kernel then drops what
/// still waits in it.
pub trait PacketQueue: Send {
    /// Waits at most `patience` for packets, hands each to `decide` in order of arrival, and sends all verdicts
    /// before it returns. Takes what is there, up to [`QueueConfig::batch`] packets (after a
    /// [`resize`](Self::resize), also those that arrived meanwhile).
    ///
    /// Returns how many packets were handled; 0 when `patience` passed, a signal came, or only late errors arrived.
    ///
    /// # Errors
    /// Only when the socket itself fails. What concerns single packets is counted in [`stats`](Self::stats).
    fn serve(
        &mut self,
        patience: Duration,
        decide: &mut dyn FnMut(QueuedPacket<'_>) -> Decision,
    ) -> io::Result<usize>;

    /// Changes how many packets may wait in the kernel ([`QueueConfig::max_len`]), also while packets arrive.
    ///
    /// # Errors
    /// The kernel's refusal, or `Unsupported` for [`Backend::Nfq`], which would lose the packets that wait.
    fn resize(&mut self, max_len: u32) -> io::Result<()>;

    /// What has happened so far. The kernel's side of it is in [`read_counters`].
    fn stats(&self) -> QueueIoStats;
}

/// A packet that waits for its verdict.
#[derive(Debug)]
pub struct QueuedPacket<'a> {
    /// The packet from its network header on, as far as it was copied.
    pub payload: &'a mut [u8],
    /// Hook, length on the wire, state of the checksum, and whether it is several segments in one. A packet queued in
    /// FORWARD, where rules of nfvs do not queue, counts as [`Hook::Prerouting`].
    pub meta: PacketMeta,
    /// The packet's mark, 0 if it has none.
    pub mark: u32,
}

/// What becomes of a packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decision {
    /// Whether it goes on, and with which bytes.
    pub action: Action,
    /// The packet's new mark, all 32 bits; `None` leaves it. Of no effect on a dropped packet.
    pub mark: Option<u32>,
}

impl Decision {
    /// The packet ends here.
    pub const DROP: Decision = Decision { action: Action::Drop, mark: None };
}

/// Whether a packet goes on, and with which bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Goes on with the bytes the kernel has, whatever was done to the copy.
    Accept,
    /// Goes on with the bytes of the copy. All checksums in them must be complete: the kernel owes none afterwards
    /// (`CHECKSUM_NONE`). A copy that was cut short is dropped instead, and counted.
    AcceptRewritten,
    /// Goes on with these bytes, at most [`WHOLE_PACKET`] of them, as many as there may be. Otherwise as
    /// [`AcceptRewritten`](Action::AcceptRewritten).
    AcceptResized(Vec<u8>),
    /// Ends here.
    Drop,
}

/// How a queue is set up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QueueConfig {
    /// The queue's number.
    pub number: u16,
    /// Bytes of each packet to copy, from the network header on. 0 and everything above [`WHOLE_PACKET`] mean
    /// [`WHOLE_PACKET`], the kernel's own rule.
    pub copy_range: u32,
    /// Take packets of several segments, and packets whose checksum is still owed, as they are
    /// (`NFQA_CFG_F_GSO`). Otherwise the kernel cuts and sums before it queues.
    pub gso: bool,
    /// Packets that may wait for a verdict; the kernel drops more (`queue_dropped`).
    pub max_len: u32,
    /// Bytes of kernel memory for packets not yet received; the kernel drops more (`user_dropped`). A small packet
    /// takes about 1 KiB, a full one its size and some.
    pub receive_buffer: usize,
    /// Bytes of kernel memory for one send of verdicts. Sends are kept to half of it.
    pub send_buffer: usize,
    /// Packets received, and answered, at a time: 1 to 1024.
    pub batch: usize,
    /// Let packets pass unqueued, and so unrewritten, when the queue or the receive buffer is full
    /// (`NFQA_CFG_F_FAIL_OPEN`).
    pub fail_open: bool,
}

impl QueueConfig {
    /// For packets that are rewritten: whole copies, GSO packets as they are, buffers for bursts of both many small
    /// and many large packets, losses dropped rather than passed.
    pub fn new(number: u16) -> QueueConfig {
        QueueConfig {
            number,
            copy_range: WHOLE_PACKET,
            gso: true,
            max_len: 16_384,
            receive_buffer: 32 << 20,
            send_buffer: 4 << 20,
            batch: 64,
            fail_open: false,
        }
    }

    /// For packets that are only decided about: of each, the headers alone.
    pub fn deciding(number: u16) -> QueueConfig {
        QueueConfig { copy_range: HEADERS, ..QueueConfig::new(number) }
    }

    /// For packets that are sent on by other means: whole copies, every segment for itself with its checksum.
    pub fn by_segment(number: u16) -> QueueConfig {
        QueueConfig { gso: false, ..QueueConfig::new(number) }
    }

    /// What the kernel makes of `copy_range` (`nfqnl_set_mode`).
    fn copied_bytes(&self) -> u32 {
        if self.copy_range == 0 { WHOLE_PACKET } else { self.copy_range.min(WHOLE_PACKET) }
    }
}

/// The largest copy range: the largest netlink attribute less its header (`NFQNL_MAX_COPY_RANGE`).
pub const WHOLE_PACKET: u32 = 0xffff - 4;

/// A copy range for headers: the longest of IPv4 and TCP are 60 bytes each; IPv6 and TCP leave half of it to extension
/// headers.
pub const HEADERS: u32 = 256;

/// What a queue has done since it was opened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct QueueIoStats {
    /// Packets handed to `decide`.
    pub received: u64,
    /// Verdicts the kernel took. Those it refused afterwards are in `refused` as well.
    pub verdicts: u64,
    /// Verdicts of which the kernel said later that it could not use them.
    pub refused: u64,
    /// Messages that could not be understood. If one named a packet, that packet was dropped.
    pub malformed: u64,
    /// Packets copied in part that were to be written back, and were dropped.
    pub truncated: u64,
    /// Sends that failed. Their verdicts were sent again one by one.
    pub send_failures: u64,
    /// Verdicts that could not be sent alone either. Those packets were dropped.
    pub verdicts_lost: u64,
}

impl QueueIoStats {
    /// Drops a packet whose verdict could not be sent, and counts the loss.
    fn drop_instead(&mut self, socket: BorrowedFd<'_>, queue: u16, id: u32) {
        self.verdicts_lost += 1;
        if let Err(error) = socket::send(socket, &[IoSlice::new(&netlink::drop_message(queue, id))]) {
            tracing::debug!(queue, id, %error, "a packet stays in the queue without verdict");
        }
    }
}

/// Which code serves a queue.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Backend {
    /// Own netlink layer, many packets a system call.
    #[default]
    Batched,
    /// The crate `nfq`, two system calls a packet.
    Nfq,
}

impl fmt::Display for Backend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Backend::Batched => "batched",
            Backend::Nfq => "nfq",
        })
    }
}

impl FromStr for Backend {
    type Err = UnknownBackend;

    fn from_str(name: &str) -> Result<Backend, UnknownBackend> {
        [Backend::Batched, Backend::Nfq]
            .into_iter()
            .find(|backend| backend.to_string() == name)
            .ok_or(UnknownBackend)
    }
}

/// Opens a queue in the network namespace of the calling thread, configured completely: the first packet the kernel
/// queues already meets all of `config`.
///
/// # Errors
/// See [`OpenError`], which tells a queue that somebody else serves from a missing capability.
pub fn open(backend: Backend, config: &QueueConfig) -> Result<Box<dyn PacketQueue>, OpenError> {
    Ok(match backend {
        Backend::Batched => Box::new(batched::BatchedQueue::open(config)?),
        Backend::Nfq => Box::new(nfq::NfqQueue::open(config)?),
    })
}

/// Whether the kernel has NFQUEUE. Where it is a module, asking loads it.
///
/// # Errors
/// What the kernel says otherwise, `PermissionDenied` without CAP_NET_ADMIN.
pub fn is_supported() -> io::Result<bool> {
    match socket::probe() {
        Ok(()) => Ok(true),
        Err(error) if matches!(error.raw_os_error(), Some(libc::EINVAL | libc::EPROTONOSUPPORT)) => Ok(false),
        Err(error) => Err(error),
    }
}

/// Asks `decide` about one packet, and keeps a packet that was copied in part from being written back: accepting it
/// as it was would be as wrong for a director, so it is dropped.
fn consult(
    packet: QueuedPacket<'_>,
    decide: &mut dyn FnMut(QueuedPacket<'_>) -> Decision,
    stats: &mut QueueIoStats,
) -> Decision {
    let truncated = packet.meta.original_len > packet.payload.len();
    stats.received += 1;
    let decision = decide(packet);
    if truncated && matches!(decision.action, Action::AcceptRewritten | Action::AcceptResized(_)) {
        stats.truncated += 1;
        return Decision::DROP;
    }
    decision
}

/// The director's hook for netfilter's; see [`QueuedPacket::meta`].
fn director_hook(hook: u8) -> Hook {
    match i32::from(hook) {
        libc::NF_INET_LOCAL_OUT => Hook::Output,
        libc::NF_INET_LOCAL_IN | libc::NF_INET_POST_ROUTING => Hook::Late,
        _ => Hook::Prerouting,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn backends_are_read_as_they_are_written() {
        for backend in [Backend::Batched, Backend::Nfq] {
            assert_eq!(backend.to_string().parse(), Ok(backend));
        }
        assert_eq!(
            "Batched".parse::<Backend>().unwrap_err().to_string(),
            "not a queue backend; allowed are \"batched\" and \"nfq\""
        );
    }

    #[test]
    fn copy_ranges_follow_the_kernel() {
        let copied = |copy_range| QueueConfig { copy_range, ..QueueConfig::new(0) }.copied_bytes();
        assert_eq!([copied(0), copied(128), copied(65_535)], [65_531, 128, 65_531]);
    }

    #[test]
    fn a_part_of_a_packet_is_never_written_back() {
        let mut stats = QueueIoStats::default();
        let mut ask = |original_len, action: Action| {
            let meta =
                PacketMeta { hook: Hook::Output, checksum_owed: false, gso: false, original_len, mark: None };
            let packet = QueuedPacket { payload: &mut [0; 20], meta, mark: 0 };
            consult(packet, &mut |_| Decision { action: action.clone(), mark: Some(1) }, &mut stats)
        };
        assert_eq!(ask(21, Action::AcceptRewritten), Decision::DROP);
        assert_eq!(ask(21, Action::AcceptResized(vec![0; 22])), Decision::DROP);
        assert_eq!(ask(21, Action::Accept), Decision { action: Action::Accept, mark: Some(1) });
        assert_eq!(ask(20, Action::AcceptRewritten).action, Action::AcceptRewritten);
        assert_eq!(stats, QueueIoStats { received: 4, truncated: 2, ..QueueIoStats::default() });
    }

    #[test]
    fn hooks_behind_routing_are_late() {
        assert_eq!([0, 1, 2, 3, 4, 255].map(director_hook), {
            use Hook::{Late, Output, Prerouting};
            [Prerouting, Late, Prerouting, Output, Late, Prerouting]
        });
    }
}
