//! How packets are wrapped on their way to a real server behind a tunnel (`struct ip_vs_dest`: `tun_type`, `tun_port`,
//! `tun_flags`).

use std::fmt;

/// The kind of tunnel to a server, and its options. What it is made of is in `packet/tunnel_header.rs`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Tunnel {
    /// The packet right behind the outer IP header (`--tun-type ipip`; RFC 2003, RFC 2473, RFC 4213).
    #[default]
    Ipip,
    /// Generic UDP encapsulation (`--tun-type gue`; draft-ietf-intarea-gue).
    Gue {
        /// The UDP port on the server, not 0 (`--tun-port`).
        port: u16,
        /// Whether the UDP header has a checksum.
        checksum: GueChecksum,
    },
    /// Generic routing encapsulation (`--tun-type gre`; RFC 2784).
    Gre {
        /// Whether the header has a checksum (`--tun-csum`).
        checksum: bool,
    },
}

/// The checksum of a GUE tunnel.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum GueChecksum {
    /// None (`--tun-nocsum`).
    #[default]
    None,
    /// That of UDP, over all of the packet (`--tun-csum`).
    Full,
    /// The same; the kernel's IPVS may leave that of the inner packet to the receiver in exchange (`--tun-remcsum`).
    Remote,
}

impl Tunnel {
    /// Bytes between the outer IP header and the packet.
    pub const fn header_len(self) -> usize {
        match self {
            Tunnel::Ipip => 0,
            Tunnel::Gue { .. } => 12,
            Tunnel::Gre { checksum: false } => 4,
            Tunnel::Gre { checksum: true } => 8,
        }
    }

    /// The word for its kind in the configuration file, as after `--tun-type`.
    pub const fn kind(self) -> &'static str {
        match self {
            Tunnel::Ipip => "ipip",
            Tunnel::Gue { .. } => "gue",
            Tunnel::Gre { .. } => "gre",
        }
    }

    /// The UDP port on the server, where the kind has one.
    pub const fn port(self) -> Option<u16> {
        match self {
            Tunnel::Gue { port, .. } => Some(port),
            Tunnel::Ipip | Tunnel::Gre { .. } => None,
        }
    }

    /// The word for its checksum in the configuration file; of a kind that has none, "none".
    pub const fn checksum(self) -> &'static str {
        match self {
            Tunnel::Gre { checksum: true } | Tunnel::Gue { checksum: GueChecksum::Full, .. } => "full",
            Tunnel::Gue { checksum: GueChecksum::Remote, .. } => "remote",
            _ => "none",
        }
    }

    /// Whether its checksum covers the outer addresses.
    pub const fn covers_addresses(self) -> bool {
        matches!(self, Tunnel::Gue { checksum: GueChecksum::Full | GueChecksum::Remote, .. })
    }

    /// All of it in a word, so that nobody sees a part of a change: the port below, above it kind and checksum.
    pub(super) fn pack(self) -> u32 {
        match self {
            Tunnel::Ipip => 0,
            Tunnel::Gue { port, checksum } => 1 << 16 | (checksum as u32) << 24 | u32::from(port),
            Tunnel::Gre { checksum } => 2 << 16 | u32::from(checksum) << 24,
        }
    }

    pub(super) fn unpack(word: u32) -> Tunnel {
        let checksum = word >> 24;
        match word >> 16 & 0xff {
            1 => Tunnel::Gue {
                port: word as u16,
                checksum: match checksum {
                    0 => GueChecksum::None,
                    1 => GueChecksum::Full,
                    _ => GueChecksum::Remote,
                },
            },
            2 => Tunnel::Gre { checksum: checksum != 0 },
            _ => Tunnel::Ipip,
        }
    }
}

/// As `ipvsadm --tun-info` writes it: `ipip`, `gue:6080:+c`, `gre:-c`.
impl fmt::Display for Tunnel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let checksum = match self.checksum() {
            "full" => "+c",
            "remote" => "r+c",
            _ => "-c",
        };
        match self {
            Tunnel::Ipip => f.pad(self.kind()),
            Tunnel::Gue { port, .. } => f.pad(&format!("gue:{port}:{checksum}")),
            Tunnel::Gre { .. } => f.pad(&format!("gre:{checksum}")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_tunnel_comes_back_from_its_word() {
        let gue = |checksum| Tunnel::Gue { port: 65_535, checksum };
        for (tunnel, shown, len) in [
            (Tunnel::Ipip, "ipip", 0),
            (gue(GueChecksum::None), "gue:65535:-c", 12),
            (gue(GueChecksum::Full), "gue:65535:+c", 12),
            (gue(GueChecksum::Remote), "gue:65535:r+c", 12),
            (Tunnel::Gre { checksum: false }, "gre:-c", 4),
            (Tunnel::Gre { checksum: true }, "gre:+c", 8),
        ] {
            assert_eq!(Tunnel::unpack(tunnel.pack()), tunnel);
            assert_eq!((tunnel.to_string().as_str(), tunnel.header_len()), (shown, len));
        }
    }
}
