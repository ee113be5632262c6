//! The control plane: every change of services goes through here, to steering and director together.

use super::api::{
    FeedbackStatus, PersistenceStatus, QueueStatus, RateStatus, Reloaded, Reply, ReportedStatus, Request,
    ServerRates, ServerStatus, ServiceName, ServiceRates, ServiceStatus, Statistics, SyncSide, Traffic,
    TrafficRates, TunablesStatus, TunnelStatus,
};
use super::clock::Clock;
use super::feedback::Reporters;
use super::queue::{QueueCounters, read_counters};
use super::settled::Settled;
use super::steering::{self, SteeringWishes};
use super::sync::{Prepared, Sync, Test as SyncTest, Wanted};
use super::worker::Worker;
use super::{difference, preflight, translate};
use crate::config::Config;
use crate::director::service::{Rates, RealServer, Services, StatsSnapshot, VirtualService};
use crate::director::{Command, Director, DropReason, ServerSpec, Time};
use anyhow::{Context, bail};
use nft_rules::{Elements, QueueClass, Tables};
use serde_json::Value;
use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

/// How long workers may take to decide what waits in their queues when the daemon ends.
const LAST_PATIENCE: Duration = Duration::from_secs(5);

const RULES_UNCHANGED: &str = "the steering rules could not be changed";

/// A worker and the queue it serves.
#[derive(Debug)]
pub(super) struct ServedQueue {
    /// What the queue carries.
    pub class: QueueClass,
    /// Its number.
    pub number: u16,
    /// Its worker.
    pub worker: Worker,
}

/// The state of a running daemon.
#[derive(Debug)]
pub(super) struct Control {
    director: Arc<Director>,
    tables: Tables,
    wishes: SteeringWishes,
    sync: Sync,
    settled: Settled,
    clock: Clock,
    queues: Vec<ServedQueue>,
    reporters: Reporters,
}

impl Control {
    /// Takes charge of a director and the tables that steer to it. Call it in the runtime.
    pub(super) fn new(
        director: Arc<Director>,
        tables: Tables,
        wishes: SteeringWishes,
        sync: Sync,
        settled: Settled,
        clock: Clock,
        queues: Vec<ServedQueue>,
    ) -> Control {
        let mut reporters = Reporters::new(Arc::clone(&director), clock);
        reporters.follow();
        Control { director, tables, wishes, sync, settled, clock, queues, reporters }
    }

    /// The director.
    pub(super) fn director(&self) -> &Arc<Director> {
        &self.director
    }

    /// The time now.
    pub(super) fn now(&self) -> Time {
        self.clock.now()
    }

    /// What was settled at the start.
    pub(super) fn settled(&self) -> &Settled {
        &self.settled
    }

    /// The queues, and when their workers last came round.
    pub(super) fn last_rounds(&self) -> impl Iterator<Item = (u16, Time)> {
        self.queues.iter().map(|queue| (queue.number, queue.worker.last_round()))
    }

    /// What is running, in a line for people.
    pub(super) fn summary(&self) -> String {
        let services = self.director.services();
        let servers: usize = services.iter().map(|service| service.servers.len()).sum();
        format!(
            "services: {}, servers: {servers}, queues: {}, steering: {}",
            services.iter().count(),
            self.queues.len(),
            self.tables.steering().target
        )
    }

    /// Answers every request but those that take their time: the one for connections, which is answered in parts, the
    /// one for a reload, which reads a file, and the one for a test of the synchronisation, which waits.
    pub(super) fn answer(&mut self, request: &Request) -> Reply {
        let answered = match request {
            Request::ShowServices {} => to_value(&self.services()),
            Request::ShowQueues {} => to_value(&self.queue_status()),
            Request::ShowStats {} => to_value(&self.statistics()),
            Request::ShowTunables {} => to_value(&self.tunables()),
            Request::ShowRates {} => to_value(&self.rates()),
            Request::ShowSync {} => to_value(&self.sync.status()),
            Request::StartSync { side, daemon } => {
                self.start_sync(*side, daemon.as_ref()).map(|()| Value::Null)
            }
            Request::StopSync { side } => {
                self.sync.prepare_stop(*side).and_then(|it| self.synchronise(it)).map(|()| Value::Null)
            }
            Request::SetSyncRole { role } => {
                self.sync.prepare_role(*role).and_then(|it| self.synchronise(it)).map(|()| Value::Null)
            }
            Request::Zero { service } => self.zero(service.as_ref()).map(|()| Value::Null),
            Request::ShowConnections {} | Request::Reload {} | Request::TestSync { .. } => Ok(Value::Null),
            change => translate::commands(change, &self.director.services())
                .and_then(|commands| self.apply(&commands, self.wishes.clone(), self.sync.configured()))
                .map(|()| Value::Null),
        };
        reply(answered)
    }

