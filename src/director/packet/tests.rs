//! Literal packets, and a table of headers that lie.

use super::*;
use crate::director::Hook;

/// A SYN with one option, 192.0.2.1:43210 -> 198.51.100.10:80.
const TCP_V4: [u8; 44] = [
    0x45, 0x00, 0x00, 0x2c, 0x1c, 0x46, 0x40, 0x00, 0x40, 0x06, 0x32, 0x47, 192, 0, 2, 1, 198, 51, 100,
    10, //
    0xa8, 0xca, 0x00, 0x50, 0x01, 0x02, 0x03, 0x04, 0x00, 0x00, 0x00, 0x00, 0x60, 0x02, 0xfa, 0xf0, 0x03,
    0xd6, 0x00, 0x00, 0x02, 0x04, 0x05, 0xb4,
];

/// "hello", [2001:db8::1]:1234 -> [2001:db8::a]:53.
const UDP_V6: [u8; 53] = [
    0x60, 0x01, 0x23, 0x45, 0x00, 0x0d, 0x11, 0x40, //
    0x20, 0x01, 0x0d, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x01, //
    0x20, 0x01, 0x0d, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x0a, //
    0x04, 0xd2, 0x00, 0x35, 0x00, 0x0d, 0x5b, 0x7e, b'h', b'e', b'l', b'l', b'o',
];

/// COOKIE ACK and DATA "hi", 192.0.2.1:2000 -> 198.51.100.10:2000, with a right CRC.
const SCTP_V4: [u8; 56] = [
    0x45, 0x00, 0x00, 0x38, 0x1c, 0x46, 0x40, 0x00, 0x40, 0x84, 0x31, 0xbd, 192, 0, 2, 1, 198, 51, 100,
    10, //
    0x07, 0xd0, 0x07, 0xd0, 0x01, 0x02, 0x03, 0x04, 0xe1, 0x7f, 0x83, 0x89, //
    11, 0, 0, 4, //
    0, 3, 0, 18, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, b'h', b'i', 0, 0,
];

fn packet(bytes: &mut [u8]) -> Packet<'_> {
    let meta = PacketMeta {
        hook: Hook::Prerouting,
        checksum_owed: false,
        gso: false,
        original_len: bytes.len(),
        mark: None,
    };
    Packet::new(bytes, &meta)
}

fn flow(packet: &Packet<'_>) -> FlowInfo {
    match packet.parse() {
        Ok(Parsed::Flow(flow)) => flow,
        other => panic!("not a flow: {other:?}"),
    }
}

fn icmp_error(packet: &Packet<'_>) -> IcmpErrorInfo {
    match packet.parse() {
        Ok(Parsed::IcmpError(error)) => error,
        other => panic!("not an ICMP error: {other:?}"),
    }
}

fn to(endpoint: &str) -> Rewrite {
    Rewrite { source: None, destination: Some(endpoint.parse().unwrap()) }
}

#[test]
fn a_syn_reaches_its_server() {
    let mut bytes = TCP_V4;
    let mut packet = packet(&mut bytes);
    let flow = flow(&packet);
    assert_eq!((flow.transport, flow.len), (Transport::Tcp, 44));
    assert_eq!(flow.source, "192.0.2.1:43210".parse().unwrap());
    assert_eq!(flow.destination, "198.51.100.10:80".parse().unwrap());
    assert_eq!(flow.signal, Signal::Tcp(TcpFlags(0x02)));

    packet.rewrite(&flow, to("10.0.0.7:8080")).unwrap();
    let mut expected = TCP_V4;
    expected[10..12].copy_from_slice(&[0x52, 0x7e]);
    expected[16..20].copy_from_slice(&[10, 0, 0, 7]);
    expected[22..24].copy_from_slice(&[0x1f, 0x90]);
    expected[36..38].copy_from_slice(&[0x04, 0xcd]);
    assert_eq!(bytes, expected);
}

