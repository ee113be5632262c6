//! Clients do not notice that another director goes on with their connections.

use super::clients::{Clients, Wanted};
use super::common::lab::{Lab, text, wait_for};
use super::{SECOND, VIPS, config, endpoint, pause, reload};
use serde_json::{Value, json};
use std::fs;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::Duration;

/// As many go through the directors; a download takes fifteen seconds.
const WANTED: Wanted = Wanted { downloads: 500, flows: 50, piece: 8_192, every: Duration::from_millis(100) };
const LENGTH: usize = 1_200_000;

/// Whether a director has all connections of the clients, as such that go on.
pub(super) fn knows(shown: &Value, clients: &Clients) -> bool {
    let shown = shown.as_array().expect("a list");
    let of = |protocol: &str, state: &str| {
        shown.iter().filter(|it| it["protocol"] == protocol && it["state"] == state).count()
    };
    of("tcp", "ESTABLISHED") >= clients.wanted.downloads && of("udp", "UDP") >= clients.wanted.flows
}

/// Runs all clients until they have what they want.
pub(super) fn run_clients(lab: &Lab, file: &Arc<Vec<u8>>, clients: &Arc<Clients>) {
    let [web, echo] = [80, 7].map(|port| VIPS.map(|vip| endpoint(vip, port)));
    let ran = lab.enter("c1", || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(clients.run(file, &web, &echo))
    });
    ran.expect("no client fails");
}

