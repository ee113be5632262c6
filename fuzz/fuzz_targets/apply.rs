//! Messages at a backup: whatever it is told, its table stays in order.

#![no_main]

#[path = "../../tests/apply/mod.rs"]
mod apply;

use libfuzzer_sys::{fuzz_mutator, fuzz_target, fuzzer_mutate};

fuzz_target!(|datagram: &[u8]| apply::check(datagram));

// Nearly every mutation would fail at the size in the header, and go no further.
fuzz_mutator!(|data: &mut [u8], size: usize, max_size: usize, _seed: u32| {
    let size = fuzzer_mutate(data, size, max_size);
    if let Some(field) = data[..size].get_mut(2..4) {
        field.copy_from_slice(&(size as u16).to_be_bytes());
    }
    size
});
