//! Parsing and rewriting against an independent builder.
//!
//! Every packet is built by etherparse, rewritten, and compared byte for byte with the packet that etherparse builds
//! with the new endpoints. Then bytes that nobody would build are thrown at the same functions.

use std::net::{IpAddr, SocketAddr};
use std::ops::Range;

#[path = "../nft-rules/tests/common/crc32c.rs"]
mod crc32c;

use crc32c::crc32c;
use etherparse::*;
use nfvs::director::packet::{
    IcmpErrorInfo, IcmpRewrite, Packet, Parsed, Rewrite, SctpChunks, Signal, TcpFlags, Transport,
};
use nfvs::director::{DropReason, Hook, PacketMeta};
use proptest::prelude::*;
use proptest::sample::select;

/// What both the packet and its rewritten twin have in common.
#[derive(Clone, Debug)]
struct Shape {
    transport: Transport,
    tcp_flags: u8,
    tcp_options: Vec<u8>,
    ipv4_options: Vec<u8>,
    ipv6_extensions: Ipv6Extensions,
    payload: Vec<u8>,
}

impl Shape {
    fn build(&self, source: SocketAddr, destination: SocketAddr) -> Vec<u8> {
        let ip = PacketBuilder::ip(self.ip(source.ip(), destination.ip()));
        let mut bytes = Vec::new();
        match self.transport {
            Transport::Tcp => {
                let mut tcp = TcpHeader::new(source.port(), destination.port(), 0x0102_0304, 512);
                tcp.syn = self.tcp_flags & 0x02 != 0;
                tcp.ack = self.tcp_flags & 0x10 != 0;
                tcp.fin = self.tcp_flags & 0x01 != 0;
                tcp.rst = self.tcp_flags & 0x04 != 0;
                tcp.set_options_raw(&self.tcp_options).unwrap();
                ip.tcp_header(tcp).write(&mut bytes, &self.payload).unwrap();
            }
            Transport::Udp => {
                ip.udp(source.port(), destination.port()).write(&mut bytes, &self.payload).unwrap();
            }
            Transport::Sctp => {
                let packet = build_sctp(source.port(), destination.port(), &self.payload);
                ip.write(&mut bytes, ip_number::SCTP, &packet).unwrap();
            }
        }
        bytes
    }

    fn ip(&self, source: IpAddr, destination: IpAddr) -> IpHeaders {
        match (source, destination) {
            (IpAddr::V4(source), IpAddr::V4(destination)) => {
                let mut header =
                    Ipv4Header::new(0, 64, ip_number::TCP, source.octets(), destination.octets()).unwrap();
                header.options = self.ipv4_options.as_slice().try_into().unwrap();
                IpHeaders::Ipv4(header, Ipv4Extensions::default())
            }
            (IpAddr::V6(source), IpAddr::V6(destination)) => {
                let header = Ipv6Header {
                    hop_limit: 64,
                    source: source.octets(),
                    destination: destination.octets(),
                    ..Ipv6Header::default()
                };
                IpHeaders::Ipv6(header, self.ipv6_extensions.clone())
            }
            _ => panic!("two families in one packet"),
        }
    }

    fn transport_offset(&self, bytes: &[u8]) -> usize {
        match bytes[0] >> 4 {
            4 => 20 + self.ipv4_options.len(),
            _ => 40 + self.ipv6_extensions.header_len(),
        }
    }

    fn checksum_field(&self, bytes: &[u8]) -> Range<usize> {
        let (offset, len) = match self.transport {
            Transport::Tcp => (16, 2),
            Transport::Udp => (6, 2),
            Transport::Sctp => (8, 4),
        };
        let start = self.transport_offset(bytes) + offset;
        start..start + len
    }

    fn signal(&self) -> Signal {
        match self.transport {
            Transport::Tcp => Signal::Tcp(TcpFlags(self.tcp_flags)),
            Transport::Udp => Signal::Udp,
            Transport::Sctp => Signal::Sctp(SctpChunks { first: 10, second: Some(0) }),
        }
    }
}

/// A packet of two chunks: a cookie of `payload`, and data.
fn build_sctp(source: u16, destination: u16, payload: &[u8]) -> Vec<u8> {
    let mut packet = [&source.to_be_bytes()[..], &destination.to_be_bytes(), b"vtag", &[0; 4]].concat();
    packet.extend([10, 0]);
    packet.extend((4 + payload.len() as u16).to_be_bytes());
    packet.extend(payload);
    packet.resize(packet.len().next_multiple_of(4), 0);
    packet.extend([0, 3, 0, 17, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, b'!', 0, 0, 0]);
    let crc = crc32c(&packet);
    packet[8..12].copy_from_slice(&crc);
    packet
}