    /// Takes the daemon from what runs to `config`, whatever requests have changed since the start. What was settled
    /// at the start is not looked at.
    ///
    /// # Errors
    /// As [`apply`](Self::apply).
    pub(super) fn reload(&mut self, config: &Config, sync: Wanted) -> anyhow::Result<Reloaded> {
        let commands = difference::commands(&self.director.services(), config);
        let wishes = SteeringWishes::from(config);
        let mut beside = self.wishes.changes(&wishes);
        if self.sync.is_changed(&sync) {
            beside.push("sync");
        }
        let summary = difference::summary(&commands, &beside);
        self.apply(&commands, wishes, sync)?;
        Ok(summary)
    }

    /// Carries out all commands, steers by these wishes and synchronises like this, or does nothing at all.
    ///
    /// Steering changes first: a service that is being added is refused a moment longer, and one that is being
    /// removed is refused a moment earlier, but no reply ever leaves with a server's address.
    ///
    /// # Errors
    /// The first command that is not possible, or what the kernel refused. Nothing has changed then.
    fn apply(&mut self, commands: &[Command], wishes: SteeringWishes, sync: Wanted) -> anyhow::Result<()> {
        let servers = commands.iter().flat_map(translate::servers);
        preflight::check_servers(&servers.clone().map(|server| (server.address.ip(), server.forward)))?;
        let routed = |server: &&ServerSpec| server.forward.is_routed();
        if let Some(server) = servers.clone().find(routed).filter(|_| !self.tables.steering().direct_routing)
        {
            bail!(preflight::no_direct_routing(server.address.ip(), server.forward));
        }
        let plan = self.director.plan(commands)?;
        let prepared = self.sync.prepare(sync, plan.services())?;
        self.tables
            .update(wishes.elements(
                &plan.steering(),
                &plan.services().tunables,
                self.sync.has_master_with(&prepared),
            ))
            .context(RULES_UNCHANGED)?;
        self.director.commit(plan);
        self.sync.commit(prepared);
        self.reporters.follow();
        self.wishes = wishes;
        Ok(())
    }

    /// Synchronises as prepared, or goes on as before. The rules know first: the connections of a director that dies
    /// alone are not reset once others hear of them.
    ///
    /// # Errors
    /// What the kernel refused.
    fn synchronise(&mut self, prepared: Prepared) -> anyhow::Result<()> {
        self.tables.update(self.elements(self.sync.has_master_with(&prepared))).context(RULES_UNCHANGED)?;
        self.sync.commit(prepared);
        Ok(())
    }

    /// What the tables have to hold for the services as they are.
    fn elements(&self, is_sync_master: bool) -> Elements {
        self.wishes.elements(&self.director.steering(), &self.director.services().tunables, is_sync_master)
    }

    /// What has to be done now and then: ends connections, defends the table, estimates rates, forgets servers removed
    /// long ago, puts the rules back that a firewall's reload flushed.
    ///
    /// # Errors
    /// If a worker has ended, which leaves its queue to nobody.
    pub(super) fn tick(&mut self) -> anyhow::Result<()> {
        let now = self.clock.now();
        self.director.handle_timeout(now);
        self.director.defend(now);
        self.director.maintain_schedulers(now);
        self.director.estimate(now);
        if self.director.empty_trash(now)
            && let Err(error) = self.tables.update(self.elements(self.sync.has_master()))
        {
            tracing::warn!(%error, "the steering of removed servers could not be cleaned up");
        }
        match self.tables.repair() {
            Ok(false) => {}
            Ok(true) => tracing::warn!("somebody had removed the steering rules; they are in place again"),
            Err(error) => tracing::warn!(%error, "the steering rules cannot be looked at"),
        }
        match self.queues.iter().find(|queue| !queue.worker.is_running()) {
            Some(queue) => bail!("the worker of queue {} has failed", queue.number),
            None => Ok(()),
        }
    }

