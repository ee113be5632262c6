//! The configuration as it is written in the file.
//!
//! These types are the one definition of the format: its keys, its defaults, what a single value may be, and (by
//! their comments) the descriptions in the [schema](super::schema). What depends on several values is
//! checked later, by `rules`.

use super::feedback::Feedback;
use super::mac::MacAddress;
use super::model::{PathChoice, Protocol, QueueBackend};
use super::number::number;
use super::scheduler_words::{SchedulerFlag, SchedulerName};
use super::service_keys::{
    Family, Fwmark, LowerThreshold, OnRemove, OwnTimeouts, Persistence, UpperThreshold,
};
use super::sync::Sync;
use super::tunables::Tunables;
use super::tunnel::Tunnel;
use crate::director::service::ForwardMethod;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::{self, Deserializer, Visitor};
use serde::{Deserialize, Serialize};
use std::borrow::Cow;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// An object whose values are read one by one.
pub(super) trait Object: de::DeserializeOwned {
    /// The keys that must be there.
    const REQUIRED: &'static [&'static str];
    /// The keys that have no default, whether they must be there or not.
    const WITHOUT_DEFAULT: &'static [&'static str] = Self::REQUIRED;

    /// Why a key that is unknown here, and known elsewhere, is refused.
    fn why_not(_key: &str) -> Option<&'static str> {
        None
    }
}

/// The configuration of nfvs, a layer-4 load balancer.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(title = "nfvs configuration")]
pub struct File {
    /// The virtual services.
    pub services: Vec<Service>,
    /// How long a connection without traffic is kept, in seconds (ipvsadm --set).
    #[serde(default)]
    pub timeouts: Timeouts,
    /// The connection table.
    #[serde(default)]
    pub connections: Connections,
    /// The queues between the kernel and the daemon.
    #[serde(default)]
    pub queues: Queues,
    /// Settings of the whole director, by their names under net.ipv4.vs.
    #[serde(default)]
    pub tunables: Tunables,
    /// Whether ICMP echo requests (ping) to virtual addresses are answered.
    #[serde(default = "yes")]
    pub answer_ping: bool,
    /// The Ethernet addresses of other directors that have this machine among their servers: what comes from them to a
    /// virtual address is not balanced again.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub peers: Vec<MacAddress>,
    /// How connections are synchronised with other directors.
    #[serde(default)]
    pub sync: Sync,
}

impl Object for File {
    const REQUIRED: &'static [&'static str] = &["services"];
}

const fn yes() -> bool {
    true
}

/// A virtual service: what clients connect to. It has a protocol, an address and a port, or a firewall mark instead.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(extend("oneOf" = [{ "required": ["protocol", "address", "port"] }, { "required": ["fwmark"] }]))]
pub struct Service {
    /// What people call the service; unique. Default: like "tcp-10.0.0.100-80".
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "ServiceName")]
    pub name: Option<ServiceName>,
    /// The transport protocol.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Protocol")]
    pub protocol: Option<Protocol>,
    /// The virtual address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Address")]
    pub address: Option<Address>,
    /// The port; 0: every port that no other service of this protocol and address has.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Port")]
    pub port: Option<Port>,
    /// In place of those three: packets that rules of the operator have given this mark, the lower half of the packet
    /// mark (ipvsadm -f).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Fwmark")]
    pub fwmark: Option<Fwmark>,
    /// The address family of the packets with the mark. Default: that of the first server.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Family")]
    pub family: Option<Family>,
    /// Who chooses the real server of a new connection.
    #[serde(default)]
    pub scheduler: SchedulerName,
    /// What is set for the scheduler (ipvsadm -b).
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub scheduler_flags: Vec<SchedulerFlag>,
    /// For the scheduler "feedback", and needed there: where the servers' reports of load come from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Feedback")]
    pub feedback: Option<Feedback>,
    /// How the packets of a connection travel.
    #[serde(default)]
    pub path: PathChoice,
    /// Clients stay with their server from one connection to the next (ipvsadm -p).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Persistence")]
    pub persistence: Option<Persistence>,
    /// Whether each datagram is scheduled for itself, without a connection (ipvsadm -o). UDP only.
    #[serde(default)]
    pub one_packet: bool,
    /// What becomes of the connections of a server that is removed. Default: UDP "reschedule", TCP and SCTP "keep".
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "OnRemove")]
    pub on_remove: Option<OnRemove>,
    /// Timeouts of this service, in seconds. Default: those of all services.
    #[serde(default)]
    pub timeouts: OwnTimeouts,
    /// The real servers; with none, clients are refused.
    #[serde(default)]
    pub servers: Vec<Server>,
}

impl Object for Service {
    const REQUIRED: &'static [&'static str] = &[];
    const WITHOUT_DEFAULT: &'static [&'static str] = &["protocol", "address", "port", "fwmark", "feedback"];
}

