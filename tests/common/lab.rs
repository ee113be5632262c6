//! Drives `netns-lab/lab`: a scenario is up while a [`Lab`] lives.

use super::netns::on_own_thread;
use nix::sched::{CloneFlags, setns};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use std::fs::{self, File};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicU16, AtomicU32, Ordering};
use std::thread::sleep;
use std::time::{Duration, Instant};

/// How long a condition may take before a test gives up on it.
const PATIENCE: Duration = Duration::from_secs(15);

/// A lab that is up; dropping it takes everything down.
pub(crate) struct Lab {
    name: String,
    /// Held while the lab is up: tests of two checkouts have labs of the same names.
    _name_is_taken: File,
}

/// Waits until nobody has a lab of this name.
pub(crate) fn take_name(name: &str) -> File {
    let lock = File::create(format!("/tmp/nfvs-lab-{name}.lock")).expect("tests of the lab run as root");
    lock.lock().expect("a file lock");
    lock
}

impl Lab {
    /// Brings up a scenario. `name` is the lab's; `options` go to `lab up`.
    #[track_caller]
    pub(crate) fn up(name: &str, scenario: &str, options: &[&str]) -> Lab {
        let name = format!("t-{name}");
        let lab = Lab { _name_is_taken: take_name(&name), name };
        // What a killed test run may have left.
        lab.script(&["down"]);
        let up = lab.script(&[&["up", scenario], options].concat());
        assert!(up.status.success(), "lab up {scenario} {options:?}: {}", text(&up.stderr));
        lab
    }

    /// Runs `lab ARGUMENTS`.
    pub(crate) fn script(&self, arguments: &[&str]) -> Output {
        Command::new(concat!(env!("CARGO_MANIFEST_DIR"), "/netns-lab/lab"))
            .args(arguments)
            .env("LAB_NAME", &self.name)
            .env("NFVS_BIN", env!("CARGO_BIN_EXE_nfvs"))
            .output()
            .expect("the lab's script")
    }

