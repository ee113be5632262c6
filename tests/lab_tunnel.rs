//! Tunnels: real servers behind routers, of either family, which take packets out of other packets.

mod common;

use common::lab::{Lab, text, wait_for};
use serde_json::{Value, json};
use std::fs;

const VIPS: [&str; 2] = ["none", "local"];
const ADDRESSES: [&str; 2] = ["10.0.0.100", "fd00::100"];
const URLS: [&str; 2] = ["http://10.0.0.100", "http://[fd00::100]"];
const SERVERS: [&str; 2] = ["10.0.2.11", "fd00:2::11"];

/// The kinds of tunnel, and the outer packets of each over IPv4 and IPv6: which there are, and what tcpdump says of
/// them.
fn kinds() -> [(Value, [&'static str; 2], [&'static str; 2]); 6] {
    let gue = |checksum: &str| json!({ "type": "gue", "port": 6080, "checksum": checksum });
    let at_gue = ["10.0.2.11.6080: ", "fd00:2::11.6080: "];
    let with_checksum = ["udp[6:2] != 0", "ip6[46:2] != 0"];
    let gre = ["ip proto 47", "ip6 proto 47"];
    [
        (
            json!({ "type": "ipip" }),
            ["ip proto 4 or ip proto 41", "ip6 proto 4 or ip6 proto 41"],
            ["10.0.3.1 > 10.0.2.11: ", "fd00:3::1 > fd00:2::11: "],
        ),
        (json!({ "type": "gre" }), gre, ["GREv0, Flags [none]"; 2]),
        (json!({ "type": "gre", "checksum": "full" }), gre, ["GREv0, Flags [checksum present]"; 2]),
        (gue("none"), ["udp[6:2] = 0", "ip6[46:2] = 0"], at_gue),
        (gue("full"), with_checksum, at_gue),
        (gue("remote"), with_checksum, at_gue),
    ]
}

fn each(count: usize) -> Vec<(String, usize)> {
    ["s1", "s2"].map(|server| (server.to_owned(), count)).to_vec()
}

/// Sends a datagram of random bytes to the echo, and compares what comes back.
#[track_caller]
fn echo(lab: &Lab, size: u32, address: &str) {
    lab.shell(
        "c1",
        &format!(
            "cd {}; head -c {size} /dev/urandom > sent; exec {{socket}}<> /dev/udp/{address}/7; cat sent >&$socket
             timeout 10 dd bs=65536 count=1 status=none <&$socket > back; cmp sent back",
            lab.file("").display()
        ),
    );
}

/// A file of random bytes is put to a server; what it has stored is compared.
#[track_caller]
fn upload(lab: &Lab, url: &str, bytes: u64, case: &str) {
    let file = lab.file("sent");
    lab.shell("c1", &format!("head -c {bytes} /dev/urandom > {}", file.display()));
    let (path, to) = (file.to_str().unwrap(), format!("{url}/upload/file"));
    lab.run("c1", &["curl", "-sS", "--fail", "--max-time", "60", "-T", path, &to]);
    let stored = ["s1", "s2"].map(|server| lab.file(&format!("{server}/upload/file")));
    let stored = stored.iter().find(|stored| stored.exists()).unwrap();
    lab.run("c1", &["cmp", path, stored.to_str().unwrap()]);
    fs::remove_file(stored).unwrap();
    println!("{case}: {bytes} bytes are whole");
}

/// Has one server in place of those that the services of TCP 80 and UDP 7 of a virtual address have.
fn lead_to(lab: &Lab, vip: &str, server: &Value) {
    for (protocol, port) in [("tcp", 80), ("udp", 7)] {
        let service = json!({ "protocol": protocol, "address": vip, "port": port });
        let shown = lab.show("services");
        let is_it = |shown: &&Value| {
            shown["address"] == vip && shown["port"] == port && shown["protocol"] == protocol
        };
        let running = shown.as_array().unwrap().iter().find(is_it).unwrap();
        for old in running["servers"].as_array().unwrap() {
            let old = json!({ "address": old["address"], "port": old["port"] });
            lab.request(&json!({ "command": "delete-server", "service": service, "server": old }));
        }
        lab.request(&json!({ "command": "add-server", "service": service, "server": server }));
    }
}

