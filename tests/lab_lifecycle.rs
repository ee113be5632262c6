//! The lab itself, without the daemon: it comes up, serves, refuses what it should, and leaves nothing in any case.

mod common;

use std::fs::{self, File};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

use common::lab::{take_name, text, wait_for};
use rustix::process::{Pid, Signal, kill_process, test_kill_process};

/// A lab's name and a state directory of its own; taken down when dropped.
struct Lab {
    name: &'static str,
    state: tempfile::TempDir,
    /// Held while the lab is up: tests of two checkouts have labs of the same names.
    _name_is_taken: File,
}

impl Lab {
    fn new(name: &'static str) -> Lab {
        Lab { name, state: tempfile::tempdir().expect("a directory"), _name_is_taken: take_name(name) }
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(Path::new(env!("CARGO_MANIFEST_DIR")).join("netns-lab/lab"));
        command
            .args(arguments)
            .env("LAB_NAME", self.name)
            .env("LAB_DIR", self.state.path())
            .env_remove("LAB_KEEP")
            .stdin(Stdio::null());
        command
    }

    fn run(&self, arguments: &[&str]) -> Output {
        self.command(arguments).output().expect("the lab runs")
    }

    /// Runs what must succeed and returns its output.
    fn ok(&self, arguments: &[&str]) -> String {
        let output = self.run(arguments);
        assert!(output.status.success(), "lab {arguments:?}: {}", text(&output.stderr));
        String::from_utf8(output.stdout).expect("text")
    }

    /// Runs what must fail and returns its complaint.
    fn fails(&self, arguments: &[&str]) -> String {
        let output = self.run(arguments);
        assert_eq!(output.status.code(), Some(1), "lab {arguments:?}: {}", text(&output.stdout));
        String::from_utf8(output.stderr).expect("text")
    }

    fn file(&self, name: &str) -> PathBuf {
        self.state.path().join(self.name).join(name)
    }

    /// The daemon and the servers.
    fn processes(&self) -> Vec<Pid> {
        let records = fs::read_dir(self.file("pids")).expect("a lab that is up");
        records
            .map(|record| record.expect("a record").path())
            .filter(|path| !path.ends_with("exec"))
            .map(|path| fs::read_to_string(path).expect("a record"))
            .map(|text| pid(text.split(' ').next().expect("a pid").parse().expect("a pid")))
            .collect()
    }

    /// Fails unless no namespace, no file and none of these processes is left.
    fn assert_nothing_left(&self, processes: &[Pid]) {
        let mine = format!("{}-", self.name);
        // The directory of namespaces is made with the first of them.
        let namespaces: Vec<String> = fs::read_dir("/run/netns")
            .into_iter()
            .flatten()
            .map(|entry| entry.expect("a namespace").file_name().into_string().expect("text"))
            .filter(|name| name.starts_with(&mine))
            .collect();
        assert_eq!(namespaces, Vec::<String>::new());
        assert!(!self.file("").exists(), "{} is left", self.file("").display());
        for process in processes {
            assert!(!is_alive(*process), "process {} is left", process.as_raw_nonzero());
        }
    }

    /// A stand-in for the daemon, for the lab to start.
    fn daemon(&self, script: &str) -> PathBuf {
        let path = self.state.path().join("daemon");
        fs::write(&path, format!("#!/bin/sh\n{script}\n")).expect("a script");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).expect("its mode");
        path
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        let _ = self.run(&["down"]);
    }
}

/// A child that is ended and reaped in any case.
struct Ended(Child);

