//! Authentication of messages between nfvs directors, which the protocol of IPVS does not have.
//!
//! A trailer of 64 bytes stands behind the last record. It counts in the message's size, so a receiver that does not know
//! of it, a kernel for one, ignores it. All numbers are big-endian:
//!
//! | offset | size | field |
//! |---|---|---|
//! | 0 | 4 | `nfv1` |
//! | 4 | 4 | which key: the first bytes of its SHA-256 |
//! | 8 | 8 | session: when the sender began, in microseconds since 1970 |
//! | 16 | 8 | sequence number in the session and of the port, from 1 on |
//! | 24 | 8 | when it was sent, in milliseconds since 1970 |
//! | 32 | 32 | HMAC-SHA-256 (RFC 2104) by the key of all that stands before |
//!
//! A receiver takes each sequence number once, in any order within a window of 1024 (the scheme of RFC 4303, 3.4.3), and
//! no session that began before one it has seen. What opens a session must have been sent within the last minute, so that
//! a receiver which has just begun is not fed with recordings: clocks must agree to that.

use hmac::{Hmac, KeyInit, Mac};
use sha2::{Digest, Sha256};
use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::fmt;
use std::net::IpAddr;
use std::time::Duration;

/// How long the trailer is, in bytes.
pub(super) const TRAILER: usize = 64;
const MAGIC: &[u8; 4] = b"nfv1";
const CODE: usize = 32;
/// How far apart the clocks of two directors may be, with the time that a message is on its way.
const MOST_APART: Duration = Duration::from_secs(60);
/// How many senders' ports are told apart. Only who has the key can make more.
const MOST_SENDERS: usize = 1024;

/// A secret that directors share.
#[derive(Clone, PartialEq, Eq)]
struct Key {
    id: [u8; 4],
    secret: [u8; Key::LENGTH],
}

impl Key {
    const LENGTH: usize = 32;

    fn new(secret: [u8; Key::LENGTH]) -> Key {
        let digest = Sha256::digest(secret);
        Key { id: [digest[0], digest[1], digest[2], digest[3]], secret }
    }

    fn hmac(&self, message: &[u8]) -> Hmac<Sha256> {
        let mut hmac = Hmac::<Sha256>::new_from_slice(&self.secret).expect("HMAC takes keys of any length");
        hmac.update(message);
        hmac
    }
}

/// The key itself is nobody's business.
impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d] = self.id;
        write!(f, "Key({a:02x}{b:02x}{c:02x}{d:02x})")
    }
}

/// The keys that are valid now: the first one is written with, and either is read with, so that directors can be given
/// another one after the other.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Keys(Vec<Key>);

/// What is wrong with a file of keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum WrongKeys {
    /// A line is no key. It is not shown: it may nearly be one.
    #[error("line {0} is no key; write 64 hexadecimal digits, such as `openssl rand -hex 32` prints")]
    NoKey(usize),
    /// Two keys are the same.
    #[error("line {0} has a key that is there already")]
    Twice(usize),
    /// There are none.
    #[error("there is no key in it; write 64 hexadecimal digits, such as `openssl rand -hex 32` prints")]
    None,
    /// There are too many.
    #[error("line {0} has a third key; two can be valid at a time")]
    TooMany(usize),
}

impl Keys {
    /// The keys in a file: one a line, the one to write with first. Empty lines and those that begin with `#` say nothing.
    ///
    /// # Errors
    /// What is wrong with the file.
    pub(super) fn read(text: &str) -> Result<Keys, WrongKeys> {
        let mut keys: Vec<Key> = Vec::new();
        for (number, line) in text.lines().enumerate().map(|(index, line)| (index + 1, line.trim())) {
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let key = Key::new(secret(line).ok_or(WrongKeys::NoKey(number))?);
            if keys.contains(&key) {
                return Err(WrongKeys::Twice(number));
            }
            if keys.len() == 2 {
                return Err(WrongKeys::TooMany(number));
            }
            keys.push(key);
        }
        if keys.is_empty() { Err(WrongKeys::None) } else { Ok(Keys(keys)) }
    }

    /// One alone.
    pub(super) fn of(secret: [u8; Key::LENGTH]) -> Keys {
        Keys(vec![Key::new(secret)])
    }

    /// How trailers name them; zeros: there is no second one.
    pub(super) fn ids(&self) -> [[u8; 4]; 2] {
        [0, 1].map(|at| self.0.get(at).map(|key| key.id).unwrap_or_default())
    }

