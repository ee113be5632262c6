//! How the daemon ends: asked, killed, or with somebody else's hands in its tables; and what it says all the while.

use super::common::lab::{Lab, text, wait_for};
use super::{Daemon, URL, assert_nothing_left, assert_refused, assert_serves, each, run};
use rustix::process::Signal;
use serde_json::json;
use std::process::Stdio;

const SIGNALS: [Signal; 2] = [Signal::TERM, Signal::INT];

/// Waits until wrk's connections are there.
fn wait_for_load(lab: &Lab) {
    let served = |lab: &Lab| lab.show("stats")["services"][0]["stats"]["connections"].as_u64().unwrap();
    wait_for("load", || served(lab) > 500);
}

#[test]
fn asked_to_end_it_leaves_nothing() {
    let lab = Lab::up("asked", "nat", &["--no-daemon"]);
    for signal in SIGNALS {
        let daemon = Daemon::start(&lab, &[]);
        assert_serves(&lab);
        assert_eq!(daemon.end(signal).code(), Some(0), "{signal:?}: {}", lab.log());
        assert_nothing_left(&lab);
    }
}

#[test]
fn asked_under_load_it_ends_and_leaves_nothing() {
    let lab = Lab::up("asked-load", "nat4", &["--no-daemon"]);
    for signal in SIGNALS {
        let daemon = Daemon::start(&lab, &[]);
        let load = lab.spawn("c1", &["wrk", "-t1", "-c64", "-d60s", "-H", "Connection: close", URL]);
        wait_for_load(&lab);
        assert_eq!(daemon.end(signal).code(), Some(0), "{signal:?}: {}", lab.log());
        assert_nothing_left(&lab);
        drop(load);
    }
}

#[test]
fn killed_it_leaves_rules_that_refuse_and_the_next_one_replaces_them() {
    let lab = Lab::up("killed", "nat", &["--no-daemon"]);
    let first = Daemon::start(&lab, &[]);
    assert!(!lab.log().contains("replaced"), "{}", lab.log());
    let before = super::rules(&lab);
    assert_eq!(first.end(Signal::KILL).code(), None);
    assert_eq!(super::rules(&lab), before);
    assert!(lab.file("nfvs.sock").exists());
    for url in [URL, "http://[fd00::100]/"] {
        assert_refused(&lab, url);
    }
    let shown = lab.nfvs(&["show", "services"]);
    assert_eq!(shown.status.code(), Some(1));
    assert!(text(&shown.stderr).contains("no daemon runs there"), "{}", text(&shown.stderr));

    let second = Daemon::start(&lab, &[]);
    let line = "WARN replaced the rules of a daemon that had not ended in good order";
    assert_eq!(lab.log().matches(line).count(), 1, "{}", lab.log());
    assert_eq!(super::rules(&lab), before);
    assert_serves(&lab);
    assert_eq!(second.end(Signal::TERM).code(), Some(0));
    assert_nothing_left(&lab);
}

#[test]
fn tables_that_somebody_removed_come_back() {
    let lab = Lab::up("removed", "nat", &["--no-daemon"]);
    let daemon = Daemon::start(&lab, &[]);
    let before = super::rules(&lab);
    let services = lab.show("services");
    for (times, family) in (1..).zip(["ip", "ip6"]) {
        lab.run("director", &["nft", "delete", "table", family, "nfvs"]);
        let line = "WARN somebody had removed the steering rules; they are in place again";
        wait_for("the rules", || lab.log().matches(line).count() == times);
        assert_eq!(super::rules(&lab), before);
    }
    assert_serves(&lab);
    assert_ne!(lab.show("services"), services, "the counters went on");
    // And gone once more, perhaps until the end.
    lab.run("director", &["nft", "delete", "table", "ip", "nfvs"]);
    assert_eq!(daemon.end(Signal::TERM).code(), Some(0), "{}", lab.log());
    assert_nothing_left(&lab);
}

