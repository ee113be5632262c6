//! Reloading: the configuration file is read again, and the daemon taken to what it says, whole or not at all.

use super::api::Reloaded;
use super::control::Control;
use super::service_manager::ServiceManager;
use super::sync::Wanted;
use crate::config::{self, Config};
use anyhow::Context;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::sync::Mutex;

/// How long a reload waits for the one before it, which may read from a disk that never answers.
const TURN: Duration = Duration::from_secs(20);

/// Reloads, one at a time, whoever asks for it.
#[derive(Debug)]
pub(super) struct Reloader {
    file: PathBuf,
    control: Arc<Mutex<Control>>,
    manager: Arc<ServiceManager>,
    turn: Mutex<()>,
    last_was_refused: AtomicBool,
}

impl Reloader {
    /// For the daemon that was started with `file`, an absolute path: complaints name it to people in other folders.
    pub(super) fn new(file: PathBuf, control: Arc<Mutex<Control>>, manager: Arc<ServiceManager>) -> Reloader {
        Reloader { file, control, manager, turn: Mutex::new(()), last_was_refused: AtomicBool::new(false) }
    }

    /// What the service manager shows people: what runs, and whether the file has something else.
    pub(super) fn status(&self, control: &Control) -> String {
        let refused = self.last_was_refused.load(Ordering::Relaxed);
        let note = if refused { "; the last reload was refused, see the log" } else { "" };
        control.summary() + note
    }

    /// Reads the file and makes the change. Logs what came of it, and tells the service manager.
    ///
    /// # Errors
    /// What is wrong with the file, in lines that begin with its path, or why the change was refused. The running
    /// configuration goes on then.
    pub(super) async fn reload(&self) -> anyhow::Result<Reloaded> {
        // Whoever waits keeps a place that others need.
        let _turn = tokio::time::timeout(TURN, self.turn.lock())
            .await
            .context("an earlier reload has not come to an end: it still reads the file")?;
        self.manager.reloading();
        let reloaded = self.try_reload().await;
        self.last_was_refused.store(reloaded.is_err(), Ordering::Relaxed);
        let file = self.file.display();
        match &reloaded {
            Ok(Reloaded { added, removed, changed, settings }) => {
                tracing::info!(%file, added, removed, changed, ?settings, "reloaded");
            }
            Err(error) => {
                tracing::error!(%file, "the reload was refused; what runs goes on unchanged");
                // One line an event, however many complaints there are.
                format!("{error:#}").lines().for_each(|line| tracing::error!("{line}"));
            }
        }
        self.manager.ready(self.status(&*self.control.lock().await));
        reloaded
    }

    async fn try_reload(&self) -> anyhow::Result<Reloaded> {
        let file = self.file.clone();
        // A file may be on a disk that does not answer; everything else goes on meanwhile.
        let load = move || -> anyhow::Result<(Config, Wanted)> {
            let config = config::load(&file)?;
            let sync = Wanted::load(&config)?;
            Ok((config, sync))
        };
        let (config, sync) = tokio::task::spawn_blocking(load).await??;
        let mut control = self.control.lock().await;
        control.settled().check(&config).map_err(|error| {
            let file = self.file.display();
            let lines: Vec<String> =
                error.to_string().lines().map(|line| format!("{file}: {line}")).collect();
            anyhow::anyhow!(lines.join("\n"))
        })?;
        control.reload(&config, sync)
    }
}