/// A header without a transport behind it yet: the complaint, then what it is about.
fn build_icmp_error(source: IpAddr, destination: IpAddr, icmp_type: u8, embedded: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    match (source, destination) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => {
            let ip = PacketBuilder::ipv4(source.octets(), destination.octets(), 64);
            ip.icmpv4_raw(icmp_type, 1, [0, 0, 5, 0]).write(&mut bytes, embedded).unwrap();
        }
        (IpAddr::V6(source), IpAddr::V6(destination)) => {
            let ip = PacketBuilder::ipv6(source.octets(), destination.octets(), 64);
            ip.icmpv6_raw(icmp_type, 1, [0, 0, 5, 0]).write(&mut bytes, embedded).unwrap();
        }
        _ => panic!("two families in one packet"),
    }
    bytes
}

fn meta(bytes: &[u8], checksum_owed: bool) -> PacketMeta {
    PacketMeta { hook: Hook::Prerouting, checksum_owed, gso: false, original_len: bytes.len(), mark: None }
}

fn icmp_error(packet: &Packet<'_>) -> IcmpErrorInfo {
    match packet.parse() {
        Ok(Parsed::IcmpError(error)) => error,
        other => panic!("not an ICMP error: {other:?}"),
    }
}

/// Parses `bytes`, checks that they say what they were built from, and rewrites them.
fn rewrite(bytes: &mut [u8], owed: bool, shape: &Shape, from: &Endpoints, rewrite: Rewrite) {
    let meta = meta(bytes, owed);
    let len = bytes.len();
    let mut packet = Packet::new(bytes, &meta);
    let flow = match packet.parse() {
        Ok(Parsed::Flow(flow)) => flow,
        other => panic!("not a flow: {other:?}"),
    };
    assert_eq!(
        (flow.transport, flow.source, flow.destination),
        (shape.transport, from.source, from.destination)
    );
    assert_eq!(flow.len, len);
    assert_eq!(flow.signal, shape.signal());
    packet.rewrite(&flow, rewrite).unwrap();
}

#[derive(Clone, Debug)]
struct Endpoints {
    source: SocketAddr,
    destination: SocketAddr,
}

/// Addresses and ports with the bits that upset one's complement sums among them.
fn endpoint(v6: bool) -> impl Strategy<Value = SocketAddr> {
    let port = prop_oneof![any::<u16>(), select(vec![0, 1, 0xfffe, 0xffff])];
    let v4 = prop_oneof![any::<[u8; 4]>(), Just([0; 4]), Just([0xff; 4])].prop_map(IpAddr::from);
    let address = if v6 {
        prop_oneof![any::<[u8; 16]>(), Just([0; 16]), Just([0xff; 16])].prop_map(IpAddr::from).boxed()
    } else {
        v4.boxed()
    };
    (address, port).prop_map(SocketAddr::from)
}

fn endpoints(v6: bool) -> impl Strategy<Value = Endpoints> {
    (endpoint(v6), endpoint(v6)).prop_map(|(source, destination)| Endpoints { source, destination })
}

/// Options, routing header used up, a fragment header on the whole packet, authentication: each there or not.
fn extensions() -> impl Strategy<Value = Ipv6Extensions> {
    // Type 4 and no segments left when read as a routing header; harmless padding when read as options.
    let raw = || {
        (0..3usize).prop_map(|units| {
            let mut payload = vec![4, 0, 0, 0, 0, 0];
            payload.resize(6 + units * 8, 0);
            Ipv6RawExtHeader::new_raw(ip_number::UDP, &payload).unwrap()
        })
    };
    let routing = (raw(), prop::option::of(raw())).prop_map(|(routing, final_destination_options)| {
        Ipv6RoutingExtensions { routing, final_destination_options }
    });
    let fragment = any::<u32>()
        .prop_map(|id| Ipv6FragmentHeader::new(ip_number::UDP, IpFragOffset::try_new(0).unwrap(), false, id));
    let auth = (0..4usize).prop_map(|words| {
        // 12 + 4 + 8 * words bytes: a multiple of eight.
        IpAuthHeader::new(ip_number::UDP, 256, 1, &vec![0xa5; 4 + 8 * words]).unwrap()
    });
    let maybe = prop::option::of::<BoxedStrategy<Ipv6RawExtHeader>>;
    let parts = (
        maybe(raw().boxed()),
        maybe(raw().boxed()),
        prop::option::of(routing),
        prop::option::of(fragment),
        prop::option::of(auth),
    );
    parts.prop_map(|(hop_by_hop_options, destination_options, routing, fragment, auth)| Ipv6Extensions {
        hop_by_hop_options,
        destination_options,
        routing,
        fragment,
        auth,
    })
}

