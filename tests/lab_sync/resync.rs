//! Whole tables, for backups that ask.

use super::common::lab::{Lab, OtherDaemon, text, wait_for};
use super::{PATIENCE, SECOND, VIPS, assert_alike, config, endpoint, exchange, hold, key_file, reload};
use serde_json::{Value, json};
use std::fs;
use std::io::{Read, Write};
use std::net::{TcpStream, UdpSocket};
use sync_proto::{Addresses, ConnFlags, Encoder, OptionalParameters, Record, SyncId, Version};

/// What a backup shows of the table of the only master that can be asked; null: there is none.
fn table(backup: &OtherDaemon) -> Value {
    let shown = backup.show("sync");
    let tables = shown["backup"]["resync"].as_array().expect("it asks").clone();
    assert!(tables.len() < 2, "{shown}");
    tables.into_iter().next().unwrap_or_default()
}

/// Connections of every kind of the lab, which are silent from now on.
fn hold_all(lab: &Lab) -> (Vec<TcpStream>, Vec<UdpSocket>) {
    lab.enter("c1", || {
        let streams = VIPS.iter().flat_map(|vip| (0..20).map(|_| hold(endpoint(vip, 80)))).collect();
        let sockets = VIPS.iter().flat_map(|vip| (0..20).map(|_| exchange(endpoint(vip, 7), 1))).collect();
        (streams, sockets)
    })
}

#[test]
fn a_backup_that_begins_late_asks_for_what_it_was_not_told() {
    for (name, group, port) in [("open", "224.0.0.81", 8848), ("sealed", "ff02::81", 9_000)] {
        let lab = Lab::up("sync-late", "pair", &[]);
        let is_sealed = name == "sealed";
        let side = |interface: &str| json!({ "interface": interface, "syncid": 7, "group": group });
        let with_keys = |node: &str, mut sync: Value| {
            if is_sealed {
                sync["authentication"] = key_file(&lab, node, &['a']);
            }
            sync
        };
        // Idle before anybody listens: no message will tell of them again.
        let held = hold_all(&lab);
        let own = json!({ "master": side(SECOND), "resync": { "port": port } });
        reload(&lab, with_keys("director", own));
        let others = with_keys(SECOND, json!({ "backup": side("director"), "resync": {} }));
        let second = lab.start_in(SECOND, &config(&lab, others));
        wait_for("the table", || table(&second)["state"] == "complete");
        let known = assert_alike(|| lab.show("connections"), || second.show("connections"));
        assert_eq!(known, 80, "{name}");
        for connection in second.show("connections").as_array().unwrap() {
            assert_eq!(connection["origin"], "sync", "{connection}");
        }
        let came = table(&second);
        assert_eq!((&came["records"], &came["complete"]), (&json!(80), &json!(1)), "{came}");
        assert_eq!((&came["known"], &came["rejected"], &came["error"]), (&json!(0), &json!(0), &Value::Null));
        let told = lab.show("sync")["master"]["resync"].clone();
        let expected = json!({ "port": port, "complete": 1, "in_progress": 0, "entries": 80, "failed": {} });
        assert_eq!(told, expected);
        let said = text(&second.nfvs(&["show", "sync"]).stdout);
        assert!(said.contains(": complete, 80 records (known 0, refused 0) in "), "{said}");
        let said = text(&lab.nfvs(&["show", "sync"]).stdout);
        assert!(said.contains(&format!("tables told at port {port}: complete 1, ")), "{said}");
        let said = fs::read_to_string(lab.file("second.log")).unwrap();
        assert!(
            said.contains("asking for the whole table") && said.contains("the whole table has come"),
            "{said}"
        );
        assert!(lab.log().contains("a backup was told of the whole table"), "{}", lab.log());

        // Whoever talks nonsense is turned away, and counted.
        lab.enter(SECOND, || {
            let address = if is_sealed { "fd00:9::1" } else { "10.0.9.1" };
            let mut stream = TcpStream::connect(endpoint(address, port)).expect("the port is open");
            stream.write_all(&[b'x'; 64]).expect("room");
            let _ = stream.read(&mut [0; 1]);
        });
        let failed = || lab.show("sync")["master"]["resync"]["failed"].clone();
        wait_for("the nonsense", || failed() == json!({ "garbage": 1 }));
        // From elsewhere, nobody gets there.
        let elsewhere = if is_sealed { "fd00:1::11" } else { "10.0.1.11" };
        let reached = lab.enter("c1", || TcpStream::connect_timeout(&endpoint(elsewhere, port), PATIENCE));
        assert!(reached.is_err(), "{reached:?}");
        drop(held);
    }
}