impl Drop for Ended {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn pid(raw: i32) -> Pid {
    Pid::from_raw(raw).expect("a pid")
}

/// Whether a process runs; one that only waits to be reaped does not.
fn is_alive(process: Pid) -> bool {
    test_kill_process(process).is_ok()
        && fs::read_to_string(format!("/proc/{}/stat", process.as_raw_nonzero()))
            .is_ok_and(|stat| !stat.rsplit(") ").next().is_some_and(|fields| fields.starts_with('Z')))
}

#[test]
fn clients_reach_every_server_and_down_leaves_nothing() {
    let lab = Lab::new("lifecycle-nat");
    let output = lab.ok(&["up", "nat", "--no-daemon"]);
    assert!(output.contains("virtual addresses on no interface"), "{output}");
    for (server, hosts) in [
        ("s1", ["10.0.2.11", "[fd00:2::11]"]),
        ("s2", ["10.0.3.12", "[fd00:3::12]"]),
        ("s3", ["10.0.4.13", "[fd00:4::13]"]),
    ] {
        for host in hosts {
            let answer = lab.ok(&[
                "exec",
                "c1",
                "--",
                "curl",
                "-sS",
                "--max-time",
                "5",
                &format!("http://{host}:8080/"),
            ]);
            assert_eq!(answer.trim(), server, "{host}");
            let resolver = format!("@{}", host.trim_matches(['[', ']']));
            let answer =
                lab.ok(&["exec", "c1", "--", "dig", "+short", "-p", "5353", &resolver, "TXT", "server.lab"]);
            assert_eq!(answer.trim(), format!("\"{server}\""), "{host}");
        }
    }
    let addresses = lab.ok(&["exec", "director", "--", "ip", "-brief", "address"]);
    assert!(!addresses.contains("10.0.0.100") && !addresses.contains("fd00::100"), "{addresses}");
    assert!(lab.ok(&["status"]).contains("rp_filter"));

    let processes = lab.processes();
    assert_eq!(processes.len(), 9);
    assert!(processes.iter().all(|process| is_alive(*process)));
    lab.ok(&["down"]);
    lab.assert_nothing_left(&processes);
    lab.ok(&["down"]);
}

#[test]
fn every_scenario_comes_up_with_local_virtual_addresses() {
    let lab = Lab::new("lifecycle-all");
    let scenarios = lab.ok(&["list"]);
    assert!(scenarios.lines().count() >= 7, "{scenarios}");
    for scenario in scenarios.lines().map(|line| line.split(' ').next().expect("a name")) {
        lab.ok(&["up", scenario, "--vip", "local", "--no-daemon"]);
        let vips = fs::read_to_string(lab.file("vips")).expect("the addresses");
        let on_director = lab.ok(&["exec", "director", "--", "ip", "-brief", "address", "show"]);
        assert!(vips.lines().count() > 0);
        for vip in vips.lines() {
            assert!(on_director.contains(&format!(" {vip}/")), "{scenario}: {vip} is missing: {on_director}");
        }
        let config: serde_json::Value =
            serde_json::from_str(&fs::read_to_string(lab.file("nfvs.json")).expect("a configuration"))
                .expect("JSON");
        for service in config["services"].as_array().expect("services") {
            assert!(vips.lines().any(|vip| vip == service["address"]), "{scenario}: {service}");
        }
        lab.ok(&["down"]);
    }
}

#[test]
fn virtual_addresses_come_and_go_with_a_word() {
    let lab = Lab::new("lifecycle-vip");
    lab.ok(&["up", "nat", "--no-daemon"]);
    let has_them = || {
        let addresses = lab.ok(&["exec", "director", "--", "ip", "-brief", "address"]);
        ["10.0.0.100/", "fd00::100/"].map(|vip| addresses.contains(vip))
    };
    for (word, there) in [("none", false), ("local", true), ("local", true), ("none", false)] {
        lab.ok(&["vip", word]);
        assert_eq!(has_them(), [there; 2], "{word}");
        let place = if there { "on the director" } else { "on no interface" };
        assert!(lab.ok(&["status"]).contains(place), "{word}");
    }
    assert!(lab.fails(&["vip", "both"]).contains("local or none"));
}

#[test]
fn to_ask_what_nobody_answers_fails() {
    let lab = Lab::new("lifecycle-ask");
    lab.ok(&["up", "selftest-nat", "--no-daemon"]);
    let asked = lab.run(&["ask", "1"]);
    assert_eq!(asked.status.code(), Some(1));
    let said = text(&asked.stdout);
    assert!(said.starts_with("sink tcp 207.175.44.110:8080") && !said.contains("arrived"), "{said}");
}

#[test]
fn files_and_captures_of_a_lab_are_kept_when_wanted() {
    let lab = Lab::new("lifecycle-keep");
    let kept = lab.state.path().join("kept");
    for arguments in
        [&["up", "local", "--no-daemon"][..], &["exec", "c1", "--", "ping", "-c", "3", "10.0.9.9"], &["down"]]
    {
        let output = lab.command(arguments).env("LAB_KEEP", &kept).output().expect("the lab runs");
        assert!(output.status.success(), "lab {arguments:?}: {}", text(&output.stderr));
    }
    lab.assert_nothing_left(&[]);
    let copies: Vec<PathBuf> =
        fs::read_dir(&kept).expect("copies").map(|copy| copy.expect("a copy").path()).collect();
    let [copy] = &copies[..] else { panic!("one copy, not {copies:?}") };
    assert!(copy.join("nfvs.json").exists());
    // tcpdump adds a number to the name of a file that others may follow.
    let read = Command::new("tcpdump").args(["-n", "-r"]).arg(copy.join("pcap/director.pcap0")).output();
    let packets = String::from_utf8(read.expect("tcpdump").stdout).expect("text");
    assert!(packets.contains("ICMP echo request"), "{packets}");
}

#[test]
fn what_cannot_be_is_refused_with_a_reason() {
    let lab = Lab::new("lifecycle-wrong");
    for (arguments, reason) in [
        (&["up", "nat4", "--ipvs"][..], "--vip local"),
        (&["up", "nat7"], "no scenario 'nat7'"),
        (&["vip", "local"], "no lab named lifecycle-wrong is up"),
        (&["ask"], "no lab named lifecycle-wrong is up"),
        (&["compare"], "which scenario?"),
        (&["vm", "nothing"], "no scenario 'nothing'"),
        (&["no-command"], "unknown command"),
    ] {
        let complaint = lab.fails(arguments);
        assert!(complaint.contains(reason), "{arguments:?}: {complaint}");
    }
    lab.assert_nothing_left(&[]);
}

#[test]
fn a_second_lab_of_the_same_name_is_refused_and_the_first_stays() {
    let lab = Lab::new("lifecycle-two");
    lab.ok(&["up", "local", "--no-daemon"]);
    let complaint = lab.fails(&["up", "nat4", "--no-daemon"]);
    assert!(complaint.contains("is up already"), "{complaint}");
    let answer = lab.ok(&["exec", "c1", "--", "curl", "-sS", "--max-time", "5", "http://10.0.9.9:8080/"]);
    assert_eq!(answer.trim(), "director");
}

#[test]
fn a_namespace_of_somebody_else_is_left_alone() {
    let lab = Lab::new("lifecycle-foreign");
    let foreign = "lifecycle-foreign-director";
    assert!(Command::new("ip").args(["netns", "add", foreign]).status().expect("ip").success());
    let complaint = lab.fails(&["up", "nat4", "--no-daemon"]);
    let survived = Path::new("/run/netns").join(foreign).exists();
    let _ = Command::new("ip").args(["netns", "del", foreign]).status();
    assert!(complaint.contains("is not of this lab"), "{complaint}");
    assert!(survived);
    lab.assert_nothing_left(&[]);
}

#[test]
fn a_daemon_that_fails_takes_the_lab_with_it_and_is_quoted() {
    let lab = Lab::new("lifecycle-fail");
    let daemon = lab.daemon("echo 'missing capability: CAP_NET_ADMIN'; exit 1");
    let output = lab.command(&["up", "local"]).env("NFVS_BIN", daemon).output().expect("the lab runs");
    let complaint = text(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{complaint}");
    assert!(complaint.contains("missing capability: CAP_NET_ADMIN\nlab: daemon ended"), "{complaint}");
    lab.assert_nothing_left(&[]);
}

#[test]
fn an_interrupted_up_leaves_nothing() {
    let lab = Lab::new("lifecycle-term");
    let daemon = lab.daemon("[ $1 = run ] && exec sleep 60");
    let mut up = lab.command(&["up", "local"]);
    let mut up = Ended(up.env("NFVS_BIN", daemon).stdout(Stdio::null()).spawn().expect("the lab runs"));
    wait_for("the daemon starts", || {
        fs::read_to_string(lab.file("pids/daemon")).is_ok_and(|record| record.ends_with('\n'))
    });
    let processes = lab.processes();
    kill_process(pid(up.0.id().cast_signed()), Signal::TERM).expect("a signal");
    assert_eq!(up.0.wait().expect("its end").code(), Some(143));
    lab.assert_nothing_left(&processes);
}

#[test]
fn a_daemon_that_does_not_end_is_killed_and_told_of() {
    let lab = Lab::new("lifecycle-deaf");
    let daemon = lab.daemon("[ $1 = show ] && exit 0; trap '' TERM; while :; do sleep 60; done");
    let output = lab.command(&["up", "local"]).env("NFVS_BIN", daemon).output().expect("the lab runs");
    assert!(output.status.success(), "{}", text(&output.stderr));
    let processes = lab.processes();
    let complaint = lab.fails(&["down"]);
    assert!(
        complaint.contains("daemon (pid ") && complaint.contains("did not end when asked"),
        "{complaint}"
    );
    lab.assert_nothing_left(&processes);
}

#[test]
fn down_ends_what_exec_started_and_names_what_it_did_not_start() {
    let lab = Lab::new("lifecycle-procs");
    lab.ok(&["up", "local", "--no-daemon"]);
    let ours = Ended(lab.command(&["exec", "c1", "--", "sleep", "60"]).spawn().expect("the lab runs"));
    let foreign =
        Command::new("ip").args(["netns", "exec", "lifecycle-procs-director", "sleep", "60"]).spawn();
    let foreign = Ended(foreign.expect("ip runs"));
    let name = |child: &Child| fs::read_to_string(format!("/proc/{}/comm", child.id())).unwrap_or_default();
    wait_for("both run", || name(&ours.0) == "sleep\n" && name(&foreign.0) == "sleep\n");

    let complaint = lab.fails(&["down"]);
    let expected = format!("process {} (sleep) in director is not the lab's", foreign.0.id());
    assert!(complaint.contains(&expected), "{complaint}");
    assert!(is_alive(pid(foreign.0.id().cast_signed())));
    assert!(!is_alive(pid(ours.0.id().cast_signed())));
    lab.assert_nothing_left(&[]);
}
