//! The hash of everything that clients choose, keyed so that they cannot aim at one bucket.

use foldhash::SharedSeed;
use foldhash::quality::{FoldHasher, SeedableRandomState};
use std::hash::BuildHasher;

/// Hashes with a seed that is fixed for the life of a director.
#[derive(Clone, Debug)]
pub struct TableHasher(SeedableRandomState);

impl TableHasher {
    /// A hasher for `seed`.
    pub fn new(seed: u64) -> TableHasher {
        // foldhash wants its shared part to live for ever; so does a director. 48 bytes for each.
        let shared: &'static SharedSeed = Box::leak(Box::new(SharedSeed::from_u64(seed)));
        TableHasher(SeedableRandomState::with_seed(seed.rotate_left(32), shared))
    }
}

impl BuildHasher for TableHasher {
    type Hasher = FoldHasher<'static>;

    fn build_hasher(&self) -> FoldHasher<'static> {
        self.0.build_hasher()
    }
}
