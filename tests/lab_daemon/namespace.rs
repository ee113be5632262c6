//! The daemon's network namespace is removed, or another one gets its name.

use super::common::lab::{Lab, wait_for};
use super::{Daemon, NFVS, assert_serves, run};
use rustix::process::Signal;
use std::fs::File;
use std::process::{Command, ExitStatus};

/// A daemon that entered the director by its name, by way of the command in `prefix`.
fn start(lab: &Lab, prefix: &[&str]) -> Daemon {
    let (words, director) = (run(lab), lab.namespace("director"));
    let words: Vec<&str> = prefix
        .iter()
        .copied()
        .chain(words.iter().map(String::as_str))
        .chain(["--netns", &director])
        .collect();
    let mut command = Command::new(words[0]);
    command.args(&words[1..]).env_remove("RUST_LOG").stderr(File::create(lab.file("log/daemon")).unwrap());
    let mut daemon = Daemon(command.spawn().unwrap());
    wait_for("the daemon's answer", || {
        assert_eq!(daemon.0.try_wait().unwrap(), None, "the daemon ended: {}", lab.log());
        lab.nfvs(&["show", "services"]).status.success()
    });
    daemon
}

fn ip_netns(action: &str, name: &str) {
    assert!(Command::new("ip").args(["netns", action, name]).status().unwrap().success());
}

/// Waits for the daemon to end by itself.
fn end(mut daemon: Daemon) -> ExitStatus {
    let mut ended = None;
    wait_for("the daemon's end", || {
        ended = daemon.0.try_wait().unwrap();
        ended.is_some()
    });
    ended.unwrap()
}

/// Asserts that the daemon's last words are these, and that nothing keeps its namespace: the other ends of its links
/// have gone with it.
fn assert_gone(lab: &Lab, status: ExitStatus, words: &str) {
    assert_eq!(status.code(), Some(1), "{}", lab.log());
    let log = lab.log();
    assert!(log.ends_with(&format!("\nnfvs: {words}\n")), "{log}");
    assert!(log.contains(" INFO ending\n") && !log.contains("WARN") && !log.contains("ERROR"), "{log}");
    assert!(!lab.file("nfvs.sock").exists());
    for node in ["c1", "s1", "s2", "s3"] {
        wait_for("the links' end", || !lab.run(node, &["ip", "-o", "link"]).contains("director"));
    }
}

#[test]
fn a_daemon_whose_namespace_was_removed_ends_and_lets_it_go() {
    // A service manager gives each service mounts of its own, which hear of those of the machine or do not.
    for (mounts, prefix) in [
        ("same", &[][..]),
        ("slave", &["unshare", "-m", "--propagation", "slave"]),
        ("private", &["unshare", "-m", "--propagation", "private"]),
    ] {
        let lab = Lab::up(&format!("gone-{mounts}"), "nat4", &["--no-daemon"]);
        let daemon = start(&lab, prefix);
        assert_serves(&lab);
        assert!(lab.run("c1", &["ip", "-o", "link"]).contains("director"));
        let director = lab.namespace("director");
        ip_netns("del", &director);
        let words =
            format!("the network namespace \"{director}\" was removed: there is nothing left to serve");
        assert_gone(&lab, end(daemon), &words);
    }
}

#[test]
fn a_daemon_whose_namespace_was_replaced_ends_and_says_so() {
    let lab = Lab::up("replaced", "nat4", &["--no-daemon"]);
    let daemon = start(&lab, &[]);
    let director = lab.namespace("director");
    daemon.signal(Signal::STOP);
    ip_netns("del", &director);
    ip_netns("add", &director);
    daemon.signal(Signal::CONT);
    let words = format!(
        "the network namespace \"{director}\" was removed, and another one has its name: start again to serve that"
    );
    assert_gone(&lab, end(daemon), &words);
}

#[test]
fn a_name_without_a_namespace_is_refused() {
    let lab = Lab::up("nameless", "nat4", &["--no-daemon"]);
    // Left by a machine's end in the middle of `ip netns add`.
    let name = lab.namespace("empty");
    let path = format!("/run/netns/{name}");
    File::create(&path).unwrap();
    let output = Command::new(NFVS)
        .args(["run", "--config", lab.file("nfvs.json").to_str().unwrap(), "--netns", &name])
        .output()
        .unwrap();
    std::fs::remove_file(&path).unwrap();
    let said = format!(
        "nfvs: there is no network namespace \"{name}\": {path} is a file without one; `ip netns del {name}` removes it\n"
    );
    assert_eq!((output.status.code(), String::from_utf8(output.stderr).unwrap()), (Some(1), said));
}
