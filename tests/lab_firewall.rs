//! nfvs beside an operator's own rules: a stateful firewall, address translation, foreign tables; and connection
//! tracking, which knows of everything but the flows of virtual services.

mod common;

use common::lab::{Lab, text, wait_for};
use serde_json::{Value, json};

const VIPS: [&str; 2] = ["none", "local"];
const ADDRESSES: [&str; 2] = ["10.0.0.100", "fd00::100"];

/// docs/steering.md's rule, in one line.
const UNTRACKED: &str = "ct state untracked accept";

/// docs/steering.md's tighter rules, for all servers and ports of the scenario `nat`.
const UNTRACKED_TIGHT: &str = "
    ct state untracked ip daddr { 10.0.2.11, 10.0.3.12, 10.0.4.13 } tcp dport 8080 accept
    ct state untracked ip saddr { 10.0.2.11, 10.0.3.12, 10.0.4.13 } tcp sport 8080 accept
    ct state untracked ip daddr { 10.0.2.11, 10.0.3.12, 10.0.4.13 } udp dport { 5353, 7777 } accept
    ct state untracked ip saddr { 10.0.2.11, 10.0.3.12, 10.0.4.13 } udp sport { 5353, 7777 } accept
    ct state untracked ip6 daddr { fd00:2::11, fd00:3::12, fd00:4::13 } tcp dport 8080 accept
    ct state untracked ip6 saddr { fd00:2::11, fd00:3::12, fd00:4::13 } tcp sport 8080 accept
    ct state untracked ip6 daddr { fd00:2::11, fd00:3::12, fd00:4::13 } udp dport { 5353, 7777 } accept
    ct state untracked ip6 saddr { fd00:2::11, fd00:3::12, fd00:4::13 } udp sport { 5353, 7777 } accept
    ct state untracked ip saddr 10.0.0.100 accept
    ct state untracked ip6 saddr fd00::100 accept
    ct state untracked meta l4proto { icmp, icmpv6 } accept";

fn bracketed(address: &str) -> String {
    if address.contains(':') { format!("[{address}]") } else { address.to_owned() }
}

/// Loads nft text in the director.
#[track_caller]
fn nft(lab: &Lab, rules: &str) {
    lab.shell("director", &format!("nft -f - <<'RULES'\n{rules}\nRULES"));
}

/// A firewall that forwards what is established and new flows from c1, and `more`.
fn forward_firewall(more: &str) -> String {
    format!(
        "table inet fw {{
            chain forward {{
                type filter hook forward priority 0; policy drop;
                ct state established,related accept
                ct state new iifname c1 tcp dport 8080 accept
                ct state new iifname c1 udp dport 7777 accept
                {more}
                counter comment \"dropped\"
            }}
        }}"
    )
}

/// `curl` for a page; whether it was answered, and the server's name.
fn page(lab: &Lab, node: &str, host: &str, port: u16, more: &[&str]) -> (bool, String) {
    let url = format!("http://{}:{port}/", bracketed(host));
    let fixed = ["curl", "-sS", "--max-time", "3", "-H", "Connection: close"];
    let output = lab.try_run(node, &[&fixed[..], more, &[&url]].concat());
    (output.status.success(), text(&output.stdout))
}

/// The answer of an echo over UDP: `probe` if there is one.
fn echo(lab: &Lab, node: &str, host: &str, port: u16) -> String {
    let family = if host.contains(':') { "UDP6" } else { "UDP4" };
    let to = format!("{family}:{}:{port}", bracketed(host));
    text(&lab.try_run(node, &["bash", "-c", &format!("echo probe | socat -T3 - {to}")]).stdout)
}

/// What connection tracking knows in the director, of both families.
fn tracked(lab: &Lab) -> String {
    ["ipv4", "ipv6"].map(|family| lab.run("director", &["conntrack", "-L", "-f", family])).concat()
}

/// Uses every service of a virtual address from a node.
#[track_caller]
fn assert_services_work(lab: &Lab, node: &str, servers: usize, case: &str) {
    for address in ADDRESSES {
        let url = format!("http://{}", bracketed(address));
        assert_eq!(lab.answers(node, &url, 30, &[]).len(), servers, "{case}, {address} from {node}");
        assert_eq!(echo(lab, node, address, 7), "probe\n", "{case}, {address} from {node}");
    }
}