prop_compose! {
    fn shape()(
        transport in select(vec![Transport::Tcp, Transport::Udp, Transport::Sctp]),
        tcp_flags in any::<u8>().prop_map(|bits| bits & 0x17),
        tcp_options in (0..=10usize).prop_map(|words| vec![1; words * 4]),
        ipv4_options in (0..=10usize).prop_map(|words| vec![1; words * 4]),
        ipv6_extensions in extensions(),
        payload in prop_oneof![
            prop::collection::vec(any::<u8>(), 0..64),
            prop::collection::vec(any::<u8>(), 1400..1460),
        ],
    ) -> Shape {
        Shape { transport, tcp_flags, tcp_options, ipv4_options, ipv6_extensions, payload }
    }
}

/// A packet, and where it goes instead.
fn journey() -> impl Strategy<Value = (Shape, Endpoints, Endpoints)> {
    any::<bool>().prop_flat_map(|v6| (shape(), endpoints(v6), endpoints(v6)))
}

/// [`Rewrite`] to `to`, or to as much of it as is asked for, and the endpoints that come of it.
fn partly(from: &Endpoints, to: &Endpoints, source: bool, destination: bool) -> (Rewrite, Endpoints) {
    let rewrite =
        Rewrite { source: source.then_some(to.source), destination: destination.then_some(to.destination) };
    let result = Endpoints {
        source: rewrite.source.unwrap_or(from.source),
        destination: rewrite.destination.unwrap_or(from.destination),
    };
    (rewrite, result)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4_000))]

    #[test]
    fn a_rewritten_packet_is_the_one_built_with_the_new_endpoints(
        (shape, from, to) in journey(), source: bool, destination: bool,
    ) {
        let (change, result) = partly(&from, &to, source, destination);
        let mut bytes = shape.build(from.source, from.destination);
        rewrite(&mut bytes, false, &shape, &from, change);
        prop_assert_eq!(bytes, shape.build(result.source, result.destination));
    }

    #[test]
    fn so_it_is_if_the_checksum_was_owed(
        (shape, from, to) in journey(), source: bool, destination: bool, partial: [u8; 4],
    ) {
        let (change, result) = partly(&from, &to, source, destination);
        let mut bytes = shape.build(from.source, from.destination);
        let field = shape.checksum_field(&bytes);
        bytes[field.clone()].copy_from_slice(&partial[..field.len()]);
        rewrite(&mut bytes, true, &shape, &from, change);
        prop_assert_eq!(bytes, shape.build(result.source, result.destination));
    }

    #[test]
    fn damage_done_on_the_way_is_not_repaired((mut shape, from, to) in journey(), byte: u8, flip in 1..=255u8) {
        shape.payload.push(byte);
        let mut bytes = shape.build(from.source, from.destination);
        let last = bytes.len() - 1;
        bytes[last] ^= flip;
        rewrite(&mut bytes, false, &shape, &from, partly(&from, &to, true, true).0);
        bytes[last] ^= flip;
        prop_assert_eq!(bytes, shape.build(to.source, to.destination));
    }

    #[test]
    fn a_rewritten_icmp_error_is_the_one_built_with_the_new_endpoints(
        (shape, from, to) in journey(),
        (complainer, listener, icmp_type, cut, what, owed) in
            (any::<[u16; 2]>(), any::<[u16; 2]>(), 0..4usize, 8..600usize, any::<[bool; 4]>(), any::<bool>()),
    ) {
        let v6 = from.source.is_ipv6();
        let icmp_type = if v6 { [1, 2, 3, 4] } else { [3, 4, 11, 12] }[icmp_type];
        let address = |[a, b]: [u16; 2]| if v6 {
            IpAddr::from([a, b, 0, 0, 0, 0, b, a])
        } else {
            IpAddr::from((u32::from(a) << 16 | u32::from(b)).to_be_bytes())
        };
        let (source, destination) = (address(complainer), address(listener));
        let (change, result) = partly(&from, &to, what[0], what[1]);

        let about = shape.build(from.source, from.destination);
        let cut = about.len().min(shape.transport_offset(&about) + cut);
        let mut bytes = build_icmp_error(source, destination, icmp_type, &about[..cut]);
        if owed {
            let at = bytes.len() - cut - 6;
            bytes[at..at + 2].fill(0x5a);
        }
        let meta = meta(&bytes, owed);
        let mut packet = Packet::new(&mut bytes, &meta);
        let error = icmp_error(&packet);
        prop_assert_eq!((error.source, error.destination), (source, destination));
        prop_assert_eq!((error.embedded_source, error.embedded_destination), (from.source, from.destination));
        prop_assert_eq!(error.embedded_transport, shape.transport);
        let new = IcmpRewrite {
            source: what[2].then_some(to.source.ip()),
            destination: what[3].then_some(to.destination.ip()),
            embedded_source: change.source,
            embedded_destination: change.destination,
        };
        packet.rewrite_icmp_error(&error, new).unwrap();

        // The embedded transport checksum is the one thing that stays.
        let mut expected = shape.build(result.source, result.destination);
        let field = shape.checksum_field(&about);
        expected[field.clone()].copy_from_slice(&about[field]);
        let (source, destination) = (new.source.unwrap_or(source), new.destination.unwrap_or(destination));
        prop_assert_eq!(bytes, build_icmp_error(source, destination, icmp_type, &expected[..cut]));
    }
}

