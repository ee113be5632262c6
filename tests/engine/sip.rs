//! The persistence engine `sip`: calls that stay with their server, and calls that servers open.

use crate::bed::{Bed, Outcome, key, marked, routed, server, udp};
use nfvs::director::packet::Transport::{Tcp, Udp};
use nfvs::director::scheduler::SchedulerKind::Rr;
use nfvs::director::service::{
    ClientMask, Family, Fwmark, Persistence, PersistenceEngine, ServiceKey, ServiceSettings, Tunables,
};
use nfvs::director::{Command, DropReason, Hook, Refusal, Verdict};
use std::time::Duration;

const VIP: &str = "10.0.0.100:5060";
const CLIENT: &str = "10.0.1.2:5060";
const SERVERS: [&str; 3] = ["10.0.2.11:5070", "10.0.3.12:5070", "10.0.4.13:5070"];
/// Virtual address, two clients, servers.
const FAMILIES: [(&str, [&str; 2], [&str; 3]); 2] = [
    (VIP, ["10.0.1.2", "10.0.1.3"], SERVERS),
    (
        "[fd00::100]:5060",
        ["[fd00:1::2]", "[fd00:1::3]"],
        ["[fd00:2::11]:5070", "[fd00:3::12]:5070", "[fd00:4::13]:5070"],
    ),
];

fn settings(vip: &str, one_packet: bool) -> ServiceSettings {
    let clients = ClientMask::whole(key(Udp, vip).endpoint().unwrap().ip());
    let engine = Some(PersistenceEngine::Sip);
    let persistence = Some(Persistence { timeout: Duration::from_secs(300), clients, engine });
    ServiceSettings { persistence, one_packet, ..ServiceSettings::default() }
}

fn serving(vip: &str, one_packet: bool, servers: &[&str]) -> Bed {
    let bed = Bed::new();
    bed.add_with(Udp, vip, Rr, settings(vip, one_packet), servers);
    bed
}

/// A request of a call, as short as SIP allows.
fn message(call: &str) -> Vec<u8> {
    format!(
        "OPTIONS sip:b@example.org SIP/2.0\r\n\
         Via: SIP/2.0/UDP 192.0.2.7;branch=z9hG4bK7\r\n\
         From: <sip:a@example.org>;tag=1\r\nTo: <sip:b@example.org>\r\n\
         Call-ID: {call}\r\nCSeq: 1 OPTIONS\r\nContent-Length: 0\r\n\r\n"
    )
    .into_bytes()
}

fn say(bed: &Bed, from: &str, to: &str, call: &str) -> Outcome {
    bed.say(from, to, &message(call))
}

/// What templates there are: the server, the state, the seconds left and the Call-ID.
fn calls(bed: &Bed) -> Vec<String> {
    let mut calls: Vec<String> = bed
        .director
        .templates(bed.now)
        .flatten()
        .map(|template| {
            let (engine, data) = template.pe_data.as_ref().expect("an engine made it");
            let call = String::from_utf8_lossy(data);
            let (server, state, left) = (template.server, template.state(), template.expires.as_secs());
            format!("{server} {state} {left} {engine} {call}")
        })
        .collect();
    calls.sort();
    calls
}

fn edit(bed: &Bed, settings: ServiceSettings) {
    let edit = Command::EditService { service: key(Udp, VIP), scheduler: Rr, settings };
    bed.director.apply(&[edit]).unwrap();
}

#[test]
fn a_call_stays_with_its_server_and_others_are_scheduled() {
    for (vip, [client, _], servers) in FAMILIES {
        for one_packet in [false, true] {
            let bed = serving(vip, one_packet, &servers);
            let from = |port: u16| format!("{client}:{port}");
            for (number, expected) in [servers[2], servers[1], servers[0], servers[2]].into_iter().enumerate()
            {
                let call = format!("{number}@a");
                for again in 0..5 {
                    let port = 1000 + 10 * number as u16 + again;
                    assert_eq!(say(&bed, &from(port), vip, &call).destination(), expected, "{call} {again}");
                }
            }
            assert_eq!(bed.templates().len(), 4);
            assert_eq!(bed.states().len(), if one_packet { 0 } else { 20 });
            bed.director.check_invariants();
        }
    }
}

