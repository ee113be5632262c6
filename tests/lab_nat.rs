//! The scenario `nat`: a client, a director, three real servers; both families; the virtual addresses on no interface
//! and on the director's client-side one.

mod common;

use common::lab::{Lab, tally, text, wait_for};
use serde_json::json;

/// The two ways to have a virtual address.
const VIPS: [&str; 2] = ["none", "local"];
const URLS: [&str; 2] = ["http://10.0.0.100", "http://[fd00::100]"];

fn up(name: &str, vip: &str) -> Lab {
    Lab::up(name, "nat", &["--vip", vip])
}

fn each(count: usize) -> Vec<(String, usize)> {
    ["s1", "s2", "s3"].map(|server| (server.to_owned(), count)).to_vec()
}

#[test]
fn three_hundred_requests_are_a_hundred_for_each_server() {
    for vip in VIPS {
        let lab = up("rr", vip);
        for url in URLS {
            assert_eq!(lab.answers("c1", url, 300, &[]), each(100), "{url}, VIP {vip}");
        }
        // On a slow machine the first have ended already.
        assert_eq!(lab.show("stats")["total"]["connections"], 600);
        let first = &lab.show("connections")[0];
        for (key, value) in
            [("origin", json!("local")), ("forward", json!("nat")), ("flags", json!("0x0100"))]
        {
            assert_eq!(first[key], value, "{first}");
        }
        lab.assert_no_checksum_errors();
    }
}

#[test]
fn in_one_segment_no_redirect_leaves_the_director() {
    for vip in VIPS {
        let lab = Lab::up("nat-one-arm", "nat-one-arm", &["--vip", vip]);
        let redirects = lab.capture("lan", "icmp[0] == 5 or (icmp6 and ip6[40] == 137)");
        for url in URLS {
            assert_eq!(lab.answers("c1", url, 300, &[]), each(100), "{url}, VIP {vip}");
        }
        lab.assert_no_redirects(&redirects);
    }
}

/// Runs `lab ARGUMENTS`, which has to succeed, and returns what it printed.
#[track_caller]
fn script(lab: &Lab, arguments: &[&str]) -> String {
    let output = lab.script(arguments);
    assert!(output.status.success(), "lab {arguments:?}: {}{}", text(&output.stdout), text(&output.stderr));
    text(&output.stdout)
}

#[test]
fn virtual_addresses_move_between_interface_and_nowhere_under_load() {
    let lab = up("moving", "none");
    let loads = URLS.map(|url| lab.load(&["-c16", "-H", "Connection: close", url]));
    for place in ["local", "none", "local", "none"] {
        script(&lab, &["vip", place]);
        let asked = script(&lab, &["ask", "3"]);
        assert_eq!(asked.lines().count(), 18, "{place}: {asked}");
    }
    for load in loads {
        load.end_load();
    }
}

/// Linux tests its IPVS in this network, with these bytes: tools/testing/selftests/net/netfilter/ipvs.sh.
#[test]
fn the_kernels_own_test_of_ipvs_passes_for_nat() {
    for vip in VIPS {
        let lab = Lab::up("selftest", "selftest-nat", &["--vip", vip]);
        assert_eq!(script(&lab, &["ask", "3"]), "sink tcp 207.175.44.110:8080 arrived\n".repeat(3));
        let services = lab.show("services");
        assert_eq!(services[0]["servers"][0]["stats"]["connections"], 3, "VIP {vip}: {services}");
    }
}

#[test]
fn a_client_on_the_director_reaches_the_virtual_address() {
    for vip in VIPS {
        let lab = up("local-client", vip);
        for url in URLS {
            assert_eq!(lab.answers("director", url, 30, &[]), each(10), "{url}, VIP {vip}");
        }
        for (server, name) in [("10.0.0.100", "s"), ("fd00::100", "s")] {
            let answer = lab
                .run("director", &["dig", "+short", "+tries=1", &format!("@{server}"), "TXT", "server.lab"]);
            assert!(answer.trim_matches(['"', '\n']).starts_with(name), "{answer}");
        }
        lab.assert_no_checksum_errors();
    }
}

/// Runs wrk and returns what it says; no request may fail.
#[track_caller]
fn wrk(lab: &Lab, seconds: u32, url: &str, arguments: &[&str]) -> String {
    let duration = format!("-d{seconds}s");
    let said = lab.run("c1", &[&["wrk", "-t2", "-c64", &duration], arguments, &[url]].concat());
    assert!(!said.contains("Socket errors") && !said.contains("Non-2xx"), "{said}");
    said
}

