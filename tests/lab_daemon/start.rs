//! What lets the daemon start, and what keeps it from it.

use super::common::lab::{Lab, text, wait_for};
use super::nobody::Nobody;
use super::{Daemon, NFVS, URL, assert_nothing_left, assert_serves, configure, each, refusal, run};
use nfvs::daemon::queue::{self, Backend, QueueConfig};
use rustix::process::Signal;
use serde_json::{Value, json};
use std::fs;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixStream};
use std::process::Command;

/// Runs a daemon that has to be refused, and returns what it says.
#[track_caller]
fn refused(command: &mut Command) -> String {
    refusal(&command.output().expect("the command"))
}

/// A daemon in the director, not started yet; the command in `prefix` starts it.
fn daemon(lab: &Lab, prefix: &[&str], arguments: &[&str]) -> Command {
    let words: Vec<&str> = ["timeout", "20"].iter().chain(prefix).chain(&[NFVS, "run"]).copied().collect();
    let mut command = lab.command("director", &words);
    command.args(arguments).env_remove("RUST_LOG");
    command
}

/// The same with the lab's configuration and socket.
fn usual_daemon(lab: &Lab, prefix: &[&str]) -> Command {
    let words = run(lab);
    let arguments: Vec<&str> = words[2..].iter().map(String::as_str).collect();
    daemon(lab, prefix, &arguments)
}

#[test]
fn a_second_daemon_is_refused_with_the_pid_of_the_first() {
    let lab = Lab::up("second", "nat4", &["--no-daemon"]);
    let first = Daemon::start(&lab, &[]);
    let message =
        format!("nfvs: another nfvs serves this network namespace: pid {}\n", first.pid().as_raw_nonzero());
    assert_eq!(refused(&mut usual_daemon(&lab, &[])), message);

    let (config, socket) = (lab.file("nfvs.json"), lab.file("second.sock"));
    let (config, other) = (config.to_str().unwrap(), socket.to_str().unwrap());
    assert_eq!(refused(&mut daemon(&lab, &[], &["--config", config, "--socket", other])), message);
    assert!(!socket.exists());

    // However many have asked: more than a socket's backlog holds.
    let lock = SocketAddr::from_abstract_name("nfvs").unwrap();
    let (done, is_done) = std::sync::mpsc::channel();
    lab.enter("director", || {
        // Not joined: if the daemon let them wait, it would never end.
        std::thread::spawn(move || {
            (0..5000).for_each(|_| drop(UnixStream::connect_addr(&lock).unwrap()));
            done.send(()).unwrap();
        });
    });
    wait_for("5000 callers", || is_done.try_recv().is_ok());
    assert_eq!(refused(&mut usual_daemon(&lab, &[])), message);
    assert_serves(&lab);
}

#[test]
fn a_missing_capability_is_named() {
    let lab = Lab::up("capabilities", "nat4", &["--no-daemon"]);
    let without =
        |capability: &str| [format!("--bounding-set=-{capability}"), format!("--inh-caps=-{capability}")];
    let [bounding, inherited] = without("net_admin");
    let said = refused(&mut usual_daemon(&lab, &["setpriv", &bounding, &inherited]));
    assert!(said.starts_with("nfvs: the capability CAP_NET_ADMIN is missing: "), "{said}");

    // What only tunnels need is missed only where there is one.
    let written = fs::read_to_string(lab.file("nfvs.json")).unwrap();
    let mut config: Value = serde_json::from_str(&written).unwrap();
    let port = config["services"][0]["port"].clone();
    let server = &mut config["services"][0]["servers"][0];
    (server["forward"], server["port"]) = ("tunnel".into(), port);
    fs::write(lab.file("nfvs.json"), config.to_string()).unwrap();
    let [bounding, inherited] = without("net_raw");
    let said = refused(&mut usual_daemon(&lab, &["setpriv", &bounding, &inherited]));
    let tunnel = "cannot have \"forward\": \"tunnel\": the capability CAP_NET_RAW is missing";
    assert!(said.contains(tunnel), "{said}");
    fs::write(lab.file("nfvs.json"), written).unwrap();

    let [bounding, inherited] = without("sys_admin");
    let director = lab.namespace("director");
    let words = run(&lab);
    let said = refused(
        Command::new("timeout")
            .args(["20", "setpriv", &bounding, &inherited])
            .args(&words)
            .args(["--netns", &director]),
    );
    let entering = format!(
        "nfvs: cannot enter the network namespace \"{director}\": this needs the capability CAP_SYS_ADMIN"
    );
    assert!(said.starts_with(&entering), "{said}");
    assert_nothing_left(&lab);

    // A service manager puts the daemon there, and the option is only a name.
    let words: Vec<&str> = ["setpriv", &bounding, &inherited]
        .into_iter()
        .chain(words.iter().map(String::as_str))
        .chain(["--netns", &director])
        .collect();
    let daemon = Daemon::start_words(&lab, &words, fs::File::create(lab.file("log/daemon")).unwrap().into());
    assert_serves(&lab);
    assert_eq!(daemon.end(Signal::TERM).code(), Some(0));
    assert_nothing_left(&lab);
}