/// A real server of a virtual service: what does the work.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Server {
    /// The server's address, of the same family as the service's; with "tunnel", of any.
    pub address: Address,
    /// The server's port. Default: the service's. If that is 0 (every port), so is this: packets keep theirs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Port")]
    pub port: Option<Port>,
    /// How many new connections the server gets in comparison with the others; 0: none.
    #[serde(default)]
    pub weight: Weight,
    /// How packets reach the server. With "dr", "local" and "tunnel" the server's port is the service's.
    #[serde(default)]
    pub forward: Forward,
    /// With "forward": "tunnel", how packets are wrapped. Default: in another IP header.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Tunnel")]
    pub tunnel: Option<Tunnel>,
    /// How many connections it may have before it is full and gets no new ones; 0: it never is (ipvsadm -x).
    #[serde(default)]
    pub upper_threshold: UpperThreshold,
    /// Below how many connections a full server gets new ones again; 0: three quarters of the other (ipvsadm -y).
    #[serde(default)]
    pub lower_threshold: LowerThreshold,
}

impl Object for Server {
    const REQUIRED: &'static [&'static str] = &["address"];
}

/// How long a connection without traffic is kept, in seconds (ipvsadm --set).
#[derive(Clone, Copy, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Timeouts {
    /// An established TCP connection, in seconds.
    pub tcp: Timeout,
    /// A TCP connection after a FIN, in seconds.
    pub tcp_fin: Timeout,
    /// A UDP exchange, in seconds.
    pub udp: Timeout,
}

impl Object for Timeouts {
    const REQUIRED: &'static [&'static str] = &[];
}

impl Default for Timeouts {
    fn default() -> Timeouts {
        Timeouts { tcp: Timeout(900), tcp_fin: Timeout(120), udp: Timeout(300) }
    }
}

/// The connection table.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Connections {
    /// How many connections there may be at once.
    pub max: MaxConnections,
}

impl Object for Connections {
    const REQUIRED: &'static [&'static str] = &[];
}

/// The queues between the kernel and the daemon: "count" for each of seven classes, numbered from "base" on.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Queues {
    /// The number of the first queue.
    pub base: QueueBase,
    /// Queues of each class. Default: one for each core, at most 32.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "QueueCount")]
    pub count: Option<QueueCount>,
    /// Who reads the queues.
    pub backend: QueueBackend,
    /// Packets that may wait in one queue; more are dropped and counted.
    pub length: QueueLength,
}

impl Object for Queues {
    const REQUIRED: &'static [&'static str] = &[];
}

/// How packets reach a real server.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Forward {
    /// Network address translation (ipvsadm -m).
    #[default]
    Nat,
    /// Direct routing (ipvsadm -g): unchanged; the server has the virtual address too, and answers clients itself.
    Dr,
    /// Local node: unchanged; the server is the director itself, which has the virtual address.
    Local,
    /// Tunnel (ipvsadm -i): unchanged, inside another packet; otherwise like "dr", wherever the server is.
    Tunnel,
}

/// The word in the file.
impl fmt::Display for Forward {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        ForwardMethod::from(*self).fmt(f)
    }
}

impl From<Forward> for ForwardMethod {
    fn from(forward: Forward) -> ForwardMethod {
        match forward {
            Forward::Nat => ForwardMethod::Nat,
            Forward::Dr => ForwardMethod::Dr,
            Forward::Local => ForwardMethod::Local,
            Forward::Tunnel => ForwardMethod::Tunnel,
        }
    }
}

number! {
    /// A port, in host byte order.
    Port(u16): "a port", 0 to 65535
}

number! {
    /// How many new connections a server gets in comparison with others.
    Weight(u32): "a weight", 0 to 2147483647; default 1
}

number! {
    /// A time in seconds, as long as `ipvsadm --set` allows.
    Timeout(u32): "a time", 1 to 2678400, "seconds"
}

number! {
    /// How many connections there may be at once.
    MaxConnections(u32): "a number of connections", 1 to 16777216; default 1048576
}

number! {
    /// The number of the first queue.
    QueueBase(u16): "a queue number", 0 to 65535; default 0
}

number! {
    /// Queues of each class.
    QueueCount(u16): "a number of queues", 1 to 32
}

number! {
    /// Packets that may wait in one queue.
    QueueLength(u32): "a queue length", 1024 to 1048576, "packets"; default 65536
}

/// What people call a service: 1 to 63 characters, each a letter or digit of ASCII, or one of `.`, `_`, `-`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ServiceName(String);

impl ServiceName {
    /// The name, if it is allowed.
    pub fn new(name: &str) -> Option<ServiceName> {
        let is_allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
        ((1..=63).contains(&name.len()) && name.bytes().all(is_allowed)).then(|| ServiceName(name.to_owned()))
    }

    /// The name.
    pub fn into_string(self) -> String {
        self.0
    }
}

impl<'de> Deserialize<'de> for ServiceName {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<ServiceName, D::Error> {
        struct Name;
        impl Visitor<'_> for Name {
            type Value = ServiceName;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a name in double quotes")
            }