#[test]
fn wrk_meets_no_error_with_lasting_and_with_short_connections() {
    for (vip, seconds) in VIPS.into_iter().zip([10, 3]) {
        let lab = up("wrk", vip);
        for url in URLS {
            wrk(&lab, seconds, url, &[]);
            wrk(&lab, seconds, url, &["-H", "Connection: close"]);
        }
        for service in lab.show("services").as_array().unwrap() {
            if service["protocol"] == "tcp" {
                for server in service["servers"].as_array().unwrap() {
                    assert!(server["stats"]["connections"].as_u64().unwrap() > 100, "{service}");
                }
            }
        }
        lab.assert_queues_lost_nothing();
        lab.assert_no_checksum_errors();
    }
}

#[test]
fn no_query_over_udp_is_lost() {
    for vip in VIPS {
        let lab = up("dig", vip);
        for server in ["10.0.0.100", "fd00::100"] {
            let questions = "server.lab TXT\n".repeat(2000);
            std::fs::write(lab.file("questions"), questions).unwrap();
            let path = lab.file("questions");
            let at = format!("@{server}");
            let said = lab.run(
                "c1",
                &["dig", &at, "+short", "+tries=1", "+time=3", "+nocookie", "-f", path.to_str().unwrap()],
            );
            let counts = tally(&said);
            let answered: usize = counts.iter().map(|(_, count)| count).sum();
            assert_eq!((answered, counts.len()), (2000, 3), "{counts:?}");
        }
        lab.assert_queues_lost_nothing();
    }
}

#[test]
fn a_datagram_of_sixty_kilobytes_comes_back_whole() {
    for vip in VIPS {
        let lab = up("udp-60k", vip);
        for node in ["c1", "director"] {
            for (family, address) in [("UDP4", "10.0.0.100"), ("UDP6", "[fd00::100]")] {
                // The client's own fragments and the server's have to be put together by the director's kernel.
                lab.shell(
                    node,
                    &format!(
                        "head -c 60000 /dev/urandom > {0}/sent
                         socat -b65536 -T2 - {family}:{address}:7 < {0}/sent > {0}/back
                         cmp {0}/sent {0}/back",
                        lab.file("").display()
                    ),
                );
            }
        }
        // Requests and answers of c1 came in pieces; put together, each counts as one packet.
        for service in lab.show("services").as_array().unwrap() {
            if service["port"] == 7 {
                for direction in ["in", "out"] {
                    let count =
                        |what: &str| service["stats"][format!("{direction}_{what}")].as_u64().unwrap();
                    assert_eq!((count("packets"), count("bytes") / 60_000), (2, 2), "{service}");
                }
            }
        }
        assert_eq!(lab.show("stats")["drops"]["fragment"], 0);
        lab.assert_no_checksum_errors();
    }
}

#[test]
fn what_fits_no_service_is_refused_and_never_sent_on_even_without_a_daemon() {
    for vip in VIPS {
        let lab = up("refuse", vip);
        for is_alive in [true, false] {
            if !is_alive {
                assert!(lab.script(&["daemon", "kill"]).status.success());
            }
            for (url, udp) in
                [("http://10.0.0.100", "UDP4:10.0.0.100"), ("http://[fd00::100]", "UDP6:[fd00::100]")]
            {
                // The director's default route leads to the client: what it sends out again would come back there.
                let counters = || lab.run("director", &["nft", "list", "ruleset"]);
                // 81: no service. 80: served, but not without a daemon.
                let ports: &[u16] = if is_alive { &[81] } else { &[80, 81] };
                for port in ports {
                    for node in ["c1", "director"] {
                        let tried =
                            lab.try_run(node, &["curl", "-sS", "--max-time", "4", &format!("{url}:{port}/")]);
                        // 7: connection refused. A time-out would be 28.
                        assert_eq!(
                            tried.status.code(),
                            Some(7),
                            "{url}:{port} from {node}, daemon {is_alive}, VIP {vip}\n{}",
                            counters()
                        );
                    }
                }
                let tried = lab.try_run("c1", &["bash", "-c", &format!("echo x | socat -T3 - {udp}:9999")]);
                assert!(
                    text(&tried.stderr).contains("refused"),
                    "{udp} daemon {is_alive}: {}",
                    text(&tried.stderr)
                );
            }
            for address in ["10.0.0.100", "fd00::100"] {
                for node in ["c1", "director"] {
                    lab.run(node, &["ping", "-c2", "-i0.2", "-W3", address]);
                }
            }
        }
    }
}

