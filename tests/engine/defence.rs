//! Defences: when they act, and what they do.

use crate::bed::{ACK, Bed, FIN, SYN};
use nfvs::director::defence::DefenceMode;
use nfvs::director::packet::Transport::{Tcp, Udp};
use nfvs::director::scheduler::SchedulerKind::Rr;
use nfvs::director::service::{ClientMask, Persistence, ServiceSettings, TunableNumber, Tunables};
use nfvs::director::{DropReason, Verdict};
use std::net::Ipv4Addr;
use std::time::Duration;

const WEB: &str = "10.0.0.100:80";
const SERVER: &str = "10.0.2.11:8080";

/// A director for 400 connections, of which 100 are the reserve.
fn small() -> Bed {
    let bed = Bed::with_limit(400);
    bed.add(Tcp, WEB, Rr, &[SERVER]);
    bed
}

/// Clients that send a SYN and nothing more.
fn flood(bed: &Bed, clients: std::ops::Range<u32>) {
    for client in clients {
        let _ = bed.tcp(&format!("10.9.{}.{}:1024", client / 250, client % 250 + 1), WEB, SYN);
    }
}

/// A second passes.
fn tick(bed: &mut Bed) {
    bed.pass(1);
    bed.director.defend(bed.now);
}

fn shown(bed: &Bed, tunable: &str) -> u32 {
    let services = bed.director.services();
    let numbers = services.tunables.numbers_now(services.defence.is_short());
    match numbers.iter().find(|(name, _)| *name == tunable).unwrap().1 {
        TunableNumber::One(number) => number,
        TunableNumber::Two(numbers) => panic!("{tunable}: {numbers:?}"),
    }
}

#[test]
fn secure_tcp_acts_while_memory_is_short_and_shows_it() {
    let mut bed = small();
    bed.tune(Tunables { secure_tcp: DefenceMode::Automatic, ..Tunables::default() });
    flood(&bed, 0..300);
    tick(&mut bed);
    assert_eq!(shown(&bed, "secure_tcp"), 1, "the reserve is whole");
    flood(&bed, 300..301);
    assert_eq!(shown(&bed, "secure_tcp"), 1, "it is looked at once a second");
    bed.director.defend(bed.now + Duration::from_millis(500));
    assert_eq!(shown(&bed, "secure_tcp"), 1);
    tick(&mut bed);
    assert_eq!(shown(&bed, "secure_tcp"), 2);
    // The client alone is not believed any more.
    let state = |bed: &Bed| bed.states().into_iter().find(|state| state.contains("10.9.0.1:1024")).unwrap();
    bed.tcp("10.9.0.1:1024", WEB, ACK);
    assert!(state(&bed).contains(" SYN_RECV "), "{}", state(&bed));
    bed.pass(59);
    bed.director.defend(bed.now);
    assert_eq!(shown(&bed, "secure_tcp"), 1, "the flood has ended");
    bed.tcp("10.9.0.1:1024", WEB, ACK);
    assert!(state(&bed).contains(" ESTABLISHED "), "{}", state(&bed));
}

#[test]
fn a_change_of_tunables_is_heeded_at_once() {
    let bed = small();
    flood(&bed, 0..301);
    let secure_tcp = DefenceMode::Automatic;
    bed.tune(Tunables { secure_tcp, ..Tunables::default() });
    assert_eq!(shown(&bed, "secure_tcp"), 2);
    bed.tune(Tunables { secure_tcp, amemthresh: 3, ..Tunables::default() });
    assert_eq!(shown(&bed, "secure_tcp"), 1, "99 are more than three pages of 32");
    bed.tune(Tunables { secure_tcp, amemthresh: 4, ..Tunables::default() });
    assert_eq!(shown(&bed, "secure_tcp"), 2);
}

