//! When an entry's record is due (`ip_vs_sync_conn_needed` of `ip_vs_sync.c`).
//!
//! Time is counted as the kernel counts it on most machines, in ticks of 4 ms (`HZ` = 250), in a number that goes
//! round; what is in its two low bits is how often a record was repeated.

use super::limit::Urgency;
use crate::director::Time;
use crate::director::protocol::{SctpState, State, TcpState};
use crate::director::service::Tunables;
use std::time::Duration;

const TICKS_A_SECOND: u32 = 250;
/// The bits that count repetitions.
const REPETITIONS: u32 = 3;
/// What shortens the refresh period of entries that do not last as long: half their timeout, and at least this.
const LEAST_SHORTENED: u32 = 10 * TICKS_A_SECOND;

/// What a master goes by: the tunables of the same meanings.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::director) struct Rules {
    /// The packet of each period that a record follows (the first number of `sync_threshold`).
    pub(in crate::director) threshold: u32,
    /// Packets of a period (the second); 0: there are no periods.
    pub(in crate::director) period: u32,
    /// In ticks (`sync_refresh_period`); 0: records are not refreshed by time.
    refresh: u32,
    /// How often a record is repeated within a refresh period (`sync_retries`).
    retries: u32,
    /// Connections that a template leads are left out (`sync_persist_mode`).
    pub(in crate::director) templates_alone: bool,
}

impl Rules {
    pub(in crate::director) fn of(tunables: &Tunables) -> Rules {
        let refresh = u64::from(tunables.sync_refresh_period) * u64::from(TICKS_A_SECOND);
        Rules {
            threshold: tunables.sync_threshold.packet,
            period: tunables.sync_threshold.period,
            refresh: u32::try_from(refresh).unwrap_or(u32::MAX).min(i32::MAX as u32),
            retries: tunables.sync_retries.into(),
            templates_alone: tunables.sync_persist_mode,
        }
    }
}

/// What is to be told of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::director) enum Subject {
    /// A template of persistence, to which numbers of packets do not matter where there are periods.
    Template,
    /// A connection in this state.
    Connection(State),
}

/// What is remembered of the last record of an entry.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Emission {
    /// When the entry would have ended without another packet, and how often the record was repeated (`sync_endtime`).
    end: u32,
    /// The number of the state that it told (`old_state`).
    state: u8,
    /// Whether others have been told of the entry, or have told of it.
    is_known: bool,
    source: Source,
}

/// Who knew last of an entry: by that, what a [table](super::Walk) says of it is news or is not.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(in crate::director) enum Source {
    /// A packet came here.
    #[default]
    Packet,
    /// A message came, while the table of this number was the last to be taken in.
    Message(u8),
    /// A table told of it.
    Table,
}

impl Emission {
    /// That of an entry made now: nobody was told of it. What others know of its state is in `known`.
    pub(in crate::director) fn new(now: Time, known: Emission) -> Emission {
        Emission { end: ticks(now) & !REPETITIONS, ..known }
    }

    /// Notes that another director knows the state with this number.
    pub(in crate::director) fn note_state(&mut self, state: u8) {
        (self.state, self.is_known) = (state, true);
    }

    /// How urgent a record is that is due now. To be asked before [`is_due`](Self::is_due), which remembers it as told.
    pub(in crate::director) fn urgency(&self, subject: Subject) -> Urgency {
        let state = match subject {
            Subject::Template => 0,
            Subject::Connection(state) => state.number(),
        };
        if self.is_known && state == self.state { Urgency::Repeated } else { Urgency::News }
    }

    /// Notes where news of the entry came from.
    #[inline]
    pub(in crate::director) fn note_source(&mut self, source: Source) {
        self.source = source;
    }

    /// Whether what the table of this number says of the entry is older than what is known.
    pub(in crate::director) fn outdates_table(&self, number: u8) -> bool {
        matches!(self.source, Source::Packet) || self.source == Source::Message(number)
    }

    /// Whether a record is due after the entry's packet number `packets`; remembers it as told if so. `timeout`: how
    /// long the entry lasts without packets, in its present state.
    pub(in crate::director) fn is_due(
        &mut self,
        rules: &Rules,
        now: Time,
        subject: Subject,
        timeout: Duration,
        packets: u32,
    ) -> bool {
        let (state, is_end) = match subject {
            Subject::Template => (0, false),
            Subject::Connection(state) if !is_told(state) => return false,
            Subject::Connection(state) => {
                let number = state.number();
                (number, number != self.state && is_last_news(state))
            }
        };
        let timeout = u32::try_from(timeout.as_millis() / 4).unwrap_or(u32::MAX);
        let mut end = ticks(now).wrapping_add(timeout) & !REPETITIONS;
        if !is_end {
            if rules.refresh > 0 {
                let shortest = rules.refresh.min((timeout / 2).max(LEAST_SHORTENED));
                if distance(end, self.end).unsigned_abs() < shortest {
                    let repeated = self.end & REPETITIONS;
                    let again = self.end.wrapping_sub(timeout).wrapping_add(rules.refresh / 8);
                    if repeated >= rules.retries || distance(ticks(now), again) < 0 {
                        return false;
                    }
                    end |= repeated + 1;
                }
            }
            let is_turn = match (rules.period, subject) {
                (0, _) => rules.refresh > 0 || packets == rules.threshold,
                (_, Subject::Template) => true,
                (period, Subject::Connection(_)) => packets % period == rules.threshold,
            };
            if !is_turn {
                return false;
            }
        }
        *self = Emission { end, state, is_known: true, ..*self };
        true
    }
}

/// Whether a connection in this state is worth telling of: a half-open one would be lost anyway.
pub(super) const fn is_told(state: State) -> bool {
    match state {
        State::Tcp(state) => matches!(
            state,
            TcpState::Established
                | TcpState::FinWait
                | TcpState::TimeWait
                | TcpState::Close
                | TcpState::CloseWait
        ),
        State::Sctp(state) => matches!(
            state,
            SctpState::Established
                | SctpState::ShutdownSent
                | SctpState::ShutdownReceived
                | SctpState::ShutdownAckSent
                | SctpState::Closed
        ),
        State::Udp => true,
    }
}

/// Whether a change to this state is told at once: of one that comes to something there is time enough.
fn is_last_news(state: State) -> bool {
    match state {
        State::Tcp(state) => state != TcpState::Established,
        State::Sctp(state) => state != SctpState::Established,
        State::Udp => false,
    }
}

fn ticks(time: Time) -> u32 {
    (time.as_millis() / 4) as u32
}

fn distance(one: u32, other: u32) -> i32 {
    one.wrapping_sub(other).cast_signed()
}

#[cfg(test)]
mod tests;
