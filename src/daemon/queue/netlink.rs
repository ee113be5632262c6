//! The netlink messages of NFQUEUE, built and taken apart. Pure: no socket.
//!
//! Follows `include/uapi/linux/netfilter/nfnetlink_queue.h` and `netlink(7)`. Lengths and message types are in host
//! order, the values of attributes in network order. Messages and attributes start at multiples of 4 bytes.

use std::borrow::Cow;
use std::io::IoSlice;
use std::mem;
use std::ops::Range;

use super::{Action, Decision, QueueConfig};

/// What one message of the kernel says.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Event<'b> {
    /// A packet waits for a verdict.
    Packet(Packet<'b>),
    /// The answer to the request with this sequence number; `errno` 0 is the acknowledgement that was asked for.
    Answer { sequence: u32, errno: i32 },
    /// A message that cannot be understood. If it names a packet, that packet waits for a verdict all the same.
    Malformed { id: Option<u32> },
}

/// A packet as the kernel hands it over (`NFQNL_MSG_PACKET`).
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Packet<'b> {
    pub(super) id: u32,
    /// Netfilter's number of the hook.
    pub(super) hook: u8,
    pub(super) mark: u32,
    /// Flags `NFQA_SKB_*`.
    pub(super) info: u32,
    /// Length before it was cut to the copy range.
    pub(super) original_len: usize,
    pub(super) payload: &'b mut [u8],
}

/// Takes apart what one receive call returned. Whatever the bytes, it ends, reads nothing outside them, and yields
/// each packet once.
pub(super) fn events(datagram: &mut [u8]) -> Events<'_> {
    Events { rest: datagram }
}

pub(super) struct Events<'b> {
    rest: &'b mut [u8],
}

impl<'b> Iterator for Events<'b> {
    type Item = Event<'b>;

    fn next(&mut self) -> Option<Event<'b>> {
        loop {
            let bytes = mem::take(&mut self.rest);
            if bytes.is_empty() {
                return None;
            }
            let Some((length, kind, sequence)) = message_header(bytes) else {
                return Some(Event::Malformed { id: None });
            };
            let (message, rest) = bytes.split_at_mut(aligned(length).min(bytes.len()));
            self.rest = rest;
            // Shorter than it says: cut by a receive buffer that was too small.
            let whole = length <= message.len();
            let body = &mut message[MESSAGE_HEADER..];
            match kind {
                PACKET => return Some(parse_packet(body, whole)),
                ERROR => {
                    return Some(match body.first_chunk() {
                        Some(code) => Event::Answer {
                            sequence,
                            errno: i32::from_ne_bytes(*code).checked_neg().unwrap_or(i32::MAX),
                        },
                        None => Event::Malformed { id: None },
                    });
                }
                0..FIRST_KIND => {}
                _ => return Some(Event::Malformed { id: None }),
            }
        }
    }
}

/// Length (at least that of a header, perhaps more than there is), type and sequence number of the first message.
fn message_header(bytes: &[u8]) -> Option<(usize, u16, u32)> {
    let &[l0, l1, l2, l3, k0, k1, _, _, s0, s1, s2, s3, _, _, _, _, ..] = bytes else { return None };
    let length = usize::try_from(u32::from_ne_bytes([l0, l1, l2, l3])).ok()?;
    if length < MESSAGE_HEADER {
        return None;
    }
    Some((length, u16::from_ne_bytes([k0, k1]), u32::from_ne_bytes([s0, s1, s2, s3])))
}

