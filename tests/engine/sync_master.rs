//! What a master tells, and when.

use crate::bed::{ACK, Bed, FIN, RST, SYN, key, marked, routed, sctp, server, udp};
use crate::sync_link::{apply, line, messages, record, start_backup, start_master, told};
use nfvs::director::packet::Transport::{Sctp, Tcp, Udp};
use nfvs::director::scheduler::SchedulerKind::Rr;
use nfvs::director::service::{
    ClientMask, Family, ForwardMethod, Persistence, PersistenceEngine, ServiceSettings, SyncThreshold,
    Tunables,
};
use nfvs::director::sync::{MasterSettings, Unsent, Wake};
use nfvs::director::{Command, ServerSpec};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use sync_proto::{Message, SyncId, Version};

const CLIENT: &str = "10.0.1.2:5000";
const WEB: &str = "10.0.0.100:80";
const DNS: &str = "10.0.0.100:53";

fn web() -> Bed {
    let bed = Bed::serving(Tcp, WEB, Rr, &["10.0.2.11:8080"]);
    bed.add(Udp, DNS, Rr, &["10.0.2.11:5300"]);
    start_master(&bed.director);
    bed
}

fn persistent(timeout: u64) -> ServiceSettings {
    let clients = ClientMask::V4([255, 255, 255, 255].into());
    let persistence = Some(Persistence { timeout: Duration::from_secs(timeout), clients, engine: None });
    ServiceSettings { persistence, ..ServiceSettings::default() }
}

fn persistent_dns(timeout: u64) -> Bed {
    let bed = Bed::new();
    bed.add_with(Udp, DNS, Rr, persistent(timeout), &["10.0.2.11:5300"]);
    start_master(&bed.director);
    bed
}

#[test]
fn nothing_is_told_without_a_master() {
    let bed = web();
    bed.director.stop_sync_master();
    (0..5).for_each(|_| drop(bed.udp(CLIENT, DNS)));
    assert_eq!(told(&bed), [""; 0]);
    start_master(&bed.director);
    (0..5).for_each(|_| drop(bed.udp(CLIENT, DNS)));
    assert_eq!(told(&bed), [""; 0], "packets were counted meanwhile");
    assert_eq!(bed.director.sync_counters().master.records, 0);
}

#[test]
fn a_stopped_or_replaced_master_takes_what_waits_with_it() {
    let bed = web();
    (0..3).for_each(|_| drop(bed.udp(CLIENT, DNS)));
    start_master(&bed.director);
    assert_eq!(told(&bed), [""; 0]);
    (0..50).for_each(|_| drop(bed.udp(CLIENT, DNS)));
    bed.director.stop_sync_master();
    assert!(messages(&bed.director, bed.now).is_empty());
    start_master(&bed.director);
    assert_eq!(told(&bed), [""; 0]);
}

#[test]
fn tcp_is_told_of_when_it_is_established_and_when_it_ends() {
    let bed = web();
    let established = "6 10.0.1.2:5000 -> 10.0.0.100:80 -> 10.0.2.11:8080 ESTABLISHED 900 0x0000";
    bed.tcp(CLIENT, WEB, SYN);
    bed.tcp("10.0.2.11:8080", CLIENT, SYN | ACK);
    bed.tcp(CLIENT, WEB, ACK);
    assert_eq!(told(&bed), [""; 0], "the first two packets tell nothing");
    bed.tcp(CLIENT, WEB, ACK);
    assert_eq!(told(&bed), [established]);
    (4..=52).for_each(|_| drop(bed.tcp(CLIENT, WEB, ACK)));
    assert_eq!(told(&bed), [""; 0]);
    bed.tcp(CLIENT, WEB, ACK);
    assert_eq!(told(&bed), [established], "packet 53");
    bed.tcp("10.0.2.11:8080", CLIENT, FIN | ACK);
    assert_eq!(told(&bed), [""; 0], "what the server says is noticed with the client's next packet");
    bed.tcp(CLIENT, WEB, ACK);
    let closing = "6 10.0.1.2:5000 -> 10.0.0.100:80 -> 10.0.2.11:8080 FIN_WAIT 120 0x0100";
    assert_eq!(told(&bed), [closing]);
    bed.tcp(CLIENT, WEB, FIN | ACK);
    let closed = closing.replace("FIN_WAIT", "TIME_WAIT");
    assert_eq!(told(&bed), [closed]);
    bed.tcp(CLIENT, WEB, ACK);
    assert_eq!(told(&bed), [""; 0]);
}

