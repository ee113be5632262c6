//! TCP segments whose payload or numbers change on their way, not only their endpoints (RFC 9293; RFC 2018 for
//! selective acknowledgements).

use std::ops::Range;

use pnet_packet::tcp::{MutableTcpPacket, TcpPacket};

use super::addresses::Addresses;
use super::checksum::{Cover, Incomplete, Rewritten};
use super::sequence::SequenceShift;
use super::{FlowInfo, Packet, Rewrite, Signal, ipv4, ipv6, transport};
use crate::director::DropReason;

/// What a segment carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segment<'a> {
    /// The number of its first byte, as its sender counts.
    pub sequence: u32,
    /// Its payload.
    pub payload: &'a [u8],
    /// Whether it is several segments in one, which the kernel cuts again to their old size.
    pub is_several: bool,
}

/// What changes in a segment beside its endpoints.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SegmentEdit {
    /// How the numbers of its sender change.
    pub sent: SequenceShift,
    /// How those change that it acknowledges.
    pub acknowledged: SequenceShift,
    /// Which bytes of the payload give way, and to what.
    pub replaced: Option<(Range<usize>, Vec<u8>)>,
}

impl SegmentEdit {
    /// Whether everything stays as it is.
    pub fn is_none(&self) -> bool {
        self.sent.is_none() && self.acknowledged.is_none() && self.replaced.is_none()
    }
}

/// The largest packet that a queue takes back: one netlink attribute.
const LARGEST: usize = 0xffff - 4;

impl Packet<'_> {
    /// What a TCP segment carries.
    ///
    /// # Errors
    ///
    /// * [`DropReason::Truncated`]: the copy was cut.
    /// * [`DropReason::BadChecksum`]: its checksum is wrong, so nothing it says can be relied on.
    /// * [`DropReason::Malformed`]: it is no TCP segment.
    pub fn segment(&mut self, flow: &FlowInfo) -> Result<Segment<'_>, DropReason> {
        let Signal::Tcp(_) = flow.signal else { return Err(DropReason::Malformed) };
        if !self.edit(flow.cover)?.is_right() {
            return Err(DropReason::BadChecksum);
        }
        let covered = covered(self.bytes, flow.cover)?;
        let header = TcpPacket::new(covered).ok_or(DropReason::Malformed)?;
        Ok(Segment {
            sequence: header.get_sequence(),
            payload: covered.get(header_len(&header)..).ok_or(DropReason::Malformed)?,
            is_several: self.gso,
        })
    }

    /// Writes new endpoints and, into a TCP segment whose checksum was right, whatever else changes; then it has
    /// another one. A packet that gets another length is made anew: see [`Rewritten::into_resized`].
    ///
    /// # Errors
    ///
    /// As [`rewrite`](Packet::rewrite), and [`DropReason::Truncated`] if it became larger than a queue can take back.
    pub fn rewrite_segment(
        &mut self,
        flow: &FlowInfo,
        rewrite: Rewrite,
        edit: Option<&SegmentEdit>,
    ) -> Result<Rewritten, DropReason> {
        let Some(edit) = edit else { return self.rewrite(flow, rewrite) };
        if self.bytes.len() < self.original_len {
            return Err(DropReason::Truncated);
        }
        let Cover { offset, len, .. } = flow.cover;
        let header = TcpPacket::new(covered(self.bytes, flow.cover)?).ok_or(DropReason::Malformed)?;
        let payload = offset + header_len(&header)..offset + len;
        match &edit.replaced {
            Some((range, text)) if range.len() != text.len() => {
                let mut bytes = spliced(self.bytes, payload, range, text)?;
                let cover = Cover { len: bytes.len() - offset, ..flow.cover };
                let rewritten = write(&mut bytes, flow, cover, rewrite, edit)?;
                Ok(rewritten.with_bytes(bytes))
            }
            replaced => {
                if let Some((range, text)) = replaced {
                    let payload = self.bytes.get_mut(payload).ok_or(DropReason::Malformed)?;
                    payload.get_mut(range.clone()).ok_or(DropReason::Malformed)?.copy_from_slice(text);
                }
                write(self.bytes, flow, flow.cover, rewrite, edit)
            }
        }
    }
}