#[test]
fn a_datagram_reaches_its_server_over_ipv6() {
    let mut bytes = UDP_V6;
    let mut packet = packet(&mut bytes);
    let flow = flow(&packet);
    assert_eq!((flow.transport, flow.len, flow.signal), (Transport::Udp, 53, Signal::Udp));
    assert_eq!(flow.source, "[2001:db8::1]:1234".parse().unwrap());
    assert_eq!(flow.destination, "[2001:db8::a]:53".parse().unwrap());

    packet.rewrite(&flow, to("[fd00::7]:5353")).unwrap();
    let mut expected = UDP_V6;
    expected[24..40].copy_from_slice(&[0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x07]);
    expected[42..44].copy_from_slice(&[0x14, 0xe9]);
    expected[46..48].copy_from_slice(&[0x77, 0x85]);
    assert_eq!(bytes, expected);
}

#[test]
fn sctp_gets_a_new_crc_with_a_new_port_and_only_then() {
    let mut bytes = SCTP_V4;
    let mut packet = packet(&mut bytes);
    let flow = flow(&packet);
    assert_eq!((flow.transport, flow.destination.port()), (Transport::Sctp, 2000));
    assert_eq!(flow.signal, Signal::Sctp(SctpChunks { first: 11, second: Some(0) }));

    packet.rewrite(&flow, to("10.0.0.7:2000")).unwrap();
    let mut expected = SCTP_V4;
    expected[10..12].copy_from_slice(&[0x51, 0xf4]);
    expected[16..20].copy_from_slice(&[10, 0, 0, 7]);
    assert_eq!(packet.bytes, expected, "the CRC does not cover addresses");

    packet.rewrite(&flow, to("10.0.0.7:3000")).unwrap();
    expected[22..24].copy_from_slice(&[0x0b, 0xb8]);
    expected[28..32].copy_from_slice(&[0xd8, 0x8c, 0xaa, 0xfe]);
    assert_eq!(bytes, expected);
}

#[test]
fn the_second_chunk_begins_behind_the_padding_of_the_first() {
    let rows: [(&str, &[u8], Option<u8>); 6] = [
        ("nothing follows", &[10, 0, 0, 4], None),
        ("the first is all header", &[10, 0, 0, 4, 6, 0, 0, 4], Some(6)),
        ("the first is padded", &[10, 0, 0, 5, 1, 0, 0, 0, 6, 0, 0, 4], Some(6)),
        ("the first says that it is shorter than its header", &[10, 0, 0, 3, 6, 0, 0, 4], None),
        ("the first says that it reaches beyond the packet", &[10, 0, 1, 0, 6, 0, 0, 4], None),
        ("of the second there is no whole header", &[10, 0, 0, 4, 6, 0, 0], None),
    ];
    for (sentence, chunks, second) in rows {
        let mut bytes = [&SCTP_V4[..32], chunks].concat();
        bytes[3] = u8::try_from(bytes.len()).unwrap();
        let flow = flow(&packet(&mut bytes));
        assert_eq!(flow.signal, Signal::Sctp(SctpChunks { first: 10, second }), "{sentence}");
    }
}

#[test]
fn an_owed_crc_is_paid_even_if_no_port_is_rewritten() {
    let mut bytes = SCTP_V4;
    bytes[28..32].fill(0);
    let meta = PacketMeta {
        hook: Hook::Output,
        checksum_owed: true,
        gso: false,
        original_len: bytes.len(),
        mark: None,
    };
    let mut packet = Packet::new(&mut bytes, &meta);
    let flow = flow(&packet);
    packet.rewrite(&flow, Rewrite::default()).unwrap();
    assert_eq!(bytes, SCTP_V4);
}

#[test]
fn several_sctp_packets_in_one_are_not_written_back() {
    let mut bytes = SCTP_V4;
    let meta = PacketMeta {
        hook: Hook::Output,
        checksum_owed: true,
        gso: true,
        original_len: bytes.len(),
        mark: None,
    };
    let mut packet = Packet::new(&mut bytes, &meta);
    let flow = flow(&packet);
    assert_eq!(packet.rewrite(&flow, Rewrite::default()), Err(DropReason::SctpSegments));
    assert_eq!(bytes, SCTP_V4);
}

