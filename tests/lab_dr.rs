//! Direct routing: packets reach real servers unchanged, whoever answers the client and over whichever way.

mod common;

use common::lab::{Capture, Lab, text, wait_for};
use serde_json::json;
use std::fs;

const VIPS: [&str; 2] = ["none", "local"];
const ADDRESSES: [&str; 2] = ["10.0.0.100", "fd00::100"];
const URLS: [&str; 2] = ["http://10.0.0.100", "http://[fd00::100]"];
const SERVERS: [&str; 3] = ["s1", "s2", "s3"];

/// The way of the servers' answers.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Back {
    /// Past the director, by the client's router.
    Straight,
    /// The director is the servers' gateway.
    Director,
}

/// The scenario `dr`, with this way back.
fn up(name: &str, vip: &str, back: Back) -> Lab {
    let lab = Lab::up(name, "dr", &["--vip", vip]);
    if back == Back::Director {
        for server in SERVERS {
            lab.run(server, &["ip", "route", "replace", "default", "via", "10.0.2.1"]);
            lab.run(server, &["ip", "-6", "route", "replace", "default", "via", "fd00:2::1"]);
        }
    }
    lab
}

/// Every place of the virtual addresses with every way back.
fn cases() -> impl Iterator<Item = (&'static str, Back)> {
    VIPS.into_iter().flat_map(|vip| [Back::Straight, Back::Director].map(|back| (vip, back)))
}

fn each(count: usize) -> Vec<(String, usize)> {
    SERVERS.map(|server| (server.to_owned(), count)).to_vec()
}

#[test]
fn three_hundred_requests_are_a_hundred_for_each_server() {
    for (vip, back) in cases() {
        let lab = up("dr", vip, back);
        for url in URLS {
            assert_eq!(lab.answers("c1", url, 300, &[]), each(100), "{url}, VIP {vip}, {back:?}");
        }
        // The director has seen the replies, or concluded them.
        let (state, flags) = match back {
            Back::Straight => ("FIN_WAIT", "0x0183"),
            Back::Director => ("TIME_WAIT", "0x0103"),
        };
        let connections = lab.show("connections");
        for connection in connections.as_array().unwrap() {
            assert_eq!(connection["forward"], "dr", "{connection}");
            // A busy machine sends a segment again, and its receiver, done with the connection, resets that.
            if connection["state"] != "CLOSE" {
                let found = [&connection["state"], &connection["flags"]];
                assert_eq!(found, [state, flags], "VIP {vip}, {back:?}: {connection}");
            }
        }
        for service in lab.show("services").as_array().unwrap() {
            let expected = if service["port"] == 80 && service["protocol"] == "tcp" { 300 } else { 0 };
            assert_eq!(service["stats"]["connections"], expected, "{service}");
        }
        let shown = lab.nfvs(&["show", "services"]);
        assert_eq!(text(&shown.stdout).matches(" Route ").count(), 20, "{}", text(&shown.stdout));
        lab.assert_no_checksum_errors();
    }
}

/// Strict checks of source addresses pass too: to them, a reply that crosses the director comes from its server.
#[test]
fn a_director_that_checks_sources_strictly_is_the_servers_gateway_all_the_same() {
    for vip in VIPS {
        let lab = up("dr-strict", vip, Back::Director);
        lab.shell("director", "for file in /proc/sys/net/ipv4/conf/*/rp_filter; do echo 1 > $file; done");
        for url in URLS {
            assert_eq!(lab.answers("c1", url, 30, &[]), each(10), "{url}, VIP {vip}");
        }
    }
}

#[test]
fn a_client_on_the_director_reaches_the_virtual_address() {
    for (vip, back) in cases() {
        let lab = up("dr-local-client", vip, back);
        for (url, own) in URLS.into_iter().zip(["10.0.1.1", "fd00:1::1"]) {
            // With the virtual address for its own, a server would take it for itself.
            let said = lab.answers("director", url, 30, &["--interface", own]);
            assert_eq!(said, each(10), "{url}, VIP {vip}, {back:?}");
        }
        lab.assert_no_checksum_errors();
    }
}

#[test]
fn in_one_segment_no_redirect_leaves_the_director() {
    for vip in VIPS {
        let lab = Lab::up("dr-one-arm", "dr-one-arm", &["--vip", vip]);
        let redirects = lab.capture("lan", "icmp[0] == 5 or (icmp6 and ip6[40] == 137)");
        for url in URLS {
            assert_eq!(lab.answers("c1", url, 300, &[]), each(100), "{url}, VIP {vip}");
        }
        lab.assert_no_redirects(&redirects);
    }
}

