//! The shell around the director: everything that touches the system.
//!
//! Start-up goes from what can fail for the operator's reasons (configuration, rights, another daemon) to what
//! changes the namespace, and the rules that steer packets come last, when somebody is there to decide them. The
//! end goes the other way.

pub mod api;
mod clock;
mod control;
mod control_socket;
mod netns;
mod preflight;
pub mod queue;
mod translate;
mod worker;

use crate::config::{self, Config, QueueBackend};
use crate::director::{Director, Limits};
use anyhow::Context;
use clock::Clock;
use control::{Control, ServedQueue, elements};
use control_socket::ControlSocket;
use netns::NamespaceLock;
use nft_rules::{QueuePlan, Steering, Tables};
use queue::{Backend, QueueConfig};
use std::path::PathBuf;
use std::sync::Arc;
use std::thread;
use std::time::Duration;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::Mutex;
use worker::Worker;

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
    if let Some(name) = &options.netns {
        netns::enter(name)?;
    }
    preflight::check_capabilities()?;
    let lock = NamespaceLock::take()?;
    for server in config.services.iter().flat_map(|service| &service.servers) {
        preflight::check_forwarding(server.address)?;
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(serve(options, &config, &lock))
}

async fn serve(options: &RunOptions, config: &Config, lock: &NamespaceLock) -> anyhow::Result<()> {
    // All before anything is steered, so that no signal finds us half-way.
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut hangup = signal(SignalKind::hangup())?;
    let socket = ControlSocket::bind(&options.socket)?;
    let control = start(config)?;
    let (connections, services) = (config.max_connections, config.services.len());
    tracing::info!(services, connections, socket = %options.socket.display(), "serving");

    let control = Arc::new(Mutex::new(control));
    let ticking = async {
        let mut interval = tokio::time::interval(Duration::from_secs(1));
        interval.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            interval.tick().await;
            lock.forget_callers();
            if let Err(failure) = control.lock().await.tick() {
                return failure;
            }
        }
    };
    let ended = tokio::select! {
        () = socket.serve(&control) => Ok(()),
        failure = ticking => Err(failure),
        _ = terminate.recv() => Ok(()),
        _ = interrupt.recv() => Ok(()),
        _ = hangup.recv() => Ok(()),
    };
    tracing::info!("ending");
    control.lock().await.shut_down()?;
    ended?;
    tracing::info!("ended");
    Ok(())
}

/// Opens queues, starts workers, and at last steers packets to them.
fn start(config: &Config) -> anyhow::Result<Control> {
    let clock = Clock::start();
    let director = Arc::new(Director::new(
        Limits { max_connections: config.max_connections as usize },
        seed().context("the system gives no random numbers")?,
    ));
    let plan = director.plan(&translate::config_commands(config))?;
    let wanted = elements(&plan.steering(), config.answer_ping);
    director.commit(plan);

    let target = nft_rules::probe()?;
    let cores = thread::available_parallelism().context("cannot count the cores")?;
    let queues = QueuePlan { base: config.queues.base, count: config.queues.count_for(cores) };
    let backend = match config.queues.backend {
        QueueBackend::Batched => Backend::Batched,
        QueueBackend::Nfq => Backend::Nfq,
    };
    let served = queues
        .all()
        .map(|(class, index, number)| {
            let settings = QueueConfig { max_len: config.queues.length, ..QueueConfig::new(number) };
            let queue = queue::open(backend, &settings)?;
            let name = format!("{class}-{index}");
            let worker = Worker::start(name, queue, Arc::clone(&director), clock)?;
            Ok(ServedQueue { class, number, worker })
        })
        .collect::<anyhow::Result<Vec<_>>>()?;

    let steering = Steering { queues, target };
    let tables = Tables::install(&steering, wanted)?;
    if tables.replaced_leftover() {
        tracing::warn!("replaced the rules of a daemon that had not ended in good order");
    }
    tracing::info!(steering = %target, queues = served.len(), %backend, "steering");
    Ok(Control::new(director, tables, config.answer_ping, backend, clock, served))
}

/// A number nobody outside can guess.
fn seed() -> std::io::Result<u64> {
    let mut bytes = [0; 8];
    rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty())?;
    Ok(u64::from_ne_bytes(bytes))
}
