//! Sends what the director has to tell (`sync_thread_master` of `net/netfilter/ipvs/ip_vs_sync.c`).

use super::resync::host::Host;
use super::resync::wire::Notice;
use super::seal::{Sealer, TRAILER};
use super::secrets::Valid;
use super::thread::SyncThread;
use crate::daemon::clock::Clock;
use crate::director::Director;
use crate::director::sync::Wake;
use std::io;
use std::net::{TcpListener, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use sync_proto::SyncId;
use tokio::sync::{Notify, mpsc};

/// How long a message waits for others to go with it.
const GATHER: Duration = Duration::from_millis(20);
/// With so many messages waiting, none waits any longer.
const ENOUGH: usize = 8;
/// How often open messages are looked at.
const LOOK: Duration = Duration::from_secs(1);
/// How many messages are taken from the director at once.
const BATCH: usize = 64;
/// How many errands may wait for one port.
const ERRANDS: usize = 8;

/// A running master.
#[derive(Debug)]
pub(super) struct Master {
    thread: SyncThread,
    bells: Arc<Bells>,
    seals: bool,
    host: Option<(Arc<Host>, u16)>,
    errands: Vec<mpsc::Sender<Errand>>,
}

/// A message that goes to one port at once, between those of the director.
#[derive(Debug)]
pub(super) struct Errand {
    /// The message, with zeros for a trailer.
    pub message: Vec<u8>,
    /// What the report is to begin with.
    pub place: usize,
    /// Who is told when the message was sent, or why it was not.
    pub reporter: mpsc::UnboundedSender<(usize, Result<Duration, String>)>,
}

/// Where backups ask for the whole table.
#[derive(Debug)]
pub(super) struct Desk {
    /// The socket.
    pub listener: TcpListener,
    /// Its port.
    pub port: u16,
    /// Who tells.
    pub host: Arc<Host>,
    /// The group.
    pub syncid: SyncId,
}

/// What a master has done.
#[derive(Debug, Default)]
pub(super) struct Sent {
    /// Messages sent.
    pub messages: AtomicU64,
    /// Bytes of them.
    pub bytes: AtomicU64,
    /// Messages that the kernel refused to send; they are lost.
    pub errors: AtomicU64,
    /// Messages that ask backups whether they arrive.
    pub questions: AtomicU64,
    /// What backups have answered.
    pub answers: AtomicU64,
}

/// Wakes the ports' senders.
#[derive(Debug)]
pub(super) struct Bells {
    first: Vec<Notify>,
    enough: Vec<Notify>,
    sent: Sent,
}

impl Wake for Bells {
    fn queued(&self, port: usize, waiting: usize) {
        if let Some(bell) = self.first.get(port) {
            bell.notify_one();
        }
        if waiting >= ENOUGH
            && let Some(bell) = self.enough.get(port)
        {
            bell.notify_one();
        }
    }
}

impl Bells {
    /// What has been sent by those that it wakes.
    pub(super) fn sent(&self) -> &Sent {
        &self.sent
    }

    /// For so many ports.
    fn new(ports: usize) -> Arc<Bells> {
        let bells = || (0..ports).map(|_| Notify::new()).collect();
        Arc::new(Bells { first: bells(), enough: bells(), sent: Sent::default() })
    }
}

impl Master {
    /// Gets ready to send by these sockets, one a port, messages that are sealed if there are secrets to do it with, and
    /// to tell whoever asks at a desk of the whole table.
    ///
    /// # Errors
    /// If the system gives no thread.
    pub(super) fn new(
        sockets: Vec<UdpSocket>,
        secrets: Option<Valid>,
        desk: Option<Desk>,
        director: &Arc<Director>,
        clock: Clock,
    ) -> io::Result<Master> {
        let bells = Bells::new(sockets.len());
        let (director, shared) = (Arc::clone(director), Arc::clone(&bells));
        let (seals, session) = (secrets.is_some(), clock.since_1970());
        let host = desk.as_ref().map(|desk| (Arc::clone(&desk.host), desk.port));
        let trailer = if seals { TRAILER } else { 0 };
        let mut offer = desk.as_ref().map(|desk| {
            let session = u64::try_from(session.as_micros()).unwrap_or(u64::MAX);
            Notice::Offer { port: desk.port, session }.encode(desk.syncid, trailer)
        });
        let (errands, heard): (Vec<_>, Vec<_>) = sockets.iter().map(|_| mpsc::channel(ERRANDS)).unzip();
        let thread = SyncThread::start("sync-master", move |stop| async move {
            let mut tasks = tokio::task::JoinSet::new();
            for (port, (socket, errands)) in sockets.into_iter().zip(heard).enumerate() {
                let socket = tokio::net::UdpSocket::from_std(socket)?;
                let seal = secrets.clone().map(|secrets| (Sealer::new(session), secrets));
                // The first port's sender makes the offer for all.
                let offer = offer.take();
                let mut sender = Sender { port, socket, seal, offer, director: Arc::clone(&director), clock };
                let bells = Arc::clone(&shared);
                tasks.spawn(async move { sender.run(&bells, errands).await });
            }
            if let Some(Desk { listener, host, .. }) = desk {
                tasks.spawn(host.listen(tokio::net::TcpListener::from_std(listener)?));
            }
            stop.requested().await;
            Ok(())
        })?;
        Ok(Master { thread, bells, seals, host, errands })
    }

    /// How many bytes it needs behind the last record of each message.
    pub(super) fn trailer(&self) -> usize {
        if self.seals { TRAILER } else { 0 }
    }

    /// Begins, and returns what the director is to wake.
    pub(super) fn begin(&self) -> Arc<Bells> {
        self.thread.go();
        Arc::clone(&self.bells)
    }

    /// Who tells of the whole table, and at which port, if anybody does.
    pub(super) fn host(&self) -> Option<(&Host, u16)> {
        self.host.as_ref().map(|(host, port)| (&**host, *port))
    }

    /// What it has done.
    pub(super) fn sent(&self) -> &Sent {
        &self.bells.sent
    }

    /// What takes messages to the senders of the ports, and what counts them.
    pub(super) fn errands(&self) -> (Vec<mpsc::Sender<Errand>>, Arc<Bells>) {
        (self.errands.clone(), Arc::clone(&self.bells))
    }
}

/// What sends to one port.
struct Sender {
    port: usize,
    socket: tokio::net::UdpSocket,
    seal: Option<(Sealer, Valid)>,
    /// The message that offers the table.
    offer: Option<Vec<u8>>,
    director: Arc<Director>,
    clock: Clock,
}

impl Sender {
    async fn run(&mut self, bells: &Bells, mut errands: mpsc::Receiver<Errand>) {
        let mut look = tokio::time::interval(LOOK);
        look.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let (first, enough) = (&bells.first[self.port], &bells.enough[self.port]);
        let (mut was_refused, mut is_held) = (false, false);
        loop {
            tokio::select! {
                _ = look.tick() => {
                    if let Some(mut offer) = self.offer.clone() {
                        self.seal(&mut offer);
                        let _ = self.send(&offer, &bells.sent, &mut was_refused).await;
                    }
                }
                Some(Errand { mut message, place, reporter }) = errands.recv() => {
                    self.seal(&mut message);
                    let begun = self.clock.elapsed();
                    let sent = self.send(&message, &bells.sent, &mut was_refused).await;
                    bells.sent.questions.fetch_add(sent.is_ok().into(), Ordering::Relaxed);
                    // Whoever gave it may have gone away.
                    let _ = reporter.send((place, sent.map(|()| begun).map_err(|error| error.to_string())));
                }
                // The rate keeps messages back, and lets some go again soon.
                () = tokio::time::sleep(GATHER), if is_held => {}
                () = first.notified() => {
                    let _ = tokio::time::timeout(GATHER, enough.notified()).await;
                }
            }
            loop {
                let mut messages = self.director.take_sync_messages(self.clock.now(), self.port, BATCH);
                for message in &mut messages {
                    self.seal(message);
                    let _ = self.send(message, &bells.sent, &mut was_refused).await;
                }
                if messages.len() < BATCH {
                    break;
                }
            }
            is_held = self.director.holds_sync_messages(self.clock.now(), self.port);
        }
    }

    fn seal(&mut self, message: &mut [u8]) {
        if let Some((sealer, secrets)) = &mut self.seal
            // Without, it is about to end.
            && let Some(secrets) = &*secrets.load()
        {
            sealer.seal(&secrets.keys, message, self.clock.since_1970());
        }
    }

    /// Waits for room in the socket's buffer. A message that is refused for another reason is lost, as it would be on
    /// the way.
    async fn send(&self, message: &[u8], sent: &Sent, was_refused: &mut bool) -> io::Result<()> {
        match self.socket.send(message).await {
            Ok(length) => {
                sent.messages.fetch_add(1, Ordering::Relaxed);
                sent.bytes.fetch_add(length as u64, Ordering::Relaxed);
                if std::mem::take(was_refused) {
                    tracing::info!(port = self.port, "messages to the backups go out again");
                }
                Ok(())
            }
            Err(error) => {
                sent.errors.fetch_add(1, Ordering::Relaxed);
                if !std::mem::replace(was_refused, true) {
                    tracing::warn!(port = self.port, %error, "a message to the backups was lost; so are others like it");
                }
                Err(error)
            }
        }
    }
}