#[test]
fn a_template_shows_its_call_and_lasts_from_the_last_new_connection() {
    let mut bed = serving(VIP, true, &SERVERS[..1]);
    say(&bed, CLIENT, VIP, "7@a");
    assert_eq!(bed.templates(), ["udp 10.0.1.2 -> 10.0.0.100:5060 -> 10.0.2.11:5070 NONE 300 0x1100"]);
    assert_eq!(calls(&bed), ["10.0.2.11:5070 NONE 300 sip 7@a"]);
    bed.pass(299);
    say(&bed, "10.0.1.2:9", VIP, "7@a");
    assert_eq!(calls(&bed), ["10.0.2.11:5070 NONE 300 sip 7@a"]);
    let real = bed.real_server(key(Udp, VIP), SERVERS[0]);
    assert_eq!((real.templates(), real.total_conns(), real.stats.snapshot().conns), (1, 0, 2));
    bed.pass(302);
    assert_eq!(bed.director.connection_count().0, 0, "nothing is left");
    bed.director.check_invariants();
}

// Recorded from a kernel: the same Call-ID from two client addresses makes two templates.
#[test]
fn the_same_call_id_of_another_client_is_another_call() {
    for (vip, [one, other], servers) in FAMILIES {
        let bed = serving(vip, true, &servers);
        let from = |client: &str| format!("{client}:5060");
        let first = say(&bed, &from(one), vip, "7@a").destination();
        assert_ne!(say(&bed, &from(other), vip, "7@a").destination(), first);
        assert_eq!(bed.templates().len(), 2);
    }
    // Clients that count as one share their calls.
    let bed = serving(VIP, true, &SERVERS);
    let network = ClientMask::V4([255, 255, 255, 0].into());
    let mut settings = settings(VIP, true);
    settings.persistence = settings.persistence.map(|found| Persistence { clients: network, ..found });
    edit(&bed, settings);
    let first = say(&bed, "10.0.1.2:1", VIP, "7@a").destination();
    assert_eq!(say(&bed, "10.0.1.3:1", VIP, "7@a").destination(), first);
    assert_ne!(say(&bed, "10.0.2.2:1", VIP, "7@a").destination(), first);
}

#[test]
fn what_has_no_call_id_gets_no_connection() {
    for one_packet in [false, true] {
        let bed = serving(VIP, one_packet, &SERVERS);
        for payload in [&b""[..], b"\r\n\r\n", b"OPTIONS sip:b SIP/2.0\r\nVia: x\r\n\r\n", b"x\r\nCall-ID: 7"]
        {
            let dropped = Verdict::Drop(DropReason::NoCallId);
            assert_eq!(bed.say(CLIENT, VIP, payload).verdict, dropped, "{payload:?}");
        }
        assert_eq!(bed.director.drops(DropReason::NoCallId), 4);
        assert_eq!(bed.director.connection_count().0, 0);
        // What has a connection needs none; what is each time for itself does.
        say(&bed, CLIENT, VIP, "7@a");
        let verdict = bed.say(CLIENT, VIP, b"\r\n\r\n").verdict;
        assert_eq!(matches!(verdict, Verdict::Forward { .. }), !one_packet, "{verdict:?}");
    }
}

#[test]
fn a_mark_has_calls_of_datagrams_only() {
    let bed = Bed::new();
    bed.add_service(marked(5, Family::V4), Rr, settings(VIP, false), &["10.0.2.11:0", "10.0.3.12:0"]);
    let mut first = udp(CLIENT, "10.77.0.5:5060", &message("7@a"));
    let verdict = bed.handle_at(Hook::Prerouting, Fwmark::new(5), &mut first);
    assert!(matches!(verdict, Verdict::Forward { .. }), "{verdict:?}");
    assert_eq!(bed.templates(), ["ip 10.0.1.2 -> 0.0.0.5:0 -> 10.0.3.12:0 NONE 300 0x1100"]);
    let segment = bed.marked_tcp(5, CLIENT, "10.77.0.5:5060", 0x02);
    assert_eq!(segment.verdict, Verdict::Drop(DropReason::NoCallId));
    // Nobody knows what address its servers would call from.
    assert_eq!(say(&bed, "10.0.2.11:5060", "10.0.1.9:5060", "8@b").verdict, Verdict::Accept);
}

