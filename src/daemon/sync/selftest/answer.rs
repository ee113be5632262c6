//! The backup's side: what it answers, and how often.

use super::super::resync::wire::{Arrival, KeyId, Notice};
use super::super::seal::TRAILER;
use super::super::secrets::Secrets;
use crate::director::Time;
use std::net::SocketAddr;
use std::num::NonZeroU16;
use std::time::Duration;
use sync_proto::SyncId;

/// How many questions are answered in a second: one of each of 64 ports, from two masters.
const MOST: u32 = 128;

/// A question that was taken as a message is.
#[derive(Debug)]
pub(in crate::daemon::sync) struct Question<'a> {
    /// All of it.
    pub datagram: &'a [u8],
    /// Where it came from.
    pub from: SocketAddr,
    /// Where to answer.
    pub port: NonZeroU16,
    /// What was drawn by lot for it.
    pub token: u64,
    /// What the asker has drawn by lot for itself.
    pub asker: u32,
    /// The key it is sealed with, if it is.
    pub key: Option<KeyId>,
    /// How many messages of the asker have not come, if that is known.
    pub lost: Option<u64>,
}

/// Who answers.
#[derive(Debug)]
pub(in crate::daemon::sync) struct Answerer {
    syncid: SyncId,
    who: u32,
    second: Time,
    left: u32,
}

impl Answerer {
    /// For the backup of this syncid, in a daemon that has drawn `who` by lot.
    pub(in crate::daemon::sync) fn new(syncid: SyncId, who: u32) -> Answerer {
        Answerer { syncid, who, second: Time::ZERO, left: MOST }
    }

    /// The answer, and where it goes. None to a question of the own daemon, to one too many, nor to a sealed one whose
    /// key is not valid any more.
    pub(in crate::daemon::sync) fn answer(
        &mut self,
        question: &Question<'_>,
        secrets: Option<&Secrets>,
        now: Time,
        since_1970: Duration,
    ) -> Option<(Vec<u8>, SocketAddr)> {
        let &Question { datagram, mut from, port, token, asker, key, lost } = question;
        if asker == self.who || !self.may(now) {
            return None;
        }
        let lost = lost.map(|lost| u32::try_from(lost).unwrap_or(u32::MAX - 1));
        let arrived = Notice::Arrived(Arrival { syncid: self.syncid, token, who: self.who, lost });
        // As long as the question, in its group: the asker's syncid need not be the one here.
        let group = SyncId(*datagram.get(1)?);
        let mut answer = arrived.encode(group, if key.is_some() { TRAILER } else { 0 });
        if let Some(key) = key
            && !super::seal(&secrets?.keys, key, datagram, &mut answer, since_1970)
        {
            return None;
        }
        from.set_port(port.get());
        Some((answer, from))
    }

    fn may(&mut self, now: Time) -> bool {
        if now.since(self.second) >= Duration::from_secs(1) {
            (self.second, self.left) = (now, MOST);
        }
        let left = self.left.checked_sub(1);
        self.left = left.unwrap_or_default();
        left.is_some()
    }
}