#[test]
fn a_backup_with_a_wrong_key_stays_empty_until_it_has_the_right_one() {
    let lab = Lab::up("sync-wrong-key", "pair", &[]);
    let held = hold_all(&lab);
    let side = |interface: &str| json!({ "interface": interface, "syncid": 7 });
    let own =
        json!({ "master": side(SECOND), "resync": {}, "authentication": key_file(&lab, "director", &['a']) });
    reload(&lab, own);
    let others = |digit| json!({ "backup": side("director"), "resync": {}, "authentication": key_file(&lab, SECOND, &[digit]) });
    let second = lab.start_in(SECOND, &config(&lab, others('b')));
    wait_for("offers that are refused", || {
        second.show("sync")["backup"]["rejected"]["unknown_key"].as_u64().unwrap() > 1
    });
    assert_eq!(second.show("connections"), json!([]));
    assert_eq!(table(&second), Value::Null);
    let said = text(&second.nfvs(&["show", "sync"]).stdout);
    assert!(said.contains("refused: unknown_key "), "{said}");
    assert!(said.contains("tables: no master has offered one"), "{said}");
    // Nor is anybody told who asks by hand and lacks the key.
    lab.enter(SECOND, || {
        let mut stream = TcpStream::connect(endpoint("10.0.9.1", 8848)).expect("the port is open");
        let hello = [&b"nfvr\x01\x07\x00\x00"[..], &[0; 24]].concat();
        stream.write_all(&hello).expect("room");
        let mut answered = Vec::new();
        stream.read_to_end(&mut answered).expect("an answer");
        assert_eq!((answered.len(), answered[6]), (32, 3), "a hello that says no");
    });
    second.reload(&config(&lab, others('a')));
    wait_for("the table", || table(&second)["state"] == "complete");
    assert_eq!(assert_alike(|| lab.show("connections"), || second.show("connections")), 80);
    drop(held);
}

/// How many connections a director is told of that is to have many.
const MANY: u32 = 300_000;

/// Tells the director, as another one in the second node would, of many connections.
fn tell_of_many(lab: &Lab) {
    /// What the socket's buffer has room for.
    const DATAGRAMS: u32 = 6;
    const RECORDS: u32 = 250;
    let socket = lab.enter(SECOND, || UdpSocket::bind("10.0.9.2:0").expect("an address of the node"));
    let record = |number: u32| Record {
        protocol: 6,
        flags: ConnFlags::from_bits(0),
        state: 1,
        client_port: 5000,
        virtual_port: 80,
        server_port: 8080,
        addresses: Addresses::new(
            std::net::Ipv4Addr::from(0x0a80_0000 | number).into(),
            [10, 0, 0, 100].into(),
            [10, 0, 2, 21].into(),
        )
        .expect("all are of IPv4"),
        fwmark: 0,
        timeout_seconds: 900,
        sequence: None,
        engine: None,
        optional: OptionalParameters::default(),
    };
    for first in (0..MANY).step_by((DATAGRAMS * RECORDS) as usize) {
        for first in (first..first + DATAGRAMS * RECORDS).step_by(RECORDS as usize) {
            let mut buffer = [0; 10_000];
            let mut encoder = Encoder::new(&mut buffer, Version::V1, SyncId(7), 10_000);
            (first..first + RECORDS).for_each(|number| encoder.push(&record(number)).expect("room"));
            socket.send_to(encoder.finish().expect("records"), "224.0.0.81:8848").expect("a route");
        }
        wait_for("the records", || {
            lab.show("sync")["backup"]["records"].as_u64() >= Some((first + DATAGRAMS * RECORDS).into())
        });
    }
}

