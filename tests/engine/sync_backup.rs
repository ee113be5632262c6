//! What a backup makes of what it is told, and what becomes of it when packets come.

use crate::bed::{ACK, Bed, FIN, SYN, key, marked, raw, routed, sctp, server, tcp, unreachable};
use crate::sync_link::{apply, apply_bytes, message, record, start_backup, with_engine};
use nfvs::director::packet::Transport::{Tcp, Udp};
use nfvs::director::scheduler::SchedulerKind::Rr;
use nfvs::director::service::{
    ClientMask, Family, ForwardMethod, Persistence, PersistenceEngine, ServiceSettings, SyncThreshold,
    Tunables, Tunnel,
};
use nfvs::director::sync::{Rejection, SyncOutcome};
use nfvs::director::{Command, DropReason, Hook, Refusal, ReplySource, ServerSpec, Verdict};
use std::time::Duration;
use sync_proto::{ConnFlags, MessageError, Record, SequenceShift, SequenceShifts, SyncId, Version};

const CLIENT: &str = "10.0.1.2:5000";
const WEB: &str = "10.0.0.100:80";
const DNS: &str = "10.0.0.100:53";
const ONE: &str = "10.0.2.11:8080";
const OTHER: &str = "10.0.3.12:8080";
const STRANGER: &str = "10.0.9.99:8080";
const TCP: u8 = 6;
const UDP: u8 = 17;
const ESTABLISHED: u16 = 1;
const FIN_WAIT: u16 = 4;
const INACTIVE: u32 = 0x0100;
const TEMPLATE: u32 = 0x1000;

fn web() -> Bed {
    let bed = Bed::serving(Tcp, WEB, Rr, &[ONE, OTHER]);
    start_backup(&bed.director);
    bed
}

fn established(server: &str) -> Record<'static> {
    record(TCP, [CLIENT, WEB, server], ESTABLISHED, 0)
}

fn counts(bed: &Bed, server: &str) -> (u32, u32) {
    let server = bed.real_server(key(Tcp, WEB), server);
    (server.active_conns(), server.inactive_conns())
}

fn rejected(bed: &Bed) -> Vec<&'static str> {
    let counters = bed.director.sync_counters().backup;
    Rejection::ALL.iter().filter(|it| counters.rejected(**it) > 0).map(|it| it.name()).collect()
}

fn persistence(engine: Option<PersistenceEngine>) -> ServiceSettings {
    let clients = ClientMask::V4([255, 255, 255, 255].into());
    let persistence = Some(Persistence { timeout: Duration::from_secs(120), clients, engine });
    ServiceSettings { persistence, ..ServiceSettings::default() }
}

#[test]
fn nothing_is_applied_without_a_backup() {
    let bed = web();
    bed.director.stop_sync_backup();
    let message = message(Version::V1, &[established(ONE)]);
    assert_eq!(bed.director.apply_sync(bed.now, &message), SyncOutcome::NotRunning);
    assert_eq!(bed.states(), [""; 0]);
}

#[test]
fn a_new_connection_is_bound_counted_and_forwarded_from_its_state_on() {
    let bed = web();
    let told = Record { timeout_seconds: 600, ..established(ONE) };
    assert_eq!(apply(&bed, &[told]), [1, 0, 0, 0]);
    assert_eq!(bed.states(), ["tcp 10.0.1.2:5000 -> 10.0.0.100:80 -> 10.0.2.11:8080 ESTABLISHED 600 0x0020"]);
    assert_eq!(counts(&bed, ONE), (1, 0));
    bed.director.check_invariants();
    let services = bed.director.services();
    let stats = &services.get(&key(Tcp, WEB)).unwrap().core.stats;
    assert_eq!(stats.snapshot().conns, 0, "no connection was scheduled");
    assert_eq!(bed.tcp(CLIENT, WEB, ACK).destination(), ONE);
    let reply = bed.tcp(ONE, CLIENT, FIN | ACK);
    assert_eq!(reply.source(), services.get(&key(Tcp, WEB)).unwrap().core.source);
    assert_eq!(bed.states(), ["tcp 10.0.1.2:5000 -> 10.0.0.100:80 -> 10.0.2.11:8080 FIN_WAIT 120 0x0120"]);
    assert_eq!((counts(&bed, ONE), stats.snapshot().in_packets), ((0, 1), 1));
}

#[test]
fn a_server_says_method_and_whether_replies_pass_not_the_record() {
    let bed = Bed::serving_specs(Tcp, WEB, Rr, vec![routed("10.0.2.11:80")]);
    start_backup(&bed.director);
    apply(&bed, &[record(TCP, [CLIENT, WEB, "10.0.2.11:80"], FIN_WAIT, INACTIVE | 0x1_0000)]);
    assert_eq!(bed.states(), ["tcp 10.0.1.2:5000 -> 10.0.0.100:80 -> 10.0.2.11:80 FIN_WAIT 120 0x01a3"]);
    bed.tcp(CLIENT, WEB, ACK).route();
}

