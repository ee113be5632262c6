//! What is said beside messages, in bytes. All numbers are big-endian.
//!
//! A hello, which both sides begin with, who asks first:
//!
//! | offset | size | field |
//! |---|---|---|
//! | 0 | 4 | `nfvr` |
//! | 4 | 1 | 1, the version of all this |
//! | 5 | 1 | syncid: whose table is wanted (0: any), or of which group it is |
//! | 6 | 1 | of the master: the answer; of the backup 0 |
//! | 7 | 1 | 0 |
//! | 8 | 8 | which keys are valid: of each the first 4 bytes of its SHA-256; zeros: none |
//! | 16 | 16 | drawn by lot |
//!
//! A notice is a message of version 1 without a record, which everybody else ignores:
//!
//! | offset | size | field |
//! |---|---|---|
//! | 0 | 8 | the header |
//! | 8 | 4 | `nfvr` |
//! | 12 | 1 | 1, the version of all this |
//! | 13 | 1 | 1: tables are to be had; 2: a table begins; 3: it has ended; 4: does this arrive?; 5: it has arrived |
//! | 14 | 2 | 1: the TCP port to ask at; 4: the UDP port to answer at; 5: the syncid of who answers; else 0 |
//! | 16 | 8 | 1: when the sender began, in microseconds since 1970; 2: about how many entries there are; 3: how many were told of; 4, 5: drawn by lot for the question |
//! | 24 | 8 | 3: how many were left out; 4, 5: in the first half what the sender has drawn by lot for itself, and in the second, of 5, how many messages of the asker have not come (all ones: unknown); else 0 |

use std::fmt;
use std::num::NonZeroU16;
use sync_proto::{Message, SyncId, Version};

const MAGIC: &[u8; 4] = b"nfvr";
const VERSION: u8 = 1;
/// So many messages are lost as nobody has counted.
const UNKNOWN: u32 = u32::MAX;

/// How a key is named.
pub(in crate::daemon::sync) type KeyId = [u8; 4];

/// How each side begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::daemon::sync) struct Hello {
    /// The group.
    pub syncid: SyncId,
    /// What the master makes of the question.
    pub answer: Answer,
    /// The keys that are valid.
    pub keys: [KeyId; 2],
    /// Drawn by lot.
    pub lot: [u8; 16],
}

/// What a master makes of a question.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::daemon::sync) enum Answer {
    /// The table follows; in a question, nothing.
    Yes,
    /// It tells others, as many as it can.
    Busy,
    /// It is of another group.
    OtherGroup,
    /// It tells only who has the key.
    NoKey,
}

impl Answer {
    const ALL: [Answer; 4] = [Answer::Yes, Answer::Busy, Answer::OtherGroup, Answer::NoKey];
}

impl fmt::Display for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Answer::Yes => "it does not",
            Answer::Busy => "it tells others, as many as it can",
            Answer::OtherGroup => "its syncid is another",
            Answer::NoKey => "it has none of the keys here",
        })
    }
}

impl Hello {
    /// How long it is, in bytes.
    pub(in crate::daemon::sync) const LENGTH: usize = 32;

    /// The bytes.
    pub(in crate::daemon::sync) fn encode(&self) -> [u8; Hello::LENGTH] {
        let mut bytes = [0; Hello::LENGTH];
        bytes[..4].copy_from_slice(MAGIC);
        bytes[4..8].copy_from_slice(&[VERSION, self.syncid.0, self.answer as u8, 0]);
        bytes[8..12].copy_from_slice(&self.keys[0]);
        bytes[12..16].copy_from_slice(&self.keys[1]);
        bytes[16..].copy_from_slice(&self.lot);
        bytes
    }

    /// What the bytes say, if they are a hello.
    pub(in crate::daemon::sync) fn decode(bytes: &[u8; Hello::LENGTH]) -> Option<Hello> {
        let (head, rest) = bytes.split_first_chunk::<8>()?;
        let (first, rest) = rest.split_first_chunk::<4>()?;
        let (second, rest) = rest.split_first_chunk::<4>()?;
        let [magic @ .., version, syncid, answer, 0] = *head else { return None };
        let is_ours = magic == *MAGIC && version == VERSION;
        let answer = Answer::ALL.get(usize::from(answer)).copied().filter(|_| is_ours)?;
        let lot = *rest.first_chunk()?;
        Some(Hello { syncid: SyncId(syncid), answer, keys: [*first, *second], lot })
    }

