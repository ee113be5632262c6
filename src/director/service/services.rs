//! Virtual services (`struct ip_vs_service`) and the immutable snapshot that workers look them up in.

use super::{RealServer, Stats};
use crate::director::packet::Transport;
use crate::director::protocol::{Strictness, Timeouts};
use crate::director::scheduler::{Scheduler, SchedulerKind};
use crate::director::{ReplySource, TableHasher};
use std::collections::{HashMap, HashSet};
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};

/// What a virtual service is found by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ServiceKey {
    /// The protocol.
    pub transport: Transport,
    /// The virtual IP.
    pub address: IpAddr,
    /// The port; 0: every port that no other service of the address has.
    pub port: u16,
}

impl fmt::Display for ServiceKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.transport, SocketAddr::new(self.address, self.port))
    }
}

/// The part of a virtual service that outlives edits, and the service itself while connections refer to it.
#[derive(Debug)]
pub struct ServiceCore {
    /// The key the service was made with.
    pub key: ServiceKey,
    /// What the kernel writes as the source of the service's replies.
    pub source: ReplySource,
    /// Traffic counters. A service that was deleted and comes back has those of its connections, from zero.
    pub stats: Arc<Stats>,
    /// The counters of all services together.
    pub total: Arc<Stats>,
    scheduler: Mutex<Box<dyn Scheduler>>,
}

impl ServiceCore {
    /// A service that schedules with `scheduler`, and counts into `stats` and `total`.
    pub fn new(
        key: ServiceKey,
        source: ReplySource,
        scheduler: Box<dyn Scheduler>,
        stats: Arc<Stats>,
        total: Arc<Stats>,
    ) -> ServiceCore {
        ServiceCore { key, source, stats, total, scheduler: Mutex::new(scheduler) }
    }

    /// Runs `f` on the scheduler, alone. A panic in an earlier `f` leaves a scheduler that is still usable: its
    /// state only says where to go on.
    pub fn with_scheduler<R>(&self, f: impl FnOnce(&mut dyn Scheduler) -> R) -> R {
        f(self.scheduler.lock().unwrap_or_else(PoisonError::into_inner).as_mut())
    }

    /// Replaces the scheduler.
    pub fn set_scheduler(&self, scheduler: Box<dyn Scheduler>) {
        *self.scheduler.lock().unwrap_or_else(PoisonError::into_inner) = scheduler;
    }
}

/// A virtual service as one snapshot sees it.
#[derive(Clone, Debug)]
pub struct VirtualService {
    /// The operator's name for it.
    pub name: String,
    /// How it schedules.
    pub scheduler: SchedulerKind,
    /// Its real servers, newest first (the kernel's order, which schedulers walk).
    pub servers: Vec<Arc<RealServer>>,
    /// What outlives edits.
    pub core: Arc<ServiceCore>,
}

impl VirtualService {
    /// The service's key.
    pub fn key(&self) -> ServiceKey {
        self.core.key
    }

    /// Where the server with this address and port stands in the list.
    pub fn position(&self, server: SocketAddr) -> Option<usize> {
        self.servers.iter().position(|s| s.address == server.ip() && s.port == server.port())
    }

    /// Lets the scheduler choose a server for a new connection.
    pub fn schedule(&self) -> Option<&Arc<RealServer>> {
        let chosen = self.core.with_scheduler(|scheduler| scheduler.schedule(&self.servers))?;
        self.servers.get(chosen)
    }
}

/// Everything workers need to know of the configuration, at one moment.
#[derive(Clone, Debug)]
pub struct Services {
    by_key: HashMap<ServiceKey, Arc<VirtualService>, TableHasher>,
    /// How many services each virtual address has.
    addresses: HashMap<IpAddr, usize, TableHasher>,
    names: HashSet<String>,
    /// How long connections of each state last.
    pub timeouts: Timeouts,
    /// What the protocols make of doubtful packets.
    pub strictness: Strictness,
    /// The counters of all services together, those included that were deleted (`tot_stats`).
    pub total: Arc<Stats>,
}

impl Services {
    /// No service at all.
    pub fn empty(hasher: &TableHasher) -> Services {
        Services {
            by_key: HashMap::with_hasher(hasher.clone()),
            addresses: HashMap::with_hasher(hasher.clone()),
            names: HashSet::new(),
            timeouts: Timeouts::default(),
            strictness: Strictness::default(),
            total: Arc::default(),
        }
    }

    /// The service a packet to `destination` belongs to: the exact one, else the one of port 0.
    pub fn find(&self, transport: Transport, destination: SocketAddr) -> Option<&Arc<VirtualService>> {
        let exact = ServiceKey { transport, address: destination.ip(), port: destination.port() };
        self.by_key.get(&exact).or_else(|| self.by_key.get(&ServiceKey { port: 0, ..exact }))
    }

    /// The service with exactly this key.
    pub fn get(&self, key: &ServiceKey) -> Option<&Arc<VirtualService>> {
        self.by_key.get(key)
    }

    /// The same to be changed in this snapshot alone; key and name must stay.
    pub fn get_mut(&mut self, key: &ServiceKey) -> Option<&mut VirtualService> {
        self.by_key.get_mut(key).map(Arc::make_mut)
    }

    /// Whether any service has this virtual address.
    pub fn has_address(&self, address: IpAddr) -> bool {
        self.addresses.contains_key(&address)
    }

    /// All services, in no particular order.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<VirtualService>> {
        self.by_key.values()
    }

    /// Whether any service is called that.
    pub fn has_name(&self, name: &str) -> bool {
        self.names.contains(name)
    }

    /// Adds a service, or replaces the one of the same key and name.
    pub fn put(&mut self, service: VirtualService) {
        let key = service.key();
        self.names.insert(service.name.clone());
        if self.by_key.insert(key, Arc::new(service)).is_none() {
            *self.addresses.entry(key.address).or_default() += 1;
        }
    }

    /// Takes a service out.
    pub fn remove(&mut self, key: &ServiceKey) -> Option<Arc<VirtualService>> {
        let removed = self.by_key.remove(key)?;
        self.names.remove(&removed.name);
        if let Some(count) = self.addresses.get_mut(&key.address) {
            *count -= 1;
            if *count == 0 {
                self.addresses.remove(&key.address);
            }
        }
        Some(removed)
    }
}