    /// What only who has the key called `id` can make of what was said, for this purpose.
    pub(super) fn derive(&self, id: [u8; 4], purpose: &[u8], said: &[u8]) -> Option<[u8; Key::LENGTH]> {
        let key = self.0.iter().find(|key| key.id == id)?;
        Some(key.hmac(&[purpose, said].concat()).finalize().into_bytes().into())
    }
}

fn secret(text: &str) -> Option<[u8; Key::LENGTH]> {
    let is_hexadecimal = text.len() == 2 * Key::LENGTH && text.bytes().all(|byte| byte.is_ascii_hexdigit());
    if !is_hexadecimal {
        return None;
    }
    let mut secret = [0; Key::LENGTH];
    for (byte, digits) in secret.iter_mut().zip(0..) {
        *byte = u8::from_str_radix(text.get(2 * digits..2 * digits + 2)?, 16).ok()?;
    }
    Some(secret)
}

/// What writes trailers, for one port.
#[derive(Debug)]
pub(super) struct Sealer {
    session: u64,
    sequence: u64,
}

impl Sealer {
    /// For a session that begins `since_1970`.
    pub(super) fn new(since_1970: Duration) -> Sealer {
        Sealer { session: micros(since_1970), sequence: 0 }
    }

    /// Writes the trailer into the last bytes of a message, which has room for it.
    pub(super) fn seal(&mut self, keys: &Keys, message: &mut [u8], since_1970: Duration) {
        let key = &keys.0[0];
        self.sequence += 1;
        let end = message.len() - CODE;
        let fields = &mut message[end + CODE - TRAILER..end];
        fields[..4].copy_from_slice(MAGIC);
        fields[4..8].copy_from_slice(&key.id);
        fields[8..16].copy_from_slice(&self.session.to_be_bytes());
        fields[16..24].copy_from_slice(&self.sequence.to_be_bytes());
        fields[24..32].copy_from_slice(&millis(since_1970).to_be_bytes());
        let code = key.hmac(&message[..end]).finalize().into_bytes();
        message[end..].copy_from_slice(&code);
    }
}

/// Why a message is not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Unsealed {
    /// It has no trailer.
    NoTrailer,
    /// Its key is not one of those that are valid.
    UnknownKey,
    /// It was not made with the key, or is not as it was made.
    WrongCode,
    /// It came before.
    Replayed,
    /// It is too old to tell whether it came before.
    TooOld,
    /// It is of a session before the sender's present one.
    OldSession,
    /// It would open a session, and was not sent within the last minute; or clocks differ.
    Clock,
}

impl Unsealed {
    /// All reasons, in the order of their counters.
    pub(super) const ALL: [Unsealed; 7] = [
        Unsealed::NoTrailer,
        Unsealed::UnknownKey,
        Unsealed::WrongCode,
        Unsealed::Replayed,
        Unsealed::TooOld,
        Unsealed::OldSession,
        Unsealed::Clock,
    ];

    /// The reason's name in statistics.
    pub(super) const fn name(self) -> &'static str {
        match self {
            Unsealed::NoTrailer => "unauthenticated",
            Unsealed::UnknownKey => "unknown_key",
            Unsealed::WrongCode => "wrong_code",
            Unsealed::Replayed => "replayed",
            Unsealed::TooOld => "too_old",
            Unsealed::OldSession => "old_session",
            Unsealed::Clock => "clock",
        }
    }
}

/// What a trailer says, once it was found right.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Opened {
    /// The key it was made with, as trailers name it.
    pub key: [u8; 4],
    /// How long the message was on its way, by two clocks.
    pub lag: Duration,
    /// How many messages that were sent before it have not come, more than were known to be missing; less than none if
    /// it was one of those.
    pub lost: i64,
}

/// What reads trailers: it knows what has come.
#[derive(Debug, Default)]
pub(super) struct Opener(HashMap<(IpAddr, u16), Sender>);

/// What has come from one sender to one port.
#[derive(Debug)]
struct Sender {
    session: u64,
    window: Window,
}

