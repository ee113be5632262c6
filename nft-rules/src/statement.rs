//! The vocabulary of the rules: everything one of our rules can say, as data, and its nft text.
//!
//! `compile.rs` says the same things to the kernel. Each statement is one thing in nft's grammar, so that a rule
//! is its statements in order in both renderings.

use std::fmt;

use crate::{
    QueueTarget,
    plan::MARK_MASK,
    sets::{self, Set},
};

/// The seed of the queue hash, the same in every table, so that both directions of a flow meet in one queue.
pub(crate) const HASH_SEED: u32 = 0x6e66_7673;

/// The hop limit of an answered echo request: what a host would send, not what is left of the client's.
pub(crate) const ANSWER_TTL: u8 = 64;

/// The largest TCP segment between a client and a server that are both on this host. The loopback interface allows
/// 64 KB, and TCP puts at least two segments into a packet: more than a queue can carry (65,531 bytes).
pub(crate) const LOOPBACK_MSS: u16 = 16_000;

/// Where the type of the first chunk stands in an SCTP packet (RFC 9260, 3), and that of INIT.
pub(crate) const SCTP_CHUNK_OFFSET: u32 = 12;
pub(crate) const SCTP_INIT: u8 = 1;

/// An address family, each with a table of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Family {
    Ip4,
    Ip6,
}

impl Family {
    pub(crate) const ALL: [Family; 2] = [Family::Ip4, Family::Ip6];

    /// ICMP's protocol number in this family.
    pub(crate) fn icmp(self) -> u8 {
        match self {
            Family::Ip4 => 1,
            Family::Ip6 => 58,
        }
    }

    /// ICMP's name in nft's text.
    fn icmp_name(self) -> &'static str {
        match self {
            Family::Ip4 => "icmp",
            Family::Ip6 => "icmpv6",
        }
    }

    /// Bytes of an address.
    pub(crate) fn address_len(self) -> u32 {
        match self {
            Family::Ip4 => 4,
            Family::Ip6 => 16,
        }
    }

    /// The kernel option (without `CONFIG_`) that gives nftables this family.
    pub(crate) fn option(self) -> &'static str {
        match self {
            Family::Ip4 => "NF_TABLES_IPV4",
            Family::Ip6 => "NF_TABLES_IPV6",
        }
    }
}

impl fmt::Display for Family {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Family::Ip4 => "ip",
            Family::Ip6 => "ip6",
        })
    }
}

/// A part of a packet, or something known of it, that is looked up in a set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Field {
    SourceAddress,
    DestinationAddress,
    /// The transport protocol (IPv6: behind the extension headers).
    Protocol,
    SourcePort,
    DestinationPort,
    /// The destination address in the header that an ICMP error carries.
    EmbeddedDestination,
    /// The destination an ICMP redirect is about: IPv4 as in any error, IPv6 a field of its own (RFC 4861, 4.5).
    RedirectedDestination,
    /// Our half of the mark.
    MarkId,
    /// The operator's half of the mark.
    OperatorMark,
    /// The Ethernet address of the interface that has sent the packet over its last link.
    SourceEther,
}

impl Field {
    /// Where it stands behind the start of the ICMP header, in bytes.
    pub(crate) fn icmp_offset(self, family: Family) -> u32 {
        match (self, family) {
            (Field::EmbeddedDestination | Field::RedirectedDestination, Family::Ip4) => 8 + 16,
            (Field::EmbeddedDestination, Family::Ip6) => 8 + 24,
            (Field::RedirectedDestination, Family::Ip6) => 24,
            _ => unreachable!("not a field of an ICMP message"),
        }
    }

    /// Where it stands in the network header, in bytes.
    pub(crate) fn network_offset(self, family: Family) -> u32 {
        match (self, family) {
            (Field::SourceAddress, Family::Ip4) => 12,
            (Field::DestinationAddress, Family::Ip4) => 16,
            (Field::SourceAddress, Family::Ip6) => 8,
            (Field::DestinationAddress, Family::Ip6) => 24,
            _ => unreachable!("not an address of the network header"),
        }
    }

