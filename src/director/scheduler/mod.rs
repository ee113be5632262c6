//! Schedulers: which real server gets a new connection.
//!
//! They choose as the kernel's do (`net/netfilter/ipvs/ip_vs_{rr,wrr,lc,...}.c`), down to the order of ties and the bits
//! of hashes; `random`, `wrandom` and `feedback` are not in IPVS. One scheduler belongs to one service. It is told of every change
//! to the service's list of servers; a list that lags behind a change (a worker's snapshot) costs at most a choice out
//! of turn. Which one to use when is told in `docs/schedulers.md`.
//!
//! Every list is **newest server first**, as the kernel keeps it. Editing a server does not move it; removing and
//! adding it again does.
//!
//! ```
//! use nfvs::director::scheduler::{Arrival, SchedulerFlags, SchedulerKind, build};
//! use nfvs::director::service::{ForwardMethod, RealServer, ServerId, Tunables, Weight};
//! use nfvs::director::Time;
//! use std::{net::IpAddr, sync::Arc};
//!
//! let server = |id| {
//!     let address = IpAddr::from([10, 0, 2, id]);
//!     Arc::new(RealServer::new(ServerId(id.into()), address, 80, ForwardMethod::Nat, Weight::default()))
//! };
//! let newest_first = [server(2), server(1)];
//! let mut scheduler = build(SchedulerKind::Rr, 0);
//! scheduler.on_changed(&newest_first);
//! let arrival = Arrival {
//!     now: Time::ZERO,
//!     client: ([10, 0, 1, 2], 4242).into(),
//!     destination: [10, 0, 0, 100].into(),
//!     flags: SchedulerFlags::default(),
//!     tunables: &Tunables::default(),
//! };
//! let chosen = [(); 3].map(|()| scheduler.schedule(&newest_first, &arrival).expect("an eligible server").id.0);
//! assert_eq!(chosen, [2, 1, 2]);
//! ```

mod cache;
mod dh;
mod feedback;
mod fo;
mod hash;
mod kinds;
mod law;
mod lblc;
mod lblcr;
mod lc;
mod least;
mod mh;
mod nq;
mod ovf;
mod random;
mod rr;
mod sed;
mod sh;
#[cfg(test)]
mod tests;
mod twos;
mod wlc;
mod wrandom;
mod wrr;

pub use kinds::{SchedulerFlag, SchedulerFlags, SchedulerKind, UnknownScheduler};
pub(crate) use kinds::{scheduler_flag_table, scheduler_table};
pub use law::{Member, Regulation, regulate};

use super::Time;
use super::service::{RealServer, ServerId, Tunables};
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

/// Chooses real servers for the connections of one service.
pub trait Scheduler: Send + fmt::Debug {
    /// The scheduler's name, as `ipvsadm -s` takes it.
    fn name(&self) -> &'static str;

    /// The server that gets a new connection, which is not counted yet; `None`: none may have it. `servers` is the list
    /// as the caller knows it; a scheduler with a table of its own may know better.
    fn schedule(&mut self, servers: &[Arc<RealServer>], arrival: &Arrival<'_>) -> Option<Arc<RealServer>>;

    /// Makes anew what is made of the list as a whole: what any of the next three comes to, where nothing else is said.
    fn rebuild(&mut self, _servers: &[Arc<RealServer>]) {}

    /// A server was put at the head of `servers`.
    fn on_added(&mut self, servers: &[Arc<RealServer>]) {
        self.rebuild(servers);
    }

    /// A server that stood at `position` left; `servers` are the remaining ones.
    fn on_removed(&mut self, _removed: ServerId, _position: usize, servers: &[Arc<RealServer>]) {
        self.rebuild(servers);
    }

    /// A server was edited, even if to the same weight; or the scheduler is new and the service is not.
    fn on_changed(&mut self, servers: &[Arc<RealServer>]) {
        self.rebuild(servers);
    }

    /// A second has passed, or so. Only called where the [kind](SchedulerKind::forgets) says so.
    fn on_tick(&mut self, _now: Time, _tunables: &Tunables) {}
}

/// What a scheduler may go by beside the servers: the packet that makes a connection, and what was set.
#[derive(Clone, Copy, Debug)]
pub struct Arrival<'a> {
    /// When it came.
    pub now: Time,
    /// Who the connection is for, whether or not persistence counts others as the same client.
    pub client: SocketAddr,
    /// The destination in the packet's header. That is the virtual address, or what was marked; but of a packet in an
    /// ICMP error, which a server sent, the client.
    pub destination: IpAddr,
    /// The service's flags for its scheduler.
    pub flags: SchedulerFlags,
    /// The settings of the whole director.
    pub tunables: &'a Tunables,
}

impl Arrival<'_> {
    /// What is added to the client's address before that is hashed.
    fn hashed_port(&self) -> u32 {
        if self.flags.has_port() { self.client.port().into() } else { 0 }
    }
}

/// A scheduler for a service without servers; `seed` is for those that draw lots. For a service that has servers, call
/// [`Scheduler::on_changed`] before its first choice.
pub fn build(kind: SchedulerKind, seed: u64) -> Box<dyn Scheduler> {
    match kind {
        SchedulerKind::Rr => Box::new(rr::Rr::default()),
        SchedulerKind::Wrr => Box::new(wrr::Wrr::default()),
        SchedulerKind::Lc => Box::new(lc::Lc),
        SchedulerKind::Wlc => Box::new(wlc::Wlc),
        SchedulerKind::Sed => Box::new(sed::Sed),
        SchedulerKind::Nq => Box::new(nq::Nq),
        SchedulerKind::Fo => Box::new(fo::Fo),
        SchedulerKind::Ovf => Box::new(ovf::Ovf),
        SchedulerKind::Dh => Box::new(dh::Dh::default()),
        SchedulerKind::Sh => Box::new(sh::Sh::default()),
        SchedulerKind::Mh => Box::new(mh::Mh::default()),
        SchedulerKind::Lblc => Box::new(lblc::Lblc::default()),
        SchedulerKind::Lblcr => Box::new(lblcr::Lblcr::default()),
        SchedulerKind::Twos => Box::new(twos::Twos::new(seed)),
        SchedulerKind::Random => Box::new(random::Random::new(seed)),
        SchedulerKind::Wrandom => Box::new(wrandom::Wrandom::new(seed)),
        SchedulerKind::Feedback => Box::new(feedback::Feedback),
    }
}

/// How often random and wrandom draw a server before they look through all of them for one that is not full.
const DRAWS: usize = 8;

/// A server of a list, and where it stood there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Place {
    id: ServerId,
    index: usize,
}

impl Place {
    fn new(servers: &[Arc<RealServer>], index: usize) -> Place {
        Place { id: servers[index].id, index }
    }

    /// Where the server stands now. It is looked for only if that is not where it stood.
    fn find(self, servers: &[Arc<RealServer>]) -> Option<usize> {
        let is_it = |server: &Arc<RealServer>| server.id == self.id;
        if servers.get(self.index).is_some_and(is_it) {
            return Some(self.index);
        }
        servers.iter().position(is_it)
    }
}

/// The index after the server `last`; 0 if there is none or it is not in the list.
fn index_after(servers: &[Arc<RealServer>], last: Option<Place>) -> usize {
    last.and_then(|last| last.find(servers)).map_or(0, |position| position + 1)
}

/// Of 0 and a number, the number.
fn greatest_common_divisor(mut a: u32, mut b: u32) -> u32 {
    while b != 0 {
        (a, b) = (b, a % b);
    }
    a
}
