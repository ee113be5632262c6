//! The whole table, as a master tells it and a backup takes it in, while nothing happens and while packets go on.

use crate::bed::{ACK, Bed, FIN, RST, SYN, key, marked, tcp, udp};
use crate::sync_link::{SYNCID, apply, messages, record, start_backup, start_master};
use nfvs::director::packet::Transport::{Sctp, Tcp, Udp};
use nfvs::director::scheduler::SchedulerKind::Rr;
use nfvs::director::service::{
    ClientMask, Family, Persistence, PersistenceEngine, ServiceSettings, SyncThreshold, Tunables,
};
use nfvs::director::sync::{SyncOutcome, Walk};
use std::collections::BTreeMap;
use std::time::Duration;
use sync_proto::Message;

const WEB: &str = "10.0.0.100:80";
const DNS: &str = "10.0.0.100:53";
const SIP: &str = "10.0.0.100:5060";
const SIGNAL: &str = "10.0.0.100:2905";
const WEB6: &str = "[fd00::100]:80";
const SHOP: &str = "10.0.0.101:443";
const CLIENT: &str = "10.0.1.2:5000";
const MARK: u16 = 9;

/// A director with everything that can be told.
fn director() -> Bed {
    let bed = Bed::new();
    let persistent = |engine| {
        let clients = ClientMask::V4([255, 255, 255, 255].into());
        let persistence = Some(Persistence { timeout: Duration::from_secs(300), clients, engine });
        ServiceSettings { persistence, ..ServiceSettings::default() }
    };
    bed.add(Tcp, WEB, Rr, &["10.0.2.11:8080", "10.0.3.12:8080"]);
    bed.add(Udp, DNS, Rr, &["10.0.2.11:5300", "10.0.3.12:5300"]);
    bed.add(Sctp, SIGNAL, Rr, &["10.0.2.11:2905", "10.0.3.12:2905"]);
    bed.add(Tcp, WEB6, Rr, &["[fd00:2::11]:8080", "[fd00:3::12]:8080"]);
    bed.add_with(Tcp, SHOP, Rr, persistent(None), &["10.0.2.11:443", "10.0.3.12:443"]);
    let sip = persistent(Some(PersistenceEngine::Sip));
    bed.add_with(Udp, SIP, Rr, sip, &["10.0.2.11:5060", "10.0.3.12:5060"]);
    bed.add_service(marked(MARK, Family::V4), Rr, persistent(None), &["10.0.2.11:0", "10.0.3.12:0"]);
    bed
}

/// One client's connections of every kind, in some state.
fn populate(bed: &Bed, number: u16) {
    let client = format!("10.{}.{}.2:{}", 16 + number % 4, number / 256, 1024 + number);
    let client6 = format!("[fd00:1::{}:{}]:{}", number % 7, number / 256, 1024 + number);
    match number % 9 {
        // FIN_WAIT, ESTABLISHED of either family, CLOSE, and half-open.
        0 => [SYN, ACK, FIN | ACK].iter().for_each(|flags| establish(bed, &client, WEB, *flags)),
        1 => [SYN, ACK].iter().for_each(|flags| establish(bed, &client, WEB, *flags)),
        2 => [SYN, ACK].iter().for_each(|flags| establish(bed, &client6, WEB6, *flags)),
        3 => [SYN, ACK, RST].iter().for_each(|flags| establish(bed, &client, SHOP, *flags)),
        4 => drop(bed.tcp(&client, WEB, SYN)),
        5 => drop(bed.udp(&client, DNS)),
        6 => drop(bed.marked_tcp(MARK, &client, "10.9.9.9:7", SYN)),
        7 => {
            let invite = format!("INVITE sip:a@lab SIP/2.0\r\nCall-ID: call-{number}@lab\r\n\r\n");
            drop(bed.say(&client, SIP, invite.as_bytes()));
        }
        _ => associate(bed, &client),
    }
}

/// A client's segment, and an answer to one that begins a connection.
fn establish(bed: &Bed, client: &str, vip: &str, flags: u8) {
    let to = bed.tcp(client, vip, flags).destination();
    if flags == SYN {
        let _ = bed.handle(&mut tcp(&to, client, SYN | ACK, b""));
    }
}

/// An association that is established.
fn associate(bed: &Bed, client: &str) {
    let [init, init_ack, cookie_echo, cookie_ack] = [1, 2, 10, 11];
    let to = bed.sctp(client, SIGNAL, init).destination();
    let _ = bed.sctp(&to, client, init_ack);
    let _ = bed.sctp(client, SIGNAL, cookie_echo);
    let _ = bed.sctp(&to, client, cookie_ack);
}

