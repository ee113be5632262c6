//! Virtual services and their real servers.
//!
//! Workers read one immutable [`Services`] snapshot; the one door for changes (`director::change`) builds the next
//! snapshot beside it and swaps. What lives across snapshots (counters, scheduler state, real servers) is shared
//! behind `Arc`.

mod estimator;
mod key;
mod load;
mod server;
mod services;
mod settings;
mod stats;
mod tunables;
mod tunnel;

pub use estimator::Rates;
pub use key::{FTP_PORT, Family, Fwmark, ServiceKey};
pub use load::{Factor, Load, ReportedLoad};
pub use server::{ForwardMethod, Forwarding, RealServer, ServerId, Thresholds, Weight};
pub use services::{FIRST_UNPRIVILEGED_PORT, ServiceCore, Services, VirtualService};
pub use settings::{
    ClientMask, Feedback, LoadSource, OnRemove, OwnTimeouts, Persistence, PersistenceEngine, ServiceSettings,
};
pub use stats::{Stats, StatsSnapshot};
pub(crate) use tunables::tunable_table;
pub use tunables::{SyncThreshold, TunableNumber, TunableValue, Tunables};
pub use tunnel::{GueChecksum, Tunnel};
