//! The backup has what the master has, and roles change while directors run.

use super::common::lab::{Lab, text, wait_for};
use super::{SECOND, VIPS, assert_alike, config, endpoint, exchange, hold, reload};
use serde_json::{Value, json};
use std::fs;
use std::net::{TcpStream, UdpSocket};

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
