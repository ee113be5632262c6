//! How loaded a real server says it is, and what follows for its weight: for the scheduler `feedback`, which IPVS does
//! not have.

use super::settings::Feedback;
use crate::director::Time;
use crate::director::scheduler::Regulation;
use std::fmt;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// The load of a server as it reports it: 0 idle, 1 as much as it can take, more than that overloaded.
#[derive(Clone, Copy, Debug, PartialEq, PartialOrd)]
pub struct Load(f64);

impl Load {
    /// The largest load; a higher one counts as this, so that no single server can move the mean at will.
    pub const MOST: f64 = 4.0;

    /// The load, if the number is one: finite, and not below 0.
    pub fn new(number: f64) -> Option<Load> {
        (number.is_finite() && number >= 0.0).then_some(Load(number.min(Load::MOST)))
    }

    /// The load that a report says: a decimal number, alone in its first line.
    pub fn from_report(report: &[u8]) -> Option<Load> {
        let line = report.split(|&byte| byte == b'\n').next()?;
        let text = std::str::from_utf8(line).ok()?.trim();
        Load::new(text.parse().ok()?)
    }

    /// The number.
    pub const fn get(self) -> f64 {
        self.0
    }
}

/// By how much a server's weight is multiplied, in steps of 1/1024: small whole weights would be too coarse.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Factor(u32);

impl Factor {
    /// One, as whole as it is counted.
    pub const ONE: Factor = Factor(1024);
    /// The smallest: an eighth. A server that gets nothing would have nothing to report on.
    pub const LEAST: Factor = Factor(128);
    /// The largest: two. A server that fails fast says that it is idle, and shall not swallow the service.
    pub const MOST: Factor = Factor(2048);

    /// The factor nearest to the number within the bounds.
    pub fn nearest(number: f64) -> Factor {
        let bounded = number.clamp(Factor::LEAST.get(), Factor::MOST.get());
        Factor((bounded * f64::from(Factor::ONE.0)).round() as u32)
    }

    /// The number.
    pub fn get(self) -> f64 {
        f64::from(self.0) / f64::from(Factor::ONE.0)
    }

    /// The number times 1024.
    pub const fn in_1024ths(self) -> u32 {
        self.0
    }
}

impl fmt::Display for Factor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:.3}", self.get())
    }
}

/// What a server's reports have come to.
///
/// Packets read two numbers, the factor and until when it counts: nothing has to happen for it to end. All else has a
/// mutex that no packet takes.
#[derive(Debug)]
pub struct ReportedLoad {
    factor: AtomicU32,
    /// Milliseconds of [`Time`]; 0: never was one.
    fresh_until: AtomicU64,
    received: AtomicU64,
    missed: AtomicU64,
    regulation: Mutex<Option<Regulation>>,
}

impl Default for ReportedLoad {
    fn default() -> ReportedLoad {
        ReportedLoad {
            factor: AtomicU32::new(Factor::ONE.0),
            fresh_until: AtomicU64::new(0),
            received: AtomicU64::new(0),
            missed: AtomicU64::new(0),
            regulation: Mutex::new(None),
        }
    }
}

impl ReportedLoad {
    /// Whether a report is recent enough to go by.
    pub fn is_fresh(&self, now: Time) -> bool {
        now.as_millis() < self.fresh_until.load(Ordering::Relaxed)
    }

    /// By how much the weight is multiplied now; by one where there is no fresh report.
    pub fn factor(&self, now: Time) -> Factor {
        if self.is_fresh(now) { Factor(self.factor.load(Ordering::Relaxed)) } else { Factor::ONE }
    }

    /// Changes the factor; it counts for as long as reports are fresh.
    pub fn set_factor(&self, factor: Factor) {
        self.factor.store(factor.0, Ordering::Relaxed);
    }

    /// The load, smoothed; `None`: there is no fresh report.
    pub fn smoothed(&self, now: Time) -> Option<f64> {
        let regulation = self.regulation();
        regulation.filter(|_| self.is_fresh(now)).map(|regulation| regulation.load())
    }

