//! The one door for changes: configuration, control socket and later `ipvsadm` all come through here.
//!
//! A change is planned against the services as they are, which finds every error before anything has changed; the
//! caller then adjusts the steering to what the plan says, and commits. Planning and committing are for one caller
//! at a time; packets are handled meanwhile.

use super::engine::Director;
use super::marks::Marks;
use super::protocol::Timeouts;
use super::scheduler::{self, SchedulerKind};
use super::service::{
    Family, ForwardMethod, Forwarding, RealServer, ServerId, ServiceCore, ServiceKey, ServiceSettings,
    Services, Stats, Thresholds, Tunables, Tunnel, VirtualService, Weight,
};
use super::trash::Trash;
use super::{ReplySource, Route, Time};
use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use thiserror::Error;

/// One change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    /// Adds a virtual service (`ipvsadm -A`) with its servers.
    AddService(ServiceSpec),
    /// Changes a service's scheduler and settings (`ipvsadm -E`). Connections and templates it has go on.
    EditService {
        /// Which service.
        service: ServiceKey,
        /// The new scheduler.
        scheduler: SchedulerKind,
        /// The new settings.
        settings: ServiceSettings,
    },
    /// Renames services, all at once: they may exchange their names. Each stands in the list once.
    RenameServices(Vec<(ServiceKey, String)>),
    /// Removes a service and its servers (`ipvsadm -D`).
    DeleteService(ServiceKey),
    /// Adds a server to a service (`ipvsadm -a`).
    AddServer(ServiceKey, ServerSpec),
    /// Changes a server's weight and thresholds, and how packets of new connections reach it (`ipvsadm -e`).
    /// Connections it has go on.
    EditServer(ServiceKey, ServerSpec),
    /// Removes a server from a service (`ipvsadm -d`).
    DeleteServer(ServiceKey, SocketAddr),
    /// Changes how long connections last (`ipvsadm --set`).
    SetTimeouts(Timeouts),
    /// Changes the settings of the whole director (`sysctl net.ipv4.vs`).
    SetTunables(Tunables),
}

/// A virtual service to be made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServiceSpec {
    /// What it is found by.
    pub key: ServiceKey,
    /// The operator's name for it.
    pub name: String,
    /// How it schedules.
    pub scheduler: SchedulerKind,
    /// What else is set for it.
    pub settings: ServiceSettings,
    /// Its servers, in the order in which they are added.
    pub servers: Vec<ServerSpec>,
}

/// A real server to be made or changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ServerSpec {
    /// Address and port; port 0: the port the client asked for.
    pub address: SocketAddr,
    /// Its weight.
    pub weight: Weight,
    /// How packets reach it.
    pub forward: ForwardMethod,
    /// How packets are wrapped, of use with [`ForwardMethod::Tunnel`].
    pub tunnel: Tunnel,
    /// How many connections it may have.
    pub thresholds: Thresholds,
}

impl ServerSpec {
    /// Has the server be as described, but for how packets of new connections reach it.
    fn settle(&self, server: &RealServer) {
        server.set_weight(self.weight);
        server.set_thresholds(self.thresholds);
        server.set_tunnel(self.tunnel);
    }
}

/// Why a change was refused. Nothing has changed then.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum CommandError {
    /// The key is taken.
    #[error("service {0} already exists")]
    ServiceExists(ServiceKey),
    /// The name is taken.
    #[error("another service is already called \"{0}\"")]
    NameExists(String),
    /// Nothing has the key.
    #[error("no such service: {0}")]
    NoSuchService(ServiceKey),
    /// The service has that server already.
    #[error("server {server} of service {service} already exists")]
    ServerExists {
        /// The service.
        service: ServiceKey,
        /// The server.
        server: SocketAddr,
    },
    /// The service has no such server.
    #[error("service {service} has no server {server}")]
    NoSuchServer {
        /// The service.
        service: ServiceKey,
        /// The server.
        server: SocketAddr,
    },
    /// More servers than the scheduler has places for.
    #[error("service {service} cannot have more than {most} servers with the scheduler {scheduler}")]
    TooManyServers {
        /// The service.
        service: ServiceKey,
        /// Its scheduler, or the one it was to get.
        scheduler: SchedulerKind,
        /// How many are possible.
        most: usize,
    },
    /// A route without a virtual address.
    #[error(
        "server {server} of service {service} cannot have \"{method}\": a route leads from an address, and a mark has none"
    )]
    RouteFromMark {
        /// The service.
        service: ServiceKey,
        /// The server.
        server: SocketAddr,
        /// How packets were to reach it.
        method: ForwardMethod,
    },
    /// More virtual endpoints and routes than numbers for them.
    #[error(
        "too many services and servers with \"dr\", \"local\" or \"tunnel\": {max} of one address family are possible \
         together"
    )]
    TooManyServices {
        /// How many are possible.
        max: usize,
    },
}