#[test]
fn esp_gets_an_address_and_nothing_else() {
    let mut bytes = TCP_V4;
    bytes[9] = 50;
    let before = bytes;
    let mut packet = packet(&mut bytes);
    let flow = flow(&packet);
    assert_eq!((flow.transport, flow.signal), (Transport::Udp, Signal::Ipsec));
    assert_eq!(flow.source, "192.0.2.1:500".parse().unwrap());
    assert_eq!(flow.destination, "198.51.100.10:500".parse().unwrap());

    packet.rewrite(&flow, to("10.0.0.7:500")).unwrap();
    assert_eq!(bytes[16..20], [10, 0, 0, 7]);
    assert_eq!(bytes[20..], before[20..]);
}

#[test]
fn an_icmp_error_about_esp_gets_addresses_only() {
    let mut bytes = with(icmp_v4(), |p| p[37] = 50);
    let meta = PacketMeta {
        hook: Hook::Prerouting,
        checksum_owed: true,
        gso: false,
        original_len: bytes.len(),
        mark: None,
    };
    let before = bytes.clone();
    let mut packet = Packet::new(&mut bytes, &meta);
    let error = icmp_error(&packet);
    assert_eq!(error.embedded_destination, "198.51.100.10:500".parse().unwrap());
    let server = Some("10.0.0.7:4500".parse().unwrap());
    packet
        .rewrite_icmp_error(&error, IcmpRewrite { embedded_destination: server, ..IcmpRewrite::default() })
        .unwrap();
    assert_eq!(bytes[44..48], [10, 0, 0, 7]);
    assert_eq!(bytes[48..], before[48..]);
}

#[test]
fn an_icmp_error_about_a_later_fragment_belongs_to_what_has_no_ports() {
    for (protocol, belongs) in [(50, true), (51, true), (6, false), (17, false)] {
        let mut bytes = with(icmp_v4(), |p| {
            p[34..36].copy_from_slice(&[0x00, 0xb9]);
            p[37] = protocol;
        });
        let meta = PacketMeta {
            hook: Hook::Prerouting,
            checksum_owed: true,
            gso: false,
            original_len: bytes.len(),
            mark: None,
        };
        let parsed = Packet::new(&mut bytes, &meta).parse();
        assert_eq!(matches!(parsed, Ok(Parsed::IcmpError(_))), belongs, "protocol {protocol}");
    }
}

#[test]
fn an_owed_checksum_is_paid_even_if_nothing_is_rewritten() {
    let mut bytes = TCP_V4;
    bytes[36..38].copy_from_slice(&[0xab, 0xcd]);
    let meta = PacketMeta {
        hook: Hook::Output,
        checksum_owed: true,
        gso: false,
        original_len: bytes.len(),
        mark: None,
    };
    let mut packet = Packet::new(&mut bytes, &meta);
    let flow = flow(&packet);
    packet.rewrite(&flow, Rewrite::default()).unwrap();
    assert_eq!(bytes, TCP_V4);
}

#[test]
fn a_second_rewrite_builds_on_the_first() {
    let mut bytes = TCP_V4;
    let meta = PacketMeta {
        hook: Hook::Output,
        checksum_owed: true,
        gso: false,
        original_len: bytes.len(),
        mark: None,
    };
    let mut packet = Packet::new(&mut bytes, &meta);
    let flow = flow(&packet);
    packet.rewrite(&flow, to("10.0.0.7:8080")).unwrap();
    packet.rewrite(&flow, to("198.51.100.10:80")).unwrap();
    assert_eq!(bytes, TCP_V4);
}

#[test]
fn an_absent_udp_checksum_is_computed() {
    let mut bytes = UDP_V6;
    bytes[46..48].fill(0);
    let mut packet = packet(&mut bytes);
    let flow = flow(&packet);
    packet.rewrite(&flow, Rewrite::default()).unwrap();
    assert_eq!(bytes, UDP_V6);
}

