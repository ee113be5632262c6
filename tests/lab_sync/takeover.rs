//! Clients do not notice that another director goes on with their connections.

use super::common::lab::{Lab, text, wait_for};
use super::{SECOND, VIPS, config, endpoint, pause, reload};
use serde_json::{Value, json};
use std::fs;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::task::JoinSet;

/// How many downloads, and flows of datagrams, go through the directors.
const DOWNLOADS: usize = 500;
const FLOWS: usize = 50;
/// A download's length, and how much of it a client takes at once, and how often: for fifteen seconds.
const LENGTH: usize = 1_200_000;
const PIECE: usize = 8_192;
const EVERY: Duration = Duration::from_millis(100);
/// A download that gets nothing for so long is lost.
const STALL: Duration = Duration::from_secs(60);

/// What clients report while they run.
pub(super) struct Clients {
    downloads: usize,
    flows: usize,
    pub(super) started: AtomicUsize,
    pub(super) finished: AtomicUsize,
    stop: AtomicBool,
    longest_stall_millis: AtomicUsize,
}

impl Clients {
    /// Clients that want so many downloads, and exchange datagrams on so many flows.
    pub(super) fn new(downloads: usize, flows: usize) -> Arc<Clients> {
        let [started, finished, longest_stall_millis] = [0; 3].map(AtomicUsize::new);
        let stop = AtomicBool::new(false);
        Arc::new(Clients { downloads, flows, started, finished, stop, longest_stall_millis })
    }

    /// Whether all downloads have begun.
    pub(super) fn have_begun(&self) -> bool {
        self.started.load(Ordering::Relaxed) == self.downloads
    }

    /// Whether a director has all connections of the clients, as such that go on.
    pub(super) fn are_known(&self, shown: &Value) -> bool {
        let shown = shown.as_array().expect("a list");
        let of = |protocol: &str, state: &str| {
            shown.iter().filter(|it| it["protocol"] == protocol && it["state"] == state).count()
        };
        of("tcp", "ESTABLISHED") >= self.downloads && of("udp", "UDP") >= self.flows
    }

    fn note_stall(&self, stall: Duration) {
        self.longest_stall_millis.fetch_max(stall.as_millis() as usize, Ordering::Relaxed);
    }
}

/// Downloads the file slowly; what arrives is what was sent.
async fn download(vip: SocketAddr, file: Arc<Vec<u8>>, clients: Arc<Clients>) {
    let socket =
        if vip.is_ipv4() { tokio::net::TcpSocket::new_v4() } else { tokio::net::TcpSocket::new_v6() };
    let socket = socket.expect("a socket");
    // Or the kernel would take the whole file at once.
    socket.set_recv_buffer_size(16 * 1024).expect("a buffer");
    let mut stream = socket.connect(vip).await.expect("a connection");
    stream.write_all(b"GET /files/large HTTP/1.0\r\nHost: lab\r\n\r\n").await.expect("a request");
    let (mut received, mut piece) = (Vec::new(), vec![0; PIECE]);
    let mut last = tokio::time::Instant::now();
    loop {
        let read = tokio::time::timeout(STALL, stream.read(&mut piece)).await;
        let length = read.expect("a download that goes on").expect("no reset");
        clients.note_stall(last.elapsed());
        last = tokio::time::Instant::now();
        if received.is_empty() {
            clients.started.fetch_add(1, Ordering::Relaxed);
        }
        received.extend_from_slice(&piece[..length]);
        if length == 0 {
            break;
        }
        tokio::time::sleep(EVERY).await;
    }
    let body = received.windows(4).position(|bytes| bytes == b"\r\n\r\n").expect("the end of the header") + 4;
    assert!(received[body..] == file[..], "{} bytes instead of {}", received.len() - body, file.len());
    clients.finished.fetch_add(1, Ordering::Relaxed);
}