/// The packet with `text` in place of `range` of its payload, and the length in its IP header that it has then.
fn spliced(
    bytes: &[u8],
    payload: Range<usize>,
    range: &Range<usize>,
    text: &[u8],
) -> Result<Vec<u8>, DropReason> {
    let end = payload.end;
    let (start, behind) = (payload.start + range.start, payload.start + range.end);
    let (before, after) = (bytes.get(..start), bytes.get(behind..end));
    let (Some(before), Some(after)) = (before, after) else { return Err(DropReason::Malformed) };
    let mut spliced = [before, text, after].concat();
    if spliced.len() > LARGEST {
        return Err(DropReason::Truncated);
    }
    let len = spliced.len();
    match spliced.first().map(|first| first >> 4) {
        Some(4) => ipv4::set_len(&mut spliced, len)?,
        _ => ipv6::set_len(&mut spliced, len)?,
    }
    Ok(spliced)
}

/// Writes endpoints and numbers, and then the checksum.
fn write(
    bytes: &mut [u8],
    flow: &FlowInfo,
    cover: Cover,
    rewrite: Rewrite,
    edit: &SegmentEdit,
) -> Result<Rewritten, DropReason> {
    let Rewrite { source, destination } = rewrite;
    let addresses =
        Addresses::new(flow.source.ip(), source.map(|it| it.ip()), destination.map(|it| it.ip()))?;
    let mut packet = Incomplete::begin(bytes, cover, true)?;
    packet.edit_addresses(|header| addresses.write(header))?;
    packet.edit_covered(|segment| {
        renumber(segment, edit)?;
        transport::set_ports(segment, source.map(|it| it.port()), destination.map(|it| it.port()))
    })?;
    Ok(packet.settle())
}

fn renumber(segment: &mut [u8], edit: &SegmentEdit) -> Result<(), DropReason> {
    let mut header = MutableTcpPacket::new(segment).ok_or(DropReason::Malformed)?;
    let header_len = header_len(&header.to_immutable());
    header.set_sequence(edit.sent.sent(header.get_sequence()));
    if edit.acknowledged.is_none() {
        return Ok(());
    }
    header.set_acknowledgement(edit.acknowledged.acknowledged(header.get_acknowledgement()));
    let options = segment.get_mut(TcpPacket::minimum_packet_size()..header_len);
    renumber_selective(options.ok_or(DropReason::Malformed)?, edit.acknowledged);
    Ok(())
}

const END_OF_OPTIONS: u8 = 0;
const NO_OPERATION: u8 = 1;
/// Selective acknowledgement: pairs of numbers, wherever they stand.
const SELECTIVE: u8 = 5;

/// Options that contradict the header's length are left as they are: their receiver does not understand them either.
fn renumber_selective(mut options: &mut [u8], acknowledged: SequenceShift) {
    while let &mut [kind, ref rest @ ..] = options {
        let len = match (kind, rest) {
            (END_OF_OPTIONS, _) => return,
            (NO_OPERATION, _) => 1,
            (_, &[len, ..]) if len >= 2 => usize::from(len),
            _ => return,
        };
        let Some((option, behind)) = options.split_at_mut_checked(len) else { return };
        if kind == SELECTIVE
            && let Some(blocks) = option.get_mut(2..)
        {
            for number in blocks.as_chunks_mut::<4>().0 {
                *number = acknowledged.acknowledged(u32::from_be_bytes(*number)).to_be_bytes();
            }
        }
        options = behind;
    }
}

fn covered(bytes: &[u8], cover: Cover) -> Result<&[u8], DropReason> {
    bytes.get(cover.offset..cover.offset + cover.len).ok_or(DropReason::Malformed)
}

fn header_len(header: &TcpPacket<'_>) -> usize {
    usize::from(header.get_data_offset()) * 4
}