/// Linux tests its IPVS in this network, with these bytes: tools/testing/selftests/net/netfilter/ipvs.sh.
#[test]
fn the_kernels_own_test_of_ipvs_passes_for_direct_routing() {
    for vip in VIPS {
        let lab = Lab::up("dr-selftest", "selftest-dr", &["--vip", vip]);
        lab.assert_six_arrive();
    }
}

#[test]
fn wrk_meets_no_error_with_lasting_and_with_short_connections() {
    for (vip, back) in [("none", Back::Straight), ("local", Back::Director)] {
        let lab = up("dr-wrk", vip, back);
        for url in URLS {
            for more in [&[][..], &["-H", "Connection: close"]] {
                let said = lab.run("c1", &[&["wrk", "-t2", "-c64", "-d2s"], more, &[url]].concat());
                assert!(!said.contains("Socket errors") && !said.contains("Non-2xx"), "{said}");
            }
        }
        lab.assert_queues_lost_nothing();
        lab.assert_no_checksum_errors();
    }
}

#[test]
fn datagrams_of_sixty_kilobytes_come_back_whole() {
    for (vip, back) in cases() {
        let lab = up("dr-udp-60k", vip, back);
        for (family, address, from) in
            [("UDP4", "10.0.0.100", "10.0.1.2"), ("UDP6", "[fd00::100]", "[fd00:1::2]")]
        {
            lab.shell(
                "c1",
                &format!(
                    "head -c 60000 /dev/urandom > {0}/sent
                     socat -b65536 -T2 - {family}:{address}:7,bind={from} < {0}/sent > {0}/back
                     cmp {0}/sent {0}/back",
                    lab.file("").display()
                ),
            );
        }
        let service = &lab.show("services")[2];
        assert_eq!(service["stats"]["in_packets"], 1, "pieces are one packet: {service}");
        assert_eq!(lab.show("stats")["drops"]["fragment"], 0);
        lab.assert_no_checksum_errors();
    }
}

/// A file of random bytes is put to a server; what it has stored is compared.
#[track_caller]
fn upload(lab: &Lab, url: &str, bytes: u64, case: &str) {
    let file = lab.file("sent");
    lab.shell("c1", &format!("head -c {bytes} /dev/urandom > {}", file.display()));
    let (path, to) = (file.to_str().unwrap(), format!("{url}/upload/file"));
    lab.run("c1", &["curl", "-sS", "--fail", "--max-time", "60", "-T", path, &to]);
    let stored = SERVERS.map(|server| lab.file(&format!("{server}/upload/file")));
    let stored = stored.iter().find(|stored| stored.exists()).unwrap();
    lab.run("c1", &["cmp", path, stored.to_str().unwrap()]);
    fs::remove_file(stored).unwrap();
    println!("{case}: {bytes} bytes are whole");
}

#[test]
fn two_hundred_megabytes_arrive_whole_with_and_without_offloads() {
    for (vip, back) in [("local", Back::Straight), ("none", Back::Director)] {
        let lab = up("dr-transfer", vip, back);
        for (offloads, megabytes) in [("on", 200), ("off", 20)] {
            for (node, interface) in [("c1", "director"), ("director", "c1"), ("director", "lan")] {
                lab.run(
                    node,
                    &["ethtool", "-K", interface, "tx", offloads, "gso", offloads, "tso", offloads],
                );
            }
            for (url, address) in URLS.into_iter().zip(ADDRESSES) {
                let case = format!("VIP {vip}, {back:?}, offloads {offloads}, {url}");
                upload(&lab, url, megabytes * 1_000_000, &case);
                lab.run("c1", &["iperf3", "--client", address, "--bytes", &format!("{megabytes}M")]);
            }
        }
        // The payload stays in the kernel: no worker has got a packet that it could have written back.
        for queue in lab.show("queues").as_array().unwrap() {
            if queue["class"] == "established" {
                assert_eq!(queue["received"], 0, "{queue}");
            }
        }
        lab.assert_queues_lost_nothing();
        lab.assert_no_checksum_errors();
    }
}

/// ICMP errors that reach the client, in each family.
const ERRORS: [&str; 2] = ["icmp[0] == 3 or icmp[0] == 11", "icmp6 and ip6[40] < 128"];
/// Those of IPv6 that embed another destination than the virtual address.
const ERRORS_ABOUT_OTHERS: &str =
    "icmp6 and ip6[40] < 128 and not (ip6[72:4] == 0xfd000000 and ip6[84:4] == 0x100)";

