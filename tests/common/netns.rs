//! Network namespaces that vanish with the test, however it ends.

use std::fs::File;
use std::os::fd::AsRawFd;
use std::panic::resume_unwind;
use std::process::Command;
use std::thread;

use nix::sched::{CloneFlags, setns, unshare};

/// A network namespace with its loopback up. It lives as long as this value, and as threads and sockets in it.
pub(crate) struct Namespace(File);

impl Namespace {
    /// Makes a namespace. Needs root.
    pub(crate) fn new() -> Namespace {
        let namespace = on_own_thread(|| {
            unshare(CloneFlags::CLONE_NEWNET).expect("unshare needs root");
            Namespace(File::open("/proc/thread-self/ns/net").expect("open the namespace"))
        });
        namespace.enter(|| run("ip link set lo up"));
        namespace
    }

    /// Runs `work` on a thread in this namespace. Sockets it makes stay in the namespace.
    pub(crate) fn enter<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        on_own_thread(|| {
            setns(&self.0, CloneFlags::CLONE_NEWNET).expect("enter the namespace");
            work()
        })
    }

    /// How `ip link set DEVICE netns` calls it.
    pub(crate) fn path(&self) -> String {
        format!("/proc/{}/fd/{}", std::process::id(), self.0.as_raw_fd())
    }
}

/// Runs a test in a namespace of its own.
pub(crate) fn isolated(test: impl FnOnce() + Send) {
    Namespace::new().enter(test);
}

/// Runs a command, its words separated by spaces, in the namespace of this thread; returns what it printed.
pub(crate) fn run(command: &str) -> String {
    let mut words = command.split_whitespace();
    let output = Command::new(words.next().expect("a command")).args(words).output();
    let output = output.unwrap_or_else(|error| panic!("{command}: {error}"));
    assert!(output.status.success(), "{command}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("text")
}

/// A thread can leave its namespace, but its caller must not notice.
pub(super) fn on_own_thread<T: Send>(work: impl FnOnce() -> T + Send) -> T {
    thread::scope(|scope| scope.spawn(work).join()).unwrap_or_else(|panic| resume_unwind(panic))
}