#[test]
fn another_record_changes_state_activity_and_timeout() {
    let bed = web();
    let other_method = Record { flags: ConnFlags::from_bits(0x0183), state: FIN_WAIT, ..established(ONE) };
    assert_eq!(apply(&bed, &[established(ONE), established(ONE)]), [1, 1, 0, 0]);
    assert_eq!(counts(&bed, ONE), (1, 0));
    assert_eq!(apply(&bed, &[other_method]), [0, 1, 0, 0]);
    assert_eq!(bed.states(), ["tcp 10.0.1.2:5000 -> 10.0.0.100:80 -> 10.0.2.11:8080 FIN_WAIT 120 0x0120"]);
    assert_eq!(counts(&bed, ONE), (0, 1));
    bed.director.check_invariants();
    apply(&bed, &[Record { timeout_seconds: 0x7fff_ffff, ..established(ONE) }]);
    assert_eq!(counts(&bed, ONE), (1, 0));
    let days = Duration::from_millis(u32::MAX.into()).as_secs();
    assert!(bed.states()[0].contains(&format!(" {days} ")), "49 days are the most: {:?}", bed.states());
    let template = record(TCP, ["10.0.1.2:0", WEB, ONE], 1, TEMPLATE | INACTIVE);
    apply(&bed, &[Record { timeout_seconds: u32::MAX, ..template }]);
    assert!(bed.templates()[0].contains(&format!(" {days} ")), "of templates too: {:?}", bed.templates());
    bed.director.check_invariants();
}

#[test]
fn connections_of_ones_own_stay_so() {
    let bed = web();
    bed.tcp(CLIENT, WEB, SYN);
    assert_eq!(apply(&bed, &[Record { fwmark: 9, ..established(OTHER) }]), [0, 1, 0, 0]);
    assert_eq!(bed.states(), ["tcp 10.0.1.2:5000 -> 10.0.0.100:80 -> 10.0.3.12:8080 ESTABLISHED 900 0x0000"]);
    assert_eq!(counts(&bed, OTHER), (1, 0));
}

#[test]
fn another_server_replaces_a_connection_unless_it_is_late_news() {
    let bed = web();
    apply(&bed, &[established(ONE)]);
    let late = Record { flags: ConnFlags::INACTIVE, state: FIN_WAIT, ..established(OTHER) };
    assert_eq!(apply(&bed, &[late]), [0, 0, 0, 1]);
    assert_eq!(rejected(&bed), ["stale"]);
    assert_eq!(bed.states(), ["tcp 10.0.1.2:5000 -> 10.0.0.100:80 -> 10.0.2.11:8080 ESTABLISHED 900 0x0020"]);
    assert_eq!(apply(&bed, &[established(OTHER)]), [0, 0, 1, 0]);
    assert_eq!(bed.states(), ["tcp 10.0.1.2:5000 -> 10.0.0.100:80 -> 10.0.3.12:8080 ESTABLISHED 900 0x0020"]);
    assert_eq!((counts(&bed, ONE), counts(&bed, OTHER)), ((0, 0), (1, 0)));
    // The same server on another port is another one.
    assert_eq!(apply(&bed, &[established("10.0.3.12:81")]), [0, 0, 1, 0]);
    assert_eq!(counts(&bed, OTHER), (0, 0));
    assert_eq!(bed.director.connection_count().0, 1);
    bed.director.check_invariants();
}

#[test]
fn a_full_table_takes_nothing_more_and_replaces_all_the_same() {
    let bed = Bed::with_limit(2);
    bed.add(Tcp, WEB, Rr, &[ONE, OTHER]);
    start_backup(&bed.director);
    let second = record(TCP, ["10.0.1.3:5000", WEB, ONE], ESTABLISHED, 0);
    let third = record(TCP, ["10.0.1.4:5000", WEB, STRANGER], ESTABLISHED, 0);
    let template = record(TCP, ["10.0.1.4:0", WEB, ONE], 0, TEMPLATE | INACTIVE);
    assert_eq!(apply(&bed, &[established(ONE), second, third, template]), [2, 0, 0, 2]);
    assert_eq!(bed.director.sync_counters().backup.rejected(Rejection::TableFull), 2);
    assert_eq!(bed.director.sync_counters().backup.unbound, 0);
    assert_eq!(counts(&bed, ONE), (2, 0));
    assert_eq!(apply(&bed, &[established(OTHER), second]), [0, 1, 1, 0]);
    bed.director.check_invariants();
}

#[test]
fn timeouts_that_are_not_said_are_ones_own() {
    let bed = web();
    bed.add(Udp, DNS, Rr, &["10.0.2.11:53"]);
    let names: Vec<Record<'_>> = vec![
        established(ONE),
        record(TCP, ["10.0.1.2:5001", WEB, ONE], 6, INACTIVE),
        record(UDP, [CLIENT, DNS, "10.0.2.11:53"], 0, INACTIVE),
        record(132, [CLIENT, "10.0.0.100:5", "10.0.2.11:5"], 9, INACTIVE),
    ];
    assert_eq!(apply_bytes(&bed, &message(Version::V0, &names)), [4, 0, 0, 0]);
    let seconds = |state: &str| {
        let states = bed.states();
        let found = states.iter().find(|line| line.contains(state)).unwrap_or_else(|| panic!("{states:?}"));
        found.split_whitespace().rev().nth(1).unwrap().to_owned()
    };
    assert_eq!(["ESTABLISHED", "CLOSE", "UDP", "S-SENT"].map(seconds), ["900", "10", "300", "61"]);
    let template = record(TCP, ["10.0.1.2:0", WEB, ONE], 1, TEMPLATE | INACTIVE);
    apply_bytes(&bed, &message(Version::V0, &[template]));
    assert_eq!(bed.templates(), ["tcp 10.0.1.2 -> 10.0.0.100:80 -> 10.0.2.11:8080 ASSURED 180 0x1120"]);
}