/// A virtual endpoint as steering has to know it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SteeredService {
    /// The service's key.
    pub key: ServiceKey,
    /// What the kernel writes as the source of its replies.
    pub source: ReplySource,
    /// Its servers whose packets are translated, those included that are removed and still have connections; port 0:
    /// they may answer from any.
    pub servers: Vec<SocketAddr>,
    /// Its servers reached by direct routing, as `servers`, and the routes from the service's address.
    pub routes: Vec<(IpAddr, Route)>,
    /// Its servers reached through tunnels, as `servers`. The replies of those of its own family take `routes`.
    pub tunnels: Vec<IpAddr>,
    /// Whether it takes data connections of FTP as well.
    pub ftp_data: bool,
    /// Whether what clients say is looked at.
    pub reads_payload: bool,
    /// Whether requests are taken; not once the service was deleted.
    pub accepts: bool,
}

/// A change that was found possible; see [`Director::commit`].
#[derive(Debug)]
pub struct Plan {
    services: Services,
    state: State,
    effects: Vec<Effect>,
    /// Servers that get another method, and what they get.
    forwarding: HashMap<ServerId, (Arc<RealServer>, Forwarding)>,
    marks: [Marks; 2],
}

impl Plan {
    /// What steering has to be once the plan is committed.
    pub fn steering(&self) -> Vec<SteeredService> {
        steering(&self.services, &self.state, |server| self.forwarding_of(server))
    }

    /// The services as they are once the plan is committed.
    pub fn services(&self) -> &Services {
        &self.services
    }

    /// Takes notice of all numbers that are in use.
    fn note_marks(&mut self) {
        let Plan { services, state, marks, .. } = self;
        for core in services.iter().map(|service| &service.core).chain(state.trash.services()) {
            marks[core.key.family() as usize].note_source(core.source);
        }
        let configured =
            services.iter().flat_map(|service| service.servers.iter().map(|server| (service.key(), server)));
        for (key, server) in configured.chain(state.trash.servers()) {
            if let (ServiceKey::Endpoint { address, .. }, Some(route)) = (key, server.forwarding().route) {
                marks[key.family() as usize].note_route(address, server.address, route);
            }
        }
    }

    /// How packets will reach the server.
    fn forwarding_of(&self, server: &RealServer) -> Forwarding {
        self.forwarding.get(&server.id).map_or_else(|| server.forwarding(), |&(_, planned)| planned)
    }
}

/// What planning and committing need to remember beside the snapshot.
#[derive(Debug)]
pub(super) struct Changes {
    state: Mutex<State>,
}

impl Changes {
    pub(super) fn new(seed: u64) -> Changes {
        Changes { state: Mutex::new(State { next_server: 1, seed, trash: Trash::default() }) }
    }

