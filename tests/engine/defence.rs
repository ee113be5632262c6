//! Defences: when they act, and what they do.

use crate::bed::{ACK, Bed, SYN};
use nfvs::director::defence::DefenceMode;
use nfvs::director::packet::Transport::Tcp;
use nfvs::director::scheduler::SchedulerKind::Rr;
use nfvs::director::service::Tunables;
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
    numbers.iter().find(|(name, _)| *name == tunable).unwrap().1
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