#[test]
fn bytes_behind_the_datagram_are_neither_summed_nor_touched() {
    // Ten bytes of IP payload behind the datagram's end, then two behind the packet's.
    let mut bytes = UDP_V6.to_vec();
    bytes.extend([0xee; 12]);
    bytes[5] += 10;
    bytes[46..48].fill(0);
    let mut packet = packet(&mut bytes);
    let flow = flow(&packet);
    assert_eq!(flow.len, 63);
    packet.rewrite(&flow, Rewrite::default()).unwrap();
    assert_eq!(bytes[46..53], UDP_V6[46..]);
    assert_eq!(bytes[53..], [0xee; 12]);
}

#[test]
fn what_a_datagram_carries_ends_with_it() {
    let mut bytes = UDP_V6.to_vec();
    bytes.extend([0xee; 12]);
    bytes[5] += 10;
    let length = bytes.len();
    let whole = packet(&mut bytes);
    let of_datagram = flow(&whole);
    assert_eq!(whole.payload(&of_datagram), &UDP_V6[48..], "not what stands behind its own length");
    let meta = PacketMeta {
        hook: Hook::Prerouting,
        checksum_owed: false,
        gso: false,
        original_len: length,
        mark: None,
    };
    let mut cut = UDP_V6[..50].to_vec();
    assert_eq!(
        Packet::new(&mut cut, &meta).payload(&of_datagram),
        &UDP_V6[48..50],
        "nor what is not at hand"
    );
    let mut cut = UDP_V6[..44].to_vec();
    assert_eq!(Packet::new(&mut cut, &meta).payload(&of_datagram), b"");
    let mut segment = TCP_V4;
    let segment = packet(&mut segment);
    assert_eq!(segment.payload(&flow(&segment)), b"", "a segment is no datagram");
}

#[test]
fn a_cut_copy_is_parsed_but_not_rewritten() {
    let mut bytes = TCP_V4;
    let meta =
        PacketMeta { hook: Hook::Prerouting, checksum_owed: false, gso: false, original_len: 44, mark: None };
    let mut packet = Packet::new(&mut bytes[..40], &meta);
    let flow = flow(&packet);
    assert_eq!(flow.len, 44);
    assert_eq!(packet.rewrite(&flow, to("10.0.0.7:8080")), Err(DropReason::Truncated));
    assert_eq!(bytes, TCP_V4);
}

#[test]
fn an_address_of_the_other_family_leaves_the_packet_as_it_was() {
    let mut bytes = TCP_V4;
    let mut tcp = packet(&mut bytes);
    let info = flow(&tcp);
    assert_eq!(tcp.rewrite(&info, to("[fd00::7]:80")), Err(DropReason::Malformed));
    assert_eq!(bytes, TCP_V4);

    let mut bytes = UDP_V6;
    let mut udp = packet(&mut bytes);
    let info = flow(&udp);
    let from = Rewrite { source: Some("10.0.0.7:80".parse().unwrap()), destination: None };
    assert_eq!(udp.rewrite(&info, from), Err(DropReason::Malformed));
    assert_eq!(bytes, UDP_V6);
}

#[test]
fn an_info_that_does_not_fit_the_packet_is_refused() {
    let mut bytes = UDP_V6;
    let longer = flow(&packet(&mut bytes));
    let mut bytes = TCP_V4;
    assert_eq!(packet(&mut bytes).rewrite(&longer, Rewrite::default()), Err(DropReason::Malformed));
    assert_eq!(bytes, TCP_V4);
}

#[test]
fn an_icmp_error_with_a_wrong_checksum_is_not_laundered() {
    let mut bytes = icmp_v4();
    let before = bytes.clone();
    let mut packet = packet(&mut bytes);
    let error = icmp_error(&packet);
    assert_eq!(packet.rewrite_icmp_error(&error, IcmpRewrite::default()), Err(DropReason::BadChecksum));
    assert_eq!(bytes, before);
}