#[test]
fn a_real_servers_port_unreachable_reaches_the_client() {
    for vip in VIPS {
        let lab = up("unreachable", vip);
        for node in ["c1", "director"] {
            for (address, server, udp) in [
                ("10.0.0.100", "10.0.2.11", "UDP4:10.0.0.100"),
                ("fd00::100", "fd00:2::11", "UDP6:[fd00::100]"),
            ] {
                let service = json!({ "protocol": "udp", "address": address, "port": 99 });
                let mut new = service.clone();
                new["servers"] = json!([{ "address": server, "port": 9 }]);
                lab.request(&json!({ "command": "add-service", "service": new }));
                // Nobody listens there. A connected socket only hears of errors about its very own packets, so the
                // embedded header has to be right.
                let tried = lab.try_run(node, &["bash", "-c", &format!("echo x | socat -T3 - {udp}:99")]);
                assert!(
                    text(&tried.stderr).contains("refused"),
                    "{address} from {node}: {}",
                    text(&tried.stderr)
                );
                lab.request(&json!({ "command": "delete-service", "service": service }));
            }
        }
    }
}

#[test]
fn without_a_route_to_the_server_the_client_is_told() {
    for vip in VIPS {
        let lab = up("no-route", vip);
        for (address, url, server, filter) in [
            ("10.0.0.100", "http://10.0.0.100:81", "10.99.0.1", "icmp[0] == 3"),
            ("fd00::100", "http://[fd00::100]:81", "fd99::1", "icmp6 and ip6[40] == 1"),
        ] {
            let service = json!({
                "protocol": "tcp", "address": address, "port": 81,
                "servers": [{ "address": server, "port": 81 }],
            });
            lab.request(&json!({ "command": "add-service", "service": service }));
            lab.run("director", &["ip", "route", "add", "unreachable", server]);
            let errors = lab.capture("c1", filter);
            let said = lab.try_run("c1", &["curl", "-sS", "--max-time", "10", url]);
            const NO_CONNECTION: i32 = 7;
            assert_eq!(said.status.code(), Some(NO_CONNECTION), "VIP {vip}, {url}: {said:?}");
            let seen = errors.wait_for("unreachable");
            assert!(seen.contains(address) && !seen.contains(server), "VIP {vip}: {seen}");
        }
    }
}

#[test]
fn nothing_leaves_that_comes_from_the_loopback_network() {
    for vip in VIPS {
        let lab = up("loopback", vip);
        let captures = ["s1", "s2", "s3"].map(|server| lab.capture(server, "host 127.0.0.1"));
        // One for each server.
        for _ in 0..3 {
            let curl = ["curl", "-sS", "--max-time", "0.5", "--interface", "127.0.0.1", URLS[0]];
            assert!(!lab.try_run("director", &curl).status.success(), "VIP {vip}");
        }
        for capture in captures {
            assert_eq!(capture.text(), "", "VIP {vip}");
        }
    }
}

#[test]
fn a_service_without_servers_is_answered_port_unreachable_over_tcp_too() {
    let lab = up("no-server", "none");
    for (address, url) in [("10.0.0.100", "http://10.0.0.100:88/"), ("fd00::100", "http://[fd00::100]:88/")] {
        let service = json!({ "protocol": "tcp", "address": address, "port": 88 });
        lab.request(&json!({ "command": "add-service", "service": service }));
        let filter = "icmp[0] == 3 or (ip6[6] == 58 and ip6[40] == 1)";
        let mut tcpdump = lab.spawn("c1", &["tcpdump", "-ni", "any", "-c1", "-l", filter]);
        wait_for("an ICMP unreachable at the client", || {
            let tried = lab.try_run("c1", &["curl", "-sS", "--max-time", "1", url]);
            assert!(!tried.status.success());
            tcpdump.has_ended()
        });
        let seen = tcpdump.finish();
        assert!(seen.contains("port 88 unreachable") || seen.contains("unreachable port"), "{seen}");
    }
}

#[test]
fn services_come_and_go_while_another_is_under_load() {
    let lab = up("live", "none");
    for (loaded, address, url, server) in [
        (URLS[0], "10.0.0.101", "http://10.0.0.101:8000/", "10.0.2.11"),
        (URLS[1], "fd00::101", "http://[fd00::101]:8000/", "fd00:2::11"),
    ] {
        let load = lab.load(&["-c32", "-H", "Connection: close", loaded]);
        let service = json!({ "protocol": "tcp", "address": address, "port": 8000 });
        let mut new = service.clone();
        new["servers"] = json!([{ "address": server, "port": 8080 }]);
        for _ in 0..20 {
            lab.request(&json!({ "command": "add-service", "service": new }));
            assert_eq!(lab.run("c1", &["curl", "-sS", "--max-time", "3", url]), "s1\n");
            lab.request(&json!({ "command": "delete-service", "service": service }));
        }
        load.end_load();
    }
}

