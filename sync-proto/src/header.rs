//! The header of a message, and how the two versions are told apart.

use crate::MessageError;

/// A version of the protocol. Receivers take both at any time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Version {
    /// IPv4 alone, without timeouts, marks and persistence engines.
    V0,
    /// Everything.
    V1,
}

impl Version {
    /// Bytes of the header.
    pub const fn header_len(self) -> usize {
        match self {
            Version::V0 => 4,
            Version::V1 => 8,
        }
    }
}

/// Tells groups of directors apart that share a network.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct SyncId(pub u8);

impl SyncId {
    /// As a receiver's own: takes messages of every syncid. It is no joker in a message: a receiver with another one
    /// refuses it.
    pub const ANY: SyncId = SyncId(0);

    /// Whether a receiver with this syncid takes a message with `theirs`.
    pub const fn takes(self, theirs: SyncId) -> bool {
        self.0 == SyncId::ANY.0 || self.0 == theirs.0
    }
}

/// What a header says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Header {
    pub(crate) version: Version,
    pub(crate) syncid: SyncId,
    /// Of the whole message.
    pub(crate) size: u16,
    pub(crate) count: u8,
}

impl Header {
    /// Reads the header of a datagram for a receiver with the syncid `own`.
    pub(crate) fn decode(datagram: &[u8], own: SyncId) -> Result<Header, MessageError> {
        let Some(&[first, syncid, size_high, size_low]) = datagram.first_chunk() else {
            return Err(MessageError::TooShort { received: datagram.len() });
        };
        let (syncid, size) = (SyncId(syncid), u16::from_be_bytes([size_high, size_low]));
        if usize::from(size) != datagram.len() {
            return Err(MessageError::Size { stated: size, received: datagram.len() });
        }
        if !own.takes(syncid) {
            return Err(MessageError::SyncId { own, theirs: syncid });
        }
        Ok(match datagram.first_chunk() {
            Some(&[0, _, _, _, count, 1, 0, 0]) => Header { version: Version::V1, syncid, size, count },
            _ => Header { version: Version::V0, syncid, size, count: first },
        })
    }

    /// Writes it at the beginning of `message`, which has room for it.
    pub(crate) fn encode(self, message: &mut [u8]) {
        let [size_high, size_low] = self.size.to_be_bytes();
        let SyncId(syncid) = self.syncid;
        match self.version {
            Version::V0 => {
                message[..4].copy_from_slice(&[self.count, syncid, size_high, size_low]);
            }
            Version::V1 => {
                message[..8].copy_from_slice(&[0, syncid, size_high, size_low, self.count, 1, 0, 0]);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // ip_vs_process_message tells the versions apart by three fields.
    #[test]
    fn whatever_is_not_version_1_is_version_0() {
        let rows: [(&str, &[u8], Version, u8); 8] = [
            ("version 1", &[0, 7, 0, 8, 2, 1, 0, 0], Version::V1, 2),
            ("version 1 without records", &[0, 7, 0, 8, 0, 1, 0, 0], Version::V1, 0),
            ("version 0 that looks like it but for its count", &[1, 7, 0, 8, 2, 1, 0, 0], Version::V0, 1),
            ("a version to come", &[0, 7, 0, 8, 2, 2, 0, 0], Version::V0, 0),
            ("spare, upper byte", &[0, 7, 0, 8, 2, 1, 1, 0], Version::V0, 0),
            ("spare, lower byte", &[0, 7, 0, 8, 2, 1, 0, 1], Version::V0, 0),
            ("version 0, nothing but a header", &[0, 7, 0, 4], Version::V0, 0),
            ("too short for version 1", &[0, 7, 0, 7, 2, 1, 0], Version::V0, 0),
        ];
        for (what, datagram, version, count) in rows {
            let header = Header::decode(datagram, SyncId(7)).expect(what);
            assert_eq!((header.version, header.count), (version, count), "{what}");
            assert_eq!((header.syncid, usize::from(header.size)), (SyncId(7), datagram.len()), "{what}");
        }
    }

    #[test]
    fn zero_is_any_syncid_of_a_receiver_only() {
        let rows = [(7, 7, true), (7, 8, false), (7, 0, false), (0, 7, true), (0, 0, true), (255, 255, true)];
        for (own, theirs, taken) in rows {
            assert_eq!(SyncId(own).takes(SyncId(theirs)), taken, "{own} of {theirs}");
        }
    }

    #[test]
    fn what_is_written_is_read() {
        for (version, len) in [(Version::V0, 4), (Version::V1, 8)] {
            let header = Header { version, syncid: SyncId(9), size: len, count: 3 };
            let mut bytes = [0xff; 8];
            header.encode(&mut bytes);
            assert_eq!(Header::decode(&bytes[..usize::from(len)], SyncId::ANY), Ok(header));
            assert!(
                bytes[usize::from(len)..].iter().all(|byte| *byte == 0xff),
                "nothing behind it is touched"
            );
            assert_eq!(version.header_len(), usize::from(len));
        }
    }
}
