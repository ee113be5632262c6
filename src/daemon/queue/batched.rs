//! The default backend: a burst of packets in one system call, all their verdicts in another.

use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::mem;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use rustix::io::Errno;
use rustix::net::sockopt::{self, Timeout};

use super::netlink::{self, Event, Packet, Verdicts};
use super::ring::Ring;
use super::{
    Action, Decision, OpenError, PacketQueue, QueueConfig, QueueIoStats, QueuedPacket, consult,
    director_hook, socket,
};
use crate::director::PacketMeta;
use crate::director::service::Fwmark;

/// A queue served in bursts.
pub(super) struct BatchedQueue {
    socket: OwnedFd,
    number: u16,
    /// At most this many bytes of verdicts in one send, unless a single one is larger.
    send_max: usize,
    ring: Ring,
    /// Datagrams that came while an acknowledgement was waited for, oldest first.
    held: VecDeque<Vec<u8>>,
    /// The receive timeout the socket has.
    patience: Option<Duration>,
    /// Of the last request.
    sequence: u32,
    stats: QueueIoStats,
}

impl BatchedQueue {
    pub(super) fn open(config: &QueueConfig) -> Result<BatchedQueue, OpenError> {
        let failed = |step| move |error| OpenError::explain(config.number, step, error);
        let socket = socket::open().map_err(failed("open a socket for"))?;
        let send_buffer = socket::size_buffers(socket.as_fd(), config.receive_buffer, config.send_buffer)
            .and_then(|()| Ok(sockopt::socket_send_buffer_size(&socket)?))
            .map_err(failed("size the buffers of"))?;
        let datagram_max = config.copied_bytes() as usize + METADATA_MAX;
        let mut queue = BatchedQueue {
            socket,
            number: config.number,
            send_max: send_buffer / 4,
            ring: Ring::new(config.batch.clamp(1, BATCH_MAX), datagram_max),
            held: VecDeque::new(),
            patience: None,
            sequence: 0,
            stats: QueueIoStats::default(),
        };
        queue.request(|sequence| netlink::bind_message(config, sequence)).map_err(failed("configure"))?;
        Ok(queue)
    }

    /// Sends a request and takes its answer. Packets that arrived before the answer are held, not lost.
    ///
    /// The kernel answers within the send. If nothing is left to receive and the answer was not among it, there was
    /// no room for it in the receive buffer; the request is then sent once more, there being room now.
    fn request(&mut self, message: impl Fn(u32) -> Vec<u8>) -> io::Result<()> {
        for _attempt in 0..2 {
            self.sequence = self.sequence.wrapping_add(1).max(1);
            socket::send(self.socket.as_fd(), &[IoSlice::new(&message(self.sequence))])?;
            if let Some(errno) = self.take_answer()? {
                return if errno == 0 { Ok(()) } else { Err(io::Error::from_raw_os_error(errno)) };
            }
        }
        Err(io::Error::new(
            io::ErrorKind::TimedOut,
            "the kernel's answer found no room in the receive buffer",
        ))
    }

    /// Receives until the answer to the last request, or until nothing is left.
    fn take_answer(&mut self) -> io::Result<Option<i32>> {
        let mut answer = None;
        while answer.is_none() {
            let datagrams = match self.ring.receive(self.socket.as_fd(), false) {
                Err(Errno::AGAIN) => break,
                result => result?,
            };
            for datagram in datagrams {
                match netlink::events(datagram).next() {
                    Some(Event::Answer { sequence, errno }) if sequence == self.sequence => {
                        answer = Some(errno);
                    }
                    _ => self.held.push_back(datagram.to_vec()),
                }
            }
        }
        Ok(answer)
    }

    fn set_patience(&mut self, patience: Duration) -> io::Result<()> {
        if self.patience != Some(patience) {
            sockopt::set_socket_timeout(&self.socket, Timeout::Recv, Some(patience))?;
            self.patience = Some(patience);
        }
        Ok(())
    }
}