fn parse_packet(body: &mut [u8], whole: bool) -> Event<'_> {
    let mut identity = None;
    let mut mark = Some(0);
    let mut info = Some(0);
    let mut original_len = Some(0);
    let mut payload = 0..0;
    let mut sound = whole;

    let mut at = NETFILTER_HEADER;
    while let Some(&[l0, l1, k0, k1]) = body.get(at..).and_then(<[u8]>::first_chunk) {
        let length = usize::from(u16::from_ne_bytes([l0, l1]));
        let range = at + ATTRIBUTE_HEADER..at + length;
        let Some(value) = body.get(range.clone()) else {
            sound = false;
            break;
        };
        match u16::from_ne_bytes([k0, k1]) & ATTRIBUTE_TYPE {
            PACKET_HDR => {
                if let &[i0, i1, i2, i3, _, _, hook, ..] = value {
                    identity = Some((u32::from_be_bytes([i0, i1, i2, i3]), hook));
                }
            }
            MARK => mark = number(value),
            SKB_INFO => info = number(value),
            CAP_LEN => original_len = number(value),
            PAYLOAD => payload = range,
            _ => {}
        }
        at += aligned(length);
    }

    match (identity, mark, info, original_len) {
        (Some((id, hook)), Some(mark), Some(info), Some(original_len)) if sound => {
            let payload = body.get_mut(payload).unwrap_or_default();
            // The kernel gives the original length only if it cut the packet.
            let original_len = usize::try_from(original_len).unwrap_or(usize::MAX).max(payload.len());
            Event::Packet(Packet { id, hook, mark, info, original_len, payload })
        }
        (identity, ..) => Event::Malformed { id: identity.map(|(id, _)| id) },
    }
}

fn number(value: &[u8]) -> Option<u32> {
    value.first_chunk().map(|bytes| u32::from_be_bytes(*bytes))
}

/// Verdicts of one queue, gathered to be sent at once: many `NFQNL_MSG_VERDICT` messages one behind the other.
///
/// Packets written back are not copied: the verdicts borrow them, unless they got another length and are new.
pub(super) struct Verdicts<'p> {
    queue: u16,
    /// The messages without the packets, each packet's padding included.
    heads: Vec<u8>,
    verdicts: Vec<Verdict<'p>>,
    packet_bytes: usize,
}

struct Verdict<'p> {
    id: u32,
    head: Range<usize>,
    /// Empty if nothing is written back.
    packet: Cow<'p, [u8]>,
}

impl<'p> Verdicts<'p> {
    pub(super) fn new(queue: u16) -> Verdicts<'p> {
        Verdicts { queue, heads: Vec::new(), verdicts: Vec::new(), packet_bytes: 0 }
    }

    /// Makes room for `count` verdicts.
    pub(super) fn reserve(&mut self, count: usize) {
        self.heads.reserve(count * VERDICT_HEAD_MAX);
        self.verdicts.reserve(count);
    }

    /// Adds the verdict on packet `id`; `packet` is used if it is to be written back.
    pub(super) fn push(&mut self, id: u32, decision: Decision, packet: &'p [u8]) {
        let (verdict, packet) = match decision.action {
            Action::Accept => (libc::NF_ACCEPT, Cow::default()),
            Action::AcceptRewritten => (libc::NF_ACCEPT, Cow::Borrowed(packet)),
            Action::AcceptResized(packet) => (libc::NF_ACCEPT, Cow::Owned(packet)),
            Action::Drop => (libc::NF_DROP, Cow::default()),
        };
        let start = self.heads.len();
        begin_message(&mut self.heads, VERDICT, REQUEST, 0, self.queue);
        let [i0, i1, i2, i3] = id.to_be_bytes();
        // The verdict's number fits its last byte.
        put_attribute(&mut self.heads, VERDICT_HDR, &[0, 0, 0, verdict as u8, i0, i1, i2, i3]);
        if let Some(mark) = decision.mark {
            put_attribute(&mut self.heads, MARK, &mark.to_be_bytes());
        }
        if !packet.is_empty() {
            put_attribute_header(&mut self.heads, PAYLOAD, packet.len());
        }
        let end = self.heads.len();
        set_length(&mut self.heads, start, end - start + packet.len());
        put_padding(&mut self.heads, packet.len());
        self.packet_bytes += packet.len();
        self.verdicts.push(Verdict { id, head: start..end, packet });
    }

    pub(super) fn len(&self) -> usize {
        self.verdicts.len()
    }

    /// Bytes of all messages.
    pub(super) fn bytes(&self) -> usize {
        self.heads.len() + self.packet_bytes
    }

    pub(super) fn clear(&mut self) {
        self.heads.clear();
        self.verdicts.clear();
        self.packet_bytes = 0;
    }

    /// All verdicts, in the order they were added: at most two slices each, without the last padding, which the
    /// kernel does not want.
    pub(super) fn slices(&self) -> Vec<IoSlice<'_>> {
        let mut slices = Vec::with_capacity(2 * self.verdicts.len());
        let mut from = 0;
        let mut to = 0;
        for verdict in &self.verdicts {
            to = verdict.head.end;
            if !verdict.packet.is_empty() {
                slices.push(IoSlice::new(&self.heads[from..to]));
                slices.push(IoSlice::new(&verdict.packet));
                from = to;
            }
        }
        if from < to {
            slices.push(IoSlice::new(&self.heads[from..to]));
        }
        slices
    }

    /// Each verdict alone, with the packet it is about.
    pub(super) fn each(&self) -> impl Iterator<Item = (u32, [IoSlice<'_>; 2])> {
        self.verdicts.iter().map(|verdict| {
            (verdict.id, [IoSlice::new(&self.heads[verdict.head.clone()]), IoSlice::new(&verdict.packet)])
        })
    }
}

