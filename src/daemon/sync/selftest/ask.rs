//! The master's side: asks by every port, and hears who answers.

use super::super::master::{Bells, Errand};
use super::super::resync::stream::lot;
use super::super::resync::wire::Notice;
use super::super::seal::TRAILER;
use super::super::secrets::Valid;
use super::tally::{Asked, Tally};
use crate::daemon::api::{SyncDaemonStatus, SyncTestStatus};
use crate::daemon::clock::Clock;
use anyhow::{Context, bail};
use std::net::UdpSocket;
use std::num::NonZeroU16;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use sync_proto::SyncId;
use tokio::sync::mpsc;
use tokio::sync::mpsc::error::TrySendError;

/// For how many seconds answers can be waited for.
const WAITS: std::ops::RangeInclusive<u64> = 1..=60;
const WAIT: u64 = 2;

/// A test that can begin.
#[derive(Debug)]
pub(in crate::daemon) struct Test {
    /// What the master runs with.
    pub(in crate::daemon::sync) daemon: SyncDaemonStatus,
    /// The time to live of its messages.
    pub(in crate::daemon::sync) ttl: u8,
    /// What answers come to.
    pub(in crate::daemon::sync) ear: UdpSocket,
    /// What takes questions to the ports' senders.
    pub(in crate::daemon::sync) errands: Vec<mpsc::Sender<Errand>>,
    /// How many bytes a question needs behind it.
    pub(in crate::daemon::sync) trailer: usize,
    /// What the daemon has drawn by lot for itself.
    pub(in crate::daemon::sync) who: u32,
    /// The keys.
    pub(in crate::daemon::sync) secrets: Valid,
    /// What counts.
    pub(in crate::daemon::sync) bells: Arc<Bells>,
    /// The clock.
    pub(in crate::daemon::sync) clock: Clock,
}

impl Test {
    /// Asks, and waits for as many seconds, or until as many backups have answered by every port as are expected.
    ///
    /// # Errors
    /// If the number of seconds is none, or what the system has refused.
    pub(in crate::daemon) async fn run(
        self,
        wait: Option<u64>,
        expected: Option<u16>,
    ) -> anyhow::Result<SyncTestStatus> {
        let wait = wait.unwrap_or(WAIT);
        if !WAITS.contains(&wait) {
            bail!("wait: {wait} is not a number of seconds from {} to {}", WAITS.start(), WAITS.end());
        }
        let (reporter, mut reports) = mpsc::unbounded_channel();
        let port = NonZeroU16::new(self.ear.local_addr()?.port()).context("the system gives no port")?;
        let mut tally = Tally::new(SyncId(self.daemon.syncid), self.questions(port)?);
        let ear = tokio::net::UdpSocket::from_std(self.ear)?;
        for (place, (errand, asked)) in self.errands.iter().zip(&tally.asked).enumerate() {
            let message = asked.question.clone();
            match errand.try_send(Errand { message, place, reporter: reporter.clone() }) {
                Ok(()) => {}
                Err(TrySendError::Full(_)) => bail!("other tests are under way; try again"),
                Err(TrySendError::Closed(_)) => bail!("the master has just been ended"),
            }
        }
        let mut over = pin!(tokio::time::sleep(Duration::from_secs(wait)));
        // One byte more than any answer, so that what is longer is none.
        let mut buffer = [0; Notice::LENGTH + TRAILER + 1];
        while expected.is_none_or(|expected| !tally.is_enough(expected.into())) {
            tokio::select! {
                () = &mut over => break,
                Some((place, sent)) = reports.recv() => tally.asked[place].sent = Some(sent),
                came = ear.recv_from(&mut buffer) => {
                    let (length, from) = came.context("answers cannot be heard")?;
                    let secrets = self.secrets.load();
                    let counts = tally.take(&buffer[..length], from, self.clock.elapsed(), secrets.as_deref());
                    self.bells.sent().answers.fetch_add(counts.into(), Ordering::Relaxed);
                }
            }
        }
        Ok(SyncTestStatus {
            daemon: self.daemon,
            ttl: self.ttl,
            authenticated: self.trailer > 0,
            wait,
            failed: tally.failed(),
            backups: tally.backups(),
            refused: tally.refused(),
        })
    }

    /// A question for each port, to be answered at this one.
    fn questions(&self, port: NonZeroU16) -> anyhow::Result<Vec<Asked>> {
        let question = |place: usize| {
            let token = lot().context("the system gives no random numbers")?;
            let token = token.iter().take(8).fold(0, |token, &byte| token << 8 | u64::from(byte));
            let question = Notice::Question { port, token, asker: self.who };
            let question = question.encode(SyncId(self.daemon.syncid), self.trailer);
            Ok(Asked { port: self.daemon.port + place as u16, token, question, sent: None })
        };
        (0..self.errands.len()).map(question).collect()
    }
}