/// The wrong sum of an embedded IPv4 header is carried on, and the ICMP checksum stands for what is there.
#[test]
fn an_embedded_header_keeps_its_wrong_checksum_wrong() {
    let shape = plain(Transport::Udp);
    let [vip, server, client] = v4();
    let mut about = shape.build(vip, client);
    about[10] ^= 0x40;
    let mut bytes = build_icmp_error(client.ip(), vip.ip(), 3, &about);
    let meta = meta(&bytes, false);
    let mut packet = Packet::new(&mut bytes, &meta);
    let error = icmp_error(&packet);
    let to_server = IcmpRewrite {
        destination: Some(server.ip()),
        embedded_source: Some(server),
        ..IcmpRewrite::default()
    };
    packet.rewrite_icmp_error(&error, to_server).unwrap();

    let header = Ipv4Header::from_slice(&bytes[28..]).unwrap().0;
    assert_ne!(header.header_checksum, header.calc_header_checksum());
    let (outer, message) = Ipv4Header::from_slice(&bytes).unwrap();
    assert_eq!(outer.header_checksum, outer.calc_header_checksum());
    // Not `Icmpv4Type::calc_checksum`: it takes the unused bytes of an unreachable message for zeros, whereas RFC 792
    // sums the whole message.
    assert_eq!(checksum::Sum16BitWords::new().add_slice(message).ones_complement(), 0);
}

/// An error about a reply, to the virtual address: `ip_vs_in_icmp`. Then one about a request, from a router behind
/// us: `ip_vs_out_icmp`, with the outer source left to the kernel.
#[test]
fn errors_are_translated_in_both_directions() {
    for [vip, server, client] in [v4(), v6()] {
        let shape = plain(Transport::Tcp);
        let icmp_type = if vip.is_ipv6() { 1 } else { 3 };
        let built = |embedded: Vec<u8>, original: &[u8]| {
            let mut embedded = embedded;
            let field = shape.checksum_field(&embedded);
            embedded[field.clone()].copy_from_slice(&original[field]);
            embedded
        };

        let reply = shape.build(vip, client);
        let mut bytes = build_icmp_error(client.ip(), vip.ip(), icmp_type, &reply);
        let known = meta(&bytes, false);
        let mut packet = Packet::new(&mut bytes, &known);
        let error = icmp_error(&packet);
        let inbound = IcmpRewrite {
            destination: Some(server.ip()),
            embedded_source: Some(server),
            ..IcmpRewrite::default()
        };
        packet.rewrite_icmp_error(&error, inbound).unwrap();
        let expected = built(shape.build(server, client), &reply);
        assert_eq!(bytes, build_icmp_error(client.ip(), server.ip(), icmp_type, &expected));

        let request = shape.build(client, server);
        let mut bytes = build_icmp_error(server.ip(), client.ip(), icmp_type, &request);
        let known = meta(&bytes, false);
        let mut packet = Packet::new(&mut bytes, &known);
        let error = icmp_error(&packet);
        let outbound = IcmpRewrite { embedded_destination: Some(vip), ..IcmpRewrite::default() };
        packet.rewrite_icmp_error(&error, outbound).unwrap();
        let expected = built(shape.build(client, vip), &request);
        assert_eq!(bytes, build_icmp_error(server.ip(), client.ip(), icmp_type, &expected));
    }
}

