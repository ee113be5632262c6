//! What a virtual service is found by (`__ip_vs_service_find`, `__ip_vs_svc_fwm_find`).

use crate::director::packet::Transport;
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroU16;

/// The port of FTP's control connections.
pub const FTP_PORT: u16 = 21;

/// The key of a virtual service. Endpoints sort before marks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum ServiceKey {
    /// A protocol, address and port.
    Endpoint {
        /// TCP or UDP.
        transport: Transport,
        /// The virtual IP.
        address: IpAddr,
        /// The port; 0: every port that no other service of the address has.
        port: u16,
    },
    /// Whatever an operator's rules have marked.
    Mark {
        /// The mark.
        mark: Fwmark,
        /// The address family; a mark may have a service in each.
        family: Family,
    },
}

impl ServiceKey {
    /// The port; 0 for every port, which marks always stand for.
    pub const fn port(&self) -> u16 {
        match *self {
            ServiceKey::Endpoint { port, .. } => port,
            ServiceKey::Mark { .. } => 0,
        }
    }

    /// The address family.
    pub const fn family(&self) -> Family {
        match *self {
            ServiceKey::Endpoint { address, .. } => Family::of(address),
            ServiceKey::Mark { family, .. } => family,
        }
    }

    /// Whether it is for control connections of FTP.
    pub const fn is_ftp(&self) -> bool {
        matches!(self, ServiceKey::Endpoint { transport: Transport::Tcp, port: FTP_PORT, .. })
    }

    /// Whether its connections may be to other ports of a server than the one that the server was given: those of a
    /// mark, and the data connections of FTP.
    pub const fn has_connections_of_other_ports(&self) -> bool {
        self.is_mark() || self.is_ftp()
    }

    /// Whether packets belong to the service by their mark.
    pub const fn is_mark(&self) -> bool {
        matches!(self, ServiceKey::Mark { .. })
    }

    /// Address and port, of a service that is found by them.
    pub const fn endpoint(&self) -> Option<SocketAddr> {
        match *self {
            ServiceKey::Endpoint { address, port, .. } => Some(SocketAddr::new(address, port)),
            ServiceKey::Mark { .. } => None,
        }
    }
}

impl fmt::Display for ServiceKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            ServiceKey::Endpoint { transport, address, port } => {
                write!(f, "{transport} {}", SocketAddr::new(address, port))
            }
            ServiceKey::Mark { mark, family } => write!(f, "fwmark {mark} {family}"),
        }
    }
}

/// The mark that an operator's rules give to packets of a service (`ipvsadm -f`): the lower half of the packet mark,
/// the upper being our own. 1 to 65535.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Fwmark(NonZeroU16);

impl Fwmark {
    /// The mark, if it is not 0.
    pub const fn new(mark: u16) -> Option<Fwmark> {
        match NonZeroU16::new(mark) {
            Some(mark) => Some(Fwmark(mark)),
            None => None,
        }
    }

    /// The operator's half of a whole packet mark, if anything is marked there.
    pub const fn of_packet(mark: u32) -> Option<Fwmark> {
        Fwmark::new(mark as u16)
    }

    /// The number.
    pub const fn get(self) -> u16 {
        self.0.get()
    }

    /// The number of what a packet may have; 0: it has none.
    pub fn number_of(mark: Option<Fwmark>) -> u32 {
        mark.map_or(0, |mark| mark.get().into())
    }
}

impl fmt::Display for Fwmark {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// An address family.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

impl Family {
    /// The family of an address.
    pub const fn of(address: IpAddr) -> Family {
        if address.is_ipv4() { Family::V4 } else { Family::V6 }
    }
}

/// The word in the configuration file.
impl fmt::Display for Family {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Family::V4 => "ipv4",
            Family::V6 => "ipv6",
        })
    }
}