#[test]
fn sixty_requests_are_thirty_for_each_server() {
    for vip in VIPS {
        let lab = Lab::up("tunnel", "tunnel", &["--vip", vip]);
        for url in URLS {
            assert_eq!(lab.answers("c1", url, 60, &[]), each(30), "{url}, VIP {vip}");
        }
        let connections = lab.show("connections");
        for connection in connections.as_array().unwrap() {
            assert_eq!(connection["forward"], "tunnel", "{connection}");
            // A busy machine sends a segment again, and its receiver, done with the connection, resets that.
            if connection["state"] != "CLOSE" {
                let found = [&connection["state"], &connection["flags"]];
                assert_eq!(found, ["FIN_WAIT", "0x0182"], "VIP {vip}: {connection}");
            }
        }
        let shown = lab.nfvs(&["show", "services"]);
        assert_eq!(text(&shown.stdout).matches(" Tunnel ").count(), 14, "{}", text(&shown.stdout));
        let asked = lab.script(&["ask", "2"]);
        assert!(asked.status.success(), "VIP {vip}: {}", text(&asked.stderr));
        // Processes on the director are clients as well, at another address of their own than the virtual one.
        for (url, own) in URLS.into_iter().zip(["10.0.1.1", "fd00:1::1"]) {
            let said = lab.answers("director", url, 10, &["--interface", own]);
            assert_eq!(said, each(5), "{url}, VIP {vip}");
        }
        lab.assert_queues_lost_nothing();
        lab.assert_no_checksum_errors();
    }
}

#[test]
fn every_kind_of_tunnel_carries_either_family_over_either() {
    let lab = Lab::up("tunnel-kinds", "tunnel", &["--vip", "none"]);
    for (vip, url) in ADDRESSES.into_iter().zip(URLS) {
        for (outer, server) in SERVERS.into_iter().enumerate() {
            for (tunnel, which, seen) in kinds() {
                let filter = format!("src {} and ({})", ["10.0.3.1", "fd00:3::1"][outer], which[outer]);
                let capture = lab.capture("s1", &filter);
                let case = format!("{vip} by {server} in {tunnel}");
                lead_to(&lab, vip, &json!({ "address": server, "forward": "tunnel", "tunnel": tunnel }));
                assert_eq!(lab.answers("c1", url, 4, &[]), [("s1".to_owned(), 4)], "{case}");
                upload(&lab, url, 300_000, &case);
                echo(&lab, 20_000, vip);
                capture.wait_for(seen[outer]);
            }
        }
    }
    lab.assert_queues_lost_nothing();
    lab.assert_no_checksum_errors();
}

/// The first link behind the director is narrow, or one that only a router knows of.
#[test]
fn clients_learn_what_fits_into_the_tunnel_and_what_may_be_fragmented_is() {
    for (vip, [node, interface], [other, its]) in
        [("none", ["director", "r2"], ["r2", "director"]), ("local", ["r2", "lan"], ["lan", "r2"])]
    {
        let lab = Lab::up("tunnel-pmtu", "tunnel", &["--vip", vip]);
        lab.run(node, &["ip", "link", "set", interface, "mtu", "1300"]);
        lab.run(other, &["ip", "link", "set", its, "mtu", "1300"]);
        for (inner, (vip_address, url)) in ADDRESSES.into_iter().zip(URLS).enumerate() {
            for (outer, server) in SERVERS.into_iter().enumerate() {
                let case = format!("VIP {vip}, {node}: {vip_address} by {server}");
                lead_to(&lab, vip_address, &json!({ "address": server, "forward": "tunnel" }));
                lab.shell("c1", "ip route flush cache; ip -6 route flush cache");
                // From the virtual address, and about the client's own packet.
                let errors =
                    lab.capture("c1", ["icmp[0] == 3 and icmp[1] == 4", "icmp6 and ip6[40] == 2"][inner]);
                upload(&lab, url, 1_000_000, &case);
                let fits = [[1280, 1260], [1280, 1280]][inner][outer];
                let seen = errors.text();
                assert!(!seen.contains(SERVERS[0]) && !seen.contains(SERVERS[1]), "{case}: {seen}");
                let route = lab.run("c1", &["ip", "route", "get", vip_address]);
                assert!(route.contains(&format!("mtu {fits}")), "{case}: {route}");
            }
        }
        // Without DF nobody is told.
        let errors = lab.capture("c1", "icmp[0] == 3 and icmp[1] == 4");
        let pieces = lab.capture("s1", "ip[6:2] & 0x3fff != 0 or ip6[6] == 44");
        lab.shell("c1", "head -c 1400 /dev/zero | socat -u - UDP4-SENDTO:10.0.0.100:7,ip-mtu-discover=0");
        pieces.wait_for("fd00:2::11");
        assert_eq!(errors.text(), "");
        // Nor is anybody if that is not wanted.
        lab.request(&json!({ "command": "set-tunables", "tunables": { "pmtu_disc": 0 } }));
        lab.shell("c1", "ip route flush cache; ip -6 route flush cache");
        for url in URLS {
            upload(&lab, url, 100_000, "pmtu_disc 0");
        }
        assert_eq!(errors.text(), "", "VIP {vip}");
        lab.assert_no_checksum_errors();
    }
}

