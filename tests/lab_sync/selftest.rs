//! The question whether messages arrive: who answers, and what is said when nobody does.

use super::common::lab::{Lab, OtherDaemon, text, wait_for};
use super::{SECOND, config, key_file, reload};
use serde_json::{Value, json};

/// Has the director ask its backups: whether it is content, what it prints, and what it complains of.
fn ask(lab: &Lab, arguments: &[&str]) -> (bool, String, String) {
    let output = lab.nfvs(&[&["sync", "test"], arguments].concat());
    assert!(matches!(output.status.code(), Some(0 | 1)), "{}", text(&output.stderr));
    (output.status.success(), text(&output.stdout), text(&output.stderr))
}

/// The same as JSON.
fn asked(lab: &Lab, arguments: &[&str]) -> (bool, Value) {
    let (is_content, said, _) = ask(lab, &[&["--json"], arguments].concat());
    (is_content, serde_json::from_str(&said).expect("JSON"))
}

/// What a director's peer has asked it, and how often it has answered.
fn questions(backup: &OtherDaemon) -> [u64; 2] {
    let tests = backup.show("sync")["backup"]["peers"][0]["tests"].clone();
    ["questions", "answers"].map(|what| tests[what].as_u64().unwrap_or_default())
}

#[test]
fn a_backup_answers_by_every_port_with_a_key_and_without() {
    for (group, ports, is_sealed) in
        [("224.0.0.81", 1, false), ("224.0.0.81", 4, true), ("ff02::81", 4, false), ("ff02::81", 2, true)]
    {
        let lab = Lab::up("sync-test", "pair", &[]);
        // Both are both, and nobody answers himself.
        let both = |node: &str, other: &str, syncid: u8| {
            let side =
                |syncid: u8| json!({ "interface": other, "syncid": syncid, "group": group, "port": 9000 });
            let mut sync = json!({ "master": side(7), "backup": side(syncid) });
            if is_sealed {
                sync["authentication"] = key_file(&lab, node, &['a']);
            }
            let mut config = config(&lab, sync);
            config["tunables"] = json!({ "sync_ports": ports });
            config
        };
        // As a backup, the second takes the messages of every group.
        let second = lab.start_in(SECOND, &both(SECOND, "director", 0));
        std::fs::write(lab.file("nfvs.json"), both("director", SECOND, 7).to_string()).unwrap();
        assert!(lab.nfvs(&["reload"]).status.success());

        let (is_content, came) = asked(&lab, &["--wait", "20", "--expect", "1"]);
        assert!(is_content, "{came}");
        let [backup] = &came["backups"].as_array().unwrap()[..] else { panic!("{came}") };
        let answered = backup["answered"].as_array().unwrap();
        let expected: Vec<Value> = (9000..9000 + ports).map(Value::from).collect();
        assert_eq!(answered.iter().map(|it| it["port"].clone()).collect::<Vec<_>>(), expected, "{came}");
        assert_eq!((&backup["silent"], &backup["syncid"]), (&json!([]), &json!(0)), "{came}");
        assert_eq!(
            (&came["authenticated"], &backup["authenticated"]),
            (&json!(is_sealed), &json!(is_sealed))
        );
        assert_eq!(backup["lost"], if is_sealed { json!(0) } else { Value::Null }, "{came}");
        assert_eq!((&came["failed"], &came["refused"]), (&json!([]), &json!({})), "{came}");
        if group == "224.0.0.81" {
            assert_eq!(backup["address"], "10.0.9.2");
        }
        let (is_content, said, _) = ask(&lab, &["--wait", "20", "--expect", "1"]);
        assert!(is_content && said.contains(": answered ") && said.lines().count() == 2, "{said}");

        let sent = lab.show("sync")["master"]["tests"].clone();
        assert_eq!(sent, json!({ "questions": 2 * ports, "answers": 2 * ports }));
        assert_eq!(questions(&second), [2 * ports, 2 * ports]);
        let said = text(&second.nfvs(&["show", "sync"]).stdout);
        assert!(said.contains(&format!("questions {} (answered {})", 2 * ports, 2 * ports)), "{said}");
        let said = text(&lab.nfvs(&["show", "sync"]).stdout);
        assert!(said.contains(&format!("tests: questions {}, answers {}", 2 * ports, 2 * ports)), "{said}");
        // What carries no record has none counted, and refuses none.
        let shown = second.show("sync")["backup"].clone();
        assert_eq!(shown["records"], 0);
        assert!(shown["rejected"].as_object().unwrap().values().all(|count| *count == 0), "{shown}");
    }
}