/// All entries with server, state, flags but the one that says where they were made, and timeouts; without those that
/// are never told of.
fn entries(bed: &Bed) -> BTreeMap<String, String> {
    let mut entries = BTreeMap::new();
    for it in bed.director.connections(bed.now).flatten() {
        let state = it.state.to_string();
        if ["SYN_RECV", "SYN_SENT", "LISTEN", "NONE"].contains(&state.as_str()) {
            continue;
        }
        let flags = it.flags.bits() & !0x20;
        let name = format!("{} {} {}", it.transport, it.client, it.virtual_address);
        entries.insert(name, format!("{} {state} {flags:#x} {}", it.server, it.expires.as_secs()));
    }
    for it in bed.director.templates(bed.now).flatten() {
        let flags = it.flags.bits() & !0x20;
        let name = format!("{:?} {} {} {:?}", it.transport, it.clients, it.virtual_address, it.pe_data);
        entries.insert(name, format!("{} {} {flags:#x} {}", it.server, it.state(), it.expires.as_secs()));
    }
    entries
}

/// Has the backup take in what the master tells; how many records were created, updated or replaced, known, rejected.
fn transfer(master: &Bed, backup: &Bed) -> [u64; 4] {
    transfer_while(master, backup, |_| ())
}

/// The same, with something done between parts.
fn transfer_while(master: &Bed, backup: &Bed, mut work: impl FnMut(usize)) -> [u64; 4] {
    backup.director.begin_table();
    let mut walk = Walk::new(SYNCID, 64);
    let (mut counts, mut parts) = ([0; 4], 0);
    while !walk.is_over() {
        for message in master.director.walk_on(master.now, &mut walk) {
            assert_eq!(Message::decode(&message, SYNCID).unwrap().trailer().unwrap(), [0; 64]);
            let SyncOutcome::Applied(it) = backup.director.apply_table(backup.now, &message) else {
                panic!("not applied");
            };
            let of = [it.created, it.updated + it.replaced, it.known, it.rejected];
            counts.iter_mut().zip(of).for_each(|(count, more)| *count += u64::from(more));
        }
        work(parts);
        parts += 1;
    }
    assert_eq!(walk.told(), counts.iter().sum::<u64>());
    backup.director.check_invariants();
    counts
}

#[test]
fn a_full_table_of_every_kind_is_the_same_on_the_other_side() {
    let (master, backup) = (director(), director());
    start_backup(&backup.director);
    (0..18_000).for_each(|number| populate(&master, number));
    let expected = entries(&master);
    assert!(expected.len() > 15_000, "{}", expected.len());
    assert_eq!(backup.director.apply_table(backup.now, &[0; 3]), refused());
    let [created, updated, known, rejected] = transfer(&master, &backup);
    assert_eq!((created, updated, known, rejected), (expected.len() as u64, 0, 0, 0));
    assert_eq!(entries(&backup), expected);
    for service in [key(Tcp, WEB), key(Udp, DNS), key(Sctp, SIGNAL), key(Tcp, WEB6), key(Tcp, SHOP)] {
        let [told, own] = [&master, &backup].map(|bed| bed.director.services());
        for (one, other) in
            told.get(&service).unwrap().servers.iter().zip(&own.get(&service).unwrap().servers)
        {
            assert_eq!(one.active_conns(), other.active_conns() + half_open(&master, one), "{service}");
            assert_eq!(one.templates(), other.templates(), "{service}");
        }
    }
    // Once more, nothing is new, and nothing is lost.
    let [created, updated, known, rejected] = transfer(&master, &backup);
    assert_eq!((created, updated + rejected, known), (0, expected.len() as u64, 0));
    assert_eq!(entries(&backup), expected);
}

fn refused() -> SyncOutcome {
    let error = Message::decode(&[0; 3], SYNCID).unwrap_err();
    SyncOutcome::Refused(error)
}

/// The active connections of a server that are never told of.
fn half_open(bed: &Bed, server: &nfvs::director::service::RealServer) -> u32 {
    let all = bed.director.connections(bed.now).flatten();
    let is_such = |it: &nfvs::director::connection::ConnectionView| {
        it.server.ip() == server.address
            && it.server.port() == server.port
            && it.state.to_string() == "SYN_RECV"
            && it.flags.bits() & 0x100 == 0
    };
    all.filter(is_such).count() as u32
}

