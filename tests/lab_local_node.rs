//! The scenario `local-part`: a service has one server on the director itself, and one elsewhere.

mod common;

use common::lab::{Lab, text};
use serde_json::{Value, json};

const ADDRESSES: [&str; 2] = ["10.0.0.100", "fd00::100"];
const URLS: [&str; 2] = ["http://10.0.0.100", "http://[fd00::100]"];
/// The director's own address beside the virtual one.
const OWN: [&str; 2] = ["10.0.9.9", "fd00:9::9"];

fn halves() -> Vec<(String, usize)> {
    ["director", "s1"].map(|server| (server.to_owned(), 15)).to_vec()
}

/// The connections to servers at `address`, as they are shown.
fn connections_to<'a>(shown: &'a Value, address: &str) -> Vec<&'a Value> {
    let is_its = |connection: &&Value| connection["server"].as_str().unwrap().contains(address);
    shown.as_array().unwrap().iter().filter(is_its).collect()
}

#[test]
fn the_director_has_its_part_of_a_translated_service() {
    for vip in ["none", "local"] {
        let lab = Lab::up("local-part", "local-part", &["--vip", vip]);
        for (url, own) in URLS.into_iter().zip(OWN) {
            assert_eq!(lab.answers("c1", url, 30, &[]), halves(), "{url}, VIP {vip}");
            assert_eq!(lab.answers("director", url, 30, &[]), halves(), "{url}, VIP {vip}");
            let shown = lab.show("connections");
            let its = connections_to(&shown, own);
            assert_eq!(its.len(), 30, "VIP {vip}");
            for connection in its {
                assert_eq!(connection["forward"], "nat", "as IPVS has it: {connection}");
            }
        }
        for server in ADDRESSES {
            assert_eq!(lab.names("c1", server, 30), halves(), "{server}, VIP {vip}");
        }
        lab.assert_no_checksum_errors();
    }
}

#[test]
fn a_local_node_answers_at_the_virtual_address() {
    // By an address of its own, and by the virtual one.
    for servers in [OWN, ADDRESSES] {
        let lab = Lab::up("local-node", "local-part", &["--vip", "local"]);
        for ((vip, server), own) in ADDRESSES.into_iter().zip(servers).zip(["10.0.1.1", "fd00:1::1"]) {
            let service = json!({ "protocol": "tcp", "address": vip, "port": 8080 });
            let server = json!({ "address": server, "forward": "local" });
            lab.request(&json!({ "command": "add-server", "service": service, "server": server }));
            let url =
                if vip.contains(':') { format!("http://[{vip}]:8080") } else { format!("http://{vip}:8080") };
            assert_eq!(lab.answers("c1", &url, 30, &[]), halves(), "{server}");
            assert_eq!(lab.answers("director", &url, 30, &["--interface", own]), halves(), "{server}");
        }
        let services = text(&lab.nfvs(&["show", "services"]).stdout);
        assert_eq!(services.matches(" Local ").count(), 2, "{services}");
        let shown = lab.show("connections");
        let local: Vec<&Value> =
            shown.as_array().unwrap().iter().filter(|connection| connection["forward"] == "local").collect();
        assert_eq!(local.len(), 60, "{shown}");
        for connection in local {
            assert_eq!(connection["flags"], "0x0101", "replies pass OUTPUT and count: {connection}");
        }
        lab.assert_no_checksum_errors();
    }
}