#[test]
fn the_time_to_live_is_counted_down_inside_and_its_end_is_reported() {
    let lab = Lab::up("tunnel-ttl", "tunnel", &["--vip", "none"]);
    let requests = [("ip and dst 10.0.0.100", "ttl 63"), ("ip6 and dst fd00::100", "hlim 63")]
        .map(|(filter, seen)| (["s1", "s2"].map(|server| lab.capture(server, filter)), seen));
    for url in URLS {
        assert_eq!(lab.answers("c1", url, 2, &[]), each(1));
    }
    for (captures, seen) in &requests {
        for capture in captures {
            let all = capture.wait_for(seen);
            assert!(!all.contains("ttl 64") && !all.contains("hlim 64"), "{all}");
        }
    }
    let errors = ["icmp[0] == 11", "icmp6 and ip6[40] == 3"].map(|filter| lab.capture("c1", filter));
    for (to, capture) in [
        ("UDP4-SENDTO:10.0.0.100:7,ip-ttl=1", &errors[0]),
        ("UDP6-SENDTO:[fd00::100]:7,ipv6-unicast-hops=1", &errors[1]),
    ] {
        lab.shell("c1", &format!("echo probe | socat -u - {to}"));
        let seen = capture.wait_for("time exceeded");
        assert!(!seen.contains("10.0.2.") && !seen.contains("fd00:2:"), "{seen}");
    }
    assert_eq!(lab.show("stats")["drops"]["hop_limit"], 2);
    // The next router is where the second hop ends: it speaks of the outer packet.
    lab.shell("c1", "echo probe | socat -u - UDP4-SENDTO:10.0.0.100:7,ip-ttl=2");
    wait_for("what the router says", || errors[0].text().matches("time exceeded").count() == 2);
    lab.assert_no_checksum_errors();
}

/// The director is the servers' gateway: replies cross it, and have the virtual address already.
#[test]
fn replies_cross_a_director_that_is_the_servers_gateway() {
    for vip in VIPS {
        let lab = Lab::up("tunnel-back", "tunnel", &["--vip", vip]);
        for server in ["s1", "s2"] {
            lab.run(server, &["ip", "route", "replace", "default", "via", "10.0.2.1"]);
            lab.run(server, &["ip", "-6", "route", "replace", "default", "via", "fd00:2::1"]);
        }
        for url in URLS {
            assert_eq!(lab.answers("c1", url, 20, &[]), each(10), "{url}, VIP {vip}");
        }
        for connection in lab.show("connections").as_array().unwrap() {
            if connection["state"] != "CLOSE" {
                let found = [&connection["state"], &connection["flags"]];
                assert_eq!(found, ["TIME_WAIT", "0x0102"], "VIP {vip}: {connection}");
            }
        }
        lab.assert_no_checksum_errors();
    }
}