#[test]
fn a_reset_is_told_at_once_and_flags_are_those_of_the_method() {
    let bed = Bed::serving_specs(Tcp, WEB, Rr, vec![routed("10.0.2.11:80")]);
    start_master(&bed.director);
    for flags in [SYN, ACK, ACK] {
        bed.tcp(CLIENT, WEB, flags);
    }
    bed.tcp(CLIENT, WEB, RST);
    let ends = "6 10.0.1.2:5000 -> 10.0.0.100:80 -> 10.0.2.11:80";
    assert_eq!(told(&bed), [format!("{ends} ESTABLISHED 900 0x0083"), format!("{ends} CLOSE 10 0x0183")]);
}

#[test]
fn sctp_goes_by_states_too() {
    let bed = Bed::serving(Sctp, "10.0.0.100:36412", Rr, &["10.0.2.11:36412"]);
    start_master(&bed.director);
    let (client, vip, server) = (CLIENT, "10.0.0.100:36412", "10.0.2.11:36412");
    let chunks = [(client, 1), (server, 2), (client, 10), (server, 11), (client, 0), (client, 7)];
    for (from, chunk) in chunks {
        let to = if from == client { vip } else { client };
        drop(bed.handle(&mut sctp(from, to, chunk)));
    }
    let ends = "132 10.0.1.2:5000 -> 10.0.0.100:36412 -> 10.0.2.11:36412";
    assert_eq!(
        told(&bed),
        [format!("{ends} ESTABLISHED 900 0x0000"), format!("{ends} S-RECEIVED 61 0x0100")]
    );
}

#[test]
fn of_sixty_datagrams_the_3rd_and_the_53rd_are_told() {
    let bed = web();
    let mut when = Vec::new();
    for packet in 1..=60 {
        bed.udp(CLIENT, DNS);
        when.extend(told(&bed).into_iter().map(|line| (packet, line)));
    }
    let expected = "17 10.0.1.2:5000 -> 10.0.0.100:53 -> 10.0.2.11:5300 UDP 300 0x0100";
    assert_eq!(when, [(3, expected.to_owned()), (53, expected.to_owned())]);
    // Replies and errors are no packets of the client's.
    (0..60).for_each(|_| drop(bed.udp("10.0.2.11:5300", CLIENT)));
    assert_eq!(told(&bed), [""; 0]);
}

#[test]
fn thresholds_and_refreshing_change_while_a_master_runs() {
    let mut bed = web();
    bed.tune(Tunables {
        sync_threshold: SyncThreshold { packet: 3, period: 0 },
        sync_refresh_period: 4,
        sync_retries: 1,
        ..Tunables::default()
    });
    let mut when = Vec::new();
    for packet in 1..=40 {
        bed.now = bed.now + Duration::from_millis(100);
        bed.udp(CLIENT, DNS);
        when.extend(told(&bed).into_iter().map(|_| packet));
    }
    assert_eq!(when, [1, 6]);
    bed.tune(Tunables { sync_threshold: SyncThreshold { packet: 0, period: 2 }, ..Tunables::default() });
    (0..4).for_each(|_| drop(bed.udp(CLIENT, DNS)));
    assert_eq!(told(&bed).len(), 2);
}

#[test]
fn a_template_is_told_with_each_packet_behind_its_connection() {
    let bed = persistent_dns(120);
    let template = "17 10.0.1.2:0 -> 10.0.0.100:53 -> 10.0.2.11:5300 NONE 120 0x1100";
    let connection = "17 10.0.1.2:5000 -> 10.0.0.100:53 -> 10.0.2.11:5300 UDP 300 0x0100";
    (0..3).for_each(|_| drop(bed.udp(CLIENT, DNS)));
    assert_eq!(told(&bed), [template, template, connection, template]);
    bed.udp("10.0.2.11:5300", CLIENT);
    bed.udp(CLIENT, DNS);
    assert_eq!(told(&bed), [template.replace("NONE", "ASSURED")]);
}

#[test]
fn without_a_period_a_template_is_told_once() {
    let bed = persistent_dns(120);
    bed.tune(Tunables { sync_threshold: SyncThreshold { packet: 3, period: 0 }, ..Tunables::default() });
    for port in 5000..5009 {
        bed.udp(&format!("10.0.1.2:{port}"), DNS);
    }
    assert_eq!(told(&bed), ["17 10.0.1.2:0 -> 10.0.0.100:53 -> 10.0.2.11:5300 NONE 120 0x1100"]);
}