    /// A command in a node, not started yet.
    pub(crate) fn command(&self, node: &str, words: &[&str]) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.namespace(node)]).args(words).stdin(Stdio::null());
        command
    }

    /// Runs a command in a node and returns what it printed; it has to succeed.
    #[track_caller]
    pub(crate) fn run(&self, node: &str, words: &[&str]) -> String {
        let output = self.try_run(node, words);
        let (stdout, stderr) = (text(&output.stdout), text(&output.stderr));
        assert!(output.status.success(), "{words:?} in {node}: {}\n{stdout}{stderr}", output.status);
        stdout
    }

    /// Runs a command in a node, whatever comes of it.
    pub(crate) fn try_run(&self, node: &str, words: &[&str]) -> Output {
        self.command(node, words).output().expect("ip netns exec")
    }

    /// Runs shell text in a node; it has to succeed.
    #[track_caller]
    pub(crate) fn shell(&self, node: &str, script: &str) -> String {
        self.run(node, &["bash", "-euo", "pipefail", "-c", script])
    }

    /// How often each server answers `count` HTTP requests from a node, a connection each, with these options of curl.
    #[track_caller]
    pub(crate) fn answers(
        &self,
        node: &str,
        url: &str,
        count: u16,
        options: &[&str],
    ) -> Vec<(String, usize)> {
        const REQUESTS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/netns-lab/lib/requests");
        let first = unused_ports(count).start.to_string();
        tally(&self.run(node, &[&[REQUESTS, &first, &count.to_string(), url], options].concat()))
    }

    /// How often each DNS server answers `count` questions from a node, from a port each.
    #[track_caller]
    pub(crate) fn names(&self, node: &str, server: &str, count: u16) -> Vec<(String, usize)> {
        let any = if server.contains(':') { "::" } else { "0.0.0.0" };
        let Range { start, end } = unused_ports(count);
        let names = self.shell(
            node,
            &format!(
                "for ((port = {start}; port < {end}; port++)); do
                    dig -b {any}#$port @{server} +short +tries=1 +time=3 +nocookie server.lab TXT
                done"
            ),
        );
        tally(&names.replace('"', ""))
    }

    /// Starts a daemon with this configuration in another node than the director, and waits until it answers.
    #[track_caller]
    pub(crate) fn start_in(&self, node: &str, config: &Value) -> OtherDaemon {
        let [file, socket, log] = ["json", "sock", "log"].map(|end| self.file(&format!("{node}.{end}")));
        fs::write(&file, config.to_string()).expect("a file of the lab");
        let child = self
            .command(node, &[env!("CARGO_BIN_EXE_nfvs"), "run", "--config"])
            .arg(&file)
            .arg("--socket")
            .arg(&socket)
            .stderr(File::create(&log).expect("a file of the lab"))
            .spawn()
            .expect("ip netns exec");
        let other = OtherDaemon { running: Running(Some(child)), config: file, socket };
        wait_for(&format!("the daemon in {node}; see {}", log.display()), || {
            other.nfvs(&["show", "services"]).status.success()
        });
        other
    }

    /// Starts `wrk` with these arguments on `c1`, for longer than any test takes; see [`Running::end_load`].
    pub(crate) fn load(&self, arguments: &[&str]) -> Running {
        self.spawn("c1", &[&["wrk", "-t1", "-d10m"], arguments].concat())
    }

    /// Starts a command in a node; it is ended when the value is dropped.
    pub(crate) fn spawn(&self, node: &str, words: &[&str]) -> Running {
        let child = self
            .command(node, words)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("ip netns exec");
        Running(Some(child))
    }

    /// Starts to watch the packets of a node that fit tcpdump's `filter`.
    #[track_caller]
    pub(crate) fn capture(&self, node: &str, filter: &str) -> Capture {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let file = self.file(&format!("capture-{}", COUNT.fetch_add(1, Ordering::Relaxed)));
        let errors = file.with_extension("errors");
        let child = self
            .command(node, &["tcpdump", "-i", "any", "-n", "-v", "-l", "--immediate-mode", filter])
            .stdout(File::create(&file).expect("a file of the lab"))
            .stderr(File::create(&errors).expect("a file of the lab"))
            .spawn()
            .expect("ip netns exec");
        let capture = Capture { file, _running: Running(Some(child)) };
        wait_for("tcpdump", || fs::read_to_string(&errors).is_ok_and(|said| said.contains("listening on")));
        capture
    }

    /// Runs `work` on a thread in a node. Sockets it makes stay there.
    pub(crate) fn enter<T: Send>(&self, node: &str, work: impl FnOnce() -> T + Send) -> T {
        let namespace = File::open(Path::new("/run/netns").join(self.namespace(node))).expect("the node");
        on_own_thread(|| {
            setns(&namespace, CloneFlags::CLONE_NEWNET).expect("enter the node");
            work()
        })
    }

    /// Asks the daemon: `nfvs show WHAT --json`.
    #[track_caller]
    pub(crate) fn show(&self, what: &str) -> Value {
        shown(&self.nfvs(&["show", what, "--json"]))
    }

    /// Sends a request that has to be granted.
    #[track_caller]
    pub(crate) fn request(&self, request: &Value) {
        let output = self.nfvs(&["request", &request.to_string()]);
        assert!(output.status.success(), "{request}: {}", text(&output.stdout));
    }

    /// Runs `nfvs ARGUMENTS` against this lab's daemon.
    pub(crate) fn nfvs(&self, arguments: &[&str]) -> Output {
        nfvs(arguments, &self.file("nfvs.sock"))
    }

    /// A file of the lab: `nfvs.json`, `nfvs.sock`, `log/daemon`, ...
    pub(crate) fn file(&self, name: &str) -> PathBuf {
        Path::new("/tmp/nfvs-lab").join(&self.name).join(name)
    }

    /// The network namespace of a node.
    pub(crate) fn namespace(&self, node: &str) -> String {
        format!("{}-{node}", self.name)
    }

    /// What the daemon has logged.
    pub(crate) fn log(&self) -> String {
        fs::read_to_string(self.file("log/daemon")).unwrap_or_default()
    }

    /// Checks that no queue has lost a packet, and that all become empty.
    #[track_caller]
    pub(crate) fn assert_queues_lost_nothing(&self) {
        for queue in self.show("queues").as_array().expect("a list") {
            for counter in ["dropped", "user_dropped", "refused", "lost"] {
                assert_eq!(queue[counter], 0, "{queue}");
            }
        }
        // wrk leaves the ends of its connections behind.
        wait_for("empty queues", || {
            self.show("queues").as_array().expect("a list").iter().all(|queue| queue["waiting"] == 0)
        });
    }

    /// Checks that the director's kernel has made ICMP redirects of both families, and that none of them is captured: the
    /// rules have dropped them.
    #[track_caller]
    pub(crate) fn assert_no_redirects(&self, captured: &Capture) {
        for (family, name) in [("ip", "redirect"), ("ip6", "nd-redirect")] {
            let chain = self.run("director", &["nft", "list", "chain", family, "nfvs", "output"]);
            let dropped = chain.lines().find(|line| line.contains(name)).expect("a rule about redirects");
            assert!(!dropped.contains("packets 0 "), "{dropped}");
        }
        assert_eq!(captured.text(), "");
    }

    /// Asks each of the two services of a selftest's network three times; all has to arrive.
    #[track_caller]
    pub(crate) fn assert_six_arrive(&self) {
        let asked = self.script(&["ask", "3"]);
        assert!(asked.status.success(), "{}", text(&asked.stderr));
        assert_eq!(text(&asked.stdout).matches(" arrived\n").count(), 6, "{}", text(&asked.stdout));
    }

    /// Asserts that no node's kernel has seen a wrong checksum.
    #[track_caller]
    pub(crate) fn assert_no_checksum_errors(&self) {
        let nodes = fs::read_to_string(self.file("nodes")).expect("the lab's nodes");
        for node in nodes.lines() {
            let counters = self.run(node, &["cat", "/proc/net/snmp", "/proc/net/snmp6"]);
            for (name, count) in checksum_errors(&counters) {
                assert_eq!(count, 0, "{name} in {node}");
            }
        }
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("--- the daemon's log\n{}---", self.log());
        }
        let down = self.script(&["down"]);
        if !down.status.success() && !std::thread::panicking() {
            panic!("lab down: {}", text(&down.stderr));
        }
    }
}

