//! What has a mark and finds no server goes on to where it is addressed (`cache_bypass`, `ip_vs_leave`), with a
//! connection that keeps it there: the way past caches that are all down.

use super::connection::{Handle, InboundKey, Placement, Shard};
use super::engine::Director;
use super::scheduling::Unscheduled;
use super::service::{Family, Fwmark, Services, VirtualService};
use super::{DropReason, Refusal, Time};

/// Whether a packet of `service` goes on by itself if it cannot be scheduled for this reason.
pub(super) fn is_passed(services: &Services, service: &VirtualService, reason: Unscheduled) -> bool {
    let has_no_server = reason == Unscheduled::Refused(Refusal::NoServer);
    services.tunables.cache_bypass && service.key().is_mark() && has_no_server
}

impl Director {
    /// Makes the connection of a packet that goes on by itself.
    pub(super) fn pass(
        &self,
        now: Time,
        shard: &mut Shard,
        key: &InboundKey,
        service: &VirtualService,
        mark: Option<Fwmark>,
    ) -> Result<Handle, DropReason> {
        let server = self.nobody.anywhere(Family::of(key.client.ip()));
        let fwmark = Fwmark::number_of(mark);
        let placement = Placement { server, server_port: 0, controller: None, fwmark };
        self.connect(now, shard, key, service, placement)
    }
}