    /// Looked up in a set of raw payload, an address must be written as raw payload too.
    fn text_for(self, set: &Set, family: Family) -> String {
        match self {
            Field::DestinationAddress if set.raw => {
                let address = family.address_len();
                format!("@nh,{},{}", self.network_offset(family) * 8, address * 8)
            }
            _ => self.text(family),
        }
    }

    fn text(self, family: Family) -> String {
        match self {
            Field::SourceAddress => format!("{family} saddr"),
            Field::DestinationAddress => format!("{family} daddr"),
            Field::Protocol => "meta l4proto".into(),
            Field::SourcePort => "th sport".into(),
            Field::DestinationPort => "th dport".into(),
            Field::EmbeddedDestination | Field::RedirectedDestination => {
                format!("@th,{},{}", self.icmp_offset(family) * 8, family.address_len() * 8)
            }
            Field::MarkId => format!("meta mark & {MARK_MASK:#010x}"),
            Field::OperatorMark => format!("meta mark & {:#010x}", !MARK_MASK),
            Field::SourceEther => "ether saddr".into(),
        }
    }
}

/// The end of a flow that is the client's: what both directions are hashed by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Client {
    /// Requests.
    Source,
    /// Replies.
    Destination,
}

impl Client {
    pub(crate) fn fields(self) -> [Field; 2] {
        match self {
            Client::Source => [Field::SourceAddress, Field::SourcePort],
            Client::Destination => [Field::DestinationAddress, Field::DestinationPort],
        }
    }
}

/// Whose checksum a rewritten source port changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Transport {
    Tcp,
    Udp,
    /// UDP without a checksum (RFC 768: zero), which must stay without.
    UdpUnsummed,
    /// SCTP: a CRC over the whole packet, of which the kernel makes a new one.
    Sctp,
}

