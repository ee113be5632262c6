//! Two directors that synchronise: the backup has what the master has, roles change while they run, and clients do not
//! notice that another director goes on with their connections.

mod common;

use common::lab::{Lab, OtherDaemon, text, wait_for};
use rustix::net::{AddressFamily, SocketType};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::os::unix::fs::PermissionsExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};
use sync_proto::{Addresses, ConnFlags, Encoder, OptionalParameters, Record, SyncId, Version};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::task::JoinSet;

/// The director whose interface towards the other is named after that.
const SECOND: &str = "second";
const VIPS: [&str; 2] = ["10.0.0.100", "fd00::100"];
/// Long enough for whatever a master gathers before it sends it.
const PATIENCE: Duration = Duration::from_secs(10);

/// The services of the lab, and this for `sync`.
fn config(lab: &Lab, sync: Value) -> Value {
    let mut config: Value =
        serde_json::from_slice(&fs::read(lab.file("nfvs.json")).expect("the configuration")).expect("JSON");
    config["sync"] = sync;
    config
}

/// Has the director run with this for `sync`.
#[track_caller]
fn reload(lab: &Lab, sync: Value) {
    fs::write(lab.file("nfvs.json"), config(lab, sync).to_string()).expect("the configuration");
    let reloaded = lab.nfvs(&["reload"]);
    assert!(reloaded.status.success(), "{}", text(&reloaded.stderr));
}

/// A connection or template as both directors have to show it, which is without how long it lasts and where it was
/// made.
fn entry(shown: &Value) -> Option<String> {
    let mut entry = shown.as_object()?.clone();
    let flags = entry.get("flags")?.as_str()?.trim_start_matches("0x").to_owned();
    let flags = u32::from_str_radix(&flags, 16).ok()?;
    const SYNC: u32 = 0x20;
    entry.insert("flags".to_owned(), (flags & !SYNC).into());
    entry.retain(|key, _| key != "expires" && key != "origin");
    Some(Value::from(entry).to_string())
}

fn entries(shown: &Value) -> BTreeSet<String> {
    shown.as_array().expect("a list").iter().filter_map(entry).collect()
}

/// Waits until the backup shows what the master shows, and returns how many entries that is.
#[track_caller]
#[expect(clippy::disallowed_methods, reason = "tests wait in real time")]
fn assert_alike(master: impl Fn() -> Value, backup: impl Fn() -> Value) -> usize {
    let mut both = (BTreeSet::new(), BTreeSet::new());
    let start = Instant::now();
    while start.elapsed() < PATIENCE {
        both = (entries(&master()), entries(&backup()));
        if both.0 == both.1 {
            return both.0.len();
        }
        pause(Duration::from_millis(100));
    }
    let only_master: Vec<&String> = both.0.difference(&both.1).collect();
    let only_backup: Vec<&String> = both.1.difference(&both.0).collect();
    panic!("only the master has {only_master:#?}\nonly the backup has {only_backup:#?}");
}

fn pause(time: Duration) {
    thread::sleep(time);
}

/// Gets a page on a new connection that stays.
fn hold(vip: SocketAddr) -> TcpStream {
    let mut stream = TcpStream::connect(vip).expect("a connection");
    stream.write_all(b"GET / HTTP/1.1\r\nHost: lab\r\n\r\n").expect("a request");
    let mut answer = [0; 1024];
    let length = stream.read(&mut answer).expect("an answer");
    assert!(answer.starts_with(b"HTTP/1.1 200") && length < answer.len());
    stream
}

/// Sends datagrams to the echo and has them back.
fn exchange(vip: SocketAddr, count: usize) -> UdpSocket {
    let any: SocketAddr = if vip.is_ipv4() { ([0; 4], 0).into() } else { ([0_u16; 8], 0).into() };
    let socket = UdpSocket::bind(any).expect("a socket");
    socket.connect(vip).expect("an address");
    socket.set_read_timeout(Some(PATIENCE)).expect("a timeout");
    for _ in 0..count {
        socket.send(b"probe").expect("a datagram");
        assert_eq!(socket.recv(&mut [0; 16]).expect("an echo"), 5);
    }
    socket
}

