//! What an operator sets for a virtual service beside its scheduler's name and its servers (`ip_vs_service.flags`,
//! `.timeout`, `.netmask`).

use crate::director::packet::Transport;
use crate::director::protocol::{Timeouts, call_id};
use crate::director::scheduler::SchedulerFlags;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

/// The settings of a service. The default is what a service has without any.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ServiceSettings {
    /// What is set for its scheduler (`ipvsadm -b`).
    pub scheduler_flags: SchedulerFlags,
    /// Whether clients stay with their server (`ipvsadm -p`).
    pub persistence: Option<Persistence>,
    /// Whether each datagram is scheduled for itself (`ipvsadm -o`). UDP only.
    pub one_packet: bool,
    /// What becomes of the connections of a server that is removed; `None`: see [`OnRemove::of`].
    pub on_remove: Option<OnRemove>,
    /// How long its connections last, where that is not as for all others.
    pub timeouts: OwnTimeouts,
    /// Where its servers' reports of load come from, for the scheduler that goes by them.
    pub feedback: Option<Feedback>,
}

impl ServiceSettings {
    /// The persistence engine, if there is one.
    pub fn engine(&self) -> Option<PersistenceEngine> {
        self.persistence.and_then(|persistence| persistence.engine)
    }
}

/// What becomes of the connections of a removed server, with their clients' next packets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum OnRemove {
    /// As in IPVS: they wait for the server to come back, and packets are dropped meanwhile; with `expire_nodest_conn`
    /// they end.
    Keep,
    /// They end, and the client is told: TCP is reset, everything else gets ICMP port unreachable.
    Reset,
    /// They end, and the packet is treated as if it came first: if it may start a connection, another server has it.
    Reschedule,
}

impl OnRemove {
    /// What suits a protocol: nothing ties a datagram to those before it.
    pub const fn of(transport: Transport) -> OnRemove {
        match transport {
            Transport::Tcp | Transport::Sctp => OnRemove::Keep,
            Transport::Udp => OnRemove::Reschedule,
        }
    }
}

/// The word in the configuration file.
impl fmt::Display for OnRemove {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            OnRemove::Keep => "keep",
            OnRemove::Reset => "reset",
            OnRemove::Reschedule => "reschedule",
        })
    }
}

/// Timeouts of one service; `None`: as for all others.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct OwnTimeouts {
    /// TCP in ESTABLISHED.
    pub tcp: Option<Duration>,
    /// TCP in FIN_WAIT.
    pub tcp_fin: Option<Duration>,
    /// UDP.
    pub udp: Option<Duration>,
}

impl OwnTimeouts {
    /// The timeouts of the service, where `others` are those of all others.
    pub fn over(&self, others: &Timeouts) -> Timeouts {
        Timeouts {
            tcp: self.tcp.unwrap_or(others.tcp),
            tcp_fin: self.tcp_fin.unwrap_or(others.tcp_fin),
            udp: self.udp.unwrap_or(others.udp),
        }
    }
}

/// Where reports of load come from, and how often. What asks for them is not the director.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Feedback {
    /// Where they come from.
    pub source: LoadSource,
    /// The time between a server's reports; whole seconds.
    pub interval: Duration,
}

impl Feedback {
    /// How long a report counts: three intervals, so that one that is lost, or late, changes nothing.
    pub fn fresh_for(&self) -> Duration {
        3 * self.interval
    }
}

/// Where a server's report of its load comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LoadSource {
    /// A web page at the server's own address.
    Http {
        /// The path, with a query if there is one.
        path: String,
        /// The TCP port; `None`: the server's.
        port: Option<u16>,
        /// The name that is asked for; `None`: the address and port.
        host: Option<String>,
        /// How long an answer may take; whole seconds, not more than the interval.
        timeout: Duration,
    },
    /// A file here: an absolute path, in which `{address}` and `{port}` stand for the server's.
    File(String),
}

impl LoadSource {
    /// The file of a server, if reports are in files.
    pub fn file_of(&self, server: SocketAddr) -> Option<String> {
        let LoadSource::File(template) = self else { return None };
        let (address, port) = (server.ip().to_string(), server.port().to_string());
        Some(template.replace("{address}", &address).replace("{port}", &port))
    }
}

