//! Threads of the synchronisation, away from the one that people wait for.

use std::future::Future;
use std::io;
use std::sync::Arc;
use std::thread;
use tokio::sync::Notify;

/// A thread with a runtime of its own, which waits until it is let go; dropping it ends it.
#[derive(Debug)]
pub(super) struct SyncThread {
    go: Arc<Notify>,
    stop: Stop,
    thread: Option<thread::JoinHandle<()>>,
}

/// Tells a thread to end.
#[derive(Clone, Debug, Default)]
pub(super) struct Stop(Arc<Notify>);

impl Stop {
    /// Waits until the thread is to end.
    pub(super) async fn requested(&self) {
        self.0.notified().await;
    }
}

impl SyncThread {
    /// Starts a thread that will work until it is told to [`Stop`].
    ///
    /// # Errors
    /// If the system gives no thread.
    pub(super) fn start<W, F>(name: &str, work: W) -> io::Result<SyncThread>
    where
        W: FnOnce(Stop) -> F + Send + 'static,
        F: Future<Output = io::Result<()>>,
    {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let stop = Stop::default();
        let heard = stop.clone();
        let go = Arc::new(Notify::new());
        let gone = Arc::clone(&go);
        let thread = thread::Builder::new().name(name.to_owned()).spawn(move || {
            let name = thread::current().name().unwrap_or_default().to_owned();
            let worked = runtime.block_on(async {
                tokio::select! {
                    () = gone.notified() => work(heard.clone()).await,
                    () = heard.requested() => Ok(()),
                }
            });
            if let Err(error) = worked {
                tracing::error!(thread = name, %error, "the synchronisation stands still");
            }
        })?;
        Ok(SyncThread { go, stop, thread: Some(thread) })
    }

    /// Lets it work.
    pub(super) fn go(&self) {
        self.go.notify_one();
    }
}

impl Drop for SyncThread {
    fn drop(&mut self) {
        self.stop.0.notify_one();
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("a thread of the synchronisation had failed");
        }
    }
}
