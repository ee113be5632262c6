//! Weighted random choice, which IPVS does not have: Walker's alias method, with the table built by Vose's ("A Linear
//! Algorithm for Generating Random Numbers with a Given Distribution", 1991), in whole numbers.

use super::{Arrival, DRAWS, Scheduler};
use crate::director::service::RealServer;
use std::sync::Arc;

/// Any eligible server, with chances in proportion to the weights. A choice costs the same for any number of servers, as
/// long as not nearly all of them are full.
#[derive(Debug)]
pub(super) struct Wrandom {
    rng: fastrand::Rng,
    /// The servers of weight 1 or more, each with a column as high as `height`.
    columns: Vec<Column>,
    /// The sum of all weights.
    height: u64,
}

#[derive(Debug)]
struct Column {
    server: Arc<RealServer>,
    /// How much of the column is the server's own.
    own: u64,
    /// The column of the server that has the rest.
    other: usize,
}

impl Wrandom {
    pub(super) fn new(seed: u64) -> Wrandom {
        Wrandom { rng: fastrand::Rng::with_seed(seed), columns: Vec::new(), height: 0 }
    }

    fn draw(&mut self) -> &Arc<RealServer> {
        let drawn = self.rng.usize(..self.columns.len());
        let column = &self.columns[drawn];
        let owner = if self.rng.u64(..self.height) < column.own { drawn } else { column.other };
        &self.columns[owner].server
    }
}

impl Scheduler for Wrandom {
    fn name(&self) -> &'static str {
        "wrandom"
    }

    fn schedule(&mut self, _: &[Arc<RealServer>], _: &Arrival<'_>) -> Option<Arc<RealServer>> {
        if self.columns.is_empty() {
            return None;
        }
        // A draw among all that falls on an eligible server is in proportion among the eligible ones.
        for _ in 0..DRAWS {
            let server = self.draw();
            if server.is_eligible() {
                return Some(Arc::clone(server));
            }
        }
        // Few are eligible. Each replaces the choice with the share of its weight in what there was so far.
        let mut chosen = None;
        let mut seen = 0;
        for Column { server, .. } in &self.columns {
            let weight = u64::from(server.weight().get());
            if weight > 0 && !server.is_overloaded() {
                seen += weight;
                if self.rng.u64(..seen) < weight {
                    chosen = Some(server);
                }
            }
        }
        chosen.cloned()
    }

    /// All columns together are as high as the weights times their number. A server that does not fill its column shares
    /// it with one that has too much for its own.
    fn rebuild(&mut self, servers: &[Arc<RealServer>]) {
        let weight = |server: &RealServer| u64::from(server.weight().get());
        self.columns.clear();
        self.columns.extend(
            servers.iter().filter(|server| weight(server) > 0).enumerate().map(|(other, server)| Column {
                server: Arc::clone(server),
                own: weight(server),
                other,
            }),
        );
        self.height = self.columns.iter().map(|column| column.own).sum();
        let count = self.columns.len() as u64;
        self.columns.iter_mut().for_each(|column| column.own *= count);
        let (mut short, mut tall): (Vec<usize>, Vec<usize>) =
            (0..self.columns.len()).partition(|&index| self.columns[index].own < self.height);
        while let (Some(&giver), Some(taker)) = (tall.last(), short.pop()) {
            self.columns[taker].other = giver;
            self.columns[giver].own -= self.height - self.columns[taker].own;
            if self.columns[giver].own < self.height {
                tall.pop();
                short.push(giver);
            }
        }
    }
}