impl Opener {
    /// Checks a datagram that came from an address to a port, at this time.
    ///
    /// # Errors
    /// Why it is not to be taken. Nothing has changed then.
    pub(super) fn open(
        &mut self,
        keys: &Keys,
        from: (IpAddr, u16),
        datagram: &[u8],
        since_1970: Duration,
    ) -> Result<Opened, Unsealed> {
        let Trailer { key, session, sequence, sent } = Trailer::read(keys, datagram)?;
        let now = millis(since_1970);
        let is_recent = now.abs_diff(sent) <= millis(MOST_APART);
        let lost = match self.0.entry(from) {
            Entry::Occupied(mut known) if known.get().session == session => {
                known.get_mut().window.take(sequence)?
            }
            Entry::Occupied(known) if known.get().session > session => return Err(Unsealed::OldSession),
            _ if !is_recent => return Err(Unsealed::Clock),
            Entry::Occupied(mut known) => {
                known.insert(Sender { session, window: Window::new(sequence) });
                0
            }
            Entry::Vacant(place) => {
                place.insert(Sender { session, window: Window::new(sequence) });
                if self.0.len() > MOST_SENDERS {
                    self.0.retain(|sender, _| *sender == from);
                }
                0
            }
        };
        Ok(Opened { key, lag: Duration::from_millis(now.saturating_sub(sent)), lost })
    }
}

/// What a trailer says.
struct Trailer {
    key: [u8; 4],
    session: u64,
    sequence: u64,
    sent: u64,
}

impl Trailer {
    fn read(keys: &Keys, datagram: &[u8]) -> Result<Trailer, Unsealed> {
        let end = datagram.len().checked_sub(CODE).ok_or(Unsealed::NoTrailer)?;
        let start = datagram.len().checked_sub(TRAILER).ok_or(Unsealed::NoTrailer)?;
        let (fields, code) = (&datagram[start..end], &datagram[end..]);
        if fields[..4] != *MAGIC {
            return Err(Unsealed::NoTrailer);
        }
        let key = keys.0.iter().find(|key| key.id == fields[4..8]).ok_or(Unsealed::UnknownKey)?;
        key.hmac(&datagram[..end]).verify_slice(code).map_err(|_| Unsealed::WrongCode)?;
        let [session, sequence, sent] = [8, 16, 24].map(|at| number(&fields[at..at + 8]));
        Ok(Trailer { key: key.id, session, sequence, sent })
    }
}

/// What reads the trailers of a connection that has a key of its own: every message comes, in its turn.
#[derive(Debug)]
pub(super) struct StreamOpener {
    keys: Keys,
    came: u64,
}

impl StreamOpener {
    /// Of a connection by which nothing has come.
    pub(super) fn new(keys: Keys) -> StreamOpener {
        StreamOpener { keys, came: 0 }
    }

    /// Checks the next message.
    ///
    /// # Errors
    /// Why it is not to be taken.
    pub(super) fn open(&mut self, message: &[u8]) -> Result<(), Unsealed> {
        let Trailer { sequence, .. } = Trailer::read(&self.keys, message)?;
        if sequence != self.came + 1 {
            return Err(Unsealed::Replayed);
        }
        self.came = sequence;
        Ok(())
    }
}

/// Which of the last sequence numbers have come.
#[derive(Debug)]
struct Window {
    highest: u64,
    /// A bit for each of the numbers up to the highest, by its remainder.
    came: [u64; Window::SIZE as usize / 64],
}

impl Window {
    const SIZE: u64 = 1024;

    fn new(first: u64) -> Window {
        // What came before the first that was seen is nobody's loss, and not wanted either.
        Window { highest: first, came: [u64::MAX; Window::SIZE as usize / 64] }
    }

    /// Notes a number. Returns by how many more are missing than before.
    fn take(&mut self, sequence: u64) -> Result<i64, Unsealed> {
        if sequence > self.highest {
            let ahead = sequence - self.highest;
            if ahead >= Window::SIZE {
                self.came.fill(0);
            } else {
                (self.highest + 1..sequence).for_each(|missing| self.set(missing, false));
            }
            self.set(sequence, true);
            self.highest = sequence;
            return Ok(i64::try_from(ahead - 1).unwrap_or(i64::MAX));
        }
        if self.highest - sequence >= Window::SIZE {
            return Err(Unsealed::TooOld);
        }
        if self.has(sequence) {
            return Err(Unsealed::Replayed);
        }
        self.set(sequence, true);
        Ok(-1)
    }

    fn has(&self, sequence: u64) -> bool {
        let bit = sequence % Window::SIZE;
        self.came[(bit / 64) as usize] >> (bit % 64) & 1 == 1
    }

    fn set(&mut self, sequence: u64, came: bool) {
        let bit = sequence % Window::SIZE;
        let mask = 1 << (bit % 64);
        let word = &mut self.came[(bit / 64) as usize];
        if came { *word |= mask } else { *word &= !mask }
    }
}

