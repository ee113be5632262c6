//! Changes through the one door, while connections go on.

use crate::bed::{ACK, Bed, SYN, key, server};
use nfvs::director::packet::Transport::{Tcp, Udp};
use nfvs::director::protocol::Timeouts;
use nfvs::director::scheduler::SchedulerKind::{Rr, Wlc, Wrr};
use nfvs::director::service::ServiceSettings;
use nfvs::director::{Command, CommandError, DropReason, ServiceSpec, Verdict};
use std::net::SocketAddr;
use std::time::Duration;

const VIP: &str = "10.0.0.100:80";

fn address(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

#[test]
fn a_list_of_commands_is_carried_out_whole_or_not_at_all() {
    let bed = Bed::serving(Tcp, VIP, Rr, &["10.0.2.11:80"]);
    let service = key(Tcp, VIP);
    let before = format!("{:?}", bed.director.steering());
    let refused = bed.director.apply(&[
        Command::AddServer(service, server("10.0.3.12:80", 1)),
        Command::EditServer(service, server("10.0.2.11:80", 9)),
        Command::SetTimeouts(Timeouts { udp: Duration::from_secs(1), ..Timeouts::default() }),
        Command::AddServer(service, server("10.0.2.11:80", 1)),
    ]);
    assert_eq!(refused, Err(CommandError::ServerExists { service, server: address("10.0.2.11:80") }));
    assert_eq!(format!("{:?}", bed.director.steering()), before);
    let services = bed.director.services();
    assert_eq!(services.timeouts, Timeouts::default());
    assert_eq!(services.get(&service).unwrap().servers[0].weight().get(), 1);
}

#[test]
fn every_impossible_command_says_why() {
    let bed = Bed::serving(Tcp, VIP, Rr, &["10.0.2.11:80"]);
    let (known, unknown) = (key(Tcp, VIP), key(Udp, VIP));
    let spec = |key, name: &str| {
        Command::AddService(ServiceSpec {
            key,
            name: name.to_owned(),
            scheduler: Rr,
            settings: ServiceSettings::default(),
            servers: Vec::new(),
        })
    };
    for (command, message) in [
        (spec(known, "other"), "service tcp 10.0.0.100:80 already exists"),
        (spec(unknown, "tcp 10.0.0.100:80"), "another service is already called \"tcp 10.0.0.100:80\""),
        (
            Command::EditService { service: unknown, scheduler: Wlc, settings: ServiceSettings::default() },
            "no such service: udp 10.0.0.100:80",
        ),
        (
            Command::RenameServices(vec![(known, "new".to_owned()), (unknown, "old".to_owned())]),
            "no such service: udp 10.0.0.100:80",
        ),
        (Command::DeleteService(unknown), "no such service: udp 10.0.0.100:80"),
        (Command::AddServer(unknown, server("10.0.2.11:80", 1)), "no such service: udp 10.0.0.100:80"),
        (
            Command::AddServer(known, server("10.0.2.11:80", 1)),
            "server 10.0.2.11:80 of service tcp 10.0.0.100:80 already exists",
        ),
        (
            Command::EditServer(known, server("10.0.2.11:81", 1)),
            "service tcp 10.0.0.100:80 has no server 10.0.2.11:81",
        ),
        (
            Command::DeleteServer(known, address("10.0.2.12:80")),
            "service tcp 10.0.0.100:80 has no server 10.0.2.12:80",
        ),
    ] {
        assert_eq!(bed.director.apply(&[command]).unwrap_err().to_string(), message);
    }
}

#[test]
fn a_removed_server_keeps_replying_gets_nothing_and_comes_back_with_its_counters() {
    let mut bed = Bed::serving(Tcp, VIP, Rr, &["10.0.2.11:80"]);
    let service = key(Tcp, VIP);
    bed.tcp("10.0.1.2:1", VIP, SYN);
    bed.tcp("10.0.2.11:80", "10.0.1.2:1", SYN | ACK);
    bed.tcp("10.0.1.2:1", VIP, ACK);

    bed.director.apply(&[Command::DeleteServer(service, address("10.0.2.11:80"))]).unwrap();
    assert_eq!(bed.tcp("10.0.1.2:1", VIP, ACK).verdict, Verdict::Drop(DropReason::ServerRemoved));
    assert!(matches!(bed.tcp("10.0.2.11:80", "10.0.1.2:1", ACK).verdict, Verdict::Forward { .. }));
    assert_eq!(
        bed.director.steering()[0].servers,
        [address("10.0.2.11:80")],
        "its replies are still steered"
    );

    bed.director.apply(&[Command::AddServer(service, server("10.0.2.11:80", 3))]).unwrap();
    let services = bed.director.services();
    let back = &services.get(&service).unwrap().servers[0];
    assert_eq!((back.active_conns(), back.stats.snapshot().conns, back.weight().get()), (1, 1, 3));
    assert_eq!(bed.tcp("10.0.1.2:1", VIP, ACK).destination(), "10.0.2.11:80");

    bed.director.apply(&[Command::DeleteServer(service, address("10.0.2.11:80"))]).unwrap();
    bed.pass(902);
    assert!(!bed.director.empty_trash(bed.now), "only now is it known to be idle");
    bed.pass(121);
    assert!(bed.director.empty_trash(bed.now));
    assert!(bed.director.steering()[0].servers.is_empty());
    bed.director.check_invariants();
}

#[test]
fn a_deleted_service_still_has_its_replies_named_and_returns_under_the_same_source() {
    let mut bed = Bed::serving(Tcp, VIP, Rr, &["10.0.2.11:80"]);
    bed.tcp("10.0.1.2:1", VIP, SYN);
    let source = bed.tcp("10.0.2.11:80", "10.0.1.2:1", SYN | ACK).source();
    bed.director.apply(&[Command::DeleteService(key(Tcp, VIP))]).unwrap();
    let steering = bed.director.steering();
    assert_eq!((steering.len(), steering[0].accepts, steering[0].source), (1, false, source));
    assert_eq!(bed.tcp("10.0.2.11:80", "10.0.1.2:1", ACK).source(), source);

    bed.add(Tcp, "10.0.0.101:80", Rr, &["10.0.2.11:80"]);
    bed.add(Tcp, VIP, Rr, &["10.0.2.11:80"]);
    bed.tcp("10.0.1.2:7", VIP, SYN);
    assert_eq!(bed.tcp("10.0.2.11:80", "10.0.1.2:7", SYN | ACK).source(), source);
    let services = bed.director.services();
    let again = &services.get(&key(Tcp, VIP)).unwrap().servers[0];
    assert_eq!((again.total_conns(), again.stats.snapshot().conns), (2, 1), "counters of the new service");
    bed.pass(1000);
    bed.director.check_invariants();
}

#[test]
fn weight_0_ends_new_connections_only_and_an_edit_is_seen_at_once() {
    let bed = Bed::serving(Tcp, VIP, Wrr, &["10.0.2.11:80", "10.0.3.12:80"]);
    let service = key(Tcp, VIP);
    let first = bed.tcp("10.0.1.2:1", VIP, SYN).destination();
    bed.director.apply(&[Command::EditServer(service, server(&first, 0))]).unwrap();
    for port in 2..10 {
        assert_ne!(bed.tcp(&format!("10.0.1.2:{port}"), VIP, SYN).destination(), first);
    }
    assert_eq!(bed.tcp("10.0.1.2:1", VIP, ACK).destination(), first);
}

#[test]
fn a_scheduler_is_exchanged_under_running_connections() {
    let bed = Bed::serving(Udp, "10.0.0.100:53", Rr, &["10.0.2.11:53", "10.0.3.12:53"]);
    let service = key(Udp, "10.0.0.100:53");
    bed.udp("10.0.1.2:1", "10.0.0.100:53");
    bed.director
        .apply(&[Command::EditService { service, scheduler: Wlc, settings: ServiceSettings::default() }])
        .unwrap();
    bed.udp("10.0.1.2:2", "10.0.0.100:53");
    let services = bed.director.services();
    let held: Vec<u32> = services.get(&service).unwrap().servers.iter().map(|s| s.total_conns()).collect();
    assert_eq!(held, [1, 1]);
}

#[test]
fn ten_thousand_services_come_and_go_at_once_and_a_later_one_beside_them() {
    let bed = Bed::new();
    let services: Vec<Command> = (0..10_000)
        .map(|n| {
            Command::AddService(ServiceSpec {
                key: key(Tcp, &format!("10.1.{}.{}:80", n / 250, n % 250 + 1)),
                name: format!("s{n}"),
                scheduler: Wlc,
                settings: ServiceSettings::default(),
                servers: vec![server("10.0.2.11:80", 1)],
            })
        })
        .collect();
    bed.director.apply(&services).unwrap();
    bed.add(Tcp, VIP, Rr, &["10.0.2.11:80"]);
    assert_eq!(bed.tcp("10.0.1.2:1", "10.1.39.250:80", SYN).destination(), "10.0.2.11:80");
    let steering = bed.director.steering();
    let sources: std::collections::HashSet<_> = steering.iter().map(|service| service.source).collect();
    assert_eq!((steering.len(), sources.len()), (10_001, 10_001));

    let deleted =
        |n: usize| Command::DeleteService(key(Tcp, &format!("10.1.{}.{}:80", n / 250, n % 250 + 1)));
    bed.director.apply(&(0..10_000).map(deleted).collect::<Vec<_>>()).unwrap();
    assert_eq!(bed.director.services().iter().count(), 1);
    assert_eq!(bed.director.steering().len(), 10_001, "replies may still come");
    assert!(!bed.director.empty_trash(bed.now));
    assert!(bed.director.empty_trash(bed.now + Duration::from_secs(120)));
    assert_eq!(bed.director.steering().len(), 2);
}

#[test]
fn servers_added_together_are_scheduled_as_those_added_one_by_one() {
    let servers = ["10.0.2.11:80", "10.0.3.12:80", "10.0.4.13:80"];
    let weights = [4, 2, 1];
    let together = Bed::new();
    let spec = ServiceSpec {
        key: key(Tcp, VIP),
        name: "web".to_owned(),
        scheduler: Wrr,
        settings: ServiceSettings::default(),
        servers: servers.iter().zip(weights).map(|(address, weight)| server(address, weight)).collect(),
    };
    together.director.apply(&[Command::AddService(spec)]).unwrap();
    let single = Bed::serving(Tcp, VIP, Wrr, &[]);
    for (address, weight) in servers.iter().zip(weights) {
        single.director.apply(&[Command::AddServer(key(Tcp, VIP), server(address, weight))]).unwrap();
    }
    // What a kernel chose for these weights: 3 2 1 1 1 2 1, over and over.
    for (client, expected) in (1..=14).zip([3, 2, 1, 1, 1, 2, 1].iter().cycle()) {
        let from = format!("10.0.1.2:{client}");
        let chosen = [&together, &single].map(|bed| bed.tcp(&from, VIP, SYN).destination());
        assert_eq!(chosen, [servers[expected - 1], servers[expected - 1]]);
    }
}

/// A list for each of the changes would take gigabytes.
#[test]
fn ten_thousand_servers_are_added_edited_removed_and_brought_back_in_one_change_each() {
    let bed = Bed::new();
    let service = key(Tcp, VIP);
    let servers: Vec<_> =
        (0..10_000_u32).map(|n| server(&format!("10.2.{}.1:{}", n / 100, 1 + n % 100), 1)).collect();
    let spec = ServiceSpec {
        key: service,
        name: "many".to_owned(),
        scheduler: Rr,
        settings: ServiceSettings::default(),
        servers: servers.clone(),
    };
    bed.director.apply(&[Command::AddService(spec)]).unwrap();
    assert_eq!(bed.tcp("10.0.1.2:1", VIP, SYN).destination(), "10.2.99.1:100");
    assert_eq!(bed.director.steering()[0].servers.len(), 10_000);

    let edits: Vec<_> =
        servers.iter().map(|s| Command::EditServer(service, server(&s.address.to_string(), 0))).collect();
    bed.director.apply(&edits).unwrap();
    assert!(matches!(bed.tcp("10.0.1.2:2", VIP, SYN).verdict, Verdict::Refuse(_)));
    let removals: Vec<_> = servers.iter().map(|s| Command::DeleteServer(service, s.address)).collect();
    bed.director.apply(&removals).unwrap();
    assert!(bed.director.services().get(&service).unwrap().servers.is_empty());
    let additions: Vec<_> = servers.iter().map(|s| Command::AddServer(service, *s)).collect();
    bed.director.apply(&additions).unwrap();
    assert_eq!(bed.tcp("10.0.1.2:3", VIP, SYN).destination(), "10.2.99.1:100");
    assert_eq!(bed.tcp("10.0.1.2:1", VIP, ACK).destination(), "10.2.99.1:100");
}

#[test]
fn servers_changed_together_are_scheduled_as_those_changed_one_by_one() {
    let servers = ["10.0.2.11:80", "10.0.3.12:80", "10.0.4.13:80", "10.0.5.14:80"];
    let service = key(Tcp, VIP);
    let commands = [
        Command::EditServer(service, server(servers[0], 3)),
        Command::EditServer(service, server(servers[3], 2)),
        Command::DeleteServer(service, address(servers[1])),
        Command::DeleteServer(service, address(servers[3])),
        Command::AddServer(service, server(servers[3], 5)),
        Command::AddServer(service, server(servers[1], 4)),
    ];
    for kind in [Rr, Wrr, Wlc] {
        let [together, single] = [0, 1].map(|_| Bed::serving(Tcp, VIP, kind, &servers));
        let choose = |client: u16| {
            let from = format!("10.0.1.2:{}", 1000 + client);
            [&together, &single].map(|bed| bed.tcp(&from, VIP, SYN).destination())
        };
        for client in 1..=5 {
            choose(client);
        }
        together.director.apply(&commands).unwrap();
        for command in &commands {
            single.director.apply(std::slice::from_ref(command)).unwrap();
        }
        for client in 6..=40 {
            let [of_together, of_single] = choose(client);
            assert_eq!(of_together, of_single, "{kind}, client {client}");
        }
        together.director.check_invariants();
    }
}

#[test]
fn services_exchange_names_and_keep_what_they_have() {
    let bed = Bed::serving(Tcp, VIP, Rr, &["10.0.2.11:80"]);
    bed.add(Udp, VIP, Rr, &["10.0.2.11:80"]);
    bed.tcp("10.0.1.2:1", VIP, SYN);
    let (tcp, udp) = (key(Tcp, VIP), key(Udp, VIP));
    let names = |bed: &Bed| [tcp, udp].map(|key| bed.director.services().get(&key).unwrap().name.clone());
    let [first, second] = names(&bed);
    let rename = |of_tcp: &str, of_udp: &str| {
        Command::RenameServices(vec![(tcp, of_tcp.to_owned()), (udp, of_udp.to_owned())])
    };

    assert_eq!(
        bed.director.apply(&[rename("same", "same")]),
        Err(CommandError::NameExists("same".to_owned()))
    );
    assert_eq!(names(&bed), [first.clone(), second.clone()]);
    bed.director.apply(&[rename(&second, &first)]).unwrap();
    assert_eq!(names(&bed), [second, first.clone()]);
    assert_eq!(bed.director.services().get(&tcp).unwrap().core.stats.snapshot().conns, 1);
    assert_eq!(bed.tcp("10.0.1.2:1", VIP, ACK).destination(), "10.0.2.11:80");

    // A name that was given up is free.
    let add = Command::AddService(ServiceSpec {
        key: key(Tcp, "10.0.0.101:80"),
        name: first,
        scheduler: Rr,
        settings: ServiceSettings::default(),
        servers: Vec::new(),
    });
    bed.director.apply(&[rename("one", "two"), add]).unwrap();
    bed.director.check_invariants();
}
