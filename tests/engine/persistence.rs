//! Clients that stay with their server from one connection to the next.

use crate::bed::{ACK, Bed, FIN, RST, SYN, key, server};
use nfvs::director::packet::Transport::{self, Sctp, Tcp, Udp};
use nfvs::director::scheduler::SchedulerKind::Rr;
use nfvs::director::service::{ClientMask, Persistence, ServiceSettings, Tunables};
use nfvs::director::{Command, DropReason, Refusal, Verdict};
use std::time::Duration;

const VIP: &str = "10.0.0.100:80";
const SERVERS: [&str; 3] = ["10.0.2.11:8080", "10.0.3.12:8080", "10.0.4.13:8080"];

fn persistent(seconds: u64, clients: ClientMask) -> ServiceSettings {
    let timeout = Duration::from_secs(seconds);
    ServiceSettings {
        persistence: Some(Persistence { timeout, clients, engine: None }),
        ..ServiceSettings::default()
    }
}

fn v4(mask: &str) -> ClientMask {
    ClientMask::V4(mask.parse().unwrap())
}

fn serving(transport: Transport, vip: &str, settings: ServiceSettings, servers: &[&str]) -> Bed {
    let bed = Bed::new();
    bed.add_with(transport, vip, Rr, settings, servers);
    bed
}

fn web(seconds: u64) -> Bed {
    serving(Tcp, VIP, persistent(seconds, v4("255.255.255.255")), &SERVERS)
}

/// A whole exchange, after which the connection is in TIME_WAIT.
fn exchange(bed: &Bed, client: &str) -> String {
    let server = bed.tcp(client, VIP, SYN).destination();
    bed.tcp(&server, client, SYN | ACK);
    bed.tcp(client, VIP, ACK);
    bed.tcp(client, VIP, FIN | ACK);
    bed.tcp(&server, client, FIN | ACK);
    server
}

#[test]
fn clients_of_one_network_stay_together_and_others_are_scheduled() {
    for (vip, mask, same, other, servers) in [
        (VIP, v4("255.255.255.0"), ["10.0.1.2:1", "10.0.1.200:1", "10.0.1.2:2"], "10.0.2.2:1", SERVERS),
        (VIP, v4("255.255.255.255"), ["10.0.1.2:1", "10.0.1.2:2", "10.0.1.2:3"], "10.0.1.3:1", SERVERS),
        (
            "[fd00::100]:80",
            ClientMask::V6(64),
            ["[fd00:1::2]:1", "[fd00:1::ffff:2]:1", "[fd00:1::2]:2"],
            "[fd00:1:0:1::2]:1",
            ["[fd00:2::11]:8080", "[fd00:3::12]:8080", "[fd00:4::13]:8080"],
        ),
    ] {
        let bed = serving(Tcp, vip, persistent(300, mask), &servers);
        let first = bed.tcp(same[0], vip, SYN).destination();
        for client in &same[1..] {
            assert_eq!(bed.tcp(client, vip, SYN).destination(), first, "{client} of {mask}");
        }
        assert_ne!(bed.tcp(other, vip, SYN).destination(), first, "{other} is not of {mask}");
        assert_eq!((bed.templates().len(), bed.states().len()), (2, 4));
        bed.director.check_invariants();
    }
}

#[test]
fn a_template_shows_what_it_is_for_and_counts_apart() {
    let bed = serving(Tcp, VIP, persistent(300, v4("255.255.255.0")), &SERVERS[..1]);
    bed.tcp("10.0.1.2:1", VIP, SYN);
    let shown = |state| [format!("tcp 10.0.1.0 -> 10.0.0.100:80 -> 10.0.2.11:8080 {state} 300 0x1100")];
    assert_eq!(bed.templates(), shown("NONE"));
    let real = bed.real_server(key(Tcp, VIP), SERVERS[0]);
    assert_eq!((real.templates(), real.total_conns(), real.stats.snapshot().conns), (1, 1, 1));
    assert_eq!(bed.director.connection_count().0, 2, "both take room in the table");
    bed.tcp(SERVERS[0], "10.0.1.2:1", SYN | ACK);
    assert_eq!(bed.templates(), shown("NONE"), "half open is not assured");
    bed.tcp("10.0.1.2:1", VIP, ACK);
    assert_eq!(bed.templates(), shown("ASSURED"));
    bed.director.check_invariants();
}

