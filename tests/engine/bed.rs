//! A director on a bench: virtual time, packets built by an independent library.

use super::crc32c::crc32c;
use etherparse::{IpNumber, PacketBuilder, SlicedPacket, TransportSlice};
use nfvs::director::packet::Transport;
use nfvs::director::scheduler::SchedulerKind;
use nfvs::director::service::{
    Family, ForwardMethod, Fwmark, RealServer, ServiceKey, ServiceSettings, Tunables, Weight,
};
use nfvs::director::{
    Command, Director, Hook, Limits, PacketMeta, ReplySource, Route, ServerSpec, ServiceSpec, Time, Verdict,
};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

pub(crate) const SYN: u8 = 0x02;
pub(crate) const ACK: u8 = 0x10;
pub(crate) const FIN: u8 = 0x01;
pub(crate) const RST: u8 = 0x04;

pub(crate) const INIT: u8 = 1;
pub(crate) const INIT_ACK: u8 = 2;

pub(crate) struct Bed {
    pub director: Director,
    pub now: Time,
}

impl Bed {
    pub(crate) fn new() -> Bed {
        Bed::with_limit(1 << 16)
    }

    pub(crate) fn with_limit(max_connections: usize) -> Bed {
        Bed { director: Director::new(Limits { max_connections }, 7), now: Time::from_millis(1_000_000) }
    }

    /// A bed with one service.
    pub(crate) fn serving(protocol: Transport, address: &str, kind: SchedulerKind, servers: &[&str]) -> Bed {
        let bed = Bed::new();
        bed.add(protocol, address, kind, servers);
        bed
    }

    pub(crate) fn add(
        &self,
        transport: Transport,
        address: &str,
        scheduler: SchedulerKind,
        servers: &[&str],
    ) {
        self.add_with(transport, address, scheduler, ServiceSettings::default(), servers);
    }

    pub(crate) fn add_with(
        &self,
        transport: Transport,
        address: &str,
        scheduler: SchedulerKind,
        settings: ServiceSettings,
        servers: &[&str],
    ) {
        self.add_service(key(transport, address), scheduler, settings, servers);
    }

    pub(crate) fn add_service(
        &self,
        key: ServiceKey,
        scheduler: SchedulerKind,
        settings: ServiceSettings,
        servers: &[&str],
    ) {
        let name = key.to_string();
        let servers = servers.iter().map(|address| server(address, 1)).collect();
        self.director
            .apply(&[Command::AddService(ServiceSpec { key, name, scheduler, settings, servers })])
            .unwrap();
    }

    /// A bed with one service of these servers.
    pub(crate) fn serving_specs(
        transport: Transport,
        address: &str,
        scheduler: SchedulerKind,
        servers: Vec<ServerSpec>,
    ) -> Bed {
        let bed = Bed::new();
        bed.add_specs(transport, address, scheduler, ServiceSettings::default(), servers);
        bed
    }

    pub(crate) fn add_specs(
        &self,
        transport: Transport,
        address: &str,
        scheduler: SchedulerKind,
        settings: ServiceSettings,
        servers: Vec<ServerSpec>,
    ) {
        let key = key(transport, address);
        let spec = ServiceSpec { key, name: key.to_string(), scheduler, settings, servers };
        self.director.apply(&[Command::AddService(spec)]).unwrap();
    }

    pub(crate) fn tune(&self, tunables: Tunables) {
        self.director.apply(&[Command::SetTunables(tunables)]).unwrap();
    }

    pub(crate) fn add_service_specs(
        &self,
        key: ServiceKey,
        scheduler: SchedulerKind,
        servers: Vec<ServerSpec>,
    ) {
        let (name, settings) = (key.to_string(), ServiceSettings::default());
        let spec = ServiceSpec { key, name, scheduler, settings, servers };
        self.director.apply(&[Command::AddService(spec)]).unwrap();
    }

    pub(crate) fn pass(&mut self, seconds: u64) {
        self.now = self.now + Duration::from_secs(seconds);
        self.director.handle_timeout(self.now);
        self.director.maintain_schedulers(self.now);
    }