#[test]
fn what_no_service_has_keeps_its_method_and_address() {
    let bed = web();
    bed.add_specs(Tcp, "10.0.0.100:81", Rr, ServiceSettings::default(), vec![routed("10.0.9.99:81")]);
    let of = |port: u16, flags| {
        let client = format!("10.0.1.2:{port}");
        let mut of = record(TCP, [&client, WEB, STRANGER], ESTABLISHED, flags);
        of.client_port = port;
        of
    };
    assert_eq!(
        apply(&bed, &[of(1, 0), of(2, 0x81), of(3, 0x82), of(4, 0x83), of(5, 4), of(6, 7)]),
        [6, 0, 0, 0]
    );
    assert_eq!(bed.director.sync_counters().backup.unbound, 6);
    let shown: Vec<String> = bed
        .director
        .connections(bed.now)
        .flatten()
        .map(|it| format!("{} {} {} {}", it.client.port(), it.server, it.forward, it.flags))
        .collect();
    assert_eq!(shown.len(), 6);
    for expected in [
        "1 10.0.9.99:8080 nat 0x0020",
        "2 10.0.9.99:8080 local 0x00a1",
        "3 10.0.9.99:8080 tunnel 0x00a2",
        "4 10.0.9.99:8080 dr 0x00a3",
        "5 10.0.9.99:8080 bypass 0x0024",
        "6 10.0.9.99:8080 bypass 0x0027",
    ] {
        assert!(shown.iter().any(|line| line == expected), "{expected} of {shown:?}");
    }
    assert_eq!((counts(&bed, ONE), counts(&bed, OTHER)), ((0, 0), (0, 0)));
    bed.director.check_invariants();

    // And so it goes on.
    let ask = |port: u16| bed.tcp(&format!("10.0.1.2:{port}"), WEB, ACK);
    assert_eq!(ask(1).destination(), STRANGER);
    let services = bed.director.services();
    assert_eq!(
        bed.tcp(STRANGER, "10.0.1.2:1", ACK).source(),
        services.get(&key(Tcp, WEB)).unwrap().core.source
    );
    let route = bed.tcp("10.0.1.2:7", "10.0.0.100:81", SYN).route();
    assert_eq!([ask(2).route(), ask(4).route()], [route; 2], "the way that another service has there");
    assert_eq!(ask(3).verdict, Verdict::Drop(DropReason::Unbound), "nothing says how to wrap it");
    for port in [5, 6] {
        assert_eq!(ask(port).verdict, Verdict::Forward { rewritten: None, source: None });
    }
    // Without any such service, there is no way.
    bed.change(Command::DeleteService(key(Tcp, "10.0.0.100:81")));
    assert_eq!(ask(4).verdict, Verdict::Drop(DropReason::Unbound));
    assert_eq!(ask(2).verdict, Verdict::Forward { rewritten: None, source: None }, "this host is here");
    // Nobody counts that.
    assert_eq!(services.total.snapshot().in_packets, 1, "the one of the service of port 81");
    bed.director.check_invariants();
}

#[test]
fn an_error_about_what_no_service_has_goes_the_same_way() {
    let bed = web();
    apply(&bed, &[established(STRANGER)]);
    let mut tunnelled = record(TCP, ["10.0.1.2:3", WEB, STRANGER], ESTABLISHED, 0x82);
    tunnelled.client_port = 3;
    apply(&bed, &[tunnelled]);
    let mut error = unreachable("10.0.1.9", "10.0.0.100", &tcp(WEB, CLIENT, ACK, b""));
    assert!(matches!(bed.handle(&mut error), Verdict::Forward { rewritten: Some(_), .. }));
    let mut error = unreachable("10.0.1.9", "10.0.0.100", &tcp(WEB, "10.0.1.2:3", ACK, b""));
    assert_eq!(bed.handle(&mut error), Verdict::Drop(DropReason::Unbound));
    let mut error = unreachable("10.0.2.1", "10.0.1.2", &tcp(CLIENT, STRANGER, ACK, b""));
    assert!(matches!(bed.handle(&mut error), Verdict::Forward { rewritten: Some(_), .. }));
}

#[test]
fn a_server_that_comes_later_is_bound_by_the_next_record_and_not_by_packets() {
    let bed = web();
    let told = record(TCP, [CLIENT, WEB, STRANGER], ESTABLISHED, 0x83);
    apply(&bed, &[told]);
    bed.change(Command::AddServer(key(Tcp, WEB), server(STRANGER, 1)));
    assert_eq!(bed.tcp(CLIENT, WEB, ACK).verdict, Verdict::Drop(DropReason::Unbound));
    assert_eq!(counts(&bed, STRANGER), (0, 0));
    assert_eq!(apply(&bed, &[told]), [0, 1, 0, 0]);
    assert_eq!(counts(&bed, STRANGER), (1, 0));
    assert_eq!(bed.states(), ["tcp 10.0.1.2:5000 -> 10.0.0.100:80 -> 10.0.9.99:8080 ESTABLISHED 900 0x0020"]);
    bed.director.check_invariants();
    assert_eq!(bed.tcp(CLIENT, WEB, ACK).destination(), STRANGER);
    assert_eq!(bed.tcp(STRANGER, CLIENT, ACK).verdict_source().map(|source| source.0), Some(1));
    bed.change(Command::DeleteServer(key(Tcp, WEB), STRANGER.parse().unwrap()));
    assert_eq!(bed.tcp(CLIENT, WEB, ACK).verdict, Verdict::Drop(DropReason::ServerRemoved), "bound for good");
}

