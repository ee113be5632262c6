//! The configuration file is read again, and the daemon goes on with it, or as it was.

use super::common::lab::{Lab, wait_for};
use super::{
    Daemon, NFVS, URL, assert_nothing_left, assert_serves, configure, each, refusal, rules, run, success,
};
use nft_rules::QueueClass;
use rustix::process::Signal;
use serde_json::{Value, json};
use std::fs;
use std::os::unix::fs::OpenOptionsExt;
use std::process::Command;

/// Runs `nfvs reload`, which has to succeed, and returns what it says.
#[track_caller]
fn reload(lab: &Lab) -> String {
    success(&lab.nfvs(&["reload"]))
}

/// The service `web`, as the configuration file has it.
fn web(config: &mut Value) -> &mut Value {
    config["services"].as_array_mut().unwrap().iter_mut().find(|service| service["name"] == "web").unwrap()
}

fn set_weights(lab: &Lab, weights: [u32; 3]) {
    configure(lab, |config| {
        let web = web(config);
        web["scheduler"] = json!("wrr");
        for (server, weight) in web["servers"].as_array_mut().unwrap().iter_mut().zip(weights) {
            server["weight"] = json!(weight);
        }
    });
}

#[test]
fn weights_change_under_load_and_no_request_fails() {
    let lab = Lab::up("reload-load", "nat4", &["--no-daemon"]);
    let _daemon = Daemon::start(&lab, &[]);
    let connections = |lab: &Lab| lab.show("stats")["services"][0]["stats"]["connections"].as_u64().unwrap();
    let short = lab.load(&["-c32", "-H", "Connection: close", URL]);
    let lasting = lab.load(&["-c32", URL]);
    for weights in [[1, 2, 3], [3, 0, 1], [0, 0, 7], [5, 1, 0], [1, 3, 0]] {
        let before = connections(&lab);
        wait_for("load", || connections(&lab) > before + 200);
        set_weights(&lab, weights);
        assert_eq!(reload(&lab), "reloaded: 0 services added, 0 removed, 1 changed\n");
        assert!(connections(&lab) > before, "counters go on");
    }
    for load in [short, lasting] {
        load.end_load();
    }
    assert_eq!(lab.answers("c1", URL, 40, &[]), each(&[("s1", 10), ("s2", 30)]));
    assert_eq!(reload(&lab), "reloaded: nothing to change\n");
}

#[test]
fn the_file_counts_and_not_what_requests_have_changed() {
    let lab = Lab::up("reload-file", "nat4", &["--no-daemon"]);
    // However the file was named, and whatever folder the client is in.
    let [folder, socket] = ["", "nfvs.sock"].map(|name| lab.file(name).to_str().unwrap().to_owned());
    let words = ["env", "-C", &folder, NFVS, "run", "--config", "nfvs.json", "--socket", &socket];
    let log = fs::File::create(lab.file("log/daemon")).unwrap();
    let _daemon = Daemon::start_words(&lab, &words, log.into());
    let before = lab.show("services");
    let service = json!({ "protocol": "tcp", "address": "10.0.0.100", "port": 80 });
    let s3 = json!({ "address": "10.0.4.13", "port": 8080 });
    let (mut scheduler, mut other) = (service.clone(), service.clone());
    scheduler["scheduler"] = json!("wlc");
    other["port"] = json!(81);
    for request in [
        json!({ "command": "add-service", "service": other }),
        json!({ "command": "edit-service", "service": scheduler }),
        json!({ "command": "delete-server", "service": service, "server": s3 }),
        json!({ "command": "set-timeouts", "timeouts": { "udp": 7 } }),
    ] {
        lab.request(&request);
    }
    assert_eq!(reload(&lab), "reloaded: 0 services added, 1 removed, 1 changed; timeouts changed\n");
    assert_eq!(lab.show("services"), before);
    assert_serves(&lab);
    assert_eq!(reload(&lab), "reloaded: nothing to change\n");

    // Everything at once.
    configure(&lab, |config| {
        let services = config["services"].as_array_mut().unwrap();
        services.retain(|service| service["protocol"] == "tcp");
        services[0]["name"] = json!("renamed");
        services[0]["servers"].as_array_mut().unwrap().remove(0);
        services.push(json!({ "name": "web", "protocol": "tcp", "address": "10.0.0.101", "port": 80,
                              "servers": [{ "address": "10.0.2.11", "port": 8080 }] }));
        config["answer_ping"] = json!(false);
    });
    let ping = |address: &str| lab.try_run("c1", &["ping", "-c1", "-W1", address]).status.success();
    assert!(ping("10.0.0.100"));
    assert_eq!(reload(&lab), "reloaded: 1 service added, 2 removed, 1 changed; answer_ping changed\n");
    assert!(!ping("10.0.0.100"));
    assert_eq!(lab.answers("c1", URL, 20, &[]), each(&[("s2", 10), ("s3", 10)]));
    assert_eq!(lab.answers("c1", "http://10.0.0.101/", 2, &[]), each(&[("s1", 2)]));
    let names: Vec<Value> =
        lab.show("services").as_array().unwrap().iter().map(|service| service["name"].clone()).collect();
    assert_eq!(names, ["renamed", "web"]);
}

