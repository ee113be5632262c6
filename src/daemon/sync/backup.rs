//! Takes in what other directors tell (`sync_thread_backup` of `net/netfilter/ipvs/ip_vs_sync.c`).

use super::resync::guest::{Guest, Progress};
use super::resync::plan::{Plan, describe};
use super::resync::wire::Notice;
use super::seal::{Opened, Opener, Unsealed};
use super::secrets::Valid;
use super::selftest::answer::{Answerer, Question};
use super::thread::{Stop, SyncThread};
use crate::daemon::clock::Clock;
use crate::director::sync::{Applied, SyncOutcome};
use crate::director::{Director, Time};
use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use sync_proto::SyncId;

/// How many datagrams one port's task takes in before the others have their turn.
const TURN: usize = 64;
/// How many senders are told apart. More are no directors, and are counted as one.
const MOST_PEERS: usize = 32;
/// How long a socket rests that cannot receive.
const REST: Duration = Duration::from_secs(1);
/// How often is looked whether a master is to be asked.
const LOOK: Duration = Duration::from_millis(100);

/// A running backup.
#[derive(Debug)]
pub(super) struct Backup {
    thread: SyncThread,
    received: Arc<Mutex<Received>>,
}

/// What has come.
#[derive(Debug)]
pub(super) struct Received {
    /// From each sender; under none, from all that are not told apart.
    pub peers: BTreeMap<Option<IpAddr>, Peer>,
    /// Datagrams that were not taken, by the place of the reason in [`Unsealed::ALL`].
    pub unsealed: [u64; Unsealed::ALL.len()],
    /// Which masters are asked for their tables, if any are.
    pub plan: Option<Plan>,
    opener: Opener,
    answerer: Answerer,
}

/// What came from one sender.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Peer {
    /// Datagrams.
    pub messages: u64,
    /// Of them, those that were refused as a whole.
    pub refused: u64,
    /// Records that were applied.
    pub records: u64,
    /// Messages that have not come, as sequence numbers tell.
    pub lost: u64,
    /// How long the last one with a key was on its way, by two clocks.
    pub lag: Option<Duration>,
    /// When the last came.
    pub last: Time,
    /// Of the datagrams, those that asked whether they arrive.
    pub questions: u64,
    /// Of them, those that were answered.
    pub answers: u64,
}

impl Backup {
    /// Gets ready to receive from these sockets, one a port, datagrams of at most `max_len` bytes, and to ask masters for
    /// their tables if there is a guest to do it. `who` is what the daemon has drawn by lot for itself.
    ///
    /// # Errors
    /// If the system gives no thread.
    pub(super) fn new(
        sockets: Vec<UdpSocket>,
        max_len: usize,
        secrets: &Valid,
        guest: Option<Guest>,
        (syncid, who): (SyncId, u32),
        director: &Arc<Director>,
        clock: Clock,
    ) -> io::Result<Backup> {
        let received = Arc::new(Mutex::new(Received {
            peers: BTreeMap::new(),
            unsealed: Default::default(),
            plan: guest.is_some().then(Plan::default),
            opener: Opener::default(),
            answerer: Answerer::new(syncid, who),
        }));
        let (director, secrets, shared) = (Arc::clone(director), Arc::clone(secrets), Arc::clone(&received));
        let thread = SyncThread::start("sync-backup", move |stop: Stop| async move {
            let mut tasks = tokio::task::JoinSet::new();
            for socket in sockets {
                let receiver = Receiver {
                    port: socket.local_addr()?.port(),
                    socket: tokio::net::UdpSocket::from_std(socket)?,
                    secrets: Arc::clone(&secrets),
                    director: Arc::clone(&director),
                    clock,
                    syncid,
                    received: Arc::clone(&shared),
                };
                tasks.spawn(async move { receiver.run(max_len).await });
            }
            if let Some(guest) = guest {
                tasks.spawn(async move { ask_masters(&guest, &shared).await });
            }
            stop.requested().await;
            Ok(())
        })?;
        Ok(Backup { thread, received })
    }

    /// Begins.
    pub(super) fn begin(&self) {
        self.thread.go();
    }

    /// What has come so far.
    pub(super) fn received(&self) -> MutexGuard<'_, Received> {
        lock(&self.received)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Asks one master after the other for its table, when it is their turn.
async fn ask_masters(guest: &Guest, received: &Mutex<Received>) {
    let mut look = tokio::time::interval(LOOK);
    look.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        look.tick().await;
        let now = guest.clock.now();
        let next = lock(received).plan.as_mut().and_then(|plan| plan.next(now));
        let Some(master) = next else { continue };
        tracing::info!(%master, "asking for the whole table");
        let note = |progress| {
            if let Some(plan) = &mut lock(received).plan {
                plan.note_progress(master.ip(), progress, guest.clock.now());
            }
        };
        let came = guest.ask(master, note).await;
        let (now, millis) = (guest.clock.now(), guest.clock.now().since(now).as_millis());
        let is_news = lock(received).plan.as_mut().is_some_and(|plan| plan.note_end(master.ip(), &came, now));
        match came {
            Ok(Progress { came, known, rejected, .. }) => {
                tracing::info!(%master, records = came, known, rejected, millis, "the whole table has come");
            }
            Err(failure) if is_news => {
                tracing::warn!(%master, failure = describe(&failure), millis, "the whole table has not come; asking again");
            }
            Err(failure) => {
                tracing::debug!(%master, failure = describe(&failure), "the table has not come again");
            }
        }
    }
}