#[test]
fn a_server_calls_in_the_name_of_the_service() {
    for (vip, [client, _], servers) in FAMILIES {
        for one_packet in [false, true] {
            let bed = serving(vip, one_packet, &servers);
            let client = format!("{client}:5062");
            let source = bed.director.services().get(&key(Udp, vip)).unwrap().core.source;
            for call in ["1@s", "2@s"] {
                let call = say(&bed, servers[0], &client, call);
                assert_eq!(call.source(), source);
                assert_eq!((call.from.to_string(), call.to.to_string()), (servers[0].into(), client.clone()));
            }
            // What the client says about them comes to that server, though it is not its turn.
            for call in ["1@s", "2@s", "1@s"] {
                assert_eq!(say(&bed, &client, vip, call).destination(), servers[0], "{call}");
            }
            let state = if one_packet { 2 } else { 1 };
            let expected = ["1@s", "2@s"].map(|call| format!("{} ASSURED 300 sip {call}", servers[0]));
            assert_eq!(calls(&bed), expected[..state], "the second is of the first's connection");
            let real = bed.real_server(key(Udp, vip), servers[0]);
            let stats = real.stats.snapshot();
            let conns = if one_packet { 5 } else { 1 };
            assert_eq!((stats.conns, stats.in_packets, stats.out_packets), (conns, 3, 2));
            assert_eq!(bed.states().len(), usize::from(!one_packet));
            bed.director.check_invariants();
        }
    }
}

#[test]
fn a_reply_to_a_datagram_on_its_own_goes_by_its_call() {
    let bed = serving(VIP, true, &SERVERS);
    let first = say(&bed, CLIENT, VIP, "7@a").destination();
    let source = bed.director.services().get(&key(Udp, VIP)).unwrap().core.source;
    assert_eq!(calls(&bed), [format!("{first} NONE 300 sip 7@a")]);
    assert_eq!(say(&bed, &first, CLIENT, "7@a").source(), source);
    assert_eq!(calls(&bed), [format!("{first} ASSURED 300 sip 7@a")]);
    // Without one it has the only source that it can have, as with any other one-packet service.
    assert_eq!(bed.say(&first, CLIENT, b"\r\n").source(), source);
    assert_eq!(bed.real_server(key(Udp, VIP), &first).stats.snapshot().out_packets, 2);
}

#[test]
fn a_call_that_a_server_opens_is_its_own_whoever_had_it() {
    let mut bed = serving(VIP, true, &SERVERS);
    let first = say(&bed, CLIENT, VIP, "7@a").destination();
    assert_eq!(first, SERVERS[2]);
    say(&bed, SERVERS[0], CLIENT, "7@a");
    let void = format!("{} NONE 300 sip 7@a", first.replace("5070", "65535"));
    assert_eq!(calls(&bed), [format!("{} ASSURED 300 sip 7@a", SERVERS[0]), void]);
    assert_eq!(say(&bed, CLIENT, VIP, "7@a").destination(), SERVERS[0]);
    bed.director.check_invariants();
    bed.pass(302);
    assert_eq!(bed.director.connection_count().0, 0);
}

#[test]
fn a_quiescent_servers_calls_are_kept_unless_they_expire() {
    let bed = serving(VIP, true, &SERVERS);
    let first = say(&bed, CLIENT, VIP, "7@a").destination();
    let quiescent = Command::EditServer(key(Udp, VIP), server(&first, 0));
    bed.director.apply(&[quiescent]).unwrap();
    assert_eq!(say(&bed, CLIENT, VIP, "7@a").destination(), first);
    // It may still call.
    let own = say(&bed, &first, CLIENT, "8@s").source();
    assert_eq!(say(&bed, CLIENT, VIP, "8@s").destination(), first);
    let tunables = Tunables { expire_quiescent_template: true, ..Tunables::default() };
    bed.director.apply(&[Command::SetTunables(tunables)]).unwrap();
    assert_ne!(say(&bed, CLIENT, VIP, "7@a").destination(), first);
    assert_eq!(say(&bed, &first, CLIENT, "8@s").source(), own);
    assert_ne!(say(&bed, CLIENT, VIP, "8@s").destination(), first);
    bed.director.check_invariants();
}