#[test]
fn a_change_that_meets_somebody_elses_is_refused_and_no_end() {
    let lab = Lab::up("changed", "nat4", &["--no-daemon"]);
    let daemon = Daemon::start(&lab, &[]);
    lab.run("director", &["nft", "delete", "element", "ip", "nfvs", "services", "{ 10.0.0.100 . udp . 53 }"]);
    lab.run("director", &["nft", "add", "element", "ip", "nfvs", "services", "{ 10.0.0.101 . tcp . 80 }"]);
    let (rules, services) = (super::rules(&lab), lab.show("services"));
    for (command, protocol, address, port) in
        [("delete-service", "udp", "10.0.0.100", 53), ("add-service", "tcp", "10.0.0.101", 80)]
    {
        let service = json!({ "protocol": protocol, "address": address, "port": port });
        let asked = lab.nfvs(&["request", &json!({ "command": command, "service": service }).to_string()]);
        assert_eq!(asked.status.code(), Some(1), "{command}");
        let said = text(&asked.stdout);
        assert!(said.starts_with("{\"error\":\"the steering rules could not be changed: "), "{said}");
        assert!(said.contains(" was refused: another program has changed the table: "), "{said}");
        assert_eq!(
            (super::rules(&lab), lab.show("services")),
            (rules.clone(), services.clone()),
            "{command}"
        );
    }
    assert_serves(&lab);
    assert_eq!(daemon.end(Signal::TERM).code(), Some(0), "{}", lab.log());
    assert_nothing_left(&lab);
}

/// The rules that cannot be quieted any more still steer: the workers' queues do not become empty.
#[test]
fn with_an_element_gone_it_ends_under_load_all_the_same() {
    let lab = Lab::up("meddled", "nat4", &["--no-daemon"]);
    let daemon = Daemon::start(&lab, &[]);
    let load = lab.spawn("c1", &["wrk", "-t1", "-c64", "-d60s", URL]);
    wait_for("load", || lab.show("connections").as_array().unwrap().len() >= 64);
    lab.run("director", &["nft", "delete", "element", "ip", "nfvs", "services", "{ 10.0.0.100 . udp . 53 }"]);
    assert_eq!(daemon.end(Signal::TERM).code(), Some(0), "{}", lab.log());
    assert_nothing_left(&lab);
    drop(load);
}

#[test]
fn with_nobody_to_read_its_log_it_goes_on_and_ends_in_good_order() {
    let lab = Lab::up("unread", "nat4", &["--no-daemon"]);
    let words = run(&lab);
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let mut daemon = Daemon::start_words(&lab, &words, Stdio::piped());
    drop(daemon.0.stderr.take().unwrap());
    lab.request(&json!({ "command": "set-timeouts", "timeouts": { "udp": 10 } }));
    assert_serves(&lab);
    assert_eq!(daemon.end(Signal::TERM).code(), Some(0));
    assert_nothing_left(&lab);
}

/// The level and the first words of each line, up to the first field.
fn events(log: &str) -> Vec<String> {
    log.lines()
        .map(|line| {
            let (time, event) = line.split_once(' ').expect("a time");
            assert!(time.starts_with("20") && time.ends_with('Z'), "{line}");
            let words: Vec<&str> = event.split_whitespace().take_while(|word| !word.contains('=')).collect();
            words.join(" ")
        })
        .collect()
}

#[test]
fn the_log_has_a_line_for_each_event_and_none_for_packets() {
    let lab = Lab::up("log", "nat4", &["--no-daemon"]);
    // An empty filter is none.
    let daemon = Daemon::start(&lab, &["env", "RUST_LOG="]);
    assert_eq!(lab.answers("c1", URL, 300, &[]), each(&[("s1", 100), ("s2", 100), ("s3", 100)]));
    assert_refused(&lab, "http://10.0.0.100:81/");
    // A name that cannot be, on two lines, stays on one.
    let service = json!({ "protocol": "udp", "address": "10.0.0.101", "port": 53 });
    let named =
        json!({ "protocol": "udp", "address": "10.0.0.101", "port": 53, "name": "two\nlines\u{1b}[31m" });
    lab.request(&json!({ "command": "add-service", "service": service }));
    assert!(
        !lab.nfvs(&["request", &json!({ "command": "add-service", "service": named }).to_string()])
            .status
            .success()
    );
    lab.request(&json!({ "command": "delete-service", "service": service }));
    assert!(!lab.nfvs(&["request", "nonsense"]).status.success());
    for what in ["services", "connections", "queues", "stats"] {
        lab.show(what);
    }
    assert_eq!(daemon.end(Signal::TERM).code(), Some(0));
    assert_eq!(
        events(&lab.log()),
        [
            "INFO steering",
            "INFO serving",
            "INFO changed",
            "WARN a change was refused",
            "INFO changed",
            "INFO ending",
            "INFO ended"
        ],
        "{}",
        lab.log()
    );
    assert!(!lab.log().contains('\u{1b}'), "{}", lab.log());
}
