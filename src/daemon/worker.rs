//! A worker: one thread that carries packets between one queue and the director.

use super::clock::Clock;
use super::queue::{Action, Decision, PacketQueue, QueueIoStats, QueuedPacket};
use crate::director::{Director, Refusal, Time, Verdict};
use nft_rules::{MARK_MASK, REFUSE_NO_SERVER, SourceId};
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

/// How long a worker waits for packets before it looks whether it should stop.
const PATIENCE: Duration = Duration::from_millis(100);

/// A running worker.
#[derive(Debug)]
pub(super) struct Worker {
    thread: thread::JoinHandle<()>,
    stop: Arc<AtomicBool>,
    stats: Arc<Mutex<QueueIoStats>>,
}

impl Worker {
    /// Starts a worker called `name` on `queue`.
    ///
    /// # Errors
    /// If the system gives no further thread.
    pub(super) fn start(
        name: String,
        mut queue: Box<dyn PacketQueue>,
        director: Arc<Director>,
        clock: Clock,
    ) -> io::Result<Worker> {
        let stop = Arc::new(AtomicBool::new(false));
        let stats = Arc::new(Mutex::new(QueueIoStats::default()));
        let (stopping, shared) = (Arc::clone(&stop), Arc::clone(&stats));
        let thread = thread::Builder::new().name(name).spawn(move || {
            // Once asked to stop, nothing steers packets here any more: an empty queue stays empty.
            while serve(queue.as_mut(), &director, clock) > 0 || !stopping.load(Ordering::Relaxed) {
                *shared.lock().unwrap_or_else(PoisonError::into_inner) = queue.stats();
            }
        })?;
        Ok(Worker { thread, stop, stats })
    }

    /// Asks the worker to end once its queue is empty.
    pub(super) fn stop(&self) {
        self.stop.store(true, Ordering::Relaxed);
    }

    /// Waits for the end. Returns whether the worker ended in good order.
    pub(super) fn join(self) -> bool {
        self.thread.join().is_ok()
    }

    /// Whether the thread still runs.
    pub(super) fn is_running(&self) -> bool {
        !self.thread.is_finished()
    }

    /// What the worker's queue socket has seen.
    pub(super) fn stats(&self) -> QueueIoStats {
        *self.stats.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Serves one burst. Returns how many packets it had.
fn serve(queue: &mut dyn PacketQueue, director: &Director, clock: Clock) -> usize {
    let mut now = None;
    let served = queue.serve(PATIENCE, &mut |mut packet| {
        let now = *now.get_or_insert_with(|| clock.now());
        decide(director, now, &mut packet)
    });
    served.unwrap_or_else(|error| {
        tracing::error!(%error, "a queue socket failed");
        thread::sleep(PATIENCE);
        0
    })
}

fn decide(director: &Director, now: Time, packet: &mut QueuedPacket<'_>) -> Decision {
    match director.handle_packet(now, &packet.meta, packet.payload) {
        Verdict::Accept | Verdict::Refuse(Refusal::NotServed) => {
            Decision { action: Action::Accept, mark: None }
        }
        Verdict::Refuse(Refusal::NoServer) => {
            Decision { action: Action::Accept, mark: Some(packet.mark & !MARK_MASK | REFUSE_NO_SERVER) }
        }
        Verdict::Forward { rewritten, source } => Decision {
            action: if rewritten.is_some() { Action::AcceptRewritten } else { Action::Accept },
            mark: source.and_then(|source| SourceId::new(source.0)).map(|source| source.apply(packet.mark)),
        },
        Verdict::Drop(_) => Decision::DROP,
    }
}
