//! The life of the daemon in a lab: how it starts and is refused, what it says, how it is changed while it runs, and
//! how it ends.

#[path = "../common/mod.rs"]
mod common;
mod control;
mod end;
mod manager;
mod namespace;
mod nobody;
mod prepare;
mod queues;
mod reload;
mod start;
mod statistics;

use common::lab::{Lab, text, wait_for};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use std::fs::{self, File};
use std::process::{Child, ExitStatus, Output, Stdio};

const NFVS: &str = env!("CARGO_BIN_EXE_nfvs");
const URL: &str = "http://10.0.0.100/";

/// What a run that has to succeed prints.
#[track_caller]
fn success(output: &Output) -> String {
    assert_eq!((output.status.code(), text(&output.stderr)), (Some(0), String::new()));
    text(&output.stdout)
}

/// What a run that has to fail says.
#[track_caller]
fn refusal(output: &Output) -> String {
    assert_eq!(
        (output.status.code(), text(&output.stdout)),
        (Some(1), String::new()),
        "{}",
        text(&output.stderr)
    );
    text(&output.stderr)
}

/// A daemon in a lab's director that a test started itself; it is killed when the value is dropped.
struct Daemon(Child);

impl Daemon {
    /// Starts a daemon with the lab's configuration and socket, by way of the command in `prefix`, and waits until
    /// it answers.
    #[track_caller]
    fn start(lab: &Lab, prefix: &[&str]) -> Daemon {
        let log = File::create(lab.file("log/daemon")).expect("a log");
        let words = run(lab);
        let words: Vec<&str> = prefix.iter().copied().chain(words.iter().map(String::as_str)).collect();
        Daemon::start_words(lab, &words, log.into())
    }

    #[track_caller]
    fn start_words(lab: &Lab, words: &[&str], stderr: Stdio) -> Daemon {
        let child = lab
            .command("director", words)
            .env_remove("RUST_LOG")
            .stdout(Stdio::null())
            .stderr(stderr)
            .spawn();
        let mut daemon = Daemon(child.expect("ip netns exec"));
        let socket = words.iter().skip_while(|word| **word != "--socket").nth(1).expect("a socket");
        wait_for("the daemon's answer", || {
            let ended = daemon.0.try_wait().expect("the daemon's state");
            assert_eq!(ended, None, "the daemon ended: {}", lab.log());
            let shown =
                std::process::Command::new(NFVS).args(["show", "services", "--socket", socket]).output();
            shown.expect("nfvs").status.success()
        });
        daemon
    }

    fn pid(&self) -> Pid {
        Pid::from_child(&self.0)
    }

    #[track_caller]
    fn signal(&self, signal: Signal) {
        kill_process(self.pid(), signal).expect("the daemon lives");
    }

    /// Sends a signal and waits for the end.
    #[track_caller]
    fn end(mut self, signal: Signal) -> ExitStatus {
        self.signal(signal);
        let mut ended = None;
        wait_for("the daemon's end", || {
            ended = self.0.try_wait().expect("the daemon's state");
            ended.is_some()
        });
        ended.expect("it ended")
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        // Both fail if it has ended already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The words that run a daemon with the lab's configuration and socket.
fn run(lab: &Lab) -> Vec<String> {
    let (config, socket) = (lab.file("nfvs.json"), lab.file("nfvs.sock"));
    [NFVS, "run", "--config", &config.to_string_lossy(), "--socket", &socket.to_string_lossy()]
        .map(str::to_owned)
        .to_vec()
}

/// Changes the configuration the lab has written, in one piece, as good editors do.
fn configure(lab: &Lab, change: impl FnOnce(&mut Value)) {
    let path = lab.file("nfvs.json");
    let mut config = serde_json::from_slice(&fs::read(&path).expect("the configuration")).expect("JSON");
    change(&mut config);
    let new = path.with_extension("new");
    fs::write(&new, config.to_string()).expect("write the configuration");
    fs::rename(new, path).expect("replace the configuration");
}

fn each(servers: &[(&str, usize)]) -> Vec<(String, usize)> {
    servers.iter().map(|&(server, count)| (server.to_owned(), count)).collect()
}

#[track_caller]
fn assert_serves(lab: &Lab) {
    assert_eq!(lab.answers("c1", URL, 30, &[]), each(&[("s1", 10), ("s2", 10), ("s3", 10)]));
}

/// Asserts that a request to the virtual service is refused at once.
#[track_caller]
fn assert_refused(lab: &Lab, url: &str) {
    let tried = lab.try_run("c1", &["curl", "-sS", "--max-time", "5", url]);
    // 7: connection refused. A time-out would be 28.
    assert_eq!(tried.status.code(), Some(7), "{}", text(&tried.stderr));
}

/// Asserts that the director is as if no daemon had ever run.
#[track_caller]
fn assert_nothing_left(lab: &Lab) {
    assert_eq!(lab.run("director", &["nft", "list", "ruleset"]), "");
    assert_eq!(lab.run("director", &["cat", "/proc/net/netfilter/nfnetlink_queue"]), "");
    assert!(!lab.file("nfvs.sock").exists(), "the control socket's file is left");
}

/// The director's rules and set elements, without counters.
fn rules(lab: &Lab) -> String {
    lab.run("director", &["nft", "--stateless", "list", "ruleset"])
}

/// The values of one field of `show queues`.
fn queue_field(lab: &Lab, field: &str) -> Vec<Value> {
    lab.show("queues").as_array().expect("queues").iter().map(|queue| queue[field].clone()).collect()
}
