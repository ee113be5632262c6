//! Datagrams out of recordings: kinds of link, byte orders, and packets that are none.

use std::time::Duration;
use sync_proto::capture::{Capture, CaptureError};

const ETHERNET: u32 = 1;
const RAW: u32 = 101;
const ANY: u32 = 113;
const ANY2: u32 = 276;

#[test]
fn datagrams_are_found_behind_every_header() {
    let ethernet = |kind: &[u8]| [&[0xee; 12][..], kind].concat();
    let rows = [
        ("Ethernet, IPv4", ETHERNET, [&ethernet(&[8, 0])[..], &v4()].concat(), true),
        ("Ethernet, IPv6", ETHERNET, [&ethernet(&[0x86, 0xdd])[..], &v6(17, &[])].concat(), true),
        ("a tag", ETHERNET, [&ethernet(&[0x81, 0, 0, 5, 8, 0])[..], &v4()].concat(), true),
        (
            "two tags",
            ETHERNET,
            [&ethernet(&[0x88, 0xa8, 0, 5, 0x81, 0, 0, 6, 8, 0])[..], &v4()].concat(),
            true,
        ),
        ("a tag and nothing else", ETHERNET, ethernet(&[0x81, 0, 0, 5]), false),
        ("ARP", ETHERNET, [&ethernet(&[8, 6])[..], &v4()].concat(), false),
        ("bare IPv4", RAW, v4(), true),
        ("bare IPv6", RAW, v6(17, &[]), true),
        ("bare, of another version", RAW, changed(v4(), 0, 0x55), false),
        ("any interface", ANY, [&[0; 14][..], &[8, 0], &v4()].concat(), true),
        ("any interface, second form", ANY2, [&[8, 0][..], &[0; 18], &v4()].concat(), true),
        ("filled up", RAW, [v4(), vec![0; 7]].concat(), true),
        ("options of IPv4", RAW, [&changed(v4(), 0, 0x46)[..20], &[1; 4], &v4()[20..]].concat(), true),
        ("a header of IPv4 shorter than any", RAW, changed(v4(), 0, 0x44), false),
        ("the first fragment", RAW, changed(v4(), 6, 0x20), true),
        ("another fragment", RAW, changed(v4(), 7, 1), false),
        ("TCP", RAW, changed(v4(), 9, 6), false),
        ("IPv6, hop by hop", RAW, v6(0, &[17, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]), true),
        ("IPv6, the first fragment", RAW, v6(44, &[17, 9, 0, 1, 0, 0, 0, 0]), true),
        ("IPv6, another fragment", RAW, v6(44, &[17, 0, 0, 8, 0, 0, 0, 0]), false),
        ("IPv6, TCP", RAW, v6(6, &[]), false),
        ("IPv6, an extension past the end", RAW, v6(60, &[17, 200, 0, 0, 0, 0, 0, 0]), false),
        ("UDP shorter than its header", RAW, changed(v4(), 25, 7), false),
        ("nothing", RAW, vec![], false),
    ];
    for (what, link, packet, is_found) in rows {
        let file = file(u32::to_le_bytes, 0xa1b2_c3d4, link, &[&packet]);
        let found: Vec<_> = Capture::open(&file).expect(what).map(|datagram| datagram.expect(what)).collect();
        assert_eq!(found.len(), usize::from(is_found), "{what}");
        for datagram in found {
            assert_eq!(datagram.payload, PAYLOAD, "{what}");
            let family = if datagram.source.is_ipv4() { "10.0.9.1:40000" } else { "[fd00::1]:40000" };
            assert_eq!(datagram.source.to_string(), family, "{what}");
            assert_eq!(datagram.destination.port(), 8848, "{what}");
            assert!(datagram.destination.ip().is_multicast(), "{what}");
        }
    }
}

