//! Which master a backup asks for its table, and when. Pure: time is an argument.
//!
//! A master is asked once it is first heard; again once messages of it are known to be lost, by the numbers that they have
//! with keys, or because it was silent for longer than its offers are apart; and again after a failure. It is asked at
//! leisure: a link that loses messages under load is not relieved by whole tables.

use super::Failure;
use super::guest::Progress;
use crate::daemon::api::SyncTableState;
use crate::director::Time;
use std::collections::BTreeMap;
use std::error::Error;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

/// How many masters are told apart.
const MOST: usize = 32;
/// A master that was silent for longer was away, or its messages were.
const SILENCE: Duration = Duration::from_secs(5);
/// How long messages that seem lost may be late.
const LATE: Duration = Duration::from_secs(1);
/// How long a master is left alone after a failure.
const AFTER_FAILURE: Duration = Duration::from_secs(5);
/// How long it is after a table, at least, and at most: each that is wanted for losses soon after another doubles it.
const AFTER_TABLE: Duration = Duration::from_secs(10);
const LONGEST: Duration = Duration::from_secs(320);
const SOON: Duration = Duration::from_secs(60);

/// What is known of the masters that can be asked.
#[derive(Debug, Default)]
pub(in crate::daemon::sync) struct Plan(BTreeMap<IpAddr, Asked>);

/// A master that can be asked, and what has come of it.
#[derive(Debug)]
pub(in crate::daemon::sync) struct Asked {
    at: SocketAddr,
    session: u64,
    heard: Time,
    is_wanted: bool,
    not_before: Time,
    pause: Duration,
    /// Messages that have not come since the table was asked for, and when that last changed.
    missing: u64,
    changed: Time,
    /// How far its table has come.
    pub state: SyncTableState,
    /// Since when.
    pub since: Time,
    /// When it was last asked.
    pub begun: Time,
    /// How much of the table has come.
    pub progress: Progress,
    /// Why the last one did not come to its end.
    pub error: Option<String>,
    /// Tables that came to their end.
    pub complete: u64,
    /// Those that did not, by the name of the reason.
    pub failed: BTreeMap<&'static str, u64>,
}

impl Asked {
    fn new(at: SocketAddr, session: u64, now: Time) -> Asked {
        Asked {
            at,
            session,
            heard: now,
            is_wanted: true,
            not_before: now,
            pause: AFTER_TABLE,
            missing: 0,
            changed: now,
            state: SyncTableState::Waiting,
            since: now,
            begun: now,
            progress: Progress::default(),
            error: None,
            complete: 0,
            failed: BTreeMap::new(),
        }
    }

    /// Whether it is being asked.
    pub(in crate::daemon::sync) fn is_running(&self) -> bool {
        matches!(self.state, SyncTableState::Asking | SyncTableState::Receiving)
    }

    fn is_due(&self, now: Time) -> bool {
        let has_lost = self.missing > 0 && now.since(self.changed) >= LATE;
        (self.is_wanted || has_lost) && now >= self.not_before && now.since(self.heard) <= SILENCE
    }

    fn go_over(&mut self, state: SyncTableState, now: Time) {
        (self.state, self.since) = (state, now);
    }
}

impl Plan {
    /// The masters.
    pub(in crate::daemon::sync) fn masters(&self) -> impl Iterator<Item = (IpAddr, &Asked)> {
        self.0.iter().map(|(address, asked)| (*address, asked))
    }

    /// Notes that a master can be asked, which says so each second.
    pub(in crate::daemon::sync) fn note_offer(
        &mut self,
        sender: SocketAddr,
        port: u16,
        session: u64,
        now: Time,
    ) {
        let mut at = sender;
        at.set_port(port);
        let is_full = self.0.len() >= MOST;
        let Some(asked) = self.0.get_mut(&sender.ip()) else {
            if !is_full {
                self.0.insert(sender.ip(), Asked::new(at, session, now));
            }
            return;
        };
        // One that has begun anew has an empty table, or one that it was told of here.
        asked.is_wanted |= asked.session == session && now.since(asked.heard) > SILENCE;
        if asked.session != session {
            asked.missing = 0;
        }
        (asked.at, asked.session, asked.heard) = (at, session, now);
    }