#[test]
fn two_services_on_one_server_keep_a_client_port_apart() {
    let lab = Lab::up("shared", "one-server", &[]);
    for (first, second) in [("10.0.0.100", "10.0.0.101"), ("fd00::100", "fd00::101")] {
        // Both connections are open at once, from the same client port, and each gets its own answer.
        let open = |address: &str| {
            let family =
                if address.contains(':') { format!("TCP6:[{address}]") } else { format!("TCP4:{address}") };
            let file = lab.file(&format!("answer-{}", address.replace([':', '.'], "-")));
            format!(
                "(printf 'GET / HTTP/1.1\\r\\nHost: {address}\\r\\n\\r\\n'; sleep 1) |
                    socat -t1 - {family}:80,sourceport=45678,reuseaddr > {} &",
                file.display()
            )
        };
        let dir = lab.file("");
        for round in 0..2 {
            lab.shell("c1", &format!("{}\n{}\nwait", open(first), open(second)));
            let answers =
                lab.shell("c1", &format!("grep -lx s1 {0}/answer-* | wc -l; rm {0}/answer-*", dir.display()));
            assert_eq!(answers, "2\n", "round {round}");
        }
        let connections = lab.show("connections");
        let ports: Vec<&str> =
            connections.as_array().unwrap().iter().filter_map(|c| c["client"].as_str()).collect();
        assert!(ports.iter().all(|client| client.ends_with(":45678")), "{ports:?}");
    }
}

#[test]
fn a_flushed_ruleset_comes_back_by_itself() {
    let lab = up("flush", "none");
    for loss in ["nft flush ruleset", "nft delete table ip nfvs", "nft delete table ip6 nfvs"] {
        lab.shell("director", loss);
        for url in URLS {
            wait_for("the virtual address", || {
                lab.try_run("c1", &["curl", "-sS", "--max-time", "1", url]).status.success()
            });
        }
    }
    assert_eq!(lab.log().matches("they are in place again").count(), 3, "{}", lab.log());
}

#[test]
fn a_deleted_service_is_refused_at_once_even_as_the_last_of_its_address() {
    let lab = up("deleted", "none");
    for (address, url) in [("10.0.0.101", "http://10.0.0.101/"), ("fd00::101", "http://[fd00::101]/")] {
        let service = json!({ "protocol": "tcp", "address": address, "port": 80 });
        let server = if address.contains(':') { "fd00:2::11" } else { "10.0.2.11" };
        let mut new = service.clone();
        new["servers"] = json!([{ "address": server, "port": 8080 }]);
        lab.request(&json!({ "command": "add-service", "service": new }));
        assert_eq!(lab.run("c1", &["curl", "-sS", "--max-time", "4", url]), "s1\n");
        lab.request(&json!({ "command": "delete-service", "service": service }));
        let tried = lab.try_run("c1", &["curl", "-sS", "--max-time", "4", url]);
        assert_eq!(tried.status.code(), Some(7), "refused, not timed out: {}", text(&tried.stderr));
    }
}

#[test]
fn a_server_reaches_itself_through_the_virtual_address_and_the_others_see_its_own() {
    for vip in VIPS {
        let lab = up("hairpin", vip);
        lab.shell("director", "for file in /proc/sys/net/ipv4/conf/*/rp_filter; do echo 1 > $file; done");
        for (url, address, own) in
            [(URLS[0], "10.0.0.100", "10.0.2.11"), (URLS[1], "fd00::100", "fd00:2::11")]
        {
            // What the two servers see of clients: one that is itself, and one that is another.
            let syn = "tcp dst port 8080 and (tcp[13] == 2 or ip6[53] == 2)";
            let [itself, other] = ["s1", "s2"].map(|server| lab.capture(server, syn));
            assert_eq!(lab.answers("s1", url, 30, &[]), each(10), "{url}, VIP {vip}");
            itself.wait_for(&format!("{address}."));
            let seen = other.wait_for(&format!("{own}."));
            assert!(!seen.contains(&format!("{address}.")), "{seen}");

            assert_eq!(lab.names("s1", address, 30), each(10), "{address}, VIP {vip}");
        }
        lab.assert_no_checksum_errors();
    }
}

#[test]
fn a_port_unreachable_of_a_server_that_asked_itself_comes_back() {
    for vip in VIPS {
        let lab = up("hairpin-unreachable", vip);
        for (address, server, udp) in
            [("10.0.0.100", "10.0.2.11", "UDP4:10.0.0.100"), ("fd00::100", "fd00:2::11", "UDP6:[fd00::100]")]
        {
            let service = json!({
                "protocol": "udp", "address": address, "port": 99, "servers": [{ "address": server, "port": 9 }],
            });
            lab.request(&json!({ "command": "add-service", "service": service }));
            let tried = lab.try_run("s1", &["bash", "-c", &format!("echo x | socat -T3 - {udp}:99")]);
            assert!(text(&tried.stderr).contains("refused"), "{address}: {}", text(&tried.stderr));
        }
    }
}