fn endpoint(vip: &str, port: u16) -> SocketAddr {
    SocketAddr::new(vip.parse().expect("an address"), port)
}

#[test]
fn a_backup_has_the_connections_of_its_master_in_their_states() {
    for (version, group, ports) in [(1, "224.0.0.81", 1), (1, "ff02::81", 4), (0, "224.0.0.81", 1)] {
        let lab = Lab::up("sync", "pair", &[]);
        let sync = json!({ "interface": "director", "syncid": 7, "group": group });
        let mut others = config(&lab, json!({ "backup": sync }));
        others["tunables"] = json!({ "sync_ports": ports, "sync_sock_size": 1 << 20 });
        let second = lab.start_in(SECOND, &others);
        let sync = json!({ "interface": SECOND, "syncid": 7, "group": group });
        let mut own = config(&lab, json!({ "master": sync, "version": version }));
        own["tunables"] = others["tunables"].clone();
        fs::write(lab.file("nfvs.json"), own.to_string()).unwrap();
        assert!(lab.nfvs(&["reload"]).status.success());
        let vips = if version == 0 { &VIPS[..1] } else { &VIPS[..] };
        let heard = lab.file("heard");
        let listen = ["sync", "dump", "--listen", "director", "--group", group, "--json"];
        let mut listener = lab
            .command(SECOND, &[&[env!("CARGO_BIN_EXE_nfvs")], &listen[..]].concat())
            .stdout(fs::File::create(&heard).unwrap())
            .spawn()
            .expect("ip netns exec");
        let (mut streams, sockets) = lab.enter("c1", || {
            let streams: Vec<TcpStream> =
                vips.iter().flat_map(|vip| (0..6).map(|_| hold(endpoint(vip, 80)))).collect();
            let sockets: Vec<UdpSocket> =
                vips.iter().flat_map(|vip| (0..6).map(|_| exchange(endpoint(vip, 7), 3))).collect();
            (streams, sockets)
        });
        let known = assert_alike(|| lab.show("connections"), || second.show("connections"));
        assert_eq!(known, 12 * vips.len());
        for connection in second.show("connections").as_array().unwrap() {
            assert_eq!(connection["origin"], "sync", "{connection}");
        }
        // With several ports, those of the first.
        wait_for("a message that is printed", || fs::read_to_string(&heard).unwrap().contains('\n'));
        listener.kill().and_then(|()| listener.wait()).expect("it listens");
        let line = fs::read_to_string(&heard).unwrap();
        let message: Value = serde_json::from_str(line.lines().next().unwrap()).expect("JSON");
        assert_eq!((&message["version"], &message["syncid"]), (&json!(version), &json!(7)));
        assert_eq!(message["records"].as_array().unwrap().len() as u64, message["count"]);
        // One of each kind ends.
        streams.truncate(1);
        let known = assert_alike(|| lab.show("connections"), || second.show("connections"));
        assert_eq!(known, 12 * vips.len(), "they are closing");
        for (active, what) in [(&lab.show("services"), "master"), (&second.show("services"), "backup")] {
            let servers = active.as_array().unwrap().iter().flat_map(|it| it["servers"].as_array().unwrap());
            let counts: Vec<u64> = servers.map(|server| server["active"].as_u64().unwrap()).collect();
            assert_eq!(counts.iter().sum::<u64>(), 1, "{what}: {active}");
        }
        let conns: Vec<Value> = second.show("services").as_array().unwrap().clone();
        assert!(conns.iter().all(|service| service["stats"]["connections"] == 0), "they are not its own");
        drop((streams, sockets));

        let shown = second.show("sync");
        assert_eq!(shown["master"], Value::Null);
        let peers = shown["backup"]["peers"].as_array().unwrap();
        assert_eq!(peers.len(), 1, "{shown}");
        assert!(peers[0]["records"].as_u64().unwrap() >= known as u64, "{shown}");
        assert!(
            shown["backup"]["rejected"].as_object().unwrap().values().all(|count| *count == 0),
            "{shown}"
        );
        let shown = lab.show("sync");
        assert_eq!(
            (&shown["master"]["version"], &shown["master"]["ports"]),
            (&json!(version), &json!(ports))
        );
        assert!(shown["master"]["lost"].as_object().unwrap().values().all(|count| *count == 0), "{shown}");
        let said = text(&lab.nfvs(&["show", "sync"]).stdout);
        let line = format!("master sync daemon (mcast={SECOND}, syncid=7, maxlen=");
        assert!(said.starts_with(&line), "{said}");
    }
}

