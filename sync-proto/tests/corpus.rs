//! Replays the corpus of the fuzz target, so that what it has found stays found without a nightly toolchain.

mod invariants;

use std::fs;
use std::path::Path;
use sync_proto::capture::Capture;
use sync_proto::{Message, SyncId};

#[test]
fn what_fuzzing_has_found_stays_found() {
    let corpus = files("../fuzz/corpus/decode");
    // Each version, accepted; and something that is not.
    let versions = corpus.iter().filter_map(|file| Message::decode(file, SyncId::ANY).ok());
    let versions: Vec<_> = versions.filter(|m| m.records().any(|r| r.is_ok())).map(|m| m.version()).collect();
    assert!(versions.contains(&sync_proto::Version::V0) && versions.contains(&sync_proto::Version::V1));
    assert!(versions.len() < corpus.len());
    corpus.iter().for_each(|datagram| invariants::check(datagram));
}

/// Their ends are cut off byte by byte too.
#[test]
fn recordings_may_be_anything() {
    let corpus = files("../fuzz/corpus/capture");
    let mut datagrams = 0;
    for file in &corpus {
        for len in 0..=file.len() {
            if let Ok(capture) = Capture::open(&file[..len]) {
                datagrams += capture.filter_map(Result::ok).count();
            }
        }
    }
    assert!(datagrams > 0);
}

fn files(folder: &str) -> Vec<Vec<u8>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join(folder);
    let entries = fs::read_dir(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    let files: Vec<_> = entries.map(|entry| fs::read(entry.unwrap().path()).unwrap()).collect();
    assert!(files.len() > 1, "{} holds no corpus", folder.display());
    files
}