#[test]
fn a_wrong_file_is_refused_with_every_place_and_nothing_changes() {
    let lab = Lab::up("reload-wrong", "nat4", &["--no-daemon"]);
    let daemon = Daemon::start(&lab, &[]);
    let file = lab.file("nfvs.json");
    let right = fs::read_to_string(&file).unwrap();
    let before = (rules(&lab), lab.show("services"));
    for wrong in [
        "{ \"services\": [],\n  \"queue\": {},\n  \"answer_ping\": 1 }",
        "{ \"services\": [ ],",
        "{ \"services\": [ { \"protocol\": \"tcp\" } ] }",
    ] {
        fs::write(&file, wrong).unwrap();
        let check = Command::new(NFVS).arg("check").arg(&file).output().unwrap();
        let said = refusal(&lab.nfvs(&["reload"]));
        assert!(said.starts_with(&format!("{}:", file.display())), "{said}");
        assert_eq!(said, refusal(&check));
        assert_eq!((rules(&lab), lab.show("services")), before);
    }
    fs::remove_file(&file).unwrap();
    let missing = format!("nfvs: cannot read {}: No such file or directory (os error 2)\n", file.display());
    assert_eq!(refusal(&lab.nfvs(&["reload"])), missing);

    // What was settled at the start.
    let mut settled: Value = serde_json::from_str(&right).unwrap();
    settled["queues"] = json!({ "count": 1, "length": 2048 });
    settled["connections"] = json!({ "max": 5 });
    settled["services"] = json!([]);
    fs::write(&file, settled.to_string()).unwrap();
    let count = lab.show("queues").as_array().unwrap().len() / QueueClass::ALL.len();
    let line = |key: &str, running: usize, wanted: usize| {
        let file = file.display();
        format!("{file}: {key}: it is {running} while the daemon runs, and {wanted} takes a restart\n")
    };
    let lines = [
        line("connections.max", 1 << 20, 5),
        line("queues.count", count, 1),
        line("queues.length", 65_536, 2048),
    ];
    assert_eq!(refusal(&lab.nfvs(&["reload"])), lines.concat());

    assert_eq!((rules(&lab), lab.show("services")), before);
    assert_serves(&lab);
    fs::write(&file, right).unwrap();
    assert_eq!(reload(&lab), "reloaded: nothing to change\n");
    assert_eq!(daemon.end(Signal::TERM).code(), Some(0));
    assert_nothing_left(&lab);
}

#[test]
fn what_the_kernel_does_not_take_is_refused_whole() {
    let lab = Lab::up("reload-kernel", "nat4", &["--no-daemon"]);
    let _daemon = Daemon::start(&lab, &[]);
    let before = lab.show("services");
    let add = |address: &str, server: &str| {
        let service = json!({ "protocol": "tcp", "address": address, "port": 80,
                              "servers": [{ "address": server, "port": 8080 }] });
        configure(&lab, |config| config["services"].as_array_mut().unwrap().push(service));
    };
    // A good change beside each that is not possible.
    configure(&lab, |config| web(config)["scheduler"] = json!("wlc"));
    add("fd00::100", "fd00:2::11");
    lab.run("director", &["sysctl", "-qw", "net.ipv6.conf.all.forwarding=0"]);
    let said = refusal(&lab.nfvs(&["reload"]));
    assert!(said.starts_with("nfvs: the sysctl net.ipv6.conf.all.forwarding is 0 "), "{said}");
    assert_eq!(lab.show("services"), before);

    configure(&lab, |config| drop(config["services"].as_array_mut().unwrap().pop()));
    add("10.0.0.101", "10.0.2.11");
    lab.run("director", &["nft", "add", "element", "ip", "nfvs", "services", "{ 10.0.0.101 . tcp . 80 }"]);
    let meddled = rules(&lab);
    let said = refusal(&lab.nfvs(&["reload"]));
    assert!(said.starts_with("nfvs: the steering rules could not be changed: "), "{said}");
    assert_eq!((rules(&lab), lab.show("services")), (meddled, before));
    assert_serves(&lab);

    lab.run("director", &["nft", "delete", "element", "ip", "nfvs", "services", "{ 10.0.0.101 . tcp . 80 }"]);
    assert_eq!(reload(&lab), "reloaded: 1 service added, 0 removed, 1 changed\n");
}