#[test]
fn a_checksum_of_zero_is_absent_in_udp_alone() {
    let mut bytes = TCP_V4;
    bytes[36..38].fill(0);
    let wrong = bytes;
    let mut tcp = packet(&mut bytes);
    let info = flow(&tcp);
    tcp.rewrite(&info, Rewrite::default()).unwrap();
    assert_eq!(bytes, wrong);

    let mut bytes = with(icmp_v4(), |bytes| bytes[22..24].fill(0));
    let mut icmp = packet(&mut bytes);
    let info = icmp_error(&icmp);
    assert_eq!(icmp.rewrite_icmp_error(&info, IcmpRewrite::default()), Err(DropReason::BadChecksum));
}

#[test]
fn an_icmp_error_says_who_complains_about_what() {
    let mut bytes = icmp_v4();
    let error = icmp_error(&packet(&mut bytes));
    assert_eq!(error.source, IpAddr::from([203, 0, 113, 9]));
    assert_eq!(error.destination, IpAddr::from([192, 0, 2, 1]));
    assert_eq!(error.embedded_transport, Transport::Tcp);
    assert_eq!(error.embedded_source, "192.0.2.1:43210".parse().unwrap());
    assert_eq!(error.embedded_destination, "198.51.100.10:80".parse().unwrap());
    assert_eq!(error.len, 20 + 8 + 28);
}

/// Host unreachable about [`TCP_V4`], from 203.0.113.9, with as little of it as allowed. No checksum is right.
fn icmp_v4() -> Vec<u8> {
    let mut bytes = vec![0x45, 0, 0, 56, 0, 0, 0, 0, 64, 1, 0, 0, 203, 0, 113, 9, 192, 0, 2, 1];
    bytes.extend([3, 1, 0xbe, 0xef, 0, 0, 0, 0]);
    bytes.extend(&TCP_V4[..28]);
    bytes
}

/// Packet too big about [`UDP_V6`], with as little of it as allowed. No checksum is right.
fn icmp_v6() -> Vec<u8> {
    let mut bytes = UDP_V6[..40].to_vec();
    bytes[4..7].copy_from_slice(&[0, 56, 58]);
    bytes.extend([2, 0, 0xbe, 0xef, 0, 0, 5, 0]);
    bytes.extend(&UDP_V6[..48]);
    bytes
}

/// [`UDP_V6`] with extension headers, each given without its first byte, the next header.
fn extended(headers: &[(u8, &[u8])]) -> Vec<u8> {
    let mut bytes = UDP_V6[..40].to_vec();
    let mut next_at = 6;
    for (number, rest) in headers {
        bytes[next_at] = *number;
        next_at = bytes.len();
        bytes.push(17);
        bytes.extend(*rest);
    }
    bytes.extend(&UDP_V6[40..]);
    let len = u16::try_from(bytes.len() - 40).unwrap();
    bytes[4..6].copy_from_slice(&len.to_be_bytes());
    bytes
}

/// Options that are padding: length 8, PadN of four.
const OPTIONS: &[u8] = &[0, 1, 4, 0, 0, 0, 0];

fn fragment(offset_and_flags: u16) -> [u8; 7] {
    let [high, low] = offset_and_flags.to_be_bytes();
    [0, high, low, 0, 0, 0, 1]
}

fn with(mut bytes: Vec<u8>, edit: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    edit(&mut bytes);
    bytes
}

#[derive(Debug, PartialEq)]
enum Outcome {
    Flow,
    IcmpError,
    Other,
    Drop(DropReason),
}

use Outcome::{Drop, Flow, Other};

const MALFORMED: Outcome = Drop(DropReason::Malformed);
const TRUNCATED: Outcome = Drop(DropReason::Truncated);
const FRAGMENT: Outcome = Drop(DropReason::Fragment);

