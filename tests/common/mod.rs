//! What integration tests share. Each test program uses its part of it.
#![allow(dead_code, reason = "each test program is a crate of its own and uses a part of this")]

#[path = "../../nft-rules/tests/common/crc32c.rs"]
mod crc32c;
pub(crate) mod lab;
pub(crate) mod netns;
pub(crate) mod raw;
#[path = "../../nft-rules/tests/common/sctp.rs"]
pub(crate) mod sctp;