/// A daemon in another node than the director; it is killed when the value is dropped, which is to be before its node
/// goes.
pub(crate) struct OtherDaemon {
    running: Running,
    config: PathBuf,
    socket: PathBuf,
}

impl OtherDaemon {
    /// Runs `nfvs ARGUMENTS` against it.
    pub(crate) fn nfvs(&self, arguments: &[&str]) -> Output {
        nfvs(arguments, &self.socket)
    }

    /// Asks it: `nfvs show WHAT --json`.
    #[track_caller]
    pub(crate) fn show(&self, what: &str) -> Value {
        shown(&self.nfvs(&["show", what, "--json"]))
    }

    /// Gives it another configuration.
    #[track_caller]
    pub(crate) fn reload(&self, config: &Value) {
        fs::write(&self.config, config.to_string()).expect("a file of the lab");
        let reloaded = self.nfvs(&["reload"]);
        assert!(reloaded.status.success(), "{}", text(&reloaded.stderr));
    }

    /// Ends it by `kill -9`.
    pub(crate) fn kill(self) {
        drop(self.running);
    }
}

/// Runs `nfvs ARGUMENTS` against the daemon with this control socket.
fn nfvs(arguments: &[&str], socket: &Path) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_nfvs"));
    command.args(arguments).arg("--socket").arg(socket).output().expect("nfvs")
}

/// What was shown as JSON.
#[track_caller]
fn shown(output: &Output) -> Value {
    assert!(output.status.success(), "{}", text(&output.stderr));
    serde_json::from_slice(&output.stdout).expect("JSON")
}

