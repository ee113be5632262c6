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
    draft: Draft,
}

/// How far a message has come, without the buffer that it is made in: for a sender that has records one by one, and
/// keeps buffer and message in one place between them.
///
/// ```
/// # use sync_proto::*;
/// # let datagram = b"\x01\x07\x00\x1c\x00\x06\xc0\x30\x00\x50\x1f\x90\xc0\x00\x02\x0a\x0a\x07\x00\x01\x0a\x03\x00\x01\
/// #     \x00\x00\x00\x01";
/// # let record = Message::decode(datagram, SyncId::ANY)?.records().next().unwrap()?;
/// struct Open {
///     buffer: Vec<u8>,
///     draft: Draft,
/// }
/// let mut open = Open { buffer: vec![0; 1472], draft: Draft::new(Version::V1, SyncId(7), 1472) };
/// for _ in 0..2 {
///     let mut encoder = Encoder::resume(&mut open.buffer, open.draft);
///     encoder.push(&record)?;
///     open.draft = encoder.pause();
/// }
/// assert_eq!(open.draft.record_count(), 2);
/// let message = Encoder::resume(&mut open.buffer, open.draft).finish().unwrap();
/// assert_eq!(message.len(), 8 + 2 * 36);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Draft {
    version: Version,
    syncid: SyncId,
    /// Where what shall not pass `max_len` ends.
    max_len: usize,
    trailer: usize,
    /// Where the last record ends.
    end: usize,
    count: u8,
}

impl Draft {
    /// An empty message, which shall not be longer than `max_len` bytes (`sync_maxlen`).
    pub const fn new(version: Version, syncid: SyncId, max_len: usize) -> Draft {
        Draft { version, syncid, max_len, trailer: 0, end: version.header_len(), count: 0 }
    }

    /// Keeps `len` bytes for what the caller adds behind the last record. They count in the length of the message, and
    /// are ignored by receivers who do not know of them.
    pub const fn with_trailer(self, len: usize) -> Draft {
        Draft { trailer: len, ..self }
    }

    /// The version of the message.
    pub const fn version(&self) -> Version {
        self.version
    }

    /// How many records there are.
    pub const fn record_count(&self) -> u8 {
        self.count
    }

    /// How long the message is so far, with its trailer.
    pub const fn message_len(&self) -> usize {
        self.end.saturating_add(self.trailer)
    }
}

impl<'b> Encoder<'b> {
    /// An empty message, which shall not be longer than `max_len` bytes (`sync_maxlen`).
    pub fn new(buffer: &'b mut [u8], version: Version, syncid: SyncId, max_len: usize) -> Encoder<'b> {
        Encoder { buffer, draft: Draft::new(version, syncid, max_len) }
    }

    /// Goes on with a message where it was [paused](Self::pause). `buffer` holds what was written to it so far, at
    /// its beginning.
    pub const fn resume(buffer: &'b mut [u8], draft: Draft) -> Encoder<'b> {
        Encoder { buffer, draft }
    }

    /// Gives the buffer back, and says how far the message in it has come.
    pub const fn pause(self) -> Draft {
        self.draft
    }

    /// Keeps `len` bytes for what the caller adds behind the last record; see [`Draft::with_trailer`].
    pub fn with_trailer(self, len: usize) -> Encoder<'b> {
        Encoder { draft: self.draft.with_trailer(len), ..self }
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
        match self.draft.version {
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
        self.draft.record_count()
    }

    /// How long the message is so far, with its trailer.
    pub const fn message_len(&self) -> usize {
        self.draft.message_len()
    }

    /// The message; none if there is no record in it. The trailer, its last bytes, is zeros for the caller to replace.
    pub fn finish(self) -> Option<&'b mut [u8]> {
        let Draft { version, syncid, end, count, .. } = self.draft;
        if count == 0 {
            return None;
        }
        let len = self.message_len();
        let message = self.buffer.get_mut(..len)?;
        message[end..].fill(0);
        let header = Header {
            version,
            syncid,
            size: u16::try_from(len).expect("records were refused that would have made it longer"),
            count,
        };
        header.encode(message);
        Some(message)
    }

    /// The place for another record of `len` bytes, with zeros in the gap before it.
    #[inline]
    fn room(&mut self, len: usize, alignment: usize) -> Result<&mut [u8], EncodeError> {
        let draft = &mut self.draft;
        let start = draft.end.next_multiple_of(alignment);
        let end = start + len;
        let hard = self.buffer.len().min(usize::from(u16::MAX)).saturating_sub(draft.trailer);
        let soft = draft.max_len.saturating_sub(draft.trailer).min(hard);
        if draft.count == 0 && end > hard {
            return Err(EncodeError::TooLong { len });
        }
        if draft.count == u8::MAX || (draft.count > 0 && end > soft) {
            return Err(EncodeError::Full);
        }
        self.buffer[draft.end..start].fill(0);
        draft.end = end;
        draft.count += 1;
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
