//! Weighted least connections by weights that follow what servers report, which IPVS does not have. What is made of
//! reports is said in `law.rs`.

use super::least::least_by;
use super::{Arrival, Scheduler};
use crate::director::service::RealServer;
use std::sync::Arc;

/// The eligible server with the least load, as wlc counts it, for its [effective weight](RealServer::effective_weight);
/// of several, the first in the list. Without fresh reports this is wlc.
#[derive(Debug)]
pub(super) struct Feedback;

impl Scheduler for Feedback {
    fn name(&self) -> &'static str {
        "feedback"
    }

    fn schedule(&mut self, servers: &[Arc<RealServer>], arrival: &Arrival<'_>) -> Option<Arc<RealServer>> {
        least_by(servers, RealServer::load, |server| server.effective_weight(arrival.now)).cloned()
    }
}