#[test]
fn of_clients_that_stay_with_a_server_that_alone_may_be_told() {
    let bed = persistent_dns(120);
    bed.add(Tcp, WEB, Rr, &["10.0.2.11:8080"]);
    bed.tune(Tunables { sync_persist_mode: true, ..Tunables::default() });
    (0..3).for_each(|_| drop(bed.udp(CLIENT, DNS)));
    let template = "17 10.0.1.2:0 -> 10.0.0.100:53 -> 10.0.2.11:5300 NONE 120 0x1100";
    assert_eq!(told(&bed), [template; 3]);
    for flags in [SYN, ACK, ACK] {
        bed.tcp(CLIENT, WEB, flags);
    }
    assert_eq!(told(&bed).len(), 1, "other connections are told of");
}

#[test]
fn a_one_packet_service_tells_its_templates_alone() {
    let bed = Bed::new();
    let settings = ServiceSettings { one_packet: true, ..persistent(60) };
    bed.add_with(Udp, DNS, Rr, settings, &["10.0.2.11:5300"]);
    bed.add_with(
        Udp,
        "10.0.0.101:53",
        Rr,
        ServiceSettings { one_packet: true, ..Default::default() },
        &["10.0.2.11:5300"],
    );
    start_master(&bed.director);
    (0..4).for_each(|_| drop(bed.udp(CLIENT, DNS)));
    (0..4).for_each(|_| drop(bed.udp(CLIENT, "10.0.0.101:53")));
    let template = "17 10.0.1.2:0 -> 10.0.0.100:53 -> 10.0.2.11:5300 NONE 60 0x1100";
    assert_eq!(told(&bed), [template; 4]);
    bed.tune(Tunables { sync_version: Version::V0, ..Tunables::default() });
    (0..4).for_each(|_| drop(bed.udp(CLIENT, DNS)));
    assert_eq!(told(&bed), [""; 0], "version 0 looks no further than a connection that is not told");
}

#[test]
fn version_0_tells_a_template_with_its_connection_only_and_no_ipv6() {
    let bed = persistent_dns(120);
    bed.add(Udp, "[fd00::100]:53", Rr, &["[fd00:2::11]:53"]);
    bed.tune(Tunables { sync_version: Version::V0, ..Tunables::default() });
    for _ in 0..4 {
        bed.udp(CLIENT, DNS);
        bed.udp("[fd00:1::2]:5000", "[fd00::100]:53");
    }
    let taken = messages(&bed.director, bed.now);
    let message = Message::decode(&taken[0], SyncId(7)).unwrap();
    assert_eq!((taken.len(), message.version()), (1, Version::V0));
    let lines: Vec<String> = message.records().map(|record| line(&record.unwrap())).collect();
    assert_eq!(
        lines,
        [
            "17 10.0.1.2:5000 -> 10.0.0.100:53 -> 10.0.2.11:5300 UDP 0 0x0100",
            "17 10.0.1.2:0 -> 10.0.0.100:53 -> 10.0.2.11:5300 NONE 0 0x1100",
        ]
    );
}

#[test]
fn another_version_or_a_full_message_begins_a_new_one() {
    let bed = web();
    (0..3).for_each(|_| drop(bed.udp(CLIENT, DNS)));
    bed.tune(Tunables { sync_version: Version::V0, ..Tunables::default() });
    (0..50).for_each(|_| drop(bed.udp(CLIENT, DNS)));
    let versions: Vec<Version> = messages(&bed.director, bed.now)
        .iter()
        .map(|bytes| Message::decode(bytes, SyncId(7)).unwrap().version())
        .collect();
    assert_eq!(versions, [Version::V1, Version::V0]);
}

#[test]
fn marks_are_told_of_and_templates_of_a_mark_have_it_in_place_of_an_address() {
    let bed = Bed::new();
    bed.add_service(marked(9, Family::V4), Rr, persistent(300), &["10.0.2.11:0"]);
    bed.add_service(marked(9, Family::V6), Rr, Default::default(), &["[fd00:2::11]:53"]);
    start_master(&bed.director);
    (0..3).for_each(|_| drop(bed.marked_udp(9, CLIENT, "10.9.9.9:53")));
    (0..3).for_each(|_| drop(bed.marked_udp(9, "[fd00:1::2]:5000", "[fd00::9]:53")));
    let mut lines = told(&bed);
    lines.dedup();
    assert_eq!(
        lines,
        [
            "0 10.0.1.2:0 -> 0.0.0.9:0 -> 10.0.2.11:0 NONE 300 0x1100 mark 9",
            "17 10.0.1.2:5000 -> 10.9.9.9:53 -> 10.0.2.11:53 UDP 300 0x0100 mark 9",
            "0 10.0.1.2:0 -> 0.0.0.9:0 -> 10.0.2.11:0 NONE 300 0x1100 mark 9",
            "17 [fd00:1::2]:5000 -> [fd00::9]:53 -> [fd00:2::11]:53 UDP 300 0x0100 mark 9",
        ]
    );
}

