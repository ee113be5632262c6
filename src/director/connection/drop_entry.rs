//! Which entries are dropped under attack (`ip_vs_random_dropentry`, `todrop_entry` of
//! `net/netfilter/ipvs/ip_vs_conn.c`): half-open connections, templates that came to nothing, and of the rest some that
//! have been idle for a minute after few packets.

use crate::director::Time;
use crate::director::protocol::{SctpState, State, TcpState};
use std::time::Duration;

/// How much of the table is looked at each time, as its denominator.
const SHARE: usize = 32;
/// What has had a packet within this time is not idle.
const IDLE: Duration = Duration::from_secs(60);
/// With more packets than this from the client, an entry is spared.
const FEW_PACKETS: u32 = 8;

/// What an entry is to the defence.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Worth {
    /// To be dropped.
    Nothing,
    /// To be dropped sometimes, if it is idle.
    Little,
    /// To be kept.
    Much,
}

impl Worth {
    /// What a connection in this state is worth.
    pub(super) const fn of(state: State) -> Worth {
        match state {
            State::Tcp(TcpState::SynRecv | TcpState::SynAck)
            | State::Sctp(SctpState::Init1 | SctpState::Init) => Worth::Nothing,
            State::Tcp(TcpState::Established) | State::Sctp(SctpState::Established) | State::Udp => {
                Worth::Little
            }
            State::Tcp(_) | State::Sctp(_) => Worth::Much,
        }
    }
}

/// How long an entry has been idle goes by these.
#[derive(Clone, Copy, Debug)]
pub(super) struct Age {
    /// What the timer is restarted with.
    pub(super) timeout: Duration,
    /// When the timer fires.
    pub(super) deadline: Time,
    /// Packets from the client.
    pub(super) packets: u32,
}

/// The choice of what is dropped. Of entries with as many packets as `n`, each `n`th is.
#[derive(Debug)]
pub struct DropEntry {
    random: fastrand::Rng,
    countdown: [u32; FEW_PACKETS as usize + 1],
}

impl DropEntry {
    /// Chooses by `seed`.
    pub fn new(seed: u64) -> DropEntry {
        DropEntry { random: fastrand::Rng::with_seed(seed), countdown: Default::default() }
    }

    /// Which of `parts` are looked at this time: one in 32, at random, and perhaps one of them twice.
    pub(super) fn parts(&mut self, parts: usize) -> Vec<usize> {
        let count = (parts + self.random.usize(..SHARE)) / SHARE;
        (0..count).map(|_| self.random.usize(..parts)).collect()
    }

    /// Whether the entry is to be dropped.
    pub(super) fn drops(&mut self, worth: Worth, age: Age, now: Time) -> bool {
        match worth {
            Worth::Nothing => true,
            Worth::Little => now + age.timeout >= age.deadline + IDLE && self.has_its_turn(age.packets),
            Worth::Much => false,
        }
    }

    fn has_its_turn(&mut self, packets: u32) -> bool {
        if !(1..=FEW_PACKETS).contains(&packets) {
            return false;
        }
        let left = &mut self.countdown[packets as usize];
        let has_turn = *left <= 1;
        *left = if has_turn { packets } else { *left - 1 };
        has_turn
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn half_open_connections_are_worth_nothing_and_closing_ones_are_kept() {
        use SctpState::{Closed, CookieSent, Init, Init1};
        use TcpState::{CloseWait, FinWait, SynAck, SynRecv, SynSent, TimeWait};
        for half_open in [SynRecv, SynAck].map(State::Tcp).into_iter().chain([Init1, Init].map(State::Sctp)) {
            assert_eq!(Worth::of(half_open), Worth::Nothing, "{half_open}");
        }
        let established =
            [State::Tcp(TcpState::Established), State::Sctp(SctpState::Established), State::Udp];
        for established in established {
            assert_eq!(Worth::of(established), Worth::Little, "{established}");
        }
        let others = [TcpState::None, SynSent, FinWait, TimeWait, TcpState::Close, CloseWait].map(State::Tcp);
        for other in others.into_iter().chain([SctpState::None, CookieSent, Closed].map(State::Sctp)) {
            assert_eq!(Worth::of(other), Worth::Much, "{other}");
        }
    }

    #[test]
    fn a_thirty_second_of_the_parts_is_looked_at_on_average() {
        let mut choice = DropEntry::new(7);
        for parts in [0, 1, 31, 32, 100, 4096] {
            let rounds = 32_000;
            let looked_at: usize = (0..rounds).map(|_| choice.parts(parts).len()).sum();
            let expected = parts * rounds / SHARE;
            assert!(looked_at.abs_diff(expected) <= expected / 10, "{parts}: {looked_at} for {expected}");
        }
        assert!(choice.parts(4096).iter().all(|&part| part < 4096));
    }

    #[test]
    fn of_idle_entries_each_nth_of_those_with_n_packets_is_dropped() {
        let now = Time::from_millis(1_000_000);
        let timeout = Duration::from_secs(300);
        let age =
            |idle, packets| Age { timeout, deadline: now + (timeout - Duration::from_secs(idle)), packets };
        for (packets, expected) in [(0, 0), (1, 24), (2, 12), (3, 8), (8, 3), (9, 0), (255, 0)] {
            let mut choice = DropEntry::new(7);
            let mut drop = |idle| choice.drops(Worth::Little, age(idle, packets), now);
            assert_eq!((0..100).filter(|_| drop(59)).count(), 0, "not idle for a minute: {packets}");
            assert_eq!((0..24).filter(|_| drop(60)).count(), expected, "{packets}");
        }
        let mut choice = DropEntry::new(7);
        assert!(choice.drops(Worth::Nothing, age(0, 0), now));
        assert!(!choice.drops(Worth::Much, age(300, 1), now));
    }
}
