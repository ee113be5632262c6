//! The backup's side: asks a master for its table, and has the director take it in.

use super::super::secrets::Valid;
use super::stream::{Agreed, Reader, Stream, lot, names, receive_hello, send};
use super::wire::{Answer, Hello, Notice};
use super::{Failure, HANDSHAKE, WHOLE};
use crate::daemon::clock::Clock;
use crate::director::Director;
use crate::director::sync::{Applied, SyncOutcome};
use std::net::SocketAddr;
use std::sync::Arc;
use sync_proto::SyncId;
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::timeout;

/// Who asks.
#[derive(Debug)]
pub(in crate::daemon::sync) struct Guest {
    /// The interface by which masters are reached.
    pub interface: String,
    /// The group whose tables are wanted.
    pub syncid: SyncId,
    /// Who takes them in.
    pub director: Arc<Director>,
    /// The keys.
    pub secrets: Valid,
    /// The clock.
    pub clock: Clock,
}

/// How much of a table has come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(in crate::daemon::sync) struct Progress {
    /// How many entries there are, about.
    pub entries: u64,
    /// How many records have come.
    pub came: u64,
    /// Of them, those that told nothing new.
    pub known: u64,
    /// Of them, those that could not be applied.
    pub rejected: u64,
}

impl Guest {
    /// Asks the master at this address, and takes its table in. `note` is told how far that has come.
    ///
    /// # Errors
    /// Why the table is not complete.
    pub(in crate::daemon::sync) async fn ask(
        &self,
        master: SocketAddr,
        note: impl FnMut(Progress),
    ) -> Result<Progress, Failure> {
        let mut stream = timeout(HANDSHAKE, self.connect(master)).await.map_err(|_| Failure::Silent)??;
        timeout(WHOLE, self.take_in(&mut stream, note)).await.map_err(|_| Failure::Slow)?
    }

    async fn connect(&self, master: SocketAddr) -> std::io::Result<TcpStream> {
        let socket = if master.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
        socket.bind_device(Some(self.interface.as_bytes()))?;
        socket.connect(master).await
    }

    /// The whole conversation.
    pub(super) async fn take_in(
        &self,
        stream: &mut impl Stream,
        mut note: impl FnMut(Progress),
    ) -> Result<Progress, Failure> {
        // Before the master looks at the first entry.
        self.director.begin_table();
        let secrets = self.secrets.load_full();
        let question =
            Hello { syncid: self.syncid, answer: Answer::Yes, keys: names(secrets.as_deref()), lot: lot()? };
        send(stream, &question.encode()).await?;
        let hello = receive_hello(stream).await?;
        if hello.answer != Answer::Yes {
            return Err(Failure::Refused(hello.answer));
        }
        let key = hello.key_in_common(&question);
        let agreed = secrets
            .as_deref()
            .zip(key)
            .and_then(|(secrets, key)| Agreed::new(secrets, key, &question, &hello));
        if agreed.is_none() && secrets.is_some_and(|secrets| secrets.required) {
            return Err(Failure::NoKey);
        }
        if let Some(agreed) = &agreed {
            send(stream, &agreed.proof).await?;
        }
        let mut reader = Reader::new(agreed);
        let Some(Notice::Begin { entries }) = Notice::decode(reader.read(stream).await?, self.syncid) else {
            return Err(Failure::Garbage);
        };
        let mut progress = Progress { entries, ..Progress::default() };
        note(progress);
        loop {
            let message = reader.read(stream).await?;
            if let Some(notice) = Notice::decode(message, self.syncid) {
                return match notice {
                    Notice::End { told, .. } if told == progress.came => Ok(progress),
                    Notice::End { told, .. } => Err(Failure::Incomplete { told, came: progress.came }),
                    _ => Err(Failure::Garbage),
                };
            }
            match self.director.apply_table(self.clock.now(), message) {
                SyncOutcome::Applied(Applied { created, updated, replaced, known, rejected }) => {
                    progress.came +=
                        [created, updated, replaced, known, rejected].map(u64::from).iter().sum::<u64>();
                    progress.known += u64::from(known);
                    progress.rejected += u64::from(rejected);
                }
                SyncOutcome::Refused(_) => return Err(Failure::Garbage),
                SyncOutcome::NotRunning => return Err(Failure::Ended),
            }
            note(progress);
            // Messages about what happens meanwhile are as urgent.
            tokio::task::yield_now().await;
        }
    }
}