#[test]
fn templates_of_an_engine_carry_what_it_found() {
    let bed = Bed::new();
    let clients = ClientMask::V4([255, 255, 255, 0].into());
    let engine = Some(PersistenceEngine::Sip);
    let persistence = Some(Persistence { timeout: Duration::from_secs(60), clients, engine });
    let settings = ServiceSettings { persistence, ..ServiceSettings::default() };
    bed.add_with(Udp, "10.0.0.100:5060", Rr, settings, &["10.0.2.11:5060"]);
    start_master(&bed.director);
    bed.say(CLIENT, "10.0.0.100:5060", b"INVITE\r\nCall-ID: abc@x\r\n");
    let expected = "17 10.0.1.0:0 -> 10.0.0.100:5060 -> 10.0.2.11:5060 NONE 60 0x1100 sip abc@x";
    assert_eq!(told(&bed), [expected]);
}

#[test]
fn a_data_connection_of_ftp_has_its_control_connection_told() {
    let bed = Bed::new();
    bed.add_with(Tcp, "10.0.0.100:21", Rr, persistent(300), &["10.0.2.11:21"]);
    start_master(&bed.director);
    let (client, vip) = ("10.0.1.2:2100", "10.0.0.100:21");
    for flags in [SYN, ACK] {
        bed.tcp(client, vip, flags);
    }
    let mut pasv = crate::bed::tcp(client, vip, ACK, b"PASV\r\n");
    drop(bed.handle(&mut pasv));
    let mut lines = told(&bed);
    let control = "6 10.0.1.2:2100 -> 10.0.0.100:21 -> 10.0.2.11:21 ESTABLISHED 900 0x0000";
    let template = "6 10.0.1.2:0 -> 10.0.0.100:0 -> 10.0.2.11:0";
    assert_eq!(lines.len(), 4, "{lines:?}");
    assert_eq!(lines[2], control);
    assert!(lines[3].starts_with(template), "{lines:?}");
    // The answer gets another length on its way, which is told too.
    let meta = nfvs::director::PacketMeta {
        hook: nfvs::director::Hook::Prerouting,
        checksum_owed: false,
        gso: false,
        original_len: 0,
        mark: None,
    };
    let answer = crate::bed::tcp("10.0.2.11:21", client, ACK, b"227 ok (10,0,2,11,15,160)\r\n");
    let meta = nfvs::director::PacketMeta { original_len: answer.len(), ..meta };
    let _ = bed.handle_resizing(&meta, answer);
    bed.tcp("10.0.1.2:3000", "10.0.0.100:4000", SYN);
    lines = told(&bed);
    assert_eq!(lines.len(), 2, "a half-open connection is not told of, what controls it is: {lines:?}");
    assert_eq!(lines[0], format!("{} [0, 1]", control.replace("0x0000", "0x0200")));
    assert!(lines[1].starts_with(template), "{lines:?}");
    bed.tune(Tunables { sync_persist_mode: true, ..Tunables::default() });
    bed.tcp("10.0.1.2:3000", "10.0.0.100:4000", ACK);
    lines = told(&bed);
    assert_eq!(lines.len(), 1, "a template leads both: {lines:?}");
    assert!(lines[0].starts_with(template));
}

#[test]
fn a_template_that_outlives_its_time_is_told_of_again() {
    let mut bed = persistent_dns(10);
    bed.udp(CLIENT, DNS);
    assert_eq!(told(&bed).len(), 1);
    bed.pass(9);
    assert_eq!(told(&bed), [""; 0]);
    bed.pass(4);
    assert_eq!(told(&bed), ["17 10.0.1.2:0 -> 10.0.0.100:53 -> 10.0.2.11:5300 NONE 60 0x1100"]);
    bed.pass(30);
    assert_eq!(told(&bed), [""; 0]);

    // Where periods do not count, the time that is over stands for the packet that does.
    let mut bed = persistent_dns(10);
    bed.tune(Tunables { sync_threshold: SyncThreshold { packet: 7, period: 0 }, ..Tunables::default() });
    bed.udp(CLIENT, DNS);
    bed.now = bed.now + Duration::from_secs(11);
    bed.udp("10.0.1.2:5001", DNS);
    assert_eq!(told(&bed), ["17 10.0.1.2:0 -> 10.0.0.100:53 -> 10.0.2.11:5300 NONE 60 0x1100"]);
}