/// What receives at one port.
struct Receiver {
    port: u16,
    socket: tokio::net::UdpSocket,
    secrets: Valid,
    director: Arc<Director>,
    clock: Clock,
    syncid: SyncId,
    received: Arc<Mutex<Received>>,
}

impl Receiver {
    async fn run(&self, max_len: usize) {
        // A longer one is cut, and refused by its size.
        let mut buffer = vec![0; max_len];
        loop {
            for _ in 0..TURN {
                match self.socket.recv_from(&mut buffer).await {
                    Ok((length, from)) => self.take(&buffer[..length], from),
                    // The interface has gone down, or is gone; the socket goes on if it comes back.
                    Err(error) => {
                        tracing::debug!(%error, port = self.port, "the backup cannot receive");
                        tokio::time::sleep(REST).await;
                    }
                }
            }
            tokio::task::yield_now().await;
        }
    }

    fn take(&self, datagram: &[u8], sender: SocketAddr) {
        let (now, from) = (self.clock.now(), sender.ip());
        let mut received = lock(&self.received);
        let opened = self.open(&mut received.opener, datagram, from);
        let outcome = match opened {
            Ok(_) => self.director.apply_sync(now, datagram),
            Err(_) => SyncOutcome::NotRunning,
        };
        let Received { peers, unsealed, plan, answerer, .. } = &mut *received;
        let notice = opened.ok().and_then(|_| Notice::decode(datagram, self.syncid));
        if let (Some(plan), Ok(opened)) = (plan, opened) {
            if let Some(Notice::Offer { port, session }) = notice {
                plan.note_offer(sender, port, session, now);
            }
            if let Some(opened) = opened {
                plan.note_lost(from, opened.lost, now);
            }
        }
        let from = Some(from).filter(|_| peers.len() < MOST_PEERS || peers.contains_key(&Some(from)));
        let peer = peers.entry(from).or_default();
        peer.messages += 1;
        peer.last = now;
        match opened {
            Ok(None) => {}
            Ok(Some(opened)) => {
                peer.lost = peer.lost.saturating_add_signed(opened.lost);
                peer.lag = Some(opened.lag);
            }
            Err(reason) => {
                peer.refused += 1;
                unsealed[reason as usize] += 1;
            }
        }
        match outcome {
            SyncOutcome::Applied(Applied { created, updated, replaced, .. }) => {
                peer.records += [created, updated, replaced].map(u64::from).iter().sum::<u64>();
            }
            SyncOutcome::Refused(_) => peer.refused += 1,
            SyncOutcome::NotRunning => {}
        }
        if let (Some(Notice::Question { port, token, asker }), Ok(opened), SyncOutcome::Applied(_)) =
            (notice, opened, outcome)
        {
            let (key, lost) = (opened.map(|it| it.key), opened.map(|_| peer.lost));
            let question = Question { datagram, from: sender, port, token, asker, key, lost };
            let secrets = self.secrets.load();
            let answer = answerer.answer(&question, secrets.as_deref(), now, self.clock.since_1970());
            let is_sent = answer.is_some_and(|(answer, to)| self.send(&answer, to));
            peer.questions += 1;
            peer.answers += u64::from(is_sent);
        }
    }

    /// Sends an answer if there is room for it: messages are not kept waiting by it.
    fn send(&self, answer: &[u8], to: SocketAddr) -> bool {
        let sent = self.socket.try_send_to(answer, to);
        sent.inspect_err(|error| tracing::debug!(%error, %to, "an answer was not sent")).is_ok()
    }

    /// Checks who a datagram is from, where that is to be known; nothing is said of one that is from anybody.
    fn open(&self, opener: &mut Opener, datagram: &[u8], from: IpAddr) -> Result<Option<Opened>, Unsealed> {
        let secrets = self.secrets.load();
        let Some(secrets) = &*secrets else { return Ok(None) };
        match opener.open(&secrets.keys, (from, self.port), datagram, self.clock.since_1970()) {
            Ok(opened) => Ok(Some(opened)),
            Err(Unsealed::NoTrailer) if !secrets.required => Ok(None),
            Err(reason) => Err(reason),
        }
    }
}
