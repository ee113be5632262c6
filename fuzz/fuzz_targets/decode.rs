//! Datagrams: whatever arrives, the decoder refuses it or decodes it, and what it decodes can be sent on.

#![no_main]

#[path = "../../sync-proto/tests/invariants/mod.rs"]
mod invariants;

use libfuzzer_sys::{fuzz_mutator, fuzz_target, fuzzer_mutate};

fuzz_target!(|datagram: &[u8]| invariants::check(datagram));

// Nearly every mutation would fail at the size in the header, and go no further.
fuzz_mutator!(|data: &mut [u8], size: usize, max_size: usize, seed: u32| {
    let size = fuzzer_mutate(data, size, max_size);
    let keeps_the_wrong_size = seed.is_multiple_of(16);
    if !keeps_the_wrong_size && let Some(field) = data[..size].get_mut(2..4) {
        field.copy_from_slice(&(size as u16).to_be_bytes());
    }
    size
});