/// What was recorded of a longer packet is better than nothing: the message's size tells.
#[test]
fn a_packet_that_was_not_recorded_whole_is_shown_as_far_as_it_was() {
    let packet = v4();
    let file = file(u32::to_le_bytes, 0xa1b2_c3d4, RAW, &[&packet[..packet.len() - 2]]);
    let datagram = Capture::open(&file).unwrap().next().unwrap().unwrap();
    assert_eq!(datagram.payload, &PAYLOAD[..PAYLOAD.len() - 2]);
}

#[test]
fn files_are_of_either_byte_order_and_either_clock() {
    let orders: [fn(u32) -> [u8; 4]; 2] = [u32::to_le_bytes, u32::to_be_bytes];
    for order in orders {
        for (magic, at) in [
            (0xa1b2_c3d4, Duration::new(1_795_249_523, 144_059_000)),
            (0xa1b2_3c4d, Duration::new(1_795_249_523, 144_059)),
        ] {
            // A checksum behind each frame is told of in the upper bits.
            let file = file(order, magic, 0x1400_0000 | RAW, &[&v4(), &v6(17, &[])]);
            let times: Vec<_> = Capture::open(&file).unwrap().map(|datagram| datagram.unwrap().at).collect();
            assert_eq!(times, [at, at]);
        }
    }
}

#[test]
fn what_is_no_recording_is_said() {
    let open = |file: &[u8]| Capture::open(file).map(Iterator::count);
    let right = file(u32::to_le_bytes, 0xa1b2_c3d4, RAW, &[&v4()]);
    assert_eq!(open(&right), Ok(1));
    assert_eq!(open(&[]), Err(CaptureError::NoPcap));
    assert_eq!(open(&right[..23]), Err(CaptureError::NoPcap));
    assert_eq!(open(&right[..24]), Ok(0), "a recording of nothing");
    // pcapng
    assert_eq!(open(&[&[0x0a, 0x0d, 0x0d, 0x0a], &right[4..]].concat()), Err(CaptureError::NoPcap));
    assert_eq!(open(&file(u32::to_le_bytes, 0xa1b2_c3d4, 189, &[])), Err(CaptureError::Link(189)));
    for len in 25..right.len() {
        let items: Vec<_> = Capture::open(&right[..len]).unwrap().collect();
        assert_eq!(items, [Err(CaptureError::Truncated)], "{len}");
    }
}

const PAYLOAD: &[u8] = b"a message";

/// An IPv4 packet with a datagram.
fn v4() -> Vec<u8> {
    let header = [0x45, 0, 0, 0, 0, 0, 0, 0, 1, 17, 0, 0, 10, 0, 9, 1, 224, 0, 0, 81];
    [&header[..], &udp()].concat()
}

/// An IPv6 packet with `extension`, which `next` announces, and a datagram.
fn v6(next: u8, extension: &[u8]) -> Vec<u8> {
    let mut header = vec![0x60, 0, 0, 0, 0, 0, next, 1];
    for address in ["fd00::1", "ff02::51"] {
        header.extend(address.parse::<std::net::Ipv6Addr>().unwrap().octets());
    }
    [&header[..], extension, &udp()].concat()
}

fn udp() -> Vec<u8> {
    let header = [0x9c, 0x40, 0x22, 0x90, 0, 8 + PAYLOAD.len() as u8, 0, 0];
    [&header[..], PAYLOAD].concat()
}

fn changed(mut bytes: Vec<u8>, place: usize, value: u8) -> Vec<u8> {
    bytes[place] = value;
    bytes
}

fn file(order: fn(u32) -> [u8; 4], magic: u32, link: u32, packets: &[&[u8]]) -> Vec<u8> {
    let mut file: Vec<u8> = [magic, 0, 0, 0, 65535, link].iter().flat_map(|number| order(*number)).collect();
    for packet in packets {
        let len = packet.len() as u32;
        file.extend([1_795_249_523, 144_059, len, len].iter().flat_map(|number| order(*number)));
        file.extend(*packet);
    }
    file
}