/// One statement of a rule. The first that does not match ends the rule; what it has written stays written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Statement {
    /// The fields together are an element of the set.
    In(&'static [Field], &'static Set),
    /// They are not.
    NotIn(&'static [Field], &'static Set),
    /// The transport protocol is this.
    Protocol(u8),
    /// It is ICMP (ICMPv6) of this family.
    Icmp,
    /// ICMP of a type in this range, both ends included.
    IcmpType(u8, u8),
    /// TCP with the SYN flag.
    Syn,
    /// TCP to this port.
    ToTcpPort(u16),
    /// TCP to this port or a higher one.
    ToTcpPortFrom(u16),
    /// SCTP whose first chunk is an INIT.
    Init,
    /// It has come back in from a packet sent by this host.
    FromLoopback,
    /// It goes from this host to this host.
    ToLoopback,
    /// The destination is an address of this host.
    ToThisHost,
    /// Connection tracking was told to leave it alone.
    Untracked,
    /// Our half of the mark is not zero.
    Marked,
    /// Our half of the mark is this.
    MarkedWith(u32),
    /// Queue `index` of `count` is the one for this client.
    Hash {
        client: Client,
        count: u16,
        index: u16,
    },
    /// Count packets and bytes.
    Counter,
    /// Keep connection tracking away from this packet.
    Notrack,
    /// Hand over to this queue; if nobody listens, go on behind this chain.
    Queue(QueueTarget, u16),
    Accept,
    Drop,
    Goto(&'static str),
    TcpReset,
    /// ICMP (ICMPv6) port unreachable.
    PortUnreachable,
    /// Mark := the source id of the destination address. Both halves: nft has no way to keep one.
    MarkFromDestination,
    /// Destination address := source address.
    DestinationFromSource,
    /// Source address := what the mark names, transport checksums kept right (a checksum still owed as well).
    SourceFromMark,
    /// Source port := what the mark names.
    PortFromMark(Transport),
    /// Mark := 0.
    ClearMark,
    /// Our half of the mark := 0.
    ClearMarkId,
    /// Our half of the mark := this.
    MarkWith(u32),
    /// An address := what itself and the mark name in the map.
    Exchange(Field, &'static Set),
    /// The fragment field of an IPv4 header (flags and offset) is this.
    FragmentField(u16),
    /// The fragment field of an IPv4 header := this.
    SetFragmentField(u16),
    /// Send a copy from this host to where routing to the destination address leads, whatever becomes of the
    /// address in the copy: the neighbour is settled. Over IPv4 the copy has the DF flag (`nf_dup_ipv4`).
    DupToDestination,
    /// Time to live, hop limit.
    SetTtl,
    /// ICMP type, with its checksum.
    SetIcmpType(u8),
    /// The segment size that a SYN announces: at most [`LOOPBACK_MSS`]; the kernel only ever lowers it.
    LimitSegments,
}

impl Statement {
    /// The kernel option (without `CONFIG_`) this needs beyond nftables itself.
    pub(crate) fn options(self, family: Family) -> &'static [&'static str] {
        match (self, family) {
            (Statement::ToThisHost, Family::Ip4) => &["NFT_FIB_IPV4"],
            (Statement::ToThisHost, Family::Ip6) => &["NFT_FIB_IPV6"],
            (Statement::TcpReset | Statement::PortUnreachable, Family::Ip4) => &["NFT_REJECT_IPV4"],
            (Statement::TcpReset | Statement::PortUnreachable, Family::Ip6) => &["NFT_REJECT_IPV6"],
            (Statement::Untracked | Statement::Notrack, _) => &["NFT_CT"],
            (Statement::Hash { .. }, _) => &["NFT_HASH"],
            (Statement::DupToDestination, Family::Ip4) => &["NFT_DUP_IPV4"],
            (Statement::DupToDestination, Family::Ip6) => &["NFT_DUP_IPV6"],
            (Statement::Queue(QueueTarget::Native, _), _) => &["NFT_QUEUE"],
            (Statement::Queue(QueueTarget::Xtables, _), _) => &["NFT_COMPAT", "NETFILTER_XT_TARGET_NFQUEUE"],
            _ => &[],
        }
    }

    /// As nft writes it.
    pub(crate) fn text(self, family: Family) -> String {
        let icmp = family.icmp_name();
        let id = Field::MarkId.text(family);
        match self {
            Statement::In(fields, set) => format!("{} @{}", joined_for(set, fields, family), set.name),
            Statement::NotIn(fields, set) => format!("{} != @{}", joined_for(set, fields, family), set.name),
            Statement::Protocol(number) => format!("meta l4proto {}", protocol_name(number)),
            Statement::Icmp => match family {
                Family::Ip4 => "meta l4proto icmp".into(),
                Family::Ip6 => "meta l4proto ipv6-icmp".into(),
            },
            Statement::IcmpType(first, last) if first == last => {
                format!("{icmp} type {}", type_name(family, first))
            }
            Statement::IcmpType(first, last) => format!("{icmp} type {first}-{last}"),
            Statement::Syn => "tcp flags syn".into(),
            Statement::ToTcpPort(port) => format!("tcp dport {port}"),
            Statement::ToTcpPortFrom(port) => format!("tcp dport >= {port}"),
            Statement::Init => format!("meta l4proto sctp @th,{},8 {SCTP_INIT}", SCTP_CHUNK_OFFSET * 8),
            Statement::FromLoopback => "iif \"lo\"".into(),
            Statement::ToLoopback => "oif \"lo\"".into(),
            Statement::ToThisHost => "fib daddr type local".into(),
            Statement::Untracked => "ct state untracked".into(),
            Statement::Marked => format!("{id} != 0"),
            Statement::MarkedWith(mark) => format!("{id} == {mark:#010x}"),
            Statement::Hash { client, count, index } => {
                format!(
                    "jhash {} mod {count} seed {HASH_SEED:#x} == {index}",
                    joined(&client.fields(), family)
                )
            }
            Statement::Counter => "counter".into(),
            Statement::Notrack => "notrack".into(),
            Statement::Queue(_, number) => format!("queue num {number} bypass"),
            Statement::Accept => "accept".into(),
            Statement::Drop => "drop".into(),
            Statement::Goto(chain) => format!("goto {chain}"),
            Statement::TcpReset => "reject with tcp reset".into(),
            Statement::PortUnreachable => format!("reject with {icmp} port-unreachable"),
            Statement::MarkFromDestination => {
                format!("meta mark set {family} daddr map @{}", sets::VIP_MARKS.name)
            }
            Statement::DestinationFromSource => format!("{family} daddr set {family} saddr"),
            Statement::SourceFromMark => format!("{family} saddr set {id} map @{}", sets::REPLY_ADDRESS.name),
            Statement::PortFromMark(transport) => {
                // The raw field in the last: nft would fold the change of `udp sport` into the checksum.
                let port = match transport {
                    Transport::Tcp => "tcp sport",
                    Transport::Udp => "udp checksum != 0 udp sport",
                    Transport::UdpUnsummed => "udp checksum 0 @th,0,16",
                    Transport::Sctp => "sctp sport",
                };
                format!("{port} set {id} map @{}", sets::REPLY_PORT.name)
            }
            Statement::ClearMark => "meta mark set 0".into(),
            Statement::Exchange(field, map) => {
                let key = joined(&[field, Field::MarkId], family);
                format!("{} set {key} map @{}", field.text(family), map.name)
            }
            Statement::FragmentField(value) => format!("ip frag-off {value:#06x}"),
            Statement::SetFragmentField(value) => format!("ip frag-off set {value:#06x}"),
            Statement::DupToDestination => format!("dup to {family} daddr"),
            Statement::ClearMarkId => format!("meta mark set meta mark & {:#010x}", !MARK_MASK),
            Statement::MarkWith(mark) => {
                format!("meta mark set meta mark & {:#010x} | {mark:#010x}", !MARK_MASK)
            }
            Statement::SetTtl => match family {
                Family::Ip4 => format!("ip ttl set {ANSWER_TTL}"),
                Family::Ip6 => format!("ip6 hoplimit set {ANSWER_TTL}"),
            },
            Statement::SetIcmpType(number) => format!("{icmp} type set {}", type_name(family, number)),
            Statement::LimitSegments => format!("tcp option maxseg size set {LOOPBACK_MSS}"),
        }
    }
}