#[test]
fn headers_that_lie_and_headers_that_only_look_like_it() {
    let tcp = || TCP_V4.to_vec();
    let udp = || UDP_V6.to_vec();
    let sctp = || with(SCTP_V4[..36].to_vec(), |p| p[3] = 36);
    let rows: Vec<(&str, Vec<u8>, Outcome)> = vec![
        ("a packet of no bytes is no packet", vec![], MALFORMED),
        ("no version but 4 and 6 exists", with(tcp(), |p| p[0] = 0x55), MALFORMED),
        ("an IPv4 packet ends inside its header", tcp()[..19].to_vec(), MALFORMED),
        ("an IPv4 header is said to be shorter than its fixed part", with(tcp(), |p| p[0] = 0x44), MALFORMED),
        (
            "IPv4 options are said to reach beyond the bytes",
            with(tcp()[..40].to_vec(), |p| p[0] = 0x4f),
            MALFORMED,
        ),
        (
            "IPv4 options are said to reach beyond the total length",
            with(tcp(), |p| (p[0], p[3]) = (0x47, 27)),
            MALFORMED,
        ),
        ("an IPv4 total length is shorter than the header", with(tcp(), |p| p[3] = 19), MALFORMED),
        (
            "an IPv4 total length of 0 is BIG TCP, which a queue cannot return",
            with(tcp(), |p| p[3] = 0),
            MALFORMED,
        ),
        ("an IPv4 total length is longer than the packet", with(tcp(), |p| p[3] = 45), MALFORMED),
        (
            "bytes behind the IPv4 total length are the link's padding",
            with(tcp(), |p| p.extend([0; 9])),
            Flow,
        ),
        ("an IPv4 packet has more fragments", with(tcp(), |p| p[6] = 0x20), FRAGMENT),
        ("an IPv4 packet has a fragment offset", with(tcp(), |p| p[7] = 1), FRAGMENT),
        (
            "an IPv4 fragment of another protocol is a fragment too",
            with(tcp(), |p| (p[7], p[9]) = (1, 47)),
            FRAGMENT,
        ),
        ("ESP follows IKE", with(tcp(), |p| p[9] = 50), Flow),
        ("an authentication header over IPv4 is a protocol of its own", with(tcp(), |p| p[9] = 51), Flow),
        ("ESP may be empty as far as we care", with(tcp(), |p| (p[3], p[9]) = (20, 50)), Flow),
        ("a protocol that nobody balances", with(tcp(), |p| p[9] = 47), Other),
        ("an SCTP packet ends with its first chunk's header", sctp(), Flow),
        ("an SCTP packet without a whole chunk header is none", with(sctp(), |p| p[3] = 35), MALFORMED),
        ("an SCTP packet without a chunk is none", with(sctp(), |p| p[3] = 32), MALFORMED),
        ("an SCTP chunk may say that it is longer than the packet", with(sctp(), |p| p[34] = 0xff), Flow),
        ("an SCTP chunk may say that it is shorter than its header", with(sctp(), |p| p[35] = 0), Flow),
        ("ICMPv6 over IPv4 means nothing", with(tcp(), |p| p[9] = 58), Other),
        ("a TCP header is cut by the total length", with(tcp(), |p| p[3] = 39), MALFORMED),
        ("a TCP data offset is shorter than the fixed header", with(tcp(), |p| p[32] = 0x40), MALFORMED),
        ("a TCP data offset reaches beyond the packet", with(tcp(), |p| p[32] = 0x70), MALFORMED),
        ("a TCP segment may be all header", with(tcp(), |p| p[32] = 0x60), Flow),
        ("an IPv6 packet ends inside its header", udp()[..39].to_vec(), MALFORMED),
        ("an IPv6 payload is longer than the packet", with(udp(), |p| p[5] += 1), MALFORMED),
        ("an IPv6 payload length of 0 leaves no room for UDP", with(udp(), |p| p[5] = 0), MALFORMED),
        (
            "a jumbogram's options lie beyond a payload length of 0",
            with(extended(&[(0, OPTIONS)]), |p| p[4..6].fill(0)),
            MALFORMED,
        ),
        ("nothing at all may follow an IPv6 header", with(udp(), |p| (p[5], p[6]) = (0, 59)), Other),
        ("ESP over IPv6 follows IKE too", with(udp(), |p| p[6] = 50), Flow),
        ("ICMPv4 over IPv6 means nothing", with(udp(), |p| p[6] = 1), Other),
        ("a UDP header is cut by the payload length", with(udp(), |p| p[5] = 7), MALFORMED),
        ("a UDP length is shorter than its header", with(udp(), |p| p[45] = 7), MALFORMED),
        ("a UDP length is longer than the payload", with(udp(), |p| p[45] = 14), MALFORMED),
        ("a UDP length may be shorter than the payload", with(udp(), |p| p[45] = 8), Flow),
        ("hop-by-hop options may come first", extended(&[(0, OPTIONS)]), Flow),
        ("hop-by-hop options may not come second", extended(&[(60, OPTIONS), (0, OPTIONS)]), MALFORMED),
        (
            "an extension header reaches beyond the packet",
            with(extended(&[(60, OPTIONS)]), |p| p[41] = 3),
            MALFORMED,
        ),
        (
            "an extension header reaches beyond the packet, and says that nothing follows",
            with(extended(&[(60, OPTIONS)]), |p| (p[40], p[41]) = (59, 3)),
            MALFORMED,
        ),
        (
            "an extension header is cut by the payload length",
            with(extended(&[(60, OPTIONS)]), |p| p[5] = 7),
            MALFORMED,
        ),
        ("eight extension headers are walked", extended(&[(60, OPTIONS); 8]), Flow),
        ("a ninth extension header is one too many", extended(&[(60, OPTIONS); 9]), MALFORMED),
        (
            "an authentication header counts in fours",
            extended(&[(51, &[2, 0, 0, 0, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0, 0])]),
            Flow,
        ),
        ("a routing header that is used up leads on", extended(&[(43, &[0, 4, 0, 0, 0, 0, 0])]), Flow),
        (
            "a routing header with a segment left makes the destination a waypoint",
            extended(&[(43, &[0, 4, 1, 0, 0, 0, 0])]),
            Other,
        ),
        ("a fragment header on a whole packet changes nothing", extended(&[(44, &fragment(0))]), Flow),
        ("reserved bits do not make a fragment", extended(&[(44, &fragment(6))]), Flow),
        ("an IPv6 packet has more fragments", extended(&[(44, &fragment(1))]), FRAGMENT),
        ("an IPv6 packet has a fragment offset", extended(&[(44, &fragment(8))]), FRAGMENT),
        (
            "a second fragment header does not hide the first",
            extended(&[(44, &fragment(1)), (44, &fragment(0))]),
            FRAGMENT,
        ),
        ("an ICMP header is cut", with(icmp_v4(), |p| p[3] = 27), MALFORMED),
        ("an ICMP echo is not an error", with(icmp_v4(), |p| p[20] = 8), Other),
        ("an ICMP redirect is not translated", with(icmp_v4(), |p| p[20] = 5), Other),
        ("an ICMP source quench is an error", with(icmp_v4(), |p| p[20] = 4), Outcome::IcmpError),
        ("so is a time exceeded", with(icmp_v4(), |p| p[20] = 11), Outcome::IcmpError),
        ("an ICMP parameter problem is an error", with(icmp_v4(), |p| p[20] = 12), Outcome::IcmpError),
        ("an ICMP error embeds a byte less than eight of TCP", with(icmp_v4(), |p| p[3] = 55), Other),
        ("an ICMP error embeds half an IP header", with(icmp_v4(), |p| p[3] = 38), Other),
        ("an ICMP error embeds an IP header of the other family", with(icmp_v4(), |p| p[28] = 0x65), Other),
        ("an ICMP error embeds a header length that lies", with(icmp_v4(), |p| p[28] = 0x44), Other),
        (
            "an embedded total length is not believed, so not doubted",
            with(icmp_v4(), |p| p[31] = 0),
            Outcome::IcmpError,
        ),
        (
            "an ICMP error about a first fragment carries ports",
            with(icmp_v4(), |p| p[34] = 0x20),
            Outcome::IcmpError,
        ),
        ("an ICMP error about a later fragment carries none", with(icmp_v4(), |p| p[35] = 1), Other),
        ("an ICMP error about ICMP is not ours", with(icmp_v4(), |p| p[37] = 1), Other),
        ("an ICMP error about ESP is", with(icmp_v4(), |p| p[37] = 50), Outcome::IcmpError),
        (
            "of ESP not even eight bytes are needed",
            with(icmp_v4(), |p| (p[3], p[37]) = (48, 50)),
            Outcome::IcmpError,
        ),
        ("an ICMP error embeds eight bytes of SCTP", with(icmp_v4(), |p| p[37] = 132), Outcome::IcmpError),
        (
            "an ICMP error embeds a byte less than eight of SCTP",
            with(icmp_v4(), |p| (p[3], p[37]) = (55, 132)),
            Other,
        ),
        ("an ICMP error in fragments is a fragment", with(icmp_v4(), |p| p[6] = 0x20), FRAGMENT),
        ("a packet that is too big is an error", icmp_v6(), Outcome::IcmpError),
        ("an ICMPv6 echo is not an error", with(icmp_v6(), |p| p[40] = 128), Other),
        ("an ICMPv6 error type nobody defined is left alone", with(icmp_v6(), |p| p[40] = 100), Other),
        ("an ICMPv6 header is cut", with(icmp_v6(), |p| p[5] = 7), MALFORMED),
        ("an ICMPv6 error embeds a byte less than eight of UDP", with(icmp_v6(), |p| p[5] = 55), Other),
        (
            "an ICMPv6 error embeds extensions before UDP",
            with(icmp_v6(), |p| {
                p.truncate(48);
                p.extend(extended(&[(0, OPTIONS), (44, &fragment(1))]));
                p[5] = u8::try_from(p.len() - 40).unwrap();
            }),
            Outcome::IcmpError,
        ),
        (
            "an ICMPv6 error about a packet on its way to a waypoint is not ours",
            with(icmp_v6(), |p| {
                p.truncate(48);
                p.extend(extended(&[(43, &[0, 4, 1, 0, 0, 0, 0])]));
                p[5] = u8::try_from(p.len() - 40).unwrap();
            }),
            Other,
        ),
    ];
    for (sentence, mut bytes, expected) in rows {
        assert_eq!(outcome(&packet(&mut bytes)), expected, "{sentence}");
    }
}

