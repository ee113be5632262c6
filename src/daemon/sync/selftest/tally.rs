//! What a test has come to so far. It knows neither sockets nor the clock.

use super::super::resync::wire::{Arrival, Notice};
use super::super::seal::Unsealed;
use super::super::secrets::Secrets;
use crate::daemon::api::{SyncTestBackup, SyncTestFailure, SyncTestPort};
use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;
use sync_proto::SyncId;

/// How many backups are told apart. More are none.
const MOST_BACKUPS: usize = 256;

/// A question of a test.
#[derive(Debug)]
pub(super) struct Asked {
    /// The UDP port that it is sent to.
    pub(super) port: u16,
    /// What was drawn by lot for it.
    pub(super) token: u64,
    /// The bytes, without a trailer or with an empty one.
    pub(super) question: Vec<u8>,
    /// When it was sent, or why it was not; none: it has not been sent yet.
    pub(super) sent: Option<Result<Duration, String>>,
}

/// What one backup has answered.
#[derive(Debug)]
struct Heard {
    address: IpAddr,
    syncid: SyncId,
    sealed: bool,
    lost: Option<u32>,
    /// When, by the places of the questions.
    answers: BTreeMap<usize, Duration>,
}

/// What a test has come to so far.
#[derive(Debug)]
pub(super) struct Tally {
    syncid: SyncId,
    /// A question for each port.
    pub(super) asked: Vec<Asked>,
    heard: BTreeMap<u32, Heard>,
    refused: BTreeMap<&'static str, u64>,
}

impl Tally {
    /// Of these questions in this group.
    pub(super) fn new(syncid: SyncId, asked: Vec<Asked>) -> Tally {
        Tally { syncid, asked, heard: BTreeMap::new(), refused: BTreeMap::new() }
    }

    /// Takes an answer that came from an address, at this time. Returns whether it counts.
    pub(super) fn take(
        &mut self,
        datagram: &[u8],
        from: SocketAddr,
        now: Duration,
        secrets: Option<&Secrets>,
    ) -> bool {
        let refusal = self.note(datagram, from, now, secrets).err();
        if let Some(reason) = refusal {
            *self.refused.entry(reason).or_default() += 1;
        }
        refusal.is_none()
    }

    fn note(
        &mut self,
        datagram: &[u8],
        from: SocketAddr,
        now: Duration,
        secrets: Option<&Secrets>,
    ) -> Result<(), &'static str> {
        let Some(Notice::Arrived(Arrival { syncid, token, who, lost })) =
            Notice::decode(datagram, self.syncid)
        else {
            return Err("garbage");
        };
        let place = self.asked.iter().position(|asked| asked.token == token).ok_or("other_test")?;
        let question = &self.asked[place].question;
        let sealed = super::open(secrets, question, datagram).map_err(Unsealed::name)?;
        if self.heard.len() >= MOST_BACKUPS && !self.heard.contains_key(&who) {
            return Err("too_many");
        }
        let address = from.ip();
        let new = Heard { address, syncid, sealed, lost, answers: BTreeMap::new() };
        let heard = self.heard.entry(who).or_insert(new);
        if heard.answers.contains_key(&place) {
            return Err("repeated");
        }
        heard.answers.insert(place, now);
        heard.sealed &= sealed;
        heard.lost = heard.lost.max(lost);
        Ok(())
    }

    /// Whether all questions have left, or not, and so many backups have answered each.
    pub(super) fn is_enough(&self, expected: usize) -> bool {
        let has_all = |heard: &&Heard| heard.answers.len() == self.asked.len();
        self.is_asked() && self.heard.values().filter(has_all).count() >= expected
    }

    fn is_asked(&self) -> bool {
        self.asked.iter().all(|asked| asked.sent.is_some())
    }

    /// The backups that have answered, by their addresses.
    pub(super) fn backups(&self) -> Vec<SyncTestBackup> {
        let mut heard: Vec<&Heard> = self.heard.values().collect();
        heard.sort_by_key(|heard| heard.address);
        heard.into_iter().map(|heard| self.backup(heard)).collect()
    }

    fn backup(&self, heard: &Heard) -> SyncTestBackup {
        let (mut answered, mut silent) = (Vec::new(), Vec::new());
        for (place, Asked { port, sent, .. }) in self.asked.iter().enumerate() {
            match (heard.answers.get(&place), sent) {
                (Some(&came), Some(Ok(sent))) => {
                    let micros = came.saturating_sub(*sent).as_micros();
                    answered.push(SyncTestPort {
                        port: *port,
                        micros: u64::try_from(micros).unwrap_or(u64::MAX),
                    });
                }
                _ => silent.push(*port),
            }
        }
        SyncTestBackup {
            address: heard.address.to_string(),
            syncid: heard.syncid.0,
            authenticated: heard.sealed,
            lost: heard.lost,
            answered,
            silent,
        }
    }

    /// The questions that did not leave.
    pub(super) fn failed(&self) -> Vec<SyncTestFailure> {
        let failure = |asked: &Asked| {
            let error = match &asked.sent {
                Some(Ok(_)) => return None,
                Some(Err(error)) => error.clone(),
                None => "it waits behind other messages".to_owned(),
            };
            Some(SyncTestFailure { port: asked.port, error })
        };
        self.asked.iter().filter_map(failure).collect()
    }

    /// Answers that do not count, by reason.
    pub(super) fn refused(&self) -> BTreeMap<String, u64> {
        self.refused.iter().map(|(reason, count)| ((*reason).to_owned(), *count)).collect()
    }
}
