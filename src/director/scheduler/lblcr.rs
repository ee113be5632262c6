//! Locality-based least connections with replication (`ip_vs_lblcr.c`): as lblc, with several servers for a
//! destination that is too much for one.

use super::cache::{Cache, is_busy};
use super::least::least;
use super::{Arrival, Scheduler};
use crate::director::Time;
use crate::director::service::{RealServer, Tunables};
use std::sync::Arc;
use std::time::Duration;

/// Of the destination's servers the one with the least load for its weight. Where that is busy while a server of the
/// service is idle, the one that [`Wlc`](super::wlc::Wlc) chooses is one of them from now on. A set that has not changed
/// for `lblcr_expiration` loses its most loaded server.
#[derive(Debug, Default)]
pub(super) struct Lblcr {
    cache: Cache<Set>,
}

/// The servers of a destination.
#[derive(Debug)]
struct Set {
    /// The one that came last stands last; the kernel, which compares in the other direction, has it first.
    members: Vec<Arc<RealServer>>,
    last_change: Time,
}

impl Set {
    /// Newest first, as the kernel walks them.
    fn iter(&self) -> impl Iterator<Item = &Arc<RealServer>> {
        self.members.iter().rev()
    }

    /// `ip_vs_dest_set_min`.
    fn least(&self) -> Option<Arc<RealServer>> {
        least(self.iter().filter(|server| server.is_available()), RealServer::load).cloned()
    }

    /// The member with the most load for its weight; of several, the newest (`ip_vs_dest_set_max`). Whether it is full
    /// or was removed does not matter.
    fn most(&self) -> Option<&Arc<RealServer>> {
        let figures =
            |server: &Arc<RealServer>| (u128::from(server.load()), u128::from(server.weight().get()));
        self.iter().filter(|server| server.weight().get() > 0).reduce(|most, next| {
            let ((most_load, most_weight), (next_load, next_weight)) = (figures(most), figures(next));
            if most_load * next_weight < next_load * most_weight { next } else { most }
        })
    }

    fn insert(&mut self, server: &Arc<RealServer>, now: Time) {
        if !self.members.iter().any(|member| Arc::ptr_eq(member, server)) {
            self.members.push(Arc::clone(server));
            self.last_change = now;
        }
    }

    /// Loses a member if it has several and was not changed for `expiration`.
    fn shrink(&mut self, now: Time, expiration: Duration) {
        if self.members.len() > 1
            && now > self.last_change + expiration
            && let Some(most) = self.most().cloned()
        {
            self.members.retain(|member| !Arc::ptr_eq(member, &most));
            self.last_change = now;
        }
    }
}

impl Scheduler for Lblcr {
    fn name(&self) -> &'static str {
        "lblcr"
    }

    fn schedule(&mut self, servers: &[Arc<RealServer>], arrival: &Arrival<'_>) -> Option<Arc<RealServer>> {
        let Arrival { now, tunables, .. } = *arrival;
        let slot = self.cache.visit(arrival.destination, now);
        let Some(set) = self.cache.get(slot) else {
            let chosen = least(servers, RealServer::load)?;
            self.cache.put(slot, now, Set { members: vec![Arc::clone(chosen)], last_change: now });
            return Some(Arc::clone(chosen));
        };
        let known = set.least();
        // It may be the known one that the set loses; this connection still goes there.
        set.shrink(now, Duration::from_secs(tunables.lblcr_expiration.into()));
        if let Some(known) = known.filter(|server| !is_busy(server, servers)) {
            return Some(known);
        }
        let chosen = least(servers, RealServer::load)?;
        set.insert(chosen, now);
        Some(Arc::clone(chosen))
    }

    fn on_tick(&mut self, now: Time, tunables: &Tunables) {
        self.cache.on_tick(now, Duration::from_secs(tunables.lblcr_expiration.into()));
    }
}
