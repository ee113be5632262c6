//! One-packet scheduling: each datagram for itself.

use crate::bed::{Bed, key, marked, server};
use nfvs::director::packet::Transport::{Tcp, Udp};
use nfvs::director::scheduler::SchedulerKind::Rr;
use nfvs::director::service::{ClientMask, Family, Persistence, ServiceSettings};
use nfvs::director::{Command, Refusal, Verdict};
use std::time::Duration;

const FAMILIES: [(&str, &str, [&str; 2]); 2] = [
    ("10.0.0.100:53", "10.0.1.2:5000", ["10.0.2.11:5300", "10.0.3.12:5300"]),
    ("[fd00::100]:53", "[fd00:1::2]:5000", ["[fd00:2::11]:5300", "[fd00:3::12]:5300"]),
];

const ONE_PACKET: fn() -> ServiceSettings =
    || ServiceSettings { one_packet: true, ..ServiceSettings::default() };

#[test]
fn datagrams_of_one_client_port_go_to_servers_in_turn_and_leave_nothing_behind() {
    for (vip, client, servers) in FAMILIES {
        let bed = Bed::new();
        bed.add_with(Udp, vip, Rr, ONE_PACKET(), &servers);
        for expected in [servers[1], servers[0], servers[1]] {
            assert_eq!(bed.udp(client, vip).destination(), expected);
            assert_eq!(bed.director.connection_count().0, 0);
        }
        let real = bed.real_server(key(Udp, vip), servers[1]);
        let stats = real.stats.snapshot();
        assert_eq!((real.total_conns(), stats.conns, stats.in_packets), (0, 2, 2));
        assert_eq!(bed.director.services().get(&key(Udp, vip)).unwrap().core.stats.snapshot().conns, 3);
        bed.director.check_invariants();
    }
}

#[test]
fn a_reply_has_the_only_source_that_it_can_have() {
    for (vip, client, servers) in FAMILIES {
        let bed = Bed::new();
        bed.add_with(Udp, vip, Rr, ONE_PACKET(), &servers);
        bed.udp(client, vip);
        let services = bed.director.services();
        let source = services.get(&key(Udp, vip)).unwrap().core.source;
        assert_eq!(bed.udp(servers[0], client).source(), source);
        assert_eq!(bed.udp(servers[1], client).source(), source);
        assert_eq!(bed.real_server(key(Udp, vip), servers[0]).stats.snapshot().out_packets, 1);
        let other_port = servers[0].replace("5300", "5301");
        assert_eq!(bed.udp(&other_port, client).verdict, Verdict::Accept, "not a server's port");
        assert_eq!(bed.tcp(servers[0], client, 0x10).verdict, Verdict::Accept, "not a datagram");

        let command = Command::DeleteServer(key(Udp, vip), servers[0].parse().unwrap());
        bed.director.apply(&[command]).unwrap();
        assert_eq!(bed.udp(servers[0], client).verdict, Verdict::Accept, "not a server any more");
        let edit = Command::EditService {
            service: key(Udp, vip),
            scheduler: Rr,
            settings: ServiceSettings::default(),
        };
        bed.director.apply(&[edit]).unwrap();
        assert_eq!(bed.udp(servers[1], client).verdict, Verdict::Accept, "not one-packet any more");
    }
}

#[test]
fn a_server_of_every_port_answers_from_any() {
    let bed = Bed::new();
    bed.add_with(Udp, "10.0.0.100:0", Rr, ONE_PACKET(), &["10.0.2.11:0"]);
    assert_eq!(bed.udp("10.0.1.2:1", "10.0.0.100:700").destination(), "10.0.2.11:700");
    let services = bed.director.services();
    let source = services.get(&key(Udp, "10.0.0.100:0")).unwrap().core.source;
    assert_eq!(bed.udp("10.0.2.11:700", "10.0.1.2:1").source(), source);
}

#[test]
fn a_server_of_two_services_answers_for_the_first() {
    let bed = Bed::new();
    bed.add_with(Udp, "10.0.0.101:53", Rr, ONE_PACKET(), &["10.0.2.11:53"]);
    bed.add_with(Udp, "10.0.0.100:53", Rr, ONE_PACKET(), &["10.0.2.11:53"]);
    let services = bed.director.services();
    let first = services.get(&key(Udp, "10.0.0.100:53")).unwrap().core.source;
    assert_eq!(bed.udp("10.0.2.11:53", "10.0.1.2:1").source(), first);
}

#[test]
fn a_connection_comes_before_its_service_and_tcp_is_scheduled_as_ever() {
    let [(vip, client, servers), _] = FAMILIES;
    let bed = Bed::serving(Udp, vip, Rr, &servers);
    let first = bed.udp(client, vip).destination();
    let edit = Command::EditService { service: key(Udp, vip), scheduler: Rr, settings: ONE_PACKET() };
    bed.director.apply(&[edit]).unwrap();
    assert_eq!([bed.udp(client, vip).destination(), bed.udp(client, vip).destination()], [&*first, &*first]);

    let bed = Bed::new();
    bed.add_service(marked(5, Family::V4), Rr, ONE_PACKET(), &["10.0.2.11:0"]);
    bed.marked_tcp(5, client, vip, 0x02);
    assert_eq!(bed.states().len(), 1);
    bed.marked_udp(5, client, vip);
    assert_eq!(bed.states().len(), 1);
    assert_eq!(bed.udp("10.0.2.11:53", client).verdict, Verdict::Accept, "nobody knows what was asked");
}

#[test]
fn persistence_leads_each_datagram_to_one_server() {
    let [(vip, client, servers), _] = FAMILIES;
    let mut bed = Bed::new();
    let persistence = Persistence {
        timeout: Duration::from_secs(60),
        clients: ClientMask::V4("255.255.255.255".parse().unwrap()),
        engine: None,
    };
    let settings = ServiceSettings { persistence: Some(persistence), ..ONE_PACKET() };
    bed.add_with(Udp, vip, Rr, settings, &servers);
    let first = bed.udp(client, vip).destination();
    bed.pass(50);
    assert_eq!(bed.udp(client, vip).destination(), first);
    assert!(bed.templates()[0].contains(" 60 "), "each is a new connection: {:?}", bed.templates());
    assert_eq!(bed.director.connection_count().0, 1);
    bed.director.check_invariants();
    bed.pass(62);
    assert_eq!(bed.director.connection_count().0, 0, "nothing holds the template");
}

#[test]
fn without_a_server_a_datagram_is_refused() {
    let [(vip, client, servers), _] = FAMILIES;
    let bed = Bed::new();
    bed.add_with(Udp, vip, Rr, ONE_PACKET(), &[]);
    assert_eq!(bed.udp(client, vip).verdict, Verdict::Refuse(Refusal::NoServer));
    bed.director.apply(&[Command::AddServer(key(Udp, vip), server(servers[0], 1))]).unwrap();
    assert_eq!(bed.udp(client, vip).destination(), servers[0]);
    bed.add(Tcp, vip, Rr, &[]);
    assert_eq!(bed.udp(servers[0], client).source().0, 1);
}