#[test]
fn what_opens_no_call_goes_on_as_it_is() {
    let bed = serving(VIP, false, &SERVERS);
    let accepted = |what: Outcome, why: &str| assert_eq!(what.verdict, Verdict::Accept, "{why}");
    accepted(bed.say(SERVERS[0], CLIENT, b"\r\n\r\n"), "no Call-ID");
    accepted(say(&bed, "10.0.2.11:5071", CLIENT, "7@s"), "another port than the server's");
    accepted(say(&bed, "10.0.2.99:5070", CLIENT, "7@s"), "no server");
    accepted(bed.tcp(SERVERS[0], CLIENT, 0x02), "no datagram");
    bed.director.apply(&[Command::DeleteServer(key(Udp, VIP), SERVERS[0].parse().unwrap())]).unwrap();
    accepted(say(&bed, SERVERS[0], CLIENT, "7@s"), "no server any more");
    edit(&bed, ServiceSettings::default());
    accepted(say(&bed, SERVERS[1], CLIENT, "7@s"), "no engine any more");

    let bed = serving("10.0.0.100:0", false, &["10.0.2.11:5070"]);
    accepted(say(&bed, "10.0.2.11:5070", CLIENT, "7@s"), "a service of every port has none to call from");
    let bed = Bed::new();
    bed.add_specs(Udp, VIP, Rr, settings(VIP, false), vec![routed("10.0.2.11:5060")]);
    accepted(say(&bed, "10.0.2.11:5060", CLIENT, "7@s"), "a server of direct routing has the address itself");
    assert_eq!(bed.director.connection_count().0, 0);
}

#[test]
fn a_call_to_a_virtual_address_is_a_clients() {
    let bed = serving(VIP, false, &SERVERS);
    bed.add(Udp, "10.0.0.101:5060", Rr, &["10.0.5.14:5060"]);
    assert_eq!(say(&bed, SERVERS[0], "10.0.0.101:5060", "7@s").destination(), "10.0.5.14:5060");
    assert_eq!(say(&bed, SERVERS[0], "10.0.0.101:9", "7@s").verdict, Verdict::Refuse(Refusal::NotServed));
}

#[test]
fn a_server_of_two_services_calls_for_the_first() {
    let bed = serving("10.0.0.102:5060", true, &SERVERS);
    bed.add_with(Udp, "10.0.0.101:5060", Rr, settings(VIP, true), &SERVERS);
    bed.add(Udp, "10.0.0.100:5060", Rr, &SERVERS);
    let first = bed.director.services().get(&key(Udp, "10.0.0.101:5060")).unwrap().core.source;
    assert_eq!(say(&bed, SERVERS[0], CLIENT, "7@s").source(), first, "the first that has an engine");
}

#[test]
fn a_clients_port_leads_to_the_server_that_called_it_last() {
    let bed = serving(VIP, false, &SERVERS);
    let first = say(&bed, CLIENT, VIP, "7@a").destination();
    let [one, other] = [SERVERS[0], SERVERS[1]];
    assert_ne!(first, one);
    say(&bed, one, CLIENT, "8@s");
    assert_eq!(say(&bed, CLIENT, VIP, "7@a").destination(), one);
    say(&bed, other, CLIENT, "9@s");
    assert_eq!(say(&bed, CLIENT, VIP, "7@a").destination(), other);
    assert_eq!((bed.states().len(), bed.templates().len()), (1, 3));
    bed.director.check_invariants();
}

#[test]
fn templates_of_an_engine_and_others_are_not_each_others() {
    let bed = serving(VIP, true, &SERVERS);
    let first = say(&bed, CLIENT, VIP, "7@a").destination();
    let mut without = settings(VIP, true);
    without.persistence = without.persistence.map(|found| Persistence { engine: None, ..found });
    edit(&bed, without);
    let second = say(&bed, CLIENT, VIP, "7@a").destination();
    assert_ne!(second, first, "the client's first connection by its address");
    edit(&bed, settings(VIP, true));
    assert_eq!(say(&bed, CLIENT, VIP, "7@a").destination(), first);
    assert_eq!(bed.templates().len(), 2);
    bed.director.check_invariants();
}