#[test]
fn routes_and_addresses_that_change_count_from_the_next_packet_on() {
    let lab = Lab::up("tunnel-changes", "tunnel", &["--vip", "none"]);
    for (family, url) in URLS.into_iter().enumerate() {
        let (to, prefix) =
            ([("10.0.2.11", "10.0.2.0/24"), ("fd00:2::11", "fd00:2::/64")][family], ["-4", "-6"][family]);
        let director = |words: &str| lab.shell("director", &format!("ip {prefix} {words}"));
        let service = json!({ "protocol": "tcp", "address": ADDRESSES[family], "port": 80 });
        let second = ["10.0.2.12", "fd00:2::12"][family];
        let other = json!({ "address": second, "weight": 0 });
        lab.request(&json!({ "command": "edit-server", "service": service, "server": other }));
        let served = || lab.answers("c1", url, 2, &[]) == [("s1".to_owned(), 2)];
        assert!(served());
        // Nowhere, as far as routing knows: the client is told, and no more once there is a way again.
        let before = lab.show("stats")["drops"]["unreachable"].as_u64().unwrap();
        director(&format!("route add unreachable {}", to.0));
        let refused = lab.try_run("c1", &["curl", "-sS", "--max-time", "5", url]);
        assert!(!refused.status.success());
        assert!(lab.show("stats")["drops"]["unreachable"].as_u64().unwrap() > before);
        director(&format!("route del unreachable {}", to.0));
        assert!(served());
        // The address that outer packets come from.
        let (new, length) = [("10.0.3.9", "24"), ("fd00:3::9", "64 nodad")][family];
        director(&format!("address add {new}/{length} dev r2"));
        director(&format!("route replace {} via {} src {new}", to.1, ["10.0.3.2", "fd00:3::2"][family]));
        let from = lab.capture("s1", &format!("src {new}"));
        assert!(served());
        from.wait_for(new);
    }
}

/// Linux tests its IPVS in this network, with these bytes: tools/testing/selftests/net/netfilter/ipvs.sh.
#[test]
fn the_kernels_own_test_of_ipvs_passes_for_tunnels() {
    for vip in VIPS {
        let lab = Lab::up("tunnel-selftest", "selftest-tunnel", &["--vip", vip]);
        lab.assert_six_arrive();
    }
}

/// IPVS recognises a server on the director by its route; the packet is delivered as the client sent it.
#[test]
fn a_server_on_the_director_gets_packets_for_the_virtual_address() {
    let lab = Lab::up("tunnel-local-node", "local", &["--vip", "local"]);
    for (vip, server, url) in [
        ("10.0.0.100", "10.0.9.9", "http://10.0.0.100:8080"),
        ("fd00::100", "fd00:9::9", "http://[fd00::100]:8080"),
    ] {
        let server = json!({ "address": server, "forward": "tunnel" });
        let service = json!({ "protocol": "tcp", "address": vip, "port": 8080, "servers": [server] });
        lab.request(&json!({ "command": "add-service", "service": service }));
        assert_eq!(lab.answers("c1", url, 10, &[]), [("director".to_owned(), 10)]);
    }
    lab.assert_no_checksum_errors();
}

#[test]
fn a_stateful_firewall_passes_tunnels_with_the_documented_rules() {
    let lab = Lab::up("tunnel-fw", "tunnel", &["--vip", "none"]);
    let rules = lab.file("firewall");
    fs::write(
        &rules,
        "table inet fw {
            chain input {
                type filter hook input priority 0; policy drop;
                ct state untracked meta l4proto icmp accept
                ct state untracked meta l4proto ipv6-icmp accept
                icmpv6 type { 133, 134, 135, 136 } accept
            }
            chain output {
                type filter hook output priority 0; policy drop;
                ct state untracked ip daddr 10.0.2.0/24 ip protocol 4 accept
                ct state untracked ip6 daddr fd00:2::/64 meta l4proto 41 accept
                ct state untracked meta l4proto icmp accept
                ct state untracked meta l4proto ipv6-icmp accept
                icmpv6 type { 133, 134, 135, 136 } accept
            }
        }",
    )
    .unwrap();
    lab.run("director", &["nft", "-f", rules.to_str().unwrap()]);
    lab.run("r2", &["ip", "link", "set", "lan", "mtu", "1300"]);
    lab.run("lan", &["ip", "link", "set", "r2", "mtu", "1300"]);
    for url in URLS {
        assert_eq!(lab.answers("c1", url, 20, &[]), each(10), "{url}");
        upload(&lab, url, 1_000_000, url);
    }
}
