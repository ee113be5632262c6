//! Maglev hashing (`ip_vs_mh.c`; Eisenbud et al., "Maglev: A Fast and Reliable Software Network Load Balancer", 2016).
//!
//! Each server has a permutation of the buckets, made of its address and port alone, and the servers take turns at the
//! next bucket of theirs that is free. So a server that goes leaves its buckets to the others, and few of those that
//! the others have change hands.

use super::hash::{fold, sip};
use super::{Arrival, Scheduler, greatest_common_divisor};
use crate::director::service::RealServer;
use std::sync::Arc;

/// Buckets, a prime (`CONFIG_IP_VS_MH_TAB_INDEX` 12).
pub(super) const BUCKETS: usize = 4093;
/// Bits that weights are cut to (`IP_VS_MH_TAB_BITS`).
const WEIGHT_BITS: u32 = 6;
/// The key of a bucket's number.
pub(super) const FIRST_KEY: u64 = 2_654_435_761;
/// The key of the distance to a server's next bucket.
pub(super) const SECOND_KEY: u64 = 2_654_446_892;

/// The server that the client's bucket belongs to. With `mh-fallback`, other buckets follow where that server has
/// weight 0 or is full; with `mh-port`, the client's port counts as well.
#[derive(Debug, Default)]
pub(super) struct Mh {
    /// Places in `servers`; none where no server ever had a weight.
    buckets: Vec<u16>,
    servers: Vec<Arc<RealServer>>,
}

/// What a server does in turn while the buckets are filled.
struct Taker {
    server: u16,
    /// The bucket it tries next, and how far the one after that is.
    bucket: usize,
    skip: usize,
    /// How many buckets it takes in turn, at least 1.
    share: u32,
}

impl Mh {
    /// The server of each bucket.
    #[cfg(test)]
    pub(super) fn owners(&self) -> impl Iterator<Item = &RealServer> {
        self.buckets.iter().map(|&place| &*self.servers[usize::from(place)])
    }

    fn eligible(&self, bucket: usize) -> Option<&Arc<RealServer>> {
        let server = &self.servers[usize::from(*self.buckets.get(bucket)?)];
        server.is_eligible().then_some(server)
    }
}

/// Whose each bucket is, by the servers' places; none if nobody takes any.
fn buckets(mut takers: Vec<Taker>) -> Vec<u16> {
    const FREE: u16 = u16::MAX;
    if takers.is_empty() {
        return Vec::new();
    }
    let mut buckets = vec![FREE; BUCKETS];
    let mut left = BUCKETS;
    loop {
        for taker in &mut takers {
            for _ in 0..taker.share {
                while buckets[taker.bucket] != FREE {
                    taker.bucket += taker.skip;
                    if taker.bucket >= BUCKETS {
                        taker.bucket -= BUCKETS;
                    }
                }
                buckets[taker.bucket] = taker.server;
                left -= 1;
                if left == 0 {
                    return buckets;
                }
            }
        }
    }
}

/// The servers that take buckets. Those whose weight was set to 0 keep the share they had, so that no other server's
/// clients move.
fn takers(servers: &[Arc<RealServer>]) -> Vec<Taker> {
    let weight = |server: &Arc<RealServer>| server.last_weight().get();
    let divisor = servers.iter().map(weight).fold(0, greatest_common_divisor).max(1);
    let heaviest = servers.iter().map(weight).max().unwrap_or(0) / divisor;
    let shift = (u32::BITS - heaviest.leading_zeros()).saturating_sub(WEIGHT_BITS);
    let taker = |(server, place): (&Arc<RealServer>, u16)| {
        let hashed = fold(server.address).wrapping_add(server.port.into());
        Taker {
            server: place,
            bucket: sip(hashed, FIRST_KEY) as usize % BUCKETS,
            skip: sip(hashed, SECOND_KEY) as usize % (BUCKETS - 1) + 1,
            share: ((weight(server) / divisor) >> shift).max(1),
        }
    };
    servers.iter().zip(0..).filter(|(server, _)| weight(server) > 0).map(taker).collect()
}

impl Scheduler for Mh {
    fn name(&self) -> &'static str {
        "mh"
    }

    fn schedule(&mut self, _: &[Arc<RealServer>], arrival: &Arrival<'_>) -> Option<Arc<RealServer>> {
        let hashed = arrival.hashed_port().wrapping_add(fold(arrival.client.ip()));
        let first = sip(hashed, FIRST_KEY) as usize % BUCKETS;
        let mut found = self.eligible(first);
        if found.is_none() && arrival.flags.has_fallback() && !self.buckets.is_empty() {
            found = (0..BUCKETS).find_map(|offset| {
                let added = ((offset + first) % BUCKETS) as u32;
                self.eligible(sip(hashed.wrapping_add(added), FIRST_KEY) as usize % BUCKETS)
            });
        }
        found.cloned()
    }

    fn rebuild(&mut self, servers: &[Arc<RealServer>]) {
        if servers.len() > BUCKETS {
            // Not every server would get one. The kernel leaves the table as it was, too.
            return;
        }
        self.buckets = buckets(takers(servers));
        self.servers = servers.to_vec();
    }
}
