//! The real keepalived moves the addresses and gives the directors their roles, by the examples that are installed.

use super::clients::{Clients, Wanted};
use super::common::lab::{Lab, OtherDaemon, text, wait_for};
use super::takeover::{give_up_charge, knows, put_file, run_clients};
use super::{SECOND, config};
use rustix::process::{Pid, Signal, kill_process, kill_process_group};
use serde_json::{Value, json};
use std::fs::{self, File};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Child;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::Duration;

/// A download lasts for 25 seconds: there are two takeovers, and keepalived needs a few seconds to notice.
const LENGTH: usize = 2_000_000;
const WANTED: Wanted = Wanted { downloads: 60, flows: 10, piece: 8_192, every: Duration::from_millis(100) };

/// A keepalived in a node. It ends with this, before its node goes.
struct Keepalived(Child);

impl Keepalived {
    /// Runs one in `node` with an example, and has it ask and tell the daemon of this control socket.
    #[track_caller]
    fn start(lab: &Lab, node: &str, example: &str, socket: &str) -> Keepalived {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("packaging/examples").join(example);
        let mut text = fs::read_to_string(&path).expect("an example");
        for (there, here) in [
            ("\nnet_namespace blue\n", "\n"),
            ("/usr/bin/nfvs ", &format!("{} ", env!("CARGO_BIN_EXE_nfvs"))),
            ("--netns blue\"", &format!("--socket {}\"", lab.file(socket).display())),
            ("interface eth0\n", "interface front\n"),
            ("interface eth1\n", "interface back\n"),
            ("192.0.2.100/24\n", "10.0.0.100/32\n"),
            ("2001:db8::100/64\n", "fd00::100/128\n"),
        ] {
            assert!(text.contains(there), "{example} lacks {there:?}");
            text = text.replace(there, here);
        }
        let [file, log] = ["conf", "log"].map(|end| lab.file(&format!("keepalived-{node}.{end}")));
        fs::write(&file, text).expect("a file of the lab");
        let log = File::create(&log).expect("a file of the lab");
        let mut command = lab.command(node, &["keepalived", "--dont-fork", "--log-console", "--vrrp"]);
        for (option, end) in [("--pid", "pid"), ("--vrrp_pid", "vrrp-pid")] {
            command.arg(option).arg(lab.file(&format!("keepalived-{node}.{end}")));
        }
        command.arg("--use-file").arg(file);
        // Of its own group, so that its children can be ended with it.
        command.stderr(log.try_clone().expect("a file")).stdout(log).process_group(0);
        Keepalived(command.spawn().expect("ip netns exec"))
    }

    fn pid(&self) -> Pid {
        Pid::from_raw(self.0.id().cast_signed()).expect("a pid")
    }

    /// Ends it as a service manager does; it gives up its addresses.
    fn stop(mut self) {
        kill_process(self.pid(), Signal::TERM).expect("it runs");
        wait_for("the end of keepalived", || self.0.try_wait().expect("its state").is_some());
    }
}

impl Drop for Keepalived {
    fn drop(&mut self) {
        // Nothing is left of one that was stopped.
        let _ = kill_process_group(self.pid(), Signal::KILL);
        let _ = self.0.wait();
    }
}

/// Whether a node has the addresses of whoever is in charge, and its daemon, which shows this, their role.
fn is_in_charge(lab: &Lab, node: &str, sync: &Value) -> bool {
    let has = |interface: &str, addresses: [&str; 2]| {
        let shown = lab.run(node, &["ip", "-brief", "address", "show", "dev", interface]);
        addresses.iter().all(|address| shown.contains(address))
    };
    let addresses =
        has("front", ["10.0.0.100/32", "fd00::100/128"]) && has("back", ["10.0.2.1/24", "fd00:2::1/64"]);
    addresses && !sync["master"].is_null() && sync["backup"].is_null()
}

fn is_backup(sync: &Value) -> bool {
    sync["master"].is_null() && !sync["backup"].is_null()
}

#[test]
fn keepalived_moves_addresses_and_roles_and_downloads_go_on() {
    let lab = Lab::up("sync-keepalived", "pair", &[]);
    let file = put_file(&lab, LENGTH);
    // Clients and servers ask for addresses that keepalived moves.
    give_up_charge(&lab, "director");
    lab.shell(
        "c1",
        "ip route replace 10.0.0.100/32 dev front && ip -6 route replace fd00::100/128 dev front",
    );
    let example = Path::new(env!("CARGO_MANIFEST_DIR")).join("packaging/examples/pair.json");
    let example: Value = serde_json::from_slice(&fs::read(example).unwrap()).expect("JSON");
    let with_interface = |interface: &str| {
        let mut sync = example["sync"].clone();
        sync["backup"]["interface"] = json!(interface);
        config(&lab, sync)
    };
    fs::write(lab.file("nfvs.json"), with_interface(SECOND).to_string()).unwrap();
    let reloaded = lab.nfvs(&["reload"]);
    assert!(reloaded.status.success(), "{}", text(&reloaded.stderr));
    let second: OtherDaemon = lab.start_in(SECOND, &with_interface("director"));

    let first_keepalived = Keepalived::start(&lab, "director", "keepalived-first.conf", "nfvs.sock");
    wait_for("the first director to be in charge", || is_in_charge(&lab, "director", &lab.show("sync")));
    let second_keepalived = Keepalived::start(&lab, SECOND, "keepalived-second.conf", "second.sock");

    let clients = Clients::new(WANTED);
    thread::scope(|scope| {
        let running = scope.spawn(|| run_clients(&lab, &file, &clients));
        wait_for("all downloads to begin", || clients.have_begun() || running.is_finished());
        wait_for("the second director to know all", || knows(&second.show("connections"), &clients));
        assert!(is_backup(&second.show("sync")), "{}", second.show("sync"));

        // The first director's daemon dies, and nothing else: keepalived asks it in vain.
        assert!(lab.script(&["daemon", "kill"]).status.success());
        wait_for("the second director to be in charge", || is_in_charge(&lab, SECOND, &second.show("sync")));
        let finished = clients.finished.load(Ordering::Relaxed);
        println!("first takeover: {finished} downloads had ended");

        // It comes back, as the backup that the file says, and learns all. Then the link of the second is cut.
        assert!(lab.script(&["daemon", "start"]).status.success());
        wait_for("the first director to know all", || {
            knows(&lab.show("connections"), &clients) || running.is_finished()
        });
        assert!(is_backup(&lab.show("sync")), "{}", lab.show("sync"));
        lab.run("front", &["ip", "link", "set", SECOND, "down"]);
        wait_for("the first director to be in charge again", || {
            is_in_charge(&lab, "director", &lab.show("sync"))
        });
        wait_for("the second director to be backup", || is_backup(&second.show("sync")));
        let finished = clients.finished.load(Ordering::Relaxed);
        assert!(finished < WANTED.downloads, "the downloads were too short to see the second takeover");
        println!("second takeover: {finished} downloads had ended");
        running.join().expect("no client fails");
    });
    assert_eq!(clients.finished.load(Ordering::Relaxed), WANTED.downloads);

    // The link is there again; keepalived, ended in good order, hands over to the other one.
    lab.run("front", &["ip", "link", "set", SECOND, "up"]);
    first_keepalived.stop();
    wait_for("the second director to be in charge again", || {
        is_in_charge(&lab, SECOND, &second.show("sync"))
    });
    assert!(!is_in_charge(&lab, "director", &lab.show("sync")), "its addresses are gone");
    second_keepalived.stop();
    second.kill();
}
