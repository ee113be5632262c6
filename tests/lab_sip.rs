//! The persistence engine `sip` with real SIP: sipp on both sides, a service that schedules each datagram for itself.

mod common;

use common::lab::{Lab, Running, wait_for};
use serde_json::{Value, json};

/// Virtual address, client, servers, as SIP writes them.
const FAMILIES: [(&str, &str, [&str; 3]); 2] = [
    ("10.0.0.100", "10.0.1.2", ["10.0.2.11", "10.0.3.12", "10.0.4.13"]),
    ("[fd00::100]", "[fd00:1::2]", ["[fd00:2::11]", "[fd00:3::12]", "[fd00:4::13]"]),
];
const NODES: [&str; 3] = ["s1", "s2", "s3"];

fn bare(address: &str) -> &str {
    address.trim_matches(['[', ']'])
}

fn service(vip: &str, servers: &[&str]) -> Value {
    let servers: Vec<Value> = servers.iter().map(|server| json!({ "address": bare(server) })).collect();
    json!({
        "protocol": "udp", "address": bare(vip), "port": 5060, "scheduler": "rr", "one_packet": true,
        "persistence": { "timeout": 60, "engine": "sip" }, "servers": servers,
    })
}

fn scenario(name: &str) -> String {
    format!("{}/tests/sip/{name}.xml", env!("CARGO_MANIFEST_DIR"))
}

/// What sipp is told in any case. It forgets a call as soon as that is over, so that its Call-ID may come again.
fn sipp<'a>(own: &'a str, port: &'a str, more: &[&'a str]) -> Vec<&'a str> {
    let words = ["sipp", "-nostdin", "-skip_rlimit", "-deadcall_wait", "0", "-i", bare(own), "-p", port];
    [&words, more].concat()
}

/// Starts a server that answers by `scenario` and is ready when this returns.
fn serve(lab: &Lab, node: &str, own: &str, port: &str, scenario: &[&str]) -> Running {
    let server = lab.spawn(node, &sipp(own, port, scenario));
    let bound = format!("{own}:{port}");
    wait_for("sipp", || lab.run(node, &["ss", "-Hlun", &format!("sport = :{port}")]).contains(&bound));
    server
}

/// Who answered the requests of a client's message log, in the order of the answers.
fn contacts(log: &str) -> Vec<String> {
    log.lines()
        .filter_map(|line| line.strip_prefix("Contact: <sip:"))
        .map(|rest| rest[..rest.rfind(':').expect("a port")].to_owned())
        .collect()
}

/// Asks once with a Call-ID from a port; who answered.
fn ask(lab: &Lab, own: &str, port: u16, vip: &str, call: &str) -> String {
    let log = lab.file("client.messages");
    let (port, to, scenario) = (port.to_string(), format!("{vip}:5060"), scenario("options-client"));
    let words =
        ["-sf", &scenario, "-m", "1", "-cid_str", call, "-timeout", "10s", "-timeout_error", "-trace_msg"];
    let log_words = ["-message_file", log.to_str().expect("text"), &to];
    lab.run("c1", &sipp(own, &port, &[&words[..], &log_words].concat()));
    let answers = contacts(&std::fs::read_to_string(&log).expect("the log of messages"));
    let [answer] = &answers[..] else { panic!("{answers:?}") };
    answer.clone()
}

fn templates(lab: &Lab, vip: &str) -> Vec<Value> {
    let virtual_address = format!("{vip}:5060");
    let all = lab.show("connections");
    let is_ours = |entry: &&Value| entry["template"] == true && entry["virtual"] == virtual_address.as_str();
    all.as_array().expect("a list").iter().filter(is_ours).cloned().collect()
}

#[test]
fn requests_of_a_call_reach_one_server_from_whatever_port() {
    let lab = Lab::up("sip-options", "nat", &[]);
    let options = scenario("options-server");
    for (vip, client, servers) in FAMILIES {
        let _servers: Vec<Running> = NODES
            .iter()
            .zip(servers)
            .map(|(node, own)| serve(&lab, node, own, "5060", &["-sf", &options]))
            .collect();
        lab.request(&json!({ "command": "add-service", "service": service(vip, &servers) }));
        let first = ask(&lab, client, 6000, vip, "call-1@lab");
        for port in 6001..6005 {
            assert_eq!(ask(&lab, client, port, vip, "call-1@lab"), first, "from port {port}");
        }
        // Another call is another client's, so to speak, even from the same port.
        let others = ["call-2@lab", "call-3@lab"].map(|call| ask(&lab, client, 6000, vip, call));
        let mut all = vec![first.clone(), others[0].clone(), others[1].clone()];
        all.sort();
        assert_eq!(all, servers, "each in turn");

        let templates = templates(&lab, vip);
        assert_eq!(templates.len(), 3, "{templates:?}");
        let of_first =
            templates.iter().find(|template| template["pe_data"] == "call-1@lab").expect("a template");
        assert_eq!(of_first["pe_name"], "sip");
        assert_eq!(of_first["server"], format!("{first}:5060").as_str());
        assert_eq!(of_first["state"], "ASSURED", "the server has answered");
        let shown = String::from_utf8(lab.nfvs(&["show", "connections"]).stdout).expect("text");
        assert!(shown.lines().any(|line| line.contains(" sip ") && line.ends_with(" call-1@lab")), "{shown}");
        let shown = String::from_utf8(lab.nfvs(&["show", "services"]).stdout).expect("text");
        assert!(shown.contains(&format!("UDP  {vip}:5060 rr persistent 60 pe sip ops")), "{shown}");
    }
    lab.assert_no_checksum_errors();
}

