//! A message that was received, and the records in it.

use crate::header::Header;
use crate::{Extent, MessageError, Record, RecordError, SyncId, Version, v0, v1};
use core::iter::FusedIterator;

/// A datagram whose header was found right. Borrows it; nothing is copied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Message<'a> {
    header: Header,
    /// The whole datagram.
    bytes: &'a [u8],
}

impl<'a> Message<'a> {
    /// Takes a datagram for a receiver whose syncid is `own`; [`SyncId::ANY`] takes those of every sender.
    ///
    /// The datagram is the whole UDP payload: one that was cut to the receiver's buffer is refused by its size.
    pub fn decode(datagram: &'a [u8], own: SyncId) -> Result<Message<'a>, MessageError> {
        Ok(Message { header: Header::decode(datagram, own)?, bytes: datagram })
    }

    /// The version it was taken for.
    pub const fn version(&self) -> Version {
        self.header.version
    }

    /// The sender's.
    pub const fn syncid(&self) -> SyncId {
        self.header.syncid
    }

    /// How many records it is stated to have.
    pub const fn record_count(&self) -> u8 {
        self.header.count
    }

    /// The records, in order.
    pub fn records(&self) -> Records<'a> {
        let rest = self.bytes.get(self.version().header_len()..).unwrap_or_default();
        Records { version: self.version(), left: self.record_count(), rest, padding: 0 }
    }

    /// What stands behind the last record, with any padding. None: where that is, is not known, because records were
    /// lost with the [rest](Extent::Rest) of the message.
    ///
    /// The protocol says nothing of these bytes, and its receivers do not look at them.
    pub fn trailer(&self) -> Option<&'a [u8]> {
        let mut records = self.records();
        let is_whole = records.all(|record| !record.is_err_and(|error| error.extent() == Extent::Rest));
        is_whole.then_some(records.rest)
    }
}

/// The records of a message: each as it is, or why it is refused.
///
/// After an error with the extent [`Record`](Extent::Record) the next record follows; one with the extent
/// [`Rest`](Extent::Rest) is the last item.
#[derive(Clone, Debug)]
pub struct Records<'a> {
    version: Version,
    /// Records still to come.
    left: u8,
    /// What is behind the last record that was taken.
    rest: &'a [u8],
    /// How much of it comes before the next record.
    padding: usize,
}

impl<'a> Iterator for Records<'a> {
    type Item = Result<Record<'a>, RecordError>;

    #[inline]
    fn next(&mut self) -> Option<Self::Item> {
        self.left = self.left.checked_sub(1)?;
        let record = self.take();
        if record.is_err_and(|error| error.extent() == Extent::Rest) {
            self.left = 0;
        }
        Some(record)
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (usize::from(self.left.min(1)), Some(usize::from(self.left)))
    }
}

impl FusedIterator for Records<'_> {}

impl<'a> Records<'a> {
    #[inline]
    fn take(&mut self) -> Result<Record<'a>, RecordError> {
        let bytes = self.rest.get(self.padding..).unwrap_or_default();
        match self.version {
            Version::V0 => {
                let (record, rest) = v0::Raw::split(bytes)?;
                self.rest = rest;
                record.decode()
            }
            Version::V1 => {
                let (record, rest) = v1::Raw::split(bytes)?;
                self.rest = rest;
                self.padding = (bytes.len() - rest.len()).wrapping_neg() % ALIGNMENT;
                record.decode()
            }
        }
    }
}

/// Where records of version 1 begin, counted from the beginning of the message. The header ends there too.
pub(crate) const ALIGNMENT: usize = 4;
