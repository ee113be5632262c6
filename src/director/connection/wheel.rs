//! A timing wheel: entries filed by the second in which they may expire.
//!
//! A packet only moves an entry's deadline; the entry is filed anew when its slot comes up and it turns out to have
//! time left, or at once when its deadline moved before its slot. So the common packet costs no list operation.

use super::arena::Arena;
use crate::director::Time;

const SLOTS: u64 = 1024;
/// A slot is 1,024 ms wide, so the wheel reaches 17 minutes; later deadlines wait in the last slot.
const SLOT_SHIFT: u32 = 10;

/// Where an entry stands in the wheel, and when it expires.
#[derive(Debug)]
pub(super) struct Timer {
    deadline: Time,
    filed: u32,
    previous: Option<Link>,
    next: Option<Link>,
}

impl Timer {
    pub(super) fn unfiled() -> Timer {
        Timer { deadline: Time::ZERO, filed: 0, previous: None, next: None }
    }

    pub(super) fn deadline(&self) -> Time {
        self.deadline
    }
}

/// An arena number that fits `Option` in four bytes.
type Link = std::num::NonZeroU32;

fn link(index: u32) -> Link {
    Link::new(index + 1).expect("one more than an index is not zero")
}

fn index(link: Link) -> u32 {
    link.get() - 1
}

/// An entry that can be filed.
pub(super) trait Timed {
    fn timer(&self) -> &Timer;
    fn timer_mut(&mut self) -> &mut Timer;
}

#[derive(Debug)]
pub(super) struct Wheel {
    heads: Box<[Option<Link>]>,
    /// The first slot that has not been swept.
    current: u64,
}

impl Wheel {
    pub(super) fn new() -> Wheel {
        Wheel { heads: vec![None; SLOTS as usize].into_boxed_slice(), current: 0 }
    }

    /// Files a new entry.
    pub(super) fn insert<T: Timed>(&mut self, arena: &mut Arena<T>, entry: u32, deadline: Time) {
        arena.get_mut(entry).timer_mut().deadline = deadline;
        self.file(arena, entry);
    }

    /// Changes when an entry expires.
    pub(super) fn reschedule<T: Timed>(&mut self, arena: &mut Arena<T>, entry: u32, deadline: Time) {
        let slot = self.slot_for(deadline);
        let timer = arena.get_mut(entry).timer_mut();
        timer.deadline = deadline;
        if slot < self.absolute(timer.filed) {
            self.unlink(arena, entry);
            self.file(arena, entry);
        }
    }

    /// Takes an entry out, before it is removed from the arena.
    pub(super) fn remove<T: Timed>(&mut self, arena: &mut Arena<T>, entry: u32) {
        self.unlink(arena, entry);
    }

    /// Calls `expired` for every entry whose time has come, with the entry already taken out of the wheel. Sweeps
    /// only slots that are over, so an entry is reported at most a slot's width late.
    pub(super) fn sweep<T: Timed>(
        &mut self,
        arena: &mut Arena<T>,
        now: Time,
        mut expired: impl FnMut(&mut Arena<T>, u32),
    ) {
        let end = now.as_millis() >> SLOT_SHIFT;
        if end.saturating_sub(self.current) > SLOTS {
            // A jump of more than a turn: every slot is due once.
            self.current = end - SLOTS;
        }
        while self.current < end {
            let mut next = self.heads[(self.current % SLOTS) as usize].take();
            self.current += 1;
            while let Some(found) = next {
                let entry = index(found);
                let timer = arena.get_mut(entry).timer_mut();
                next = timer.next.take();
                timer.previous = None;
                if timer.deadline <= now {
                    expired(arena, entry);
                } else {
                    self.file(arena, entry);
                }
            }
        }
    }

    fn slot_for(&self, deadline: Time) -> u64 {
        (deadline.as_millis() >> SLOT_SHIFT).clamp(self.current, self.current + SLOTS - 1)
    }

    /// The slot number that `filed` (a position on the wheel) stands for now.
    fn absolute(&self, filed: u32) -> u64 {
        let position = self.current % SLOTS;
        self.current + (u64::from(filed) + SLOTS - position) % SLOTS
    }

    fn file<T: Timed>(&mut self, arena: &mut Arena<T>, entry: u32) {
        let slot = (self.slot_for(arena.get(entry).timer().deadline) % SLOTS) as u32;
        let head = self.heads[slot as usize].replace(link(entry));
        if let Some(head) = head {
            arena.get_mut(index(head)).timer_mut().previous = Some(link(entry));
        }
        let timer = arena.get_mut(entry).timer_mut();
        timer.filed = slot;
        timer.next = head;
        timer.previous = None;
    }

    fn unlink<T: Timed>(&mut self, arena: &mut Arena<T>, entry: u32) {
        let timer = arena.get_mut(entry).timer_mut();
        let (previous, next, filed) = (timer.previous.take(), timer.next.take(), timer.filed);
        match previous {
            Some(previous) => arena.get_mut(index(previous)).timer_mut().next = next,
            None => self.heads[filed as usize] = next,
        }
        if let Some(next) = next {
            arena.get_mut(index(next)).timer_mut().previous = previous;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    struct Entry(Timer);
    impl Timed for Entry {
        fn timer(&self) -> &Timer {
            &self.0
        }
        fn timer_mut(&mut self) -> &mut Timer {
            &mut self.0
        }
    }

    fn swept(wheel: &mut Wheel, arena: &mut Arena<Entry>, now: Time) -> Vec<u32> {
        let mut found = Vec::new();
        wheel.sweep(arena, now, |arena, entry| {
            arena.remove(entry);
            found.push(entry);
        });
        found.sort_unstable();
        found
    }

    #[test]
    fn expires_in_time_across_turns_of_the_wheel() {
        let (mut wheel, mut arena) = (Wheel::new(), Arena::new());
        let seconds = [1, 2, 60, 900, 1047, 1049, 5000, 100_000];
        let entries: Vec<u32> = seconds
            .iter()
            .map(|&s| {
                let entry = arena.insert(Entry(Timer::unfiled()));
                wheel.insert(&mut arena, entry, Time::ZERO + Duration::from_secs(s));
                entry
            })
            .collect();
        let mut gone = Vec::new();
        for step in (0..110_000).step_by(3) {
            let now = Time::ZERO + Duration::from_secs(step);
            for entry in swept(&mut wheel, &mut arena, now) {
                let due = seconds[entries.iter().position(|e| *e == entry).unwrap()];
                assert!(due <= step && step < due + 6, "due {due}, seen at {step}");
                gone.push(entry);
            }
        }
        assert_eq!(gone, entries);
    }

    #[test]
    fn a_deadline_moved_either_way_is_kept() {
        let (mut wheel, mut arena) = (Wheel::new(), Arena::new());
        let [later, sooner, removed] = [(); 3].map(|()| arena.insert(Entry(Timer::unfiled())));
        let at = |s| Time::ZERO + Duration::from_secs(s);
        for entry in [later, sooner, removed] {
            wheel.insert(&mut arena, entry, at(100));
        }
        wheel.reschedule(&mut arena, later, at(200));
        wheel.reschedule(&mut arena, sooner, at(10));
        wheel.remove(&mut arena, removed);
        assert_eq!(swept(&mut wheel, &mut arena, at(9)), [0; 0]);
        assert_eq!(swept(&mut wheel, &mut arena, at(12)), [sooner]);
        assert_eq!(swept(&mut wheel, &mut arena, at(199)), [0; 0]);
        assert_eq!(swept(&mut wheel, &mut arena, at(202)), [later]);
    }
}
