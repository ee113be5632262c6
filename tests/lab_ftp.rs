//! The scenario `ftp`: clients of FTP and real servers of it, active and passive, in both families.

mod common;

use common::lab::{Lab, text};
use std::fs;
use std::os::unix::fs::PermissionsExt;

/// The two ways to have a virtual address.
const VIPS: [&str; 2] = ["none", "local"];
/// Where the service is, and how curl has its data connections made. curl is to believe the address in answers to PASV.
const WAYS: [(&str, &[&str], &str); 6] = [
    ("ftp://10.0.0.100", &["--disable-epsv", "--no-ftp-skip-pasv-ip"], "PASV"),
    ("ftp://10.0.0.100", &[], "EPSV"),
    ("ftp://10.0.0.100", &["--ftp-port", "-", "--disable-eprt"], "PORT"),
    ("ftp://10.0.0.100", &["--ftp-port", "-"], "EPRT"),
    ("ftp://[fd00::100]", &[], "EPSV"),
    ("ftp://[fd00::100]", &["--ftp-port", "-"], "EPRT"),
];
/// A few megabytes, and an odd number of bytes.
const LARGE: usize = 4_000_001;

/// Puts files of random bytes where servers have them to give, and where the client has them to send.
fn place_files(lab: &Lab) -> Vec<u8> {
    let mut large = vec![0; LARGE];
    fastrand::Rng::with_seed(7).fill(&mut large);
    for place in ["s1/ftp/large", "s2/ftp/large", "large"] {
        fs::write(lab.file(place), &large).unwrap();
        fs::set_permissions(lab.file(place), fs::Permissions::from_mode(0o644)).unwrap();
    }
    large
}

/// One client's session: six times a large file down, and then the same up as `name`, all in one control connection.
#[track_caller]
fn session(lab: &Lab, node: &str, (url, options, command): (&str, &[&str], &str), name: &str, large: &[u8]) {
    let mut words: Vec<String> = ["curl", "-sS", "-v", "--max-time", "60"].map(str::to_owned).into();
    words.extend(options.iter().map(|option| (*option).to_owned()));
    for number in 0..6 {
        words.extend([format!("{url}/large"), "-o".to_owned(), path(lab, &format!("down-{number}"))]);
    }
    // What was said before holds for each of the two parts.
    words.extend(["--next", "-sS", "-v", "--max-time", "60"].map(str::to_owned));
    words.extend(options.iter().map(|option| (*option).to_owned()));
    words.extend([format!("{url}/upload/{name}"), "-T".to_owned(), path(lab, "large")]);
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let output = lab.try_run(node, &words);
    let said = text(&output.stderr);
    assert!(output.status.success(), "{url} {command}: {said}");
    assert_eq!(said.matches("< 220 ").count(), 1, "one control connection: {said}");
    let commands = said.lines().filter(|line| line.starts_with(&format!("> {command}"))).count();
    assert_eq!(commands, 7, "{command} each time: {said}");
    for number in 0..6 {
        let down = fs::read(lab.file(&format!("down-{number}"))).unwrap();
        assert!(down == large, "{url} {command}: transfer {number} is not what was sent");
    }
    let up = ["s1", "s2"].map(|server| fs::read(lab.file(&format!("{server}/ftp/upload/{name}"))));
    assert!(
        up.into_iter().flatten().any(|up| up == large),
        "{url} {command}: the upload is not what was sent"
    );
}

fn path(lab: &Lab, file: &str) -> String {
    lab.file(file).to_str().unwrap().to_owned()
}

#[test]
fn files_arrive_whole_by_active_and_passive_data_connections() {
    for vip in VIPS {
        let lab = Lab::up("ftp", "ftp", &["--vip", vip]);
        let large = place_files(&lab);
        let mut seen = Vec::new();
        // Twice, so that each server has its turn: the addresses of one make answers longer, the other's shorter.
        for turn in 0..2 {
            for (number, way) in WAYS.into_iter().enumerate() {
                session(&lab, "c1", way, &format!("{turn}-{number}"), &large);
                let connections = lab.show("connections");
                let new: Vec<_> = connections
                    .as_array()
                    .unwrap()
                    .iter()
                    .filter(|entry| entry["virtual"].as_str().unwrap().ends_with(":21"))
                    .filter(|entry| !seen.contains(&entry["client"]))
                    .collect();
                let [control] = new[..] else { panic!("one control connection: {connections}") };
                // IP_VS_CONN_F_OUT_SEQ: only answers to PASV have another length.
                let flags = if way.2 == "PASV" { "0x0300" } else { "0x0100" };
                assert_eq!(control["flags"], flags, "{way:?}: {control}");
                seen.push(control["client"].clone());
            }
        }
        let drops = &lab.show("stats")["drops"];
        assert!(drops.as_object().unwrap().values().all(|count| *count == 0), "{drops}");
        for service in lab.show("services").as_array().unwrap() {
            for server in service["servers"].as_array().unwrap() {
                let scheduled = if service["address"] == "10.0.0.100" { 4 } else { 2 };
                assert_eq!(server["stats"]["connections"], scheduled, "{service}");
            }
        }
        lab.assert_no_checksum_errors();
    }
}

#[test]
fn a_client_on_the_director_transfers_files_both_ways() {
    for vip in VIPS {
        let lab = Lab::up("ftp-local", "ftp", &["--vip", vip]);
        let large = place_files(&lab);
        for (number, way) in WAYS.into_iter().enumerate() {
            session(&lab, "director", way, &number.to_string(), &large);
        }
    }
}

#[test]
fn answers_that_are_lost_and_sent_again_are_rewritten_again() {
    let lab = Lab::up("ftp-loss", "ftp", &[]);
    let large = place_files(&lab);
    // Behind the director, each answer that tells where the server waits is lost at first (its text begins behind a
    // header with a timestamp), and every fifth command.
    lab.shell(
        "c1",
        "nft -f - << RULES
table ip loss {
    chain in {
        type filter hook input priority 0;
        tcp sport 21 @th,256,32 0x32323720 numgen inc mod 2 == 0 counter drop
    }
    chain out {
        type filter hook output priority 0;
        tcp dport 21 ip length > 60 numgen inc mod 5 == 4 counter drop
    }
}
RULES",
    );
    for turn in 0..2 {
        session(&lab, "c1", WAYS[0], &turn.to_string(), &large);
    }
    let lost = lab.shell("c1", "nft -j list table ip loss");
    let lost: serde_json::Value = serde_json::from_str(&lost).unwrap();
    let counters: Vec<u64> = lost["nftables"]
        .as_array()
        .unwrap()
        .iter()
        .filter_map(|object| object["rule"]["expr"].as_array())
        .flatten()
        .filter_map(|statement| statement["counter"]["packets"].as_u64())
        .collect();
    assert!(counters.len() == 2 && counters.iter().all(|packets| *packets > 5), "{counters:?}");
}

#[test]
fn data_connections_pass_a_firewall_that_follows_connections() {
    for vip in VIPS {
        let lab = Lab::up("ftp-firewall", "ftp", &["--vip", vip]);
        let large = place_files(&lab);
        // The documented rule, and none for what is tracked: nothing of FTP may be.
        lab.shell(
            "director",
            "nft -f - << RULES
table inet firewall {
    chain forward {
        type filter hook forward priority 0; policy drop;
        ct state untracked accept
        icmpv6 type { 1, 2, 3, 4, 135, 136 } accept
    }
}
RULES",
        );
        for (number, way) in WAYS.into_iter().enumerate() {
            session(&lab, "c1", way, &number.to_string(), &large);
        }
    }
}
