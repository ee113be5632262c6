//! What routers say about packets they cannot send on: "fragmentation needed", "packet too big", "time exceeded"; and
//! that a packet's time to live is counted down once by the director.

mod common;

use common::lab::{Capture, Lab, wait_for};
use std::fs;
use std::path::Path;

const VIPS: [&str; 2] = ["none", "local"];
const ADDRESSES: [&str; 2] = ["10.0.0.100", "fd00::100"];
const SERVERS: [&str; 2] = ["10.0.2.11", "fd00:2::11"];
const SIZE: u64 = 10_000_000;
const CURL: [&str; 5] = ["curl", "-sS", "--fail", "--max-time", "30"];

/// ICMP errors in each family. A packet too big that embeds another destination than the virtual address (the 16 bytes
/// from 72 on, as four words of which the two in between are zero in every address here) is told apart by the filter,
/// since tcpdump does not print what ICMPv6 embeds.
const ERRORS_4: &str = "icmp[0] == 3 or icmp[0] == 11";
const ERRORS_6: &str = "icmp6 and ip6[40] < 128";
const ERRORS_6_ABOUT_OTHERS: &str =
    "icmp6 and ip6[40] < 128 and not (ip6[72:4] == 0xfd000000 and ip6[84:4] == 0x100)";

fn bracketed(address: &str) -> String {
    if address.contains(':') { format!("[{address}]") } else { address.to_owned() }
}

/// A file of random bytes that every server of the lab has as `/files/random`.
fn random_file(lab: &Lab) -> std::path::PathBuf {
    let file = lab.file("files/random");
    lab.shell("c1", &format!("head -c {SIZE} /dev/urandom > {}", file.display()));
    file
}

#[track_caller]
fn assert_same_sum(lab: &Lab, one: &Path, other: &Path, case: &str) {
    let sums = lab.run("c1", &["sha256sum", "-b", one.to_str().unwrap(), other.to_str().unwrap()]);
    let sums: Vec<&str> = sums.lines().map(|line| line.split(' ').next().unwrap()).collect();
    assert_eq!(sums[0], sums[1], "{case}");
}

/// The path MTU a node has learned for an address, if any, as `ip route` says it.
fn has_learned_1300(lab: &Lab, node: &str, address: &str) -> bool {
    lab.run(node, &["ip", "route", "get", address]).contains("mtu 1300")
}

/// The client's view of ICMP errors: they come from and are about virtual addresses only.
struct ErrorsSeen {
    by_family: [Capture; 2],
    about_others: Capture,
}

impl ErrorsSeen {
    fn watch(lab: &Lab) -> ErrorsSeen {
        ErrorsSeen {
            by_family: [lab.capture("c1", ERRORS_4), lab.capture("c1", ERRORS_6)],
            about_others: lab.capture("c1", ERRORS_6_ABOUT_OTHERS),
        }
    }

    /// Waits for `what` in the errors of each family, and checks what all of them are about.
    #[track_caller]
    fn assert_only_about_virtual_addresses(&self, what: [&str; 2], case: &str) {
        for (capture, what) in self.by_family.iter().zip(what) {
            let seen = capture.wait_for(what);
            for server in SERVERS {
                assert!(!seen.contains(server), "{case}: {seen}");
            }
        }
        // IPv4: the line below the error's own is the packet it embeds.
        assert!(self.by_family[0].text().contains("> 10.0.0.100."), "{case}");
        assert_eq!(self.about_others.text(), "", "{case}");
    }
}

