//! Packets as nodes send and see them.

use crate::crc32c::crc32c;
use crate::network::{DIRECTOR, VIPS};
use anyhow::Context;
use etherparse::{IpNumber, PacketBuilder};
use std::fmt;
use std::net::{IpAddr, SocketAddr};

/// The protocols that are balanced.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Protocol {
    Tcp,
    Udp,
    Sctp,
}

impl Protocol {
    pub(crate) const ALL: [Protocol; 3] = [Protocol::Tcp, Protocol::Udp, Protocol::Sctp];

    pub(crate) fn number(self) -> u8 {
        match self {
            Protocol::Tcp => 6,
            Protocol::Udp => 17,
            Protocol::Sctp => 132,
        }
    }

    /// Its name in configuration and answers.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Protocol::Tcp => "tcp",
            Protocol::Udp => "udp",
            Protocol::Sctp => "sctp",
        }
    }

    pub(crate) fn from_name(name: &str) -> Option<Protocol> {
        Protocol::ALL.into_iter().find(|protocol| protocol.name() == name.to_lowercase())
    }
}

/// A packet that a node sends.
#[derive(Clone, Debug)]
pub(crate) struct Packet {
    /// Who sends it: `c1`, `s1`, ...
    pub(crate) node: String,
    pub(crate) protocol: Protocol,
    pub(crate) from: SocketAddr,
    pub(crate) to: SocketAddr,
    pub(crate) content: Content,
}

/// What tells packets of one flow apart.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Content {
    /// The flags of TCP (RFC 9293, 3.1).
    Flags(u8),
    /// The first chunk of SCTP (RFC 9260, 3.2).
    Chunk(u8),
    /// A UDP datagram of so many bytes.
    Data(usize),
    /// An ICMP port unreachable about a packet that went the other way.
    Unreachable,
}

impl fmt::Display for Packet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Packet { node, protocol, from, to, content } = self;
        write!(f, "{node} {} {from} > {to} ", protocol.name())?;
        match content {
            Content::Flags(flags) => f.write_str(&flag_names(*flags)),
            Content::Chunk(kind) => write!(f, "chunk {kind}"),
            Content::Data(len) => write!(f, "{len} bytes"),
            Content::Unreachable => f.write_str("is unreachable"),
        }
    }
}

/// As tcpdump writes them.
fn flag_names(flags: u8) -> String {
    "FSRPAU".chars().enumerate().filter(|(bit, _)| flags & 1 << bit != 0).map(|(_, name)| name).collect()
}

impl Packet {
    /// The bytes behind the IP header, and their protocol's number.
    pub(crate) fn bytes(&self) -> anyhow::Result<(u8, Vec<u8>)> {
        let (from, to) = (self.from, self.to);
        if let Content::Unreachable = self.content {
            // It came from where this one goes.
            let about = Packet { from: to, to: from, content: Content::Data(8), ..self.clone() };
            let (number, inner) = about.bytes()?;
            let mut embedded = Vec::new();
            ip(to.ip(), from.ip())?.write(&mut embedded, IpNumber(number), &inner)?;
            let mut whole = Vec::new();
            let (number, header) = match (from.ip(), to.ip()) {
                (IpAddr::V4(_), IpAddr::V4(_)) => {
                    ip(from.ip(), to.ip())?.icmpv4_raw(3, 3, [0; 4]).write(&mut whole, &embedded)?;
                    (1, 20)
                }
                _ => {
                    ip(from.ip(), to.ip())?.icmpv6_raw(1, 4, [0; 4]).write(&mut whole, &embedded)?;
                    (58, 40)
                }
            };
            return Ok((number, whole.split_off(header)));
        }
        if self.protocol == Protocol::Sctp {
            let chunk = if let Content::Chunk(kind) = self.content { kind } else { 0 };
            let mut packet = Vec::new();
            packet.extend(from.port().to_be_bytes());
            packet.extend(to.port().to_be_bytes());
            packet.extend(*b"vtag\0\0\0\0");
            packet.extend([chunk, 0, 0, 8, 0, 0, 0, 1]);
            let crc = crc32c(&packet);
            packet[8..12].copy_from_slice(&crc);
            return Ok((132, packet));
        }
        let header = if from.is_ipv4() { 20 } else { 40 };
        Ok((self.protocol.number(), self.with_header()?.split_off(header)))
    }

