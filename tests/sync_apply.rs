//! Replays the corpora of the fuzz targets of the protocol into a backup, so that what they have found stays found
//! without a nightly toolchain.

mod apply;

use std::fs;
use std::path::Path;
use sync_proto::capture::Capture;

#[test]
fn whatever_a_backup_is_told_its_table_stays_in_order() {
    for (folder, fewest) in [("fuzz/corpus/apply", 7), ("fuzz/corpus/decode", 8)] {
        let files = files(folder);
        assert!(files.len() >= fewest, "{folder} holds no corpus");
        files.iter().for_each(|datagram| apply::check(datagram));
    }
}

/// Every message of the recordings, with each byte changed, and each bit of the flags.
#[test]
fn recordings_with_a_byte_changed_leave_the_table_in_order() {
    let recordings = files("tests/vectors/sync");
    let mut count = 0;
    for file in &recordings {
        let Ok(capture) = Capture::open(file) else { continue };
        let messages = capture.filter_map(Result::ok).filter(|it| it.destination.ip().is_multicast());
        for message in messages.map(|it| it.payload).filter(|it| it.len() < 200).take(2) {
            for place in 4..message.len() {
                let mut changed = message.to_vec();
                for byte in [0, 1, 0x10, 0xff] {
                    changed[place] = message[place] ^ byte;
                    apply::check(&changed);
                    count += 1;
                }
            }
        }
    }
    assert!(count > 1000, "{count}");
}

fn files(folder: &str) -> Vec<Vec<u8>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join(folder);
    let entries = fs::read_dir(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    entries.map(|entry| fs::read(entry.unwrap().path()).unwrap()).collect()
}
