//! Messages with keys, and messages without.

use super::common::lab::{Lab, text, wait_for};
use super::{PATIENCE, SECOND, VIPS, config, endpoint, hold, key_file, reload};
use rustix::net::{AddressFamily, SocketType};
use serde_json::{Value, json};
use std::fs;
use std::net::{SocketAddr, UdpSocket};
use std::os::unix::fs::PermissionsExt;

/// The messages that come to a group while `work` is done, as the node has them.
fn overhear(lab: &Lab, work: impl FnOnce(), enough: usize) -> Vec<Vec<u8>> {
    let group = std::net::Ipv4Addr::new(224, 0, 0, 81);
    let socket = lab.enter(SECOND, || {
        let socket = rustix::net::socket(AddressFamily::INET, SocketType::DGRAM, None).expect("a socket");
        rustix::net::sockopt::set_socket_reuseaddr(&socket, true).expect("an option");
        rustix::net::bind(&socket, &SocketAddr::from((group, 8848))).expect("the port");
        let socket = UdpSocket::from(socket);
        socket.join_multicast_v4(&group, &[10, 0, 9, 2].into()).expect("the group");
        socket.set_read_timeout(Some(PATIENCE)).expect("a timeout");
        socket
    });
    work();
    let mut buffer = [0; 2000];
    let mut receive = || {
        let length = socket.recv(&mut buffer).expect("a message");
        buffer[..length].to_vec()
    };
    (0..enough).map(|_| receive()).collect()
}

#[test]
fn messages_without_a_key_change_nothing_and_keys_change_without_loss() {
    let lab = Lab::up("sync-keys", "pair", &[]);
    let own = |authentication: Value| json!({ "master": { "interface": SECOND, "syncid": 7 }, "authentication": authentication });
    let others = |authentication: Value| json!({ "backup": { "interface": "director", "syncid": 7 }, "authentication": authentication });
    let second = lab.start_in(SECOND, &config(&lab, others(key_file(&lab, SECOND, &['a']))));
    let mut streams = Vec::new();
    let mut connect = || {
        streams.extend(lab.enter("c1", || (0..3).map(|_| hold(endpoint(VIPS[0], 80))).collect::<Vec<_>>()));
    };
    let rejected = |reason: &str| second.show("sync")["backup"]["rejected"][reason].as_u64().unwrap();

    reload(&lab, json!({ "master": { "interface": SECOND, "syncid": 7 } }));
    connect();
    wait_for("a message without a key", || rejected("unauthenticated") > 0);
    reload(&lab, own(key_file(&lab, "director", &['b'])));
    connect();
    wait_for("a message with another key", || rejected("unknown_key") > 0);
    assert_eq!(second.show("connections"), json!([]));

    // What comes once more, or changed, changes nothing.
    reload(&lab, own(key_file(&lab, "director", &['a'])));
    let heard = overhear(&lab, &mut connect, 1);
    wait_for("the connections", || second.show("connections").as_array().unwrap().len() == 3);
    lab.enter("director", || {
        let socket = UdpSocket::bind("10.0.9.1:0").unwrap();
        socket.send_to(&heard[0], "224.0.0.81:8848").unwrap();
        let mut changed = heard[0].clone();
        changed[20] ^= 1;
        socket.send_to(&changed, "224.0.0.81:8848").unwrap();
        socket.send_to(&heard[0][..40], "224.0.0.81:8848").unwrap();
    });
    wait_for("what was sent again", || {
        (rejected("replayed"), rejected("wrong_code")) == (1, 1) && rejected("unauthenticated") > 1
    });

    // One director after the other gets the new key.
    let before: Vec<u64> = ["unauthenticated", "unknown_key", "wrong_code"].map(rejected).to_vec();
    second.reload(&config(&lab, others(key_file(&lab, SECOND, &['c', 'a']))));
    connect();
    reload(&lab, own(key_file(&lab, "director", &['c'])));
    connect();
    wait_for("the connections", || second.show("connections").as_array().unwrap().len() == 9);
    second.reload(&config(&lab, others(key_file(&lab, SECOND, &['c']))));
    connect();
    wait_for("the connections", || second.show("connections").as_array().unwrap().len() == 12);
    assert_eq!(["unauthenticated", "unknown_key", "wrong_code"].map(rejected).to_vec(), before);
    let peer = &second.show("sync")["backup"]["peers"][0];
    assert_eq!(peer["lost"], 0, "{peer}");
    assert!(peer["lag_ms"].as_u64().unwrap() < 60_000, "{peer}");

    let authentication = key_file(&lab, "director", &['c']);
    fs::set_permissions(lab.file("director.keys"), fs::Permissions::from_mode(0o604)).unwrap();
    fs::write(lab.file("nfvs.json"), config(&lab, own(authentication)).to_string()).unwrap();
    let tried = lab.nfvs(&["reload"]);
    assert_eq!(tried.status.code(), Some(1));
    assert!(text(&tried.stderr).contains("director.keys are no secret"), "{}", text(&tried.stderr));
}
