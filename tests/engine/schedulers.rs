//! What schedulers go by beside servers and counters: clients, destinations, flags, time.

use crate::bed::{ACK, Bed, RST, SYN, key, marked, server, tcp, unreachable};
use nfvs::director::packet::Transport::{Tcp, Udp};
use nfvs::director::scheduler::SchedulerFlag;
use nfvs::director::scheduler::SchedulerKind::{self, Dh, Lblc, Lblcr, Mh, Rr, Sh};
use nfvs::director::service::{ClientMask, Family, Fwmark, Persistence, ServiceSettings, Tunables};
use nfvs::director::{Command, CommandError, Hook, ServerSpec, Verdict};
use std::collections::BTreeSet;
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;

const VIP: &str = "10.0.0.100:53";
const SERVERS: [&str; 4] = ["10.0.2.11:53", "10.0.3.12:53", "10.0.4.13:53", "10.0.5.14:53"];
/// The same for a service by mark.
const ANY_PORT: [&str; 4] = ["10.0.2.11:0", "10.0.3.12:0", "10.0.4.13:0", "10.0.5.14:0"];

fn with(flags: impl IntoIterator<Item = SchedulerFlag>) -> ServiceSettings {
    ServiceSettings { scheduler_flags: flags.into_iter().collect(), ..ServiceSettings::default() }
}

#[test]
fn flags_count_from_the_next_choice_on_and_connections_stay() {
    for (kind, port) in [(Sh, SchedulerFlag::ShPort), (Mh, SchedulerFlag::MhPort)] {
        let bed = Bed::serving(Udp, VIP, kind, &SERVERS);
        let servers = |ports: std::ops::Range<u16>| -> BTreeSet<String> {
            ports.map(|port| bed.udp(&format!("10.0.1.2:{port}"), VIP).destination()).collect()
        };
        let before = servers(1001..1040);
        assert_eq!(before.len(), 1, "{kind}");
        let edit = |settings| Command::EditService { service: key(Udp, VIP), scheduler: kind, settings };
        bed.director.apply(&[edit(with([port]))]).unwrap();
        assert_eq!(servers(1001..1040), before, "{kind}: what has a connection");
        assert_eq!(servers(1040..1100).len(), 4, "{kind}");
        bed.director.apply(&[edit(with([]))]).unwrap();
        assert_eq!(servers(1100..1140), before, "{kind}");
    }
}

// Clients that count as one are told apart where a template is made: by the whole address, and by the port.
#[test]
fn a_template_is_made_by_the_client_and_port_that_asked_first() {
    let persistence = Persistence {
        timeout: Duration::from_secs(60),
        clients: ClientMask::V4([255, 255, 255, 0].into()),
        engine: None,
    };
    for (kind, port) in [(Sh, SchedulerFlag::ShPort), (Mh, SchedulerFlag::MhPort)] {
        let plain = Bed::new();
        plain.add_with(Tcp, VIP, kind, with([port]), &SERVERS);
        let persistent = Bed::new();
        let settings = ServiceSettings { persistence: Some(persistence), ..with([port]) };
        persistent.add_with(Tcp, VIP, kind, settings, &SERVERS);
        let mut servers = BTreeSet::new();
        for number in 1..30 {
            let client = format!("10.1.{number}.{}:{}", 2 * number, 1000 + number);
            let expected = plain.tcp(&client, VIP, SYN).destination();
            assert_eq!(persistent.tcp(&client, VIP, SYN).destination(), expected, "{kind} {client}");
            let neighbour = format!("10.1.{number}.200:7");
            assert_eq!(persistent.tcp(&neighbour, VIP, SYN).destination(), expected, "{kind} {neighbour}");
            servers.insert(expected);
        }
        assert_eq!(servers.len(), 4, "{kind}");
    }
}

