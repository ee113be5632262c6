//! Whether messages arrive: a master asks by each of its ports, and backups that take the question answer.
//!
//! * A question is a [notice](super::resync::wire::Notice::Question), which kernels ignore. It leaves by the socket that
//!   the messages of its port leave by, sealed as they are, and is taken by a backup that takes them.
//! * An answer goes by UDP from the port that the question came to, to the address that the question came from, at the
//!   port that it names, by the same interface. It is as long as the question, and a backup sends a bounded number a
//!   second ([`answer`]), so that nobody gets more by forging questions than by sending to the victim himself.
//! * An answer to a sealed question is sealed, with a key made of the question's key and the question. So it shows that
//!   its sender has both, cannot be used again, and is no message: sent to the group it is refused.
//! * [`ask`] has the socket that answers come to, which is there while a test runs; [`tally`] counts them.

pub(super) mod answer;
pub(super) mod ask;
mod tally;

use super::resync::wire::{KeyId, Notice};
use super::seal::{Keys, Sealer, StreamOpener, Unsealed};
use super::secrets::Secrets;
use std::time::Duration;

/// What the key of answers is made for.
const PURPOSE: &[u8] = b"nfvs sync test: the backup has the question";

/// Seals an answer, which has room for a trailer, with what only who has this key and the question can make. False:
/// there is no such key.
fn seal(keys: &Keys, id: KeyId, question: &[u8], answer: &mut [u8], since_1970: Duration) -> bool {
    let derived = of_question(keys, id, question);
    derived.as_ref().inspect(|keys| Sealer::new(since_1970).seal(keys, answer, since_1970)).is_some()
}

/// Whether an answer to a question is sealed.
///
/// # Errors
/// Why it is not to be taken.
fn open(secrets: Option<&Secrets>, question: &[u8], answer: &[u8]) -> Result<bool, Unsealed> {
    let Some(Secrets { keys, required }) = secrets else { return Ok(false) };
    for keys in keys.ids().into_iter().filter_map(|id| of_question(keys, id, question)) {
        match StreamOpener::new(keys).open(answer) {
            Ok(()) => return Ok(true),
            Err(Unsealed::NoTrailer) if !required => return Ok(false),
            Err(Unsealed::UnknownKey) => {}
            Err(reason) => return Err(reason),
        }
    }
    Err(Unsealed::UnknownKey)
}

/// The key of the answers to a question, whose trailer does not count.
fn of_question(keys: &Keys, id: KeyId, question: &[u8]) -> Option<Keys> {
    Some(Keys::of(keys.derive(id, PURPOSE, question.get(..Notice::LENGTH)?)?))
}

#[cfg(test)]
mod tests;