#[test]
fn a_backup_whose_master_dies_in_the_middle_says_so_and_asks_again() {
    let lab = Lab::up("sync-middle", "pair", &[]);
    let side = |interface: &str| json!({ "interface": interface, "syncid": 7 });
    reload(&lab, json!({ "master": side(SECOND), "backup": side(SECOND), "resync": {} }));
    tell_of_many(&lab);
    let second = lab.start_in(SECOND, &config(&lab, json!({ "backup": side("director"), "resync": {} })));
    wait_for("the middle", || table(&second)["records"].as_u64() > Some(10_000));
    assert!(lab.script(&["daemon", "kill"]).status.success());
    wait_for("the failure", || table(&second)["state"] == "failed");
    let shown = table(&second);
    assert_eq!(shown["error"], "the other director has ended it", "{shown}");
    assert_eq!(shown["entries"], MANY, "{shown}");
    let records = shown["records"].as_u64().unwrap();
    assert!(records < MANY.into(), "{shown}");
    assert_eq!(second.show("sync")["backup"]["created"], records);
    let said = text(&second.nfvs(&["show", "sync"]).stdout);
    assert!(said.contains(": failed after ") && said.contains("has ended it; "), "{said}");
    let said = fs::read_to_string(lab.file("second.log")).unwrap();
    assert!(said.contains("the whole table has not come; asking again"), "{said}");

    // Another daemon in its place is asked, and has but little to tell.
    let own = json!({ "master": side(SECOND), "backup": side(SECOND), "resync": {} });
    let first = lab.start_in("director", &config(&lab, own));
    wait_for("another table", || table(&second)["state"] == "complete");
    let shown = table(&second);
    assert_eq!((&shown["records"], &shown["failed"]), (&json!(0), &json!({ "ended": 1 })), "{shown}");
    // It has what the other one has kept, once that is its master.
    second.reload(&config(&lab, json!({ "master": side("director"), "resync": {} })));
    wait_for("what the second has kept", || table(&first)["state"] == "complete");
    let shown = table(&first);
    assert_eq!((&shown["records"], &shown["rejected"]), (&json!(records), &json!(0)), "{shown}");
    println!("{records} records in {} ms", shown["millis"]);
    first.kill();
}

#[test]
fn a_backup_that_has_lost_messages_asks_again() {
    let lab = Lab::up("sync-loss", "pair", &[]);
    let side = |interface: &str| json!({ "interface": interface, "syncid": 7 });
    let own =
        json!({ "master": side(SECOND), "resync": {}, "authentication": key_file(&lab, "director", &['a']) });
    reload(&lab, own);
    let others =
        json!({ "backup": side("director"), "resync": {}, "authentication": key_file(&lab, SECOND, &['a']) });
    let second = lab.start_in(SECOND, &config(&lab, others));
    wait_for("a first table", || table(&second)["complete"] == 1);
    // A wall that only messages meet, and for less time than a silence is.
    lab.shell(
        SECOND,
        "nft 'add table ip wall; add chain ip wall in { type filter hook input priority -300; }'",
    );
    lab.shell(SECOND, "nft add rule ip wall in udp dport 8848 counter drop");
    let held = hold_all(&lab);
    wait_for("messages at the wall", || {
        let shown = lab.shell(SECOND, "nft list chain ip wall in");
        !shown.contains("packets 0 ") && lab.show("sync")["master"]["records"].as_u64().unwrap() > 0
    });
    lab.shell(SECOND, "nft delete table ip wall");
    wait_for("another table", || table(&second)["complete"].as_u64() > Some(1));
    assert_eq!(assert_alike(|| lab.show("connections"), || second.show("connections")), 80);
    drop(held);
}