    /// The first of the keys here that the other side has as well.
    pub(in crate::daemon::sync) fn key_in_common(&self, other: &Hello) -> Option<KeyId> {
        self.keys.into_iter().find(|key| *key != KeyId::default() && other.keys.contains(key))
    }
}

/// What a message without a record says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::daemon::sync) enum Notice {
    /// Tables are to be had.
    Offer {
        /// The TCP port to ask at.
        port: u16,
        /// When the sender began, in microseconds since 1970.
        session: u64,
    },
    /// A table begins.
    Begin {
        /// About how many entries there are.
        entries: u64,
    },
    /// It has ended.
    End {
        /// How many entries were told of.
        told: u64,
        /// How many were not.
        left_out: u64,
    },
    /// Does this arrive?
    Question {
        /// The UDP port to answer at.
        port: NonZeroU16,
        /// Drawn by lot for this question.
        token: u64,
        /// What the asker has drawn by lot for itself.
        asker: u32,
    },
    /// It has arrived.
    Arrived(Arrival),
}

/// What a backup says of a question.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::daemon::sync) struct Arrival {
    /// Its syncid, which is 0 if it takes the messages of every group.
    pub syncid: SyncId,
    /// What was drawn by lot for the question.
    pub token: u64,
    /// What the backup has drawn by lot for itself.
    pub who: u32,
    /// How many messages of the asker have not come, if it knows.
    pub lost: Option<u32>,
}

impl Notice {
    /// How long it is without a trailer, in bytes.
    pub(in crate::daemon::sync) const LENGTH: usize = 32;

    /// The message, with zeros for a trailer.
    pub(in crate::daemon::sync) fn encode(&self, SyncId(syncid): SyncId, trailer: usize) -> Vec<u8> {
        let (kind, port, one, other) = match *self {
            Notice::Offer { port, session } => (1, port, session, 0),
            Notice::Begin { entries } => (2, 0, entries, 0),
            Notice::End { told, left_out } => (3, 0, told, left_out),
            Notice::Question { port, token, asker } => (4, port.get(), token, u64::from(asker) << 32),
            Notice::Arrived(Arrival { syncid, token, who, lost }) => {
                let lost = lost.unwrap_or(UNKNOWN);
                (5, u16::from(syncid.0), token, u64::from(who) << 32 | u64::from(lost))
            }
        };
        let length = Notice::LENGTH + trailer;
        let size = u16::try_from(length).expect("a trailer is short");
        let mut message = vec![0; length];
        message[..6].copy_from_slice(&[0, syncid, size.to_be_bytes()[0], size.to_be_bytes()[1], 0, 1]);
        message[8..12].copy_from_slice(MAGIC);
        message[12..14].copy_from_slice(&[VERSION, kind]);
        message[14..16].copy_from_slice(&port.to_be_bytes());
        message[16..24].copy_from_slice(&one.to_be_bytes());
        message[24..32].copy_from_slice(&other.to_be_bytes());
        message
    }