/// What of `count` clients' first packets is let through, `D` for dropped.
fn let_through(bed: &Bed, first: u32, count: u32) -> String {
    let fate = |client: u32| match bed.tcp(&format!("10.8.0.{client}:1024"), WEB, SYN).verdict {
        Verdict::Drop(DropReason::DropPacket) => 'D',
        Verdict::Forward { .. } => '-',
        other => panic!("{other:?}"),
    };
    (first..first + count).map(fate).collect()
}

#[test]
fn drop_packet_drops_each_nth_packet_that_would_make_a_connection() {
    let bed = small();
    bed.tcp("10.0.1.2:4000", WEB, SYN);
    for (says, am_droprate, expected) in
        [("one of three", 3, "D--D--D-"), ("all of them", 1, "DDDDDDDD"), ("none", 0, "--------")]
    {
        let bed = small();
        bed.tune(Tunables { drop_packet: DefenceMode::Always, am_droprate, ..Tunables::default() });
        assert_eq!(let_through(&bed, 1, 8), expected, "{says}");
        let dropped = expected.matches('D').count() as u64;
        assert_eq!(bed.director.drops(DropReason::DropPacket), dropped, "{says}");
    }
    bed.tune(Tunables { drop_packet: DefenceMode::Always, am_droprate: 1, ..Tunables::default() });
    assert_eq!(bed.tcp("10.0.1.2:4000", WEB, ACK).destination(), SERVER, "a connection that is known");
    let other = bed.tcp("10.0.1.2:4000", "10.0.0.100:81", SYN);
    assert!(matches!(other.verdict, Verdict::Refuse(_)), "no service, and nothing to drop: {other:?}");
}

#[test]
fn drop_packet_drops_the_more_the_less_memory_there_is() {
    let mut bed = small();
    bed.tune(Tunables { drop_packet: DefenceMode::Automatic, ..Tunables::default() });
    flood(&bed, 0..300);
    tick(&mut bed);
    assert_eq!((let_through(&bed, 1, 9), shown(&bed, "drop_packet")), ("---------".to_owned(), 1));
    flood(&bed, 300..316);
    // 75 of 100 are left: 100 / (100 - 75).
    tick(&mut bed);
    assert_eq!((let_through(&bed, 11, 9), shown(&bed, "drop_packet")), ("---D---D-".to_owned(), 2));
    flood(&bed, 400..500);
    tick(&mut bed);
    let dropped = let_through(&bed, 21, 2);
    assert_eq!(dropped, "DD", "less than half of the reserve is left");
    bed.pass(61);
    bed.director.defend(bed.now);
    assert_eq!((let_through(&bed, 31, 9), shown(&bed, "drop_packet")), ("---------".to_owned(), 1));
}

/// Lets `drop_entry` act so many times, while the table is not swept of what has ended.
fn act(bed: &mut Bed, seconds: u64) {
    for _ in 0..seconds {
        bed.now = bed.now + Duration::from_secs(1);
        bed.director.defend(bed.now);
    }
}

fn count(bed: &Bed, state: &str) -> usize {
    bed.states().iter().filter(|shown| shown.contains(&format!(" {state} "))).count()
}

fn client(number: u32) -> String {
    format!("10.7.{}.{}:1024", number / 250, number % 250 + 1)
}

fn entries(bed: &Bed) -> usize {
    bed.director.connection_count().0
}

#[test]
fn drop_entry_drops_what_is_half_open_and_keeps_what_is_more() {
    let mut bed = Bed::serving(Tcp, WEB, Rr, &[SERVER]);
    bed.tune(Tunables { drop_entry: DefenceMode::Automatic, ..Tunables::default() });
    for number in 0..400 {
        let from = client(number);
        bed.tcp(&from, WEB, SYN);
        if number >= 300 {
            bed.tcp(SERVER, &from, SYN | ACK);
            bed.tcp(&from, WEB, ACK);
        }
        if number >= 350 {
            bed.tcp(SERVER, &from, FIN | ACK);
        }
    }
    let states = |bed: &Bed| ["SYN_RECV", "ESTABLISHED", "FIN_WAIT"].map(|state| count(bed, state));
    act(&mut bed, 2);
    assert_eq!(states(&bed), [300, 50, 50], "memory is not short");
    bed.tune(Tunables { drop_entry: DefenceMode::Always, ..Tunables::default() });
    act(&mut bed, 1);
    assert!(bed.director.dropped_entries() < 60, "one in 32 is looked at, give or take");
    act(&mut bed, 50);
    let [half_open, established, closing] = states(&bed);
    assert_eq!((established, closing), (50, 50));
    assert!((10..150).contains(&half_open), "a fifth of 300 is left: {half_open}");
    assert_eq!(bed.director.dropped_entries(), 300 - half_open as u64);
    assert_eq!(entries(&bed), 100 + half_open);
    bed.director.check_invariants();
}