#[test]
fn virtual_and_direct_flows_pass_a_stateful_firewall() {
    for vip in VIPS {
        for (rules, what) in [(UNTRACKED, "one rule"), (UNTRACKED_TIGHT, "tight rules")] {
            let lab = Lab::up("fw", "nat", &["--vip", vip]);
            let case = format!("VIP {vip}, {what}");
            nft(&lab, &forward_firewall(rules));
            assert_services_work(&lab, "c1", 3, &case);
            assert_services_work(&lab, "director", 3, &case);
            // A closed port behind a service: the server's ICMP error passes, as untracked as what it is about.
            let dead = json!({
                "protocol": "udp", "address": ADDRESSES[0], "port": 99,
                "servers": [{ "address": "10.0.2.11", "port": 7778 }],
            });
            lab.request(&json!({ "command": "add-service", "service": dead }));
            if what == "one rule" {
                let said = lab.try_run("c1", &["bash", "-c", "echo x | socat -T3 - UDP4:10.0.0.100:99"]);
                assert!(text(&said.stderr).contains("refused"), "{case}: {}", text(&said.stderr));
            }
            assert_eq!(tracked(&lab), "", "{case}");

            for (server, address) in [("s1", "10.0.2.11"), ("s1", "fd00:2::11"), ("s3", "10.0.4.13")] {
                let (_, name) = page(&lab, "c1", address, 8080, &[]);
                assert_eq!(name, format!("{server}\n"), "{case}");
                assert_eq!(echo(&lab, "c1", address, 7777), "probe\n", "{case}");
            }
            let known = tracked(&lab);
            for flow in ["dst=10.0.2.11 sport=", "dst=fd00:2::11 sport=", "dst=10.0.4.13 sport="] {
                assert_eq!(known.matches(flow).count(), 2, "{case}: {flow} in {known}");
            }
            // As c1 sent it and as it is answered, TCP and UDP, nothing else.
            assert_eq!(known.lines().count(), 6, "{case}: {known}");
            // The firewall is one: c1 may not go elsewhere.
            assert!(!page(&lab, "c1", "10.0.2.11", 5353, &[]).0, "{case}");
        }
    }
}

#[test]
fn without_the_documented_rule_the_firewall_stops_virtual_flows_only() {
    for vip in VIPS {
        let lab = Lab::up("fw-control", "nat", &["--vip", vip]);
        nft(&lab, &forward_firewall(""));
        for (address, server) in ADDRESSES.into_iter().zip(["10.0.2.11", "fd00:2::11"]) {
            assert_eq!(page(&lab, "c1", address, 80, &[]), (false, String::new()), "VIP {vip}");
            assert_eq!(page(&lab, "c1", server, 8080, &[]), (true, "s1\n".to_owned()), "VIP {vip}");
        }
        let rules = lab.run("director", &["nft", "list", "table", "inet", "fw"]);
        assert!(!rules.contains("counter packets 0 "), "{rules}");
    }
}

/// A firewall that drops in every hook, with the documented rules.
const CLOSED_HOST: &str = "table inet fw {
    chain input {
        type filter hook input priority 0; policy drop;
        ct state established,related accept
        ct state untracked accept
    }
    chain forward {
        type filter hook forward priority 0; policy drop;
        ct state established,related accept
        ct state untracked accept
    }
    chain output {
        type filter hook output priority 0; policy drop;
        ct state established,related accept
        ct state untracked accept
        ct state invalid ip saddr 10.0.0.100 tcp flags rst accept
        ct state invalid ip6 saddr fd00::100 tcp flags rst accept
        ct state invalid icmp type destination-unreachable accept
        ct state invalid icmpv6 type destination-unreachable accept
    }
}";

#[test]
fn clients_and_servers_on_a_director_that_drops_everywhere_are_served() {
    for vip in VIPS {
        for (scenario, servers) in [("nat", 3), ("local", 1)] {
            let lab = Lab::up("fw-host", scenario, &["--vip", vip]);
            nft(&lab, CLOSED_HOST);
            let case = format!("VIP {vip}, {scenario}");
            for node in ["c1", "director"] {
                assert_services_work(&lab, node, servers, &case);
            }
            assert_eq!(tracked(&lab), "", "{case}");
            if vip == "none" {
                // Refused by nfvs's rules, which the firewall lets out as documented.
                for address in ADDRESSES {
                    let url = format!("http://{}:81/", bracketed(address));
                    let tried = lab.try_run("c1", &["curl", "-sS", "--max-time", "3", &url]);
                    assert_eq!(tried.status.code(), Some(7), "{case}: {}", text(&tried.stderr));
                }
            }
        }
    }
}

