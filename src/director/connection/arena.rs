//! Storage for a shard's entries: fixed chunks, so that growth never copies and never doubles.

const CHUNK: usize = 256;

/// Entries under small numbers that stay valid until removed.
#[derive(Debug)]
pub(super) struct Arena<T> {
    chunks: Vec<Vec<Slot<T>>>,
    free: Option<u32>,
    len: usize,
}

#[derive(Debug)]
enum Slot<T> {
    Used(T),
    Free { next: Option<u32> },
}

impl<T> Arena<T> {
    pub(super) fn new() -> Arena<T> {
        Arena { chunks: Vec::new(), free: None, len: 0 }
    }

    pub(super) fn len(&self) -> usize {
        self.len
    }

    pub(super) fn insert(&mut self, value: T) -> u32 {
        self.len += 1;
        if let Some(index) = self.free {
            let slot = self.slot_mut(index);
            let Slot::Free { next } = *slot else { unreachable!("the free list holds free slots only") };
            *slot = Slot::Used(value);
            self.free = next;
            return index;
        }
        if self.chunks.last().is_none_or(|chunk| chunk.len() == CHUNK) {
            self.chunks.push(Vec::with_capacity(CHUNK));
        }
        let chunk_number = self.chunks.len() - 1;
        let chunk = &mut self.chunks[chunk_number];
        chunk.push(Slot::Used(value));
        u32::try_from(chunk_number * CHUNK + chunk.len() - 1).expect("a shard holds less than 2^32 entries")
    }

    pub(super) fn remove(&mut self, index: u32) -> T {
        let next = self.free;
        let slot = std::mem::replace(self.slot_mut(index), Slot::Free { next });
        let Slot::Used(value) = slot else { panic!("entry {index} is not in use") };
        self.free = Some(index);
        self.len -= 1;
        value
    }

    /// The entry under a number that may have been removed.
    pub(super) fn find(&self, index: u32) -> Option<&T> {
        match self.chunks.get(index as usize / CHUNK)?.get(index as usize % CHUNK)? {
            Slot::Used(value) => Some(value),
            Slot::Free { .. } => None,
        }
    }

    pub(super) fn get(&self, index: u32) -> &T {
        let Slot::Used(value) = &self.chunks[index as usize / CHUNK][index as usize % CHUNK] else {
            panic!("entry {index} is not in use")
        };
        value
    }

    pub(super) fn get_mut(&mut self, index: u32) -> &mut T {
        let Slot::Used(value) = self.slot_mut(index) else { panic!("entry {index} is not in use") };
        value
    }

    pub(super) fn indices(&self) -> impl Iterator<Item = u32> + '_ {
        (0..self.chunks.len()).flat_map(|chunk| self.indices_of(chunk))
    }

    /// How many chunks there are.
    pub(super) fn chunks(&self) -> usize {
        self.chunks.len()
    }

    /// The numbers in use in a chunk, which must be there.
    pub(super) fn indices_of(&self, chunk: usize) -> impl Iterator<Item = u32> + '_ {
        self.chunks[chunk].iter().enumerate().filter_map(move |(offset, slot)| match slot {
            Slot::Used(_) => Some((chunk * CHUNK + offset) as u32),
            Slot::Free { .. } => None,
        })
    }

    fn slot_mut(&mut self, index: u32) -> &mut Slot<T> {
        &mut self.chunks[index as usize / CHUNK][index as usize % CHUNK]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reuses_what_was_freed_and_keeps_numbers_stable() {
        let mut arena = Arena::new();
        let numbers: Vec<u32> = (0..600).map(|value| arena.insert(value)).collect();
        assert_eq!(arena.remove(numbers[300]), 300);
        assert_eq!(arena.remove(numbers[10]), 10);
        assert_eq!(arena.insert(7000), numbers[10]);
        assert_eq!(arena.insert(7001), numbers[300]);
        assert_eq!((arena.len(), *arena.get(numbers[599])), (600, 599));
        assert_eq!(arena.indices().count(), 600);
    }

    #[test]
    #[should_panic(expected = "not in use")]
    fn a_freed_number_is_refused() {
        let mut arena = Arena::new();
        let number = arena.insert(());
        arena.remove(number);
        arena.get(number);
    }
}