/// nft's name of a protocol that is balanced, or follows one that is.
pub(crate) fn protocol_name(number: u8) -> String {
    match number {
        1 => "icmp".into(),
        6 => "tcp".into(),
        17 => "udp".into(),
        50 => "esp".into(),
        51 => "ah".into(),
        132 => "sctp".into(),
        58 => "ipv6-icmp".into(),
        _ => number.to_string(),
    }
}

fn joined_for(set: &Set, fields: &[Field], family: Family) -> String {
    match fields {
        [field] => field.text_for(set, family),
        fields => joined(fields, family),
    }
}

fn joined(fields: &[Field], family: Family) -> String {
    let part = |field: &Field| match field {
        // nft reads an operator among concatenated fields only in parentheses (and lists it without).
        Field::MarkId => format!("({})", field.text(family)),
        _ => field.text(family),
    };
    fields.iter().map(part).collect::<Vec<_>>().join(" . ")
}

/// nft's name of an ICMP type, where it has one that says more than the number.
fn type_name(family: Family, number: u8) -> String {
    match (family, number) {
        (Family::Ip4, 0) | (Family::Ip6, 129) => "echo-reply".into(),
        (Family::Ip4, 3) => "destination-unreachable".into(),
        (Family::Ip4, 4) => "source-quench".into(),
        (Family::Ip4, 5) => "redirect".into(),
        (Family::Ip4, 8) | (Family::Ip6, 128) => "echo-request".into(),
        (Family::Ip6, 137) => "nd-redirect".into(),
        (Family::Ip6, 143) => "mld2-listener-report".into(),
        _ => number.to_string(),
    }
}