fn has_learned_1300(lab: &Lab, node: &str, address: &str) -> bool {
    lab.run(node, &["ip", "route", "get", address]).contains("mtu 1300")
}

#[test]
fn a_client_learns_of_the_directors_narrow_link_and_what_may_be_fragmented_is() {
    for vip in VIPS {
        let lab = Lab::up("dr-pmtu", "dr-pmtu-director", &["--vip", vip]);
        let [errors_4, errors_6] = ERRORS.map(|filter| lab.capture("c1", filter));
        let about_others = lab.capture("c1", ERRORS_ABOUT_OTHERS);

        // Without DF: no error, and the first datagram arrives, in pieces.
        let pieces = lab.capture("s1", "ip[6:2] & 0x3fff != 0 and dst 10.0.0.100");
        let echo = |size: u32, to: &str| {
            format!(
                "cd {}; head -c {size} /dev/urandom > sent; socat -b65536 -T1 - {to} < sent > back; cmp sent back",
                lab.file("").display()
            )
        };
        lab.shell("c1", &echo(1400, "UDP4:10.0.0.100:7,ip-mtu-discover=0"));
        pieces.wait_for("flags [+]");
        assert_eq!(errors_4.text(), "", "VIP {vip}");

        for (url, address) in URLS.into_iter().zip(ADDRESSES) {
            assert!(!has_learned_1300(&lab, "c1", address), "VIP {vip}, {address}");
            upload(&lab, url, 10_000_000, &format!("VIP {vip}, {url}"));
            assert!(has_learned_1300(&lab, "c1", address), "VIP {vip}, {address}");
        }
        lab.shell("c1", &echo(4000, "UDP6:[fd00::100]:7"));

        let seen = errors_4.wait_for("need to frag (mtu 1300)");
        assert!(seen.contains("10.0.0.100 > 10.0.1.2: ICMP 10.0.0.100 unreachable"), "VIP {vip}: {seen}");
        assert!(seen.contains("> 10.0.0.100.80:") && !seen.contains("10.0.2.11"), "VIP {vip}: {seen}");
        let seen = errors_6.wait_for("packet too big, mtu 1300");
        assert!(!seen.contains("fd00:2::11"), "VIP {vip}: {seen}");
        assert_eq!(about_others.text(), "", "VIP {vip}");
        lab.assert_no_checksum_errors();
    }
}

#[test]
fn a_server_learns_of_the_clients_narrow_link_through_the_director() {
    for vip in VIPS {
        let lab = Lab::up("dr-pmtu-down", "dr-pmtu-client", &["--vip", vip]);
        let file = lab.file("files/random");
        lab.shell("c1", &format!("head -c 10000000 /dev/urandom > {}", file.display()));
        for (url, client) in URLS.into_iter().zip(["10.0.1.2", "fd00:1::2"]) {
            let fetched = lab.file("fetched");
            let (path, from) = (fetched.to_str().unwrap(), format!("{url}/files/random"));
            lab.run("c1", &["curl", "-sS", "--fail", "--max-time", "30", "-o", path, &from]);
            lab.run("c1", &["cmp", path, file.to_str().unwrap()]);
            assert!(has_learned_1300(&lab, "s1", client), "VIP {vip}, {url}");
        }
        lab.assert_no_checksum_errors();
    }
}

/// The director's own link to the client is narrow: what its kernel says of a reply names the virtual address, not the
/// server's, which the reply has while it is routed.
#[test]
fn a_server_learns_of_a_narrow_link_of_the_director_that_is_its_gateway() {
    for vip in VIPS {
        let lab = up("dr-pmtu-back", vip, Back::Director);
        lab.run("director", &["ip", "link", "set", "c1", "mtu", "1300"]);
        lab.run("c1", &["ip", "link", "set", "director", "mtu", "1300"]);
        // The client's MSS is to say nothing of it.
        for advised in ["10.0.0.100 via 10.0.1.1 advmss 1400", "fd00::100 via fd00:1::1 advmss 1400"] {
            lab.shell("c1", &format!("ip route add {advised}"));
        }
        let file = lab.file("files/random");
        lab.shell("c1", &format!("head -c 10000000 /dev/urandom > {}", file.display()));
        for url in URLS {
            let fetched = lab.file("fetched");
            let (path, from) = (fetched.to_str().unwrap(), format!("{url}/files/random"));
            lab.run("c1", &["curl", "-sS", "--fail", "--max-time", "30", "-o", path, &from]);
            lab.run("c1", &["cmp", path, file.to_str().unwrap()]);
        }
        for (index, client) in ["10.0.1.2", "fd00:1::2"].into_iter().enumerate() {
            let teller = format!("{} was told", ADDRESSES[index]);
            assert!(
                SERVERS.iter().any(|server| has_learned_1300(&lab, server, client)),
                "VIP {vip}: {teller}"
            );
        }
    }
}

