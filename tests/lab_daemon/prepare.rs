//! `nfvs prepare`: what root does for a daemon without root, and says.

use super::common::lab::{Lab, wait_for};
use super::nobody::{GROUP, Nobody};
use super::queues::is_stopped;
use super::{Daemon, NFVS, assert_nothing_left, assert_serves, configure, refusal, success};
use rustix::process::Signal;
use serde_json::json;
use std::net::UdpSocket;
use std::process::{Command, Output};

/// Runs `nfvs prepare` for the lab's configuration, from outside of the director.
fn prepare(lab: &Lab, arguments: &[&str]) -> Output {
    Command::new(NFVS)
        .args(["prepare", "--config", lab.file("nfvs.json").to_str().unwrap()])
        .args(["--netns", &lab.namespace("director")])
        .args(arguments)
        .output()
        .unwrap()
}

/// What a run that has to succeed prints.
#[track_caller]
fn prepared(lab: &Lab, arguments: &[&str]) -> String {
    success(&prepare(lab, arguments))
}

const V4: &str = "net.ipv4.ip_forward";
const V6: &str = "net.ipv6.conf.all.forwarding";

fn set(lab: &Lab, sysctl: &str, value: u8) {
    lab.run("director", &["sysctl", "-qw", &format!("{sysctl}={value}")]);
}

fn get(lab: &Lab, sysctl: &str) -> String {
    lab.run("director", &["sysctl", "-n", sysctl]).trim().to_owned()
}

#[test]
fn forwarding_is_switched_on_where_servers_need_it_and_nowhere_else() {
    let lab = Lab::up("prepare", "nat", &["--no-daemon"]);
    let host = || std::fs::read_to_string("/proc/sys/net/ipv4/ip_forward").unwrap();
    let before = host();
    let v4 = format!("the sysctl {V4} is 1 now: server 10.0.2.11 needs it\n");
    let v6 = format!("the sysctl {V6} is 1 now: server fd00:2::11 needs it\n");
    for (what, values, expected) in [
        ("nothing is missing", [1, 1], String::new()),
        ("IPv4", [0, 1], v4.clone()),
        ("IPv6", [1, 0], v6.clone()),
        ("both", [0, 0], v4 + &v6),
    ] {
        set(&lab, V4, values[0]);
        set(&lab, V6, values[1]);
        assert_eq!(prepared(&lab, &["--no-sysctls"]), "", "{what}");
        assert_eq!([get(&lab, V4), get(&lab, V6)], values.map(|value| value.to_string()), "{what}");
        assert_eq!(prepared(&lab, &[]), expected, "{what}");
        assert_eq!([get(&lab, V4), get(&lab, V6)], ["1", "1"], "{what}");
        assert_eq!(prepared(&lab, &[]), "", "{what}");
    }
    drop(Daemon::start(&lab, &[]));

    // One interface that forwards is enough for IPv4.
    set(&lab, V4, 0);
    set(&lab, "net.ipv4.conf.s1.forwarding", 1);
    assert_eq!(prepared(&lab, &[]), "");
    assert_eq!(get(&lab, V4), "0");

    // Servers on the director need none.
    set(&lab, V4, 0);
    set(&lab, V6, 0);
    let local =
        lab.shell("director", "ip -4 -o addr show dev s1 | awk '{ sub(\"/.*\", \"\", $4); print $4 }'");
    configure(&lab, |config| {
        config["services"] = json!([{ "protocol": "tcp", "address": "10.0.0.100", "port": 80,
                                      "servers": [{ "address": local.trim() }] }]);
    });
    assert_eq!(prepared(&lab, &[]), "");
    assert_eq!([get(&lab, V4), get(&lab, V6)], ["0", "0"]);
    assert_eq!(host(), before, "the machine's own namespace is another");
}

#[test]
fn what_cannot_be_prepared_is_said() {
    let lab = Lab::up("unprepared", "nat4", &["--no-daemon"]);
    assert_eq!(
        refusal(&prepare(&lab, &["--group", "no-such"])),
        "nfvs: there is no group \"no-such\"; `groupadd --system no-such` makes it\n"
    );
    assert!(refusal(&prepare(&lab, &["--group", "4294967295"])).starts_with("nfvs: there is no group "));
    let without = |capability: &str, arguments: &[&str]| {
        let bounding = format!("--bounding-set=-{capability}");
        let config = lab.file("nfvs.json");
        let words = ["setpriv", &bounding, NFVS, "prepare", "--config", config.to_str().unwrap()];
        refusal(&lab.try_run("director", &[&words, arguments].concat()))
    };
    let said = without("net_admin", &[]);
    assert!(said.starts_with("nfvs: the capability CAP_NET_ADMIN is missing: "), "{said}");
    assert_eq!(
        without("chown,-fowner", &["--group", GROUP]),
        "nfvs: cannot let the group nogroup read the kernel's counters of queues: run as root: Operation not \
         permitted (os error 1)\n"
    );
    configure(&lab, |config| config["services"] = json!(7));
    let said = refusal(&prepare(&lab, &[]));
    assert!(said.starts_with(lab.file("nfvs.json").to_str().unwrap()), "{said}");
}

#[test]
fn a_daemon_without_root_shows_what_the_kernel_dropped() {
    const LENGTH: u32 = 1024;
    const SENT: u32 = 3000;
    let lab = Lab::up("counters", "nat4", &["--no-daemon"]);
    configure(&lab, |config| config["queues"] = json!({ "count": 1, "length": LENGTH }));
    assert_eq!(
        prepared(&lab, &["--group", GROUP]),
        "the group nogroup may read the kernel's counters of queues\n"
    );
    assert_eq!(prepared(&lab, &["--group", GROUP]), "");
    assert_eq!(prepared(&lab, &["--group", "65534"]), "", "by its number");
    let mode = ["stat", "-c", "%A %U:%G", "/proc/self/net/netfilter/nfnetlink_queue"];
    assert_eq!(lab.run("director", &mode), "-r--r----- root:nogroup\n");
    assert_eq!(lab.run("s1", &mode), "-r--r----- root:root\n", "each namespace has its own");

    let nobody = Nobody::start(&lab);
    assert_serves(&lab);
    let socket = lab.enter("c1", || UdpSocket::bind("10.0.1.2:0").unwrap());
    socket.connect("10.0.0.100:7").unwrap();
    nobody.daemon.signal(Signal::STOP);
    wait_for("the daemon to stop", || is_stopped(nobody.daemon.pid().as_raw_nonzero().get()));
    for number in 0..SENT {
        socket.send(&number.to_be_bytes()).unwrap();
    }
    nobody.daemon.signal(Signal::CONT);
    wait_for("the queues to be empty", || nobody.queues().iter().all(|queue| queue["waiting"] == 0));
    for queue in nobody.queues() {
        let dropped = if queue["class"] == "datagram" { SENT - LENGTH } else { 0 };
        assert_eq!([&queue["dropped"], &queue["user_dropped"]], [&json!(dropped), &json!(0)], "{queue}");
        assert!(queue["unknown"].is_null(), "{queue}");
    }
    let shown = nobody.show_queues(&[]);
    let words = |line: &str| line.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
    let column = words(shown.lines().next().unwrap()).iter().position(|name| name == "Full").unwrap();
    assert_eq!(words(shown.lines().nth(3).unwrap())[column], (SENT - LENGTH).to_string(), "{shown}");
    assert!(!shown.contains(" - "), "{shown}");
    nobody.end();
    assert_nothing_left(&lab);
}