#[test]
fn drop_entry_drops_some_of_what_is_idle_after_few_packets() {
    let mut bed = Bed::serving(Udp, "10.0.0.100:53", Rr, &["10.0.2.11:53"]);
    bed.tune(Tunables { drop_entry: DefenceMode::Always, ..Tunables::default() });
    for number in 0..400 {
        // Half of the clients ask once, half nine times.
        for _ in 0..if number < 200 { 1 } else { 9 } {
            bed.udp(&client(number), "10.0.0.100:53");
        }
    }
    act(&mut bed, 59);
    assert_eq!((entries(&bed), bed.director.dropped_entries()), (400, 0), "not idle for a minute");
    act(&mut bed, 100);
    let left = bed.states().iter().filter(|state| number_of(state) >= 200).count();
    assert_eq!(left, 200, "who has asked often is spared");
    assert!((200..300).contains(&entries(&bed)), "few of the others are left: {}", entries(&bed));
    bed.director.check_invariants();
}

/// The number of the [`client`] whose connection is shown.
fn number_of(state: &str) -> u32 {
    let address = state.split([' ', ':']).nth(1).unwrap();
    let mut parts = address.split('.').skip(2).map(|part| part.parse::<u32>().unwrap());
    parts.next().unwrap() * 250 + parts.next().unwrap() - 1
}

fn persistent(one_packet: bool) -> ServiceSettings {
    let clients = ClientMask::V4(Ipv4Addr::BROADCAST);
    let persistence = Persistence { timeout: Duration::from_secs(600), clients, engine: None };
    ServiceSettings { persistence: Some(persistence), one_packet, ..ServiceSettings::default() }
}

#[test]
fn a_template_that_came_to_nothing_goes_with_its_last_connection() {
    let mut bed = Bed::new();
    bed.add_with(Tcp, WEB, Rr, persistent(false), &[SERVER]);
    bed.tune(Tunables { drop_entry: DefenceMode::Always, ..Tunables::default() });
    for number in 0..200 {
        bed.tcp(&client(number), WEB, SYN);
    }
    // One that was established is assured; its second connection is half-open.
    let assured = "10.7.9.1:1024";
    bed.tcp(assured, WEB, SYN);
    bed.tcp(SERVER, assured, SYN | ACK);
    bed.tcp(assured, WEB, ACK);
    bed.tcp("10.7.9.1:1025", WEB, SYN);
    // And one has two that are half-open.
    bed.tcp("10.7.9.2:1024", WEB, SYN);
    bed.tcp("10.7.9.2:1025", WEB, SYN);
    for _ in 0..50 {
        act(&mut bed, 1);
        let left = bed.states();
        let clients = left.iter().map(|state| state.split([' ', ':']).nth(1).unwrap().to_owned());
        let clients: std::collections::BTreeSet<String> = clients.collect();
        assert_eq!(bed.templates().len(), clients.len(), "as long as it has connections");
        bed.director.check_invariants();
    }
    assert!(bed.states().len() < 100, "{}", bed.states().len());
    assert!(bed.templates().iter().any(|template| template.contains("10.7.9.1 ")), "{:?}", bed.templates());
}

