//! Weighted overflow (`ip_vs_ovf.c`).

use super::fo::heaviest;
use super::{Arrival, Scheduler};
use crate::director::service::RealServer;
use std::sync::Arc;

/// The eligible server with the highest weight among those whose active connections are not more than their weight; of
/// several, the first in the list. A server gets one more than its weight says, as the kernel gives it.
#[derive(Debug)]
pub(super) struct Ovf;

impl Scheduler for Ovf {
    fn name(&self) -> &'static str {
        "ovf"
    }

    fn schedule(&mut self, servers: &[Arc<RealServer>], _: &Arrival<'_>) -> Option<Arc<RealServer>> {
        let has_room = |server: &&Arc<RealServer>| {
            server.is_eligible() && server.active_conns() <= server.weight().get()
        };
        heaviest(servers.iter().filter(has_room)).cloned()
    }
}