#[test]
fn roles_change_while_directors_run() {
    let lab = Lab::up("sync-roles", "pair", &[]);
    let refused = |arguments: &[&str], why: &str| {
        let tried = lab.nfvs(&[&["sync"], arguments].concat());
        assert_eq!(tried.status.code(), Some(1));
        assert!(text(&tried.stderr).contains(why), "{arguments:?}: {}", text(&tried.stderr));
    };
    let done = |arguments: &[&str]| {
        let tried = lab.nfvs(&[&["sync"], arguments].concat());
        assert!(tried.status.success(), "{arguments:?}: {}", text(&tried.stderr));
    };
    let runs = || {
        let shown = lab.show("sync");
        [!shown["master"].is_null(), !shown["backup"].is_null()]
    };
    assert_eq!(text(&lab.nfvs(&["show", "sync"]).stdout), "no synchronisation\n");
    refused(&["master"], "nothing is configured for the master");
    refused(&["stop", "backup"], "the backup does not run");
    refused(&["start", "master", "--interface", "eth7"], "cannot run on eth7: ");
    refused(&["start", "master", "--interface", SECOND, "--group", "10.0.0.1"], "daemon.group: ");
    refused(&["start", "master", "--interface", SECOND, "--maxlen", "0"], "daemon.maxlen: ");
    assert_eq!(runs(), [false, false]);
    done(&["start", "backup", "--interface", SECOND, "--syncid", "3"]);
    refused(&["start", "backup", "--interface", SECOND], "the backup runs already, on second");
    done(&[
        "start",
        "master",
        "--mcast-interface",
        SECOND,
        "--mcast-group",
        "ff02::81",
        "--mcast-port",
        "9000",
    ]);
    assert_eq!(runs(), [true, true]);
    done(&["stop", "master"]);
    done(&["stop", "backup"]);

    // The file has one side, and each role takes its settings.
    reload(&lab, json!({ "backup": { "interface": SECOND, "syncid": 9 } }));
    assert_eq!(runs(), [false, true]);
    done(&["master"]);
    done(&["master"]);
    assert_eq!(runs(), [true, false]);
    assert_eq!(lab.show("sync")["master"]["syncid"], 9);
    // Whoever changes something else in the file does not change the role.
    reload(&lab, json!({ "backup": { "interface": SECOND, "syncid": 9 } }));
    assert_eq!(runs(), [true, false]);
    reload(&lab, json!({ "master": { "interface": SECOND, "syncid": 9 } }));
    assert_eq!(runs(), [true, false]);

    // An interface that is not there: nothing changes.
    let before = lab.show("services");
    let mut broken = config(&lab, json!({ "master": { "interface": "gone" } }));
    broken["services"] = json!([]);
    fs::write(lab.file("nfvs.json"), broken.to_string()).unwrap();
    let tried = lab.nfvs(&["reload"]);
    assert_eq!(tried.status.code(), Some(1));
    assert!(text(&tried.stderr).contains("cannot run on gone: "), "{}", text(&tried.stderr));
    assert_eq!((lab.show("services"), runs()), (before, [true, false]));
}

/// The messages that come to a group while `work` is done, as the node has them.
fn overhear(lab: &Lab, work: impl FnOnce(), enough: usize) -> Vec<Vec<u8>> {
    let group = std::net::Ipv4Addr::new(224, 0, 0, 81);
    let socket = lab.enter(SECOND, || {
        let socket = rustix::net::socket(AddressFamily::INET, SocketType::DGRAM, None).expect("a socket");
        rustix::net::sockopt::set_socket_reuseaddr(&socket, true).expect("an option");
        rustix::net::bind(&socket, &SocketAddr::from((group, 8848))).expect("the port");
        let socket = UdpSocket::from(socket);
        socket.join_multicast_v4(&group, &[10, 0, 9, 2].into()).expect("the group");
        socket.set_read_timeout(Some(PATIENCE)).expect("a timeout");
        socket
    });
    work();
    let mut buffer = [0; 2000];
    let mut receive = || {
        let length = socket.recv(&mut buffer).expect("a message");
        buffer[..length].to_vec()
    };
    (0..enough).map(|_| receive()).collect()
}