#[test]
fn what_is_told_meanwhile_is_newer_than_the_table() {
    let (mut master, mut backup) = (director(), director());
    start_backup(&backup.director);
    start_master(&master.director);
    let every = SyncThreshold { packet: 0, period: 1 };
    master.tune(Tunables { sync_threshold: every, ..Tunables::default() });
    (0..4_500).for_each(|number| populate(&master, number));
    drop(messages(&master.director, master.now));
    let mut random = fastrand::Rng::with_seed(5);
    // Packets of clients that the table knows and of new ones, and time, while the table goes over; their messages come
    // at once, and each table's record late, as it was when its part was looked at.
    let mut late = Vec::new();
    backup.director.begin_table();
    let mut walk = Walk::new(SYNCID, 0);
    let mut news = 4_500;
    while !walk.is_over() {
        late.extend(master.director.walk_on(master.now, &mut walk));
        for _ in 0..4 {
            let number = random.u16(..4_500);
            let client = format!("10.{}.{}.2:{}", 16 + number % 4, number / 256, 1024 + number);
            match number % 9 {
                0 | 1 => {
                    drop(master.handle(&mut tcp(
                        &client,
                        WEB,
                        [ACK, FIN | ACK, RST][random.usize(..3)],
                        b"",
                    )));
                }
                3 => drop(master.handle(&mut tcp(&client, SHOP, ACK, b""))),
                5 => drop(master.handle(&mut udp(&client, DNS, b"question"))),
                _ => {}
            }
        }
        // What a reply has established is told with the next request, which an association here does not have.
        if news % 9 != 8 {
            populate(&master, news);
        }
        news += 1;
        for message in messages(&master.director, master.now) {
            let SyncOutcome::Applied(_) = backup.director.apply_sync(backup.now, &message) else {
                panic!("not applied");
            };
        }
        if random.u8(..8) == 0 {
            master.pass(1);
            backup.now = master.now;
            backup.director.handle_timeout(backup.now);
        }
    }
    for message in &late {
        let SyncOutcome::Applied(_) = backup.director.apply_table(backup.now, message) else {
            panic!("not applied");
        };
    }
    backup.director.check_invariants();
    // Timers differ by when the table came.
    let of = |bed: &Bed| -> BTreeMap<String, String> {
        let without_time = |text: String| text.rsplit_once(' ').map(|it| it.0.to_owned()).unwrap_or_default();
        entries(bed).into_iter().map(|(name, text)| (name, without_time(text))).collect()
    };
    let (told, known) = (of(&master), of(&backup));
    // Those that ended on the master before their time was over on the backup are all that it has more.
    let missing: Vec<_> = told.iter().filter(|(name, text)| known.get(*name) != Some(*text)).collect();
    assert!(
        missing.is_empty(),
        "{} of {}: {:#?}",
        missing.len(),
        told.len(),
        &missing[..missing.len().min(5)]
    );
    assert!(told.len() > 3_000);
}

#[test]
fn a_table_mends_what_lost_messages_have_left_but_not_what_packets_say() {
    let (master, backup) = (director(), director());
    start_backup(&backup.director);
    let [one, other] = ["10.0.2.11:8080", "10.0.3.12:8080"];
    let established = |server| record(6, [CLIENT, WEB, server], 1, 0);
    let ending = |server| record(6, [CLIENT, WEB, server], 4, 0x100);
    let state = || entries(&backup)[&format!("tcp {CLIENT} {WEB}")].clone();
    start_backup(&master.director);

    // Others have told of it long ago, and the end was lost.
    apply(&backup, &[established(one)]);
    apply(&master, &[ending(one)]);
    assert_eq!(transfer(&master, &backup), [0, 1, 0, 0]);
    assert!(state().contains("FIN_WAIT"), "{}", state());
    // The client has another server, of which nothing was heard.
    let elsewhere = director();
    start_backup(&elsewhere.director);
    apply(&elsewhere, &[established(other)]);
    assert_eq!(transfer(&elsewhere, &backup), [0, 1, 0, 0]);
    assert!(state().starts_with(other), "{}", state());
    // A message that comes while the table does is newer.
    let told_meanwhile = transfer_late(&elsewhere, &backup, || {
        apply(&backup, &[ending(other)]);
    });
    assert_eq!(told_meanwhile, [0, 0, 1, 0]);
    assert!(state().contains("FIN_WAIT"), "{}", state());
    // So is a packet that has come here.
    assert_eq!(transfer(&elsewhere, &backup), [0, 1, 0, 0]);
    let _ = backup.tcp(CLIENT, WEB, RST);
    assert_eq!(transfer(&elsewhere, &backup), [0, 0, 1, 0]);
    assert!(state().contains("CLOSE"), "{}", state());
}