#[test]
fn a_full_table_takes_no_call() {
    for (room, one_packet) in [(0, true), (1, false), (1, true)] {
        let bed = Bed::with_limit(room);
        bed.add_with(Udp, VIP, Rr, settings(VIP, one_packet), &SERVERS);
        let verdict = say(&bed, SERVERS[0], CLIENT, "7@s").verdict;
        let fits = room == 1 && one_packet;
        assert_eq!(
            verdict == Verdict::Drop(DropReason::TableFull),
            !fits,
            "{room} {one_packet}: {verdict:?}"
        );
        assert_eq!(bed.director.connection_count().0, room);
        bed.director.check_invariants();
    }
    // A connection that gives way makes room for the one in its place.
    let bed = Bed::with_limit(3);
    bed.add_with(Udp, VIP, Rr, settings(VIP, false), &SERVERS);
    say(&bed, CLIENT, VIP, "7@a");
    say(&bed, SERVERS[0], CLIENT, "8@s").source();
    assert_eq!(bed.director.connection_count().0, 3);
}

#[test]
fn steering_knows_who_reads_what_clients_say() {
    let bed = serving(VIP, false, &SERVERS);
    let reads =
        |bed: &Bed| bed.director.steering().iter().map(|service| service.reads_payload).collect::<Vec<_>>();
    assert_eq!(reads(&bed), [true]);
    edit(&bed, ServiceSettings::default());
    assert_eq!(reads(&bed), [false]);
}

#[test]
fn an_engine_on_tcp_serves_nothing() {
    let bed = Bed::new();
    bed.add_with(Tcp, VIP, Rr, settings(VIP, false), &SERVERS);
    assert_eq!(bed.tcp(CLIENT, VIP, 0x02).verdict, Verdict::Drop(DropReason::NoCallId));
}

/// Calls from both sides, changes of servers, and time, at random.
#[test]
fn calls_at_random_keep_the_books_right() {
    let seed = std::env::var("NFVS_SEED").ok().and_then(|text| text.parse().ok()).unwrap_or(0x0051_6970);
    println!("seed {seed} (NFVS_SEED chooses another)");
    let mut random = fastrand::Rng::with_seed(seed);
    let mut bed = serving(VIP, false, &SERVERS);
    let service: ServiceKey = key(Udp, VIP);
    let mut forwarded = 0;
    for step in 0..40_000 {
        let client = format!("10.0.1.{}:{}", random.u8(1..4), random.u16(5060..5063));
        let chosen = SERVERS[random.usize(..3)];
        let call = format!("{}@a", random.u8(..20));
        let said = match random.u8(..) {
            0..2 => {
                drop(bed.director.apply(&[Command::AddServer(service, server(chosen, random.u32(..3)))]));
                continue;
            }
            2..4 => {
                drop(bed.director.apply(&[Command::DeleteServer(service, chosen.parse().unwrap())]));
                continue;
            }
            4 => {
                edit(&bed, settings(VIP, random.bool()));
                let tunables = Tunables {
                    expire_nodest_conn: random.bool(),
                    expire_quiescent_template: random.bool(),
                    ..Tunables::default()
                };
                drop(bed.director.apply(&[Command::SetTunables(tunables)]));
                continue;
            }
            5..10 => {
                bed.pass(random.u64(..200));
                bed.director.empty_trash(bed.now);
                continue;
            }
            10..130 => say(&bed, chosen, &client, &call),
            _ => say(&bed, &client, VIP, &call),
        };
        forwarded += usize::from(matches!(said.verdict, Verdict::Forward { .. }));
        if step % 500 == 0 {
            bed.director.check_invariants();
        }
    }
    assert!(forwarded > 20_000, "{forwarded}");
    bed.pass(2000);
    bed.pass(2000);
    bed.director.check_invariants();
    assert_eq!(bed.director.connection_count().0, 0);
}
