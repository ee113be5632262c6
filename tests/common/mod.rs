//! What integration tests share. Each test program uses its part of it.
#![allow(dead_code, reason = "each test program is a crate of its own and uses a part of this")]

pub(crate) mod lab;
pub(crate) mod netns;
pub(crate) mod raw;