    /// Notes how many more messages of a master have not come; less than none if some came late.
    pub(in crate::daemon::sync) fn note_lost(&mut self, master: IpAddr, lost: i64, now: Time) {
        if let Some(asked) = self.0.get_mut(&master).filter(|_| lost != 0) {
            asked.missing = asked.missing.saturating_add_signed(lost);
            asked.changed = now;
        }
    }

    /// Where to ask now, if a master is to be asked.
    pub(in crate::daemon::sync) fn next(&mut self, now: Time) -> Option<SocketAddr> {
        let asked = self.0.values_mut().find(|asked| asked.is_due(now))?;
        let is_soon = asked.complete > 0 && now.since(asked.since) < asked.pause + SOON;
        let has_lost = !asked.is_wanted;
        asked.pause = if is_soon && has_lost { (asked.pause * 2).min(LONGEST) } else { AFTER_TABLE };
        asked.missing = 0;
        asked.begun = now;
        asked.progress = Progress::default();
        asked.go_over(SyncTableState::Asking, now);
        Some(asked.at)
    }

    /// Notes how far a table has come.
    pub(in crate::daemon::sync) fn note_progress(&mut self, master: IpAddr, progress: Progress, now: Time) {
        let Some(asked) = self.0.get_mut(&master) else { return };
        asked.progress = progress;
        if asked.state == SyncTableState::Asking {
            asked.go_over(SyncTableState::Receiving, now);
        }
    }

    /// Notes what came of it in the end. Whether that is another failure than the last time.
    pub(in crate::daemon::sync) fn note_end(
        &mut self,
        master: IpAddr,
        came: &Result<Progress, Failure>,
        now: Time,
    ) -> bool {
        let Some(asked) = self.0.get_mut(&master) else { return false };
        match came {
            Ok(progress) => {
                asked.go_over(SyncTableState::Complete, now);
                (asked.progress, asked.error, asked.is_wanted) = (*progress, None, false);
                asked.complete += 1;
                asked.not_before = now + asked.pause;
                false
            }
            Err(failure) => {
                let error = Some(describe(failure));
                let is_news = asked.error != error;
                asked.go_over(SyncTableState::Failed, now);
                (asked.error, asked.is_wanted) = (error, true);
                *asked.failed.entry(failure.name()).or_default() += 1;
                asked.not_before = now + AFTER_FAILURE;
                is_news
            }
        }
    }
}