#[test]
fn a_reply_assures_the_template_of_udp() {
    let bed = serving(Udp, VIP, persistent(300, v4("255.255.255.255")), &SERVERS);
    let to = bed.udp("10.0.1.2:1", VIP).destination();
    bed.udp("10.0.1.2:1", VIP);
    assert!(bed.templates()[0].contains(" NONE "), "{:?}", bed.templates());
    bed.udp(&to, "10.0.1.2:1");
    assert!(bed.templates()[0].contains(" ASSURED "), "{:?}", bed.templates());
}

#[test]
fn an_established_association_assures_the_template_of_sctp() {
    let bed = serving(Sctp, VIP, persistent(300, v4("255.255.255.255")), &SERVERS);
    let to = bed.sctp("10.0.1.2:1", VIP, 1).destination();
    bed.sctp(&to, "10.0.1.2:1", 2);
    bed.sctp("10.0.1.2:1", VIP, 10);
    assert!(bed.templates()[0].contains(" NONE "), "{:?}", bed.templates());
    bed.sctp(&to, "10.0.1.2:1", 11);
    assert!(bed.templates()[0].contains(" ASSURED "), "{:?}", bed.templates());
}

#[test]
fn new_connections_restart_the_template_and_packets_do_not() {
    let mut bed = web(300);
    let first = exchange(&bed, "10.0.1.2:1");
    bed.pass(200);
    assert!(bed.templates()[0].contains(" 100 "), "{:?}", bed.templates());
    assert_eq!(exchange(&bed, "10.0.1.2:2"), first);
    assert!(bed.templates()[0].contains(" 300 "), "{:?}", bed.templates());
    bed.pass(100);
    bed.tcp("10.0.1.2:2", VIP, ACK);
    assert!(bed.templates()[0].contains(" 200 "), "{:?}", bed.templates());
    bed.pass(199);
    assert_eq!(bed.templates().len(), 1);
    bed.pass(1);
    assert_eq!(bed.templates().len(), 0);
    assert_ne!(exchange(&bed, "10.0.1.2:3"), first, "its time is over");
    bed.director.check_invariants();
}

// Seen on a kernel: -p 2 with a UDP connection of 8 s shows 60 s after 2 s, and up to 60 s once that is gone.
#[test]
fn a_template_with_connections_gets_60_seconds_more_and_has_them_for_good() {
    let mut bed = serving(Tcp, VIP, persistent(2, v4("255.255.255.255")), &SERVERS);
    let first = bed.tcp("10.0.1.2:1", VIP, SYN).destination();
    bed.tcp(&first, "10.0.1.2:1", SYN | ACK);
    bed.tcp("10.0.1.2:1", VIP, ACK);
    bed.now = bed.now + Duration::from_secs(2);
    assert!(bed.templates()[0].contains(" 60 "), "before it was swept: {:?}", bed.templates());
    bed.pass(3);
    assert!(bed.templates()[0].contains(" 57 "), "{:?}", bed.templates());
    bed.pass(300);
    assert!(bed.templates()[0].contains(" 57 "), "again and again: {:?}", bed.templates());
    bed.director.check_invariants();
    assert_eq!(bed.tcp("10.0.1.2:2", VIP, SYN).destination(), first);
    assert!(bed.templates()[0].contains(" 60 "), "not 2 any more: {:?}", bed.templates());
    bed.tcp("10.0.1.2:1", VIP, RST);
    bed.tcp("10.0.1.2:2", VIP, ACK);
    bed.tcp("10.0.1.2:2", VIP, RST);
    bed.pass(11);
    assert_eq!((bed.states().len(), bed.templates().len()), (0, 1));
    bed.pass(50);
    assert_eq!(bed.templates().len(), 0);
    bed.pass(2);
    assert_eq!(bed.director.connection_count().0, 0);
    bed.director.check_invariants();
}