#[test]
fn a_cut_copy_is_told_from_a_lie() {
    let rows: &[(&str, &[u8], usize, usize, Outcome)] = &[
        ("of a TCP packet the IP header is cut", &TCP_V4, 19, 44, TRUNCATED),
        ("of a TCP packet nothing is at hand", &TCP_V4, 0, 44, TRUNCATED),
        ("of a TCP packet the TCP header is cut", &TCP_V4, 39, 44, TRUNCATED),
        ("of a TCP packet only options and payload are cut", &TCP_V4, 40, 44, Flow),
        ("the total length is more than the original length", &TCP_V4, 40, 43, MALFORMED),
        ("of a UDP packet the payload is cut", &UDP_V6, 48, 53, Flow),
        ("of a UDP packet the header is cut", &UDP_V6, 47, 53, TRUNCATED),
        ("of an ICMP error the ICMP header is cut", &icmp_v4(), 27, 56, TRUNCATED),
        ("of an ICMP error the embedded header is cut", &icmp_v4(), 47, 56, TRUNCATED),
        ("of an ICMP error the embedded ports are cut", &icmp_v4(), 55, 56, TRUNCATED),
    ];
    for (sentence, bytes, at_hand, original_len, expected) in rows {
        let mut bytes = bytes[..*at_hand].to_vec();
        let meta = PacketMeta {
            hook: Hook::Prerouting,
            checksum_owed: false,
            gso: false,
            original_len: *original_len,
            mark: None,
        };
        assert_eq!(outcome(&Packet::new(&mut bytes, &meta)), *expected, "{sentence}");
    }
}

fn outcome(packet: &Packet<'_>) -> Outcome {
    match packet.parse() {
        Ok(Parsed::Flow(_)) => Flow,
        Ok(Parsed::IcmpError(_)) => Outcome::IcmpError,
        Ok(Parsed::Other) => Other,
        Err(reason) => Drop(reason),
    }
}
