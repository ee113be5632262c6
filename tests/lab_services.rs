//! Which server a new connection gets, with real clients and servers: persistence, firewall marks, one-packet
//! scheduling, thresholds, and what becomes of flows whose server is removed.

mod common;

use common::lab::{Lab, tally, text, wait_for};
use serde_json::{Value, json};

const WEB: [(&str, &str, [&str; 3]); 2] = [
    ("http://10.0.0.100", "10.0.0.100", ["10.0.2.11", "10.0.3.12", "10.0.4.13"]),
    ("http://[fd00::100]", "fd00::100", ["fd00:2::11", "fd00:3::12", "fd00:4::13"]),
];

/// The answers of DNS servers to `count` questions from one port of the client.
#[track_caller]
fn answers_from_one_port(lab: &Lab, server: &str, count: usize) -> Vec<(String, usize)> {
    let file = lab.file("questions");
    std::fs::write(&file, "server.lab TXT\n".repeat(count)).expect("a file of the lab");
    let own = if server.contains(':') { "fd00:1::2#5555" } else { "10.0.1.2#5555" };
    let at = format!("@{server}");
    let words = [
        "dig",
        "-b",
        own,
        &at,
        "+short",
        "+tries=1",
        "+time=3",
        "+nocookie",
        "-f",
        file.to_str().expect("text"),
    ];
    tally(&lab.run("c1", &words))
}

fn key(protocol: &str, address: &str, port: u16) -> Value {
    json!({ "protocol": protocol, "address": address, "port": port })
}

fn edit(lab: &Lab, mut service: Value, changes: &Value) {
    for (name, value) in changes.as_object().expect("an object") {
        service[name] = value.clone();
    }
    lab.request(&json!({ "command": "edit-service", "service": service }));
}

fn each(count: usize) -> Vec<(String, usize)> {
    ["s1", "s2", "s3"].map(|server| (server.to_owned(), count)).to_vec()
}

#[test]
fn a_persistent_client_stays_with_its_server() {
    let lab = Lab::up("persistence", "nat", &[]);
    for (url, vip, _) in WEB {
        assert_eq!(lab.answers("c1", url, 9, &[]), each(3));
        let bits = if vip.contains(':') { 64 } else { 24 };
        edit(&lab, key("tcp", vip, 80), &json!({ "persistence": { "timeout": 60, "netmask": bits } }));
        let stayed = lab.answers("c1", url, 20, &[]);
        assert_eq!(stayed.len(), 1, "{stayed:?}");
        // By default it has another server in turn, but it is of the same network.
        assert_eq!(lab.answers("director", url, 20, &[]), stayed);

        let all = lab.show("connections");
        let virtual_address = format!("{}:80", &url["http://".len()..]);
        let ours = |entry: &&Value| entry["template"] == true && entry["virtual"] == virtual_address;
        let templates: Vec<&Value> = all.as_array().expect("a list").iter().filter(ours).collect();
        let [template] = templates[..] else { panic!("{all}") };
        assert_eq!(template["state"], "ASSURED", "{template}");
        assert_eq!(template["flags"], "0x1100", "{template}");
        let clients = if vip.contains(':') { "[fd00:1::]:0" } else { "10.0.1.0:0" };
        assert_eq!(template["client"], clients, "{template}");
        edit(&lab, key("tcp", vip, 80), &json!({ "persistence": null }));
        assert_eq!(lab.answers("c1", url, 9, &[]), each(3));
    }
    lab.assert_no_checksum_errors();
}

/// Marks what goes to 10.77.0.0/24 and fd77::/64: 5 for TCP, 6 for UDP; and 5 for direct requests to s1.
const MARKS: &str = "
    table inet marks {
        chain choose {
            ip daddr 10.77.0.0/24 tcp dport 1-65535 meta mark set meta mark and 0xffff0000 or 5
            ip6 daddr fd77::/64 tcp dport 1-65535 meta mark set meta mark and 0xffff0000 or 5
            ip daddr 10.77.0.0/24 udp dport 1-65535 meta mark set meta mark and 0xffff0000 or 6
            ip6 daddr fd77::/64 udp dport 1-65535 meta mark set meta mark and 0xffff0000 or 6
            ip daddr 10.0.2.11 tcp dport 8080 meta mark set meta mark and 0xffff0000 or 5
        }
        chain pre { type filter hook prerouting priority -310; policy accept; jump choose; }
        chain out { type route hook output priority -310; policy accept; jump choose; }
    }";