#[test]
fn a_template_leads_to_its_server_whatever_its_weight() {
    let bed = web(300);
    let service = key(Tcp, VIP);
    let first = bed.tcp("10.0.1.2:1", VIP, SYN).destination();
    bed.director.apply(&[Command::EditServer(service, server(&first, 0))]).unwrap();
    assert_eq!(bed.tcp("10.0.1.2:2", VIP, SYN).destination(), first, "weight 0");

    let quiescent = Tunables { expire_quiescent_template: true, ..Tunables::default() };
    bed.tune(quiescent);
    let next = bed.tcp("10.0.1.2:3", VIP, SYN).destination();
    assert_ne!(next, first, "expire_quiescent_template");
    assert_eq!(bed.tcp("10.0.1.2:4", VIP, SYN).destination(), next, "the new template counts");
    assert_eq!(bed.tcp("10.0.1.2:1", VIP, ACK).destination(), first, "connections go on");
    let void = "tcp 10.0.1.2 -> 10.0.0.100:65535 -> 10.0.4.13:65535 ASSURED 300 0x1100";
    assert!(bed.templates().contains(&void.to_owned()), "{:?}", bed.templates());
    bed.director.check_invariants();
}

#[test]
fn a_template_of_a_removed_server_is_void_and_one_that_came_back_counts_again() {
    let mut bed = web(300);
    let service = key(Tcp, VIP);
    let first = exchange(&bed, "10.0.1.2:1");
    let address = first.parse().unwrap();
    bed.director.apply(&[Command::DeleteServer(service, address)]).unwrap();
    bed.director.apply(&[Command::AddServer(service, server(&first, 1))]).unwrap();
    assert_eq!(exchange(&bed, "10.0.1.2:2"), first, "nobody asked for it meanwhile");
    bed.director.apply(&[Command::DeleteServer(service, address)]).unwrap();
    let next = bed.tcp("10.0.1.2:3", VIP, SYN).destination();
    assert_ne!(next, first);
    bed.director.apply(&[Command::AddServer(service, server(&first, 1))]).unwrap();
    assert_eq!(bed.tcp("10.0.1.2:4", VIP, SYN).destination(), next);
    bed.director.check_invariants();

    // A void template holds its server in the trash like any other entry.
    bed.director.apply(&[Command::DeleteServer(service, address)]).unwrap();
    bed.pass(250);
    assert_eq!(bed.states().len(), 0, "{:?}", bed.states());
    bed.director.empty_trash(bed.now);
    bed.pass(40);
    bed.director.empty_trash(bed.now);
    assert_eq!(bed.director.steering()[0].servers.len(), 3, "the template is not over");
    bed.pass(20);
    bed.director.empty_trash(bed.now);
    bed.pass(121);
    bed.director.empty_trash(bed.now);
    assert_eq!(bed.director.steering()[0].servers.len(), 2);
    bed.director.check_invariants();
}

#[test]
fn a_persistent_connection_that_is_over_stays_with_its_server() {
    let bed = web(300);
    let first = exchange(&bed, "10.0.1.2:1");
    assert!(bed.states()[0].contains("TIME_WAIT"), "{:?}", bed.states());
    assert_eq!(bed.tcp("10.0.1.2:1", VIP, SYN).destination(), first);
    assert_eq!(
        (bed.states().len(), bed.director.services().iter().next().unwrap().core.stats.snapshot().conns),
        (1, 1)
    );
    bed.director.check_invariants();
}

#[test]
fn a_service_of_every_port_has_one_template_for_a_protocol_and_address() {
    let bed =
        serving(Tcp, "10.0.0.100:0", persistent(300, v4("255.255.255.255")), &["10.0.2.11:0", "10.0.3.12:0"]);
    bed.add_with(Udp, "10.0.0.100:0", Rr, persistent(300, v4("255.255.255.255")), &["10.0.4.13:0"]);
    let first = bed.tcp("10.0.1.2:1", "10.0.0.100:80", SYN).to;
    let second = bed.tcp("10.0.1.2:2", "10.0.0.100:443", SYN).to;
    assert_eq!((first.ip(), first.port(), second.port()), (second.ip(), 80, 443));
    assert_eq!(bed.udp("10.0.1.2:2", "10.0.0.100:443").destination(), "10.0.4.13:443");
    let keys: Vec<String> =
        bed.templates().iter().map(|t| t.split(" NONE").next().unwrap().to_owned()).collect();
    assert_eq!(
        keys,
        [
            format!("tcp 10.0.1.2 -> 10.0.0.100:0 -> {}:0", first.ip()),
            "udp 10.0.1.2 -> 10.0.0.100:0 -> 10.0.4.13:0".to_owned(),
        ]
    );
}