#[test]
fn messages_without_a_key_change_nothing_and_keys_change_without_loss() {
    let lab = Lab::up("sync-keys", "pair", &[]);
    let keys = |node: &str, which: &[char]| {
        let path = lab.file(&format!("{node}.keys"));
        let lines: Vec<String> = which.iter().map(|digit| digit.to_string().repeat(64)).collect();
        fs::write(&path, lines.join("\n")).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        json!({ "keys": path })
    };
    let own = |authentication: Value| json!({ "master": { "interface": SECOND, "syncid": 7 }, "authentication": authentication });
    let others = |authentication: Value| json!({ "backup": { "interface": "director", "syncid": 7 }, "authentication": authentication });
    let second = lab.start_in(SECOND, &config(&lab, others(keys(SECOND, &['a']))));
    let mut streams = Vec::new();
    let mut connect = || {
        streams.extend(lab.enter("c1", || (0..3).map(|_| hold(endpoint(VIPS[0], 80))).collect::<Vec<_>>()));
    };
    let rejected = |reason: &str| second.show("sync")["backup"]["rejected"][reason].as_u64().unwrap();

    reload(&lab, json!({ "master": { "interface": SECOND, "syncid": 7 } }));
    connect();
    wait_for("a message without a key", || rejected("unauthenticated") > 0);
    reload(&lab, own(keys("director", &['b'])));
    connect();
    wait_for("a message with another key", || rejected("unknown_key") > 0);
    assert_eq!(second.show("connections"), json!([]));

    // What comes once more, or changed, changes nothing.
    reload(&lab, own(keys("director", &['a'])));
    let heard = overhear(&lab, &mut connect, 1);
    wait_for("the connections", || second.show("connections").as_array().unwrap().len() == 3);
    lab.enter("director", || {
        let socket = UdpSocket::bind("10.0.9.1:0").unwrap();
        socket.send_to(&heard[0], "224.0.0.81:8848").unwrap();
        let mut changed = heard[0].clone();
        changed[20] ^= 1;
        socket.send_to(&changed, "224.0.0.81:8848").unwrap();
        socket.send_to(&heard[0][..40], "224.0.0.81:8848").unwrap();
    });
    wait_for("what was sent again", || {
        (rejected("replayed"), rejected("wrong_code")) == (1, 1) && rejected("unauthenticated") > 1
    });

    // One director after the other gets the new key.
    let before: Vec<u64> = ["unauthenticated", "unknown_key", "wrong_code"].map(rejected).to_vec();
    second.reload(&config(&lab, others(keys(SECOND, &['c', 'a']))));
    connect();
    reload(&lab, own(keys("director", &['c'])));
    connect();
    wait_for("the connections", || second.show("connections").as_array().unwrap().len() == 9);
    second.reload(&config(&lab, others(keys(SECOND, &['c']))));
    connect();
    wait_for("the connections", || second.show("connections").as_array().unwrap().len() == 12);
    assert_eq!(["unauthenticated", "unknown_key", "wrong_code"].map(rejected).to_vec(), before);
    let peer = &second.show("sync")["backup"]["peers"][0];
    assert_eq!(peer["lost"], 0, "{peer}");
    assert!(peer["lag_ms"].as_u64().unwrap() < 60_000, "{peer}");

    let authentication = keys("director", &['c']);
    fs::set_permissions(lab.file("director.keys"), fs::Permissions::from_mode(0o604)).unwrap();
    fs::write(lab.file("nfvs.json"), config(&lab, own(authentication)).to_string()).unwrap();
    let tried = lab.nfvs(&["reload"]);
    assert_eq!(tried.status.code(), Some(1));
    assert!(text(&tried.stderr).contains("director.keys are no secret"), "{}", text(&tried.stderr));
}

