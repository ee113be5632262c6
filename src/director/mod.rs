//! The director: decides the fate of packets and keeps services, real servers and connections.
//!
//! Everything here is pure. No sockets, no clock, no randomness, no `unsafe`; the current time and the seed are
//! arguments. The only shared mutable state is the connection table's shard mutexes, the schedulers' mutexes, counters
//! that are atomics, and what only the control plane locks. Behaviour follows `net/netfilter/ipvs/` of Linux 6.12;
//! where it does not, and why, is in `docs/differences.md`.
//!
//! ```
//! use nfvs::director::{Director, Limits, Time};
//! let director = Director::new(Limits::default(), 42);
//! assert_eq!(director.next_timeout(), None);
//! # let _ = Time::ZERO;
//! ```

#![forbid(unsafe_code)]

pub mod app;
mod bypass;
mod change;
mod conn_out;
pub mod connection;
pub mod defence;
mod engine;
mod estimation;
mod feedback;
mod hairpin;
mod hasher;
mod icmp_budget;
mod icmp_scheduling;
mod marks;
mod nobody;
pub mod packet;
pub mod protocol;
pub mod scheduler;
mod scheduling;
pub mod service;
pub mod sync;
mod time;
mod trash;
mod tunnel;
mod verdict;

pub use change::{Command, CommandError, Plan, ServerSpec, ServiceSpec, SteeredService};
pub use engine::Director;
pub use hasher::TableHasher;
pub use time::Time;
pub use tunnel::{Encapsulation, Onward, Outer, Path};
pub use verdict::{DropReason, Hook, PacketMeta, Refusal, ReplySource, Route, Verdict};

/// What bounds a director.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// The largest number of connections and persistence templates together; what would need more is dropped and
    /// counted.
    pub max_connections: usize,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits { max_connections: 1 << 20 }
    }
}
