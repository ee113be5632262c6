//! A master that may not send as much as it has to tell.

use super::common::lab::{Lab, text, wait_for};
use super::{SECOND, VIPS, assert_alike, config, endpoint, exchange, reload};
use serde_json::{Value, json};
use std::fs;
use std::time::Instant;

/// Messages a second. Of 152 bytes, each has four records of IPv4.
const RATE: u64 = 20;

#[test]
#[expect(clippy::disallowed_methods, reason = "what came in a time is counted")]
fn a_flood_of_connections_is_no_flood_of_messages() {
    let lab = Lab::up("sync-rate", "pair", &[]);
    let backup = json!({ "backup": { "interface": "director", "syncid": 7 } });
    let second = lab.start_in(SECOND, &config(&lab, backup));
    let master = json!({ "interface": SECOND, "syncid": 7, "maxlen": 152 });
    let own = |rate: Option<u64>, sync_qlen_max: u64| {
        let mut own = config(&lab, json!({ "master": master }));
        if let Some(rate) = rate {
            own["sync"]["rate"] = rate.into();
        }
        // Each packet is told.
        own["tunables"] = json!({ "sync_threshold": [0, 1], "sync_qlen_max": sync_qlen_max });
        own
    };
    let become_it = |own: Value| {
        fs::write(lab.file("nfvs.json"), own.to_string()).unwrap();
        let reloaded = lab.nfvs(&["reload"]);
        assert!(reloaded.status.success(), "{}", text(&reloaded.stderr));
    };
    let came = || second.show("sync")["backup"]["messages"].as_u64().unwrap();
    let unsent = |reason: &str| lab.show("sync")["master"]["unsent"][reason].as_u64().unwrap();
    become_it(own(Some(RATE), 8192));
    assert_eq!(lab.show("sync")["master"]["rate"], RATE);
    let (start, before) = (Instant::now(), came());
    let sockets =
        lab.enter("c1", || (0..200).map(|_| exchange(endpoint(VIPS[0], 7), 10)).collect::<Vec<_>>());
    wait_for("messages", || came() > before + RATE);
    let count = came() - before;
    // The time was longer than what was counted.
    let most = RATE * start.elapsed().as_millis() as u64 / 1000 + 2;
    assert!(count <= most, "{count} messages, and {most} are allowed");
    // All of them come in the end, without another packet.
    assert_eq!(assert_alike(|| lab.show("connections"), || second.show("connections")), 200);
    assert!(came() - before < 2000 / 4, "fewer than each packet would have made");
    let records = || lab.show("sync")["master"]["records"].as_u64().unwrap();
    wait_for("the last record", || unsent("coalesced") + records() == 2000);
    let coalesced = unsent("coalesced");
    assert!(coalesced > 0 && unsent("rate_limited") == 0, "{coalesced}");
    let said = text(&lab.nfvs(&["show", "sync"]).stdout);
    assert!(said.contains(&format!("  rate: {RATE} messages a second at most\n")), "{said}");
    assert!(said.contains(&format!("  records not sent: coalesced {coalesced}\n")), "{said}");

    // Hardly anything has room to wait.
    become_it(own(Some(1), 1));
    let more = lab.enter("c1", || (0..50).map(|_| exchange(endpoint(VIPS[0], 7), 10)).collect::<Vec<_>>());
    wait_for("what has no room", || unsent("rate_limited") > 0);
    // Without a limit, each has one packet more.
    become_it(own(None, 8192));
    assert_eq!(lab.show("sync")["master"]["rate"], Value::Null);
    lab.enter("c1", || {
        for socket in &more {
            socket.send(b"probe").expect("a datagram");
            assert_eq!(socket.recv(&mut [0; 16]).expect("an echo"), 5);
        }
    });
    assert_eq!(assert_alike(|| lab.show("connections"), || second.show("connections")), 250);
    drop((sockets, more));
    // The rest of the file is as it was.
    reload(&lab, json!({ "master": { "interface": SECOND, "syncid": 7 }, "rate": 1_000_000 }));
    assert_eq!(lab.show("sync")["master"]["rate"], 1_000_000);
}