/// Exchanges datagrams until told to stop; some may be lost, and none is another's.
async fn chat(vip: SocketAddr, number: usize, clients: Arc<Clients>) {
    let any: SocketAddr = if vip.is_ipv4() { ([0; 4], 0).into() } else { ([0_u16; 8], 0).into() };
    let socket = tokio::net::UdpSocket::bind(any).await.expect("a socket");
    socket.connect(vip).await.expect("an address");
    let mut answer = [0; 64];
    let mut count = 0;
    while !clients.stop.load(Ordering::Relaxed) {
        count += 1;
        let question = format!("{number} {count}");
        // Refused is what a director without the virtual address says.
        let _ = socket.send(question.as_bytes()).await;
        if let Ok(Ok(length)) = tokio::time::timeout(EVERY * 5, socket.recv(&mut answer)).await {
            assert!(answer[..length].starts_with(format!("{number} ").as_bytes()), "another's answer");
        }
        tokio::time::sleep(EVERY).await;
    }
}

/// Runs all clients until they have what they want.
pub(super) fn run_clients(lab: &Lab, file: &Arc<Vec<u8>>, clients: &Arc<Clients>) {
    lab.enter("c1", || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let (mut downloads, mut flows) = (JoinSet::new(), JoinSet::new());
            for number in 0..clients.downloads {
                let (file, clients) = (Arc::clone(file), Arc::clone(clients));
                downloads.spawn(download(endpoint(VIPS[number % 2], 80), file, clients));
            }
            for number in 0..clients.flows {
                flows.spawn(chat(endpoint(VIPS[number % 2], 7), number, Arc::clone(clients)));
            }
            downloads.join_all().await;
            clients.stop.store(true, Ordering::Relaxed);
            flows.join_all().await;
        });
    });
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

    let clients = Clients::new(DOWNLOADS, FLOWS);
    thread::scope(|scope| {
        let running = scope.spawn(|| run_clients(&lab, &file, &clients));
        wait_for("all downloads to begin", || clients.have_begun() || running.is_finished());
        let backup = second.as_ref().expect("it runs");
        wait_for("the second director to know all", || clients.are_known(&backup.show("connections")));

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
            clients.are_known(&first.show("connections")) || running.is_finished()
        });
        cut_off(&lab, SECOND);
        second.take().expect("it runs").kill();
        take_charge(&lab, "director");
        let finished = clients.finished.load(Ordering::Relaxed);
        assert!(finished < DOWNLOADS, "the downloads were too short to see the second takeover");
        println!("second takeover: {finished} downloads had ended");
        running.join().expect("no client fails");
        first.kill();
    });
    assert_eq!(clients.finished.load(Ordering::Relaxed), DOWNLOADS);
    println!("longest stall: {} ms", clients.longest_stall_millis.load(Ordering::Relaxed));
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

    let clients = Clients::new(DOWNLOADS, FLOWS);
    thread::scope(|scope| {
        let running = scope.spawn(|| run_clients(&lab, &file, &clients));
        wait_for("all downloads to begin", || clients.have_begun() || running.is_finished());
        wait_for("the second director to know all", || clients.are_known(&second.show("connections")));
        assert_eq!(unsaid(&lab), [0, 0], "the daemon decides about all");

        // Its links are up, and its addresses where they were, for as long as VRRP takes to notice.
        assert!(lab.script(&["daemon", "kill"]).status.success());
        pause(Duration::from_secs(2));
        assert!(unsaid(&lab).iter().all(|&packets| packets > 0));
        let finished = clients.finished.load(Ordering::Relaxed);
        assert!(finished < DOWNLOADS, "the downloads were too short to see the takeover");
        give_up_charge(&lab, "director");
        take_charge(&lab, SECOND);
        running.join().expect("no client fails");
    });
    assert_eq!(clients.finished.load(Ordering::Relaxed), DOWNLOADS);
    println!("longest stall: {} ms", clients.longest_stall_millis.load(Ordering::Relaxed));

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
