//! SCTP associations through the engine: what starts one, what ends it, and where replies go elsewhere.

use crate::bed::{Bed, INIT, INIT_ACK};
use nfvs::director::packet::Transport::Sctp;
use nfvs::director::scheduler::SchedulerKind::Rr;
use nfvs::director::service::Tunables;
use nfvs::director::{Refusal, Verdict};

const DATA: u8 = 0;
const ABORT: u8 = 6;
const SHUTDOWN: u8 = 7;
const SHUTDOWN_ACK: u8 = 8;
const COOKIE_ECHO: u8 = 10;
const COOKIE_ACK: u8 = 11;
const SHUTDOWN_COMPLETE: u8 = 14;

const VIP: &str = "10.0.0.100:36412";
const CLIENT: &str = "10.0.1.2:5000";
const SERVERS: [&str; 2] = ["10.0.2.11:3868", "10.0.3.12:3868"];

#[test]
fn an_association_lives_and_ends() {
    let bed = Bed::serving(Sctp, VIP, Rr, &SERVERS[..1]);
    let (to, back) = (true, false);
    let rows = [
        (to, INIT, "INIT1 4 0x0100"),
        (back, INIT_ACK, "C-SENT 61 0x0100"),
        (to, COOKIE_ECHO, "C-REPLIED 61 0x0100"),
        (back, COOKIE_ACK, "ESTABLISHED 900 0x0000"),
        (to, DATA, "ESTABLISHED 900 0x0000"),
        (back, 3, "ESTABLISHED 900 0x0000"),
        (to, SHUTDOWN, "S-RECEIVED 61 0x0100"),
        (back, SHUTDOWN_ACK, "S-ACK-SENT 61 0x0100"),
        (to, SHUTDOWN_COMPLETE, "CLOSED 61 0x0100"),
    ];
    for (is_request, chunk, expected) in rows {
        if is_request {
            assert_eq!(bed.sctp(CLIENT, VIP, chunk).destination(), SERVERS[0]);
        } else {
            bed.sctp(SERVERS[0], CLIENT, chunk).source();
        }
        let expected = format!("sctp {CLIENT} -> {VIP} -> {} {expected}", SERVERS[0]);
        assert_eq!(bed.states(), [expected], "after chunk {chunk}");
    }
    bed.director.check_invariants();
}

#[test]
fn only_an_init_starts_an_association() {
    for chunk in 0..=15 {
        let bed = Bed::serving(Sctp, VIP, Rr, &SERVERS);
        let verdict = bed.sctp(CLIENT, VIP, chunk).verdict;
        if chunk == INIT {
            assert!(matches!(verdict, Verdict::Forward { .. }), "{verdict:?}");
        } else {
            assert_eq!(verdict, Verdict::Refuse(Refusal::NotServed), "chunk {chunk}");
        }
    }
}

#[test]
fn where_rules_are_sloppy_everything_starts_one_but_an_abort() {
    let bed = Bed::serving(Sctp, VIP, Rr, &SERVERS);
    let sloppy = Tunables { sloppy_sctp: true, ..Tunables::default() };
    bed.tune(sloppy);
    assert_eq!(bed.sctp(CLIENT, VIP, ABORT).verdict, Verdict::Refuse(Refusal::NotServed));
    assert_eq!(bed.sctp(CLIENT, VIP, DATA).destination(), SERVERS[1]);
    assert!(bed.states()[0].contains("ESTABLISHED 900 0x0000"), "{:?}", bed.states());
}

#[test]
fn a_closed_association_is_rescheduled_by_the_very_init_that_reuses_its_port() {
    let bed = Bed::serving(Sctp, VIP, Rr, &SERVERS);
    for expected in [SERVERS[1], SERVERS[0], SERVERS[1]] {
        assert_eq!(bed.sctp(CLIENT, VIP, INIT).destination(), expected);
        assert_eq!(bed.sctp(CLIENT, VIP, INIT).destination(), expected, "not closed yet: the same server");
        bed.sctp(CLIENT, VIP, ABORT);
        assert!(bed.states()[0].contains("CLOSED 61"), "{:?}", bed.states());
    }
    assert_eq!(bed.director.connection_count().0, 1);
    bed.director.check_invariants();
}

#[test]
fn a_client_that_turns_to_the_server_directly_from_a_port_it_used_before_is_left_alone() {
    let bed = Bed::serving(Sctp, VIP, Rr, &SERVERS[..1]);
    bed.sctp(CLIENT, VIP, INIT);
    bed.sctp(CLIENT, VIP, ABORT);
    // The INIT itself is not steered to us; the answer is.
    for chunk in [INIT_ACK, COOKIE_ACK, DATA] {
        assert_eq!(bed.sctp(SERVERS[0], CLIENT, chunk).verdict, Verdict::Accept, "chunk {chunk}");
    }
    bed.sctp(CLIENT, VIP, INIT);
    bed.sctp(SERVERS[0], CLIENT, INIT_ACK).source();
    bed.director.check_invariants();
}

#[test]
fn a_port_that_stands_in_for_the_clients_comes_with_a_right_crc_and_is_undone() {
    let bed = Bed::serving(Sctp, VIP, Rr, &SERVERS[..1]);
    bed.add(Sctp, "10.0.0.101:36412", Rr, &SERVERS[..1]);
    bed.sctp(CLIENT, VIP, INIT);
    let stand_in = bed.sctp(CLIENT, "10.0.0.101:36412", INIT).from;
    assert_ne!(stand_in.to_string(), CLIENT);
    // The bench looks at the CRC of whatever was rewritten.
    assert_eq!(bed.sctp(SERVERS[0], &stand_in.to_string(), INIT_ACK).destination(), CLIENT);
    bed.director.check_invariants();
}

#[test]
fn a_port_of_a_closed_association_has_its_last_packets_translated() {
    let bed = Bed::serving(Sctp, VIP, Rr, &SERVERS[..1]);
    bed.sctp(CLIENT, VIP, INIT);
    bed.sctp(CLIENT, VIP, ABORT);
    bed.sctp(SERVERS[0], CLIENT, ABORT).source();
}
