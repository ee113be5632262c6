//! A checked configuration: whatever a [`Config`] says is possible and consistent.

use super::mac::MacAddress;
use crate::director::scheduler::SchedulerKind;
use crate::director::service::{
    Family, ForwardMethod, Fwmark, ServiceSettings, Thresholds, Tunables, Tunnel, Weight,
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::num::{NonZeroU32, NonZeroUsize};
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;
use sync_proto::DEFAULT_PORT;

/// A whole configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// The virtual services, in the order of the file. No two have the same protocol, address and port, or the same
    /// name.
    pub services: Vec<Service>,
    /// How long a connection without traffic is kept.
    pub timeouts: Timeouts,
    /// How many connections there may be at once.
    pub max_connections: u32,
    /// The queues between the kernel and the daemon.
    pub queues: Queues,
    /// The settings of the whole director.
    pub tunables: Tunables,
    /// Whether an ICMP echo request to a virtual address is answered.
    pub answer_ping: bool,
    /// The Ethernet addresses of other directors, from which comes what is balanced already.
    pub peers: Vec<MacAddress>,
    /// The synchronisation with other directors.
    pub sync: SyncSettings,
}

impl Config {
    /// The servers of all services.
    pub fn servers(&self) -> impl Iterator<Item = &Server> + Clone {
        self.services.iter().flat_map(|service| &service.servers)
    }
}

/// A virtual service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Service {
    /// What people call it; given, or made from protocol, address and port.
    pub name: String,
    /// What it is found by.
    pub key: Key,
    /// Who chooses the real server of a new connection.
    pub scheduler: SchedulerKind,
    /// How the packets of a connection travel.
    pub path: PathChoice,
    /// What else is set.
    pub settings: ServiceSettings,
    /// The real servers, in the order of the file. No two have the same address and port.
    pub servers: Vec<Server>,
}

/// What a virtual service is found by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Key {
    /// A protocol, address and port.
    Endpoint {
        /// The transport protocol.
        protocol: Protocol,
        /// The virtual address. Unicast, and of use on any interface.
        address: IpAddr,
        /// The port, in host byte order; 0: every port that no other service of this protocol and address has.
        port: u16,
    },
    /// Whatever an operator's rules have marked.
    Mark {
        /// The mark.
        mark: Fwmark,
        /// The address family.
        family: Family,
    },
}

impl Key {
    /// The port; 0 for every port.
    pub const fn port(&self) -> u16 {
        match *self {
            Key::Endpoint { port, .. } => port,
            Key::Mark { .. } => 0,
        }
    }

    /// The address family.
    pub const fn family(&self) -> Family {
        match *self {
            Key::Endpoint { address, .. } => Family::of(address),
            Key::Mark { family, .. } => family,
        }
    }
}

/// `tcp 10.0.0.100:80` or `fwmark 5 ipv4`, as messages name a service.
impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Key::Endpoint { protocol, address, port } => {
                write!(f, "{protocol} {}", SocketAddr::new(address, port))
            }
            Key::Mark { mark, family } => write!(f, "fwmark {mark} {family}"),
        }
    }
}

/// A real server of a virtual service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Server {
    /// The server's address, of the same family as the service's; behind a tunnel, of any.
    pub address: IpAddr,
    /// The port, in host byte order; 0 (always for a service with port 0): the one the client asked for.
    pub port: u16,
    /// How many new connections it gets in comparison with the others.
    pub weight: Weight,
    /// How packets reach it.
    pub forward: ForwardMethod,
    /// How they are wrapped, if they go through a tunnel.
    pub tunnel: Tunnel,
    /// How many connections it may have.
    pub thresholds: Thresholds,
}

/// How long a connection without traffic is kept (`ipvsadm --set`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timeouts {
    /// An established TCP connection.
    pub tcp: Duration,
    /// A TCP connection after a FIN.
    pub tcp_fin: Duration,
    /// A UDP exchange.
    pub udp: Duration,
}

/// The synchronisation with other directors.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SyncSettings {
    /// Who tells others of the connections here, if anybody does.
    pub master: Option<SyncDaemon>,
    /// Who takes over what others tell of theirs, if anybody does.
    pub backup: Option<SyncDaemon>,
    /// How directors know that messages are from each other, if they do.
    pub authentication: Option<Authentication>,
    /// Whether a backup can ask for the whole table, and does.
    pub resync: Option<Resync>,
    /// Whether neighbours are told where the virtual addresses are when this director comes to be in charge.
    pub announce: bool,
    /// How many messages with records the master sends in a second, at most.
    pub rate: Option<NonZeroU32>,
}

/// Whole tables, between nfvs directors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Resync {
    /// The TCP port at which the master can be asked.
    pub port: u16,
}

/// How directors know that messages are from each other.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Authentication {
    /// The file with the keys, an absolute path.
    pub keys: PathBuf,
    /// Whether messages that are made with no key are refused.
    pub required: bool,
}