#[test]
fn servers_reach_out_through_the_operators_address_translation() {
    // The virtual address as the translated source makes sense where it is the director's own.
    for (vip, translate) in [
        ("none", "masquerade"),
        ("local", "masquerade"),
        ("local", "snat ip to 10.0.0.100"),
        ("local", "snat ip6 to fd00::100"),
    ] {
        let lab = Lab::up("fw-nat", "nat", &["--vip", vip]);
        nft(
            &lab,
            &format!(
                "table inet operator {{
                    chain postrouting {{
                        type nat hook postrouting priority srcnat;
                        iifname {{ s1, s2, s3 }} oifname c1 {translate}
                    }}
                }}"
            ),
        );
        let echo = concat!(env!("CARGO_MANIFEST_DIR"), "/netns-lab/lib/udp-echo");
        let _echo = lab.spawn("c1", &["perl", echo, "9000", "10.0.1.2", "fd00:1::2"]);
        let _web = lab.spawn(
            "c1",
            &["socat", "TCP6-LISTEN:9000,fork,reuseaddr,ipv6-v6only=0", "SYSTEM:echo $SOCAT_PEERADDR"],
        );
        wait_for("the servers on c1", || {
            lab.run("c1", &["ss", "-Hlnut", "sport = :9000"]).lines().count() == 3
        });
        for (at, address, server, client) in
            [("4", ADDRESSES[0], "10.0.2.11", "10.0.1.2"), ("6", ADDRESSES[1], "fd00:2::11", "fd00:1::2")]
        {
            // "snat ip" says nothing about the other family.
            if translate.starts_with("snat") && (translate.contains("ip6") != (at == "6")) {
                continue;
            }
            let case = format!("VIP {vip}, {translate}, {address}");
            let own = if translate == "masquerade" { ["10.0.1.1", "fd00:1::1"] } else { ADDRESSES };
            let own = own[usize::from(at == "6")];
            // Services whose servers send from the very port they serve.
            for protocol in ["tcp", "udp"] {
                let service = json!({
                    "protocol": protocol, "address": address, "port": 55,
                    "servers": [{ "address": server, "port": 5555 }],
                });
                lab.request(&json!({ "command": "add-service", "service": service }));
            }
            let client = bracketed(client);
            for from in ["", ",sourceport=5555,reuseaddr"] {
                let said = lab.shell("s1", &format!("socat -T3 - TCP{at}:{client}:9000{from} < /dev/null"));
                let seen = said.trim().trim_matches(['[', ']']).trim_start_matches("::ffff:").to_owned();
                assert!(is_address(&seen, own), "{case}: {seen} is not {own}, {from}");
                let said = lab.shell("s1", &format!("echo probe | socat -T3 - UDP{at}:{client}:9000{from}"));
                assert_eq!(said, "probe\n", "{case}, {from}");
            }
            let known = tracked(&lab);
            assert!(known.contains(&format!("dst={own} sport=9000")), "{case}: {known}");
            // Services go on working beside it.
            assert_services_work(&lab, "c1", 3, &case);
        }
    }
}

/// Whether two texts are the same address; socat writes IPv6 addresses in full.
fn is_address(one: &str, other: &str) -> bool {
    one.parse::<std::net::IpAddr>().ok() == Some(other.parse().unwrap())
        || one.parse::<std::net::Ipv6Addr>().ok().and_then(|address| address.to_ipv4_mapped()).map(Into::into)
            == Some(other.parse::<std::net::IpAddr>().unwrap())
}

#[test]
fn foreign_tables_stay_as_they_are_when_the_daemon_comes_changes_and_goes() {
    let foreign = "
        table inet foreign {
            set seen { type ipv4_addr; elements = { 192.0.2.1 } }
            chain count { type filter hook prerouting priority -310; udp dport 4242 counter; }
            chain reply { type filter hook output priority 10; ip daddr @seen counter drop; }
        }
        table ip nat {
            chain postrouting { type nat hook postrouting priority srcnat; oifname nowhere masquerade; }
        }
        table ip6 mangle {
            chain prerouting { type filter hook prerouting priority mangle; meta mark 7 counter; }
        }";
    for vip in VIPS {
        let lab = Lab::up("fw-foreign", "nat", &["--vip", vip, "--no-daemon"]);
        nft(&lab, foreign);
        lab.shell("c1", "for i in 1 2 3; do echo x | socat -u - UDP4-SENDTO:10.0.1.1:4242; done");
        // With handles and counters: a table that was removed and made again would have others.
        let tables = || {
            ["inet foreign", "ip nat", "ip6 mangle"]
                .map(|table| lab.shell("director", &format!("nft -a list table {table}")))
                .concat()
        };
        let before = tables();
        assert!(before.contains("counter packets 3 "), "{before}");
        assert!(lab.script(&["daemon", "start"]).status.success());
        assert_eq!(tables(), before, "started, VIP {vip}");
        let service: Value = json!({ "protocol": "tcp", "address": "10.0.0.101", "port": 80 });
        let mut new = service.clone();
        new["servers"] = json!([{ "address": "10.0.2.11", "port": 8080 }]);
        lab.request(&json!({ "command": "add-service", "service": new }));
        assert_services_work(&lab, "c1", 3, vip);
        lab.request(&json!({ "command": "delete-service", "service": service }));
        assert_eq!(tables(), before, "changed, VIP {vip}");
        let stopped = lab.script(&["daemon", "stop"]);
        assert!(stopped.status.success(), "{}", text(&stopped.stderr));
        assert_eq!(tables(), before, "stopped, VIP {vip}");
        assert_eq!(lab.run("director", &["nft", "list", "tables"]).lines().count(), 3);
        // What a killed daemon has left is replaced, and nothing else.
        assert!(lab.script(&["daemon", "start"]).status.success());
        assert!(lab.script(&["daemon", "kill"]).status.success());
        assert!(lab.script(&["daemon", "start"]).status.success());
        assert_eq!(tables(), before, "killed and started again, VIP {vip}");
    }
}