#[test]
fn a_void_template_is_told_as_such() {
    let bed = persistent_dns(300);
    bed.udp(CLIENT, DNS);
    let service = key(Udp, DNS);
    bed.change(Command::AddServer(service, server("10.0.3.12:5300", 1)));
    bed.change(Command::EditServer(service, server("10.0.2.11:5300", 0)));
    bed.tune(Tunables { expire_quiescent_template: true, ..Tunables::default() });
    bed.udp("10.0.1.2:5001", DNS);
    told(&bed);
    bed.udp(CLIENT, DNS);
    assert_eq!(told(&bed), ["17 10.0.1.2:0 -> 10.0.0.100:65535 -> 10.0.2.11:65535 NONE 300 0x1100"]);
}

/// A record has addresses of one family.
#[test]
fn a_tunnel_of_another_family_cannot_be_told_of() {
    let tunnel = ServerSpec { forward: ForwardMethod::Tunnel, ..server("[fd00:2::11]:53", 1) };
    let bed = Bed::new();
    bed.add_specs(Udp, DNS, Rr, persistent(60), vec![tunnel]);
    start_master(&bed.director);
    (0..3).for_each(|_| drop(bed.udp(CLIENT, DNS)));
    assert_eq!(told(&bed), [""; 0]);
    let counters = bed.director.sync_counters().master;
    assert_eq!((counters.records, counters.unsent(Unsent::TwoFamilies)), (0, 4));
}

/// A former backup that becomes a master tells what it was told, from the packet on that follows those.
#[test]
fn synchronised_connections_are_told_on() {
    let bed = web();
    start_backup(&bed.director);
    let of = |flags| record(17, [CLIENT, DNS, "10.0.2.11:5300"], 0, flags);
    apply(&bed, &[of(0x0100)]);
    (4..=52).for_each(|_| drop(bed.udp(CLIENT, DNS)));
    assert_eq!(told(&bed), [""; 0]);
    bed.udp(CLIENT, DNS);
    assert_eq!(told(&bed), ["17 10.0.1.2:5000 -> 10.0.0.100:53 -> 10.0.2.11:5300 UDP 300 0x0120"]);
}

#[derive(Debug, Default)]
struct Log(Mutex<Vec<(usize, usize)>>);

impl Wake for Log {
    fn queued(&self, port: usize, waiting: usize) {
        self.0.lock().unwrap().push((port, waiting));
    }
}

#[test]
fn connections_are_shared_out_among_ports_and_stay_with_theirs() {
    let bed = web();
    let log = Arc::new(Log::default());
    // Each message has one record.
    let settings = MasterSettings { syncid: SyncId(7), max_len: 1, ports: 4, trailer: 0, rate: None };
    bed.director.start_sync_master(settings, Arc::<Log>::clone(&log));
    bed.tune(Tunables { sync_threshold: SyncThreshold { packet: 0, period: 1 }, ..Tunables::default() });
    for _ in 0..2 {
        for port in 1000..1100 {
            drop(bed.handle(&mut udp(&format!("10.0.1.2:{port}"), DNS, b"question")));
        }
    }
    let later = bed.now + Duration::from_secs(2);
    let mut seen = Vec::new();
    for port in 0..4 {
        let taken = bed.director.take_sync_messages(later, port, usize::MAX);
        let woken = log.0.lock().unwrap().iter().filter(|(woken, _)| *woken == port).count();
        assert_eq!(taken.len(), woken + 1, "all but the open one were announced");
        let mut ports: Vec<u16> = taken
            .iter()
            .map(|bytes| {
                Message::decode(bytes, SyncId(7)).unwrap().records().next().unwrap().unwrap().client_port
            })
            .collect();
        ports.sort_unstable();
        let pairs: Vec<&[u16]> = ports.chunks(2).collect();
        assert!(pairs.iter().all(|pair| pair[0] == pair[1]), "a connection has one port: {ports:?}");
        assert!(pairs.len() > 10, "a quarter, more or less: {}", pairs.len());
        seen.extend(pairs.iter().map(|pair| pair[0]));
    }
    seen.sort_unstable();
    assert_eq!(seen, (1000..1100).collect::<Vec<u16>>());
}