/// The payload is chosen so that the checksum comes out as zero, on either side of a rewrite: TCP says 0, UDP says
/// 0xffff, and neither may ever say the other (RFC 1624, section 3; RFC 768).
#[test]
fn a_checksum_of_zero_is_written_as_the_protocol_writes_it() {
    for [vip, server, client] in [v4(), v6()] {
        for (transport, zero) in [(Transport::Tcp, [0, 0]), (Transport::Udp, [0xff, 0xff])] {
            let mut shape = plain(transport);
            shape.payload = vec![0, 0];
            let sum = shape.build(client, server);
            let at = shape.checksum_field(&sum).start;
            shape.payload = sum[at..at + 2].to_vec();
            let special = shape.build(client, server);
            assert_eq!(special[at..at + 2], zero, "etherparse and RFC agree on zero");

            for owed in [false, true] {
                let mut bytes = shape.build(client, vip);
                let endpoints = Endpoints { source: client, destination: vip };
                rewrite(
                    &mut bytes,
                    owed,
                    &shape,
                    &endpoints,
                    Rewrite { source: None, destination: Some(server) },
                );
                assert_eq!(bytes, special);

                let endpoints = Endpoints { source: client, destination: server };
                rewrite(
                    &mut bytes,
                    owed,
                    &shape,
                    &endpoints,
                    Rewrite { source: None, destination: Some(vip) },
                );
                assert_eq!(bytes, shape.build(client, vip));
            }
        }
    }
}