#[test]
fn data_connections_of_ftp_reach_the_server_of_the_control_connection() {
    for (vip, client, servers) in [
        ("10.0.0.100", "10.0.1.2", ["10.0.2.11:2121", "10.0.3.12:2121"]),
        ("[fd00::100]", "[fd00:1::2]", ["[fd00:2::11]:2121", "[fd00:3::12]:2121"]),
    ] {
        let control = format!("{vip}:21");
        let settings = persistent(300, ClientMask::whole(client.trim_matches(['[', ']']).parse().unwrap()));
        let bed = serving(Tcp, &control, settings, &servers);
        let other = format!("{vip}:80");
        bed.add(Tcp, &other, Rr, &[&servers[0].replace("2121", "80")]);
        for number in 0..4 {
            let from = |port: u32| format!("{client}:{}", port + number);
            let to = bed.tcp(&from(5000), &control, SYN).to;
            assert_eq!(to.port(), 2121, "the server's own port");
            for data in [20, 1024, 40000] {
                let asked = format!("{vip}:{data}");
                let went = bed.tcp(&from(6000 + data), &asked, SYN).to;
                assert_eq!((went.ip(), u32::from(went.port())), (to.ip(), data), "{asked}");
            }
            let below = bed.tcp(&from(7000), &format!("{vip}:1023"), SYN).verdict;
            assert_eq!(below, Verdict::Refuse(Refusal::NotServed));
        }
        assert_eq!(bed.templates().len(), 1);
        assert!(bed.templates()[0].contains(&format!("{vip}:0 -> ")), "{:?}", bed.templates());
        bed.director.check_invariants();

        let service = key(Tcp, &control);
        let plain = Command::EditService { service, scheduler: Rr, settings: ServiceSettings::default() };
        bed.director.apply(&[plain]).unwrap();
        let data = bed.tcp(&format!("{client}:9000"), &format!("{vip}:40000"), SYN).verdict;
        assert_eq!(data, Verdict::Refuse(Refusal::NotServed), "persistence is what leads them");
    }
}

#[test]
fn persistence_comes_and_goes_with_an_edit() {
    let bed = Bed::serving(Tcp, VIP, Rr, &SERVERS);
    let service = key(Tcp, VIP);
    let edit =
        |settings| bed.director.apply(&[Command::EditService { service, scheduler: Rr, settings }]).unwrap();
    let go = |port: u16| bed.tcp(&format!("10.0.1.2:{port}"), VIP, SYN).destination();
    assert_ne!(go(1), go(2));
    edit(persistent(300, v4("255.255.255.255")));
    assert_eq!(go(3), go(4));
    edit(ServiceSettings::default());
    assert_ne!(go(5), go(6));
    bed.director.check_invariants();
}

#[test]
fn templates_are_bounded_like_connections() {
    let bed = Bed::with_limit(3);
    bed.add_with(Tcp, VIP, Rr, persistent(300, v4("255.255.255.255")), &SERVERS);
    assert!(matches!(bed.tcp("10.0.1.2:1", VIP, SYN).verdict, Verdict::Forward { .. }));
    let full = Verdict::Drop(DropReason::TableFull);
    assert_eq!(bed.tcp("10.0.1.3:1", VIP, SYN).verdict, full, "room for a template, none for its connection");
    assert_eq!(bed.tcp("10.0.1.4:1", VIP, SYN).verdict, full, "not even for a template");
    assert_eq!(bed.director.drops(DropReason::TableFull), 2);
    bed.director.check_invariants();
}

#[test]
fn no_server_leaves_no_template() {
    let bed = serving(Tcp, VIP, persistent(300, v4("255.255.255.255")), &[]);
    assert_eq!(bed.tcp("10.0.1.2:1", VIP, SYN).verdict, Verdict::Refuse(Refusal::NoServer));
    assert_eq!(bed.director.connection_count().0, 0);
}