/// Who ends a connection first, and has to remember it for a while.
#[derive(Debug, Clone, Copy, PartialEq)]
enum EndsFirst {
    Client,
    Server,
}

/// Asks for a page from a fixed client port, whatever the client's kernel remembers about it, and returns the answer's
/// last line. A server that remembers the port may take the first SYN for an old connection's; the second counts.
#[track_caller]
fn page_from(lab: &Lab, port: u16, host: &str, to: u16, first: EndsFirst) -> String {
    let family = if host.contains(':') { "TCP6" } else { "TCP4" };
    let end = format!("{family}:{}:{to},sourceport={port},reuseaddr", bracketed(host));
    let (version, stdin) = match first {
        EndsFirst::Client => ("1.1", "-"),
        EndsFirst::Server => ("1.0", "-,ignoreeof"),
    };
    let request = format!(r"GET / HTTP/{version}\r\nHost: x\r\n\r\n");
    let answer = lab.shell("c1", &format!("printf '{request}' | timeout 15 socat -t9 {stdin} {end}"));
    answer.lines().last().unwrap_or_default().to_owned()
}

#[test]
fn a_client_port_goes_from_the_virtual_address_to_the_server_itself_at_once() {
    for vip in VIPS {
        let lab = Lab::up("fw-port", "one-server", &["--vip", vip]);
        for (address, server) in ADDRESSES.into_iter().zip(["10.0.2.11", "fd00:2::11"]) {
            for (first, ports) in [(EndsFirst::Server, 45001..=45003), (EndsFirst::Client, 45101..=45103)] {
                for port in ports {
                    let case =
                        format!("VIP {vip}, {address} and {server} from {port}, ends first: {first:?}");
                    assert_eq!(page_from(&lab, port, address, 80, first), "s1", "{case}");
                    assert_eq!(page_from(&lab, port, server, 8080, first), "s1", "{case}");
                    assert!(tracked(&lab).contains(&format!("sport={port} dport=8080")), "{case}");
                    // And back, unless the client itself remembers the first connection.
                    if first == EndsFirst::Server {
                        assert_eq!(page_from(&lab, port, address, 80, first), "s1", "{case}");
                    }
                }
            }
        }
        lab.assert_no_checksum_errors();
    }
}

#[test]
fn what_the_director_says_to_a_server_itself_is_tracked() {
    for vip in VIPS {
        let lab = Lab::up("fw-own", "one-server", &["--vip", vip]);
        assert_services_work(&lab, "director", 1, vip);
        assert_eq!(tracked(&lab), "", "VIP {vip}");
        for server in ["10.0.2.11", "fd00:2::11"] {
            assert_eq!(page(&lab, "director", server, 8080, &[]), (true, "s1\n".to_owned()), "VIP {vip}");
            assert_eq!(echo(&lab, "director", server, 7777), "probe\n", "VIP {vip}");
        }
        let known = tracked(&lab);
        for flow in ["dst=10.0.2.11 sport=", "dst=fd00:2::11 sport="] {
            let flows: Vec<&str> = known.lines().filter(|line| line.contains(flow)).collect();
            assert_eq!(flows.len(), 2, "{known}");
            assert!(flows.iter().all(|line| !line.contains("UNREPLIED")), "{known}");
        }
        assert_eq!(known.lines().count(), 4, "{known}");
    }
}
