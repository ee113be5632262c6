//! lblc and lblcr.

use super::*;
use crate::director::scheduler::cache::Cache;
use std::time::Duration;

const HOUR: u64 = 3600;

/// An arrival for 198.51.100.`last`, so many seconds after the start.
fn at(seconds: u64, last: u8) -> Arrival<'static> {
    Arrival {
        now: Time::from_millis(seconds * 1000),
        destination: Ipv4Addr::new(198, 51, 100, last).into(),
        ..someone()
    }
}

impl Service {
    /// A connection that stays and is active.
    fn connect(&mut self, arrival: &Arrival<'_>) -> Option<u64> {
        let id = self.choose(arrival)?;
        self.server(id).bind_connection(true);
        Some(id)
    }

    /// Ticks as they come in the seconds `from` to `to`.
    fn tick(&mut self, from: u64, to: u64) {
        for second in from..to {
            self.scheduler.on_tick(Time::from_millis(second * 1000), &TUNABLES);
        }
    }
}

#[test]
fn lblc_stays_with_the_server_of_a_destination() {
    let mut service = Service::new(SchedulerKind::Lblc, &[100, 100, 100]);
    assert_eq!(service.connect(&at(0, 1)), Some(3));
    assert_eq!([(); 3].map(|()| service.connect(&at(1, 1)).unwrap()), [3; 3], "however loaded");
    assert_eq!([2, 3, 4].map(|last| service.connect(&at(2, last)).unwrap()), [2, 1, 2]);
}

#[test]
fn lblc_leaves_a_busy_server_only_for_an_idle_one() {
    let mut service = Service::new(SchedulerKind::Lblc, &[4, 4]);
    assert_eq!(service.choose(&at(0, 1)), Some(2));
    service.load(2, 4);
    assert_eq!(service.choose(&at(0, 1)), Some(2), "as many as the weight");
    service.load(1, 2);
    service.load(2, 1);
    assert_eq!(service.choose(&at(0, 1)), Some(2), "more, and nobody has less than half");
    service.server(1).unbind_connection(true);
    assert_eq!(service.choose(&at(0, 1)), Some(1));
    service.load(1, 3);
    assert_eq!(service.choose(&at(0, 1)), Some(1), "it is the destination's now");
}

#[test]
fn lblc_leaves_a_server_without_weight_or_removed_and_not_a_full_one() {
    let mut service = Service::new(SchedulerKind::Lblc, &[9, 9]);
    assert_eq!(service.choose(&at(0, 1)), Some(2));
    service.server(2).set_thresholds(crate::director::service::Thresholds { upper: 1, lower: 1 });
    service.load(2, 1);
    assert!(service.server(2).is_overloaded());
    assert_eq!(service.choose(&at(0, 1)), Some(2), "full");
    assert_eq!(service.choose(&at(0, 2)), Some(1), "another destination");
    service.edit(2, 0);
    assert_eq!(service.choose(&at(0, 1)), Some(1), "no weight");
    service.edit(2, 9);
    assert_eq!(service.choose(&at(0, 1)), Some(1), "it is the destination's now");
    let removed = service.remove(1);
    assert_eq!(service.choose(&at(0, 1)), None, "the only other one is full");
    service.add_again(removed);
    assert_eq!(service.choose(&at(0, 1)), Some(1), "it is back");
}

#[test]
fn lblcr_adds_a_server_to_a_destination_that_is_too_much_for_one() {
    let mut service = Service::new(SchedulerKind::Lblcr, &[2, 2, 2]);
    let picks: Vec<u64> = (0..12).map(|second| service.connect(&at(second, 1)).unwrap()).collect();
    // Three on the first, one more than its weight; the next is added as long as another is idle. After that the least
    // loaded of the set, of several the one that came last.
    assert_eq!(picks, [3, 3, 3, 2, 2, 2, 1, 1, 1, 1, 2, 3]);
    let mut service = Service::new(SchedulerKind::Lblcr, &[2, 2, 2]);
    assert_eq!([1, 2, 3, 1, 2, 3].map(|last| service.connect(&at(0, last)).unwrap()), [3, 2, 1, 3, 2, 1]);
}