    /// A packet of TCP or UDP, its IP header included.
    pub(crate) fn with_header(&self) -> anyhow::Result<Vec<u8>> {
        let (from, to) = (self.from, self.to);
        let mut whole = Vec::new();
        if self.protocol == Protocol::Udp {
            let len = if let Content::Data(len) = self.content { len } else { 0 };
            ip(from.ip(), to.ip())?.udp(from.port(), to.port()).write(&mut whole, &vec![b'x'; len])?;
        } else {
            let flags = if let Content::Flags(flags) = self.content { flags } else { 0x10 };
            let mut header = etherparse::TcpHeader::new(from.port(), to.port(), 1000, 4096);
            (header.fin, header.syn, header.rst) = (flags & 1 != 0, flags & 2 != 0, flags & 4 != 0);
            (header.psh, header.ack) = (flags & 8 != 0, flags & 16 != 0);
            ip(from.ip(), to.ip())?.tcp_header(header).write(&mut whole, &[])?;
        }
        Ok(whole)
    }
}

fn ip(from: IpAddr, to: IpAddr) -> anyhow::Result<etherparse::PacketBuilderStep<etherparse::IpHeaders>> {
    Ok(match (from, to) {
        (IpAddr::V4(from), IpAddr::V4(to)) => PacketBuilder::ip(etherparse::IpHeaders::Ipv4(
            etherparse::Ipv4Header {
                time_to_live: 60,
                source: from.octets(),
                destination: to.octets(),
                ..Default::default()
            },
            Default::default(),
        )),
        (IpAddr::V6(from), IpAddr::V6(to)) => PacketBuilder::ip(etherparse::IpHeaders::Ipv6(
            etherparse::Ipv6Header {
                hop_limit: 60,
                source: from.octets(),
                destination: to.octets(),
                ..Default::default()
            },
            Default::default(),
        )),
        _ => anyhow::bail!("{from} and {to} are of two families"),
    })
}

/// What a node sees of a packet: `payload` is what follows the IP header, `from` its source.
pub(crate) fn seen(node: &str, number: u8, from: IpAddr, payload: &[u8]) -> anyhow::Result<String> {
    let port = |at: usize| -> anyhow::Result<u16> {
        Ok(u16::from_be_bytes(payload.get(at..at + 2).context("a packet without ports")?.try_into()?))
    };
    Ok(match number {
        6 => {
            let flags = payload.get(13).context("a short TCP header")?;
            format!("{node} tcp {from}:{} > {} {}", port(0)?, port(2)?, flag_names(*flags))
        }
        17 => format!("{node} udp {from}:{} > {} {} bytes", port(0)?, port(2)?, payload.len() - 8),
        132 => {
            let mut unsummed = payload.to_vec();
            unsummed.get_mut(8..12).context("a short SCTP header")?.fill(0);
            let crc = if crc32c(&unsummed) == payload[8..12] { "right" } else { "wrong" };
            let chunk = payload.get(12).context("no chunk")?;
            format!("{node} sctp {from}:{} > {} chunk {chunk}, {crc} CRC", port(0)?, port(2)?)
        }
        _ => {
            let (kind, code) = (payload[0], payload[1]);
            let host = from.to_string();
            let from = if VIPS.contains(&&*host) || DIRECTOR.contains(&&*host) { "director" } else { &host };
            format!("{node} icmp {from} type {kind} code {code} about {}", embedded(&payload[8..])?)
        }
    })
}

/// The flow of the packet that an ICMP error embeds.
fn embedded(bytes: &[u8]) -> anyhow::Result<String> {
    let first = *bytes.first().context("an error about nothing")?;
    let (from, to, number, header): (IpAddr, IpAddr, u8, usize) = if first >> 4 == 4 {
        let bytes: [u8; 20] = bytes.get(..20).context("a short header")?.try_into()?;
        let octets = |at: usize| [bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]];
        (octets(12).into(), octets(16).into(), bytes[9], usize::from(first & 0x0f) * 4)
    } else {
        let octets = |at: usize| -> anyhow::Result<[u8; 16]> {
            Ok(bytes.get(at..at + 16).context("a short header")?.try_into()?)
        };
        (octets(8)?.into(), octets(24)?.into(), bytes[6], 40)
    };
    let port = |at: usize| {
        bytes.get(header + at..header + at + 2).map_or(0, |port| u16::from_be_bytes([port[0], port[1]]))
    };
    Ok(format!("{number} {} > {}", SocketAddr::new(from, port(0)), SocketAddr::new(to, port(2))))
}