// The kernel's dh, lblc and lblcr take the destination from the header of what is embedded, which is the client; sh and
// mh know that the packet goes the other way.
#[test]
fn an_error_is_scheduled_by_the_header_in_it() {
    let mark = Fwmark::new(5).unwrap();
    let service = marked(5, Family::V4);
    let host = |number: u8| format!("192.0.2.{number}");
    let chosen = |kind: SchedulerKind, of: &dyn Fn(&Bed) -> String| {
        let bed = Bed::new();
        bed.add_service(service, kind, ServiceSettings::default(), &ANY_PORT);
        bed.tune(Tunables { schedule_icmp: true, ..Tunables::default() });
        of(&bed)
    };
    let mut servers = BTreeSet::new();
    for number in 1..20 {
        let error = |bed: &Bed| {
            let (client, vip) = (format!("{}:4242", host(number)), "198.51.100.7:53");
            let about = tcp(vip, &client, RST | ACK, b"");
            let mut error = unreachable(&host(number), "198.51.100.7", &about);
            let verdict = bed.handle_at(Hook::Prerouting, Some(mark), &mut error);
            assert!(matches!(verdict, Verdict::Forward { .. }), "{verdict:?}");
            bed.states()[0].split(" -> ").nth(2).unwrap().split(':').next().unwrap().to_owned()
        };
        let asking = |from: String, to: String| {
            move |bed: &Bed| {
                bed.marked_tcp(5, &from, &to, SYN).destination().split(':').next().unwrap().to_owned()
            }
        };
        for (kind, request) in [
            (Dh, asking("203.0.113.1:4242".to_owned(), format!("{}:53", host(number)))),
            (Sh, asking(format!("{}:4242", host(number)), "203.0.113.1:53".to_owned())),
            (Mh, asking(format!("{}:4242", host(number)), "203.0.113.1:53".to_owned())),
        ] {
            let server = chosen(kind, &error);
            assert_eq!(server, chosen(kind, &request), "{kind} {number}");
            servers.insert((kind.name(), server));
        }
    }
    assert_eq!(servers.len(), 12, "all servers of each");
}

#[test]
fn destinations_are_forgotten_as_the_tunables_say() {
    for (kind, tunables) in [
        (Lblc, Tunables { lblc_expiration: 600, lblcr_expiration: 86_400, ..Tunables::default() }),
        (Lblcr, Tunables { lblcr_expiration: 600, lblc_expiration: 86_400, ..Tunables::default() }),
    ] {
        let mut bed = Bed::new();
        let specs = ["10.0.2.11:0", "10.0.3.12:0"].map(|address| server(address, 100)).to_vec();
        bed.add_service_specs(marked(5, Family::V4), kind, specs);
        bed.tune(tunables);
        let mut port = 1000;
        let mut ask = |bed: &Bed| {
            port += 1;
            let asked = bed.marked_tcp(5, &format!("10.0.1.2:{port}"), "198.51.100.7:80", SYN).destination();
            asked.replace(":80", ":0")
        };
        bed.pass(1);
        let first = ask(&bed);
        assert_eq!(ask(&bed), first, "{kind}, though it has more connections");
        // Looks come every minute, and the thirtieth is for what is too old.
        for _ in 0..29 {
            bed.pass(60);
        }
        bed.pass(1);
        assert_eq!(ask(&bed), first, "{kind}: nobody has looked");
        for _ in 0..31 {
            bed.pass(60);
        }
        // Connections are over by now. A new one makes the other server the better choice.
        bed.real_server(marked(5, Family::V4), &first).bind_connection(true);
        assert_ne!(ask(&bed), first, "{kind}: it is a new destination");
    }
}

// A server that was drained keeps its places in mh's table; one that comes back from where removed ones are kept does so
// as if it had never had another weight.
#[test]
fn a_server_that_comes_back_without_weight_has_forgotten_the_one_it_had() {
    let bed = Bed::serving(Udp, VIP, Mh, &SERVERS);
    let (service, address) = (key(Udp, VIP), SERVERS[0]);
    let last_weight = || bed.real_server(service, address).last_weight().get();
    bed.director.apply(&[Command::EditServer(service, server(address, 7))]).unwrap();
    bed.director.apply(&[Command::EditServer(service, server(address, 0))]).unwrap();
    assert_eq!(last_weight(), 7);
    let before = bed.real_server(service, address);
    bed.director.apply(&[Command::DeleteServer(service, server(address, 0).address)]).unwrap();
    bed.director.apply(&[Command::AddServer(service, server(address, 0))]).unwrap();
    assert!(Arc::ptr_eq(&before, &bed.real_server(service, address)), "it is the same server");
    assert_eq!(last_weight(), 0);
}

#[test]
fn a_table_has_a_place_for_each_server() {
    let servers: Vec<ServerSpec> =
        (0..4094_u32).map(|n| server(&format!("{}:53", Ipv4Addr::from(0x0a80_0000 | n)), 1)).collect();
    let bed = Bed::serving_specs(Udp, VIP, Rr, servers);
    let service = key(Udp, VIP);
    let mh = [Command::EditService { service, scheduler: Mh, settings: ServiceSettings::default() }];
    let too_many = Err(CommandError::TooManyServers { service, scheduler: Mh, most: 4093 });
    assert_eq!(bed.director.apply(&mh), too_many);
    let last = server("10.128.15.253:53", 1);
    bed.director.apply(&[Command::DeleteServer(service, last.address)]).unwrap();
    bed.director.apply(&mh).unwrap();
    assert_eq!(bed.director.apply(&[Command::AddServer(service, last)]), too_many);
    bed.udp("10.0.1.2:1", VIP).destination();
}