    /// Handles a packet, and checks that a rewritten one has right checksums.
    pub(crate) fn handle(&self, bytes: &mut [u8]) -> Verdict {
        self.handle_at(Hook::Prerouting, None, bytes)
    }

    /// The same of a packet that met nfvs at this hook, with an operator's mark.
    pub(crate) fn handle_at(&self, hook: Hook, mark: Option<Fwmark>, bytes: &mut [u8]) -> Verdict {
        let original_len = bytes.len();
        let meta = PacketMeta { hook, checksum_owed: false, gso: false, original_len, mark };
        self.handle_as(&meta, bytes)
    }

    /// The same of a packet of which the kernel says this.
    pub(crate) fn handle_as(&self, meta: &PacketMeta, bytes: &mut [u8]) -> Verdict {
        let verdict = self.director.handle_packet(self.now, meta, bytes);
        if let Verdict::Forward { rewritten: Some(_), .. } = verdict {
            assert_right_checksums(bytes);
        }
        verdict
    }

    /// The same of a packet that may get another length: what it is afterwards.
    pub(crate) fn handle_resizing(&self, meta: &PacketMeta, mut bytes: Vec<u8>) -> (Verdict, Vec<u8>) {
        match self.director.handle_packet(self.now, meta, &mut bytes) {
            Verdict::Forward { rewritten: Some(rewritten), source } => {
                let bytes = rewritten.into_resized().unwrap_or(bytes);
                assert_right_checksums(&bytes);
                (Verdict::Forward { rewritten: None, source }, bytes)
            }
            verdict => (verdict, bytes),
        }
    }

    /// Handles a packet that met nfvs at this hook, whatever its checksums are.
    pub(crate) fn handle_any(&self, hook: Hook, bytes: &mut [u8]) -> Verdict {
        let original_len = bytes.len();
        let meta = PacketMeta { hook, checksum_owed: false, gso: false, original_len, mark: None };
        self.director.handle_packet(self.now, &meta, bytes)
    }

    /// A TCP segment from `from` to `to`; where it went.
    pub(crate) fn tcp(&self, from: &str, to: &str, flags: u8) -> Outcome {
        let mut bytes = tcp(from, to, flags, b"");
        let verdict = self.handle(&mut bytes);
        Outcome::new(verdict, &bytes)
    }

    /// The same with an operator's mark.
    pub(crate) fn marked_tcp(&self, mark: u16, from: &str, to: &str, flags: u8) -> Outcome {
        let mut bytes = tcp(from, to, flags, b"");
        let verdict = self.handle_at(Hook::Prerouting, Fwmark::new(mark), &mut bytes);
        Outcome::new(verdict, &bytes)
    }

    pub(crate) fn marked_udp(&self, mark: u16, from: &str, to: &str) -> Outcome {
        let mut bytes = udp(from, to, b"question");
        let verdict = self.handle_at(Hook::Prerouting, Fwmark::new(mark), &mut bytes);
        Outcome::new(verdict, &bytes)
    }

    pub(crate) fn udp(&self, from: &str, to: &str) -> Outcome {
        let mut bytes = udp(from, to, b"question");
        let verdict = self.handle(&mut bytes);
        Outcome::new(verdict, &bytes)
    }

    /// A datagram that says something in particular.
    pub(crate) fn say(&self, from: &str, to: &str, payload: &[u8]) -> Outcome {
        let mut bytes = udp(from, to, payload);
        let verdict = self.handle(&mut bytes);
        Outcome::new(verdict, &bytes)
    }

    pub(crate) fn marked_sctp(&self, mark: u16, from: &str, to: &str, chunk: u8) -> Outcome {
        let mut bytes = sctp(from, to, chunk);
        let verdict = self.handle_at(Hook::Prerouting, Fwmark::new(mark), &mut bytes);
        Outcome::new(verdict, &bytes)
    }

