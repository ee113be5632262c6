//! What the tables of connections and states make of methods that do not translate.

use crate::bed::{ACK, Bed, FIN, RST, SYN, key, sctp, tcp, udp, unreachable};
use nfvs::director::packet::Transport::{self, Sctp, Tcp, Udp};
use nfvs::director::scheduler::SchedulerKind::Rr;
use nfvs::director::service::{ForwardMethod, Weight};
use nfvs::director::{Command, DropReason, Route, ServerSpec, Verdict};

const VIP: &str = "10.0.0.100:80";
const CLIENT: &str = "10.0.1.2:5000";
const SERVER: &str = "10.0.2.11:80";

fn bed(transport: Transport, forward: ForwardMethod) -> Bed {
    let bed = Bed::serving(transport, VIP, Rr, &[]);
    let server = ServerSpec {
        address: SERVER.parse().unwrap(),
        weight: Weight::default(),
        forward,
        tunnel: Default::default(),
        thresholds: Default::default(),
    };
    bed.director.apply(&[Command::AddServer(key(transport, VIP), server)]).unwrap();
    bed
}

/// The first number is the service's.
const ROUTED: Verdict = Verdict::Route(Route(2));

#[test]
fn a_connection_says_how_it_is_forwarded_and_that_no_reply_has_passed() {
    for (forward, flags) in
        [(ForwardMethod::Nat, "0x0000"), (ForwardMethod::Tunnel, "0x0082"), (ForwardMethod::Dr, "0x0083")]
    {
        let bed = bed(Tcp, forward);
        bed.tcp(CLIENT, VIP, SYN);
        assert!(bed.states()[0].ends_with(flags), "{forward}: {:?}", bed.states());
    }
}

#[test]
fn packets_are_sent_on_as_they_are() {
    for transport in [Tcp, Udp, Sctp] {
        let bed = bed(transport, ForwardMethod::Dr);
        let sent = match transport {
            Tcp => tcp(CLIENT, VIP, SYN, b""),
            Udp => udp(CLIENT, VIP, b"?"),
            Sctp => sctp(CLIENT, VIP, 1),
        };
        let mut bytes = sent.clone();
        assert_eq!(bed.handle(&mut bytes), ROUTED, "{transport}");
        assert_eq!(bytes, sent);
    }
}

#[test]
fn without_replies_the_client_alone_moves_the_state() {
    let bed = bed(Tcp, ForwardMethod::Dr);
    for (flags, state) in [
        (SYN, "SYN_RECV 60 0x0083"),
        (ACK, "ESTABLISHED 900 0x0083"),
        // With replies it would be CLOSE_WAIT.
        (FIN | ACK, "FIN_WAIT 120 0x0183"),
    ] {
        assert_eq!(bed.tcp(CLIENT, VIP, flags).verdict, ROUTED);
        assert!(bed.states()[0].ends_with(state), "{:?}", bed.states());
    }
}

#[test]
fn a_reply_that_passes_is_the_virtual_addresses_own_and_takes_the_flag() {
    let bed = bed(Tcp, ForwardMethod::Dr);
    bed.tcp(CLIENT, VIP, SYN);
    assert_eq!(bed.tcp(SERVER, CLIENT, SYN | ACK).verdict, Verdict::Accept, "nobody answers so");
    assert_eq!(bed.tcp(VIP, CLIENT, SYN | ACK).verdict, ROUTED);
    assert!(bed.states()[0].ends_with("SYN_RECV 60 0x0003"), "{:?}", bed.states());
    bed.tcp(CLIENT, VIP, ACK);
    bed.tcp(CLIENT, VIP, FIN | ACK);
    assert!(bed.states()[0].ends_with("CLOSE_WAIT 60 0x0103"), "{:?}", bed.states());
    bed.director.check_invariants();
}

#[test]
fn nobody_else_answers_in_the_virtual_addresses_name() {
    let bed = bed(Tcp, ForwardMethod::Dr);
    bed.tcp(CLIENT, VIP, SYN);
    bed.tcp(VIP, CLIENT, RST);
    assert!(bed.states()[0].contains("CLOSE "), "{:?}", bed.states());
    assert_eq!(bed.tcp(VIP, CLIENT, SYN | ACK).verdict, ROUTED);
}

#[test]
fn a_datagram_in_reply_leaves_the_flag() {
    let bed = bed(Udp, ForwardMethod::Tunnel);
    bed.udp(CLIENT, VIP);
    assert_eq!(bed.udp(VIP, CLIENT).verdict, ROUTED);
    assert!(bed.states()[0].ends_with("UDP 300 0x0182"), "{:?}", bed.states());
}

/// A server of one service has the address of another, which sends packets on as they are.
#[test]
fn a_connection_that_could_not_be_told_from_another_is_not_made() {
    let bed = bed(Tcp, ForwardMethod::Dr);
    bed.add(Tcp, "10.0.0.101:80", Rr, &[VIP]);
    assert_eq!(bed.tcp(CLIENT, "10.0.0.101:80", SYN).destination(), VIP);
    assert_eq!(bed.tcp(CLIENT, VIP, SYN).verdict, Verdict::Drop(DropReason::PortsExhausted));
    bed.director.check_invariants();

    // The other way round, a port stands in for the client's where it is translated.
    let other = "10.0.1.2:5001";
    assert_eq!(bed.tcp(other, VIP, SYN).verdict, ROUTED);
    assert_ne!(bed.tcp(other, "10.0.0.101:80", SYN).from.to_string(), other);
    bed.director.check_invariants();
}

#[test]
fn an_error_about_a_reply_is_sent_on_as_it_is() {
    let bed = bed(Tcp, ForwardMethod::Dr);
    bed.tcp(CLIENT, VIP, SYN);
    let sent = unreachable("10.0.1.2", "10.0.0.100", &tcp(VIP, CLIENT, SYN | ACK, b""));
    let mut bytes = sent.clone();
    assert_eq!(bed.handle(&mut bytes), ROUTED);
    assert_eq!(bytes, sent);
}