/// Has the servers know the file that is downloaded, of this length.
pub(super) fn put_file(lab: &Lab, length: usize) -> Arc<Vec<u8>> {
    let file: Vec<u8> = (0..length as u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
    fs::create_dir_all(lab.file("files")).unwrap();
    fs::write(lab.file("files/large"), &file).unwrap();
    Arc::new(file)
}

/// The addresses of whoever is in charge, by interface.
const IN_CHARGE: [(&str, [&str; 2]); 2] =
    [("front", ["10.0.1.1/24", "fd00:1::1/64"]), ("back", ["10.0.2.1/24", "fd00:2::1/64"])];

/// Gives a node the addresses of whoever is in charge, and has the others know of it, as VRRP would.
fn take_charge(lab: &Lab, node: &str) {
    // Without one, a router asks for no neighbour; a link that was down has lost it.
    let link_local = if node == SECOND { "fe80::d2/64" } else { "fe80::d1/64" };
    for (interface, addresses) in IN_CHARGE {
        lab.run(node, &["ip", "link", "set", interface, "up"]);
        lab.shell(node, &format!("ip address replace {link_local} dev {interface} nodad"));
        for address in addresses {
            lab.shell(node, &format!("ip address replace {address} dev {interface} nodad"));
        }
    }
    for node in ["c1", "s1", "s2", "s3"] {
        lab.shell(node, "ip neigh flush all");
    }
}

/// Ends a node's part: its links are down.
fn cut_off(lab: &Lab, node: &str) {
    for (interface, _) in IN_CHARGE {
        lab.run(node, &["ip", "link", "set", interface, "down"]);
    }
    give_up_charge(lab, node);
}

/// Takes the addresses of whoever is in charge from a node.
pub(super) fn give_up_charge(lab: &Lab, node: &str) {
    for (interface, addresses) in IN_CHARGE {
        for address in addresses {
            lab.shell(node, &format!("ip address delete {address} dev {interface} || true"));
        }
    }
}

#[test]
fn downloads_and_flows_outlive_their_director_and_the_next_one() {
    let lab = Lab::up("sync-takeover", "pair", &[]);
    let file = put_file(&lab, LENGTH);
    let both = |interface: &str| {
        let side = json!({ "interface": interface, "syncid": 1 });
        json!({ "master": side, "backup": side })
    };
    reload(&lab, both(SECOND));
    let second_config = config(&lab, both("director"));
    let mut second = Some(lab.start_in(SECOND, &second_config));

    let clients = Clients::new(WANTED);
    thread::scope(|scope| {
        let running = scope.spawn(|| run_clients(&lab, &file, &clients));
        wait_for("all downloads to begin", || clients.have_begun() || running.is_finished());
        let backup = second.as_ref().expect("it runs");
        wait_for("the second director to know all", || knows(&backup.show("connections"), &clients));

        // The first director dies.
        cut_off(&lab, "director");
        assert!(lab.script(&["daemon", "kill"]).status.success());
        take_charge(&lab, SECOND);
        let finished = clients.finished.load(Ordering::Relaxed);
        println!("first takeover: {finished} downloads had ended");

        // It comes back, learns all, and the second dies.
        lab.shell("director", "ip route replace default via 10.0.1.2 dev front || true");
        let first = lab.start_in("director", &config(&lab, both(SECOND)));
        wait_for("the first director to know all", || {
            knows(&first.show("connections"), &clients) || running.is_finished()
        });
        cut_off(&lab, SECOND);
        second.take().expect("it runs").kill();
        take_charge(&lab, "director");
        let finished = clients.finished.load(Ordering::Relaxed);
        assert!(finished < WANTED.downloads, "the downloads were too short to see the second takeover");
        println!("second takeover: {finished} downloads had ended");
        running.join().expect("no client fails");
        first.kill();
    });
    assert_eq!(clients.finished.load(Ordering::Relaxed), WANTED.downloads);
    println!("longest stall: {:?}", clients.longest_stall());
}

/// How many packets the rules of the director have dropped since nobody decides, by family.
fn unsaid(lab: &Lab) -> [u64; 2] {
    ["ip", "ip6"].map(|family| {
        let listing = lab.run("director", &["nft", "list", "chain", family, "nfvs", "silence"]);
        let counted = listing.split("counter packets ").nth(1).and_then(|rest| rest.split(' ').next());
        counted.and_then(|count| count.parse().ok()).expect("a counter")
    })
}

#[test]
fn a_daemon_that_dies_alone_resets_no_download_before_another_director_is_in_charge() {
    let lab = Lab::up("sync-alone", "pair", &[]);
    let file = put_file(&lab, LENGTH);
    reload(&lab, json!({ "master": { "interface": SECOND, "syncid": 1 } }));
    let others = json!({ "backup": { "interface": "director", "syncid": 1 } });
    let second = lab.start_in(SECOND, &config(&lab, others));

    let clients = Clients::new(WANTED);
    thread::scope(|scope| {
        let running = scope.spawn(|| run_clients(&lab, &file, &clients));
        wait_for("all downloads to begin", || clients.have_begun() || running.is_finished());
        wait_for("the second director to know all", || knows(&second.show("connections"), &clients));
        assert_eq!(unsaid(&lab), [0, 0], "the daemon decides about all");

        // Its links are up, and its addresses where they were, for as long as VRRP takes to notice.
        assert!(lab.script(&["daemon", "kill"]).status.success());
        pause(Duration::from_secs(2));
        assert!(unsaid(&lab).iter().all(|&packets| packets > 0));
        let finished = clients.finished.load(Ordering::Relaxed);
        assert!(finished < WANTED.downloads, "the downloads were too short to see the takeover");
        give_up_charge(&lab, "director");
        take_charge(&lab, SECOND);
        running.join().expect("no client fails");
    });
    assert_eq!(clients.finished.load(Ordering::Relaxed), WANTED.downloads);
    println!("longest stall: {:?}", clients.longest_stall());

    // The next daemon is as silent when it dies; one that is no master says what it does.
    let is_silent = || {
        let set = lab.run("director", &["nft", "list", "set", "ip", "nfvs", "silent"]);
        set.contains("elements")
    };
    assert!(is_silent());
    assert!(lab.script(&["daemon", "start"]).status.success());
    assert!(is_silent(), "started with it");
    for (change, expected) in [
        (["sync", "stop", "master"].as_slice(), false),
        (&["sync", "start", "master"], true),
        (&["sync", "backup"], false),
        (&["sync", "master"], true),
    ] {
        let changed = lab.nfvs(change);
        assert!(changed.status.success(), "{}", text(&changed.stderr));
        assert_eq!(is_silent(), expected, "{change:?}");
    }
    reload(&lab, json!({}));
    assert!(!is_silent(), "reloaded without it");
    reload(&lab, json!({ "master": { "interface": SECOND, "syncid": 1 } }));
    assert!(is_silent(), "reloaded with it");
}