    /// Servers that were removed and are remembered.
    pub(super) fn removed_servers(&self) -> Vec<Arc<RealServer>> {
        self.lock().trash.servers().map(|(_, server)| Arc::clone(server)).collect()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[derive(Clone, Debug)]
struct State {
    next_server: u64,
    seed: u64,
    trash: Trash,
}

/// What a commit does to objects that packets are using.
///
/// Changes of one service that follow each other share one list: a list each would take memory by the square.
#[derive(Debug)]
enum Effect {
    /// The first `count` of `servers` are new, the first one newest.
    Added {
        core: Arc<ServiceCore>,
        servers: Vec<Arc<RealServer>>,
        count: usize,
    },
    Revived {
        server: Arc<RealServer>,
        spec: ServerSpec,
        keep_stats: bool,
    },
    /// `edits` of servers by their positions in `servers`.
    Reweighted {
        core: Arc<ServiceCore>,
        servers: Vec<Arc<RealServer>>,
        edits: Vec<(usize, ServerSpec)>,
    },
    /// Servers leave `servers` one after the other; each position counts those that are left by then.
    Removed {
        core: Arc<ServiceCore>,
        servers: Vec<Arc<RealServer>>,
        positions: Vec<usize>,
    },
    Rescheduled {
        core: Arc<ServiceCore>,
        kind: SchedulerKind,
        servers: Vec<Arc<RealServer>>,
    },
    /// A service comes back that counts from zero.
    Zeroed(Arc<Stats>),
}

impl Director {
    /// Finds out whether `commands` are possible, one after the other, all or none.
    ///
    /// # Errors
    /// The first command that is not possible.
    pub fn plan(&self, commands: &[Command]) -> Result<Plan, CommandError> {
        let mut plan = Plan {
            services: Services::clone(&self.services.load()),
            state: self.changes.lock().clone(),
            effects: Vec::new(),
            forwarding: HashMap::new(),
            marks: Default::default(),
        };
        plan.note_marks();
        for command in commands {
            plan.add(command)?;
        }
        plan.state.trash.drop_unused_services();
        Ok(plan)
    }

    /// Carries a plan out. It must be the latest one made.
    pub fn commit(&self, mut plan: Plan) {
        let mut state = self.changes.lock();
        let seed = state.seed;
        let removes = |effect: &Effect| matches!(effect, Effect::Removed { .. });
        let has_removed = plan.effects.iter().any(removes);
        for (server, forwarding) in plan.forwarding.into_values() {
            server.set_forwarding(forwarding);
        }
        plan.services.derive();
        plan.effects.into_iter().for_each(|effect| effect.apply(seed));
        *state = plan.state;
        let tuned = plan.services.tunables != self.services.load().tunables;
        self.services.store(Arc::new(plan.services));
        if tuned {
            self.defend_as_tuned();
        }
        self.has_removed.fetch_or(has_removed, Ordering::Relaxed);
    }

    /// Plans and commits.
    ///
    /// # Errors
    /// The first command that is not possible; nothing has changed then.
    pub fn apply(&self, commands: &[Command]) -> Result<(), CommandError> {
        self.plan(commands).map(|plan| self.commit(plan))
    }

    /// What steering has to be now.
    pub fn steering(&self) -> Vec<SteeredService> {
        steering(&self.services.load(), &self.changes.lock(), RealServer::forwarding)
    }

    /// Forgets removed servers and services that have had no connection and no template for two minutes. Returns
    /// whether steering changed by that.
    pub fn empty_trash(&self, now: Time) -> bool {
        self.changes.lock().trash.expire(now)
    }
}

impl Plan {
    fn add(&mut self, command: &Command) -> Result<(), CommandError> {
        match command {
            Command::AddService(spec) => self.add_service(spec),
            Command::EditService { service, scheduler, settings } => {
                self.edit_service(*service, *scheduler, settings.clone())
            }
            Command::RenameServices(names) => self.rename_services(names),
            Command::DeleteService(key) => self.delete_service(*key),
            Command::AddServer(key, spec) => self.add_server(*key, spec),
            Command::EditServer(key, spec) => self.edit_server(*key, spec),
            Command::DeleteServer(key, server) => self.delete_server(*key, *server),
            Command::SetTimeouts(timeouts) => {
                self.services.timeouts = *timeouts;
                Ok(())
            }
            Command::SetTunables(tunables) => {
                self.services.tunables = *tunables;
                Ok(())
            }
        }
    }

    fn add_service(&mut self, spec: &ServiceSpec) -> Result<(), CommandError> {
        if self.services.get(&spec.key).is_some() {
            return Err(CommandError::ServiceExists(spec.key));
        }
        if self.services.has_name(&spec.name) {
            return Err(CommandError::NameExists(spec.name.clone()));
        }
        let source = self.reply_source(spec.key)?;
        let scheduler = scheduler::build(spec.scheduler, self.state.seed ^ u64::from(source.0));
        let stats = self.service_stats(spec.key);
        let total = Arc::clone(&self.services.total);
        let core = Arc::new(ServiceCore::new(spec.key, source, scheduler, stats, total));
        let mut service = VirtualService {
            name: spec.name.clone(),
            scheduler: spec.scheduler,
            settings: spec.settings.clone(),
            servers: Vec::new(),
            core,
        };
        for server in &spec.servers {
            self.add_server_to(&mut service, server)?;
        }
        self.services.put(service);
        Ok(())
    }

    fn edit_service(
        &mut self,
        key: ServiceKey,
        scheduler: SchedulerKind,
        settings: ServiceSettings,
    ) -> Result<(), CommandError> {
        let service = self.services.get_mut(&key).ok_or(CommandError::NoSuchService(key))?;
        check_count(key, scheduler, service.servers.len())?;
        service.settings = settings;
        if service.scheduler != scheduler {
            service.scheduler = scheduler;
            self.effects.push(Effect::Rescheduled {
                core: Arc::clone(&service.core),
                kind: scheduler,
                servers: service.servers.clone(),
            });
        }
        Ok(())
    }

    fn rename_services(&mut self, names: &[(ServiceKey, String)]) -> Result<(), CommandError> {
        // All give up their names before the first takes its new one.
        let renamed = names
            .iter()
            .map(|(key, name)| Ok(VirtualService { name: name.clone(), ..self.take_service(*key)? }))
            .collect::<Result<Vec<_>, _>>()?;
        for service in renamed {
            if self.services.has_name(&service.name) {
                return Err(CommandError::NameExists(service.name));
            }
            self.services.put(service);
        }
        Ok(())
    }

    fn delete_service(&mut self, key: ServiceKey) -> Result<(), CommandError> {
        let service = Arc::clone(self.services.get(&key).ok_or(CommandError::NoSuchService(key))?);
        for server in &service.servers {
            self.delete_server(key, SocketAddr::new(server.address, server.port))?;
        }
        self.services.remove(&key);
        self.state.trash.put_service(Arc::clone(&service.core));
        Ok(())
    }

    fn add_server(&mut self, key: ServiceKey, spec: &ServerSpec) -> Result<(), CommandError> {
        let mut service = self.take_service(key)?;
        self.add_server_to(&mut service, spec)?;
        self.services.put(service);
        Ok(())
    }

    fn add_server_to(&mut self, service: &mut VirtualService, spec: &ServerSpec) -> Result<(), CommandError> {
        let key = service.key();
        if service.position(spec.address).is_some() {
            return Err(CommandError::ServerExists { service: key, server: spec.address });
        }
        check_count(key, service.scheduler, service.servers.len() + 1)?;
        let server = match self.state.trash.take_server(key, spec.address) {
            Some(trashed) => {
                self.change_forwarding(key, &trashed.server, spec.forward)?;
                let revived = Effect::Revived {
                    server: Arc::clone(&trashed.server),
                    spec: *spec,
                    keep_stats: Arc::ptr_eq(&trashed.core, &service.core),
                };
                // The scheduler is told of it with the weight it has now, so this comes before the additions.
                let additions = self.effects.pop_if(|last| last.adds_to(&service.core));
                self.effects.push(revived);
                self.effects.extend(additions);
                trashed.server
            }
            None => {
                let id = ServerId(self.state.next_server);
                self.state.next_server += 1;
                let (address, port) = (spec.address.ip(), spec.address.port());
                let server = RealServer::new(id, address, port, spec.forward, spec.weight);
                spec.settle(&server);
                let route = self.route(key, spec.address, spec.forward)?;
                server.set_forwarding(Forwarding::new(spec.forward, route));
                Arc::new(server)
            }
        };
        service.servers.insert(0, server);
        match self.effects.last_mut() {
            Some(Effect::Added { core, servers, count }) if Arc::ptr_eq(core, &service.core) => {
                servers.insert(0, Arc::clone(&service.servers[0]));
                *count += 1;
            }
            _ => self.effects.push(Effect::Added {
                core: Arc::clone(&service.core),
                servers: service.servers.clone(),
                count: 1,
            }),
        }
        Ok(())
    }

    fn edit_server(&mut self, key: ServiceKey, spec: &ServerSpec) -> Result<(), CommandError> {
        let service = self.services.get(&key).ok_or(CommandError::NoSuchService(key))?;
        let position = service
            .position(spec.address)
            .ok_or(CommandError::NoSuchServer { service: key, server: spec.address })?;
        let service = Arc::clone(service);
        self.change_forwarding(key, &service.servers[position], spec.forward)?;
        match self.effects.last_mut() {
            Some(Effect::Reweighted { core, edits, .. }) if Arc::ptr_eq(core, &service.core) => {
                edits.push((position, *spec));
            }
            _ => self.effects.push(Effect::Reweighted {
                core: Arc::clone(&service.core),
                servers: service.servers.clone(),
                edits: vec![(position, *spec)],
            }),
        }
        Ok(())
    }

    /// Has packets of new connections reach the server by `method` from the commit on.
    fn change_forwarding(
        &mut self,
        key: ServiceKey,
        server: &Arc<RealServer>,
        method: ForwardMethod,
    ) -> Result<(), CommandError> {
        let present = self.forwarding_of(server);
        if present.method != method {
            let address = SocketAddr::new(server.address, server.port);
            let route = self.route(key, address, method)?;
            self.forwarding.insert(server.id, (Arc::clone(server), present.changed(method, route)));
        }
        Ok(())
    }

    /// The route of packets from `key`'s address to the server, if they take one by `method`.
    fn route(
        &mut self,
        key: ServiceKey,
        server: SocketAddr,
        method: ForwardMethod,
    ) -> Result<Option<Route>, CommandError> {
        match (method, key) {
            (ForwardMethod::Nat | ForwardMethod::Bypass, _)
            | (ForwardMethod::Tunnel, ServiceKey::Mark { .. }) => Ok(None),
            // No address of the other family can stand in for one in a header.
            (ForwardMethod::Tunnel, _) if Family::of(server.ip()) != key.family() => Ok(None),
            (
                ForwardMethod::Dr | ForwardMethod::Local | ForwardMethod::Tunnel,
                ServiceKey::Endpoint { address, .. },
            ) => self.marks[key.family() as usize].route(address, server.ip()).map(Some),
            (ForwardMethod::Dr | ForwardMethod::Local, ServiceKey::Mark { .. }) => {
                Err(CommandError::RouteFromMark { service: key, server, method })
            }
        }
    }

    fn delete_server(&mut self, key: ServiceKey, address: SocketAddr) -> Result<(), CommandError> {
        let service = self.services.get_mut(&key).ok_or(CommandError::NoSuchService(key))?;
        let position =
            service.position(address).ok_or(CommandError::NoSuchServer { service: key, server: address })?;
        match self.effects.last_mut() {
            Some(Effect::Removed { core, positions, .. }) if Arc::ptr_eq(core, &service.core) => {
                positions.push(position);
            }
            _ => self.effects.push(Effect::Removed {
                core: Arc::clone(&service.core),
                servers: service.servers.clone(),
                positions: vec![position],
            }),
        }
        let server = service.servers.remove(position);
        self.state.trash.put_server(Arc::clone(&service.core), server);
        Ok(())
    }

    /// Takes a service out, to be put back changed. It is copied only for the plan's first change of it.
    fn take_service(&mut self, key: ServiceKey) -> Result<VirtualService, CommandError> {
        self.services.remove(&key).map(Arc::unwrap_or_clone).ok_or(CommandError::NoSuchService(key))
    }

    /// Counters for a service `key`: those of its deleted predecessor if that still has connections, which then count
    /// for the new one.
    fn service_stats(&mut self, key: ServiceKey) -> Arc<Stats> {
        let Some(predecessor) = self.state.trash.predecessor(key) else {
            return Arc::default();
        };
        let stats = Arc::clone(&predecessor.stats);
        self.effects.push(Effect::Zeroed(Arc::clone(&stats)));
        stats
    }

    /// A source number for replies of `key`: for a mark, which has no address of its own, none in particular; else that
    /// of its deleted predecessor if that still has connections, else a new one.
    fn reply_source(&mut self, key: ServiceKey) -> Result<ReplySource, CommandError> {
        if key.is_mark() {
            return Ok(ReplySource::ASKED_AGAIN);
        }
        if let Some(predecessor) = self.state.trash.predecessor(key) {
            return Ok(predecessor.source);
        }
        self.marks[key.family() as usize].source()
    }
}

impl Effect {
    fn adds_to(&self, service: &Arc<ServiceCore>) -> bool {
        matches!(self, Effect::Added { core, .. } if Arc::ptr_eq(core, service))
    }

    fn apply(self, seed: u64) {
        match self {
            Effect::Added { core, servers, count } => core.with_scheduler(|scheduler| {
                for newest in (0..count).rev() {
                    scheduler.on_added(&servers[newest..]);
                }
            }),
            Effect::Revived { server, spec, keep_stats } => {
                spec.settle(&server);
                server.reset_weight(spec.weight);
                if !keep_stats {
                    server.stats.zero();
                }
                server.set_available(true);
            }
            Effect::Reweighted { core, servers, edits } => {
                for (position, spec) in edits {
                    spec.settle(&servers[position]);
                    core.with_scheduler(|scheduler| scheduler.on_changed(&servers));
                }
            }
            Effect::Removed { core, mut servers, positions } => {
                for position in positions {
                    let server = servers.remove(position);
                    server.set_available(false);
                    core.with_scheduler(|scheduler| scheduler.on_removed(server.id, position, &servers));
                }
            }
            Effect::Rescheduled { core, kind, servers } => {
                let mut scheduler = scheduler::build(kind, seed ^ u64::from(core.source.0));
                scheduler.on_changed(&servers);
                core.set_scheduler(scheduler);
            }
            Effect::Zeroed(stats) => stats.zero(),
        }
    }
}

/// Whether a service with this scheduler can have so many servers (`ip_vs_mh_reassign`).
fn check_count(service: ServiceKey, scheduler: SchedulerKind, count: usize) -> Result<(), CommandError> {
    match scheduler.most_servers() {
        Some(most) if count > most => Err(CommandError::TooManyServers { service, scheduler, most }),
        _ => Ok(()),
    }
}

fn steering(
    services: &Services,
    state: &State,
    forwarding: impl Fn(&RealServer) -> Forwarding,
) -> Vec<SteeredService> {
    let steered = |core: &ServiceCore, service: Option<&VirtualService>| {
        let configured = service.into_iter().flat_map(|service| &service.servers);
        let any_port = core.key.has_connections_of_other_ports();
        let mut steered = SteeredService {
            key: core.key,
            source: core.source,
            servers: vec![],
            routes: vec![],
            tunnels: vec![],
            ftp_data: service.is_some_and(VirtualService::takes_ftp_data),
            reads_payload: service.is_some_and(|service| service.settings.engine().is_some()),
            accepts: service.is_some(),
        };
        for server in configured.chain(state.trash.servers_of(core.key)) {
            let Forwarding { translates, tunnels, route, .. } = forwarding(server);
            if translates {
                let port = if any_port { 0 } else { server.port };
                steered.servers.push(SocketAddr::new(server.address, port));
            }
            if tunnels {
                steered.tunnels.push(server.address);
            }
            steered.routes.extend(route.map(|route| (server.address, route)));
        }
        // Control connections are read where they are translated, and announce data connections.
        steered.ftp_data |= core.key.is_ftp() && !steered.servers.is_empty();
        steered
    };
    let retired = state.trash.services().filter(|core| services.get(&core.key).is_none());
    services
        .iter()
        .map(|service| steered(&service.core, Some(service)))
        .chain(retired.map(|core| steered(core, None)))
        .collect()
}