#[test]
fn a_marked_network_is_one_service() {
    for is_local in [false, true] {
        let lab = Lab::up("fwmark", "nat", &[]);
        lab.shell("director", &format!("nft -f - <<'END'\n{MARKS}\nEND"));
        if is_local {
            // A source that is a local address must not be seen before routing.
            lab.shell("director", "ip addr add 10.77.0.5/32 dev lo; ip -6 addr add fd77::5/128 dev lo nodad");
        }
        lab.shell(
            "director",
            &format!("head -c 20000000 /dev/urandom > {}", lab.file("files/large").display()),
        );
        lab.shell("director", "for all in /proc/sys/net/ipv4/conf/*/rp_filter; do echo 1 > $all; done");
        for (_, vip, servers) in WEB {
            let servers = |port: u16| servers.map(|address| json!({ "address": address, "port": port }));
            let (url, host) = if vip.contains(':') {
                ("http://[fd77::5]", "fd77::5")
            } else {
                ("http://10.77.0.5", "10.77.0.5")
            };
            for (mark, port) in [(5, 8080), (6, 5353)] {
                let service = json!({ "fwmark": mark, "scheduler": "rr", "servers": servers(port) });
                lab.request(&json!({ "command": "add-service", "service": service }));
            }
            for node in ["c1", "director"] {
                assert_eq!(lab.answers(node, url, 9, &[]), each(3), "{node}");
                assert_eq!(
                    lab.answers(node, &format!("{url}:4711"), 9, &[]),
                    each(3),
                    "{node}: another port"
                );
            }
            let answered = answers_from_one_port(&lab, host, 30);
            assert_eq!(answered.iter().map(|(_, count)| count).sum::<usize>(), 30, "{answered:?}");
            let load = ["wrk", "-t1", "-c8", "-d2s", "-H", "Connection: close", url];
            let said = lab.run("c1", &load);
            assert!(!said.contains("Socket errors") && !said.contains("Non-2xx"), "{said}");

            // Segments as large as the links take at once: their source is written into them.
            lab.shell(
                "c1",
                &format!(
                    "curl -sS --max-time 20 {url}/files/large | cmp - {}",
                    lab.file("files/large").display()
                ),
            );

            // One template spans all addresses and ports; the servers listen to this one.
            edit(&lab, json!({ "fwmark": 5, "family": family(host) }), &json!({ "persistence": {} }));
            let first = lab.answers("c1", &format!("{url}:8080"), 5, &[]);
            let other = url.replace(['5', ']'], "");
            let other = if vip.contains(':') { format!("{other}6]:8080") } else { format!("{other}6:8080") };
            assert_eq!(lab.answers("c1", &other, 5, &[]), first);
            assert_eq!(first.len(), 1, "{first:?}");
        }
        lab.assert_no_checksum_errors();

        // What is marked and not served is nobody's.
        lab.request(&json!({ "command": "delete-service", "service": { "fwmark": 5, "family": "ipv4" } }));
        // From ports that wrk has not used: the server still has those in TIME_WAIT.
        let ports = ["curl", "-sS", "--fail-early", "--max-time", "5", "--local-port", "20000-20100"];
        let direct = lab
            .run("c1", &[&ports[..], &["-H", "Connection: close", "http://10.0.2.11:8080/?[1-3]"]].concat());
        assert_eq!(tally(&direct), [("s1".to_owned(), 3)]);
    }
}

#[test]
fn with_cache_bypass_marked_packets_go_past_servers_that_are_not_there() {
    let lab = Lab::up("bypass", "nat", &[]);
    lab.shell("director", &format!("nft -f - <<'END'\n{MARKS}\nEND"));
    let tune =
        |on: u8| lab.request(&json!({ "command": "set-tunables", "tunables": { "cache_bypass": on } }));
    for (address, prefix, via, server, url, nobody) in [
        ("10.77.0.5", 32, "10.0.2.11", "10.0.3.12", "http://10.77.0.5:8080", "0.0.0.0:0"),
        ("fd77::5", 128, "fd00:2::11", "fd00:3::12", "http://[fd77::5]:8080", "[::]:0"),
    ] {
        // s1 has what is asked for; s2 serves in its place when it may.
        lab.run("s1", &["ip", "address", "add", &format!("{address}/{prefix}"), "dev", "lo"]);
        lab.run("director", &["ip", "route", "add", &format!("{address}/{prefix}"), "via", via]);
        let service = json!({ "fwmark": 5, "family": family(address) });
        let mut new = service.clone();
        new["servers"] = json!([{ "address": server, "port": 8080, "weight": 0 }]);
        lab.request(&json!({ "command": "add-service", "service": new }));
        tune(0);
        let refused = lab.try_run("c1", &["curl", "-sS", "--max-time", "4", url]);
        assert_eq!(refused.status.code(), Some(7), "{}", text(&refused.stderr));
        tune(1);
        for node in ["c1", "director"] {
            assert_eq!(lab.answers(node, url, 5, &[]), [("s1".to_owned(), 5)], "{node}");
        }
        // A program of the director's gets what is addressed to it, too.
        let (bind, own, kind) =
            if family(address) == "ipv4" { ("TCP4", "10.0.1.1", "ip") } else { ("TCP6", "fd00:1::1", "ip6") };
        let mark =
            format!("nft insert rule inet marks choose {kind} daddr {own} tcp dport 8081 meta mark set 5");
        lab.shell("director", &mark);
        let at = if family(address) == "ipv4" { own.to_owned() } else { format!("[{own}]") };
        let listen = format!("{bind}-LISTEN:8081,bind={at},reuseaddr");
        let _program = lab.spawn("director", &["socat", "-u", "OPEN:/proc/version", &listen]);
        wait_for("the program", || !lab.run("director", &["ss", "-Hltn", "sport = :8081"]).is_empty());
        let read = lab.run("c1", &["socat", "-u", &format!("{bind}:{at}:8081"), "-"]);
        assert!(read.starts_with("Linux version"), "{read}");
        let server = json!({ "address": server, "port": 8080, "weight": 1 });
        lab.request(&json!({ "command": "edit-server", "service": service, "server": server }));
        assert_eq!(lab.answers("c1", url, 5, &[]), [("s2".to_owned(), 5)]);
        let shown = lab.show("connections");
        let passed: Vec<_> =
            shown.as_array().unwrap().iter().filter(|entry| entry["server"] == nobody).collect();
        assert_eq!(passed.len(), 11, "{shown}");
        for entry in passed {
            assert_eq!([&entry["forward"], &entry["flags"]], ["bypass", "0x0004"], "{entry}");
        }
    }
    lab.assert_no_checksum_errors();
}