#[test]
fn an_upload_finds_a_narrow_link_behind_or_at_the_director() {
    for scenario in ["pmtu", "pmtu-director"] {
        for vip in VIPS {
            let lab = Lab::up("pmtu-up", scenario, &["--vip", vip]);
            let file = random_file(&lab);
            let errors = ErrorsSeen::watch(&lab);
            for (node, address) in
                ["c1", "director"].into_iter().flat_map(|node| ADDRESSES.map(|to| (node, to)))
            {
                let case = format!("{scenario}, VIP {vip}, {address} from {node}");
                assert!(!has_learned_1300(&lab, node, address), "{case}");
                let to = format!("http://{}/upload/file", bracketed(address));
                // A client that has the virtual address for its own keeps sending large segments over IPv4 for some
                // seconds: the kernel looks at a local route's path MTU again after a few retransmissions only.
                lab.run(node, &[&CURL[..], &["-T", file.to_str().unwrap(), &to]].concat());
                let stored = lab.file("s1/upload/file");
                assert_same_sum(&lab, &file, &stored, &case);
                fs::remove_file(stored).unwrap();
                assert!(has_learned_1300(&lab, node, address), "{case}");
            }
            errors.assert_only_about_virtual_addresses(
                [
                    "10.0.0.100 > 10.0.1.2: ICMP 10.0.0.100 unreachable - need to frag (mtu 1300)",
                    "packet too big, mtu 1300",
                ],
                &format!("{scenario}, VIP {vip}"),
            );
            lab.assert_no_checksum_errors();
        }
    }
}

#[test]
fn datagrams_larger_than_the_path_come_back_whole_once_the_client_knows() {
    for scenario in ["pmtu", "pmtu-director"] {
        for vip in VIPS {
            let lab = Lab::up("pmtu-udp", scenario, &["--vip", vip]);
            let errors = ErrorsSeen::watch(&lab);
            for (node, address) in
                ["c1", "director"].into_iter().flat_map(|node| ADDRESSES.map(|to| (node, to)))
            {
                if (scenario, node, address) == ("pmtu", "director", ADDRESSES[1]) {
                    // The client learns the path's MTU for the virtual address. But what it sends is fragmented when
                    // it goes out to the server, by the MTU of that route, which nobody has told: docs/steering.md.
                    continue;
                }
                let family = if address.contains(':') { "UDP6" } else { "UDP4" };
                // The first of 1,400 bytes must not be fragmented and is lost; its loss tells the client to fragment.
                for size in [1400, 4000] {
                    let echo = format!(
                        "cd {}
                         head -c {size} /dev/urandom > sent
                         socat -b65536 -T1 - {family}:{}:7 < sent > back
                         cmp sent back",
                        lab.file("").display(),
                        bracketed(address)
                    );
                    wait_for(&format!("{size} bytes, {scenario}, VIP {vip}, {address} from {node}"), || {
                        lab.try_run(node, &["bash", "-c", &echo]).status.success()
                    });
                }
                // A director whose own link is narrow fragments without being told.
                let case = format!("{scenario}, VIP {vip}, {address} from {node}");
                assert!(node == "director" || has_learned_1300(&lab, node, address), "{case}");
            }
            errors.assert_only_about_virtual_addresses(
                ["need to frag (mtu 1300)", "packet too big, mtu 1300"],
                &format!("{scenario}, VIP {vip}"),
            );
            lab.assert_no_checksum_errors();
        }
    }
}