#[test]
fn binding_by_another_method_leaves_other_connections_of_the_client_alone() {
    let bed = web();
    bed.add(Tcp, "10.0.0.101:80", Rr, &[STRANGER]);
    let other = record(TCP, [CLIENT, "10.0.0.101:80", STRANGER], ESTABLISHED, 0);
    let told = record(TCP, [CLIENT, WEB, STRANGER], ESTABLISHED, 0x83);
    assert_eq!(apply(&bed, &[other, told]), [2, 0, 0, 0]);
    bed.change(Command::AddServer(key(Tcp, WEB), server(STRANGER, 1)));
    assert_eq!(apply(&bed, &[told]), [0, 1, 0, 0]);
    bed.director.check_invariants();
    assert_eq!(bed.states().len(), 2);
    let [one, another] = ["10.0.0.101:80", WEB].map(|vip| bed.tcp(CLIENT, vip, ACK));
    assert_eq!([one.destination(), another.destination()], [STRANGER; 2]);
    assert_ne!(one.from, another.from, "the server tells them apart");
}

#[test]
fn a_service_that_comes_later_serves_what_it_was_told_before() {
    let bed = Bed::serving(Tcp, "10.0.0.100:81", Rr, &[ONE]);
    start_backup(&bed.director);
    apply(&bed, &[established(ONE)]);
    assert_eq!(bed.tcp(CLIENT, WEB, ACK).destination(), ONE);
    let reply = bed.tcp(ONE, CLIENT, ACK);
    assert_eq!(reply.source(), ReplySource::ASKED_AGAIN, "no rule knows the source");
    bed.add(Tcp, WEB, Rr, &[ONE]);
    apply(&bed, &[established(ONE)]);
    assert_eq!(counts(&bed, ONE), (1, 0));
    assert_ne!(bed.tcp(ONE, CLIENT, ACK).source(), ReplySource::ASKED_AGAIN);
}

#[test]
fn servers_are_found_by_mark_endpoint_ftp_and_every_port() {
    let wrapped = |address: &str| ServerSpec {
        forward: ForwardMethod::Tunnel,
        tunnel: Tunnel::Ipip,
        ..server(address, 1)
    };
    let found = |vip: &str, server: &str, protocol: u8, fwmark: u32, flags: u32| {
        let bed = Bed::new();
        start_backup(&bed.director);
        bed.add_service_specs(
            marked(9, Family::V4),
            Rr,
            vec![wrapped("10.0.2.11:0"), wrapped("10.0.2.11:53")],
        );
        bed.add(Udp, DNS, Rr, &["10.0.2.11:53", "10.0.2.11:0", "10.0.2.12:0"]);
        bed.add_with(Tcp, "10.0.0.100:21", Rr, persistence(None), &["10.0.2.11:21", "10.0.2.12:0"]);
        bed.add_with(Udp, "10.0.0.101:0", Rr, persistence(None), &["10.0.2.11:0"]);
        let state = if protocol == UDP { 0 } else { ESTABLISHED };
        let told = Record { fwmark, ..record(protocol, [CLIENT, vip, server], state, flags) };
        assert_eq!(apply(&bed, &[told]), [1, 0, 0, 0]);
        bed.director.check_invariants();
        let services = bed.director.services();
        let mut found = Vec::new();
        for service in services.iter() {
            for server in service.servers.iter().filter(|server| server.total_conns() > 0) {
                found.push(format!("{} {}:{}", service.key(), server.address, server.port));
            }
        }
        found.join(", ")
    };
    for (what, vip, server, protocol, fwmark, flags, expected) in [
        ("exact port first", DNS, "10.0.2.11:53", UDP, 0, INACTIVE, "udp 10.0.0.100:53 10.0.2.11:53"),
        ("then every port", DNS, "10.0.2.11:54", UDP, 0, INACTIVE, "udp 10.0.0.100:53 10.0.2.11:0"),
        (
            "another server of every port",
            DNS,
            "10.0.2.12:53",
            UDP,
            0,
            INACTIVE,
            "udp 10.0.0.100:53 10.0.2.12:0",
        ),
        ("no such server", DNS, "10.0.2.13:53", UDP, 0, INACTIVE, ""),
        (
            "by mark and tunnel, every port first",
            DNS,
            "10.0.2.11:53",
            UDP,
            9,
            INACTIVE | 2,
            "fwmark 9 ipv4 10.0.2.11:0",
        ),
        (
            "by mark and NAT, the port first",
            DNS,
            "10.0.2.11:53",
            UDP,
            9,
            INACTIVE,
            "fwmark 9 ipv4 10.0.2.11:53",
        ),
        (
            "a mark that no service has",
            DNS,
            "10.0.2.11:53",
            UDP,
            8,
            INACTIVE,
            "udp 10.0.0.100:53 10.0.2.11:53",
        ),
        (
            "the same above 16 bits",
            DNS,
            "10.0.2.11:53",
            UDP,
            0x1_0009,
            INACTIVE,
            "udp 10.0.0.100:53 10.0.2.11:53",
        ),
        (
            "a data connection of FTP",
            "10.0.0.100:4000",
            "10.0.2.12:4000",
            TCP,
            0,
            0,
            "tcp 10.0.0.100:21 10.0.2.12:0",
        ),
        ("to a server of one port", "10.0.0.100:4000", "10.0.2.11:4000", TCP, 0, 0, ""),
        ("not from a privileged port", "10.0.0.100:400", "10.0.2.12:4000", TCP, 0, 0, ""),
        ("of every port", "10.0.0.101:7", "10.0.2.11:7", UDP, 0, INACTIVE, "udp 10.0.0.101:0 10.0.2.11:0"),
        ("of no service", "10.0.0.102:7", "10.0.2.11:7", UDP, 0, INACTIVE, ""),
    ] {
        assert_eq!(found(vip, server, protocol, fwmark, flags), expected, "{what}");
    }
}