/// Where nothing is written back, the daemon gets the first bytes of a packet only, unless it has to read on.
#[test]
fn with_direct_routing_a_call_is_known_by_what_stands_far_behind() {
    let lab = Lab::up("sip-dr", "dr", &[]);
    let options = scenario("options-server");
    for (vip, client, servers) in [
        ("10.0.0.100", "10.0.1.2", ["10.0.2.11", "10.0.2.12", "10.0.2.13"]),
        ("[fd00::100]", "[fd00:1::2]", ["[fd00:2::11]", "[fd00:2::12]", "[fd00:2::13]"]),
    ] {
        let _servers = NODES.map(|node| serve(&lab, node, vip, "5060", &["-sf", &options]));
        let mut routed = service(vip, &servers);
        for server in routed["servers"].as_array_mut().expect("a list") {
            server["forward"] = "dr".into();
        }
        lab.request(&json!({ "command": "add-service", "service": routed }));
        for (port, call) in [(6000, "call-1@lab"), (6001, "call-1@lab"), (6000, "call-2@lab")] {
            assert_eq!(ask(&lab, client, port, vip, call), vip, "the server answers as the virtual address");
        }
        let mut calls: Vec<Value> =
            templates(&lab, vip).iter().map(|template| template["pe_data"].clone()).collect();
        calls.sort_by_key(Value::to_string);
        assert_eq!(calls, ["call-1@lab", "call-2@lab"]);
    }
}

#[test]
fn calls_from_one_port_are_whole_and_shared_out() {
    let lab = Lab::up("sip-invite", "nat", &[]);
    for (vip, client, servers) in FAMILIES {
        let _servers: Vec<Running> = NODES
            .iter()
            .zip(servers)
            .map(|(node, own)| serve(&lab, node, own, "5060", &["-sn", "uas"]))
            .collect();
        lab.request(&json!({ "command": "add-service", "service": service(vip, &servers) }));
        // INVITE, its answers, ACK, BYE and its answer: any of them at another server would end the call in error.
        let to = format!("{vip}:5060");
        let words = ["-sn", "uac", "-m", "30", "-r", "30", "-timeout", "20s", "-timeout_error", &to];
        lab.run("c1", &sipp(client, "5061", &words));
        let templates = templates(&lab, vip);
        let at = |server: &str| {
            let server = format!("{server}:5060");
            templates.iter().filter(|template| template["server"] == server.as_str()).count()
        };
        assert_eq!(servers.map(at), [10; 3]);
    }
    let drops = lab.show("stats")["drops"].clone();
    assert!(drops.as_object().expect("reasons").values().all(|count| count == 0), "{drops}");
    lab.assert_no_checksum_errors();
}

#[test]
fn a_server_calls_its_client_through_the_director() {
    let lab = Lab::up("sip-out", "nat", &[]);
    for (vip, client, servers) in FAMILIES {
        let _client = serve(&lab, "c1", client, "5062", &["-sn", "uas"]);
        lab.request(&json!({ "command": "add-service", "service": service(vip, &servers) }));
        let capture = lab.capture("c1", "udp port 5062");
        let to = format!("{client}:5062");
        let words = ["-sn", "uac", "-m", "5", "-r", "5", "-timeout", "20s", "-timeout_error", &to];
        // The client's answers come to the server that called, though it is never its turn three times running.
        lab.run("s2", &sipp(servers[1], "5060", &words));

        let templates = templates(&lab, vip);
        assert_eq!(templates.len(), 5, "{templates:?}");
        let server = format!("{}:5060", servers[1]);
        assert!(templates.iter().all(|template| template["server"] == server.as_str()), "{templates:?}");
        let seen = capture.wait_for("BYE sip:");
        let dotted = |address: &str, port: u16| format!("{}.{port}", bare(address));
        assert!(seen.contains(&format!("{} > {}", dotted(vip, 5060), dotted(client, 5062))), "{seen}");
        assert!(
            !seen.contains(&dotted(servers[1], 5060)),
            "the server's address is not the client's business: {seen}"
        );
    }
    lab.assert_no_checksum_errors();
}