/// A director's file of keys, and what the configuration says of it.
fn keys(lab: &Lab, node: &str, digit: char) -> Value {
    let path = lab.file(&format!("{node}.keys"));
    fs::write(&path, digit.to_string().repeat(64)).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
    json!({ "keys": path })
}

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
                sync["authentication"] = keys(&lab, node, 'a');
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
    let own = json!({ "master": side(SECOND), "resync": {}, "authentication": keys(&lab, "director", 'a') });
    reload(&lab, own);
    let others = |digit| json!({ "backup": side("director"), "resync": {}, "authentication": keys(&lab, SECOND, digit) });
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
    let own = json!({ "master": side(SECOND), "resync": {}, "authentication": keys(&lab, "director", 'a') });
    reload(&lab, own);
    let others =
        json!({ "backup": side("director"), "resync": {}, "authentication": keys(&lab, SECOND, 'a') });
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

/// How many downloads, and flows of datagrams, go through the directors.
const DOWNLOADS: usize = 500;
const FLOWS: usize = 50;
/// A download's length, and how much of it a client takes at once, and how often.
const LENGTH: usize = 1_200_000;
const PIECE: usize = 8_192;
const EVERY: Duration = Duration::from_millis(100);

/// What clients report while they run.
#[derive(Default)]
struct Clients {
    started: AtomicUsize,
    finished: AtomicUsize,
    stop: AtomicBool,
    longest_stall_millis: AtomicUsize,
}

impl Clients {
    fn note_stall(&self, stall: Duration) {
        self.longest_stall_millis.fetch_max(stall.as_millis() as usize, Ordering::Relaxed);
    }
}

/// Downloads the file slowly; what arrives is what was sent.
async fn download(vip: SocketAddr, file: Arc<Vec<u8>>, clients: Arc<Clients>) {
    let socket =
        if vip.is_ipv4() { tokio::net::TcpSocket::new_v4() } else { tokio::net::TcpSocket::new_v6() };
    let socket = socket.expect("a socket");
    // Or the kernel would take the whole file at once.
    socket.set_recv_buffer_size(16 * 1024).expect("a buffer");
    let mut stream = socket.connect(vip).await.expect("a connection");
    stream.write_all(b"GET /files/large HTTP/1.0\r\nHost: lab\r\n\r\n").await.expect("a request");
    let (mut received, mut piece) = (Vec::new(), vec![0; PIECE]);
    let mut last = tokio::time::Instant::now();
    loop {
        let length = stream.read(&mut piece).await.expect("no reset");
        clients.note_stall(last.elapsed());
        last = tokio::time::Instant::now();
        if received.is_empty() {
            clients.started.fetch_add(1, Ordering::Relaxed);
        }
        received.extend_from_slice(&piece[..length]);
        if length == 0 {
            break;
        }
        tokio::time::sleep(EVERY).await;
    }
    let body = received.windows(4).position(|bytes| bytes == b"\r\n\r\n").expect("the end of the header") + 4;
    assert!(received[body..] == file[..], "{} bytes instead of {}", received.len() - body, file.len());
    clients.finished.fetch_add(1, Ordering::Relaxed);
}

/// Exchanges datagrams until told to stop; some may be lost, and none is another's.
async fn chat(vip: SocketAddr, number: usize, clients: Arc<Clients>) {
    let any: SocketAddr = if vip.is_ipv4() { ([0; 4], 0).into() } else { ([0_u16; 8], 0).into() };
    let socket = tokio::net::UdpSocket::bind(any).await.expect("a socket");
    socket.connect(vip).await.expect("an address");
    let mut answer = [0; 64];
    let mut count = 0;
    while !clients.stop.load(Ordering::Relaxed) {
        count += 1;
        let question = format!("{number} {count}");
        // Refused is what a director without the virtual address says.
        let _ = socket.send(question.as_bytes()).await;
        if let Ok(Ok(length)) = tokio::time::timeout(EVERY * 5, socket.recv(&mut answer)).await {
            assert!(answer[..length].starts_with(format!("{number} ").as_bytes()), "another's answer");
        }
        tokio::time::sleep(EVERY).await;
    }
}

