//! Rates: how much was counted in a second lately (`net/netfilter/ipvs/ip_vs_est.c`).
//!
//! An estimator is told the counters every two seconds and keeps a moving average of what was added to each, in which
//! the newest two seconds weigh a quarter. All is done in whole numbers, as in the kernel, so that the same traffic is
//! shown as the same rate: averages have ten binary digits behind the point, those of bytes five.

use super::StatsSnapshot;

/// What was counted in a second, as a moving average.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Rates {
    /// Connections scheduled, a second (`CPS`).
    pub conns: u64,
    /// Packets from clients, a second (`InPPS`).
    pub in_packets: u64,
    /// Packets to clients, a second (`OutPPS`).
    pub out_packets: u64,
    /// Bytes from clients, a second (`InBPS`).
    pub in_bytes: u64,
    /// Bytes to clients, a second (`OutBPS`).
    pub out_bytes: u64,
}

/// The moving averages of one set of counters (`struct ip_vs_estimator`).
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Estimator {
    conns: Average<COUNT_FRACTION>,
    in_packets: Average<COUNT_FRACTION>,
    out_packets: Average<COUNT_FRACTION>,
    in_bytes: Average<BYTE_FRACTION>,
    out_bytes: Average<BYTE_FRACTION>,
}

impl Estimator {
    /// No rates, and what is counted beyond `counters` makes the first ones.
    pub(super) fn starting_at(counters: &StatsSnapshot) -> Estimator {
        Estimator {
            conns: Average::starting_at(counters.conns),
            in_packets: Average::starting_at(counters.in_packets),
            out_packets: Average::starting_at(counters.out_packets),
            in_bytes: Average::starting_at(counters.in_bytes),
            out_bytes: Average::starting_at(counters.out_bytes),
        }
    }

    /// Takes in the counters as they are two seconds after the last time.
    pub(super) fn sample(&mut self, counters: &StatsSnapshot) {
        self.conns.sample(counters.conns);
        self.in_packets.sample(counters.in_packets);
        self.out_packets.sample(counters.out_packets);
        self.in_bytes.sample(counters.in_bytes);
        self.out_bytes.sample(counters.out_bytes);
    }

    /// Leaves out what was counted since the last time.
    pub(super) fn skip(&mut self, counters: &StatsSnapshot) {
        self.conns.last = counters.conns;
        self.in_packets.last = counters.in_packets;
        self.out_packets.last = counters.out_packets;
        self.in_bytes.last = counters.in_bytes;
        self.out_bytes.last = counters.out_bytes;
    }

    /// The averages, rounded (`ip_vs_read_estimator`).
    pub(super) fn rates(&self) -> Rates {
        Rates {
            conns: self.conns.per_second(),
            in_packets: self.in_packets.per_second(),
            out_packets: self.out_packets.per_second(),
            in_bytes: self.in_bytes.per_second(),
            out_bytes: self.out_bytes.per_second(),
        }
    }
}

/// Binary digits behind the point, for connections and packets.
const COUNT_FRACTION: u32 = 10;
/// Binary digits behind the point, for bytes.
const BYTE_FRACTION: u32 = 5;

/// The moving average of one counter's growth in a second, with `FRACTION` binary digits behind the point.
#[derive(Clone, Copy, Debug, Default)]
struct Average<const FRACTION: u32> {
    last: u64,
    scaled: u64,
}

impl<const FRACTION: u32> Average<FRACTION> {
    fn starting_at(counter: u64) -> Self {
        Average { last: counter, scaled: 0 }
    }

    /// The counter has never gone back: it does not wrap, as 2^64 bytes take 46 years at 100 Gbit/s, and two seconds
    /// add so little that no digit is lost at the upper end.
    fn sample(&mut self, counter: u64) {
        let rate = (counter - self.last) << (FRACTION - 1);
        self.last = counter;
        // Rounded down, also where it is negative: an average without traffic ends at 0.
        let change = (rate.cast_signed() - self.scaled.cast_signed()) >> 2;
        self.scaled = self.scaled.saturating_add_signed(change);
    }

    /// Rounded to the nearest; a half goes down.
    fn per_second(self) -> u64 {
        (self.scaled + (1 << (FRACTION - 1)) - 1) >> FRACTION
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is shown after each sample, when these amounts were added before it. Computed by hand from
    /// `average += (rate - average) >> 2`.
    #[test]
    fn averages_are_those_of_the_kernel() {
        fn shown<const FRACTION: u32>(added: &[u64]) -> Vec<(u64, u64)> {
            let mut average = Average::<FRACTION>::default();
            let mut counter = 0;
            added
                .iter()
                .map(|added| {
                    counter += added;
                    average.sample(counter);
                    (average.scaled, average.per_second())
                })
                .collect()
        }
        let rows = [
            (
                "200 in two seconds are 102400; a quarter of the rest of the way each time",
                shown::<COUNT_FRACTION>(&[200, 200, 200, 200]),
                vec![(25_600, 25), (44_800, 44), (59_200, 58), (70_000, 68)],
            ),
            (
                "without traffic a quarter goes, rounded in favour of going",
                shown::<COUNT_FRACTION>(&[200, 0, 0, 0, 0, 0]),
                vec![(25_600, 25), (19_200, 19), (14_400, 14), (10_800, 11), (8100, 8), (6075, 6)],
            ),
            ("one packet is no packet a second", shown::<COUNT_FRACTION>(&[1, 0]), vec![(128, 0), (96, 0)]),
            ("a half goes down", shown::<COUNT_FRACTION>(&[4]), vec![(512, 0)]),
            ("more than a half goes up", shown::<COUNT_FRACTION>(&[5]), vec![(640, 1)]),
            (
                "bytes have five digits behind the point",
                shown::<BYTE_FRACTION>(&[3000, 3000, 0]),
                vec![(12_000, 375), (21_000, 656), (15_750, 492)],
            ),
            (
                "the smallest average ends, too",
                shown::<BYTE_FRACTION>(&[1, 0, 0, 0, 0]),
                vec![(4, 0), (3, 0), (2, 0), (1, 0), (0, 0)],
            ),
        ];
        for (says, shown, expected) in rows {
            assert_eq!(shown, expected, "{says}");
        }
    }

    #[test]
    fn a_steady_rate_is_reached_and_silence_ends_at_nothing() {
        let mut average = Average::<COUNT_FRACTION>::default();
        for round in 1..=60 {
            average.sample(round * 200);
        }
        // It stops where a quarter of what is missing is less than one.
        assert_eq!((average.scaled, average.per_second()), (102_397, 100));
        for _ in 0..60 {
            average.sample(60 * 200);
        }
        assert_eq!((average.scaled, average.per_second()), (0, 0));
    }

    #[test]
    fn the_fastest_traffic_there_is_has_its_rate() {
        // 2^44 bytes in two seconds: 70 Tbit/s.
        let mut average = Average::<BYTE_FRACTION>::starting_at(u64::MAX - (1 << 45));
        average.sample(u64::MAX - (1 << 44));
        assert_eq!(average.per_second(), 1 << 41);
    }
}