    /// An SCTP packet of one chunk.
    pub(crate) fn sctp(&self, from: &str, to: &str, chunk: u8) -> Outcome {
        let mut bytes = sctp(from, to, chunk);
        let verdict = self.handle(&mut bytes);
        Outcome::new(verdict, &bytes)
    }

    pub(crate) fn states(&self) -> Vec<String> {
        let mut all: Vec<String> = self
            .director
            .connections(self.now)
            .flatten()
            .map(|c| {
                format!(
                    "{} {} -> {} -> {} {} {} {}",
                    c.transport,
                    c.client,
                    c.virtual_address,
                    c.server,
                    c.state,
                    c.expires.as_secs(),
                    c.flags
                )
            })
            .collect();
        all.sort();
        all
    }

    pub(crate) fn templates(&self) -> Vec<String> {
        let mut all: Vec<String> = self
            .director
            .templates(self.now)
            .flatten()
            .map(|t| {
                let protocol = t.transport.map_or_else(|| "ip".to_owned(), |transport| transport.to_string());
                format!(
                    "{protocol} {} -> {} -> {} {} {} {}",
                    t.clients,
                    t.virtual_address,
                    t.server,
                    t.state(),
                    t.expires.as_secs(),
                    t.flags
                )
            })
            .collect();
        all.sort();
        all
    }

    /// A server of a service, which must have it.
    pub(crate) fn real_server(&self, service: ServiceKey, address: &str) -> Arc<RealServer> {
        let services = self.director.services();
        let service = services.get(&service).unwrap();
        Arc::clone(&service.servers[service.position(address.parse().unwrap()).unwrap()])
    }
}

/// What became of a packet, with the endpoints it has afterwards.
#[derive(Debug, PartialEq)]
pub(crate) struct Outcome {
    pub verdict: Verdict,
    pub from: SocketAddr,
    pub to: SocketAddr,
}

impl Outcome {
    fn new(verdict: Verdict, bytes: &[u8]) -> Outcome {
        let (from, to) = endpoints(bytes);
        Outcome { verdict, from, to }
    }

    /// Where the packet was forwarded to.
    #[track_caller]
    pub(crate) fn destination(&self) -> String {
        assert!(matches!(self.verdict, Verdict::Forward { .. }), "{:?}", self.verdict);
        self.to.to_string()
    }

    /// What else the verdict says, if the packet was forwarded.
    pub(crate) fn verdict_source(&self) -> Option<ReplySource> {
        match self.verdict {
            Verdict::Forward { source, .. } => source,
            _ => None,
        }
    }

    /// The route of a packet that is sent on as it is.
    #[track_caller]
    pub(crate) fn route(&self) -> Route {
        let Verdict::Route(route) = self.verdict else { panic!("not routed: {:?}", self.verdict) };
        route
    }

    /// What the kernel is told to write as its source.
    #[track_caller]
    pub(crate) fn source(&self) -> ReplySource {
        let Verdict::Forward { source: Some(source), .. } = self.verdict else {
            panic!("not a reply: {:?}", self.verdict)
        };
        source
    }
}

pub(crate) fn key(transport: Transport, address: &str) -> ServiceKey {
    let address: SocketAddr = address.parse().unwrap();
    ServiceKey::Endpoint { transport, address: address.ip(), port: address.port() }
}

pub(crate) fn marked(mark: u16, family: Family) -> ServiceKey {
    ServiceKey::Mark { mark: Fwmark::new(mark).unwrap(), family }
}

pub(crate) fn server(address: &str, weight: u32) -> ServerSpec {
    ServerSpec {
        address: address.parse().unwrap(),
        weight: Weight::new(weight).unwrap(),
        forward: ForwardMethod::Nat,
        tunnel: Default::default(),
        thresholds: Default::default(),
    }
}

/// A server reached by direct routing.
pub(crate) fn routed(address: &str) -> ServerSpec {
    ServerSpec { forward: ForwardMethod::Dr, ..server(address, 1) }
}