#[test]
fn the_time_to_live_is_counted_down_once_and_its_end_is_reported() {
    for (vip, back) in cases() {
        let lab = up("dr-ttl", vip, back);
        let requests = ["ip and dst 10.0.0.100", "ip6 and dst fd00::100"]
            .map(|filter| SERVERS.map(|server| lab.capture(server, filter)));
        let replies = ["ip and src 10.0.0.100", "ip6 and src fd00::100"].map(|way| lab.capture("c1", way));
        for url in URLS {
            assert_eq!(lab.answers("c1", url, 3, &[]), each(1));
        }
        let assert_63 = |capture: &Capture, word: &str| {
            let seen = capture.wait_for(word);
            let lines: Vec<_> = seen.lines().filter(|line| line.contains(&format!("{word} "))).collect();
            let of_63 = lines.iter().filter(|line| line.contains(&format!("{word} 63,"))).count();
            assert!(of_63 > 0 && of_63 == lines.len(), "VIP {vip}, {back:?}: {seen}");
        };
        for (captures, word) in requests.iter().zip(["ttl", "hlim"]) {
            captures.iter().for_each(|capture| assert_63(capture, word));
        }
        // On either way back there is one router.
        for (capture, word) in replies.iter().zip(["ttl", "hlim"]) {
            assert_63(capture, word);
        }

        let errors = ERRORS.map(|filter| lab.capture("c1", filter));
        for (to, capture) in [
            ("UDP4-SENDTO:10.0.0.100:7,ip-ttl=1", &errors[0]),
            ("UDP6-SENDTO:[fd00::100]:7,ipv6-unicast-hops=1", &errors[1]),
        ] {
            lab.shell("c1", &format!("echo probe | socat -u - {to}"));
            let seen = capture.wait_for("time exceeded");
            assert!(!seen.contains("10.0.2.") && !seen.contains("fd00:2:"), "VIP {vip}, {back:?}: {seen}");
        }
        lab.assert_no_checksum_errors();
    }
}

/// Asks for the name of whoever answers, from one port: one connection.
#[track_caller]
fn name(lab: &Lab, family: usize) -> String {
    let at = format!("@{}", ADDRESSES[family]);
    let from = ["10.0.1.2#4000", "fd00:1::2#4000"][family];
    let said = lab.run("c1", &["dig", "+short", "+tries=1", "+time=3", "-b", from, &at, "TXT", "server.lab"]);
    said.trim_matches(['"', '\n']).to_owned()
}

#[test]
fn neighbours_routes_and_devices_that_change_count_from_the_next_packet_on() {
    for vip in VIPS {
        let lab = up("dr-changes", vip, Back::Straight);
        for family in [0, 1] {
            let ip = ["-4", "-6"][family];
            let first = name(&lab, family);
            let other = if first == "s1" { "s2" } else { "s1" };
            let address = |server: &str| {
                [format!("10.0.2.1{}", &server[1..]), format!("fd00:2::1{}", &server[1..])][family].clone()
            };
            let director = |words: &str| lab.shell("director", &format!("ip {ip} {words}"));
            let mac = lab.shell(other, "cat /sys/class/net/lan/address");

            let here = address(&first);
            director(&format!("neigh replace {here} lladdr {} dev lan nud permanent", mac.trim()));
            assert_eq!(name(&lab, family), other, "another neighbour, VIP {vip}");
            director(&format!("neigh del {here} dev lan"));
            assert_eq!(name(&lab, family), first, "asked for anew, VIP {vip}");

            director(&format!("route add {here} via {}", address(other)));
            assert_eq!(name(&lab, family), other, "behind a gateway, VIP {vip}");
            director(&format!("route del {here}"));
            assert_eq!(name(&lab, family), first, "on the segment again, VIP {vip}");
        }
        // The segment's device is another: the old one has lost its addresses.
        lab.shell(
            "director",
            "ip link add renewed type bridge
             ip link set renewed addrgenmode none
             ip link set renewed up
             ip link set lan master renewed",
        );
        wait_for("the new device", || {
            lab.run("director", &["ip", "-br", "link", "show", "renewed"]).contains(" UP ")
        });
        lab.shell(
            "director",
            "ip address del 10.0.2.1/24 dev lan
             ip address del fd00:2::1/64 dev lan
             ip address add 10.0.2.1/24 dev renewed
             ip address add fd00:2::1/64 dev renewed nodad
             ip address add fe80::3/64 dev renewed nodad",
        );
        for family in [0, 1] {
            name(&lab, family);
        }
    }
}