fn family(address: &str) -> &'static str {
    if address.contains(':') { "ipv6" } else { "ipv4" }
}

#[test]
fn questions_from_one_port_go_to_servers_in_turn_with_one_packet() {
    let lab = Lab::up("one-packet", "nat", &[]);
    for (_, vip, _) in WEB {
        lab.request(&json!({ "command": "set-timeouts", "timeouts": { "udp": 1 } }));
        let one = answers_from_one_port(&lab, vip, 12);
        assert_eq!((one.len(), one[0].1), (1, 12), "{one:?}");
        edit(&lab, key("udp", vip, 53), &json!({ "one_packet": true }));
        wait_for("the connection's end", || lab.show("connections") == json!([]));
        assert_eq!(
            answers_from_one_port(&lab, vip, 300).iter().map(|(_, n)| *n).collect::<Vec<_>>(),
            [100; 3]
        );
        assert_eq!(lab.show("connections"), json!([]));
        let services = lab.show("services");
        let dns =
            services.as_array().expect("a list").iter().find(|s| s["address"] == vip && s["port"] == 53);
        let stats = &dns.expect("the service")["stats"];
        assert_eq!((&stats["connections"], &stats["out_packets"]), (&json!(301), &json!(312)), "{stats}");
    }
    lab.assert_no_checksum_errors();
}

#[test]
fn a_full_server_is_passed_over() {
    let lab = Lab::up("thresholds", "nat", &[]);
    for (url, vip, servers) in WEB {
        for server in &servers[..2] {
            let limited = json!({ "address": server, "port": 8080, "upper_threshold": 5 });
            lab.request(
                &json!({ "command": "edit-server", "service": key("tcp", vip, 80), "server": limited }),
            );
        }
        let expected = [("s1", 5), ("s2", 5), ("s3", 20)].map(|(name, count)| (name.to_owned(), count));
        assert_eq!(lab.answers("c1", url, 30, &[]), expected, "those that are closing count");
    }
    let servers = lab.show("servers");
    let full = servers.as_array().expect("a list").iter().filter(|server| server["overloaded"] == true);
    assert_eq!(full.count(), 4, "{servers}");
}

#[test]
fn udp_moves_on_when_its_server_is_removed() {
    let lab = Lab::up("on-remove", "nat", &[]);
    for (_, vip, servers) in WEB {
        let first = answers_from_one_port(&lab, vip, 3);
        let number: usize = first[0].0.trim_matches('"')[1..].parse().expect("the server's number");
        let gone = json!({ "address": servers[number - 1], "port": 5353 });
        lab.request(&json!({ "command": "delete-server", "service": key("udp", vip, 53), "server": gone }));
        let next = answers_from_one_port(&lab, vip, 3);
        assert_eq!((next.len(), next[0].1), (1, 3), "{next:?}");
        assert_ne!(next[0].0, first[0].0);
    }
}

#[test]
fn tunables_are_shown_as_they_were_set() {
    let lab = Lab::up("tunables", "one-server", &[]);
    let defaults = lab.show("tunables");
    let tunables = |mode: u8, nodest: u8| {
        let mut tunables = defaults.clone();
        tunables["conn_reuse_mode"] = mode.into();
        tunables["expire_nodest_conn"] = nodest.into();
        tunables
    };
    assert_eq!(defaults, tunables(1, 0));
    lab.request(&json!({ "command": "set-tunables", "tunables": { "expire_nodest_conn": 1 } }));
    lab.request(&json!({ "command": "set-tunables", "tunables": { "conn_reuse_mode": 0 } }));
    assert_eq!(lab.show("tunables"), tunables(0, 1));
    let reloaded = lab.nfvs(&["reload"]);
    assert_eq!(text(&reloaded.stdout), "reloaded: tunables changed\n");
    assert_eq!(lab.show("tunables"), tunables(1, 0));
}