#[test]
fn templates_lead_new_connections_if_a_service_has_their_server() {
    let bed = Bed::new();
    bed.add_with(Udp, DNS, Rr, persistence(None), &["10.0.2.11:53", "10.0.3.12:53"]);
    start_backup(&bed.director);
    let template = |server: &str, state| Record {
        timeout_seconds: 60,
        ..record(UDP, ["10.0.1.2:0", DNS, server], state, TEMPLATE | INACTIVE)
    };
    assert_eq!(apply(&bed, &[template("10.0.2.11:53", 0)]), [1, 0, 0, 0]);
    assert_eq!(bed.templates(), ["udp 10.0.1.2 -> 10.0.0.100:53 -> 10.0.2.11:53 NONE 60 0x1120"]);
    assert_eq!(bed.real_server(key(Udp, DNS), "10.0.2.11:53").templates(), 1);
    // A template keeps its server, whatever is told of it.
    assert_eq!(apply(&bed, &[template("10.0.3.12:53", 1)]), [0, 1, 0, 0]);
    assert_eq!(bed.templates(), ["udp 10.0.1.2 -> 10.0.0.100:53 -> 10.0.2.11:53 ASSURED 60 0x1120"]);
    apply(&bed, &[template("10.0.2.11:53", 0)]);
    assert!(bed.templates()[0].contains(" NONE "), "the record says how it is");
    bed.director.check_invariants();
    // Round robin would choose the other one, newest first.
    for port in 6000..6003 {
        assert_eq!(bed.udp(&format!("10.0.1.2:{port}"), DNS).destination(), "10.0.2.11:53");
    }
    bed.director.check_invariants();
}

#[test]
fn a_template_to_a_server_of_no_service_is_void_once_it_is_asked_for() {
    let bed = Bed::new();
    bed.add_with(Udp, DNS, Rr, persistence(None), &["10.0.3.12:53"]);
    start_backup(&bed.director);
    let template = record(UDP, ["10.0.1.2:0", DNS, "10.0.2.11:53"], 1, TEMPLATE | 3);
    apply(&bed, &[template]);
    assert_eq!(bed.templates(), ["udp 10.0.1.2 -> 10.0.0.100:53 -> 10.0.2.11:53 ASSURED 180 0x1023"]);
    assert_eq!(bed.udp(CLIENT, DNS).destination(), "10.0.3.12:53");
    let templates = bed.templates();
    assert!(templates[0].starts_with("udp 10.0.1.2 -> 10.0.0.100:53 -> 10.0.3.12:53"), "{templates:?}");
    assert!(templates[1].starts_with("udp 10.0.1.2 -> 10.0.0.100:65535 -> 10.0.2.11:65535"), "{templates:?}");
    bed.director.check_invariants();
}

#[test]
fn a_template_is_bound_by_the_next_record_once_a_service_has_its_server() {
    let bed = Bed::new();
    bed.add_with(Udp, DNS, Rr, persistence(None), &["10.0.3.12:53"]);
    start_backup(&bed.director);
    let template = record(UDP, ["10.0.1.2:0", DNS, "10.0.2.11:53"], 1, TEMPLATE | 3);
    apply(&bed, &[template]);
    bed.change(Command::AddServer(key(Udp, DNS), server("10.0.2.11:53", 1)));
    apply(&bed, &[template]);
    assert_eq!(bed.real_server(key(Udp, DNS), "10.0.2.11:53").templates(), 1);
    bed.director.check_invariants();
    for port in 6000..6003 {
        assert_eq!(bed.udp(&format!("10.0.1.2:{port}"), DNS).destination(), "10.0.2.11:53");
    }
}

#[test]
fn templates_of_engines_and_marks_are_found_by_them() {
    let bed = Bed::new();
    bed.add_with(
        Udp,
        "10.0.0.100:5060",
        Rr,
        persistence(Some(PersistenceEngine::Sip)),
        &["10.0.2.11:5060", "10.0.3.12:5060"],
    );
    bed.add_service(marked(9, Family::V4), Rr, persistence(None), &["10.0.2.11:0", "10.0.3.12:0"]);
    start_backup(&bed.director);
    let vip = "10.0.0.100:5060";
    let of = |server: &str| record(UDP, ["10.0.1.2:0", vip, server], 1, TEMPLATE | INACTIVE);
    let calls = [
        with_engine(of("10.0.2.11:5060"), b"sip", b"one@x"),
        with_engine(of("10.0.3.12:5060"), b"sip", b"two@x"),
        Record { fwmark: 9, ..record(0, ["10.0.1.2:0", "0.0.0.9:0", "10.0.2.11:0"], 1, TEMPLATE | INACTIVE) },
    ];
    assert_eq!(apply(&bed, &calls), [3, 0, 0, 0]);
    assert_eq!(apply(&bed, &calls), [0, 3, 0, 0]);
    let say = |port: u16, call: &str| {
        let said = format!("INVITE\r\nCall-ID: {call}\r\n");
        bed.say(&format!("10.0.1.2:{port}"), vip, said.as_bytes()).destination()
    };
    for port in 0..3 {
        assert_eq!(say(6000 + port, "one@x"), "10.0.2.11:5060");
        assert_eq!(say(7000 + port, "two@x"), "10.0.3.12:5060");
        let marked = bed.marked_tcp(9, &format!("10.0.1.2:{}", 8000 + port), "10.7.7.7:99", SYN);
        assert_eq!(marked.destination(), "10.0.2.11:99");
    }
    bed.director.check_invariants();
}

