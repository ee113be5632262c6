//! The master's side: whoever asks, and may, is told of the whole table.
//!
//! Packets come first: the table is looked at a few hundred entries at a time, once in a millisecond, and a backup that
//! takes them in more slowly is told them more slowly. So many are a quarter of a millisecond's work for a backup that serves
//! clients as well; twice as many at a time, and those that wait meanwhile see it (`benches/run j`).

use super::super::secrets::Valid;
use super::stream::{Agreed, Stream, Writer, lot, names, receive, receive_hello, send};
use super::wire::{Answer, Hello, Notice};
use super::{Failure, WHOLE};
use crate::daemon::clock::Clock;
use crate::director::Director;
use crate::director::sync::Walk;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use sync_proto::SyncId;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::time::{MissedTickBehavior, timeout};

/// How many are told at a time.
const PLACES: usize = 4;
/// How long somebody has to hear that there is no place.
const REFUSAL: Duration = Duration::from_millis(200);
/// How long the listener rests that cannot accept.
const REST: Duration = Duration::from_secs(1);
/// How many entries are looked at, at least, in one go, and in how many parts of the table at most.
const ENTRIES: u64 = 256;
const PARTS: usize = 64;
/// How often.
const PACE: Duration = Duration::from_millis(1);

/// What has come of it so far.
#[derive(Clone, Debug, Default)]
pub(in crate::daemon::sync) struct Given {
    /// Tables that were told to their end.
    pub whole: u64,
    /// Those that are being told.
    pub running: u64,
    /// Entries told of.
    pub entries: u64,
    /// Questions that came to nothing, by the name of the reason.
    pub failed: BTreeMap<&'static str, u64>,
}

/// Who tells.
#[derive(Debug)]
pub(in crate::daemon::sync) struct Host {
    director: Arc<Director>,
    secrets: Valid,
    clock: Clock,
    syncid: SyncId,
    places: Arc<Semaphore>,
    given: Mutex<Given>,
}

impl Host {
    /// Of the master of this group.
    pub(in crate::daemon::sync) fn new(
        director: &Arc<Director>,
        secrets: &Valid,
        clock: Clock,
        syncid: SyncId,
    ) -> Arc<Host> {
        Arc::new(Host {
            director: Arc::clone(director),
            secrets: Arc::clone(secrets),
            clock,
            syncid,
            places: Arc::new(Semaphore::new(PLACES)),
            given: Mutex::default(),
        })
    }

    /// What has come of it so far.
    pub(in crate::daemon::sync) fn given(&self) -> MutexGuard<'_, Given> {
        self.given.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Answers whoever comes.
    pub(in crate::daemon::sync) async fn listen(self: Arc<Host>, listener: TcpListener) {
        loop {
            match listener.accept().await {
                Ok((stream, from)) => self.receive(stream, from).await,
                Err(error) => {
                    tracing::debug!(%error, "nobody can ask for the table");
                    tokio::time::sleep(REST).await;
                }
            }
        }
    }

    async fn receive(self: &Arc<Host>, mut stream: TcpStream, from: SocketAddr) {
        let Ok(place) = Arc::clone(&self.places).try_acquire_owned() else {
            tracing::warn!(%from, places = PLACES, "somebody asks for the table while as many as can be are told of it");
            *self.given().failed.entry("busy").or_default() += 1;
            let _ = timeout(REFUSAL, self.turn_away(&mut stream)).await;
            return;
        };
        self.given().running += 1;
        let host = Arc::clone(self);
        tokio::spawn(async move {
            let _place = place;
            let told = timeout(WHOLE, host.tell(&mut stream, &from.to_string())).await;
            let told = told.unwrap_or(Err(Failure::Slow));
            let mut given = host.given();
            given.running -= 1;
            match told {
                Ok(()) => given.whole += 1,
                Err(failure) => {
                    *given.failed.entry(failure.name()).or_default() += 1;
                    tracing::warn!(%from, %failure, "a backup was not told of the whole table");
                }
            }
        });
    }

    async fn turn_away(&self, stream: &mut impl Stream) -> Result<(), Failure> {
        receive_hello(stream).await?;
        let hello =
            Hello { syncid: self.syncid, answer: Answer::Busy, keys: Default::default(), lot: lot()? };
        send(stream, &hello.encode()).await
    }

    /// Tells somebody who has not said anything yet.
    pub(super) async fn tell(&self, stream: &mut impl Stream, from: &str) -> Result<(), Failure> {
        let question = receive_hello(stream).await?;
        let secrets = self.secrets.load_full();
        let mut hello =
            Hello { syncid: self.syncid, answer: Answer::Yes, keys: names(secrets.as_deref()), lot: lot()? };
        let key = hello.key_in_common(&question);
        if !question.syncid.takes(self.syncid) {
            hello.answer = Answer::OtherGroup;
        } else if key.is_none() && secrets.as_ref().is_some_and(|secrets| secrets.required) {
            hello.answer = Answer::NoKey;
        }
        send(stream, &hello.encode()).await?;
        match hello.answer {
            Answer::Yes => {}
            Answer::NoKey => return Err(Failure::NoKey),
            Answer::OtherGroup | Answer::Busy => return Err(Failure::Garbage),
        }
        let agreed = secrets
            .as_deref()
            .zip(key)
            .and_then(|(secrets, key)| Agreed::new(secrets, key, &question, &hello));
        if let Some(agreed) = &agreed {
            let proof: [u8; 32] = receive(stream).await?;
            if !agreed.is_proof(&proof) {
                return Err(Failure::NoKey);
            }
        }
        self.tell_all(stream, Writer::new(agreed, self.clock.since_1970()), from).await
    }

    async fn tell_all(
        &self,
        stream: &mut impl Stream,
        mut writer: Writer,
        from: &str,
    ) -> Result<(), Failure> {
        let (begin, entries) = (self.clock.now(), self.director.connection_count().0 as u64);
        tracing::info!(from, entries, "telling a backup of the whole table");
        let start = Notice::Begin { entries }.encode(self.syncid, writer.trailer());
        writer.write(stream, start, self.clock.since_1970()).await?;
        let mut walk = Walk::new(self.syncid, writer.trailer());
        let mut pace = tokio::time::interval(PACE);
        pace.set_missed_tick_behavior(MissedTickBehavior::Skip);
        let mut counted = 0;
        while !walk.is_over() {
            pace.tick().await;
            let enough = walk.told() + walk.left_out() + ENTRIES;
            let mut parts = 0;
            while !walk.is_over() && parts < PARTS && walk.told() + walk.left_out() < enough {
                for message in self.director.walk_on(self.clock.now(), &mut walk) {
                    writer.write(stream, message, self.clock.since_1970()).await?;
                }
                parts += 1;
            }
            self.given().entries += walk.told() - counted;
            counted = walk.told();
        }
        let (told, left_out) = (walk.told(), walk.left_out());
        let end = Notice::End { told, left_out }.encode(self.syncid, writer.trailer());
        writer.write(stream, end, self.clock.since_1970()).await?;
        let millis = self.clock.now().since(begin).as_millis();
        tracing::info!(from, told, left_out, millis, "a backup was told of the whole table");
        Ok(())
    }
}