#[test]
fn lblcr_takes_the_most_loaded_server_from_a_set_that_has_not_changed_for_long() {
    let mut service = Service::new(SchedulerKind::Lblcr, &[2, 2, 2]);
    for _ in 0..4 {
        service.connect(&at(10, 1));
    }
    service.load(1, 2);
    // The set is 3 and 2, and 3 has more.
    service.load(2, 1);
    assert_eq!([1, 2, 3].map(|id| service.server(id).active_conns()), [2, 2, 3]);
    assert_eq!(service.choose(&at(10 + 24 * HOUR, 1)), Some(2), "not yet longer than a day");
    (0..3).for_each(|_| service.server(3).unbind_connection(true));
    assert_eq!(service.choose(&at(10 + 24 * HOUR, 1)), Some(3), "so it is still of the set");
    service.load(3, 3);
    assert_eq!(service.choose(&at(11 + 24 * HOUR, 1)), Some(2));
    service.load(2, 1);
    assert_eq!(
        service.choose(&at(12 + 24 * HOUR, 1)),
        Some(2),
        "3 is no longer of the set, though as loaded"
    );
    service.load(2, 4);
    assert_eq!(service.choose(&at(13 + 24 * HOUR, 1)), Some(2), "busy, and nobody is idle");
    (0..2).for_each(|_| service.server(1).unbind_connection(true));
    assert_eq!(service.choose(&at(14 + 24 * HOUR, 1)), Some(1), "busy, and somebody is idle");
}

// The only case in which the choice is one that leaves the set: it is the least and the most loaded at once.
#[test]
fn lblcr_may_choose_the_server_that_its_set_loses() {
    let mut service = Service::new(SchedulerKind::Lblcr, &[2, 2]);
    for _ in 0..4 {
        service.connect(&at(0, 1));
    }
    service.server(2).unbind_connection(true);
    service.server(2).unbind_connection(true);
    // One each: the newer member, 1, is both.
    assert_eq!(service.choose(&at(24 * HOUR + 1, 1)), Some(1));
    service.load(1, 1);
    assert_eq!(service.choose(&at(24 * HOUR + 2, 1)), Some(2));
    service.load(2, 1);
    assert_eq!(service.choose(&at(24 * HOUR + 3, 1)), Some(2), "the set is 2 alone");
}

#[test]
fn lblcr_knows_members_by_availability_and_room() {
    let mut service = Service::new(SchedulerKind::Lblcr, &[9, 9]);
    assert_eq!(service.choose(&at(0, 1)), Some(2));
    let removed = service.remove(2);
    assert_eq!(service.choose(&at(0, 1)), Some(1), "removed; 1 is a member now");
    service.add_again(removed);
    service.load(1, 1);
    assert_eq!(service.choose(&at(0, 1)), Some(2), "back, and less loaded");
    service.server(2).set_thresholds(crate::director::service::Thresholds { upper: 1, lower: 1 });
    service.load(2, 1);
    assert_eq!(service.choose(&at(0, 1)), Some(1), "full");
}

#[test]
fn destinations_are_forgotten_in_the_thirtieth_minute_after_a_day() {
    for kind in [SchedulerKind::Lblc, SchedulerKind::Lblcr] {
        let mut service = Service::new(kind, &[9, 9]);
        service.tick(0, 1);
        assert_eq!(service.choose(&at(5, 1)), Some(2));
        service.load(2, 1);
        let half_hours = 24 * HOUR / 1800;
        // Full looks are at 30 minutes, 60 minutes, ... after the first tick; round 1 is the first minute.
        service.tick(1, half_hours * 1800 + 1);
        assert_eq!(service.choose(&at(6, 1)), Some(2), "{kind}: five seconds too young");
        service.tick(half_hours * 1800 + 1, (half_hours + 1) * 1800);
        assert_eq!(service.choose(&at(5, 1)), Some(2), "{kind}: nobody has looked");
        service.tick((half_hours + 1) * 1800, (half_hours + 1) * 1800 + 1);
        assert_eq!(service.choose(&at(5, 1)), Some(1), "{kind}: it is a new destination");
    }
}