    /// Stops in good order: nothing more is steered here, what waits in the queues is decided, the tables go.
    ///
    /// # Errors
    /// If the tables could not be removed.
    pub(super) fn shut_down(&mut self) -> anyhow::Result<()> {
        // Replies that are on their way still get their source.
        let mut silent = self.director.steering();
        for service in &mut silent {
            service.accepts = false;
            service.servers.clear();
        }
        if let Err(error) = self.tables.update(steering::services(&silent, false)) {
            tracing::warn!(%error, "the replies that wait in the queues leave with their servers' addresses");
            // Queues that are still steered to might never be empty.
            self.tables.remove().context("the steering rules could not be removed")?;
        }
        self.queues.iter().for_each(|queue| queue.worker.stop());
        let deadline = self.clock.now() + LAST_PATIENCE;
        for queue in std::mem::take(&mut self.queues) {
            while queue.worker.is_running() && self.clock.now() < deadline {
                thread::sleep(Duration::from_millis(1));
            }
            if queue.worker.is_running() {
                tracing::error!(queue = queue.number, "a worker stands still, and is left behind");
            } else if !queue.worker.join() {
                tracing::error!(queue = queue.number, "a worker had failed");
            }
        }
        self.tables.remove().context("the steering rules could not be removed")
    }

    /// Sets counters and rates to zero: of the service that a request names, or of all and the total.
    fn zero(&self, service: Option<&Value>) -> anyhow::Result<()> {
        let key = service.map(translate::service_key).transpose()?;
        Ok(self.director.zero(key)?)
    }

    /// A test of the synchronisation, which can begin.
    ///
    /// # Errors
    /// Why it cannot.
    pub(super) fn sync_test(&self) -> anyhow::Result<SyncTest> {
        self.sync.prepare_test()
    }

    /// Starts a side of the synchronisation, as the request or the configuration has it.
    fn start_sync(&mut self, side: SyncSide, daemon: Option<&Value>) -> anyhow::Result<()> {
        let daemon = daemon.map(translate::sync_daemon).transpose()?;
        self.synchronise(self.sync.prepare_start(side, daemon.as_ref())?)
    }

    fn services(&self) -> Vec<ServiceStatus> {
        let now = self.now();
        let status = |service| service_status(service, now);
        sorted(&self.director.services()).into_iter().map(status).collect()
    }

    fn tunables(&self) -> TunablesStatus {
        let services = self.director.services();
        let numbers = services.tunables.numbers_now(services.defence.is_short());
        numbers.into_iter().map(|(name, number)| (name.to_owned(), number.into())).collect()
    }

    fn rates(&self) -> RateStatus {
        let services = self.director.services();
        RateStatus {
            total: traffic_rates(services.total.rates()),
            services: sorted(&services).into_iter().map(service_rates).collect(),
        }
    }

    fn statistics(&self) -> Statistics {
        let (connections, max_connections) = self.director.connection_count();
        Statistics {
            connections,
            max_connections,
            dropped_entries: self.director.dropped_entries(),
            drops: DropReason::ALL
                .iter()
                .map(|&reason| (reason.name().to_owned(), self.director.drops(reason).into()))
                .collect(),
            total: traffic(self.director.services().total.snapshot()),
            services: self.services(),
        }
    }