impl PacketQueue for BatchedQueue {
    fn serve(
        &mut self,
        patience: Duration,
        decide: &mut dyn FnMut(QueuedPacket<'_>) -> Decision,
    ) -> io::Result<usize> {
        // A receive timeout of zero would mean none at all.
        let wait = !patience.is_zero();
        if wait {
            self.set_patience(patience)?;
        }
        let burst = Burst::new(self.socket.as_fd(), self.number, self.send_max, &mut self.stats);
        if !self.held.is_empty() {
            let mut held = mem::take(&mut self.held);
            return Ok(burst.serve(held.iter_mut().map(Vec::as_mut_slice), decide));
        }
        match self.ring.receive(self.socket.as_fd(), wait) {
            Ok(datagrams) => Ok(burst.serve(datagrams, decide)),
            Err(Errno::AGAIN | Errno::INTR) => Ok(0),
            // The kernel had no memory to report a refused verdict.
            Err(Errno::NOBUFS) => {
                self.stats.refused += 1;
                Ok(0)
            }
            Err(error) => Err(error.into()),
        }
    }

    fn resize(&mut self, max_len: u32) -> io::Result<()> {
        let number = self.number;
        self.request(|sequence| netlink::max_len_message(number, max_len, sequence))
    }

    fn stats(&self) -> QueueIoStats {
        self.stats
    }
}

/// The packets of one burst on their way through: the verdicts gather, and leave when they are many or large.
struct Burst<'p> {
    socket: BorrowedFd<'p>,
    number: u16,
    send_max: usize,
    verdicts: Verdicts<'p>,
    stats: &'p mut QueueIoStats,
}

impl<'p> Burst<'p> {
    fn new(socket: BorrowedFd<'p>, number: u16, send_max: usize, stats: &'p mut QueueIoStats) -> Burst<'p> {
        Burst { socket, number, send_max, verdicts: Verdicts::new(number), stats }
    }

    /// Hands each packet to `decide` and sends the verdicts. Returns how many packets there were.
    fn serve(
        mut self,
        datagrams: impl ExactSizeIterator<Item = &'p mut [u8]>,
        decide: &mut dyn FnMut(QueuedPacket<'_>) -> Decision,
    ) -> usize {
        self.verdicts.reserve(datagrams.len().min(SEND_VERDICTS_MAX));
        let mut handled = 0;
        for event in datagrams.flat_map(netlink::events) {
            match event {
                Event::Packet(Packet { id, hook, mark, info, original_len, payload }) => {
                    let has = |flag: libc::c_int| info & flag as u32 != 0;
                    let meta = PacketMeta {
                        hook: director_hook(hook),
                        checksum_owed: has(libc::NFQA_SKB_CSUMNOTREADY),
                        gso: has(libc::NFQA_SKB_GSO),
                        original_len,
                        mark: Fwmark::of_packet(mark),
                    };
                    let packet = QueuedPacket { payload: &mut *payload, meta, mark };
                    let decision = consult(packet, decide, self.stats);
                    self.push(id, decision, payload);
                    handled += 1;
                }
                Event::Malformed { id } => {
                    self.stats.malformed += 1;
                    if let Some(id) = id {
                        self.push(id, Decision::DROP, &[]);
                        handled += 1;
                    }
                }
                Event::Answer { errno: 0, .. } => {}
                Event::Answer { .. } => self.stats.refused += 1,
            }
        }
        self.flush();
        handled
    }

    fn push(&mut self, id: u32, decision: Decision, packet: &'p [u8]) {
        let written = match &decision.action {
            Action::AcceptRewritten => packet.len(),
            Action::AcceptResized(packet) => packet.len(),
            Action::Accept | Action::Drop => 0,
        };
        if self.verdicts.len() == SEND_VERDICTS_MAX || self.verdicts.bytes() + written > self.send_max {
            self.flush();
        }
        self.verdicts.push(id, decision, packet);
    }

    /// Sends the verdicts gathered. A send fails as a whole, so each is then tried alone, and if that fails too,
    /// its packet is dropped: a verdict without bytes fits any buffer.
    fn flush(&mut self) {
        if self.verdicts.len() == 0 {
            return;
        }
        match socket::send(self.socket, &self.verdicts.slices()) {
            Ok(()) => self.stats.verdicts += self.verdicts.len() as u64,
            Err(error) => {
                self.stats.send_failures += 1;
                tracing::debug!(queue = self.number, %error, bytes = self.verdicts.bytes(), "verdicts were not sent");
                for (id, verdict) in self.verdicts.each() {
                    match socket::send(self.socket, &verdict) {
                        Ok(()) => self.stats.verdicts += 1,
                        Err(_) => self.stats.drop_instead(self.socket, self.number, id),
                    }
                }
            }
        }
        self.verdicts.clear();
    }
}

/// What a message holds beside the packet: headers, and less than 200 bytes of attributes when neither conntrack nor
/// security context is asked for.
const METADATA_MAX: usize = 512;

/// `UIO_MAXIOV`, the most that `recvmmsg` takes.
const BATCH_MAX: usize = 1024;

/// Two slices a verdict must stay within `UIO_MAXIOV` as well.
const SEND_VERDICTS_MAX: usize = 256;
