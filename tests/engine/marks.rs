//! Services by firewall mark: whatever an operator's rules have marked.

use crate::bed::{
    ACK, Bed, FIN, INIT, INIT_ACK, SYN, endpoints, icmp_payload, key, marked, sctp, server, tcp, udp,
    unreachable,
};
use nfvs::director::packet::Transport::{Tcp, Udp};
use nfvs::director::scheduler::SchedulerKind::Rr;
use nfvs::director::service::{ClientMask, Family, Persistence, ServiceSettings};
use nfvs::director::{Command, Hook, Refusal, ReplySource, Verdict};
use std::time::Duration;

/// A client, what it asks for, the servers of a service by mark, a router.
type Network = (Family, &'static str, [&'static str; 2], [&'static str; 2], &'static str);
const FAMILIES: [Network; 2] = [
    (
        Family::V4,
        "10.0.1.2:5000",
        ["192.0.2.80:80", "192.0.2.81:443"],
        ["10.0.2.11:8080", "10.0.3.12:8080"],
        "10.0.2.1",
    ),
    (
        Family::V6,
        "[fd00:1::2]:5000",
        ["[2001:db8::80]:80", "[2001:db8::81]:443"],
        ["[fd00:2::11]:8080", "[fd00:3::12]:8080"],
        "fd00:2::1",
    ),
];

fn serving(family: Family, settings: ServiceSettings, servers: &[&str]) -> Bed {
    let bed = Bed::new();
    bed.add_service(marked(5, family), Rr, settings, servers);
    bed
}

fn persistent(client: &str) -> ServiceSettings {
    let clients = ClientMask::whole(client.parse::<std::net::SocketAddr>().unwrap().ip());
    let timeout = Duration::from_secs(60);
    ServiceSettings {
        persistence: Some(Persistence { timeout, clients, engine: None }),
        ..ServiceSettings::default()
    }
}

fn host(endpoint: &str) -> String {
    endpoint.parse::<std::net::SocketAddr>().unwrap().ip().to_string()
}

/// What a reply has for a source once it has come to the director a second time.
#[track_caller]
fn set_late(bed: &Bed, mut reply: Vec<u8>) -> (String, String) {
    let verdict = bed.handle(&mut reply);
    let Verdict::Forward { source: Some(ReplySource::ASKED_AGAIN), .. } = verdict else {
        panic!("{verdict:?}")
    };
    let late = bed.handle_at(Hook::Late, None, &mut reply);
    assert!(matches!(late, Verdict::Forward { rewritten: Some(_), source: None }), "{late:?}");
    let (from, to) = endpoints(&reply);
    (from.to_string(), to.to_string())
}

#[test]
fn a_mark_stands_for_every_address_port_and_protocol() {
    for (family, client, asked, servers, _) in FAMILIES {
        let bed = serving(family, ServiceSettings::default(), &servers);
        let first = bed.marked_tcp(5, client, asked[0], SYN);
        assert_eq!(first.destination(), servers[1], "without persistence, the server's port");
        assert_eq!(first.verdict_source(), Some(ReplySource::UNTRACKED), "no rule knew that it was ours");
        assert_eq!(bed.marked_tcp(5, client, asked[1], SYN).destination(), servers[0]);
        assert_eq!(bed.marked_udp(5, client, asked[0]).destination(), servers[1]);
        assert_eq!(bed.marked_tcp(5, client, asked[0], ACK).destination(), servers[1], "the connection");

        for (server, asked) in [(servers[1], asked[0]), (servers[0], asked[1])] {
            let reply = set_late(&bed, tcp(server, client, SYN | ACK, b""));
            assert_eq!(reply, (asked.to_owned(), client.to_owned()), "the address that was asked for");
        }
        assert_eq!(bed.marked_sctp(5, client, asked[1], INIT).destination(), servers[0]);
        let reply = set_late(&bed, sctp(servers[0], client, INIT_ACK));
        assert_eq!(reply, (asked[1].to_owned(), client.to_owned()), "with its CRC");
        let reply = set_late(&bed, udp(servers[1], client, b"answer"));
        assert_eq!(reply, (asked[0].to_owned(), client.to_owned()));
        bed.director.check_invariants();
    }
}

#[test]
fn what_a_mark_does_not_serve_is_left_alone() {
    let (family, client, asked, servers, _) = FAMILIES[0];
    let bed = serving(family, ServiceSettings::default(), &servers);
    for (what, outcome) in [
        ("not marked", bed.tcp(client, asked[0], SYN)),
        ("another mark", bed.marked_tcp(6, client, asked[0], SYN)),
        ("the middle of an unknown connection", bed.marked_tcp(5, client, asked[0], ACK)),
        ("the other family", bed.marked_tcp(5, "[fd00:1::2]:1", "[2001:db8::80]:80", SYN)),
    ] {
        assert_eq!(outcome.verdict, Verdict::Accept, "{what}");
    }
    assert_eq!(bed.director.connection_count().0, 0);
    let none = serving(family, ServiceSettings::default(), &[]);
    assert_eq!(none.marked_tcp(5, client, asked[0], SYN).verdict, Verdict::Refuse(Refusal::NoServer));
}