/// The same as [`transfer`], with something done after the master has told all and before the backup has it.
fn transfer_late(master: &Bed, backup: &Bed, work: impl FnOnce()) -> [u64; 4] {
    backup.director.begin_table();
    let mut walk = Walk::new(SYNCID, 0);
    let mut all = Vec::new();
    while !walk.is_over() {
        all.extend(master.director.walk_on(master.now, &mut walk));
    }
    work();
    let mut counts = [0; 4];
    for message in all {
        let SyncOutcome::Applied(it) = backup.director.apply_table(backup.now, &message) else {
            panic!("not applied");
        };
        let of = [it.created, it.updated + it.replaced, it.known, it.rejected];
        counts.iter_mut().zip(of).for_each(|(count, more)| *count += u64::from(more));
    }
    counts
}

#[test]
fn a_template_that_clients_use_here_is_not_changed_by_a_table() {
    let (master, mut backup) = (director(), director());
    start_backup(&backup.director);
    let _ = master.tcp(CLIENT, SHOP, SYN);
    let _ = backup.tcp(CLIENT, SHOP, SYN);
    let before = backup.templates();
    backup.pass(30);
    let [created, updated, known, rejected] = transfer(&master, &backup);
    assert_eq!((created, updated, known, rejected), (0, 0, 1, 0));
    assert_eq!(before.len(), 1);
    assert_ne!(backup.templates(), before, "its timer goes on");
}

#[test]
fn what_is_never_told_or_cannot_be_is_left_out_and_counted() {
    let (mut master, backup) = (director(), director());
    start_backup(&backup.director);
    let _ = master.tcp(CLIENT, WEB, SYN);
    establish(&master, "10.0.1.3:5000", SHOP, SYN);
    establish(&master, "10.0.1.3:5000", SHOP, ACK);
    let _ = master.udp("10.0.1.4:5000", DNS);
    let walk = |master: &Bed| {
        let mut walk = Walk::new(SYNCID, 0);
        while !walk.is_over() {
            drop(master.director.walk_on(master.now, &mut walk));
        }
        assert!(master.director.walk_on(master.now, &mut walk).is_empty(), "it is over");
        (walk.told(), walk.left_out())
    };
    assert_eq!(walk(&master), (3, 1), "a half-open one is");
    master.tune(Tunables { sync_persist_mode: true, ..Tunables::default() });
    assert_eq!(walk(&master), (2, 2), "and one that a template leads, where templates are told alone");
    master.tune(Tunables::default());
    // Their time is over, though nothing has swept them.
    master.now = master.now + Duration::from_secs(400);
    assert_eq!(walk(&master), (2, 0), "that of the shop, and its template");
}

#[test]
fn a_full_table_takes_no_more_and_says_so() {
    let (master, backup) = (director(), Bed::with_limit(100));
    start_backup(&backup.director);
    (0..900).for_each(|number| populate(&master, number));
    let [created, updated, known, rejected] = transfer(&master, &backup);
    assert_eq!((created, updated, known), (100, 0, 0));
    assert!(rejected > 500);
}

/// Workers go on at both while the table goes over.
#[test]
fn packets_and_a_table_share_the_shards() {
    let (master, backup) = (director(), director());
    start_backup(&backup.director);
    (0..9_000).for_each(|number| populate(&master, number));
    let (master, backup) = (&master, &backup);
    std::thread::scope(|scope| {
        for (seed, bed) in [(1, master), (2, backup)] {
            scope.spawn(move || {
                let mut random = fastrand::Rng::with_seed(seed);
                for _ in 0..5_000 {
                    let client = format!(
                        "10.{}.{}.2:{}",
                        random.u8(16..20),
                        random.u8(..36),
                        random.u16(1024..10_000)
                    );
                    let flags = [SYN, ACK, FIN | ACK, RST][random.usize(..4)];
                    let _ = bed.handle(&mut tcp(&client, WEB, flags, b""));
                }
            });
        }
        scope.spawn(move || {
            for _ in 0..3 {
                backup.director.begin_table();
                let mut walk = Walk::new(SYNCID, 0);
                while !walk.is_over() {
                    for message in master.director.walk_on(master.now, &mut walk) {
                        let _ = backup.director.apply_table(backup.now, &message);
                    }
                }
            }
        });
    });
    master.director.check_invariants();
    backup.director.check_invariants();
    assert!(backup.director.connection_count().0 > 7_000);
}
