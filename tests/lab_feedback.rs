//! Servers that say how loaded they are, on a web page and in files: who says more gets less, and without reports all
//! is as with wlc.

mod common;

use common::lab::{Lab, tally, wait_for};
use serde_json::{Value, json};
use std::fs;

/// The service `web`, as requests name it.
fn web() -> Value {
    json!({ "protocol": "tcp", "address": "10.0.0.100", "port": 80 })
}

/// What is shown of a server of `web`.
fn shown(lab: &Lab, address: &str) -> Value {
    let services = lab.show("services");
    let service = services.as_array().expect("a list").iter().find(|service| service["name"] == "web");
    let servers = service.expect("the service")["servers"].as_array().expect("a list").clone();
    servers.into_iter().find(|server| server["address"] == address).expect("the server")
}

fn number(server: &Value, key: &str) -> f64 {
    server[key].as_f64().unwrap_or_else(|| panic!("{key} of {server}"))
}

/// How many connections each of the servers has had.
fn connections(lab: &Lab) -> [u64; 3] {
    SERVERS.map(|(_, address)| shown(lab, address)["stats"]["connections"].as_u64().expect("a number"))
}

const SERVERS: [(&str, &str); 3] = [("s1", "10.0.2.11"), ("s2", "10.0.3.12"), ("s3", "10.0.4.13")];

fn edit(lab: &Lab, feedback: &Value) {
    let mut service = web();
    service["scheduler"] = "feedback".into();
    service["feedback"] = feedback.clone();
    lab.request(&json!({ "command": "edit-service", "service": service }));
}

#[test]
fn a_loaded_server_gets_less_until_reports_stop() {
    let lab = Lab::up("feedback", "nat4", &[]);
    let page = |server: &str| lab.file(server).join("upload/load");
    for (server, load) in [("s1", "2.0\n"), ("s2", "0.25\n"), ("s3", "0.25\n")] {
        fs::write(page(server), load).expect("a file of the lab");
    }
    edit(&lab, &json!({ "http": { "path": "/upload/load" } }));
    for less in [0.85, 0.7, 0.55, 0.4] {
        wait_for("less weight", || number(&shown(&lab, "10.0.2.11"), "effective_weight") < less);
    }
    for (_, address) in SERVERS {
        let server = shown(&lab, address);
        let expected = if address == "10.0.2.11" { 2.0 } else { 0.25 };
        assert_eq!(number(&server, "load"), expected, "{server}");
        assert!(number(&server, "reports") > 0.0 && server["weight"] == 1, "{server}");
    }
    let got = lab.answers("c1", "http://10.0.0.100", 90, &[]);
    let count = |server: &str| got.iter().find(|(name, _)| name == server).map_or(0, |(_, count)| *count);
    assert!(count("s1") > 0 && count("s1") * 2 < count("s2").min(count("s3")), "{got:?}");

    // The pages are gone. What was given to the others before evens out.
    for (server, _) in SERVERS {
        fs::remove_file(page(server)).expect("a file of the lab");
    }
    wait_for("the configured weights", || {
        SERVERS.iter().all(|(_, address)| {
            let server = shown(&lab, address);
            server["load"].is_null() && number(&server, "effective_weight") == 1.0
        })
    });
    assert!(number(&shown(&lab, "10.0.2.11"), "missed_reports") > 0.0);
    assert!(lab.log().contains("answers with 404 Not Found"), "{}", lab.log());
    lab.answers("c1", "http://10.0.0.100", 120, &[]);
    let all = connections(&lab);
    assert_eq!(all.iter().sum::<u64>(), 210);
    assert!(all.iter().all(|count| count.abs_diff(70) <= 3), "as wlc has it: {all:?}");

    // Files, of which one server has none, and one that says nothing.
    let template = lab.file("load-{address}");
    edit(&lab, &json!({ "file": template.to_str().expect("text") }));
    fs::write(lab.file("load-10.0.3.12"), "0.5\n").expect("a file of the lab");
    fs::write(lab.file("load-10.0.4.13"), "much\n").expect("a file of the lab");
    wait_for("a load", || shown(&lab, "10.0.3.12")["load"] == 0.5);
    wait_for("the warnings", || {
        let log = lab.log();
        log.contains("cannot read") && log.contains("\"much\" is not a load")
    });
    assert!(shown(&lab, "10.0.4.13")["load"].is_null());
    // With one report, nothing is to be compared.
    assert_eq!(number(&shown(&lab, "10.0.3.12"), "effective_weight"), 1.0);

    // After a reload the service is that of the file again.
    lab.nfvs(&["reload"]);
    assert_eq!(shown(&lab, "10.0.2.11").get("load"), None);
    assert_eq!(tally(&lab.run("c1", &["curl", "-sS", "http://10.0.0.100"])).len(), 1);
    lab.assert_no_checksum_errors();
}