#[test]
fn a_mark_comes_before_the_address() {
    let bed = serving(Family::V4, ServiceSettings::default(), &["10.0.2.11:0"]);
    bed.add(Tcp, "10.0.0.100:80", Rr, &["10.0.3.12:8080"]);
    let to = |mark, port: u16| {
        let from = format!("10.0.1.2:{port}");
        bed.marked_tcp(mark, &from, "10.0.0.100:80", SYN).destination()
    };
    assert_eq!([to(5, 1), to(0, 2), to(7, 3)], ["10.0.2.11:80", "10.0.3.12:8080", "10.0.3.12:8080"]);
    assert_eq!(
        bed.marked_tcp(5, "10.0.1.2:4", "10.0.0.100:81", ACK).verdict,
        Verdict::Refuse(Refusal::NotServed),
        "a virtual address is one, whatever the mark"
    );
}

#[test]
fn one_template_spans_protocols_addresses_and_ports_and_keeps_the_port() {
    for (family, client, asked, servers, _) in FAMILIES {
        let bed = serving(family, persistent(client), &servers);
        let first = bed.marked_tcp(5, client, asked[0], SYN).to;
        let second = bed.marked_tcp(5, client, asked[1], SYN).to;
        let third = bed.marked_udp(5, client, asked[1]).to;
        assert_eq!([first.ip(), second.ip()], [third.ip(); 2]);
        assert_eq!([first.port(), second.port(), third.port()], [80, 443, 443], "not the server's own");
        let (mark, server) = match family {
            Family::V4 => ("0.0.0.5:0", "10.0.3.12:0"),
            Family::V6 => ("[0:5::]:0", "[fd00:3::12]:0"),
        };
        assert_eq!(bed.templates(), [format!("ip {} -> {mark} -> {server} NONE 60 0x1100", host(client))]);
        let reply = set_late(&bed, tcp(&second.to_string(), client, SYN | ACK, b""));
        assert_eq!(reply, (asked[1].to_owned(), client.to_owned()));
        bed.director.check_invariants();
    }
}

#[test]
fn errors_about_either_direction_are_translated() {
    for (family, client, asked, servers, router) in FAMILIES {
        let bed = serving(family, ServiceSettings::default(), &servers[..1]);
        bed.marked_tcp(5, client, asked[0], SYN);

        let mut error = unreachable(router, &host(client), &tcp(client, servers[0], SYN, b""));
        let verdict = bed.handle(&mut error);
        let Verdict::Forward { rewritten: Some(_), source: Some(ReplySource::ASKED_AGAIN) } = verdict else {
            panic!("{verdict:?}")
        };
        let late = bed.handle_at(Hook::Late, None, &mut error);
        assert!(matches!(late, Verdict::Forward { rewritten: Some(_), source: None }), "{late:?}");
        assert_eq!(endpoints(&error).0.ip().to_string(), host(asked[0]));
        let (from, to) = endpoints(icmp_payload(&error));
        assert_eq!((from.to_string(), to.to_string()), (client.to_owned(), asked[0].to_owned()));

        let mut error = unreachable(&host(client), &host(asked[0]), &tcp(asked[0], client, ACK, b""));
        let verdict = bed.handle(&mut error);
        let Verdict::Forward { rewritten: Some(_), source: Some(ReplySource::UNTRACKED) } = verdict else {
            panic!("{verdict:?}")
        };
        let (from, to) = endpoints(icmp_payload(&error));
        assert_eq!((from.to_string(), to.to_string()), (servers[0].to_owned(), client.to_owned()));
    }
}

#[test]
fn a_stand_in_port_is_undone_at_the_second_visit() {
    let (family, client, asked, servers, _) = FAMILIES[0];
    let bed = serving(family, ServiceSettings::default(), &servers[..1]);
    bed.marked_tcp(5, client, asked[0], SYN);
    let stand_in = bed.marked_tcp(5, client, asked[1], SYN).from.to_string();
    assert_ne!(stand_in, client);
    let reply = set_late(&bed, tcp(servers[0], &stand_in, SYN | ACK, b""));
    assert_eq!(reply, (asked[1].to_owned(), client.to_owned()));
}