pub(crate) fn tcp(from: &str, to: &str, flags: u8, payload: &[u8]) -> Vec<u8> {
    let (from, to): (SocketAddr, SocketAddr) = (from.parse().unwrap(), to.parse().unwrap());
    let mut header = etherparse::TcpHeader::new(from.port(), to.port(), 1000, 4096);
    header.syn = flags & SYN != 0;
    header.ack = flags & ACK != 0;
    header.fin = flags & FIN != 0;
    header.rst = flags & RST != 0;
    header.psh = flags & 0x08 != 0;
    let mut bytes = Vec::new();
    ip(from.ip(), to.ip()).tcp_header(header).write(&mut bytes, payload).unwrap();
    bytes
}

pub(crate) fn udp(from: &str, to: &str, payload: &[u8]) -> Vec<u8> {
    let (from, to): (SocketAddr, SocketAddr) = (from.parse().unwrap(), to.parse().unwrap());
    let mut bytes = Vec::new();
    ip(from.ip(), to.ip()).udp(from.port(), to.port()).write(&mut bytes, payload).unwrap();
    bytes
}

/// An SCTP packet of one chunk of four bytes.
pub(crate) fn sctp(from: &str, to: &str, chunk: u8) -> Vec<u8> {
    let (from, to): (SocketAddr, SocketAddr) = (from.parse().unwrap(), to.parse().unwrap());
    let mut packet = [&from.port().to_be_bytes()[..], &to.port().to_be_bytes(), b"vtag", &[0; 4]].concat();
    packet.extend([chunk, 0, 0, 8, 0, 0, 0, 1]);
    let crc = crc32c(&packet);
    packet[8..12].copy_from_slice(&crc);
    raw(from.ip(), to.ip(), IpNumber::SCTP, &packet)
}

/// A packet of a protocol that the library does not build.
pub(crate) fn raw(from: IpAddr, to: IpAddr, protocol: IpNumber, payload: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    ip(from, to).write(&mut bytes, protocol, payload).unwrap();
    bytes
}

/// An ICMP destination-unreachable from `from` to `to` about the packet `about`.
pub(crate) fn unreachable(from: &str, to: &str, about: &[u8]) -> Vec<u8> {
    let (kind, code) = if from.contains(':') { (1, 4) } else { (3, 3) };
    icmp(from, to, kind, code, 0, about)
}

/// An ICMP (ICMPv6) error with this type, code and number about the packet `about`.
pub(crate) fn icmp(from: &str, to: &str, kind: u8, code: u8, number: u32, about: &[u8]) -> Vec<u8> {
    let (from, to): (IpAddr, IpAddr) = (from.parse().unwrap(), to.parse().unwrap());
    let (number, mut bytes) = (number.to_be_bytes(), Vec::new());
    match from {
        IpAddr::V4(_) => ip(from, to).icmpv4_raw(kind, code, number).write(&mut bytes, about).unwrap(),
        IpAddr::V6(_) => ip(from, to).icmpv6_raw(kind, code, number).write(&mut bytes, about).unwrap(),
    }
    bytes
}

pub(crate) fn ip(from: IpAddr, to: IpAddr) -> etherparse::PacketBuilderStep<etherparse::IpHeaders> {
    match (from, to) {
        (IpAddr::V4(from), IpAddr::V4(to)) => PacketBuilder::ipv4(from.octets(), to.octets(), 64),
        (IpAddr::V6(from), IpAddr::V6(to)) => PacketBuilder::ipv6(from.octets(), to.octets(), 64),
        _ => panic!("addresses of two families"),
    }
}

pub(crate) fn endpoints(bytes: &[u8]) -> (SocketAddr, SocketAddr) {
    let sliced = SlicedPacket::from_ip(bytes).unwrap();
    let (from, to) = addresses(&sliced);
    let (source, destination) = match sliced.transport {
        Some(TransportSlice::Tcp(tcp)) => (tcp.source_port(), tcp.destination_port()),
        Some(TransportSlice::Udp(udp)) => (udp.source_port(), udp.destination_port()),
        None if sctp_payload(&sliced).is_some() => {
            let header = sctp_payload(&sliced).unwrap();
            let port = |at: usize| u16::from_be_bytes([header[at], header[at + 1]]);
            (port(0), port(2))
        }
        _ => (0, 0),
    };
    (SocketAddr::new(from, source), SocketAddr::new(to, destination))
}

