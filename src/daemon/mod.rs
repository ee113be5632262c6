//! The shell around the director: everything that touches the system.
//!
//! Start-up goes from what can fail for the operator's reasons (configuration, rights, another daemon) to what
//! changes the namespace, and the rules that steer packets come last, when somebody is there to decide them. The
//! end goes the other way.

pub mod api;
mod clock;
mod control;
mod control_socket;
mod difference;
mod feedback;
mod health;
mod netns;
mod preflight;
mod prepare;
pub mod queue;
mod reload;
mod service_manager;
mod settled;
mod steering;
mod sync;
mod translate;
mod tunnel;
mod worker;

use crate::config::{self, Config};
use crate::director::{Director, Limits};
use anyhow::Context;
use clock::Clock;
use control::{Control, ServedQueue};
use control_socket::ControlSocket;
use netns::{NamedNamespace, NamespaceLock};
use nft_rules::{PacketCopy, Steering, Tables};
use queue::QueueConfig;
use reload::Reloader;
use service_manager::ServiceManager;
use settled::Settled;
use std::path::PathBuf;
use std::sync::Arc;
use std::thread;
use std::time::Duration;
use steering::SteeringWishes;
use sync::Sync;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::Mutex;
use worker::Worker;

pub use prepare::{PrepareOptions, prepare};
pub use sync::Listener;

/// What `nfvs run` was told.
#[derive(Clone, Debug)]
pub struct RunOptions {
    /// The configuration file.
    pub config: PathBuf,
    /// The network namespace; `None`: the one the process is in.
    pub netns: Option<String>,
    /// The control socket.
    pub socket: PathBuf,
}

/// Runs the daemon until it is told to end.
///
/// # Errors
/// Whatever keeps it from working, said so that an operator knows what to do.
pub fn run(options: &RunOptions) -> anyhow::Result<()> {
    let config = config::load(&options.config)?;
    let namespace = options.netns.as_deref().map(NamedNamespace::enter).transpose()?;
    preflight::check_capabilities()?;
    let lock = NamespaceLock::take()?;
    preflight::check_servers(&config.servers().map(|server| (server.address, server.forward)))?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let ended = runtime.block_on(serve(options, &config, namespace.as_ref(), &lock));
    // A file that is being read for a reload, and never will have been, keeps nobody.
    runtime.shutdown_background();
    ended
}

async fn serve(
    options: &RunOptions,
    config: &Config,
    namespace: Option<&NamedNamespace>,
    lock: &NamespaceLock,
) -> anyhow::Result<()> {
    // All before anything is steered, so that no signal finds us half-way.
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut hangup = signal(SignalKind::hangup())?;
    let file = std::path::absolute(&options.config)
        .with_context(|| format!("cannot tell where {} is", options.config.display()))?;
    let manager = Arc::new(ServiceManager::from_environment());
    let socket = ControlSocket::bind(&options.socket)?;
    let control = start(config)?;
    let (connections, services) = (config.max_connections, config.services.len());
    tracing::info!(services, connections, socket = %options.socket.display(), "serving");

    let control = Arc::new(Mutex::new(control));
    let reloader = Arc::new(Reloader::new(file, Arc::clone(&control), Arc::clone(&manager)));
    let ticking = async {
        let mut interval = tokio::time::interval(health::tick_period(manager.watchdog()));
        interval.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            interval.tick().await;
            lock.forget_callers();
            if let Err(gone) = namespace.map_or(Ok(()), NamedNamespace::check) {
                return gone.into();
            }
            let mut control = control.lock().await;
            if let Err(failure) = control.tick() {
                return failure;
            }
            manager.status(reloader.status(&control));
            if let Some(watchdog) = manager.watchdog() {
                ping_if_well(&control, health::patience(watchdog), &manager);
            }
        }
    };
    let reloading = async {
        loop {
            hangup.recv().await;
            // What came of it is in the log.
            let _ = reloader.reload().await;
        }
    };
    manager.ready(reloader.status(&*control.lock().await));
    let ended = tokio::select! {
        () = socket.serve(&control, &reloader) => Ok(()),
        () = reloading => Ok(()),
        failure = ticking => Err(failure),
        _ = terminate.recv() => Ok(()),
        _ = interrupt.recv() => Ok(()),
    };
    tracing::info!("ending");
    manager.stopping();
    control.lock().await.shut_down()?;
    ended?;
    tracing::info!("ended");
    Ok(())
}

/// Keeps the watchdog quiet, unless a worker stands still: its queue is served by nobody then.
fn ping_if_well(control: &Control, patience: Duration, manager: &ServiceManager) {
    let stalled = health::stalled(control.now(), control.last_rounds(), patience);
    for queue in &stalled {
        tracing::error!(queue, ?patience, "a worker stands still; the watchdog hears nothing");
    }
    if stalled.is_empty() {
        manager.ping();
    }
}

/// Opens queues, starts workers, and at last steers packets to them.
fn start(config: &Config) -> anyhow::Result<Control> {
    let clock = Clock::start();
    let director = Arc::new(Director::new(
        Limits { max_connections: config.max_connections as usize },
        seed().context("the system gives no random numbers")?,
    ));
    let plan = director.plan(&translate::config_commands(config))?;
    let wishes = SteeringWishes::from(config);
    let who = seed().context("the system gives no random numbers")? as u32;
    let mut sync = Sync::new(&director, clock, who);
    let prepared = sync.prepare(sync::Wanted::load(config)?, plan.services())?;
    let is_sync_master = sync.has_master_with(&prepared);
    let wanted = wishes.elements(&plan.steering(), &plan.services().tunables, is_sync_master);
    director.commit(plan);

    let target = nft_rules::probe()?;
    let direct_routing = preflight::direct_routing(config)?;
    let cores = thread::available_parallelism().context("cannot count the cores")?;
    let settled = Settled::new(config, cores);
    let served = settled
        .queues
        .all()
        .map(|(class, index, number)| {
            let kind = match class.copy() {
                PacketCopy::Whole => QueueConfig::new,
                PacketCopy::Headers => QueueConfig::deciding,
                PacketCopy::Segments => QueueConfig::by_segment,
            };
            let settings = QueueConfig { max_len: settled.queue_length, ..kind(number) };
            let queue = queue::open(settled.backend, &settings)?;
            let name = format!("{class}-{index}");
            let worker = Worker::start(name, queue, Arc::clone(&director), clock)?;
            Ok(ServedQueue { class, number, worker })
        })
        .collect::<anyhow::Result<Vec<_>>>()?;

    let steering = Steering { queues: settled.queues, target, direct_routing };
    let tables = Tables::install(&steering, wanted)?;
    if tables.replaced_leftover() {
        tracing::warn!("replaced the rules of a daemon that had not ended in good order");
    }
    tracing::info!(steering = %target, queues = served.len(), backend = %settled.backend, "steering");
    sync.commit(prepared);
    Ok(Control::new(director, tables, wishes, sync, settled, clock, served))
}

/// A number nobody outside can guess.
fn seed() -> std::io::Result<u64> {
    let mut bytes = [0; 8];
    rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty())?;
    Ok(u64::from_ne_bytes(bytes))
}