#[test]
fn a_late_packet_counts_once_and_one_of_nobody_is_left_alone() {
    let (family, client, asked, servers, _) = FAMILIES[0];
    let bed = serving(family, ServiceSettings::default(), &servers[..1]);
    bed.marked_tcp(5, client, asked[0], SYN);
    set_late(&bed, tcp(servers[0], client, SYN | ACK, b""));
    bed.marked_tcp(5, client, asked[0], ACK);
    set_late(&bed, tcp(servers[0], client, FIN | ACK, b""));
    assert!(bed.states()[0].contains(" FIN_WAIT "), "{:?}", bed.states());
    let stats = bed.real_server(marked(5, family), servers[0]).stats.snapshot();
    assert_eq!((stats.in_packets, stats.out_packets), (2, 2));

    let mut stranger = tcp(servers[0], "10.0.1.9:1", ACK, b"");
    assert_eq!(bed.handle_at(Hook::Late, None, &mut stranger), Verdict::Accept);
    let mut stranger = unreachable("10.0.2.1", "10.0.1.9", &tcp("10.0.1.9:1", asked[0], ACK, b""));
    assert_eq!(bed.handle_at(Hook::Late, None, &mut stranger), Verdict::Accept);
}

#[test]
fn data_connections_of_ftp_have_their_source_set_late_and_the_control_connection_by_the_rules() {
    let bed = Bed::new();
    bed.add_with(Tcp, "10.0.0.100:21", Rr, persistent("10.0.1.2:1"), &["10.0.2.11:21"]);
    bed.tcp("10.0.1.2:1", "10.0.0.100:21", SYN);
    bed.tcp("10.0.1.2:2", "10.0.0.100:40000", SYN);
    let control = bed.tcp("10.0.2.11:21", "10.0.1.2:1", SYN | ACK).source();
    assert!(control.0 < ReplySource::LIMIT, "{control:?}");
    let data = set_late(&bed, tcp("10.0.2.11:40000", "10.0.1.2:2", SYN | ACK, b""));
    assert_eq!(data.0, "10.0.0.100:40000");
    let steered = &bed.director.steering()[0];
    assert!(steered.ftp_data);
    assert_eq!(steered.servers, ["10.0.2.11:0".parse().unwrap()], "it answers from any port");
}

#[test]
fn steering_knows_a_mark_by_its_servers_and_forgets_it_with_its_connections() {
    let (family, client, asked, servers, _) = FAMILIES[0];
    let mut bed = serving(family, ServiceSettings::default(), &servers[..1]);
    let service = marked(5, family);
    let steering = bed.director.steering();
    assert_eq!((steering.len(), steering[0].key, steering[0].accepts), (1, service, true));
    assert_eq!(steering[0].servers, ["10.0.2.11:0".parse().unwrap()], "it answers from any port");

    bed.marked_tcp(5, client, asked[0], SYN);
    bed.director.apply(&[Command::DeleteService(service)]).unwrap();
    assert!(!bed.director.steering()[0].accepts);
    set_late(&bed, tcp(servers[0], client, SYN | ACK, b""));
    assert_eq!(bed.marked_tcp(5, client, asked[0], ACK).verdict, Verdict::Accept, "it is nobody's now");

    bed.add_service(service, Rr, ServiceSettings::default(), &servers[..1]);
    assert_eq!(bed.marked_tcp(5, client, asked[0], ACK).destination(), servers[0], "it has come back");
    bed.director.apply(&[Command::DeleteService(service)]).unwrap();
    bed.pass(901);
    bed.director.empty_trash(bed.now);
    bed.pass(121);
    bed.director.empty_trash(bed.now);
    assert!(bed.director.steering().is_empty());
    bed.director.check_invariants();
}

#[test]
fn a_family_may_have_what_the_other_has_and_sources_are_not_used_up() {
    let bed = serving(Family::V4, ServiceSettings::default(), &["10.0.2.11:80"]);
    bed.add_service(marked(5, Family::V6), Rr, ServiceSettings::default(), &["[fd00:2::11]:80"]);
    assert_eq!(
        [marked(5, Family::V4), marked(5, Family::V6)].map(|key| key.to_string()),
        ["fwmark 5 ipv4", "fwmark 5 ipv6"]
    );
    bed.add(Udp, "10.0.0.100:53", Rr, &["10.0.2.11:53"]);
    let services = bed.director.services();
    assert_eq!(services.get(&key(Udp, "10.0.0.100:53")).unwrap().core.source, ReplySource(1));
    let twice = bed.director.apply(&[Command::AddServer(marked(5, Family::V4), server("10.0.2.11:80", 1))]);
    assert_eq!(twice.unwrap_err().to_string(), "server 10.0.2.11:80 of service fwmark 5 ipv4 already exists");
}