#[test]
fn a_clients_port_that_is_not_known_is_met() {
    let bed = Bed::serving(Tcp, "10.0.0.100:21", Rr, &["10.0.2.11:21"]);
    start_backup(&bed.director);
    let vip = "10.0.0.100:4000";
    let listening = record(TCP, ["10.0.1.2:0", vip, "10.0.2.11:4000"], 9, 0x0900);
    assert_eq!(apply(&bed, &[listening, listening]), [1, 1, 0, 0]);
    // What is known better names the same connection, and does not change its client.
    let known = record(TCP, ["10.0.1.2:3000", vip, "10.0.2.11:4000"], ESTABLISHED, 0);
    assert_eq!(apply(&bed, &[known]), [0, 1, 0, 0]);
    assert_eq!(bed.states(), ["tcp 10.0.1.2:0 -> 10.0.0.100:4000 -> 10.0.2.11:4000 ESTABLISHED 900 0x0820"]);
    assert_eq!(bed.tcp("10.0.1.2:3000", vip, ACK).destination(), "10.0.2.11:4000");
    assert!(bed.states()[0].starts_with("tcp 10.0.1.2:3000 "), "{:?}", bed.states());
    bed.director.check_invariants();
}

#[test]
fn sequence_numbers_of_ftp_go_on_being_adjusted() {
    let bed = Bed::serving(Tcp, "10.0.0.100:21", Rr, &["10.0.2.11:21"]);
    start_backup(&bed.director);
    let (client, vip, server) = ("10.0.1.2:2100", "10.0.0.100:21", "10.0.2.11:21");
    let output = SequenceShift { init_seq: 900, delta: 5, previous_delta: 0 };
    let shifts = SequenceShifts { input: SequenceShift::default(), output };
    let told = Record {
        sequence: Some(shifts),
        flags: ConnFlags::OUT_SEQ,
        ..record(TCP, [client, vip, server], ESTABLISHED, 0)
    };
    apply(&bed, &[told]);
    let answer = tcp(server, client, ACK, b"200 ok\r\n");
    let meta = nfvs::director::PacketMeta {
        hook: Hook::Prerouting,
        checksum_owed: false,
        gso: false,
        original_len: answer.len(),
        mark: None,
    };
    let (_, rewritten) = bed.handle_resizing(&meta, answer);
    let header = etherparse::SlicedPacket::from_ip(&rewritten).unwrap().transport.unwrap();
    let etherparse::TransportSlice::Tcp(header) = header else { panic!("{header:?}") };
    assert_eq!(header.sequence_number(), 1005);
}

#[test]
fn sequence_data_of_other_connections_is_told_on() {
    let bed = web();
    let shift = |delta| SequenceShift { init_seq: 7, delta, previous_delta: 1 };
    let shifts = SequenceShifts { input: shift(5), output: shift(6) };
    let told = Record {
        sequence: Some(shifts),
        flags: ConnFlags::SEQUENCE,
        timeout_seconds: 900,
        ..established(ONE)
    };
    apply(&bed, &[established(ONE)]);
    apply(&bed, &[told]);
    crate::sync_link::start_master(&bed.director);
    bed.tune(Tunables { sync_threshold: SyncThreshold { packet: 0, period: 1 }, ..Tunables::default() });
    bed.tcp(CLIENT, WEB, ACK);
    let expected = Record { flags: ConnFlags::from_bits(0x0620), ..told };
    assert_eq!(crate::sync_link::told(&bed), [crate::sync_link::line(&expected)]);
}

#[test]
fn a_master_counts_on_from_the_threshold_of_the_day() {
    let bed = web();
    crate::sync_link::start_master(&bed.director);
    bed.tune(Tunables { sync_threshold: SyncThreshold { packet: 6, period: 10 }, ..Tunables::default() });
    apply(&bed, &[established(ONE)]);
    let told: Vec<usize> = (1..=20)
        .filter(|_| {
            bed.tcp(CLIENT, WEB, ACK);
            !crate::sync_link::told(&bed).is_empty()
        })
        .collect();
    assert_eq!(told, [10, 20], "packets 16 and 26");
}

#[test]
fn a_client_port_that_is_taken_towards_the_server_gets_a_stand_in_here_too() {
    let bed = web();
    bed.add(Tcp, "10.0.0.101:80", Rr, &[ONE]);
    let second = record(TCP, [CLIENT, "10.0.0.101:80", ONE], ESTABLISHED, 0);
    assert_eq!(apply(&bed, &[established(ONE), second]), [2, 0, 0, 0]);
    bed.director.check_invariants();
    let went = bed.tcp(CLIENT, "10.0.0.101:80", ACK);
    assert_eq!(went.destination(), ONE);
    assert_ne!(went.from.to_string(), CLIENT);
}

#[test]
fn the_same_datagram_twice_changes_nothing() {
    let bed = web();
    let records = [
        established(ONE),
        record(TCP, ["10.0.1.2:5001", WEB, STRANGER], FIN_WAIT, INACTIVE | 0x83),
        record(TCP, ["10.0.1.0:0", WEB, OTHER], 1, TEMPLATE | INACTIVE),
        record(TCP, ["10.0.1.1:0", WEB, STRANGER], 0, TEMPLATE | INACTIVE | 2),
        record(UDP, [CLIENT, "10.0.0.5:53", "10.0.2.11:53"], 0, INACTIVE),
    ];
    let all = |bed: &Bed| (bed.states(), bed.templates(), counts(bed, ONE), counts(bed, OTHER));
    assert_eq!(apply(&bed, &records), [5, 0, 0, 0]);
    let once = all(&bed);
    for _ in 0..3 {
        assert_eq!(apply(&bed, &records), [0, 5, 0, 0]);
        assert_eq!(all(&bed), once);
        bed.director.check_invariants();
    }
}