/// The message that drops one packet.
pub(super) fn drop_message(queue: u16, id: u32) -> Vec<u8> {
    let mut verdicts = Verdicts::new(queue);
    verdicts.push(id, Decision::DROP, &[]);
    verdicts.heads
}

/// The request that makes the sender the one who serves the queue, and sets everything about it. One message, so
/// that no packet is queued under half a configuration.
pub(super) fn bind_message(config: &QueueConfig, sequence: u32) -> Vec<u8> {
    let mut message = Vec::new();
    begin_message(&mut message, CONFIG, REQUEST | ACK, sequence, config.number);
    put_attribute(&mut message, CFG_CMD, &[libc::NFQNL_CFG_CMD_BIND as u8, 0, 0, 0]);
    let [r0, r1, r2, r3] = config.copied_bytes().to_be_bytes();
    put_attribute(&mut message, CFG_PARAMS, &[r0, r1, r2, r3, libc::NFQNL_COPY_PACKET as u8]);
    put_attribute(&mut message, CFG_QUEUE_MAXLEN, &config.max_len.to_be_bytes());
    let flags = [(config.gso, libc::NFQA_CFG_F_GSO), (config.fail_open, libc::NFQA_CFG_F_FAIL_OPEN)];
    let wanted: u32 = flags.iter().filter(|(on, _)| *on).map(|(_, flag)| *flag as u32).sum();
    put_attribute(&mut message, CFG_FLAGS, &wanted.to_be_bytes());
    put_attribute(&mut message, CFG_MASK, &wanted.to_be_bytes());
    let length = message.len();
    set_length(&mut message, 0, length);
    message
}

/// The request that changes how many packets may wait.
pub(super) fn max_len_message(queue: u16, max_len: u32, sequence: u32) -> Vec<u8> {
    let mut message = Vec::new();
    begin_message(&mut message, CONFIG, REQUEST | ACK, sequence, queue);
    put_attribute(&mut message, CFG_QUEUE_MAXLEN, &max_len.to_be_bytes());
    let length = message.len();
    set_length(&mut message, 0, length);
    message
}

/// A request that changes nothing and concerns no queue (`NFQNL_CFG_CMD_PF_BIND`, obsolete since Linux 3.8): its
/// answer tells whether the sender may configure queues at all.
pub(super) fn probe_message(sequence: u32) -> Vec<u8> {
    let mut message = Vec::new();
    begin_message(&mut message, CONFIG, REQUEST | ACK, sequence, 0);
    put_attribute(&mut message, CFG_CMD, &[libc::NFQNL_CFG_CMD_PF_BIND as u8, 0, 0, 0]);
    let length = message.len();
    set_length(&mut message, 0, length);
    message
}

