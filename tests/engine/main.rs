//! The engine on a bench: packets in, verdicts out, time by hand.

mod bed;
mod connections;
#[path = "../../nft-rules/tests/common/crc32c.rs"]
mod crc32c;
mod errors;
mod forwarding;
mod ipsec;
mod random;
mod sctp;
mod services;