/// Clients stay with their server from one connection to the next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Persistence {
    /// For how long after a client's last new connection (`ipvsadm -p`); whole seconds.
    pub timeout: Duration,
    /// Which clients count as one (`ipvsadm -M`).
    pub clients: ClientMask,
    /// What else tells one client's connections from another's (`ipvsadm --pe`); `None`: nothing.
    pub engine: Option<PersistenceEngine>,
}

/// Finds out from what a client says which of its connections belong together (`struct ip_vs_pe`): each group stays
/// with a server of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum PersistenceEngine {
    /// The Call-ID of SIP over UDP (`ip_vs_pe_sip.c`). Servers may open connections too.
    Sip,
}

impl PersistenceEngine {
    /// The engine by its name in the synchronisation protocol (`pe_name`), if there is one of that name.
    pub fn by_name(name: &[u8]) -> Option<PersistenceEngine> {
        (name == SIP.as_bytes()).then_some(PersistenceEngine::Sip)
    }

    /// Its name in the synchronisation protocol.
    pub const fn name(self) -> &'static [u8] {
        match self {
            PersistenceEngine::Sip => SIP.as_bytes(),
        }
    }

    /// What connections that begin with `payload` have in common (`pe_data`), 1 to 255 bytes; `None`: nothing can be
    /// said, and they are not served.
    pub fn data(self, payload: &[u8]) -> Option<&[u8]> {
        match self {
            PersistenceEngine::Sip => call_id(payload),
        }
    }
}

/// The word in the configuration file.
impl fmt::Display for PersistenceEngine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            PersistenceEngine::Sip => SIP,
        })
    }
}

/// An engine's word.
const SIP: &str = "sip";

/// Which bits of a client's address tell it from others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClientMask {
    /// The bits that are set in the mask; they need not be the first ones.
    V4(Ipv4Addr),
    /// As many of the first bits, 1 to 128.
    V6(u8),
}

impl ClientMask {
    /// Each client for itself, in the family of `address`.
    pub fn whole(address: IpAddr) -> ClientMask {
        match address {
            IpAddr::V4(_) => ClientMask::V4(Ipv4Addr::BROADCAST),
            IpAddr::V6(_) => ClientMask::V6(128),
        }
    }

    /// Whether each client is for itself.
    pub fn is_whole(self) -> bool {
        matches!(self, ClientMask::V4(Ipv4Addr::BROADCAST) | ClientMask::V6(128))
    }

    /// What all clients have in common that count as the one with `address`. An address of the other family, which no
    /// packet of the service has, is left whole.
    pub fn apply(self, address: IpAddr) -> IpAddr {
        match (self, address) {
            (ClientMask::V4(mask), IpAddr::V4(address)) => IpAddr::V4(address & mask),
            (ClientMask::V6(length), IpAddr::V6(address)) => {
                let mask = u128::MAX.checked_shl(128 - u32::from(length)).unwrap_or(0);
                IpAddr::V6(Ipv6Addr::from_bits(address.to_bits() & mask))
            }
            _ => address,
        }
    }
}

/// As `ipvsadm` prints it: a dotted mask, or a number of bits.
impl fmt::Display for ClientMask {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ClientMask::V4(mask) => mask.fmt(f),
            ClientMask::V6(length) => length.fmt(f),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clients_of_one_network_count_as_one() {
        let v4 = |mask: &str| ClientMask::V4(mask.parse().unwrap());
        for (mask, address, network) in [
            (v4("255.255.255.255"), "10.0.1.2", "10.0.1.2"),
            (v4("255.255.255.0"), "10.0.1.2", "10.0.1.0"),
            (v4("0.0.0.1"), "10.0.1.3", "0.0.0.1"),
            (ClientMask::V6(128), "fd00:1::2", "fd00:1::2"),
            (ClientMask::V6(64), "fd00:1:2:3:4:5:6:7", "fd00:1:2:3::"),
            (ClientMask::V6(1), "fd00:1::2", "8000::"),
        ] {
            let address: IpAddr = address.parse().unwrap();
            assert_eq!(mask.apply(address), network.parse::<IpAddr>().unwrap(), "{mask} of {address}");
            assert_eq!(mask.is_whole(), mask == ClientMask::whole(address), "{mask}");
        }
    }
}