/// Runs all clients until they have what they want.
fn run_clients(lab: &Lab, file: &Arc<Vec<u8>>, clients: &Arc<Clients>) {
    lab.enter("c1", || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let (mut downloads, mut flows) = (JoinSet::new(), JoinSet::new());
            for number in 0..DOWNLOADS {
                let (file, clients) = (Arc::clone(file), Arc::clone(clients));
                downloads.spawn(download(endpoint(VIPS[number % 2], 80), file, clients));
            }
            for number in 0..FLOWS {
                flows.spawn(chat(endpoint(VIPS[number % 2], 7), number, Arc::clone(clients)));
            }
            downloads.join_all().await;
            clients.stop.store(true, Ordering::Relaxed);
            flows.join_all().await;
        });
    });
}

/// Has the servers know the file that is downloaded.
fn put_file(lab: &Lab) -> Arc<Vec<u8>> {
    let file: Vec<u8> = (0..LENGTH as u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
    fs::create_dir_all(lab.file("files")).unwrap();
    fs::write(lab.file("files/large"), &file).unwrap();
    Arc::new(file)
}

/// The addresses of whoever is in charge, by interface.
const IN_CHARGE: [(&str, [&str; 2]); 2] =
    [("front", ["10.0.1.1/24", "fd00:1::1/64"]), ("back", ["10.0.2.1/24", "fd00:2::1/64"])];

/// Gives a node the addresses of whoever is in charge, and has the others know of it, as VRRP would.
fn take_charge(lab: &Lab, node: &str) {
    // Without one, a router asks for no neighbour; a link that was down has lost it.
    let link_local = if node == SECOND { "fe80::d2/64" } else { "fe80::d1/64" };
    for (interface, addresses) in IN_CHARGE {
        lab.run(node, &["ip", "link", "set", interface, "up"]);
        lab.shell(node, &format!("ip address replace {link_local} dev {interface} nodad"));
        for address in addresses {
            lab.shell(node, &format!("ip address replace {address} dev {interface} nodad"));
        }
    }
    for node in ["c1", "s1", "s2", "s3"] {
        lab.shell(node, "ip neigh flush all");
    }
}

/// Ends a node's part: its links are down.
fn cut_off(lab: &Lab, node: &str) {
    for (interface, _) in IN_CHARGE {
        lab.run(node, &["ip", "link", "set", interface, "down"]);
    }
    give_up_charge(lab, node);
}

/// Takes the addresses of whoever is in charge from a node.
fn give_up_charge(lab: &Lab, node: &str) {
    for (interface, addresses) in IN_CHARGE {
        for address in addresses {
            lab.shell(node, &format!("ip address delete {address} dev {interface} || true"));
        }
    }
}

/// Whether a director has all connections of the clients, as such that go on.
fn known(shown: &Value) -> bool {
    let shown = shown.as_array().expect("a list");
    let of = |protocol: &str, state: &str| {
        shown.iter().filter(|it| it["protocol"] == protocol && it["state"] == state).count()
    };
    of("tcp", "ESTABLISHED") >= DOWNLOADS && of("udp", "UDP") >= FLOWS
}

#[test]
fn downloads_and_flows_outlive_their_director_and_the_next_one() {
    let lab = Lab::up("sync-takeover", "pair", &[]);
    let file = put_file(&lab);
    let both = |interface: &str| {
        let side = json!({ "interface": interface, "syncid": 1 });
        json!({ "master": side, "backup": side })
    };
    reload(&lab, both(SECOND));
    let second_config = config(&lab, both("director"));
    let mut second = Some(lab.start_in(SECOND, &second_config));

    let clients = Arc::new(Clients::default());
    thread::scope(|scope| {
        let running = scope.spawn(|| run_clients(&lab, &file, &clients));
        wait_for("all downloads to begin", || {
            clients.started.load(Ordering::Relaxed) == DOWNLOADS || running.is_finished()
        });
        let backup = second.as_ref().expect("it runs");
        wait_for("the second director to know all", || known(&backup.show("connections")));

        // The first director dies.
        cut_off(&lab, "director");
        assert!(lab.script(&["daemon", "kill"]).status.success());
        take_charge(&lab, SECOND);
        let finished = clients.finished.load(Ordering::Relaxed);
        println!("first takeover: {finished} downloads had ended");

        // It comes back, learns all, and the second dies.
        lab.shell("director", "ip route replace default via 10.0.1.2 dev front || true");
        let first = lab.start_in("director", &config(&lab, both(SECOND)));
        wait_for("the first director to know all", || {
            known(&first.show("connections")) || running.is_finished()
        });
        cut_off(&lab, SECOND);
        second.take().expect("it runs").kill();
        take_charge(&lab, "director");
        let finished = clients.finished.load(Ordering::Relaxed);
        assert!(finished < DOWNLOADS, "the downloads were too short to see the second takeover");
        println!("second takeover: {finished} downloads had ended");
        running.join().expect("no client fails");
        first.kill();
    });
    assert_eq!(clients.finished.load(Ordering::Relaxed), DOWNLOADS);
    println!("longest stall: {} ms", clients.longest_stall_millis.load(Ordering::Relaxed));
}

/// How many packets the rules of the director have dropped since nobody decides, by family.
fn unsaid(lab: &Lab) -> [u64; 2] {
    ["ip", "ip6"].map(|family| {
        let listing = lab.run("director", &["nft", "list", "chain", family, "nfvs", "silence"]);
        let counted = listing.split("counter packets ").nth(1).and_then(|rest| rest.split(' ').next());
        counted.and_then(|count| count.parse().ok()).expect("a counter")
    })
}

#[test]
fn a_daemon_that_dies_alone_resets_no_download_before_another_director_is_in_charge() {
    let lab = Lab::up("sync-alone", "pair", &[]);
    let file = put_file(&lab);
    reload(&lab, json!({ "master": { "interface": SECOND, "syncid": 1 } }));
    let others = json!({ "backup": { "interface": "director", "syncid": 1 } });
    let second = lab.start_in(SECOND, &config(&lab, others));

    let clients = Arc::new(Clients::default());
    thread::scope(|scope| {
        let running = scope.spawn(|| run_clients(&lab, &file, &clients));
        wait_for("all downloads to begin", || {
            clients.started.load(Ordering::Relaxed) == DOWNLOADS || running.is_finished()
        });
        wait_for("the second director to know all", || known(&second.show("connections")));
        assert_eq!(unsaid(&lab), [0, 0], "the daemon decides about all");

        // Its links are up, and its addresses where they were, for as long as VRRP takes to notice.
        assert!(lab.script(&["daemon", "kill"]).status.success());
        pause(Duration::from_secs(2));
        assert!(unsaid(&lab).iter().all(|&packets| packets > 0));
        let finished = clients.finished.load(Ordering::Relaxed);
        assert!(finished < DOWNLOADS, "the downloads were too short to see the takeover");
        give_up_charge(&lab, "director");
        take_charge(&lab, SECOND);
        running.join().expect("no client fails");
    });
    assert_eq!(clients.finished.load(Ordering::Relaxed), DOWNLOADS);
    println!("longest stall: {} ms", clients.longest_stall_millis.load(Ordering::Relaxed));

    // The next daemon is as silent when it dies; one that is no master says what it does.
    let is_silent = || {
        let set = lab.run("director", &["nft", "list", "set", "ip", "nfvs", "silent"]);
        set.contains("elements")
    };
    assert!(is_silent());
    assert!(lab.script(&["daemon", "start"]).status.success());
    assert!(is_silent(), "started with it");
    for (change, expected) in [
        (["sync", "stop", "master"].as_slice(), false),
        (&["sync", "start", "master"], true),
        (&["sync", "backup"], false),
        (&["sync", "master"], true),
    ] {
        let changed = lab.nfvs(change);
        assert!(changed.status.success(), "{}", text(&changed.stderr));
        assert_eq!(is_silent(), expected, "{change:?}");
    }
    reload(&lab, json!({}));
    assert!(!is_silent(), "reloaded without it");
    reload(&lab, json!({ "master": { "interface": SECOND, "syncid": 1 } }));
    assert!(is_silent(), "reloaded with it");
}
