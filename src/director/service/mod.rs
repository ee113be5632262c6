//! Virtual services and their real servers.

mod server;
mod stats;

pub use server::{ForwardMethod, RealServer, ServerId, Weight};
pub use stats::{Stats, StatsSnapshot};
