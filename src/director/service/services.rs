//! Virtual services (`struct ip_vs_service`) and the immutable snapshot that workers look them up in.

use super::{
    FTP_PORT, Family, Feedback, ForwardMethod, Fwmark, OnRemove, OwnTimeouts, RealServer, ServiceKey,
    ServiceSettings, Stats, Tunables,
};
use crate::director::defence::Defence;
use crate::director::packet::Transport;
use crate::director::protocol::{Strictness, Timeouts};
use crate::director::scheduler::{Arrival, Scheduler, SchedulerFlag, SchedulerKind};
use crate::director::{ReplySource, Route, TableHasher};
use std::collections::{HashMap, HashSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};

/// The port of FTP's data connections where the server chooses none.
const FTP_DATA_PORT: u16 = 20;
/// The first port that FTP servers choose for data connections (`net.ipv4.ip_unprivileged_port_start`).
pub const FIRST_UNPRIVILEGED_PORT: u16 = 1024;

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
    /// state only says where to go on, and tables are exchanged whole.
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
    /// What else an operator has set.
    pub settings: ServiceSettings,
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

    /// Whether it is one whose address and port are the source of every reply that no connection has: a one-packet
    /// service of UDP.
    pub fn is_one_packet(&self) -> bool {
        let is_udp = matches!(self.key(), ServiceKey::Endpoint { transport: Transport::Udp, .. });
        is_udp && self.settings.one_packet
    }

    /// Whether its servers may open connections to clients: it has a persistence engine that leads the clients' packets
    /// to them, and one endpoint for their source.
    pub fn has_conn_out(&self) -> bool {
        let is_endpoint =
            matches!(self.key(), ServiceKey::Endpoint { transport: Transport::Udp, port, .. } if port != 0);
        is_endpoint && self.settings.engine().is_some()
    }

    /// Whether data connections of FTP belong to it that no control connection was heard to announce: only
    /// persistence leads them to the right server.
    pub fn takes_ftp_data(&self) -> bool {
        self.key().is_ftp() && self.settings.persistence.is_some()
    }

    /// Where the server with this address and port stands in the list.
    pub fn position(&self, server: SocketAddr) -> Option<usize> {
        self.servers.iter().position(|s| s.address == server.ip() && s.port == server.port())
    }

    /// What is set for its scheduler.
    pub fn scheduler_flags(&self) -> impl Iterator<Item = SchedulerFlag> {
        self.settings.scheduler_flags.of(self.scheduler)
    }

    /// Where its servers' reports of load come from, if its scheduler goes by any.
    pub fn feedback(&self) -> Option<&Feedback> {
        self.settings.feedback.as_ref().filter(|_| self.scheduler == SchedulerKind::Feedback)
    }

    /// Lets the scheduler choose a server for a new connection.
    pub fn schedule(&self, arrival: &Arrival<'_>) -> Option<Arc<RealServer>> {
        self.core.with_scheduler(|scheduler| scheduler.schedule(&self.servers, arrival))
    }
}

/// Services and their servers by where the servers are.
type ByServer = HashMap<SocketAddr, (Arc<VirtualService>, Arc<RealServer>), TableHasher>;

