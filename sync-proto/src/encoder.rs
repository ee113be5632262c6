//! Making a message, record by record, in a buffer of the caller's.

use crate::header::Header;
use crate::message::ALIGNMENT;
use crate::{ConnFlags, Record, RecordError, SyncId, Version, states, v0, v1};
use core::fmt;

/// A message that is being made.
///
/// A record that does not fit any more is refused as [`Full`](EncodeError::Full), and nothing of it is written: send the
/// message, and begin another one with it.
///
/// The first record of a message may pass the length that messages shall have; only the buffer limits it. So none is too
/// long for every message if the buffer has room for it: 8 + 373 bytes for whatever a kernel sends, and the trailer.
///
/// ```
/// # use sync_proto::*;
/// # let datagram = b"\x01\x07\x00\x1c\x00\x06\xc0\x30\x00\x50\x1f\x90\xc0\x00\x02\x0a\x0a\x07\x00\x01\x0a\x03\x00\x01\
/// #     \x00\x00\x00\x01";
/// # let record = Message::decode(datagram, SyncId::ANY)?.records().next().unwrap()?;
/// let mut buffer = [0; 1472];
/// let mut encoder = Encoder::new(&mut buffer, Version::V1, SyncId(7), 1472);
/// while encoder.push(&record).is_ok() {}
/// assert_eq!(encoder.push(&record), Err(EncodeError::Full));
/// assert_eq!(encoder.record_count(), 40);
/// assert_eq!(encoder.finish().unwrap().len(), 1448);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct Encoder<'b> {
    buffer: &'b mut [u8],
    version: Version,
    syncid: SyncId,
    /// Where what shall not pass `max_len` ends.
    max_len: usize,
    trailer: usize,
    /// Where the last record ends.
    end: usize,
    count: u8,
}

impl<'b> Encoder<'b> {
    /// An empty message, which shall not be longer than `max_len` bytes (`sync_maxlen`).
    pub fn new(buffer: &'b mut [u8], version: Version, syncid: SyncId, max_len: usize) -> Encoder<'b> {
        Encoder { buffer, version, syncid, max_len, trailer: 0, end: version.header_len(), count: 0 }
    }

    /// Keeps `len` bytes for what the caller adds behind the last record. They count in the length of the message, and
    /// are ignored by receivers who do not know of them.
    pub fn with_trailer(self, len: usize) -> Encoder<'b> {
        Encoder { trailer: len, ..self }
    }

    /// Appends a record.
    ///
    /// What every receiver would refuse is refused here, so that what was appended is what will be decoded, less what
    /// the version does not carry.
    #[inline]
    pub fn push(&mut self, record: &Record<'_>) -> Result<(), EncodeError> {
        states::check(record.flags, record.protocol, record.state).map_err(EncodeError::Refused)?;
        if record.flags.intersects(ConnFlags::SEQUENCE) != record.sequence.is_some() {
            return Err(EncodeError::Sequence);
        }
        match self.version {
            Version::V0 => {
                let record = v0::Checked::new(record)?;
                record.encode(self.room(record.len(), 1)?);
            }
            Version::V1 => {
                let record = v1::Checked::new(record)?;
                record.encode(self.room(record.len(), ALIGNMENT)?);
            }
        }
        Ok(())
    }

    /// How many records there are.
    pub const fn record_count(&self) -> u8 {
        self.count
    }

    /// How long the message is so far, with its trailer.
    pub const fn message_len(&self) -> usize {
        self.end.saturating_add(self.trailer)
    }

    /// The message; none if there is no record in it. The trailer, its last bytes, is zeros for the caller to replace.
    pub fn finish(self) -> Option<&'b mut [u8]> {
        if self.count == 0 {
            return None;
        }
        let len = self.message_len();
        let message = self.buffer.get_mut(..len)?;
        message[self.end..].fill(0);
        let header = Header {
            version: self.version,
            syncid: self.syncid,
            size: u16::try_from(len).expect("records were refused that would have made it longer"),
            count: self.count,
        };
        header.encode(message);
        Some(message)
    }

    /// The place for another record of `len` bytes, with zeros in the gap before it.
    #[inline]
    fn room(&mut self, len: usize, alignment: usize) -> Result<&mut [u8], EncodeError> {
        let start = self.end.next_multiple_of(alignment);
        let end = start + len;
        let hard = self.buffer.len().min(usize::from(u16::MAX)).saturating_sub(self.trailer);
        let soft = self.max_len.saturating_sub(self.trailer).min(hard);
        if self.count == 0 && end > hard {
            return Err(EncodeError::TooLong { len });
        }
        if self.count == u8::MAX || (self.count > 0 && end > soft) {
            return Err(EncodeError::Full);
        }
        self.buffer[self.end..start].fill(0);
        self.end = end;
        self.count += 1;
        Ok(&mut self.buffer[start..end])
    }
}

/// Why a record is not appended. The message is as it was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EncodeError {
    /// The message has no room left, or 255 records; the next message has room.
    Full,
    /// No message has room for it: the buffer is too small, or the parameters are too long.
    TooLong {
        /// Of the record.
        len: usize,
    },
    /// Version 0 has no IPv6.
    Ipv6,
    /// The [flags](ConnFlags::SEQUENCE) say that there is sequence data and there is none, or the other way round.
    Sequence,
    /// Receivers would refuse it.
    Refused(RecordError),
}

impl fmt::Display for EncodeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            EncodeError::Full => f.write_str("the message is full"),
            EncodeError::TooLong { len } => write!(f, "no message has room for a record of {len} bytes"),
            EncodeError::Ipv6 => f.write_str("version 0 has no IPv6"),
            EncodeError::Sequence => f.write_str("flags and sequence data contradict each other"),
            EncodeError::Refused(_) => f.write_str("receivers would refuse the record"),
        }
    }
}

impl core::error::Error for EncodeError {
    fn source(&self) -> Option<&(dyn core::error::Error + 'static)> {
        match self {
            EncodeError::Refused(error) => Some(error),
            _ => None,
        }
    }
}