#[test]
fn whoever_hears_no_answer_is_told_where_to_look() {
    let lab = Lab::up("sync-test-fails", "pair", &[]);
    let refused = |arguments: &[&str], why: &str| {
        let (is_content, said, complaint) = ask(&lab, arguments);
        assert!(!is_content && complaint.contains(why), "{arguments:?}: {said}{complaint}");
        said
    };
    refused(&[], "the master does not run");
    let side = |interface: &str, syncid: u8| json!({ "interface": interface, "syncid": syncid });
    reload(&lab, json!({ "master": side(SECOND, 7) }));
    refused(&["--wait", "1"], "nobody has answered within 1 s\nto look at: ");

    // Another group, and another key.
    let second = lab.start_in(SECOND, &config(&lab, json!({ "backup": side("director", 8) })));
    refused(&["--wait", "1"], "nobody has answered");
    wait_for("a message of another group", || {
        second.show("sync")["backup"]["rejected"]["syncid"].as_u64() > Some(0)
    });
    assert_eq!(questions(&second), [0, 0]);
    second.reload(&config(
        &lab,
        json!({ "backup": side("director", 7), "authentication": key_file(&lab, SECOND, &['a']) }),
    ));
    refused(&["--wait", "1"], "nobody has answered");
    wait_for("a message without a key", || {
        second.show("sync")["backup"]["rejected"]["unauthenticated"].as_u64() > Some(0)
    });

    // Who requires a key does not believe an answer without.
    second.reload(&config(&lab, json!({ "backup": side("director", 7) })));
    let keyed = |more: Value| json!({ "master": side(SECOND, 7), "authentication": more });
    reload(&lab, keyed(key_file(&lab, "director", &['a'])));
    let said = refused(&["--wait", "3"], "nobody has answered");
    assert!(said.contains("answers refused: unauthenticated 1"), "{said}");
    let mut lax = key_file(&lab, "director", &['a']);
    lax["required"] = false.into();
    reload(&lab, keyed(lax));
    let (is_content, said, complaint) = ask(&lab, &["--wait", "20", "--expect", "1"]);
    assert!(is_content && said.contains(", without a key, syncid 7"), "{said}{complaint}");
    refused(&["--wait", "3", "--expect", "2"], "of 2 backups, 1 answered by every port within 3 s");

    // Walls on the way there, on the way back, and before the door.
    reload(&lab, json!({ "master": side(SECOND, 7) }));
    let wall = |node: &str, hook: &str, rule: &str| {
        lab.shell(
            node,
            &format!(
                "nft 'add table ip wall; add chain ip wall it {{ type filter hook {hook} priority -300; }}
                add rule ip wall it {rule} drop'"
            ),
        );
    };
    let fall = |node: &str| drop(lab.shell(node, "nft delete table ip wall"));
    let before = questions(&second);
    wall(SECOND, "input", "udp dport 8848");
    refused(&["--wait", "1"], "nobody has answered");
    fall(SECOND);
    assert_eq!(questions(&second), before);
    wall("director", "input", "udp sport 8848");
    refused(
        &["--wait", "1"],
        "firewalls: UDP to port 8848 has to get in there, and UDP from port 8848 by second here",
    );
    fall("director");
    wait_for("its answer", || questions(&second) == before.map(|count| count + 1));
    wall("director", "output", "udp dport 8848");
    let said = refused(&["--wait", "1"], "nobody has answered");
    assert!(said.contains("port 8848: the question did not leave: "), "{said}");
    fall("director");

    // Not by every port: the other one has fewer.
    let mut own = config(&lab, json!({ "master": side(SECOND, 9) }));
    own["tunables"] = json!({ "sync_ports": 4 });
    second.reload(&config(&lab, json!({ "backup": side("director", 9) })));
    // As many ports as were set when the first side began.
    reload(&lab, json!({}));
    std::fs::write(lab.file("nfvs.json"), own.to_string()).unwrap();
    assert!(lab.nfvs(&["reload"]).status.success());
    let said = refused(&["--wait", "3"], "nobody has answered by every port within 3 s");
    assert!(
        said.contains(": answered by 1 of 4 ports in ") && said.contains(", not by 8849 8850 8851"),
        "{said}"
    );
}