fn begin_message(out: &mut Vec<u8>, kind: u16, flags: u16, sequence: u32, queue: u16) {
    out.extend_from_slice(&[0; 4]);
    out.extend_from_slice(&kind.to_ne_bytes());
    out.extend_from_slice(&flags.to_ne_bytes());
    out.extend_from_slice(&sequence.to_ne_bytes());
    // The sender's port, which the kernel knows, and the netfilter header: family, version, then the queue.
    out.extend_from_slice(&[0; 6]);
    out.extend_from_slice(&queue.to_be_bytes());
}

fn set_length(out: &mut [u8], start: usize, length: usize) {
    let length = u32::try_from(length).expect("a message holds at most one packet");
    out[start..start + 4].copy_from_slice(&length.to_ne_bytes());
}

fn put_attribute(out: &mut Vec<u8>, kind: u16, value: &[u8]) {
    put_attribute_header(out, kind, value.len());
    out.extend_from_slice(value);
    put_padding(out, value.len());
}

fn put_attribute_header(out: &mut Vec<u8>, kind: u16, value_len: usize) {
    let length =
        u16::try_from(ATTRIBUTE_HEADER + value_len).expect("a packet came in an attribute of its size");
    out.extend_from_slice(&length.to_ne_bytes());
    out.extend_from_slice(&kind.to_ne_bytes());
}

/// What lies behind a value of this length. (Not what `out` lacks: the packets of verdicts are not in it.)
fn put_padding(out: &mut Vec<u8>, value_len: usize) {
    out.extend_from_slice(&[0; 3][..aligned(value_len) - value_len]);
}

const fn aligned(length: usize) -> usize {
    length.next_multiple_of(4)
}

const MESSAGE_HEADER: usize = 16;
const NETFILTER_HEADER: usize = 4;
const ATTRIBUTE_HEADER: usize = 4;
/// Headers, verdict, mark, header of the packet.
const VERDICT_HEAD_MAX: usize = 48;

/// The lower bits are for netlink itself (`NLMSG_MIN_TYPE`).
const FIRST_KIND: u16 = 0x10;
const ERROR: u16 = libc::NLMSG_ERROR as u16;
const PACKET: u16 = queue_kind(libc::NFQNL_MSG_PACKET);
const VERDICT: u16 = queue_kind(libc::NFQNL_MSG_VERDICT);
const CONFIG: u16 = queue_kind(libc::NFQNL_MSG_CONFIG);

const fn queue_kind(message: i32) -> u16 {
    ((libc::NFNL_SUBSYS_QUEUE << 8) | message) as u16
}

const REQUEST: u16 = libc::NLM_F_REQUEST as u16;
const ACK: u16 = libc::NLM_F_ACK as u16;

/// Without the flags for nesting and byte order (`NLA_TYPE_MASK`).
const ATTRIBUTE_TYPE: u16 = 0x3fff;
const PACKET_HDR: u16 = libc::NFQA_PACKET_HDR as u16;
const VERDICT_HDR: u16 = libc::NFQA_VERDICT_HDR as u16;
const MARK: u16 = libc::NFQA_MARK as u16;
const PAYLOAD: u16 = libc::NFQA_PAYLOAD as u16;
const CAP_LEN: u16 = libc::NFQA_CAP_LEN as u16;
const SKB_INFO: u16 = libc::NFQA_SKB_INFO as u16;
const CFG_CMD: u16 = libc::NFQA_CFG_CMD as u16;
const CFG_PARAMS: u16 = libc::NFQA_CFG_PARAMS as u16;
const CFG_QUEUE_MAXLEN: u16 = libc::NFQA_CFG_QUEUE_MAXLEN as u16;
const CFG_MASK: u16 = libc::NFQA_CFG_MASK as u16;
const CFG_FLAGS: u16 = libc::NFQA_CFG_FLAGS as u16;

#[cfg(test)]
mod tests;