#[test]
fn entries_end_as_others_do() {
    let mut bed = web();
    apply(&bed, &[established(ONE), record(TCP, ["10.0.1.0:0", WEB, STRANGER], 1, TEMPLATE | INACTIVE)]);
    bed.pass(182);
    assert_eq!(bed.templates(), [""; 0]);
    bed.pass(720);
    assert_eq!((bed.states(), counts(&bed, ONE)), (vec![], (0, 0)));
    bed.director.check_invariants();
}

/// Each datagram changes nothing, and is counted under its reason.
#[test]
fn what_cannot_be_applied_is_counted_and_changes_nothing() {
    let good = message(Version::V1, &[established(ONE)]);
    let at = |changes: &[(usize, u8)]| {
        let mut bytes = good.clone();
        changes.iter().for_each(|(place, byte)| bytes[*place] = *byte);
        bytes
    };
    // A record with these parameters behind its fixed part.
    let with = |parameters: &[u8]| {
        let mut bytes = good.clone();
        bytes.extend(parameters);
        bytes[3] = bytes.len() as u8;
        bytes[11] = 36 + parameters.len() as u8;
        bytes
    };
    let of = |record: Record<'_>| message(Version::V1, &[record]);
    let template =
        |protocol, vip: &str| record(protocol, ["10.0.1.2:0", vip, "10.0.2.11:0"], 0, TEMPLATE | INACTIVE);
    let mut of_port = template(TCP, WEB);
    of_port.client_port = 7;
    let mut cut = good[..40].to_vec();
    cut[3] = 40;
    let mut v0 = message(Version::V0, &[established(ONE)]);
    v0.truncate(20);
    v0[3] = 20;
    let engine = with_engine(template(UDP, DNS), b"SIP", b"call");
    for (rejection, datagram) in [
        (Rejection::TooShort, vec![0, 7, 0]),
        (Rejection::Size, good[..43].to_vec()),
        (Rejection::SyncId, at(&[(1, 8)])),
        (Rejection::SyncId, at(&[(1, 0)])),
        (Rejection::Truncated, cut),
        (Rejection::Truncated, v0),
        (Rejection::Length, at(&[(11, 37)])),
        (Rejection::Version, at(&[(10, 0x10)])),
        (Rejection::Type, at(&[(8, 2)])),
        (Rejection::BelowFixedPart, at(&[(8, 1)])),
        (Rejection::ParameterTruncated, with(&[0x41])),
        (Rejection::ParameterLength, with(&[0x41, 0])),
        (Rejection::ParameterTwice, with(&[2, 1, 0, 2, 1, 0])),
        (Rejection::ParameterUnknown, with(&[0x81, 1, 0])),
        (Rejection::TemplateWithoutPort, at(&[(14, 0x18)])),
        (Rejection::OnePacket, at(&[(14, 0x20)])),
        (Rejection::Protocol, at(&[(9, 1)])),
        (Rejection::State, at(&[(17, 11)])),
        (Rejection::EngineUnnamed, with(&[2, 1, 0])),
        (Rejection::EngineUnknown, of(engine)),
        (Rejection::EngineUnknown, with(&[2, 1, 0, 3, 2, b's', b'i'])),
        (Rejection::Ipsec, of(record(50, [CLIENT, WEB, ONE], 0, INACTIVE))),
        (Rejection::Ipsec, of(record(51, [CLIENT, WEB, ONE], 0, INACTIVE))),
        (Rejection::ClientPort, of(record(TCP, ["10.0.1.2:0", WEB, ONE], ESTABLISHED, 0))),
        (Rejection::ClientPort, of(record(TCP, [CLIENT, WEB, ONE], ESTABLISHED, 0x0800))),
        (Rejection::Template, of(of_port)),
        (Rejection::Template, of(template(51, WEB))),
        (Rejection::Template, of(template(0, "0.0.0.0:0"))),
        (Rejection::Template, of(template(0, "0.1.0.0:0"))),
        (Rejection::Template, of(template(0, "0.0.0.9:5"))),
    ] {
        let bed = web();
        let is_whole = matches!(rejection, Rejection::TooShort | Rejection::Size | Rejection::SyncId);
        match bed.director.apply_sync(bed.now, &datagram) {
            SyncOutcome::Refused(_) => assert!(is_whole, "{rejection:?}"),
            SyncOutcome::Applied(applied) => {
                assert_eq!(applied.rejected, 1, "{rejection:?}");
                assert!(!is_whole, "{rejection:?}");
            }
            SyncOutcome::NotRunning => panic!("{rejection:?}"),
        }
        assert_eq!(rejected(&bed), [rejection.name()], "{datagram:02x?}");
        assert_eq!(bed.director.sync_counters().backup.rejected(rejection), 1);
        assert_eq!(bed.director.connection_count().0, 0, "{rejection:?}");
        bed.director.check_invariants();
    }
    let bed = web();
    let SyncOutcome::Refused(error) = bed.director.apply_sync(bed.now, &at(&[(1, 8)])) else { panic!() };
    assert_eq!(error, MessageError::SyncId { own: SyncId(7), theirs: SyncId(8) });
    // What comes before a record that costs the rest stays; what comes behind one that costs itself as well.
    let mut three = message(
        Version::V1,
        &[established(ONE), established(ONE), record(TCP, ["10.0.1.3:1", WEB, ONE], ESTABLISHED, 0)],
    );
    three[8 + 36 + 9] = 11;
    assert_eq!(apply_bytes(&bed, &three), [2, 0, 0, 1]);
    three[8 + 36 + 2] = 0x10;
    assert_eq!(apply_bytes(&bed, &three), [0, 1, 0, 1]);
    let counters = bed.director.sync_counters().backup;
    assert_eq!((counters.messages, counters.records, counters.created, counters.updated), (2, 5, 2, 1));
}

