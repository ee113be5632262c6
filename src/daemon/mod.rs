//! x

pub mod queue;