pub(crate) fn icmp_payload(bytes: &[u8]) -> &[u8] {
    match SlicedPacket::from_ip(bytes).unwrap().transport {
        Some(TransportSlice::Icmpv4(icmp)) => &bytes[bytes.len() - icmp.payload().len()..],
        Some(TransportSlice::Icmpv6(icmp)) => &bytes[bytes.len() - icmp.payload().len()..],
        other => panic!("not ICMP: {other:?}"),
    }
}

fn sctp_payload<'a>(sliced: &SlicedPacket<'a>) -> Option<&'a [u8]> {
    sliced.ip_payload().filter(|payload| payload.ip_number == IpNumber::SCTP).map(|payload| payload.payload)
}

fn addresses(sliced: &SlicedPacket<'_>) -> (IpAddr, IpAddr) {
    match sliced.net.as_ref().unwrap() {
        etherparse::NetSlice::Ipv4(v4) => {
            (v4.header().source_addr().into(), v4.header().destination_addr().into())
        }
        etherparse::NetSlice::Ipv6(v6) => {
            (v6.header().source_addr().into(), v6.header().destination_addr().into())
        }
        other => panic!("{other:?}"),
    }
}

/// Recomputes every checksum with the independent library.
#[track_caller]
pub(crate) fn assert_right_checksums(bytes: &[u8]) {
    let sliced = SlicedPacket::from_ip(bytes).unwrap();
    let (from, to) = addresses(&sliced);
    if let Some(etherparse::NetSlice::Ipv4(v4)) = &sliced.net {
        assert_eq!(v4.header().to_header().calc_header_checksum(), v4.header().header_checksum());
    }
    if sliced.transport.is_none() {
        if let Some(packet) = sctp_payload(&sliced) {
            let mut unsummed = packet.to_vec();
            unsummed[8..12].fill(0);
            assert_eq!(packet[8..12], crc32c(&unsummed), "CRC of {bytes:02x?}");
        }
        // AH and ESP have none.
        return;
    }
    let (found, right) = match (sliced.transport.unwrap(), from, to) {
        (TransportSlice::Tcp(tcp), IpAddr::V4(from), IpAddr::V4(to)) => {
            (tcp.checksum(), tcp.calc_checksum_ipv4(from.octets(), to.octets()).unwrap())
        }
        (TransportSlice::Tcp(tcp), IpAddr::V6(from), IpAddr::V6(to)) => {
            (tcp.checksum(), tcp.calc_checksum_ipv6(from.octets(), to.octets()).unwrap())
        }
        (TransportSlice::Udp(udp), IpAddr::V4(from), IpAddr::V4(to)) => (
            udp.checksum(),
            udp.to_header().calc_checksum_ipv4_raw(from.octets(), to.octets(), udp.payload()).unwrap(),
        ),
        (TransportSlice::Udp(udp), IpAddr::V6(from), IpAddr::V6(to)) => (
            udp.checksum(),
            udp.to_header().calc_checksum_ipv6_raw(from.octets(), to.octets(), udp.payload()).unwrap(),
        ),
        (TransportSlice::Icmpv4(icmp), ..) => {
            let header = icmp.header();
            (icmp.checksum(), header.icmp_type.calc_checksum(icmp.payload()))
        }
        (TransportSlice::Icmpv6(icmp), ..) => {
            assert!(icmp.is_checksum_valid(octets(from), octets(to)));
            return;
        }
        other => panic!("{other:?}"),
    };
    assert_eq!(found, right, "checksum of {bytes:02x?}");
}

fn octets(address: IpAddr) -> [u8; 16] {
    match address {
        IpAddr::V6(address) => address.octets(),
        IpAddr::V4(_) => panic!("not IPv6"),
    }
}