/// All 65,536 ports of a client towards one server cannot be had, but of all that are tried none may be free.
#[test]
fn a_connection_without_a_port_towards_its_server_is_counted() {
    let bed = Bed::with_limit(1 << 18);
    bed.add(Tcp, WEB, Rr, &[ONE]);
    bed.add(Tcp, "10.0.0.101:80", Rr, &[ONE]);
    start_backup(&bed.director);
    for port in 1..=u16::MAX {
        let of = record(TCP, [&format!("10.0.1.2:{port}"), WEB, ONE], ESTABLISHED, 0);
        apply(&bed, &[of]);
    }
    assert_eq!(apply(&bed, &[record(TCP, [CLIENT, "10.0.0.101:80", ONE], ESTABLISHED, 0)]), [0, 0, 0, 1]);
    assert_eq!(rejected(&bed), ["ports_exhausted"]);
}

#[test]
fn only_requests_pass_a_backup_that_is_nothing_else() {
    let bed = web();
    bed.add(Udp, DNS, Rr, &["10.0.2.11:53"]);
    bed.tune(Tunables { backup_only: true, schedule_icmp: true, ..Tunables::default() });
    apply(&bed, &[established(ONE)]);
    let services = bed.director.services();
    let source = services.get(&key(Tcp, WEB)).unwrap().core.source;
    assert_eq!(bed.tcp(CLIENT, WEB, ACK).verdict, Verdict::Accept);
    assert_eq!(bed.tcp("10.0.1.2:6000", WEB, SYN).verdict, Verdict::Accept);
    assert_eq!(bed.udp(CLIENT, DNS).verdict, Verdict::Accept);
    assert_eq!(bed.tcp("10.0.1.2:6000", WEB, ACK).verdict, Verdict::Accept, "not refused either");
    assert_eq!(bed.tcp(CLIENT, "10.0.0.100:9", SYN).verdict, Verdict::Accept);
    assert_eq!(bed.tcp(ONE, CLIENT, ACK).source(), source, "replies are translated");
    let mut about_reply = unreachable("10.0.1.9", "10.0.0.100", &tcp(WEB, CLIENT, ACK, b""));
    assert_eq!(bed.handle(&mut about_reply), Verdict::Accept);
    let mut about_unknown = unreachable("10.0.1.9", "10.0.0.100", &tcp(WEB, "10.0.1.2:9", ACK, b""));
    assert_eq!(bed.handle(&mut about_unknown), Verdict::Accept);
    let mut about_request = unreachable("10.0.2.1", "10.0.1.2", &tcp(CLIENT, ONE, ACK, b""));
    assert!(
        matches!(bed.handle(&mut about_request), Verdict::Forward { source: Some(it), .. } if it == source)
    );
    assert_eq!(bed.director.connection_count().0, 1);

    // Once the backup has stopped, the setting is of no effect.
    bed.director.stop_sync_backup();
    assert_eq!(bed.tcp(CLIENT, WEB, ACK).destination(), ONE);
    assert_eq!(bed.tcp(CLIENT, "10.0.0.100:9", SYN).verdict, Verdict::Refuse(Refusal::NotServed));
    start_backup(&bed.director);
    bed.tune(Tunables::default());
    assert_eq!(bed.udp(CLIENT, DNS).destination(), "10.0.2.11:53");
}

#[test]
fn ipsec_follows_a_key_exchange_that_was_synchronised() {
    let bed = Bed::serving(Udp, "10.0.0.100:500", Rr, &["10.0.2.11:500"]);
    start_backup(&bed.director);
    apply(&bed, &[record(UDP, ["10.0.1.2:500", "10.0.0.100:500", "10.0.2.11:500"], 0, INACTIVE)]);
    let [client, vip] = ["10.0.1.2", "10.0.0.100"].map(|it| it.parse().unwrap());
    let mut esp = raw(client, vip, etherparse::IpNumber::ENCAPSULATING_SECURITY_PAYLOAD, &[0x5a; 40]);
    assert!(matches!(bed.handle(&mut esp), Verdict::Forward { rewritten: Some(_), .. }));
}

#[test]
fn sctp_is_taken_over_in_its_state() {
    let bed = Bed::serving(nfvs::director::packet::Transport::Sctp, "10.0.0.100:7", Rr, &["10.0.2.11:7"]);
    start_backup(&bed.director);
    apply(&bed, &[record(132, [CLIENT, "10.0.0.100:7", "10.0.2.11:7"], 8, 0)]);
    drop(bed.handle(&mut sctp(CLIENT, "10.0.0.100:7", 7)));
    assert_eq!(bed.states(), ["sctp 10.0.1.2:5000 -> 10.0.0.100:7 -> 10.0.2.11:7 S-RECEIVED 61 0x0120"]);
}