#[test]
fn a_hangup_reloads_and_says_so_in_the_log() {
    let lab = Lab::up("reload-signal", "nat4", &["--no-daemon"]);
    let daemon = Daemon::start(&lab, &[]);
    let file = lab.file("nfvs.json");
    let right = fs::read_to_string(&file).unwrap();
    let log_has = |line: &str, times: usize| {
        wait_for(line, || lab.log().matches(line).count() == times);
    };
    set_weights(&lab, [1, 0, 0]);
    daemon.signal(Signal::HUP);
    log_has("INFO reloaded file=", 1);
    assert_eq!(lab.answers("c1", URL, 5, &[]), each(&[("s1", 5)]));

    fs::write(&file, "{ \"services\": 7,\n  \"queue\": {} }").unwrap();
    let check = Command::new(NFVS).arg("check").arg(&file).output().unwrap();
    daemon.signal(Signal::HUP);
    let complaints = refusal(&check);
    assert_eq!(complaints.lines().count(), 2, "{complaints}");
    for complaint in complaints.lines() {
        log_has(&format!("ERROR {complaint}\n"), 1);
    }
    log_has("ERROR the reload was refused; what runs goes on unchanged file=", 1);
    assert_eq!(lab.answers("c1", URL, 5, &[]), each(&[("s1", 5)]));

    fs::write(&file, right).unwrap();
    daemon.signal(Signal::HUP);
    log_has("INFO reloaded file=", 2);
    assert_serves(&lab);
    assert_eq!(daemon.end(Signal::TERM).code(), Some(0));
    assert_nothing_left(&lab);
}

#[test]
fn many_reloads_at_once_come_one_after_the_other() {
    let lab = Lab::up("reload-many", "nat4", &["--no-daemon"]);
    let daemon = Daemon::start(&lab, &[]);
    std::thread::scope(|scope| {
        let reloads: Vec<_> = (0..20).map(|_| scope.spawn(|| reload(&lab))).collect();
        for (weight, reload) in (1..).zip(reloads) {
            set_weights(&lab, [weight, 1, 1]);
            daemon.signal(Signal::HUP);
            reload.join().unwrap();
        }
    });
    set_weights(&lab, [1, 0, 0]);
    reload(&lab);
    assert_eq!(lab.answers("c1", URL, 5, &[]), each(&[("s1", 5)]));
}

/// As on a disk that does not answer: reading a pipe ends when somebody writes to it.
#[test]
fn a_file_that_never_comes_stops_nothing() {
    let lab = Lab::up("reload-hangs", "nat4", &["--no-daemon"]);
    let words = run(&lab);
    let daemon = Daemon::start(&lab, &[]);
    let file = lab.file("nfvs.json");
    fs::remove_file(&file).unwrap();
    assert!(Command::new("mkfifo").arg(&file).status().unwrap().success());
    let mut waiting = Command::new(&words[0])
        .args(["reload", "--socket", lab.file("nfvs.sock").to_str().unwrap()])
        .spawn()
        .unwrap();
    // It can be opened for writing once somebody reads, who then waits for a word.
    let mut options = fs::OpenOptions::new();
    options.write(true).custom_flags(libc::O_NONBLOCK);
    let mut writer = None;
    wait_for("the daemon to read", || {
        writer = options.open(&file).ok();
        writer.is_some()
    });
    assert_serves(&lab);
    lab.request(&json!({ "command": "set-timeouts", "timeouts": { "udp": 10 } }));
    assert_eq!(waiting.try_wait().unwrap(), None);
    assert_eq!(daemon.end(Signal::TERM).code(), Some(0), "{}", lab.log());
    assert_nothing_left(&lab);
    assert_eq!(waiting.wait().unwrap().code(), Some(1));
}
