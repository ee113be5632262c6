//! The nftables rules that steer the traffic of virtual services into NFQUEUE: described as data, and applied to
//! the kernel atomically.
//!
//! * [`Steering`] is everything that never changes while the daemon runs: base chains, rules, sets. Its `Display`
//!   is nft text. `statement.rs` has the words of the rules, `steering.rs` the rules, `sets.rs` the sets.
//! * [`Elements`] is what changes: services, real servers, reply sources, routes. Computed as a whole from
//!   [`Endpoint`]s; two of them give the [`Changes`] between them.
//! * [`Tables`] is the pair of tables (`ip nfvs`, `ip6 nfvs`) in the kernel. Install, update and remove are one
//!   netlink transaction each: all of it or nothing. No other table is read or touched.
//! * [`probe`] tells which of the two ways to a queue ([`QueueTarget`]) the kernel has, [`probe_direct_routing`]
//!   whether it can send a packet to another address than the one in its header.
//! * [`QueuePlan`] and [`SourceId`] are the numbers that rules and daemon agree on.
//!
//! `docs/steering.md` tells the way of a packet through the rules and why it is this one. What is not here: the
//! queues themselves, and which packet becomes what; that is the daemon's.
//!
//! ```no_run
//! use nft_rules::{Elements, Endpoint, QueuePlan, SourceId, Steering, Tables, probe, probe_direct_routing};
//!
//! let queues = QueuePlan { base: 0, count: 2 };
//! let steering = Steering { queues, target: probe()?, direct_routing: probe_direct_routing().is_ok() };
//! let web = Endpoint {
//!     address: "10.0.0.100".parse().unwrap(),
//!     protocol: 6,
//!     port: Some(80),
//!     source: SourceId::new(1).unwrap(),
//!     servers: vec![("10.0.2.11".parse().unwrap(), Some(8080))],
//!     routes: vec![],
//!     tunnels: vec![],
//!     ftp_data: false,
//!     reads_payload: false,
//!     accepts: true,
//!     answers_ping: true,
//! };
//! let mut tables = Tables::install(&steering, Elements::from_endpoints([web]))?;
//! if tables.replaced_leftover() {
//!     eprintln!("replaced the tables of a daemon that was killed");
//! }
//! let changes = tables.update(Elements::default())?;
//! println!("removed {} elements", changes.removed.len());
//! tables.remove()?;
//! # Ok::<(), nft_rules::Error>(())
//! ```

mod compile;
mod elements;
mod error;
mod expr;
mod plan;
mod probe;
mod sets;
mod statement;
mod steering;
mod tables;
mod transaction;

pub use elements::{Changes, Elements, Endpoint, Marked};
pub use error::{Error, Options};
pub use plan::{
    ASK_AGAIN, DECIDED, MARK_MASK, PASS_BY, PacketCopy, QueueClass, QueuePlan, QueueTarget, REFUSE_NO_SERVER,
    SourceId, UNTRACK,
};
pub use probe::{probe, probe_direct_routing};
pub use steering::{Steering, TABLE};
pub use tables::{Tables, remove_leftover};
