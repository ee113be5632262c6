//! What has a mark and finds no server goes on to where it is addressed (`cache_bypass`, `ip_vs_leave`), with a
//! connection that keeps it there: the way past caches that are all down.

use super::connection::{Handle, InboundKey, Placement, Shard};
use super::engine::Director;
use super::scheduling::Unscheduled;
use super::service::{Family, ForwardMethod, RealServer, ServerId, Services, VirtualService, Weight};
use super::{DropReason, Refusal, Time};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

/// The identity of what stands for no server; those of servers begin above.
const NOBODY: ServerId = ServerId(0);

/// What connections have that have no server: nobody, at the unspecified address of their family.
#[derive(Debug)]
pub(super) struct Bypass([Arc<RealServer>; 2]);

impl Bypass {
    pub(super) fn new() -> Bypass {
        let addresses: [IpAddr; 2] = [Ipv4Addr::UNSPECIFIED.into(), Ipv6Addr::UNSPECIFIED.into()];
        let method = ForwardMethod::Bypass;
        Bypass(addresses.map(|it| Arc::new(RealServer::new(NOBODY, it, 0, method, Weight::default()))))
    }

    fn placement(&self, family: Family) -> Placement {
        Placement { server: Arc::clone(&self.0[family as usize]), server_port: 0, controller: None }
    }
}

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
    ) -> Result<Handle, DropReason> {
        let placement = self.bypass.placement(Family::of(key.client.ip()));
        self.connect(now, shard, key, service, placement)
    }
}