    fn queue_status(&self) -> Vec<QueueStatus> {
        let counters: Result<BTreeMap<u16, QueueCounters>, String> = read_counters()
            .map(|counters| counters.into_iter().map(|counters| (counters.queue, counters)).collect())
            .map_err(|error| match error.kind() {
                io::ErrorKind::PermissionDenied => {
                    "the daemon may not read the kernel's queue counters; see nfvs prepare --group".to_owned()
                }
                _ => format!("the kernel's queue counters cannot be read: {error}"),
            });
        self.queues
            .iter()
            .map(|queue| {
                let io = queue.worker.stats();
                let kernel = counters.as_ref().map_err(String::clone).and_then(|counters| {
                    counters.get(&queue.number).ok_or_else(|| "the kernel has no such queue".to_owned())
                });
                let kernel_counter =
                    |of: fn(&QueueCounters) -> u32| kernel.as_ref().ok().map(|&kernel| of(kernel));
                QueueStatus {
                    queue: queue.number,
                    class: queue.class.to_string(),
                    backend: self.settled.backend.to_string(),
                    running: queue.worker.is_running(),
                    waiting: kernel_counter(|kernel| kernel.waiting),
                    dropped: kernel_counter(|kernel| kernel.queue_dropped),
                    user_dropped: kernel_counter(|kernel| kernel.user_dropped),
                    unknown: kernel.as_ref().err().cloned(),
                    received: io.received,
                    verdicts: io.verdicts,
                    refused: io.refused,
                    lost: io.verdicts_lost + io.truncated + io.malformed,
                }
            })
            .collect()
    }
}

/// The last line of a reply.
pub(super) fn reply(answered: anyhow::Result<Value>) -> Reply {
    answered.map_or_else(|error| Reply::Error(format!("{error:#}")), Reply::Ok)
}

/// An answer as it is sent.
pub(super) fn to_value(answer: &impl serde::Serialize) -> anyhow::Result<Value> {
    serde_json::to_value(answer).context("the answer cannot be written as JSON")
}

/// Services in the order in which they are shown: by family before protocol, marks last.
fn sorted(services: &Services) -> Vec<&VirtualService> {
    let mut sorted: Vec<&VirtualService> = services.iter().map(AsRef::as_ref).collect();
    sorted.sort_by_key(|service| {
        let key = service.key();
        (key.is_mark(), key.family(), key)
    });
    sorted
}

/// A service as it is shown.
pub(super) fn service_status(service: &VirtualService, now: Time) -> ServiceStatus {
    ServiceStatus {
        name: ServiceName::from(service),
        persistence: service.settings.persistence.as_ref().map(PersistenceStatus::from),
        one_packet: service.settings.one_packet,
        on_remove: service.settings.on_remove.map(|on_remove| on_remove.to_string()),
        timeouts: (&service.settings.timeouts).into(),
        scheduler: service.scheduler.to_string(),
        scheduler_flags: service.scheduler_flags().map(|flag| flag.to_string()).collect(),
        feedback: service.feedback().map(FeedbackStatus::from),
        path: "queue".to_owned(),
        stats: traffic(service.core.stats.snapshot()),
        servers: service
            .servers
            .iter()
            .map(|server| {
                let reported = service.feedback().map(|_| ReportedStatus::of(server, now));
                ServerStatus { reported, ..server_status(server) }
            })
            .collect(),
    }
}

fn server_status(server: &RealServer) -> ServerStatus {
    ServerStatus {
        address: server.address.to_string(),
        port: server.port,
        weight: server.weight().get(),
        forward: server.forwarding().method.to_string(),
        tunnel: TunnelStatus::of(server),
        active: server.active_conns(),
        inactive: server.inactive_conns(),
        persistent: server.templates(),
        upper_threshold: server.thresholds().upper,
        lower_threshold: server.thresholds().lower,
        overloaded: server.is_overloaded(),
        health: "unchecked".to_owned(),
        reported: None,
        stats: traffic(server.stats.snapshot()),
    }
}

fn traffic(stats: StatsSnapshot) -> Traffic {
    Traffic {
        connections: stats.conns,
        in_packets: stats.in_packets,
        out_packets: stats.out_packets,
        in_bytes: stats.in_bytes,
        out_bytes: stats.out_bytes,
    }
}

fn service_rates(service: &VirtualService) -> ServiceRates {
    ServiceRates {
        name: ServiceName::from(service),
        rates: traffic_rates(service.core.stats.rates()),
        servers: service
            .servers
            .iter()
            .map(|server| ServerRates {
                address: server.address.to_string(),
                port: server.port,
                rates: traffic_rates(server.stats.rates()),
            })
            .collect(),
    }
}

fn traffic_rates(rates: Rates) -> TrafficRates {
    TrafficRates {
        connections_per_second: rates.conns,
        in_packets_per_second: rates.in_packets,
        out_packets_per_second: rates.out_packets,
        in_bytes_per_second: rates.in_bytes,
        out_bytes_per_second: rates.out_bytes,
    }
}