#[test]
fn a_user_with_one_capability_serves() {
    let lab = Lab::up("nobody", "nat", &["--no-daemon"]);
    let nobody = Nobody::start(&lab);
    let pid = nobody.daemon.pid().as_raw_nonzero();
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    for line in ["Uid:\t65534\t65534\t65534\t65534", "CapEff:\t0000000000001000", "CapBnd:\t0000000000001000"]
    {
        assert!(status.contains(line), "{line}: {status}");
    }

    for url in [URL, "http://[fd00::100]/"] {
        assert_eq!(lab.answers("c1", url, 30, &[]), each(&[("s1", 10), ("s2", 10), ("s3", 10)]));
    }

    let queues = nobody.queues();
    assert!(queues.iter().map(|queue| queue["received"].as_u64().unwrap()).sum::<u64>() > 300);
    for queue in &queues {
        for counter in ["waiting", "dropped", "user_dropped"] {
            assert!(queue[counter].is_null(), "{queue}");
        }
        assert_eq!(
            queue["unknown"],
            "the daemon may not read the kernel's queue counters; see nfvs prepare --group"
        );
    }
    let shown = nobody.show_queues(&[]);
    assert_eq!(shown.matches(" - ").count(), 3 * queues.len(), "{shown}");
    assert!(
        shown.ends_with(
            "\n\n-: the daemon may not read the kernel's queue counters; see nfvs prepare --group\n"
        ),
        "{shown}"
    );

    nobody.end();
    assert_nothing_left(&lab);
}

#[test]
fn forwarding_that_is_off_is_named() {
    let lab = Lab::up("forwarding", "nat", &["--no-daemon"]);
    let set = |name: &str, value: u8| lab.run("director", &["sysctl", "-qw", &format!("{name}={value}")]);
    let message = |name: &str, server: &str| {
        format!(
            "the sysctl {name} is 0 in this network namespace: packets would not reach server {server}; set it \
             with `sysctl -w {name}=1`"
        )
    };
    let (v4, v6) = ("net.ipv4.ip_forward", "net.ipv6.conf.all.forwarding");
    let (no_v4, no_v6) = (message(v4, "10.0.2.11"), message(v6, "fd00:2::11"));

    set(v4, 0);
    assert_eq!(refused(&mut usual_daemon(&lab, &[])), format!("nfvs: {no_v4}\n"));
    set(v4, 1);
    set(v6, 0);
    assert_eq!(refused(&mut usual_daemon(&lab, &[])), format!("nfvs: {no_v6}\n"));
    assert_nothing_left(&lab);

    // Without IPv6 servers it does not matter, until one is to be added.
    configure(&lab, |config| {
        config["services"]
            .as_array_mut()
            .unwrap()
            .retain(|service| !service["name"].as_str().unwrap().ends_with('6'));
    });
    let _daemon = Daemon::start(&lab, &[]);
    assert_serves(&lab);
    let service = json!({ "protocol": "tcp", "address": "fd00::100", "port": 80 });
    let server = json!({ "address": "fd00:2::11", "port": 8080 });
    let mut whole = service.clone();
    whole["servers"] = json!([server]);
    let before = lab.show("services");
    let no_v6 = serde_json::to_string(&json!({ "error": no_v6 })).unwrap() + "\n";
    let ask = |request: Value| lab.nfvs(&["request", &request.to_string()]);
    let asked = ask(json!({ "command": "add-service", "service": whole }));
    assert_eq!((asked.status.code(), text(&asked.stdout)), (Some(1), no_v6.clone()));
    assert_eq!(lab.show("services"), before);

    lab.request(&json!({ "command": "add-service", "service": service }));
    let asked = ask(json!({ "command": "add-server", "service": service, "server": server }));
    assert_eq!((asked.status.code(), text(&asked.stdout)), (Some(1), no_v6));
    set(v6, 1);
    lab.request(&json!({ "command": "add-server", "service": service, "server": server }));
    assert_eq!(lab.answers("c1", "http://[fd00::100]/", 2, &[]), each(&[("s1", 2)]));
}

