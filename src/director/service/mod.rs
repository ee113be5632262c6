//! Virtual services and their real servers.
//!
//! Workers read one immutable [`Services`] snapshot; the one door for changes (`director::change`) builds the next
//! snapshot beside it and swaps. What lives across snapshots (counters, scheduler state, real servers) is shared
//! behind `Arc`.

mod estimator;
mod server;
mod services;
mod stats;

pub use estimator::Rates;
pub use server::{ForwardMethod, RealServer, ServerId, Weight};
pub use services::{ServiceCore, ServiceKey, Services, VirtualService};
pub use stats::{Stats, StatsSnapshot};
