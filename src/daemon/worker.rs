//! A worker: one thread that carries packets between one queue and the director.

use super::clock::Clock;
use super::queue::{Action, Decision, PacketQueue, QueueIoStats, QueuedPacket};
use super::tunnel::{self, TunnelSender};
use crate::director::packet::Rewritten;
use crate::director::{Director, Hook, Refusal, ReplySource, Time, Verdict};
use nft_rules::{ASK_AGAIN, DECIDED, MARK_MASK, REFUSE_NO_SERVER, SourceId, UNTRACK};
use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

/// How long a worker waits for packets before it looks whether it should stop.
const PATIENCE: Duration = Duration::from_millis(100);

/// A running worker.
#[derive(Debug)]
pub(super) struct Worker {
    thread: thread::JoinHandle<()>,
    shared: Arc<Shared>,
}

/// What the worker's thread shows of itself.
#[derive(Debug)]
struct Shared {
    stop: AtomicBool,
    stats: Mutex<QueueIoStats>,
    /// When it last had waited for packets and served those that came, in the clock's milliseconds.
    last_round: AtomicU64,
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
        let shared = Arc::new(Shared {
            stop: AtomicBool::new(false),
            stats: Mutex::default(),
            last_round: AtomicU64::new(clock.now().as_millis()),
        });
        let mine = Arc::clone(&shared);
        let mut tunnels = TunnelSender::new(Arc::clone(&director));
        let thread = thread::Builder::new().name(name).spawn(move || {
            // Once asked to stop, nothing steers packets here any more: an empty queue stays empty.
            while serve(queue.as_mut(), &director, &mut tunnels, clock, &mine) > 0
                || !mine.stop.load(Ordering::Relaxed)
            {
                *mine.stats.lock().unwrap_or_else(PoisonError::into_inner) = queue.stats();
            }
        })?;
        Ok(Worker { thread, shared })
    }

    /// Asks the worker to end once its queue is empty.
    pub(super) fn stop(&self) {
        self.shared.stop.store(true, Ordering::Relaxed);
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
        *self.shared.stats.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// When the worker last had waited for packets and served those that came. A worker that is well comes round at
    /// least every [`PATIENCE`], whether there are packets or not.
    pub(super) fn last_round(&self) -> Time {
        Time::from_millis(self.shared.last_round.load(Ordering::Relaxed))
    }
}

/// Serves one burst. Returns how many packets it had.
fn serve(
    queue: &mut dyn PacketQueue,
    director: &Director,
    tunnels: &mut TunnelSender,
    clock: Clock,
    shared: &Shared,
) -> usize {
    let mut now = None;
    tunnels.begin_burst();
    let served = queue.serve(PATIENCE, &mut |mut packet| {
        let now = *now.get_or_insert_with(|| clock.now());
        decide(director, tunnels, now, &mut packet)
    });
    match served {
        Ok(packets) => {
            shared.last_round.store(now.unwrap_or_else(|| clock.now()).as_millis(), Ordering::Relaxed);
            packets
        }
        Err(error) => {
            tracing::error!(%error, "a queue socket failed");
            thread::sleep(PATIENCE);
            0
        }
    }
}

fn decide(
    director: &Director,
    tunnels: &mut TunnelSender,
    now: Time,
    packet: &mut QueuedPacket<'_>,
) -> Decision {
    let with = |id: u32| Some(packet.mark & !MARK_MASK | id);
    // Behind routing no rule asks who has decided, nor clears the mark.
    let decided = with(DECIDED).filter(|_| packet.meta.hook != Hook::Late);
    match director.handle_packet(now, &packet.meta, packet.payload) {
        Verdict::Accept | Verdict::Refuse(Refusal::NotServed) => {
            Decision { action: Action::Accept, mark: decided }
        }
        Verdict::Refuse(Refusal::NoServer) => {
            Decision { action: Action::Accept, mark: with(REFUSE_NO_SERVER) }
        }
        Verdict::Forward { rewritten, source } => Decision {
            action: match rewritten.map(Rewritten::into_resized) {
                None => Action::Accept,
                Some(None) => Action::AcceptRewritten,
                Some(Some(packet)) => Action::AcceptResized(packet),
            },
            mark: source.map_or(decided, |source| with(source_mark(source))),
        },
        Verdict::Route(route) => Decision {
            action: Action::Accept,
            mark: SourceId::new(route.0).map_or(decided, |route| with(route.mark())),
        },
        Verdict::Encapsulate(encapsulation) => tunnels.send(now, &encapsulation, packet.payload, packet.mark),
        Verdict::Tell { error, goes_on } => {
            tunnels.tell(&error);
            if goes_on { tunnel::goes_on(packet.mark) } else { Decision::DROP }
        }
        Verdict::Drop(_) => Decision::DROP,
    }
}

/// What the rules know a reply source by.
fn source_mark(source: ReplySource) -> u32 {
    match source {
        ReplySource::UNTRACKED => UNTRACK,
        ReplySource::ASKED_AGAIN => ASK_AGAIN,
        ReplySource(number) => SourceId::new(number).map_or(DECIDED, SourceId::mark),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::director::Limits;
    use std::sync::mpsc;

    /// A queue whose every round waits for its result, until nobody gives one any more.
    struct Led(mpsc::Receiver<io::Result<usize>>);

    impl PacketQueue for Led {
        fn serve(
            &mut self,
            _patience: Duration,
            _decide: &mut dyn FnMut(QueuedPacket<'_>) -> Decision,
        ) -> io::Result<usize> {
            self.0.recv().unwrap_or(Ok(0))
        }

        fn resize(&mut self, _max_len: u32) -> io::Result<()> {
            Ok(())
        }

        fn stats(&self) -> QueueIoStats {
            QueueIoStats::default()
        }
    }

    #[test]
    fn a_worker_that_hangs_or_fails_does_not_come_round() {
        let clock = Clock::start();
        // A result that was sent has been taken, so what came before it is over.
        let (lead, led) = mpsc::sync_channel(0);
        let director = Arc::new(Director::new(Limits::default(), 7));
        let worker = Worker::start("led-0".to_owned(), Box::new(Led(led)), director, clock).unwrap();
        let fail = || lead.send(Err(io::Error::other("broken"))).unwrap();
        lead.send(Ok(0)).unwrap();
        fail();
        let last = worker.last_round();
        // After each failure PATIENCE passes.
        fail();
        assert_eq!(worker.last_round(), last, "it has failed once");
        fail();
        assert_eq!(worker.last_round(), last, "it has failed again and again");
        lead.send(Ok(0)).unwrap();
        lead.send(Ok(0)).unwrap();
        assert!(worker.last_round() > last + PATIENCE, "it has come round");
        worker.stop();
        drop(lead);
        assert!(worker.join());
    }
}