#[test]
fn templates_without_connections_are_dropped_unless_assured() {
    let mut bed = Bed::new();
    bed.add_with(Tcp, WEB, Rr, persistent(false), &[SERVER]);
    for number in 0..200 {
        let from = client(number);
        bed.tcp(&from, WEB, SYN);
        if number >= 100 {
            bed.tcp(SERVER, &from, SYN | ACK);
            bed.tcp(&from, WEB, ACK);
            bed.tcp(SERVER, &from, FIN | ACK);
        }
    }
    // The connections' time is over, the templates' is not.
    bed.pass(140);
    assert_eq!((bed.states().len(), bed.templates().len()), (0, 200));
    bed.tune(Tunables { drop_entry: DefenceMode::Always, ..Tunables::default() });
    act(&mut bed, 60);
    let templates = bed.templates();
    let assured = templates.iter().filter(|template| template.contains(" ASSURED ")).count();
    assert_eq!(assured, 100);
    assert!(templates.len() < 150, "{}", templates.len());
    bed.director.check_invariants();
}

#[test]
fn templates_of_one_packet_services_go_by_their_datagrams() {
    let mut bed = Bed::new();
    bed.add_with(Udp, "10.0.0.100:53", Rr, persistent(true), &["10.0.2.11:53"]);
    bed.tune(Tunables { drop_entry: DefenceMode::Always, ..Tunables::default() });
    for number in 0..400 {
        for _ in 0..if number < 200 { 1 } else { 9 } {
            bed.udp(&client(number), "10.0.0.100:53");
        }
    }
    act(&mut bed, 59);
    assert_eq!(bed.templates().len(), 400, "not idle for a minute");
    act(&mut bed, 100);
    let number = |template: &str| {
        let mut parts =
            template.split(' ').nth(1).unwrap().split('.').skip(2).map(|part| part.parse().unwrap());
        let (high, low): (u32, u32) = (parts.next().unwrap(), parts.next().unwrap());
        high * 250 + low - 1
    };
    let templates = bed.templates();
    assert_eq!(templates.iter().filter(|template| number(template) >= 200).count(), 200);
    assert!((200..300).contains(&templates.len()), "{}", templates.len());
    bed.director.check_invariants();
}

#[test]
fn a_full_table_has_room_for_new_clients_where_drop_entry_acts() {
    for settings in [ServiceSettings::default(), persistent(false)] {
        let bed = Bed::with_limit(4000);
        bed.add_with(Tcp, WEB, Rr, settings, &[SERVER]);
        let established = "10.0.1.2:4000";
        bed.tcp(established, WEB, SYN);
        bed.tcp(SERVER, established, SYN | ACK);
        bed.tcp(established, WEB, ACK);
        flood(&bed, 0..5000);
        assert!(bed.director.drops(DropReason::TableFull) >= 1000);
        let real =
            |number: u32| bed.tcp(&format!("10.0.{}.{}:1024", number / 250 + 10, number % 250 + 1), WEB, SYN);
        assert_eq!(real(0).verdict, Verdict::Drop(DropReason::TableFull));

        bed.tune(Tunables { drop_entry: DefenceMode::Automatic, ..Tunables::default() });
        for number in 0..500 {
            assert_eq!(real(number).destination(), SERVER, "{number}");
        }
        assert!(bed.director.dropped_entries() >= 500);
        assert!(entries(&bed) <= 4000);
        assert_eq!(count(&bed, "ESTABLISHED"), 1, "only half-open ones give way");
        bed.director.check_invariants();
    }
}

#[test]
fn where_nothing_is_half_open_a_full_table_is_full() {
    let bed = Bed::with_limit(100);
    bed.add(Udp, "10.0.0.100:53", Rr, &["10.0.2.11:53"]);
    bed.tune(Tunables { drop_entry: DefenceMode::Always, ..Tunables::default() });
    for number in 0..100 {
        bed.udp(&client(number), "10.0.0.100:53");
    }
    let late = bed.udp(&client(100), "10.0.0.100:53").verdict;
    assert_eq!(late, Verdict::Drop(DropReason::TableFull));
    assert_eq!(bed.director.dropped_entries(), 0);
}
