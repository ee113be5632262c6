//! `nfvs sync dump`: what it prints of recordings, and of what is none.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

#[test]
fn text_for_people() {
    let mut said = String::new();
    for name in ["v1-sip-pe", "v1-fwmark-persistent", "v1-tcp6-nat", "v0-tcp4-nat"] {
        // The first message's first records are as good as all.
        let text = printed(&dump(&recording(name), &[]));
        said += &text.lines().take(3).map(|line| format!("{line}\n")).collect::<String>();
    }
    let damaged = damaged();
    said += &printed(&dump(&damaged.1, &[]));
    insta::assert_snapshot!("text", said);
}

#[test]
fn json_for_programs() {
    let text = printed(&dump(&recording("v1-sip-pe"), &["--json"]));
    let message: serde_json::Value = serde_json::from_str(&text).expect("one message, one line");
    assert_eq!(message["count"], 6);
    assert_eq!(message["records"].as_array().expect("records").len(), 6);
    assert_eq!(message["records"][1]["pe_data"], "abc123@example.org");
    let damaged = damaged();
    let mut said = text + &printed(&dump(&damaged.1, &["--json"]));
    said += &printed(&dump(&recording("v1-fwmark-persistent"), &["--json"]));
    insta::assert_snapshot!("json", said);
}

/// Ports are those of 64 threads.
#[test]
fn ports_are_chosen() {
    for (port, messages) in [("8848", 1), ("8785", 1), ("8784", 0), ("8849", 0), ("65535", 0)] {
        let text = printed(&dump(&recording("v1-udp6-nat"), &["--json", "--port", port]));
        assert_eq!(text.lines().count(), messages, "{port}");
    }
}

#[test]
fn what_is_no_recording_is_an_error() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("a.pcap");
    let whole = fs::read(recording("v1-sip-pe")).expect("a recording");
    let mut of_usb = whole.clone();
    of_usb[20] = 189;
    for (content, why) in [
        (None, "No such file"),
        (Some(&b"not a recording"[..]), "not a pcap file"),
        (Some(&of_usb), "link type 189"),
        (Some(&whole[..whole.len() - 1]), "the file ends within a packet"),
    ] {
        if let Some(content) = content {
            fs::write(&path, content).expect("written");
        }
        let output = dump(&path, &[]);
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{why}: {stderr}");
        assert!(stderr.starts_with(&format!("nfvs: {}: ", path.display())), "{stderr}");
        assert!(stderr.contains(why), "{why}: {stderr}");
    }
}

fn dump(pcap: &Path, more: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_nfvs"));
    command.args(["sync", "dump", "--pcap"]).arg(pcap).args(more).output().expect("nfvs runs")
}

fn printed(output: &Output) -> String {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout.clone()).expect("text")
}

fn recording(name: &str) -> PathBuf {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/vectors/sync");
    folder.join(name).with_extension("pcap")
}

/// The recording of a kernel with a state that there is not in its first record, and another version in its second; then the
/// same with a size that is wrong.
fn damaged() -> (tempfile::TempDir, PathBuf) {
    let whole = fs::read(recording("v1-sip-pe")).expect("a recording");
    // Behind the headers of file, packet, Ethernet, IP, UDP.
    let message = 24 + 16 + 14 + 20 + 8;
    let mut first = whole.clone();
    first[message + 8 + 9] = 1;
    first[message + 8 + 36 + 2] = 0x10;
    let mut second = whole[24..].to_vec();
    second[message - 24 + 3] ^= 1;
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("damaged.pcap");
    fs::write(&path, [first, second].concat()).expect("written");
    (folder, path)
}
