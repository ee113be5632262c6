//! Neighbours know where the virtual addresses are as soon as another director is in charge, without asking.

use super::common::lab::{Lab, OtherDaemon, text, wait_for};
use super::{SECOND, config, reload};
use serde_json::{Value, json};
use std::fs;
use std::process::Command;

/// Virtual addresses that an interface has, and others that none has: of these, neighbours hear by way of lo and of a
/// proxy.
const OWN: [&str; 2] = ["10.0.0.100", "fd00::100"];
const OTHERS: [&str; 2] = ["10.0.1.100", "fd00:1::100"];

/// Has the configuration of both directors have services of the other addresses, too.
fn add_others(lab: &Lab) {
    let mut config = config(lab, json!({}));
    let services = config["services"].as_array_mut().expect("a list");
    for (address, server) in OTHERS.iter().zip(["10.0.2.21", "fd00:2::21"]) {
        let server = json!({ "address": server, "port": 8080 });
        services.push(json!({ "protocol": "tcp", "address": address, "port": 80, "servers": [server] }));
    }
    fs::write(lab.file("nfvs.json"), config.to_string()).expect("the configuration");
    reload(lab, json!({}));
}

/// Has a node answer for the virtual addresses.
fn take(lab: &Lab, node: &str) {
    lab.shell(node, "echo 1 > /proc/sys/net/ipv6/conf/front/proxy_ndp");
    for command in [
        "address add 10.0.0.100/32 dev front",
        "address add fd00::100/128 dev front nodad",
        "address add 10.0.1.100/32 dev lo",
        "neighbour add proxy fd00:1::100 dev front",
    ] {
        lab.shell(node, &format!("ip {command}"));
    }
}

/// Has a node answer for them no more.
fn give(lab: &Lab, node: &str) {
    for command in [
        "address delete 10.0.0.100/32 dev front",
        "address delete fd00::100/128 dev front",
        "address delete 10.0.1.100/32 dev lo",
        "neighbour delete proxy fd00:1::100 dev front",
    ] {
        lab.shell(node, &format!("ip {command}"));
    }
}

/// The Ethernet address of a director towards clients.
fn ethernet(lab: &Lab, node: &str) -> String {
    lab.run(node, &["cat", "/sys/class/net/front/address"]).trim().to_owned()
}

/// Whose Ethernet address the client has in its cache, for each virtual address.
fn known(lab: &Lab) -> Vec<String> {
    let shown = |vip: &&str| {
        let shown = lab.run("c1", &["ip", "neighbour", "show", vip, "dev", "front"]);
        shown.split_whitespace().skip_while(|word| *word != "lladdr").nth(1).unwrap_or_default().to_owned()
    };
    OWN.iter().chain(&OTHERS).map(shown).collect()
}

/// Waits until the client has this one for all of them.
#[track_caller]
fn assert_known(lab: &Lab, ethernet: &str, what: &str) {
    wait_for(what, || known(lab).iter().all(|known| known == ethernet));
}

/// Waits until as much has been announced, of both families, as there is to announce since this was begun `times` times.
#[track_caller]
fn assert_announced(shown: impl Fn() -> Value, times: u64) {
    // Two addresses of each family, in three rounds.
    let all = 6 * times;
    let expected = json!({ "times": times, "arp": all, "neighbour": all, "failed": 0, "nowhere": 0 });
    wait_for(&format!("{expected}"), || shown()["announce"] == expected);
}

#[track_caller]
fn set_role(director: &OtherDaemon, role: &str) {
    let set = director.nfvs(&["sync", role]);
    assert!(set.status.success(), "{}", text(&set.stderr));
}