/// A command that runs in a node.
pub(crate) struct Running(Option<Child>);

impl Running {
    /// Waits for the end and returns what was printed; the command has to succeed.
    #[track_caller]
    pub(crate) fn finish(mut self) -> String {
        let output = self.0.take().expect("not finished").wait_with_output().expect("its end");
        let (stdout, stderr) = (text(&output.stdout), text(&output.stderr));
        assert!(output.status.success(), "{}\n{stdout}{stderr}", output.status);
        stdout
    }

    /// Interrupts a load that `wrk` makes and returns what it says of it: no request has failed.
    #[track_caller]
    pub(crate) fn end_load(self) -> String {
        let id = self.0.as_ref().expect("not finished").id();
        kill_process(Pid::from_raw(id.cast_signed()).expect("a pid"), Signal::INT).expect("it runs");
        let said = self.finish();
        assert!(!said.contains("Socket errors") && !said.contains("Non-2xx"), "{said}");
        said
    }

    /// Whether the command has ended.
    pub(crate) fn has_ended(&mut self) -> bool {
        self.0.as_mut().expect("not finished").try_wait().expect("its state").is_some()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Some(child) = &mut self.0 {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// The packets of a node, as tcpdump describes them; no more of them once the value is dropped.
pub(crate) struct Capture {
    file: PathBuf,
    _running: Running,
}

impl Capture {
    /// What has been seen.
    pub(crate) fn text(&self) -> String {
        fs::read_to_string(&self.file).expect("the capture")
    }

    /// Waits until a packet's description has `what` in it, and returns all there are.
    #[track_caller]
    pub(crate) fn wait_for(&self, what: &str) -> String {
        wait_for(what, || self.text().contains(what));
        self.text()
    }
}

/// Waits until `condition` holds.
#[track_caller]
#[expect(clippy::disallowed_methods, reason = "tests wait in real time")]
pub(crate) fn wait_for(what: &str, mut condition: impl FnMut() -> bool) {
    let start = Instant::now();
    while !condition() {
        assert!(start.elapsed() < PATIENCE, "{what}: not within {PATIENCE:?}");
        sleep(Duration::from_millis(20));
    }
}

/// Bytes as text.
pub(crate) fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// So many ports of clients that no other call gets; `lib/requests` says what they are for.
fn unused_ports(count: u16) -> Range<u16> {
    static NEXT: AtomicU16 = AtomicU16::new(10_000);
    let start = NEXT.fetch_add(count, Ordering::Relaxed);
    start..start + count
}

/// How often each line occurs, by line.
pub(crate) fn tally(lines: &str) -> Vec<(String, usize)> {
    let mut counts = std::collections::BTreeMap::new();
    for line in lines.lines() {
        *counts.entry(line.to_owned()).or_default() += 1;
    }
    counts.into_iter().collect()
}

/// The counters of wrong checksums among those of /proc/net/snmp and /proc/net/snmp6.
fn checksum_errors(counters: &str) -> Vec<(String, u64)> {
    let mut found = Vec::new();
    let mut names: Vec<&str> = Vec::new();
    for line in counters.lines() {
        let words: Vec<&str> = line.split_whitespace().collect();
        match words.as_slice() {
            // /proc/net/snmp6: a name and a number.
            [name, count] if !name.ends_with(':') => {
                if name.ends_with("CsumErrors") {
                    found.push(((*name).to_owned(), count.parse().expect("a number")));
                }
            }
            // /proc/net/snmp: a line of names, then one of numbers.
            [_, first, ..] if first.parse::<i64>().is_err() => names = words,
            _ => {
                for (name, count) in names.iter().zip(&words).filter(|(name, _)| **name == "InCsumErrors") {
                    found.push((format!("{}{name}", words[0]), count.parse().expect("a number")));
                }
            }
        }
    }
    assert!(found.len() >= 5, "TCP, UDP and ICMP count wrong checksums: {found:?}");
    found
}