#[test]
fn what_an_operator_got_wrong_is_said() {
    let lab = Lab::up("wrong", "nat4", &["--no-daemon"]);
    let file = |name: &str| lab.file(name).to_str().unwrap().to_owned();
    let (right, socket, wrong) = (file("nfvs.json"), file("nfvs.sock"), file("wrong.json"));
    let (folder, regular) = (file("log"), file("nodes"));
    fs::write(&wrong, "{ \"services\": [],\n  \"queues\": { \"lenght\": 1 },\n  \"answer_ping\": 1 }")
        .unwrap();
    let start = |arguments: &[&str]| refused(&mut daemon(&lab, &[], arguments));

    assert_eq!(
        start(&["--config", &right, "--socket", &socket, "--netns", "no-such"]),
        "nfvs: there is no network namespace \"no-such\": /run/netns/no-such does not exist; `ip netns add no-such` \
         makes it\n"
    );
    let missing = file("missing.json");
    assert_eq!(
        start(&["--config", &missing, "--socket", &socket]),
        format!("nfvs: cannot read {missing}: No such file or directory (os error 2)\n")
    );
    assert_eq!(
        start(&["--config", &folder, "--socket", &socket]),
        format!("nfvs: cannot read {folder}: Is a directory (os error 21)\n")
    );
    assert_eq!(
        start(&["--config", &wrong, "--socket", &socket]),
        format!(
            "{wrong}:2:15: queues.lenght: unknown key \"lenght\"; allowed: base, count, backend, length; did you \
             mean \"length\"?\n\
             {wrong}:3:18: answer_ping: 1 is not true or false\n"
        )
    );
    for path in [&folder, &regular] {
        assert_eq!(
            start(&["--config", &right, "--socket", path]),
            format!("nfvs: {path} exists and is no socket: give another --socket, or remove it\n")
        );
    }
    let under_a_file = format!("{regular}/nfvs.sock");
    assert_eq!(
        start(&["--config", &right, "--socket", &under_a_file]),
        format!(
            "nfvs: cannot make the folder of the control socket {under_a_file}: File exists (os error 17)\n"
        )
    );
    assert!(fs::exists(&folder).unwrap() && fs::exists(&regular).unwrap());
    assert_nothing_left(&lab);
}

#[test]
fn a_queue_of_somebody_else_is_named_with_its_owner() {
    let lab = Lab::up("taken", "nat4", &["--no-daemon"]);
    configure(&lab, |config| config["queues"] = json!({ "base": 7, "count": 2 }));
    let (theirs, owner) = lab.enter("director", || {
        let theirs = queue::open(Backend::Batched, &QueueConfig::new(9)).unwrap();
        (theirs, queue::read_counters().unwrap()[0].owner)
    });
    let said = refused(&mut usual_daemon(&lab, &[]));
    let message = format!("nfvs: queue 9 is already served by another process (netlink port {owner})\n");
    assert_eq!(said, message);
    assert_eq!(lab.run("director", &["nft", "list", "ruleset"]), "");
    assert!(!lab.file("nfvs.sock").exists());
    drop(theirs);
    let _daemon = Daemon::start(&lab, &[]);
    assert_serves(&lab);
}

#[test]
fn a_socket_of_a_living_daemon_is_left_alone() {
    let lab = Lab::up("same-socket", "nat4", &[]);
    // In c1, another namespace: only the socket is the same.
    let words = run(&lab);
    configure(&lab, |config| config["services"] = json!([]));
    let said = refused(lab.command("c1", &["timeout", "20"]).args(words).env_remove("RUST_LOG"));
    let socket = lab.file("nfvs.sock");
    assert_eq!(said, format!("nfvs: another daemon answers on the control socket {}\n", socket.display()));
    assert_serves(&lab);
    assert_eq!(lab.show("services").as_array().unwrap().len(), 3);
    assert_eq!(lab.run("c1", &["nft", "list", "ruleset"]), "");
    assert!(lab.script(&["daemon", "stop"]).status.success());
    assert_nothing_left(&lab);
}