            fn visit_str<E: de::Error>(self, name: &str) -> Result<ServiceName, E> {
                let expected = "a name of 1 to 63 characters out of A-Z a-z 0-9 . _ -";
                ServiceName::new(name).ok_or_else(|| E::invalid_value(de::Unexpected::Str(name), &expected))
            }
        }
        deserializer.deserialize_str(Name)
    }
}

impl JsonSchema for ServiceName {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "ServiceName".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "string", "pattern": "^[A-Za-z0-9._-]{1,63}$" })
    }
}

/// The address of a service or a server: one machine's, and the same one whatever the interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Address(IpAddr);

impl Address {
    /// The address, if it is one that a service or a server can have.
    ///
    /// # Errors
    ///
    /// A sentence that says why not.
    pub fn new(address: IpAddr) -> Result<Address, String> {
        let why_not = match address {
            IpAddr::V4(Ipv4Addr::UNSPECIFIED) | IpAddr::V6(Ipv6Addr::UNSPECIFIED) => "stands for any address",
            IpAddr::V4(Ipv4Addr::BROADCAST) => "is the broadcast address",
            _ if address.is_multicast() => "is a multicast address",
            IpAddr::V6(v6) if v6.is_unicast_link_local() => {
                "is a link-local address, which means another machine on each interface"
            }
            IpAddr::V6(v6) if let Some(v4) = v6.to_ipv4_mapped() => {
                return Err(format!("{address} is an IPv4 address written as IPv6; write {v4}"));
            }
            _ => return Ok(Address(address)),
        };
        Err(format!("{address} {why_not}; write the address of one machine"))
    }

    /// The address.
    pub const fn get(self) -> IpAddr {
        self.0
    }
}

impl<'de> Deserialize<'de> for Address {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Address, D::Error> {
        struct Text;
        impl Visitor<'_> for Text {
            type Value = Address;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an IPv4 or IPv6 address in double quotes")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Address, E> {
                let address = text
                    .parse()
                    .map_err(|_| E::invalid_value(de::Unexpected::Str(text), &expected_address(text)))?;
                Address::new(address).map_err(E::custom)
            }
        }
        deserializer.deserialize_str(Text)
    }
}

/// What is expected in place of `text`, which is no address, with a word on why it may have been written.
fn expected_address(text: &str) -> &'static str {
    if text.contains('%') {
        "an IPv4 or IPv6 address: an interface after % is not allowed"
    } else if text.contains('/') {
        "an IPv4 or IPv6 address: it is of one machine, without a prefix length"
    } else if text.parse::<SocketAddr>().is_ok() {
        "an IPv4 or IPv6 address: the port has a key of its own"
    } else if text.starts_with('[') {
        "an IPv4 or IPv6 address: write it without brackets"
    } else if !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.') {
        "an IPv4 address: four numbers from 0 to 255 without leading zeros"
    } else {
        "an IPv4 or IPv6 address such as 10.0.0.100 or fd00::100"
    }
}

impl JsonSchema for Address {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "Address".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "string", "anyOf": [{ "format": "ipv4" }, { "format": "ipv6" }] })
    }
}

#[cfg(test)]
mod tests {
    use super::super::feedback::HttpReport;
    use super::*;
    use crate::config::sync::{Authentication, Resync, SyncDaemon};
    use std::collections::BTreeSet;

    /// [`Object::REQUIRED`] is what serde requires, as the schema made from the same attributes tells.
    #[test]
    fn required_keys_are_those_of_the_schema() {
        fn check<T: Object + JsonSchema>() {
            let schema = schemars::schema_for!(T).to_value();
            let required =
                schema.get("required").and_then(|keys| keys.as_array()).cloned().unwrap_or_default();
            let required: BTreeSet<&str> = required.iter().map(|key| key.as_str().expect("a key")).collect();
            assert_eq!(required, T::REQUIRED.iter().copied().collect(), "{schema:#}");
        }
        check::<File>();
        check::<Service>();
        check::<Server>();
        check::<Timeouts>();
        check::<Connections>();
        check::<Queues>();
        check::<Persistence>();
        check::<OwnTimeouts>();
        check::<Tunables>();
        check::<Tunnel>();
        check::<Sync>();
        check::<SyncDaemon>();
        check::<Authentication>();
        check::<Resync>();
        check::<Feedback>();
        check::<HttpReport>();
    }

    #[test]
    fn weights_are_those_of_the_director() {
        use crate::director::service::Weight as Checked;
        let largest = u64::from(Checked::MAX);
        assert_eq!(Weight::new(largest).map(Weight::get), Some(Checked::MAX));
        assert_eq!(Weight::new(largest + 1), None);
        assert_eq!(Weight::default().get(), Checked::default().get());
    }

    #[test]
    fn numbers_have_bounds() {
        assert_eq!(Timeout::new(0), None);
        assert_eq!(Timeout::new(2_678_400).map(Timeout::get), Some(2_678_400));
        assert_eq!(Timeout::new(2_678_401), None);
        assert_eq!(Port::new(65_536), None);
        assert_eq!(QueueLength::new(u64::MAX), None);
    }
}