/// A failure with what the system says of it.
pub(in crate::daemon::sync) fn describe(failure: &Failure) -> String {
    match failure.source() {
        Some(source) => format!("{failure}: {source}"),
        None => failure.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SENDER: &str = "10.0.9.1:40000";
    const DESK: &str = "10.0.9.1:8848";

    /// A plan, and a clock that its master's offers come by.
    struct Bench {
        plan: Plan,
        now: Time,
        session: u64,
    }

    impl Bench {
        fn new() -> Bench {
            let mut bench = Bench { plan: Plan::default(), now: Time::from_millis(5_000), session: 1 };
            bench.offer();
            bench
        }

        fn offer(&mut self) {
            self.plan.note_offer(SENDER.parse().unwrap(), 8848, self.session, self.now);
        }

        /// Seconds with an offer in each; how many went by until a master was to be asked, if that came.
        fn wait(&mut self, seconds: u64) -> Option<u64> {
            for second in 0..=seconds {
                if let Some(master) = self.plan.next(self.now) {
                    assert_eq!(master, DESK.parse().unwrap());
                    return Some(second);
                }
                self.now = self.now + Duration::from_secs(1);
                self.offer();
            }
            None
        }

        fn end(&mut self, came: &Result<Progress, Failure>) -> bool {
            self.plan.note_end(self.master(), came, self.now)
        }

        fn lose(&mut self, lost: i64) {
            self.plan.note_lost(self.master(), lost, self.now);
        }

        fn master(&self) -> IpAddr {
            SENDER.parse::<SocketAddr>().unwrap().ip()
        }

        fn state(&self) -> SyncTableState {
            self.plan.masters().next().unwrap().1.state
        }
    }

    #[test]
    fn a_master_is_asked_once_it_is_heard_and_not_again() {
        let mut bench = Bench::new();
        assert_eq!(bench.state(), SyncTableState::Waiting);
        assert_eq!(bench.wait(0), Some(0));
        assert_eq!(bench.state(), SyncTableState::Asking);
        bench.plan.note_progress(bench.master(), Progress::default(), bench.now);
        assert_eq!(bench.state(), SyncTableState::Receiving);
        assert!(!bench.end(&Ok(Progress::default())));
        assert_eq!(bench.wait(1_000), None);
        bench.session = 2;
        assert_eq!(bench.wait(1_000), None, "it has begun anew");
        assert_eq!(bench.state(), SyncTableState::Complete);
    }

    #[test]
    fn after_a_failure_it_is_asked_again_while_it_is_heard() {
        let mut bench = Bench::new();
        assert_eq!(bench.wait(0), Some(0));
        assert!(bench.end(&Err(Failure::Ended)), "news");
        assert_eq!(bench.wait(60), Some(5));
        assert!(!bench.end(&Err(Failure::Ended)), "no news");
        bench.now = bench.now + Duration::from_secs(60);
        assert_eq!(bench.plan.next(bench.now), None, "it is not heard");
        bench.session = 2;
        bench.offer();
        assert_eq!(bench.wait(0), Some(0));
        assert!(bench.end(&Err(Failure::Silent)));
        let (_, asked) = bench.plan.masters().next().unwrap();
        assert_eq!(asked.failed, [("ended", 2), ("silent", 1)].into());
        assert_eq!(asked.error.as_deref(), Some("the other director has fallen silent"));
    }

    #[test]
    fn losses_are_made_good_at_leisure() {
        let mut bench = Bench::new();
        assert_eq!(bench.wait(0), Some(0));
        bench.end(&Ok(Progress::default()));
        bench.lose(2);
        bench.lose(-2);
        assert_eq!(bench.wait(100), None, "they were late");
        bench.lose(3);
        assert_eq!(bench.wait(100), Some(1), "they may be late");
        bench.end(&Ok(Progress::default()));
        for pause in [10, 20, 40, 80, 160, 320, 320] {
            bench.lose(1);
            assert_eq!(bench.wait(1_000), Some(pause));
            bench.end(&Ok(Progress::default()));
        }
        assert_eq!(bench.wait(1_000), None);
        bench.lose(1);
        assert_eq!(bench.wait(100), Some(1));
    }

    #[test]
    fn a_master_that_was_away_is_asked_again() {
        let mut bench = Bench::new();
        assert_eq!(bench.wait(0), Some(0));
        bench.end(&Ok(Progress::default()));
        bench.now = bench.now + Duration::from_secs(60);
        assert_eq!(bench.plan.next(bench.now), None);
        bench.offer();
        assert_eq!(bench.wait(0), Some(0));
    }

    #[test]
    fn more_masters_than_there_can_be_are_none() {
        let mut plan = Plan::default();
        for number in 0..200_u8 {
            plan.note_offer(SocketAddr::from(([10, 0, 9, number], 40_000)), 8848, 1, Time::ZERO);
        }
        assert_eq!(plan.masters().count(), MOST);
        plan.note_lost([10, 0, 9, 199].into(), 5, Time::ZERO);
    }
}