#[test]
fn neighbours_are_told_where_the_virtual_addresses_are() {
    let lab = Lab::up("sync-announce", "pair", &[]);
    add_others(&lab);
    let [first, second] = ["director", SECOND].map(|node| ethernet(&lab, node));
    // The client asks for the addresses themselves, not for a router.
    for vip in OWN {
        let family = if vip.contains(':') { "-6" } else { "-4" };
        lab.run("c1", &["ip", family, "route", "replace", vip, "dev", "front"]);
    }
    take(&lab, "director");
    for vip in OWN.iter().chain(&OTHERS) {
        wait_for(vip, || {
            lab.try_run("c1", &["ping", "-c", "1", "-W", "1", vip]);
            known(&lab).contains(&first) && lab.run("c1", &["ip", "neighbour", "show", vip]).contains(&first)
        });
    }

    // What the client asks from now on.
    let asked = lab.capture("c1", "arp or (icmp6 and ip6[40] == 135)");
    let side = |interface: &str| json!({ "interface": interface, "syncid": 7 });
    let other = |announce: bool| config(&lab, json!({ "backup": side("director"), "announce": announce }));
    let backup = lab.start_in(SECOND, &other(false));
    give(&lab, "director");
    take(&lab, SECOND);
    set_role(&backup, "master");
    // Whatever it had to say before its answer has arrived.
    lab.run("c1", &["ping", "-c", "1", "-W", "5", "10.0.1.12"]);
    assert!(known(&lab).iter().all(|known| *known == first), "nobody told it: {:?}", known(&lab));
    assert_eq!(backup.show("sync")["announce"], Value::Null);

    // By a reload, of a director that is master.
    backup.reload(&other(true));
    assert_known(&lab, &second, "the second director, reloaded");
    assert_announced(|| backup.show("sync"), 1);
    // Said once more.
    set_role(&backup, "master");
    assert_announced(|| backup.show("sync"), 2);
    let said = text(&backup.nfvs(&["show", "sync"]).stdout);
    let line = "virtual addresses announced: 2 times, ARP 12, neighbour advertisements 12, failed 0; without an interface 0";
    assert!(said.contains(line), "{said}");

    // By a role, before the addresses are there: a later round finds them.
    reload(&lab, json!({ "backup": side(SECOND), "announce": true }));
    set_role(&backup, "backup");
    give(&lab, SECOND);
    assert!(lab.nfvs(&["sync", "master"]).status.success());
    take(&lab, "director");
    assert_known(&lab, &first, "the first director, by its role");

    // By a start as master. Duplicate address detection takes its time: a later round finds the address settled.
    backup.kill();
    give(&lab, "director");
    take(&lab, SECOND);
    lab.shell(SECOND, "ip address delete fd00::100/128 dev front; ip address add fd00::100/128 dev front");
    let master = lab.start_in(SECOND, &config(&lab, json!({ "master": side("director"), "announce": true })));
    assert_known(&lab, &second, "the second director, started as master");

    let asked = asked.text();
    let by_client = |line: &&str| line.contains(" Out ");
    for vip in OWN.iter().chain(&OTHERS) {
        let question =
            |line: &str| ["who-has", "who has"].iter().any(|asks| line.contains(&format!("{asks} {vip}")));
        assert!(!asked.lines().filter(by_client).any(question), "the client has asked for {vip}:\n{asked}");
    }
    assert!(asked.lines().any(|line| by_client(&line)), "what it asks is seen:\n{asked}");
    master.kill();
}

#[test]
fn what_cannot_be_announced_is_counted_and_keeps_nobody_from_being_master() {
    let lab = Lab::up("sync-announce-not", "pair", &[]);
    let master =
        |interface: &str| json!({ "master": { "interface": interface, "syncid": 7 }, "announce": true });
    // Routes lead to the virtual addresses.
    reload(&lab, master(SECOND));
    let announced = |failed: u64, nowhere: u64| json!({ "times": 1, "arp": 0, "neighbour": 0, "failed": failed, "nowhere": nowhere });
    wait_for("a round", || lab.show("sync")["announce"] == announced(0, 2));

    // A daemon that may not, for want of CAP_NET_RAW.
    let [file, socket, log] =
        ["json", "sock", "log"].map(|end| lab.file(&format!("incapable.{end}")).display().to_string());
    fs::write(&file, config(&lab, master("director")).to_string()).expect("a file of the lab");
    let nfvs = env!("CARGO_BIN_EXE_nfvs");
    let daemon =
        format!("exec setpriv --bounding-set=-net_raw {nfvs} run --config {file} --socket {socket} 2> {log}");
    let daemon = lab.spawn(SECOND, &["bash", "-c", &daemon]);
    let sync = || {
        let shown =
            Command::new(nfvs).args(["show", "sync", "--json", "--socket", &socket]).output().expect("nfvs");
        serde_json::from_slice::<Value>(&shown.stdout).unwrap_or_default()
    };
    wait_for("three rounds that failed", || sync()["announce"] == announced(3, 0));
    assert!(!sync()["master"].is_null(), "{}", sync());
    let said = fs::read_to_string(&log).expect("its log");
    assert_eq!(said.matches("nothing can be announced").count(), 1, "{said}");
    drop(daemon);
}
