//! What a service manager hears of the daemon, over a socket like systemd's.

use super::common::lab::{Lab, wait_for};
use super::{Daemon, assert_nothing_left, assert_serves, configure, run};
use nix::sys::ptrace;
use nix::sys::wait::{WaitPidFlag, waitpid};
use nix::unistd::Pid;
use rustix::process::Signal;
use serde_json::json;
use std::fs;
use std::os::unix::net::UnixDatagram;
use std::process::Stdio;
use std::sync::{Arc, Mutex};

/// Listens for notifications and keeps them.
struct Manager {
    socket: String,
    heard: Arc<Mutex<Vec<String>>>,
}

impl Manager {
    fn new(lab: &Lab) -> Manager {
        let path = lab.file("notify.sock");
        let listener = UnixDatagram::bind(&path).unwrap();
        let heard = Arc::new(Mutex::new(Vec::new()));
        let keep = Arc::clone(&heard);
        // It ends with the test's process.
        std::thread::spawn(move || {
            let mut message = [0; 4096];
            while let Ok(length) = listener.recv(&mut message) {
                keep.lock().unwrap().push(String::from_utf8(message[..length].to_vec()).unwrap());
            }
        });
        Manager { socket: format!("NOTIFY_SOCKET={}", path.display()), heard }
    }

    fn all(&self) -> Vec<String> {
        self.heard.lock().unwrap().clone()
    }

    /// What was heard but pings.
    fn news(&self) -> Vec<String> {
        self.all().into_iter().filter(|message| message != PING).collect()
    }

    fn pings(&self) -> usize {
        self.all().iter().filter(|message| *message == PING).count()
    }
}

const PING: &str = "WATCHDOG=1\n";

#[test]
fn ready_means_that_it_serves_and_the_state_is_kept_current() {
    let lab = Lab::up("manager", "nat4", &["--no-daemon"]);
    let manager = Manager::new(&lab);
    let words = run(&lab);
    let start = || {
        let words: Vec<&str> =
            ["env", &manager.socket].into_iter().chain(words.iter().map(String::as_str)).collect();
        let log = fs::File::create(lab.file("log/daemon")).unwrap();
        let command = lab.command("director", &words).stdout(Stdio::null()).stderr(log).spawn();
        Daemon(command.unwrap())
    };

    // One that does not come to serve has no news.
    configure(&lab, |config| config["queues"] = json!({ "count": 0 }));
    assert_eq!(start().0.wait().unwrap().code(), Some(1));
    configure(&lab, |config| config["queues"] = json!({ "count": 1 }));

    let daemon = start();
    wait_for("news", || !manager.news().is_empty());
    // At once, with no further waiting.
    let services = lab.show("services");
    let queues = lab.show("queues").as_array().unwrap().len();
    assert_serves(&lab);
    let steering = lab.log();
    let steering = steering.split("steering=").nth(1).unwrap().split(" queues=").next().unwrap();
    let state = |services: usize, servers: usize| {
        format!("STATUS=services: {services}, servers: {servers}, queues: {queues}, steering: {steering}")
    };
    let count = services.as_array().unwrap().len();
    let servers: usize =
        services.as_array().unwrap().iter().map(|service| service["servers"].as_array().unwrap().len()).sum();
    let mut expected = vec![format!("READY=1\n{}\n", state(count, servers))];
    assert_eq!(manager.news(), expected);

    let service = json!({ "protocol": "udp", "address": "10.0.0.101", "port": 53 });
    lab.request(&json!({ "command": "add-service", "service": service }));
    expected.push(format!("{}\n", state(count + 1, servers)));
    wait_for("the state", || manager.news() == expected);

    let right = fs::read(lab.file("nfvs.json")).unwrap();
    let mut last = 0;
    for (file, ready) in [
        (&b"{}"[..], state(count + 1, servers) + "; the last reload was refused, see the log"),
        (&right, state(count, servers)),
    ] {
        fs::write(lab.file("nfvs.json"), file).unwrap();
        daemon.signal(Signal::HUP);
        wait_for("the end of the reload", || manager.news().len() == expected.len() + 2);
        let news = manager.news();
        let time = news[expected.len()].strip_prefix("RELOADING=1\nMONOTONIC_USEC=").unwrap();
        let time: u64 = time.trim_end().parse().unwrap();
        assert!(time > last);
        last = time;
        assert_eq!(news[expected.len() + 1], format!("READY=1\n{ready}\n"));
        expected = news;
    }

    assert_eq!(daemon.end(Signal::TERM).code(), Some(0));
    expected.push("STOPPING=1\n".to_owned());
    assert_eq!(manager.news(), expected);
    assert_eq!(manager.pings(), 0, "nobody has asked for them");
    assert_nothing_left(&lab);
}

/// The words before those of a daemon with a watchdog of a second. It is for `process`, or for the daemon itself if
/// that is empty.
fn watched<'a>(manager: &'a Manager, process: &'a str) -> [&'a str; 7] {
    let script = "export WATCHDOG_USEC=1000000 WATCHDOG_PID=${1:-$$}; shift; exec \"$@\"";
    ["env", &manager.socket, "sh", "-c", script, "sh", process]
}

#[test]
fn the_watchdog_hears_nothing_while_a_worker_stands_still() {
    let lab = Lab::up("watchdog", "nat4", &["--no-daemon"]);
    let manager = Manager::new(&lab);
    let daemon = Daemon::start(&lab, &watched(&manager, ""));
    wait_for("pings", || manager.pings() >= 3);

    let thread = fs::read_dir(format!("/proc/{}/task", daemon.pid().as_raw_nonzero()))
        .unwrap()
        .map(|task| task.unwrap().path())
        .find(|task| fs::read_to_string(task.join("comm")).unwrap() == "open-0\n")
        .unwrap();
    let thread = Pid::from_raw(thread.file_name().unwrap().to_str().unwrap().parse().unwrap());
    let queue = lab.show("queues").as_array().unwrap().iter().find(|q| q["class"] == "open").unwrap().clone();
    // A debugger stops one thread alone.
    ptrace::seize(thread, ptrace::Options::empty()).unwrap();
    ptrace::interrupt(thread).unwrap();
    waitpid(thread, Some(WaitPidFlag::__WALL)).unwrap();
    let complaint = format!(
        "ERROR a worker stands still; the watchdog hears nothing queue={} patience=1s",
        queue["queue"]
    );
    let complaints = |count: usize| {
        wait_for(&complaint, || lab.log().matches(&complaint).count() >= count);
        manager.pings()
    };
    let pings = complaints(1);
    assert_eq!(complaints(4), pings);
    assert!(lab.log().lines().filter(|line| line.contains("ERROR")).all(|line| line.contains(&complaint)));

    ptrace::detach(thread, None).unwrap();
    wait_for("pings", || manager.pings() >= pings + 3);
    assert_serves(&lab);
    assert_eq!(daemon.end(Signal::TERM).code(), Some(0));
}

#[test]
fn a_watchdog_of_another_process_hears_nothing() {
    let lab = Lab::up("watchdog-pid", "nat4", &["--no-daemon"]);
    let manager = Manager::new(&lab);
    let _daemon = Daemon::start(&lab, &watched(&manager, "1"));
    // News of a tick: the first one would have had a ping.
    lab.request(&json!({ "command": "add-service",
                         "service": { "protocol": "udp", "address": "10.0.0.101", "port": 53 } }));
    wait_for("the state", || manager.news().len() == 2);
    assert_eq!(manager.pings(), 0);
}
