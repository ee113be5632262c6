//! Packets: parsing once, editing in place.

/// Proof that a packet's bytes were changed and are complete: no checksum is owed.
#[derive(Debug, PartialEq, Eq)]
pub struct Rewritten(());
