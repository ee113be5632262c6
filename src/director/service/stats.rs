//! Traffic counters of a virtual service or a real server (`struct ip_vs_counters`).

use std::sync::atomic::{AtomicU64, Ordering};

/// Counters that workers add to and everybody may read.
#[derive(Debug, Default)]
pub struct Stats {
    conns: AtomicU64,
    in_packets: AtomicU64,
    in_bytes: AtomicU64,
    out_packets: AtomicU64,
    out_bytes: AtomicU64,
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

    /// Starts again from zero.
    pub fn reset(&self) {
        let Stats { conns, in_packets, in_bytes, out_packets, out_bytes } = self;
        for counter in [conns, in_packets, in_bytes, out_packets, out_bytes] {
            counter.store(0, Ordering::Relaxed);
        }
    }

    /// The counters now.
    pub fn snapshot(&self) -> StatsSnapshot {
        StatsSnapshot {
            conns: self.conns.load(Ordering::Relaxed),
            in_packets: self.in_packets.load(Ordering::Relaxed),
            in_bytes: self.in_bytes.load(Ordering::Relaxed),
            out_packets: self.out_packets.load(Ordering::Relaxed),
            out_bytes: self.out_bytes.load(Ordering::Relaxed),
        }
    }
}