#[test]
fn the_largest_owed_packets_are_summed_whole() {
    let largest = [(Transport::Tcp, 65_495u32), (Transport::Sctp, 65_476)];
    let rows = largest.map(|(transport, len)| [v4(), v6()].map(|ends| (transport, len, ends)));
    for (transport, len, [vip, server, client]) in rows.into_iter().flatten() {
        let mut shape = plain(transport);
        shape.payload = (0..len).map(|i| (i.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
        let mut bytes = shape.build(client, vip);
        let field = shape.checksum_field(&bytes);
        bytes[field].fill(0x77);
        let from = Endpoints { source: client, destination: vip };
        rewrite(&mut bytes, true, &shape, &from, Rewrite { source: None, destination: Some(server) });
        assert_eq!(bytes, shape.build(client, server));
    }
}

/// Bytes for [`hostile`]: noise with a plausible version, or a well-formed packet with some bytes changed and the
/// end cut off.
fn hostile_bytes() -> impl Strategy<Value = (Vec<u8>, usize)> {
    let noise = (prop::collection::vec(any::<u8>(), 0..160), select(vec![0x45, 0x46, 0x60, 0x4f])).prop_map(
        |(mut bytes, version)| {
            if let Some(first) = bytes.first_mut() {
                *first = version;
            }
            bytes
        },
    );
    let packets: Vec<Vec<u8>> = [v4(), v6()]
        .iter()
        .flat_map(|[vip, server, client]| {
            let icmp_type = if vip.is_ipv6() { 1 } else { 3 };
            [Transport::Tcp, Transport::Udp, Transport::Sctp].into_iter().flat_map(move |transport| {
                let mut shape = plain(transport);
                let plain = shape.build(*client, *vip);
                let about = shape.build(*client, *server);
                shape.ipv4_options = vec![1; 8];
                let raw = Ipv6RawExtHeader::new_raw(ip_number::UDP, &[4, 0, 0, 0, 0, 0]).unwrap();
                shape.ipv6_extensions.hop_by_hop_options = Some(raw.clone());
                shape.ipv6_extensions.routing =
                    Some(Ipv6RoutingExtensions { routing: raw, final_destination_options: None });
                let error = build_icmp_error(server.ip(), client.ip(), icmp_type, &about);
                [plain, shape.build(*client, *vip), error]
            })
        })
        .collect();
    // Mostly in the headers, and mostly small numbers: lengths, flags and protocols.
    let value = prop_oneof![any::<u8>(), 0..12u8, select(vec![0, 6, 17, 43, 44, 51, 58, 60, 0xff])];
    let mutated = (select(packets), prop::collection::vec((0..120usize, value), 0..4), 0..200usize).prop_map(
        |(mut bytes, mutations, cut)| {
            for (at, value) in mutations {
                if let Some(byte) = bytes.get_mut(at) {
                    *byte = value;
                }
            }
            bytes.truncate(bytes.len().saturating_sub(cut.saturating_sub(150)));
            bytes
        },
    );
    (prop_oneof![1 => noise, 2 => mutated], prop_oneof![4 => Just(0), 1 => 0..40usize])
}

/// Parses and rewrites whatever comes; what is rewritten must parse as what it was rewritten to.
fn hostile(bytes: &mut [u8], missing: usize, owed: bool) {
    let pick = |present: IpAddr| if present.is_ipv4() { v4()[1] } else { v6()[1] };
    let meta = PacketMeta {
        hook: Hook::Output,
        checksum_owed: owed,
        gso: false,
        original_len: bytes.len() + missing,
        mark: None,
    };
    let mut packet = Packet::new(bytes, &meta);
    match packet.parse() {
        Ok(Parsed::Flow(flow)) => {
            let to = pick(flow.source.ip());
            let result = packet.rewrite(&flow, Rewrite { source: Some(to), destination: Some(to) });
            if missing > 0 {
                return assert_eq!(result, Err(DropReason::Truncated));
            }
            result.unwrap();
            let Ok(Parsed::Flow(after)) = packet.parse() else { panic!("a rewritten flow is a flow") };
            // AH and ESP have no port to write.
            let to = if flow.signal == Signal::Ipsec { SocketAddr::new(to.ip(), 500) } else { to };
            assert_eq!((after.source, after.destination), (to, to));
            assert_eq!((after.transport, after.signal, after.len), (flow.transport, flow.signal, flow.len));
        }
        Ok(Parsed::IcmpError(error)) => {
            let to = pick(error.source);
            let all = IcmpRewrite {
                source: Some(to.ip()),
                destination: Some(to.ip()),
                embedded_source: Some(to),
                embedded_destination: Some(to),
            };
            match packet.rewrite_icmp_error(&error, all) {
                Ok(_) => assert_eq!(missing, 0),
                Err(DropReason::Truncated) => return assert!(missing > 0),
                Err(reason) => return assert_eq!((reason, owed), (DropReason::BadChecksum, false)),
            }
            let after = icmp_error(&packet);
            assert_eq!((after.source, after.destination), (to.ip(), to.ip()));
            let (source, destination) = (after.embedded_source, after.embedded_destination);
            assert_eq!((source.ip(), destination.ip()), (to.ip(), to.ip()));
            // AH and ESP have no port to write and keep that by which they are known.
            assert!([(to.port(), to.port()), (500, 500)].contains(&(source.port(), destination.port())));
        }
        Ok(Parsed::Other) | Err(DropReason::Malformed | DropReason::Fragment) => {}
        Err(reason) => {
            assert_eq!(reason, DropReason::Truncated);
            assert!(missing > 0);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(100_000))]

    #[test]
    fn nothing_that_arrives_makes_it_panic((mut bytes, missing) in hostile_bytes(), owed: bool) {
        hostile(&mut bytes, missing, owed);
    }
}

/// A packet without options, with a payload of odd length.
fn plain(transport: Transport) -> Shape {
    Shape {
        transport,
        tcp_flags: 0x10,
        tcp_options: vec![],
        ipv4_options: vec![],
        ipv6_extensions: Ipv6Extensions::default(),
        payload: b"hello".to_vec(),
    }
}

/// A virtual service, a real server and a client.
fn v4() -> [SocketAddr; 3] {
    ["198.51.100.10:80", "10.0.0.7:8080", "192.0.2.1:43210"].map(|it| it.parse().unwrap())
}

/// The same over IPv6.
fn v6() -> [SocketAddr; 3] {
    ["[2001:db8::a]:80", "[fd00::7]:8080", "[2001:db8:1::1]:43210"].map(|it| it.parse().unwrap())
}