/// One side of the synchronisation (`ipvsadm --start-daemon`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SyncDaemon {
    /// The interface that messages leave by, or come in by.
    pub interface: String,
    /// The syncid; of a backup, 0 stands for every one.
    pub syncid: u8,
    /// The multicast group.
    pub group: IpAddr,
    /// The UDP port of the first sync thread, in host byte order.
    pub port: u16,
    /// The time to live of messages.
    pub ttl: u8,
    /// The longest message in bytes of UDP payload, if it is configured.
    pub maxlen: Option<u16>,
}

impl SyncDaemon {
    /// One on an interface, otherwise as it is without a word about it.
    pub fn new(interface: String, group: Option<IpAddr>, port: Option<u16>) -> SyncDaemon {
        SyncDaemon {
            interface,
            syncid: 0,
            group: group.unwrap_or(IpAddr::from([224, 0, 0, 81])),
            port: port.unwrap_or(DEFAULT_PORT),
            ttl: 1,
            maxlen: None,
        }
    }

    /// The longest message that a master of this group makes unless configured, in bytes of UDP payload: what fits a
    /// frame of Ethernet.
    pub fn usual_message(&self) -> u16 {
        1500 - self.headers()
    }

    /// The longest message that any datagram to the group has room for, in bytes of UDP payload.
    pub fn longest_message(&self) -> u16 {
        u16::MAX - self.headers()
    }

    /// The headers of IP and UDP, in bytes.
    fn headers(&self) -> u16 {
        if self.group.is_ipv4() { 28 } else { 48 }
    }
}

/// The queues between the kernel and the daemon.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Queues {
    /// The number of the first queue.
    pub base: u16,
    /// Queues of each class; none: see [`Queues::count_for`].
    pub count: Option<u16>,
    /// Who reads the queues.
    pub backend: QueueBackend,
    /// Packets that may wait in one queue.
    pub length: u32,
}

impl Queues {
    /// Classes of traffic that have queues of their own.
    pub const CLASSES: u16 = 7;
    /// The largest number of queues of a class.
    pub const MAX_COUNT: u16 = 32;

    /// Queues of each class on a machine with `cores` cores: as configured, or one for each core up to
    /// [`Queues::MAX_COUNT`]. Whatever the number is, [`Queues::CLASSES`] times as many fit above
    /// [`base`](Queues::base).
    pub fn count_for(&self, cores: NonZeroUsize) -> u16 {
        let one_per_core = u16::try_from(cores.get()).map_or(Queues::MAX_COUNT, |n| n.min(Queues::MAX_COUNT));
        self.count.unwrap_or(one_per_core)
    }
}

/// A transport protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
    /// SCTP.
    Sctp,
}

impl Protocol {
    /// Every protocol.
    pub const ALL: [Protocol; 3] = [Protocol::Tcp, Protocol::Udp, Protocol::Sctp];

    /// The number in the IP header (IANA "Assigned Internet Protocol Numbers").
    pub const fn number(self) -> u8 {
        match self {
            Protocol::Tcp => 6,
            Protocol::Udp => 17,
            Protocol::Sctp => 132,
        }
    }

    /// The word for it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Protocol::Tcp => "tcp",
            Protocol::Udp => "udp",
            Protocol::Sctp => "sctp",
        }
    }
}

impl From<Protocol> for u8 {
    fn from(protocol: Protocol) -> u8 {
        protocol.number()
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl FromStr for Protocol {
    type Err = UnknownWord;

    fn from_str(word: &str) -> Result<Protocol, UnknownWord> {
        Protocol::ALL.into_iter().find(|protocol| protocol.as_str() == word).ok_or(UnknownWord)
    }
}

/// A word is none of those that are known.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("unknown word")]
pub struct UnknownWord;

/// How the packets of a connection travel.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum PathChoice {
    /// Every packet visits the daemon.
    Queue,
    /// The daemon takes the best way there is.
    #[default]
    Auto,
}

/// Who reads the queues.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum QueueBackend {
    /// Many packets and many verdicts in each system call.
    #[default]
    Batched,
    /// The `nfq` library, one packet at a time: for comparison and debugging.
    Nfq,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_the_same_for_people_and_for_serde() {
        for protocol in Protocol::ALL {
            assert_eq!(protocol.to_string().parse(), Ok(protocol));
            assert_eq!(serde_json::to_value(protocol).unwrap(), protocol.as_str());
        }
        assert_eq!("TCP".parse::<Protocol>(), Err(UnknownWord));
    }

    #[test]
    fn queue_count_is_configured_or_one_per_core_within_bounds() {
        let queues = |count| Queues { base: 0, count, backend: QueueBackend::Batched, length: 1024 };
        let cores = |number| NonZeroUsize::new(number).unwrap();
        assert_eq!(queues(Some(7)).count_for(cores(2)), 7);
        assert_eq!(queues(None).count_for(cores(2)), 2);
        assert_eq!(queues(None).count_for(cores(33)), 32);
        assert_eq!(queues(None).count_for(cores(1 << 20)), 32);
    }
}
