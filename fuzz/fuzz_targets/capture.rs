//! Files: the reader of recordings ends, and gives nothing that is not in the file.

#![no_main]

use libfuzzer_sys::fuzz_target;
use sync_proto::capture::Capture;

fuzz_target!(|file: &[u8]| {
    let Ok(capture) = Capture::open(file) else { return };
    let mut payloads = 0;
    for datagram in capture.map_while(Result::ok) {
        // Each has a packet's header before it in the file, and others of IP and UDP.
        payloads += 16 + 20 + 8 + datagram.payload.len();
    }
    assert!(24 + payloads <= file.len());
});