#[test]
fn a_stateful_firewall_passes_direct_routing_with_the_documented_rules() {
    for (vip, back) in cases() {
        let lab = up("dr-fw", vip, back);
        let rules = lab.file("firewall");
        fs::write(
            &rules,
            "table inet fw {
                chain forward {
                    type filter hook forward priority 0; policy drop;
                    ct state untracked ip daddr 10.0.2.0/24 tcp dport 80 accept
                    ct state untracked ip saddr 10.0.2.0/24 tcp sport 80 accept
                    ct state untracked ip6 daddr fd00:2::/64 tcp dport 80 accept
                    ct state untracked ip6 saddr fd00:2::/64 tcp sport 80 accept
                }
                chain output {
                    type filter hook output priority 0; policy drop;
                    ct state untracked ip daddr 10.0.2.0/24 tcp dport 80 accept
                    ct state untracked ip6 daddr fd00:2::/64 tcp dport 80 accept
                    meta l4proto ipv6-icmp icmpv6 type { 133, 134, 135, 136 } accept
                }
            }",
        )
        .unwrap();
        lab.run("director", &["nft", "-f", rules.to_str().unwrap()]);
        for url in URLS {
            assert_eq!(lab.answers("c1", url, 30, &[]), each(10), "{url}, VIP {vip}, {back:?}");
        }
    }
}

/// IPVS recognises a server on the director by its route; the packet is delivered as the client sent it.
#[test]
fn a_server_on_the_director_gets_packets_for_the_virtual_address() {
    let lab = Lab::up("dr-local-node", "local", &["--vip", "local"]);
    for (vip, server, url, own) in [
        ("10.0.0.100", "10.0.9.9", "http://10.0.0.100:8080", "10.0.1.1"),
        ("fd00::100", "fd00:9::9", "http://[fd00::100]:8080", "fd00:1::1"),
    ] {
        let service = json!({
            "protocol": "tcp", "address": vip, "port": 8080, "servers": [{ "address": server, "forward": "dr" }],
        });
        lab.request(&json!({ "command": "add-service", "service": service }));
        let all = vec![("director".to_owned(), 30)];
        assert_eq!(lab.answers("c1", url, 30, &[]), all);
        assert_eq!(lab.answers("director", url, 30, &["--interface", own]), all);
    }
    // Replies pass OUTPUT and count.
    let connections = lab.show("connections");
    for connection in connections.as_array().unwrap() {
        assert_eq!(connection["flags"], "0x0103", "{connection}");
    }
    for url in ["http://10.0.0.100:8080", "http://[fd00::100]:8080"] {
        let all = vec![("director".to_owned(), 30)];
        assert_eq!(lab.answers("director", url, 30, &[]), all, "a client at the virtual address itself");
    }
    lab.assert_no_checksum_errors();
}

#[test]
fn methods_change_and_mix_under_load() {
    let lab = up("dr-methods", "none", Back::Director);
    let loads = URLS.map(|url| lab.load(&["-c16", "-H", "Connection: close", url]));
    for (url, (vip, prefix)) in URLS.into_iter().zip(ADDRESSES.into_iter().zip(["10.0.2.", "fd00:2::"])) {
        let service = json!({ "protocol": "tcp", "address": vip, "port": 80 });
        let edit = |host: u32, server: serde_json::Value| {
            let mut server = server;
            server["address"] = format!("{prefix}{host}").into();
            lab.request(&json!({ "command": "edit-server", "service": service, "server": server }));
        };
        let methods = |of: [&str; 3]| {
            let services = lab.show("services");
            let shown = services.as_array().unwrap().iter().find(|s| s["address"] == vip && s["port"] == 80);
            let shown: Vec<_> =
                shown.unwrap()["servers"].as_array().unwrap().iter().map(|s| s["forward"].clone()).collect();
            assert_eq!(shown, of);
        };
        for (change, of) in [
            (json!({ "weight": 1, "forward": "nat" }), ["dr", "dr", "nat"]),
            (json!({ "weight": 1 }), ["dr", "dr", "nat"]),
            (json!({ "weight": 1, "forward": "dr" }), ["dr", "dr", "dr"]),
        ] {
            edit(11, change);
            methods(of);
            for server in lab.answers("c1", url, 60, &[]) {
                assert!(server.1 > 0, "{of:?}: {server:?}");
            }
        }
    }
    for load in loads {
        load.end_load();
    }
}
