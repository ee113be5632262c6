//! Reloading: the configuration file is read again, and the daemon taken to what it says, whole or not at all.

use super::api::Reloaded;
use super::control::Control;
use crate::config;
use std::path::PathBuf;
use std::sync::Arc;
use tokio::sync::Mutex;

/// Reloads, one at a time, whoever asks for it.
#[derive(Debug)]
pub(super) struct Reloader {
    file: PathBuf,
    control: Arc<Mutex<Control>>,
    turn: Mutex<()>,
}

impl Reloader {
    /// For the daemon that was started with `file`, an absolute path: complaints name it to people in other folders.
    pub(super) fn new(file: PathBuf, control: Arc<Mutex<Control>>) -> Reloader {
        Reloader { file, control, turn: Mutex::new(()) }
    }

    /// Reads the file and makes the change. Logs what came of it.
    ///
    /// # Errors
    /// What is wrong with the file, in lines that begin with its path, or why the change was refused. The running
    /// configuration goes on then.
    pub(super) async fn reload(&self) -> anyhow::Result<Reloaded> {
        let _turn = self.turn.lock().await;
        let reloaded = self.try_reload().await;
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
        reloaded
    }

    async fn try_reload(&self) -> anyhow::Result<Reloaded> {
        let file = self.file.clone();
        // A file may be on a disk that does not answer; everything else goes on meanwhile.
        let config = tokio::task::spawn_blocking(move || config::load(&file)).await??;
        let mut control = self.control.lock().await;
        control.settled().check(&config).map_err(|error| {
            let file = self.file.display();
            let lines: Vec<String> =
                error.to_string().lines().map(|line| format!("{file}: {line}")).collect();
            anyhow::anyhow!(lines.join("\n"))
        })?;
        control.reload(&config)
    }
}