    /// Takes a report in. After a pause in which reports were not fresh, it is the first of a new series.
    pub fn note(&self, load: Load, feedback: &Feedback, now: Time) {
        self.received.fetch_add(1, Ordering::Relaxed);
        let mut regulation = self.regulation();
        match regulation.as_mut().filter(|_| self.is_fresh(now)) {
            Some(regulation) => regulation.note(load, feedback.interval, now),
            None => {
                *regulation = Some(Regulation::new(load, now));
                self.set_factor(Factor::ONE);
            }
        }
        let fresh_until = (now + feedback.fresh_for()).as_millis();
        self.fresh_until.store(fresh_until, Ordering::Relaxed);
    }

    /// Counts a report that did not come, or said nothing.
    pub fn note_missed(&self) {
        self.missed.fetch_add(1, Ordering::Relaxed);
    }

    /// How many reports came, and how many did not or said nothing.
    pub fn counts(&self) -> (u64, u64) {
        (self.received.load(Ordering::Relaxed), self.missed.load(Ordering::Relaxed))
    }

    /// What the control law knows; nothing before the first report.
    pub(in crate::director) fn regulation(&self) -> MutexGuard<'_, Option<Regulation>> {
        self.regulation.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::director::service::LoadSource;
    use proptest::prelude::*;
    use std::time::Duration;

    #[test]
    fn a_report_is_a_number_in_the_first_line() {
        for (report, load) in [
            ("0", Some(0.0)),
            ("0.25\n", Some(0.25)),
            (" 1.5 \r\nand more", Some(1.5)),
            ("1e-2", Some(0.01)),
            ("-0", Some(0.0)),
            ("4.1", Some(4.0)),
            ("1e300", Some(4.0)),
            ("", None),
            ("\n0.5", None),
            ("-0.1", None),
            ("NaN", None),
            ("inf", None),
            ("1e999", None),
            ("0,5", None),
            ("0.5 0.7", None),
            ("50%", None),
            ("{\"load\": 0.5}", None),
        ] {
            assert_eq!(Load::from_report(report.as_bytes()).map(Load::get), load, "{report:?}");
        }
        assert_eq!(Load::from_report(b"0.5\xff"), None);
        assert_eq!(Load::from_report(b"0.5\n\xff").map(Load::get), Some(0.5));
    }

    proptest! {
        #[test]
        fn whatever_is_reported_is_a_load_within_bounds_or_none(report in prop::collection::vec(any::<u8>(), 0..32)) {
            if let Some(load) = Load::from_report(&report) {
                prop_assert!((0.0..=Load::MOST).contains(&load.get()), "{load:?}");
            }
        }

        #[test]
        fn whatever_number_is_reported_is_a_load_or_none(number in any::<f64>()) {
            let load = Load::from_report(format!("{number}\n").as_bytes());
            prop_assert_eq!(load.is_some(), number.is_finite() && number >= 0.0);
        }
    }

    #[test]
    fn factors_have_bounds() {
        for (number, in_1024ths) in
            [(1.0, 1024), (0.5, 512), (0.001, 128), (-1.0, 128), (17.0, 2048), (f64::INFINITY, 2048)]
        {
            assert_eq!(Factor::nearest(number).in_1024ths(), in_1024ths, "{number}");
        }
        assert_eq!(Factor::nearest(1.2345).to_string(), "1.234");
    }

    #[test]
    fn reports_count_for_three_intervals() {
        let source = LoadSource::File("/run/load/{address}".to_owned());
        let feedback = Feedback { source, interval: Duration::from_secs(2) };
        let (reported, at) = (ReportedLoad::default(), Time::from_millis);
        let load = Load::new(0.5).unwrap();
        assert_eq!((reported.factor(at(0)), reported.smoothed(at(0))), (Factor::ONE, None));
        reported.note(load, &feedback, at(1_000));
        reported.set_factor(Factor::LEAST);
        assert_eq!((reported.factor(at(6_999)), reported.smoothed(at(6_999))), (Factor::LEAST, Some(0.5)));
        assert_eq!((reported.factor(at(7_000)), reported.smoothed(at(7_000))), (Factor::ONE, None));
        // What was before the pause counts no more.
        reported.note(Load::new(0.1).unwrap(), &feedback, at(7_000));
        assert_eq!((reported.factor(at(7_001)), reported.smoothed(at(7_001))), (Factor::ONE, Some(0.1)));
        reported.note_missed();
        assert_eq!(reported.counts(), (2, 1));
    }
}