fn number(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0, |number, &byte| number << 8 | u64::from(byte))
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const FIRST: &str = "000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f";
    const SECOND: &str = "F0F1F2F3F4F5F6F7F8F9FAFBFCFDFEFF000102030405060708090a0b0c0d0e0f";
    const NOW: Duration = Duration::from_secs(1_700_000_000);

    fn keys(text: &str) -> Keys {
        Keys::read(text).unwrap()
    }

    fn message() -> Vec<u8> {
        let mut message = vec![7; 44];
        message.resize(44 + TRAILER, 0);
        message
    }

    fn from(last: u8) -> (IpAddr, u16) {
        ([10, 0, 9, last].into(), 8848)
    }

    /// Message number 1, 2, ... of a session, sealed.
    fn sealed(session: Duration, keys: &Keys, count: usize) -> Vec<Vec<u8>> {
        let mut sealer = Sealer::new(session);
        let seal = |_| {
            let mut message = message();
            sealer.seal(keys, &mut message, session);
            message
        };
        (0..count).map(seal).collect()
    }

    #[test]
    fn a_file_has_one_key_or_two() {
        assert_eq!(keys(FIRST).0.len(), 1);
        assert_eq!(keys(&format!("# old and new\n{SECOND}\r\n\n  {FIRST}  \n")).0.len(), 2);
        for (text, wrong) in [
            (String::new(), WrongKeys::None),
            ("# none\n".to_owned(), WrongKeys::None),
            (FIRST[1..].to_owned(), WrongKeys::NoKey(1)),
            (format!("\n+{}", &FIRST[1..]), WrongKeys::NoKey(2)),
            (format!("{FIRST}\n{}é", &FIRST[2..]), WrongKeys::NoKey(2)),
            (format!("{FIRST}\n{}", FIRST.to_uppercase()), WrongKeys::Twice(2)),
            (format!("{FIRST}\n{SECOND}\n{}", FIRST.replace('0', "9")), WrongKeys::TooMany(3)),
        ] {
            assert_eq!(Keys::read(&text), Err(wrong), "{text:?}");
        }
        assert_eq!(format!("{:?}", keys(FIRST)), "Keys([Key(630dcd29)])", "not the secret");
    }

    #[test]
    fn what_was_sealed_is_opened_once() {
        let keys = keys(FIRST);
        let mut opener = Opener::default();
        let [one, two] = <[Vec<u8>; 2]>::try_from(sealed(NOW, &keys, 2)).unwrap();
        let later = NOW + Duration::from_millis(20);
        let opened = Opened { key: keys.0[0].id, lag: Duration::from_millis(20), lost: 0 };
        assert_eq!(opener.open(&keys, from(1), &one, later), Ok(opened));
        assert_eq!(opener.open(&keys, from(1), &one, later), Err(Unsealed::Replayed));
        assert_eq!(opener.open(&keys, from(1), &two, later), Ok(opened));
        assert_eq!(one[..44], message()[..44], "the records are as they were");
        assert_eq!(one[44..48], *b"nfv1");
    }

    #[test]
    fn every_byte_counts() {
        let keys = keys(FIRST);
        let mut opener = Opener::default();
        let good = sealed(NOW, &keys, 1).remove(0);
        for at in 0..good.len() {
            let mut bad = good.clone();
            bad[at] ^= 0x10;
            let expected = match at {
                44..48 => Unsealed::NoTrailer,
                48..52 => Unsealed::UnknownKey,
                _ => Unsealed::WrongCode,
            };
            assert_eq!(opener.open(&keys, from(1), &bad, NOW), Err(expected), "byte {at}");
        }
        for len in 0..good.len() {
            assert_eq!(
                opener.open(&keys, from(1), &good[..len], NOW),
                Err(Unsealed::NoTrailer),
                "{len} bytes"
            );
        }
        assert!(opener.open(&keys, from(1), &good, NOW).is_ok(), "nothing of all that was noted");
    }

    #[test]
    fn messages_of_a_connection_come_one_after_the_other() {
        let keys = keys(FIRST);
        let messages = sealed(NOW, &keys, 3);
        let mut opener = StreamOpener::new(keys);
        assert_eq!(opener.open(&messages[1]), Err(Unsealed::Replayed), "one was left out");
        assert_eq!(opener.open(&messages[0]), Ok(()));
        assert_eq!(opener.open(&messages[0]), Err(Unsealed::Replayed));
        assert_eq!(opener.open(&messages[1][..40]), Err(Unsealed::NoTrailer));
        assert_eq!(opener.open(&messages[1]), Ok(()));
        assert_eq!(StreamOpener::new(self::keys(SECOND)).open(&messages[0]), Err(Unsealed::UnknownKey));
    }

    #[test]
    fn what_a_key_makes_of_what_was_said_is_for_one_purpose() {
        let both = keys(&format!("{FIRST}\n{SECOND}"));
        let [first, second] = both.ids();
        let one = both.derive(first, b"one", b"said");
        assert_eq!(one, keys(FIRST).derive(first, b"one", b"said"));
        assert_eq!(keys(FIRST).ids(), [first, [0; 4]]);
        for other in [
            both.derive(second, b"one", b"said"),
            both.derive(first, b"two", b"said"),
            both.derive(first, b"one", b"sad"),
        ] {
            assert!(other.is_some() && other != one);
        }
        assert_eq!(keys(FIRST).derive(second, b"one", b"said"), None);
        assert_eq!(both.derive([0; 4], b"one", b"said"), None);
    }

    #[test]
    fn two_keys_are_valid_and_others_are_not() {
        let (old, new, both) = (keys(FIRST), keys(SECOND), keys(&format!("{SECOND}\n{FIRST}")));
        let mut opener = Opener::default();
        assert!(opener.open(&both, from(1), &sealed(NOW, &old, 1)[0], NOW).is_ok());
        assert!(opener.open(&both, from(2), &sealed(NOW, &new, 1)[0], NOW).is_ok());
        assert!(opener.open(&both, from(3), &sealed(NOW, &both, 1)[0], NOW).is_ok());
        assert_eq!(opener.open(&new, from(4), &sealed(NOW, &old, 1)[0], NOW), Err(Unsealed::UnknownKey));
        assert_eq!(opener.open(&new, from(2), &sealed(NOW, &new, 1)[0], NOW), Err(Unsealed::Replayed));
    }

    #[test]
    fn order_within_the_window_does_not_matter_and_loss_is_counted() {
        let keys = keys(FIRST);
        let messages = sealed(NOW, &keys, 2_100);
        let mut opener = Opener::default();
        let mut open =
            |number: usize| opener.open(&keys, from(1), &messages[number - 1], NOW).map(|opened| opened.lost);
        assert_eq!(open(5), Ok(0), "nobody knows what was before");
        assert_eq!(open(4), Err(Unsealed::Replayed), "nor wants it");
        assert_eq!(open(9), Ok(3));
        assert_eq!(open(7), Ok(-1));
        assert_eq!(open(7), Err(Unsealed::Replayed));
        assert_eq!(open(1_031), Ok(1_021));
        assert_eq!(open(8), Ok(-1), "at the window's edge");
        assert_eq!(open(6), Err(Unsealed::TooOld));
        assert_eq!(open(1_030), Ok(-1));
        assert_eq!(open(2_100), Ok(1_068));
        assert_eq!(open(1_031), Err(Unsealed::TooOld));
        assert_eq!(open(1_077), Ok(-1), "nothing of the old window is taken for the new one's");
        assert_eq!(open(2_100), Err(Unsealed::Replayed));
    }

    #[test]
    fn a_session_is_opened_in_its_time_and_ends_the_one_before() {
        let keys = keys(FIRST);
        let minute = Duration::from_secs(60);
        let [old, new] = [NOW, NOW + minute].map(|session| sealed(session, &keys, 2));
        let mut opener = Opener::default();
        let beyond = NOW + minute + Duration::from_millis(1);
        assert_eq!(opener.open(&keys, from(1), &old[0], beyond), Err(Unsealed::Clock));
        assert_eq!(
            opener.open(&keys, from(1), &new[0], NOW - Duration::from_millis(1)),
            Err(Unsealed::Clock)
        );
        assert!(opener.open(&keys, from(1), &old[0], NOW + minute).is_ok());
        // Of an open session, age does not matter: the link may have been slow.
        assert!(opener.open(&keys, from(1), &old[1], beyond).is_ok());
        assert!(opener.open(&keys, from(1), &new[0], beyond).is_ok());
        assert_eq!(opener.open(&keys, from(1), &old[1], beyond), Err(Unsealed::OldSession));
        assert!(opener.open(&keys, from(2), &old[1], NOW + minute).is_ok(), "another sender's");
    }
}
