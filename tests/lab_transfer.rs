//! Bulk data through a virtual address, both ways: whole, and without a wrong checksum anywhere.
//!
//! Every combination of backend, place of the server, kind of virtual address, offloads, family and place of the
//! client is run. A transfer is of 200 MB where the path differs most, 20 MB elsewhere: see [`size`].

mod common;

use common::lab::{Lab, text};
use std::fs;
use std::path::Path;
use std::process::Command;

const BACKENDS: [&str; 2] = ["batched", "nfq"];
const VIPS: [&str; 2] = ["none", "local"];
/// The service's name and URL, by family.
const SERVICES: [(&str, &str); 2] = [("web", "http://10.0.0.100"), ("web6", "http://[fd00::100]")];
const CLIENTS: [&str; 2] = ["c1", "director"];

const LARGE: u64 = 200_000_000;
const SMALL: u64 = 20_000_000;

/// Which interfaces hand on packets larger than a frame, with their checksums still owed.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Offloads {
    /// All, as the kernel makes them.
    On,
    /// None: every packet the director gets fits a frame and has its checksum.
    Off,
    /// Those of clients and servers: the director's kernel cuts and sums what nfvs has rewritten.
    OnAtTheEnds,
    /// None, but the director merges what it receives: nfvs gets large packets the kernel has put together.
    Merged,
}

impl Offloads {
    const ALL: [Offloads; 4] = [Offloads::On, Offloads::Off, Offloads::OnAtTheEnds, Offloads::Merged];

    /// Sets every interface of every node.
    #[track_caller]
    fn apply(self, lab: &Lab) {
        let nodes = fs::read_to_string(lab.file("nodes")).unwrap();
        for node in nodes.lines() {
            let is_director = node == "director";
            let (large, merge) = match self {
                Offloads::On => ("on", "off"),
                Offloads::Off => ("off", "off"),
                Offloads::OnAtTheEnds => (if is_director { "off" } else { "on" }, "off"),
                Offloads::Merged => ("off", if is_director { "on" } else { "off" }),
            };
            for interface in lab.run(node, &["ls", "/sys/class/net"]).lines() {
                let wanted = [("tx", large), ("gso", large), ("tso", large), ("gro", merge)];
                let words: Vec<&str> = wanted.iter().flat_map(|&(name, value)| [name, value]).collect();
                lab.run(node, &[&["ethtool", "-K", interface], &words[..]].concat());
                let features = lab.run(node, &["ethtool", "-k", interface]);
                for (name, value) in [
                    ("tx-checksumming", large),
                    ("tcp-segmentation-offload", large),
                    ("generic-segmentation-offload", large),
                    ("generic-receive-offload", merge),
                ] {
                    // A loopback interface cannot be made to compute checksums.
                    if !(interface == "lo" && name == "tx-checksumming") {
                        let line = format!("{name}: {value}\n");
                        assert!(features.contains(&line), "{node} {interface}: not {line}{features}");
                    }
                }
            }
        }
    }

    /// Whether the director gets packets larger than a frame from c1.
    fn gives_large_packets(self) -> bool {
        self != Offloads::Off
    }
}

/// How much is transferred. Over a link, offloads on and off: 200 MB for each backend, place of the server and family.
/// The kind of virtual address changes with backend and family, so that both meet each of them. What is left, the
/// mixed offloads and clients on the director, differs from those in who computes a checksum, not in what happens to
/// a long stream.
fn size(client: &str, offloads: Offloads, backend: &str, vip: &str, url: &str) -> u64 {
    let is_pure = matches!(offloads, Offloads::On | Offloads::Off);
    let vip_of_backend = if (backend == "nfq") ^ url.contains("[") { "local" } else { "none" };
    if client == "c1" && is_pure && vip == vip_of_backend { LARGE } else { SMALL }
}

#[track_caller]
fn assert_same(one: &Path, other: &Path, case: &str) {
    let output = Command::new("cmp").args([one, other]).output().unwrap();
    assert!(output.status.success(), "{case}: {}{}", text(&output.stdout), text(&output.stderr));
}

/// The bytes in a packet to the service's server, on average, since `before`; and the counters now.
fn mean_packet(lab: &Lab, service: &str, before: (u64, u64)) -> (u64, (u64, u64)) {
    let services = lab.show("services");
    let service = services.as_array().unwrap().iter().find(|shown| shown["name"] == service).unwrap();
    let count = |name: &str| service["stats"][name].as_u64().unwrap();
    let now = (count("in_bytes"), count("in_packets"));
    ((now.0 - before.0) / (now.1 - before.1).max(1), now)
}

/// Sends and fetches files through the virtual addresses of a scenario whose one server is in the node `server`.
fn transfer_in(scenario: &str, server: &str) {
    for (backend, vip) in BACKENDS.into_iter().flat_map(|backend| VIPS.map(|vip| (backend, vip))) {
        let lab = Lab::up("transfer", scenario, &["--backend", backend, "--vip", vip]);
        for queue in lab.show("queues").as_array().unwrap() {
            assert_eq!(queue["backend"], backend);
        }
        for size in [LARGE, SMALL] {
            let file = lab.file(&format!("files/{size}"));
            lab.shell("c1", &format!("head -c {size} /dev/urandom > {}", file.display()));
        }
        for offloads in Offloads::ALL {
            offloads.apply(&lab);
            for ((service, url), client) in
                SERVICES.into_iter().flat_map(|service| CLIENTS.map(|client| (service, client)))
            {
                let case = format!("{scenario}, {backend}, VIP {vip}, {offloads:?}, {url} from {client}");
                // Shown if the test fails.
                eprintln!("{case}");
                let size = size(client, offloads, backend, vip, url);

                let (_, before) = mean_packet(&lab, service, (0, 0));
                let file = lab.file(&format!("files/{size}"));
                let to = format!("{url}/upload/file");
                let curl = ["curl", "-sS", "--fail", "--max-time", "60"];
                lab.run(client, &[&curl[..], &["-T", file.to_str().unwrap(), &to]].concat());
                let stored = lab.file(&format!("{server}/upload/file"));
                assert_same(&file, &stored, &format!("upload: {case}"));
                fs::remove_file(stored).unwrap();
                let (mean, _) = mean_packet(&lab, service, before);
                if client == "c1" {
                    assert_eq!(mean > 1500, offloads.gives_large_packets(), "{mean} bytes a packet: {case}");
                }

                let fetched = lab.file("fetched");
                let from = format!("{url}/files/{size}");
                lab.run(client, &[&curl[..], &["-o", fetched.to_str().unwrap(), &from]].concat());
                assert_same(&file, &fetched, &format!("download: {case}"));
                fs::remove_file(fetched).unwrap();
            }
        }
        let drops = &lab.show("stats")["drops"];
        assert!(drops.as_object().unwrap().values().all(|count| count == 0), "{backend}, VIP {vip}: {drops}");
        lab.assert_no_checksum_errors();
    }
}

#[test]
fn files_arrive_whole_through_a_forwarding_director() {
    transfer_in("one-server", "s1");
}

#[test]
fn files_arrive_whole_at_and_from_a_server_on_the_director() {
    transfer_in("local", "director");
}