/// Everything workers need to know of the configuration, at one moment.
#[derive(Clone, Debug)]
pub struct Services {
    by_key: HashMap<ServiceKey, Arc<VirtualService>, TableHasher>,
    /// How many services each virtual address has.
    addresses: HashMap<IpAddr, usize, TableHasher>,
    names: HashSet<String>,
    /// Where replies of one-packet services come from, and the service and server that each belongs to.
    one_packet: ByServer,
    /// The same of connections that servers open.
    conn_out: ByServer,
    /// Whether any service has timeouts of its own.
    own_timeouts: bool,
    /// The virtual addresses from which routes lead to each server.
    routed: HashMap<IpAddr, Vec<IpAddr>, TableHasher>,
    /// The routes from virtual addresses to servers.
    routes: HashMap<(IpAddr, IpAddr), Route, TableHasher>,
    /// Where servers reached by NAT are, with the protocol (of a service by mark, none), if `nat_icmp_send` asks for
    /// it.
    nat_servers: HashSet<(Option<Transport>, SocketAddr), TableHasher>,
    /// How long connections of each state last.
    pub timeouts: Timeouts,
    /// The settings of the whole director.
    pub tunables: Tunables,
    /// Which defences act.
    pub defence: Arc<Defence>,
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
            one_packet: HashMap::with_hasher(hasher.clone()),
            conn_out: HashMap::with_hasher(hasher.clone()),
            own_timeouts: false,
            routed: HashMap::with_hasher(hasher.clone()),
            routes: HashMap::with_hasher(hasher.clone()),
            nat_servers: HashSet::with_hasher(hasher.clone()),
            timeouts: Timeouts::default(),
            tunables: Tunables::default(),
            defence: Arc::default(),
            total: Arc::default(),
        }
    }

    /// The service a packet to `destination` belongs to: the exact one, else that of FTP if this may be a data
    /// connection of its clients, else the one of port 0 (`ip_vs_service_find`). Its mark, if it has one, comes first.
    pub fn find(&self, transport: Transport, destination: SocketAddr) -> Option<&Arc<VirtualService>> {
        let address = destination.ip();
        let of_port = |port| self.by_key.get(&ServiceKey::Endpoint { transport, address, port });
        let port = destination.port();
        of_port(port)
            .or_else(|| of_port(FTP_PORT).filter(|service| is_ftp_data(port) && service.takes_ftp_data()))
            .or_else(|| of_port(0))
    }

    /// What the protocols make of doubtful packets.
    pub fn strictness(&self) -> Strictness {
        self.defence.strictness(&self.tunables)
    }

    /// How long the connections of a service last.
    pub fn timeouts_of(&self, service: &ServiceCore) -> Timeouts {
        if !self.own_timeouts {
            return self.timeouts;
        }
        let own = self.by_key.get(&service.key).map(|service| service.settings.timeouts);
        own.unwrap_or_default().over(&self.timeouts)
    }

    /// Whether datagrams of the service are scheduled each for itself.
    pub fn is_one_packet(&self, service: &ServiceCore) -> bool {
        self.by_key.get(&service.key).is_some_and(|service| service.settings.one_packet)
    }

    /// What becomes of the connections of a removed server of a service. Those of a removed service are kept.
    pub fn on_remove(&self, service: &ServiceCore, transport: Transport) -> OnRemove {
        let Some(service) = self.by_key.get(&service.key) else { return OnRemove::Keep };
        service.settings.on_remove.unwrap_or(OnRemove::of(transport))
    }

    /// The one-packet service, and its server, whose reply a datagram from `source` is. Where several have the server,
    /// the first in the order of keys.
    pub fn one_packet_reply(&self, source: SocketAddr) -> Option<&(Arc<VirtualService>, Arc<RealServer>)> {
        if self.one_packet.is_empty() {
            return None;
        }
        let any_port = SocketAddr::new(source.ip(), 0);
        self.one_packet.get(&source).or_else(|| self.one_packet.get(&any_port))
    }

    /// The service, and its server at `source`, that may open connections to clients. Where several have the server,
    /// the first in the order of keys.
    pub fn conn_out(&self, source: SocketAddr) -> Option<&(Arc<VirtualService>, Arc<RealServer>)> {
        if self.conn_out.is_empty() { None } else { self.conn_out.get(&source) }
    }

    /// Whether a server reached by NAT is there, and is to be told that what it sends belongs to no connection
    /// (`ip_vs_has_real_service`).
    pub fn tells_strays(&self, transport: Transport, source: SocketAddr) -> bool {
        let has = |transport| self.nat_servers.contains(&(transport, source));
        !self.nat_servers.is_empty() && (has(Some(transport)) || has(None))
    }

    /// Brings up to date what is derived from the services, and from how packets reach their servers now.
    pub fn derive(&mut self) {
        self.own_timeouts =
            self.by_key.values().any(|service| service.settings.timeouts != OwnTimeouts::default());
        let Services { by_key, one_packet, conn_out, .. } = self;
        index_servers(one_packet, by_key.values().filter(|service| service.is_one_packet()));
        index_servers(conn_out, by_key.values().filter(|service| service.has_conn_out()));
        self.index_routes();
        self.index_nat_servers();
    }

    fn index_nat_servers(&mut self) {
        let Services { by_key, nat_servers, .. } = self;
        nat_servers.clear();
        for service in by_key.values().filter(|_| self.tunables.nat_icmp_send) {
            let transport = match service.key() {
                ServiceKey::Endpoint { transport, .. } => Some(transport),
                ServiceKey::Mark { .. } => None,
            };
            let is_nat = |server: &&Arc<RealServer>| server.forwarding().method == ForwardMethod::Nat;
            let addresses = service.servers.iter().filter(is_nat);
            nat_servers
                .extend(addresses.map(|server| (transport, SocketAddr::new(server.address, server.port))));
        }
    }

    fn index_routes(&mut self) {
        self.routed.clear();
        self.routes.clear();
        for service in self.by_key.values() {
            let ServiceKey::Endpoint { address, .. } = service.key() else { continue };
            for server in &service.servers {
                let Some(route) = server.forwarding().route else { continue };
                self.routed.entry(server.address).or_default().push(address);
                self.routes.insert((address, server.address), route);
            }
        }
        for addresses in self.routed.values_mut() {
            addresses.sort_unstable();
            addresses.dedup();
        }
    }

    /// The service of packets with this mark.
    pub fn marked(&self, mark: Fwmark, family: Family) -> Option<&Arc<VirtualService>> {
        self.by_key.get(&ServiceKey::Mark { mark, family })
    }

    /// The service with exactly this key.
    pub fn get(&self, key: &ServiceKey) -> Option<&Arc<VirtualService>> {
        self.by_key.get(key)
    }

    /// The same to be changed in this snapshot alone; key and name must stay.
    pub fn get_mut(&mut self, key: &ServiceKey) -> Option<&mut VirtualService> {
        self.by_key.get_mut(key).map(Arc::make_mut)
    }

    /// The server of the service with exactly this key.
    pub fn server(&self, key: &ServiceKey, server: SocketAddr) -> Option<&Arc<RealServer>> {
        let service = self.get(key)?;
        service.servers.get(service.position(server)?)
    }

    /// Whether any service has this virtual address.
    pub fn has_address(&self, address: IpAddr) -> bool {
        self.addresses.contains_key(&address)
    }

    /// The virtual addresses whose packets reach the server at `server` by direct routing.
    pub fn routed_to(&self, server: IpAddr) -> &[IpAddr] {
        self.routed.get(&server).map_or(&[], Vec::as_slice)
    }

    /// The route from a virtual address to a server, if a service has one.
    pub fn route(&self, from: IpAddr, to: IpAddr) -> Option<Route> {
        self.routes.get(&(from, to)).copied()
    }

    /// The service that a connection of another director belongs to (`ip_vs_service_find`): that of its mark, else that
    /// of its virtual address; of any data connection of FTP, that of FTP. `transport`: none of a template of a mark.
    pub fn find_synchronised(
        &self,
        fwmark: u32,
        transport: Option<Transport>,
        virtual_address: SocketAddr,
    ) -> Option<&Arc<VirtualService>> {
        let address = virtual_address.ip();
        let mark = u16::try_from(fwmark).ok().and_then(Fwmark::new);
        let marked = mark.and_then(|mark| self.marked(mark, Family::of(address)));
        marked.or_else(|| {
            let transport = transport?;
            let of_port = |port| self.by_key.get(&ServiceKey::Endpoint { transport, address, port });
            let is_data = transport == Transport::Tcp && is_ftp_data(virtual_address.port());
            of_port(virtual_address.port())
                .or_else(|| of_port(FTP_PORT).filter(|_| is_data))
                .or_else(|| of_port(0))
        })
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
        let is_new = self.by_key.insert(key, Arc::new(service)).is_none();
        if let ServiceKey::Endpoint { address, .. } = key
            && is_new
        {
            *self.addresses.entry(address).or_default() += 1;
        }
    }

    /// Takes a service out.
    pub fn remove(&mut self, key: &ServiceKey) -> Option<Arc<VirtualService>> {
        let removed = self.by_key.remove(key)?;
        self.names.remove(&removed.name);
        if let ServiceKey::Endpoint { address, .. } = key
            && let Some(count) = self.addresses.get_mut(address)
        {
            *count -= 1;
            if *count == 0 {
                self.addresses.remove(address);
            }
        }
        Some(removed)
    }
}

/// Whether this may be the virtual port of a data connection of FTP.
const fn is_ftp_data(port: u16) -> bool {
    port == FTP_DATA_PORT || port >= FIRST_UNPRIVILEGED_PORT
}

/// Files the servers of `services` whose packets are translated: no others come here to get the service's source.
fn index_servers<'a>(index: &mut ByServer, services: impl Iterator<Item = &'a Arc<VirtualService>>) {
    index.clear();
    let mut services: Vec<_> = services.collect();
    services.sort_unstable_by_key(|service| service.key());
    for service in services {
        let is_nat = |server: &&Arc<RealServer>| server.forwarding().method == ForwardMethod::Nat;
        for server in service.servers.iter().filter(is_nat) {
            let address = SocketAddr::new(server.address, server.port);
            index.entry(address).or_insert_with(|| (Arc::clone(service), Arc::clone(server)));
        }
    }
}
