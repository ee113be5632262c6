//! The director: decides the fate of packets and keeps services, real servers and connections.
//!
//! Everything here is pure. No sockets, no clock, no randomness, no `unsafe`; the current time and the seed are
//! arguments. The only shared mutable state is the connection table's shard mutexes, the schedulers' mutexes and
//! counters that are atomics. Behaviour follows `net/netfilter/ipvs/` of Linux 6.12; where it does not, and why, is
//! in `docs/differences.md`.
//!
//! ```
//! use nfvs::director::{Director, Limits, Time};
//! let director = Director::new(Limits::default(), 42);
//! assert_eq!(director.next_timeout(), None);
//! # let _ = Time::ZERO;
//! ```

#![forbid(unsafe_code)]

pub mod packet;
pub mod protocol;
pub mod scheduler;
pub mod service;
mod verdict;
mod time;

pub use time::Time;
pub use verdict::{DropReason, Hook, PacketMeta, Refusal, ReplySource, Verdict};