    /// What a message says, if it is a notice for this group.
    pub(in crate::daemon::sync) fn decode(message: &[u8], own: SyncId) -> Option<Notice> {
        let decoded = Message::decode(message, own).ok()?;
        if decoded.version() != Version::V1 || decoded.record_count() > 0 {
            return None;
        }
        let (head, rest) = message.get(8..)?.split_first_chunk::<8>()?;
        let (one, rest) = rest.split_first_chunk::<8>()?;
        let (one, other) = (u64::from_be_bytes(*one), u64::from_be_bytes(*rest.first_chunk()?));
        let [magic @ .., version, kind, high, low] = *head;
        if magic != *MAGIC || version != VERSION {
            return None;
        }
        let (number, who) = (u16::from_be_bytes([high, low]), (other >> 32) as u32);
        match kind {
            1 => Some(Notice::Offer { port: number, session: one }),
            2 => Some(Notice::Begin { entries: one }),
            3 => Some(Notice::End { told: one, left_out: other }),
            4 => Some(Notice::Question { port: NonZeroU16::new(number)?, token: one, asker: who }),
            5 => {
                let lost = Some(other as u32).filter(|lost| *lost != UNKNOWN);
                Some(Notice::Arrived(Arrival { syncid: SyncId(low), token: one, who, lost }))
            }
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GROUP: SyncId = SyncId(7);

    fn hello() -> Hello {
        Hello { syncid: GROUP, answer: Answer::NoKey, keys: [*b"abcd", *b"efgh"], lot: *b"0123456789abcdef" }
    }

    #[test]
    fn hellos_are_read_as_written_and_nothing_else_is_one() {
        let bytes = hello().encode();
        assert_eq!(bytes[..16], *b"nfvr\x01\x07\x03\x00abcdefgh");
        assert_eq!(Hello::decode(&bytes), Some(hello()));
        for (at, what) in [(0, "magic"), (3, "magic"), (4, "version"), (6, "answer"), (7, "spare")] {
            let mut bad = bytes;
            bad[at] ^= 0x40;
            assert_eq!(Hello::decode(&bad), None, "{what}");
        }
    }

    #[test]
    fn the_key_is_the_masters_first_that_the_backup_has() {
        let with = |keys: [&KeyId; 2]| Hello { keys: keys.map(|key| *key), ..hello() };
        let none = &[0; 4];
        for (master, backup, key) in [
            ([b"new1", b"old1"], [b"old1", b"new1"], Some(*b"new1")),
            ([b"new1", none], [b"old1", b"new1"], Some(*b"new1")),
            ([b"old1", none], [b"new1", b"old1"], Some(*b"old1")),
            ([b"new1", none], [b"old1", none], None),
            ([none, none], [none, none], None),
        ] {
            assert_eq!(with(master).key_in_common(&with(backup)), key, "{master:?} {backup:?}");
        }
    }

    fn question() -> Notice {
        Notice::Question { port: NonZeroU16::new(40_000).unwrap(), token: 1 << 60, asker: 0xdead_beef }
    }

    #[test]
    fn a_question_has_a_port_to_answer_at() {
        let mut bytes = question().encode(GROUP, 0);
        assert_eq!(bytes[8..16], *b"nfvr\x01\x04\x9c\x40");
        bytes[14..16].fill(0);
        assert_eq!(Notice::decode(&bytes, GROUP), None);
    }

    #[test]
    fn notices_are_read_as_written_with_a_trailer_or_without() {
        for notice in [
            Notice::Offer { port: 8848, session: 1 << 60 },
            Notice::Begin { entries: 1_000_000 },
            Notice::End { told: 999_999, left_out: 1 },
            question(),
            Notice::Arrived(Arrival { syncid: GROUP, token: u64::MAX - 1, who: 1 << 31, lost: Some(17) }),
            Notice::Arrived(Arrival { syncid: SyncId::ANY, token: 5, who: 6, lost: None }),
        ] {
            for trailer in [0, 64] {
                let message = notice.encode(GROUP, trailer);
                assert_eq!(message.len(), 32 + trailer);
                assert_eq!(Notice::decode(&message, GROUP), Some(notice));
                assert_eq!(Notice::decode(&message, SyncId::ANY), Some(notice));
                assert_eq!(Notice::decode(&message, SyncId(8)), None, "another group's");
            }
        }
    }

    #[test]
    fn what_is_no_notice_is_not_taken_for_one() {
        let good = Notice::Begin { entries: 5 }.encode(GROUP, 0);
        for (at, what) in [
            (0, "header"),
            (3, "size"),
            (4, "count"),
            (5, "version"),
            (8, "magic"),
            (12, "version"),
            (13, "kind"),
        ] {
            let mut bad = good.clone();
            bad[at] ^= 0x40;
            assert_eq!(Notice::decode(&bad, GROUP), None, "{what}");
        }
        for length in 0..good.len() {
            let mut cut = good[..length].to_vec();
            if length >= 4 {
                cut[2..4].copy_from_slice(&(length as u16).to_be_bytes());
            }
            assert_eq!(Notice::decode(&cut, GROUP), None, "{length} bytes");
        }
        assert_eq!(Notice::decode(&[0, 7, 0, 8, 0, 1, 0, 0], GROUP), None, "a message without a record");
    }
}
