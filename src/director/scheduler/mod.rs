//! Schedulers: which real server gets a new connection.
//!
//! rr, wrr, lc and wlc choose as the kernel's do (`net/netfilter/ipvs/ip_vs_{rr,wrr,lc,wlc}.c`), down to the order of
//! ties; `random` is not in IPVS. One scheduler belongs to one service. It is told of every change to the service's
//! list of servers and refers to servers by [`ServerId`] only: a list that lags behind a change (a worker's snapshot)
//! costs at most a choice out of turn.
//!
//! Every list is **newest server first**, as the kernel keeps it. Editing a server does not move it; removing and
//! adding it again does.
//!
//! ```
//! use nfvs::director::scheduler::{SchedulerKind, build};
//! use nfvs::director::service::{ForwardMethod, RealServer, ServerId, Weight};
//! use std::{net::IpAddr, sync::Arc};
//!
//! let server = |id| {
//!     let address = IpAddr::from([10, 0, 2, id]);
//!     Arc::new(RealServer::new(ServerId(id.into()), address, 80, ForwardMethod::Nat, Weight::default()))
//! };
//! let newest_first = [server(2), server(1)];
//! let mut scheduler = build(SchedulerKind::Rr, 0);
//! scheduler.on_changed(&newest_first);
//! assert_eq!([(); 3].map(|()| scheduler.schedule(&newest_first)), [Some(0), Some(1), Some(0)]);
//! ```

mod lc;
mod random;
mod rr;
#[cfg(test)]
mod tests;
mod wlc;
mod wrr;

use super::service::{RealServer, ServerId};
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

/// Chooses real servers for the connections of one service.
pub trait Scheduler: Send + fmt::Debug {
    /// The scheduler's name, as `ipvsadm -s` takes it.
    fn name(&self) -> &'static str;

    /// The index in `servers` of the one that gets a new connection, which is not counted yet; `None`: no server may
    /// have it.
    fn schedule(&mut self, servers: &[Arc<RealServer>]) -> Option<usize>;

    /// A server was put at the head of `servers`.
    fn on_added(&mut self, _servers: &[Arc<RealServer>]) {}

    /// A server that stood at `position` left; `servers` are the remaining ones.
    fn on_removed(&mut self, _removed: ServerId, _position: usize, _servers: &[Arc<RealServer>]) {}

    /// A server was edited, even if to the same weight; or the scheduler is new and the service is not.
    fn on_changed(&mut self, _servers: &[Arc<RealServer>]) {}
}

macro_rules! scheduler_kinds {
    ($($(#[$doc:meta])* $variant:ident = $name:literal,)*) => {
        /// The schedulers there are.
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
        pub enum SchedulerKind { $($(#[$doc])* $variant,)* }

        impl SchedulerKind {
            /// All kinds.
            pub const ALL: &[SchedulerKind] = &[$(SchedulerKind::$variant,)*];

            /// The name, as `ipvsadm -s` takes it.
            pub const fn name(self) -> &'static str {
                match self { $(SchedulerKind::$variant => $name,)* }
            }
        }
    };
}

scheduler_kinds! {
    /// Round robin.
    Rr = "rr",
    /// Weighted round robin.
    Wrr = "wrr",
    /// Least connections.
    Lc = "lc",
    /// Weighted least connections, the default.
    #[default]
    Wlc = "wlc",
    /// Uniformly at random; weights only decide whether a server is eligible.
    Random = "random",
}

impl fmt::Display for SchedulerKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl FromStr for SchedulerKind {
    type Err = UnknownScheduler;

    fn from_str(name: &str) -> Result<SchedulerKind, UnknownScheduler> {
        SchedulerKind::ALL.iter().copied().find(|kind| kind.name() == name).ok_or(UnknownScheduler)
    }
}

/// No scheduler has the name given; [`SchedulerKind::ALL`] are those that exist.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("unknown scheduler")]
pub struct UnknownScheduler;

/// A scheduler for a service without servers; `seed` is for those that draw lots. For a service that has servers, call
/// [`Scheduler::on_changed`] before its first choice.
pub fn build(kind: SchedulerKind, seed: u64) -> Box<dyn Scheduler> {
    match kind {
        SchedulerKind::Rr => Box::new(rr::Rr::default()),
        SchedulerKind::Wrr => Box::new(wrr::Wrr::default()),
        SchedulerKind::Lc => Box::new(lc::Lc),
        SchedulerKind::Wlc => Box::new(wlc::Wlc),
        SchedulerKind::Random => Box::new(random::Random::new(seed)),
    }
}

/// The index after the server `last`; 0 if there is none or it is not in the list.
fn index_after(servers: &[Arc<RealServer>], last: Option<ServerId>) -> usize {
    let position = last.and_then(|last| servers.iter().position(|server| server.id == last));
    position.map_or(0, |position| position + 1)
}
