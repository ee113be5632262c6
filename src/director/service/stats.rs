//! Traffic counters and rates of a virtual service, a real server, or all of them (`struct ip_vs_stats`).

use super::estimator::{Estimator, Rates};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Counters that workers add to and everybody may read, and what was made of them.
///
/// The counters themselves never go back. Zeroing remembers where they were.
#[derive(Debug, Default)]
pub struct Stats {
    conns: AtomicU64,
    in_packets: AtomicU64,
    in_bytes: AtomicU64,
    out_packets: AtomicU64,
    out_bytes: AtomicU64,
    reading: Mutex<Reading>,
}

/// What is remembered of the counters; no packet takes its lock.
#[derive(Debug, Default)]
struct Reading {
    zero: StatsSnapshot,
    estimator: Estimator,
}

/// The counters at one moment. Bytes are IP packet lengths, headers included.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StatsSnapshot {
    /// Connections scheduled.
    pub conns: u64,
    /// Packets from clients.
    pub in_packets: u64,
    /// Bytes from clients.
    pub in_bytes: u64,
    /// Packets to clients.
    pub out_packets: u64,
    /// Bytes to clients.
    pub out_bytes: u64,
}

impl StatsSnapshot {
    fn since(&self, earlier: &StatsSnapshot) -> StatsSnapshot {
        StatsSnapshot {
            conns: self.conns - earlier.conns,
            in_packets: self.in_packets - earlier.in_packets,
            in_bytes: self.in_bytes - earlier.in_bytes,
            out_packets: self.out_packets - earlier.out_packets,
            out_bytes: self.out_bytes - earlier.out_bytes,
        }
    }
}

impl Stats {
    /// Counts a scheduled connection.
    pub fn count_conn(&self) {
        self.conns.fetch_add(1, Ordering::Relaxed);
    }

    /// Counts a packet of `bytes` from a client.
    pub fn count_in(&self, bytes: usize) {
        self.in_packets.fetch_add(1, Ordering::Relaxed);
        self.in_bytes.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    /// Counts a packet of `bytes` to a client.
    pub fn count_out(&self, bytes: usize) {
        self.out_packets.fetch_add(1, Ordering::Relaxed);
        self.out_bytes.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    /// Starts again from zero, without rates (`ip_vs_zero_stats`). Counters and rates are of what comes from now on.
    pub fn zero(&self) {
        let mut reading = self.reading();
        let zero = self.counted();
        *reading = Reading { zero, estimator: Estimator::starting_at(&zero) };
    }

    /// Brings the rates up to date; to be called every two seconds.
    pub fn sample(&self) {
        let mut reading = self.reading();
        reading.estimator.sample(&self.counted());
    }

    /// Takes the rates up again where they were left, without what was counted meanwhile.
    pub fn resume(&self) {
        let mut reading = self.reading();
        reading.estimator.skip(&self.counted());
    }

    /// The counters now.
    pub fn snapshot(&self) -> StatsSnapshot {
        let reading = self.reading();
        self.counted().since(&reading.zero)
    }

    /// The rates of the last [`sample`](Stats::sample).
    pub fn rates(&self) -> Rates {
        self.reading().estimator.rates()
    }

    /// All that was ever counted. Asked with the lock held, it is never less than what was remembered before.
    fn counted(&self) -> StatsSnapshot {
        StatsSnapshot {
            conns: self.conns.load(Ordering::Relaxed),
            in_packets: self.in_packets.load(Ordering::Relaxed),
            in_bytes: self.in_bytes.load(Ordering::Relaxed),
            out_packets: self.out_packets.load(Ordering::Relaxed),
            out_bytes: self.out_bytes.load(Ordering::Relaxed),
        }
    }

    fn reading(&self) -> MutexGuard<'_, Reading> {
        self.reading.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn zeroed_counters_and_rates_know_only_what_comes_after() {
        let stats = Stats::default();
        let ten_packets = || (0..10).for_each(|_| stats.count_in(300));
        ten_packets();
        stats.sample();
        assert_eq!(stats.rates(), Rates { in_packets: 1, in_bytes: 375, ..Rates::default() });
        // These have not been sampled yet, and never will be.
        ten_packets();
        stats.zero();
        assert_eq!((stats.snapshot(), stats.rates()), Default::default());
        stats.sample();
        assert_eq!(stats.rates(), Rates::default());

        ten_packets();
        stats.count_conn();
        stats.count_out(40);
        let counted =
            StatsSnapshot { conns: 1, in_packets: 10, in_bytes: 3000, out_packets: 1, out_bytes: 40 };
        assert_eq!(stats.snapshot(), counted);
        stats.sample();
        assert_eq!(stats.rates(), Rates { in_packets: 1, in_bytes: 375, out_bytes: 5, ..Rates::default() });
        assert_eq!(stats.snapshot(), counted, "a sample leaves the counters alone");
    }
}
