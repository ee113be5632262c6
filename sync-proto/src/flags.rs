//! The flags of a connection (`IP_VS_CONN_F_*` of `include/uapi/linux/ip_vs.h`): one number, the same on the wire and
//! in tables.

use core::fmt;

/// Flags of a connection.
///
/// Version 1 of the protocol carries all 32 bits except [`HASHED`](ConnFlags::HASHED), version 0 the lower 16, in
/// network byte order; this is the number. Bits without a name here are kept.
///
/// ```
/// use sync_proto::ConnFlags;
/// let mut flags = ConnFlags::INACTIVE;
/// flags.insert(ConnFlags::TEMPLATE);
/// assert_eq!(flags.to_string(), "0x1100");
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct ConnFlags(u32);

impl ConnFlags {
    /// The bits that hold the forwarding method: 0 NAT, 1 local node, 2 tunnel, 3 direct routing, 4 bypass.
    pub const METHOD: ConnFlags = ConnFlags(0x0007);
    /// Learnt from another director.
    pub const SYNC: ConnFlags = ConnFlags(0x0020);
    /// In the sender's table; never on the wire.
    pub const HASHED: ConnFlags = ConnFlags(0x0040);
    /// No reply has passed the director; replies may take another way.
    pub const NOOUTPUT: ConnFlags = ConnFlags(0x0080);
    /// Not among the real server's active connections; every UDP connection and template has it.
    pub const INACTIVE: ConnFlags = ConnFlags(0x0100);
    /// Sequence numbers of the server's packets are adjusted; the record carries by how much.
    pub const OUT_SEQ: ConnFlags = ConnFlags(0x0200);
    /// Sequence numbers of the client's packets are adjusted; the record carries by how much.
    pub const IN_SEQ: ConnFlags = ConnFlags(0x0400);
    /// Either of the two before: whether a record carries sequence data.
    pub const SEQUENCE: ConnFlags = ConnFlags(0x0600);
    /// The client's port is not known yet (FTP data).
    pub const NO_CPORT: ConnFlags = ConnFlags(0x0800);
    /// A persistence template, not a connection.
    pub const TEMPLATE: ConnFlags = ConnFlags(0x1000);
    /// Forgotten after one packet; never sent, and refused when received.
    pub const ONE_PACKET: ConnFlags = ConnFlags(0x2000);
    /// Confirmed in the sender's netfilter connection tracking; does not fit version 0.
    pub const NFCT: ConnFlags = ConnFlags(0x1_0000);

    /// The flags in a number.
    pub const fn from_bits(bits: u32) -> ConnFlags {
        ConnFlags(bits)
    }

    /// The number.
    pub const fn bits(self) -> u32 {
        self.0
    }

    /// Whether all of `flags` are set.
    pub const fn contains(self, flags: ConnFlags) -> bool {
        self.0 & flags.0 == flags.0
    }

    /// Whether any of `flags` is set.
    pub const fn intersects(self, flags: ConnFlags) -> bool {
        self.0 & flags.0 != 0
    }

    /// What of them goes on the wire.
    pub(crate) const fn sent(self) -> ConnFlags {
        ConnFlags(self.0 & !ConnFlags::HASHED.0)
    }

    /// Sets `flags`.
    pub const fn insert(&mut self, flags: ConnFlags) {
        self.0 |= flags.0;
    }

    /// Clears `flags`.
    pub const fn remove(&mut self, flags: ConnFlags) {
        self.0 &= !flags.0;
    }
}

/// `0x` and at least four hexadecimal digits.
impl fmt::Display for ConnFlags {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#06x}", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Direct routing, as a value of [`ConnFlags::METHOD`].
    const DIRECT: ConnFlags = ConnFlags::from_bits(3);

    fn of<const N: usize>(flags: [ConnFlags; N]) -> ConnFlags {
        let mut all = ConnFlags::default();
        flags.into_iter().for_each(|flag| all.insert(flag));
        all
    }

    // Seen on the wire between kernels.
    #[test]
    fn typical_wire_values() {
        use ConnFlags as F;
        let cases = [
            ("TCP, NAT, established", of([]), "0x0000"),
            ("TCP, NAT, closing", of([F::INACTIVE]), "0x0100"),
            ("template, NAT", of([F::INACTIVE, F::TEMPLATE]), "0x1100"),
            ("TCP, direct, established", of([DIRECT, F::NOOUTPUT]), "0x0083"),
            ("TCP, direct, closing", of([DIRECT, F::NOOUTPUT, F::INACTIVE]), "0x0183"),
            ("UDP template, direct", of([DIRECT, F::NOOUTPUT, F::INACTIVE, F::TEMPLATE]), "0x1183"),
        ];
        for (what, flags, wire) in cases {
            assert_eq!(flags.to_string(), wire, "{what}");
        }
    }

    // What a backup takes from a record, and what from an update (ip_vs_sync.c, IP_VS_CONN_F_BACKUP_MASK and
    // IP_VS_CONN_F_BACKUP_UPD_MASK).
    #[test]
    fn the_kernels_masks_are_sums_of_these_flags() {
        use ConnFlags as F;
        let update = of([F::INACTIVE, F::OUT_SEQ, F::IN_SEQ]);
        assert_eq!(update.bits(), 0x0700);
        let initial = of([update, F::METHOD, F::NOOUTPUT, F::NO_CPORT, F::TEMPLATE]);
        assert_eq!(initial.bits(), 0x1f87);
        assert_eq!(F::SEQUENCE, of([F::OUT_SEQ, F::IN_SEQ]));
        assert_eq!(of([initial, F::SYNC, F::HASHED, F::ONE_PACKET]).bits(), 0x3fe7);
        assert_eq!(F::NFCT.to_string(), "0x10000");
    }

    #[test]
    fn flags_come_and_go() {
        let mut flags = ConnFlags::from_bits(0x0183);
        assert!(flags.contains(ConnFlags::INACTIVE));
        assert!(flags.contains(of([DIRECT, ConnFlags::NOOUTPUT])));
        assert!(!flags.contains(ConnFlags::METHOD), "direct routing is 3, not 7");
        assert!(flags.intersects(ConnFlags::METHOD) && !flags.intersects(ConnFlags::SEQUENCE));
        flags.remove(ConnFlags::INACTIVE);
        assert_eq!(flags.bits(), 0x0083);
        flags.remove(ConnFlags::INACTIVE);
        assert_eq!(flags.bits(), 0x0083);
        flags.insert(ConnFlags::INACTIVE);
        assert_eq!(flags.bits(), 0x0183);
    }
}
