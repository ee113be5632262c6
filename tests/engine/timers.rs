//! When a connection's timer is restarted, and when it is not.

use crate::bed::{ACK, Bed, FIN, SYN, key, server, tcp, unreachable};
use nfvs::director::packet::Transport::{Tcp, Udp};
use nfvs::director::scheduler::SchedulerKind::Rr;
use nfvs::director::{Command, DropReason, Verdict};

const VIP: &str = "10.0.0.100:80";
const CLIENT: &str = "10.0.1.2:5000";
const SERVER: &str = "10.0.2.11:8080";

fn established() -> Bed {
    let bed = Bed::serving(Tcp, VIP, Rr, &[SERVER]);
    bed.tcp(CLIENT, VIP, SYN);
    bed.tcp(SERVER, CLIENT, SYN | ACK);
    bed.tcp(CLIENT, VIP, ACK);
    bed
}

#[track_caller]
fn assert_state(bed: &Bed, expected: &str) {
    let states = bed.states();
    assert!(states.len() == 1 && states[0].contains(expected), "{expected}: {states:?}");
}

#[test]
fn every_packet_restarts_it_whether_or_not_the_state_changes() {
    let mut bed = established();
    for (from, to) in [(CLIENT, VIP), (SERVER, CLIENT), (CLIENT, VIP)] {
        bed.pass(100);
        assert_state(&bed, " ESTABLISHED 800 ");
        bed.tcp(from, to, ACK);
        assert_state(&bed, " ESTABLISHED 900 ");
    }
    bed.pass(100);
    bed.tcp(SERVER, CLIENT, FIN | ACK);
    assert_state(&bed, " FIN_WAIT 120 ");

    let mut bed = Bed::serving(Udp, VIP, Rr, &[SERVER]);
    bed.udp(CLIENT, VIP);
    for (from, to) in [(SERVER, CLIENT), (CLIENT, VIP)] {
        bed.pass(100);
        assert_state(&bed, " UDP 200 ");
        bed.udp(from, to);
        assert_state(&bed, " UDP 300 ");
    }
}

#[test]
fn errors_restart_none() {
    let mut bed = established();
    bed.pass(100);
    let about_request = unreachable("10.0.2.1", "10.0.1.2", &tcp(CLIENT, SERVER, ACK, b""));
    let about_reply = unreachable("10.0.1.2", "10.0.0.100", &tcp(VIP, CLIENT, ACK, b""));
    for mut error in [about_request, about_reply] {
        assert!(matches!(bed.handle(&mut error), Verdict::Forward { .. }));
        assert_state(&bed, " ESTABLISHED 800 ");
    }
}

#[test]
fn a_packet_that_is_dropped_for_a_removed_server_restarts_none() {
    let mut bed = established();
    let removed = Command::DeleteServer(key(Tcp, VIP), SERVER.parse().unwrap());
    bed.director.apply(&[removed]).unwrap();
    bed.pass(100);
    assert_eq!(bed.tcp(CLIENT, VIP, ACK).verdict, Verdict::Drop(DropReason::ServerRemoved));
    assert_state(&bed, " ESTABLISHED 800 ");
    bed.director.apply(&[Command::AddServer(key(Tcp, VIP), server(SERVER, 1))]).unwrap();
    bed.tcp(CLIENT, VIP, ACK);
    assert_state(&bed, " ESTABLISHED 900 ");
}