fn destination(number: u32) -> IpAddr {
    Ipv4Addr::from(0x0b00_0000 + number).into()
}

fn remembers(cache: &Cache<u32>, number: u32) -> bool {
    cache.peek(destination(number)).is_some()
}

fn fill(cache: &mut Cache<u32>, numbers: std::ops::Range<u32>, now: Time) {
    for number in numbers {
        let slot = cache.visit(destination(number), now);
        cache.put(slot, now, number);
    }
}

#[test]
fn a_table_is_full_at_one_and_a_half_times_its_size() {
    let mut cache = Cache::default();
    fill(&mut cache, 0..24_575, Time::ZERO);
    let slot = cache.visit(destination(0), Time::ZERO);
    cache.put(slot, Time::ZERO, 99);
    assert_eq!(cache.peek(destination(0)), Some(&99), "there is room for one more");
    fill(&mut cache, 24_575..24_577, Time::ZERO);
    assert_eq!((remembers(&cache, 24_575), remembers(&cache, 24_576)), (true, false));
    let slot = cache.visit(destination(0), Time::ZERO);
    cache.put(slot, Time::ZERO, 100);
    assert_eq!(cache.peek(destination(0)), Some(&99), "nor is anything replaced");
}

#[test]
fn too_many_entries_give_way_if_they_were_of_no_use_for_six_minutes() {
    let day = Duration::from_secs(24 * HOUR);
    let minute = |minutes: u64| Time::from_millis(minutes * 60_000);
    let mut cache = Cache::default();
    cache.on_tick(Time::ZERO, day);
    fill(&mut cache, 0..16_384, Time::ZERO);
    let count = |cache: &Cache<u32>| (0..24_576).filter(|&number| remembers(cache, number)).count();
    (1..=7).for_each(|minutes| cache.on_tick(minute(minutes), day));
    assert_eq!(count(&cache), 16_384, "that many are comfortable");
    fill(&mut cache, 16_384..16_984, minute(7));
    cache.on_tick(minute(8), day);
    let left = count(&cache);
    // 800, and the rest of the bucket in which they are complete.
    assert!((16_984 - 830..=16_984 - 800).contains(&left), "{left}");
    assert!((16_384..16_984).all(|number| remembers(&cache, number)), "those of use stay");
    fill(&mut cache, 17_000..17_000 + 24_576 - left as u32, minute(8));
    cache.on_tick(minute(9), day);
    // (24576 - 16384) * 4 / 3 would be 10,922; half of 16384 is the most.
    let gone = (0..16_384).filter(|&number| !remembers(&cache, number)).count() - (16_984 - left);
    assert!((8_192..8_230).contains(&gone), "{gone}");
}

// A round in which there is too much is none of the thirty.
#[test]
fn what_is_too_old_waits_while_there_is_too_much() {
    let minute = |minutes: u64| Time::from_millis(minutes * 60_000);
    let ten = Duration::from_secs(600);
    let mut cache = Cache::default();
    cache.on_tick(Time::ZERO, ten);
    fill(&mut cache, 0..1, Time::ZERO);
    (1..=15).for_each(|minutes| cache.on_tick(minute(minutes), ten));
    // Round 16 stays as long as these are in use.
    for minutes in 16..=20 {
        fill(&mut cache, 0..16_385, minute(minutes));
        cache.on_tick(minute(minutes), ten);
    }
    // In minute 26 the first of them go, which is the last round of too many; then it takes fourteen to the thirtieth.
    (21..=40).for_each(|minutes| cache.on_tick(minute(minutes), ten));
    assert!((0..16_385).filter(|&number| remembers(&cache, number)).count() > 16_300);
    cache.on_tick(minute(41), ten);
    assert!(!(0..16_385).any(|number| remembers(&cache, number)));
}