#[test]
fn a_download_finds_a_narrow_link_at_or_before_the_director() {
    for vip in VIPS {
        for is_directors_own in [false, true] {
            let lab = Lab::up("pmtu-down", "pmtu-client", &["--vip", vip]);
            if is_directors_own {
                for (node, interface, mtu) in [
                    ("r1", "r2", "1500"),
                    ("r2", "r1", "1500"),
                    ("r2", "director", "1300"),
                    ("director", "r2", "1300"),
                ] {
                    lab.run(node, &["ip", "link", "set", interface, "mtu", mtu]);
                }
            }
            let file = random_file(&lab);
            let told = ["icmp[0] == 3 and icmp[1] == 4", "icmp6 and ip6[40] == 2"]
                .map(|error| lab.capture("s1", error));
            for (port, server) in [(80, "s1"), (81, "director")] {
                for (address, client) in ADDRESSES.into_iter().zip(["10.0.1.2", "fd00:1::2"]) {
                    let case =
                        format!("VIP {vip}, {address}, port {port}, director's own link {is_directors_own}");
                    let from = format!("http://{}:{port}/files/random", bracketed(address));
                    let fetched = lab.file("fetched");
                    lab.run("c1", &[&CURL[..], &["-o", fetched.to_str().unwrap(), &from]].concat());
                    assert_same_sum(&lab, &file, &fetched, &case);
                    // On its own narrow link the director's own server needs no telling.
                    if server == "s1" || !is_directors_own {
                        assert!(has_learned_1300(&lab, server, client), "{case}");
                    }
                }
            }
            // The server is told about the packets it sent, from its own address.
            assert!(told[0].wait_for("(mtu 1300)").contains("10.0.2.11.8080 > 10.0.1.2."));
            told[1].wait_for("mtu 1300");
            for capture in &told {
                let seen = capture.text();
                assert!(!ADDRESSES.iter().any(|address| seen.contains(&format!("{address}."))), "{seen}");
            }
            lab.assert_no_checksum_errors();
        }
    }
}

#[test]
fn a_time_to_live_that_ends_on_the_way_is_reported_as_of_the_virtual_address() {
    for vip in VIPS {
        let lab = Lab::up("pmtu-ttl", "pmtu", &["--vip", vip]);
        let errors = ErrorsSeen::watch(&lab);
        // 1 ends at the director itself, 2 and 3 at the routers behind it.
        for hops in 1..=3 {
            for (family, option, address) in
                [("UDP4", "ip-ttl", ADDRESSES[0]), ("UDP6", "ipv6-unicast-hops", ADDRESSES[1])]
            {
                let to = format!("{family}-SENDTO:{}:7,{option}={hops}", bracketed(address));
                let count = |capture: &Capture| capture.text().matches("xceeded").count();
                let capture = &errors.by_family[usize::from(family == "UDP6")];
                lab.shell("c1", &format!("echo probe | socat -u - {to}"));
                wait_for(&format!("an error to {to}, VIP {vip}"), || count(capture) >= hops);
            }
        }
        errors.assert_only_about_virtual_addresses(["time exceeded", "time exceeded"], &format!("VIP {vip}"));
        lab.assert_no_checksum_errors();
    }
}

#[test]
fn the_director_counts_the_time_to_live_down_once() {
    for vip in VIPS {
        let lab = Lab::up("pmtu-once", "one-server", &["--vip", vip]);
        let [requests, replies] = [("s1", "dst"), ("c1", "src")].map(|(node, direction)| {
            let ports = if node == "s1" { "port 8080 or port 7777" } else { "port 80 or port 7" };
            let way = ports.replace("port", &format!("{direction} port"));
            ["ip", "ip6"].map(|family| lab.capture(node, &format!("{family} and ({way})")))
        });
        for address in ADDRESSES {
            let family = if address.contains(':') { "UDP6" } else { "UDP4" };
            let host = bracketed(address);
            assert_eq!(
                lab.run("c1", &["curl", "-sS", "--max-time", "5", &format!("http://{host}/")]),
                "s1\n"
            );
            assert_eq!(lab.shell("c1", &format!("echo probe | socat -T2 - {family}:{host}:7")), "probe\n");
        }
        for (capture, what) in requests.iter().chain(&replies).zip(["ttl", "hlim", "ttl", "hlim"]) {
            capture.wait_for("UDP");
            let seen = capture.text();
            let lines = seen.lines().filter(|line| line.contains(&format!("{what} ")));
            let of_63 = lines.clone().filter(|line| line.contains(&format!("{what} 63,"))).count();
            // A connection's set-up, request and end, and a datagram.
            assert!(of_63 >= 5 && of_63 == lines.count(), "VIP {vip}: {seen}");
        }
    }
}
