//! Whole tables, by TCP: a backup that has begun after its master, or has lost messages, asks, and the master tells it of
//! every entry. It is between nfvs directors; a kernel knows nothing of it, and is not disturbed by it.
//!
//! * [`wire`]: a master that can be asked says so in its messages, once in a second. Whoever asks and whoever is asked
//!   exchange [hellos](wire::Hello); then the table comes, as messages, between two [notices](wire::Notice).
//! * [`stream`]: how these go over a connection. With keys that both have, each message has a trailer, as datagrams have,
//!   made with a key that only this connection has: of the shared key and what both have drawn by lot. So nothing of it
//!   can be used again, left out, or put elsewhere.
//! * [`host`] is the master's side, [`guest`] the backup's, and [`plan`] says which master is asked, and when.

pub(super) mod guest;
pub(super) mod host;
pub(super) mod plan;
pub(super) mod stream;
pub(super) mod wire;

use super::seal::Unsealed;
use std::io;
use std::time::Duration;

/// How long the other side may take to say who it is.
const HANDSHAKE: Duration = Duration::from_secs(5);
/// How long nothing may come, or go, once the table is on its way.
const STALL: Duration = Duration::from_secs(10);

/// How long all of it may take, so that nobody is kept by one who dawdles.
const WHOLE: Duration = Duration::from_secs(600);

/// Why a table has not come, or not gone, to its end.
#[derive(Debug, thiserror::Error)]
pub(super) enum Failure {
    /// The system says so.
    #[error("the connection has failed")]
    Io(#[from] io::Error),
    /// The other side has ended the connection before its time.
    #[error("the other director has ended it")]
    Ended,
    /// Nothing has come, or gone, for too long.
    #[error("the other director has fallen silent")]
    Silent,
    /// It has taken too long.
    #[error("it has taken longer than {} s", WHOLE.as_secs())]
    Slow,
    /// The other side speaks something else.
    #[error("what came is not of this protocol")]
    Garbage,
    /// There is no key that both have.
    #[error("the other director has none of the keys here")]
    NoKey,
    /// What came was not made with the key.
    #[error("what came is not made with the key: {}", .0.name())]
    Unsealed(Unsealed),
    /// The other side does not want to.
    #[error("the other director refuses: {0}")]
    Refused(wire::Answer),
    /// The end came too soon.
    #[error("{told} records were told of, and {came} came")]
    Incomplete {
        /// How many there are.
        told: u64,
        /// How many have come.
        came: u64,
    },
}

impl Failure {
    /// The failure's name in statistics.
    pub(super) const fn name(&self) -> &'static str {
        match self {
            Failure::Io(_) => "io",
            Failure::Ended => "ended",
            Failure::Silent => "silent",
            Failure::Slow => "slow",
            Failure::Garbage => "garbage",
            Failure::NoKey => "no_key",
            Failure::Unsealed(_) => "unauthenticated",
            Failure::Refused(_) => "refused",
            Failure::Incomplete { .. } => "incomplete",
        }
    }
}

#[cfg(test)]
mod tests;
