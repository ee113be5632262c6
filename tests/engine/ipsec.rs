//! AH and ESP: they follow IKE, and never begin anything.

use crate::bed::{Bed, endpoints, icmp_payload, raw, unreachable};
use etherparse::IpNumber;
use nfvs::director::packet::Transport::Udp;
use nfvs::director::scheduler::SchedulerKind::Rr;
use nfvs::director::{Refusal, Verdict};

const ESP: IpNumber = IpNumber::ENCAPSULATING_SECURITY_PAYLOAD;
const AH: IpNumber = IpNumber::AUTHENTICATION_HEADER;

/// A virtual address, its client and its servers, and what follows the exchange: AH over IPv6 is an extension header
/// before what it protects, in IPVS too.
const FAMILIES: [([&str; 4], &[IpNumber]); 2] = [
    (["10.0.0.100", "10.0.1.2", "10.0.2.11", "10.0.3.12"], &[ESP, AH]),
    (["fd00::100", "fd00:1::2", "fd00:2::11", "fd00:3::12"], &[ESP]),
];

fn ike(address: &str) -> String {
    if address.contains(':') { format!("[{address}]:500") } else { format!("{address}:500") }
}

fn bed([vip, _, one, other]: [&str; 4]) -> Bed {
    Bed::serving(Udp, &ike(vip), Rr, &[&ike(one), &ike(other)])
}

/// Bytes that may stand behind ESP, and are an authentication header (RFC 4302) of 24 bytes with nothing behind it.
fn protected(from: &str, to: &str, protocol: IpNumber) -> Vec<u8> {
    raw(from.parse().unwrap(), to.parse().unwrap(), protocol, b"\x3b\x04\0\0spi.seq.check value..")
}

#[test]
fn they_follow_the_exchange_of_keys_both_ways_with_their_addresses_alone_rewritten() {
    for (hosts, protocols) in FAMILIES {
        for protocol in protocols {
            let [vip, client, ..] = hosts;
            let bed = bed(hosts);
            let server = bed.udp(&ike(client), &ike(vip)).to.ip();

            let mut request = protected(client, vip, *protocol);
            assert!(matches!(
                bed.handle(&mut request),
                Verdict::Forward { rewritten: Some(_), source: None }
            ));
            assert_eq!(
                request,
                protected(client, &server.to_string(), *protocol),
                "and the header's checksum"
            );

            let mut reply = protected(&server.to_string(), client, *protocol);
            let verdict = bed.handle(&mut reply);
            let Verdict::Forward { rewritten: None, source: Some(_) } = verdict else {
                panic!("{verdict:?}")
            };
            bed.director.check_invariants();
        }
    }
}

#[test]
fn they_restart_the_exchanges_timer_and_count_as_its_packets() {
    let (hosts, _) = FAMILIES[0];
    let [vip, client, ..] = hosts;
    let mut bed = bed(hosts);
    bed.udp(&ike(client), &ike(vip));
    for _ in 0..3 {
        bed.pass(200);
        assert!(matches!(bed.handle(&mut protected(client, vip, ESP)), Verdict::Forward { .. }));
    }
    assert!(bed.states()[0].ends_with("UDP 300 0x0100"), "{:?}", bed.states());
    let services = bed.director.services();
    assert_eq!(services.iter().next().unwrap().core.stats.snapshot().in_packets, 4);
}

#[test]
fn without_an_exchange_of_keys_there_is_nothing_to_follow() {
    for (hosts, protocols) in FAMILIES {
        let [vip, client, server, _] = hosts;
        let bed = bed(hosts);
        for protocol in protocols {
            assert_eq!(
                bed.handle(&mut protected(client, vip, *protocol)),
                Verdict::Refuse(Refusal::NotServed)
            );
            assert_eq!(bed.handle(&mut protected(server, client, *protocol)), Verdict::Accept);
        }
        assert_eq!(bed.director.connection_count().0, 0);
    }
}

#[test]
fn errors_about_them_are_translated() {
    for (hosts, protocols) in FAMILIES {
        let [vip, client, ..] = hosts;
        let bed = bed(hosts);
        let server = bed.udp(&ike(client), &ike(vip)).to.ip().to_string();
        for protocol in protocols {
            let mut error = unreachable(&server, client, &protected(client, &server, *protocol));
            let verdict = bed.handle(&mut error);
            let Verdict::Forward { rewritten: Some(_), source: Some(_) } = verdict else {
                panic!("{verdict:?}")
            };
            assert_eq!(icmp_payload(&error), protected(client, vip, *protocol));

            let mut error = unreachable(client, vip, &protected(vip, client, *protocol));
            let verdict = bed.handle(&mut error);
            let Verdict::Forward { rewritten: Some(_), source: None } = verdict else {
                panic!("{verdict:?}")
            };
            assert_eq!(endpoints(&error).1.ip().to_string(), server);
            assert_eq!(icmp_payload(&error), protected(&server, client, *protocol));
        }
    }
}
