//! Finds the entries of an arena by the hash of their keys.
//!
//! It keeps the hashes, so that it grows without looking at the entries: those of a large shard are far apart in memory,
//! and packets would wait for all of them. They lie beside the table, which packets look into and which stays small.

use hashbrown::HashTable;

/// The numbers of entries, by hash.
#[derive(Debug, Default)]
pub(super) struct Index {
    table: HashTable<u32>,
    /// By the entry's number; of those that are not in the table, whatever was there.
    hashes: Vec<u32>,
}

impl Index {
    /// How many entries are in it.
    pub(super) fn len(&self) -> usize {
        self.table.len()
    }

    /// The entry of this hash that `is_meant`.
    pub(super) fn find(&self, hash: u64, is_meant: impl Fn(u32) -> bool) -> Option<u32> {
        self.table.find(wide(hash as u32), |&entry| is_meant(entry)).copied()
    }

    /// Files an entry that is not in it.
    pub(super) fn insert(&mut self, hash: u64, entry: u32) {
        let (hash, place) = (hash as u32, entry as usize);
        if place >= self.hashes.len() {
            self.hashes.resize(place + 1, 0);
        }
        self.hashes[place] = hash;
        self.table.insert_unique(wide(hash), entry, |&entry| wide(self.hashes[entry as usize]));
    }

    /// Takes an entry out.
    ///
    /// # Panics
    /// If it is not in it.
    pub(super) fn remove(&mut self, entry: u32) {
        let hash = wide(self.hashes[entry as usize]);
        let found = self.table.find_entry(hash, |&filed| filed == entry);
        found.expect("what is taken out was filed").remove();
    }
}

/// The table takes places from the lower end of a hash, and what it tells entries apart by from the upper one.
fn wide(hash: u32) -> u64 {
    u64::from(hash) << 32 | u64::from(hash)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_are_found_by_hash_and_by_what_they_are_however_many_there_are() {
        let mut index = Index::default();
        // All of them twice under the same hash.
        let hash = |entry: u32| u64::from(entry / 2).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        for entry in 0..10_000 {
            index.insert(hash(entry), entry);
        }
        for entry in (0..10_000).step_by(3) {
            index.remove(entry);
        }
        assert_eq!(index.len(), 6_666);
        for entry in 0..10_000 {
            let found = index.find(hash(entry), |other| other == entry);
            assert_eq!(found, (entry % 3 != 0).then_some(entry));
        }
        assert_eq!(index.find(hash(1), |_| false), None);
        assert_eq!(index.find(hash(10_000), |_| true), None);
    }

    #[test]
    #[should_panic(expected = "was filed")]
    fn what_is_not_there_is_not_taken_out() {
        let mut index = Index::default();
        index.insert(7, 1);
        index.remove(0);
    }
}
