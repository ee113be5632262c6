//! Messages byte by byte, and bytes at random.

use proptest::collection::vec;
use proptest::prelude::*;

use super::*;

/// A message as the kernel sends it.
fn message(kind: u16, sequence: u32, body: &[u8]) -> Vec<u8> {
    let mut message = Vec::new();
    message.extend((16 + body.len() as u32).to_ne_bytes());
    message.extend(kind.to_ne_bytes());
    message.extend([0, 0]);
    message.extend(sequence.to_ne_bytes());
    message.extend([0; 4]);
    message.extend(body);
    message
}

/// The body of a packet's message.
fn body(attributes: &[(u16, &[u8])]) -> Vec<u8> {
    let mut body = vec![2, 0, 0, 7];
    for (kind, value) in attributes {
        put_attribute(&mut body, *kind, value);
    }
    body
}

/// The one event of a datagram.
fn only(datagram: &mut [u8]) -> Event<'_> {
    let mut events = events(datagram);
    let event = events.next().expect("an event");
    assert_eq!(events.next(), None);
    event
}

/// Packet 0x102, IPv4, queued in OUTPUT.
const IDENTITY: &[u8] = &[0, 0, 1, 2, 0x08, 0, 3];

#[test]
fn a_packet_is_read_whole() {
    let mut body = body(&[
        (PACKET_HDR, IDENTITY),
        (libc::NFQA_IFINDEX_INDEV as u16, &[0, 0, 0, 1]),
        (MARK, &[0xab, 0, 0, 1]),
        (SKB_INFO, &[0, 0, 0, 3]),
        // Flags in the upper bits of the type are not part of it.
        (0xc000 | PAYLOAD, b"hello"),
    ]);
    // The kernel does not pad the packet.
    body.truncate(body.len() - 3);
    let packet = Packet {
        id: 0x102,
        hook: 3,
        mark: 0xab00_0001,
        info: 3,
        original_len: 5,
        payload: &mut b"hello".to_owned(),
    };
    assert_eq!(only(&mut message(PACKET, 0, &body)), Event::Packet(packet));
}

#[test]
fn the_original_length_tells_a_cut_packet() {
    let body = body(&[(PACKET_HDR, IDENTITY), (CAP_LEN, &[0, 0, 5, 0xdc]), (PAYLOAD, &[0; 8])]);
    let packet = Packet { id: 0x102, hook: 3, mark: 0, info: 0, original_len: 1500, payload: &mut [0; 8] };
    assert_eq!(only(&mut message(PACKET, 0, &body)), Event::Packet(packet));
}

#[test]
fn several_messages_in_one_datagram_are_read_in_order() {
    let packet = message(PACKET, 0, &body(&[(PACKET_HDR, IDENTITY), (PAYLOAD, b"abcd")]));
    let acknowledgement = message(ERROR, 9, &[0; 20]);
    let mut refusal = message(ERROR, 0, &(-libc::ENOENT).to_ne_bytes());
    let idle = message(1, 0, &[]);
    let mut datagram = [packet, acknowledgement, idle, mem::take(&mut refusal)].concat();
    let events: Vec<_> = events(&mut datagram).collect();
    assert!(matches!(events[0], Event::Packet(Packet { id: 0x102, .. })), "{events:?}");
    assert_eq!(events[1], Event::Answer { sequence: 9, errno: 0 });
    assert_eq!(events[2], Event::Answer { sequence: 0, errno: libc::ENOENT });
    assert_eq!(events.len(), 3);
}

#[test]
fn what_is_cut_or_lies_is_malformed_and_keeps_its_packet_id() {
    let whole = message(PACKET, 0, &body(&[(PACKET_HDR, IDENTITY), (PAYLOAD, b"abcdefgh")]));
    let known = Event::Malformed { id: Some(0x102) };
    let unknown = Event::Malformed { id: None };

    let mut cut = whole[..whole.len() - 1].to_vec();
    assert_eq!(only(&mut cut), known, "the receive buffer was too small");
    let mut cut = whole[..24].to_vec();
    assert_eq!(only(&mut cut), unknown, "not even the id arrived");
    let mut cut = whole[..15].to_vec();
    assert_eq!(only(&mut cut), unknown, "not even a header");

    let with_length = |at: usize, length: u16| {
        let mut lying = whole.clone();
        lying[at..at + 2].copy_from_slice(&length.to_ne_bytes());
        lying
    };
    let (first_attribute, second_attribute) = (20, 32);
    assert_eq!(only(&mut with_length(0, 15)), unknown, "a message shorter than its header");
    assert_eq!(only(&mut with_length(first_attribute, 3)), unknown, "an attribute shorter than its header");
    assert_eq!(only(&mut with_length(second_attribute, 13)), known, "an attribute longer than the message");
    assert_eq!(only(&mut with_length(second_attribute, 0)), known, "an attribute without end");

    for (attribute, event) in [
        ((PACKET_HDR, &IDENTITY[..6]), unknown),
        ((MARK, &[1, 2, 3][..]), Event::Malformed { id: Some(0x102) }),
        ((CAP_LEN, &[][..]), Event::Malformed { id: Some(0x102) }),
    ] {
        let identity = (PACKET_HDR, if attribute.0 == PACKET_HDR { attribute.1 } else { IDENTITY });
        assert_eq!(only(&mut message(PACKET, 0, &body(&[identity, attribute]))), event);
    }
    assert_eq!(only(&mut message(PACKET, 0, &[])), Event::Malformed { id: None });
    assert_eq!(only(&mut message(VERDICT, 0, &body(&[]))), Event::Malformed { id: None });
    assert_eq!(only(&mut message(ERROR, 0, &[0; 3])), Event::Malformed { id: None });
}

fn gathered(verdicts: &Verdicts<'_>) -> Vec<u8> {
    verdicts.slices().iter().flat_map(|slice| slice.to_vec()).collect()
}

/// A verdict message on queue 7 spelled out, the lengths in host order.
fn verdict(length: u32, verdict: u8, id: u8, tail: &[u8]) -> Vec<u8> {
    let mut bytes = length.to_ne_bytes().to_vec();
    bytes.extend(0x0301_u16.to_ne_bytes());
    bytes.extend(1_u16.to_ne_bytes());
    bytes.extend([0; 8]);
    bytes.extend([0, 0, 0, 7]);
    bytes.extend(12_u16.to_ne_bytes());
    bytes.extend(2_u16.to_ne_bytes());
    bytes.extend([0, 0, 0, verdict, 0, 0, 0, id]);
    bytes.extend(tail);
    bytes
}

#[test]
fn verdicts_stand_one_behind_the_other() {
    let mark = |value: u32| [&8_u16.to_ne_bytes(), &3_u16.to_ne_bytes(), &value.to_be_bytes()[..]].concat();
    let packet = |bytes: &[u8]| {
        [
            &(4 + bytes.len() as u16).to_ne_bytes(),
            &10_u16.to_ne_bytes(),
            bytes,
            &[0; 3][..(4 - bytes.len() % 4) % 4],
        ]
        .concat()
    };
    let decision = |action, mark| Decision { action, mark };
    let mut verdicts = Verdicts::new(7);
    verdicts.push(1, decision(Action::Accept, None), b"not written");
    verdicts.push(2, decision(Action::AcceptRewritten, Some(0x8000_0001)), b"hello");
    verdicts.push(3, Decision::DROP, b"not written");
    verdicts.push(4, decision(Action::AcceptRewritten, None), b"12345678");
    verdicts.push(5, decision(Action::AcceptResized(b"longer".to_vec()), None), b"short");
    verdicts.push(6, decision(Action::Accept, Some(5)), b"not written");
    let expected = [
        verdict(32, 1, 1, &[]),
        verdict(49, 1, 2, &[mark(0x8000_0001), packet(b"hello")].concat()),
        verdict(32, 0, 3, &[]),
        verdict(44, 1, 4, &packet(b"12345678")),
        verdict(42, 1, 5, &packet(b"longer")),
        verdict(40, 1, 6, &mark(5)),
    ];
    assert_eq!(gathered(&verdicts), expected.concat());
    assert_eq!(verdicts.bytes(), expected.concat().len());
    assert_eq!(verdicts.slices().len(), 7, "neighbours without bytes share a slice");
    for ((id, slices), alone) in verdicts.each().zip(&expected) {
        let unpadded = u32::from_ne_bytes(*alone.first_chunk().unwrap()) as usize;
        assert_eq!([&slices[0][..], &slices[1][..]].concat(), alone[..unpadded], "packet {id}");
    }
    verdicts.clear();
    assert_eq!((verdicts.len(), verdicts.bytes(), verdicts.slices().len()), (0, 0, 0));
    assert_eq!(drop_message(7, 9), verdict(32, 0, 9, &[]));
}

#[test]
fn a_queue_is_configured_by_one_message() {
    let config =
        QueueConfig { copy_range: 128, max_len: 9, gso: true, fail_open: true, ..QueueConfig::new(0x1234) };
    let mut expected = message(0x0302, 3, &[0, 0, 0x12, 0x34]);
    expected[6..8].copy_from_slice(&5_u16.to_ne_bytes());
    for (kind, value) in [
        (1_u16, &[1, 0, 0, 0][..]),
        (2, &[0, 0, 0, 128, 2]),
        (3, &[0, 0, 0, 9]),
        (5, &[0, 0, 0, 5]),
        (4, &[0, 0, 0, 5]),
    ] {
        expected.extend((4 + value.len() as u16).to_ne_bytes());
        expected.extend(kind.to_ne_bytes());
        expected.extend(value);
        expected.resize(expected.len().next_multiple_of(4), 0);
    }
    let length = expected.len() as u32;
    expected[..4].copy_from_slice(&length.to_ne_bytes());
    assert_eq!(bind_message(&config, 3), expected);
}

proptest! {
    /// No panic, an end, and no packet twice; whatever the bytes.
    #[test]
    fn random_bytes_are_survived(mut bytes in vec(any::<u8>(), 0..400)) {
        let most = bytes.len() / MESSAGE_HEADER + 1;
        prop_assert!(events(&mut bytes).count() <= most);
    }

    /// Random attributes behind right headers reach deeper than random bytes.
    #[test]
    fn random_attributes_are_survived(
        mut attributes in vec((0_u16..40, 0_u16..24, any::<u32>()), 0..20), length_off in -8_i32..8,
    ) {
        let mut body = vec![0; 4];
        for (length, kind, value) in attributes.drain(..) {
            body.extend(length.to_ne_bytes());
            body.extend(kind.to_ne_bytes());
            body.extend(value.to_be_bytes());
        }
        let mut datagram = message(PACKET, 0, &body);
        let length = (datagram.len() as u32).saturating_add_signed(length_off);
        datagram[..4].copy_from_slice(&length.to_ne_bytes());
        let bounds = datagram.as_ptr_range();
        for event in events(&mut datagram) {
            if let Event::Packet(packet) = event {
                let payload = packet.payload.as_ptr_range();
                prop_assert!(payload.is_empty() || bounds.start <= payload.start && payload.end <= bounds.end);
                prop_assert!(packet.original_len >= packet.payload.len());
            }
        }
    }

    /// What is built is what is read: the verdicts, taken as the kernel takes them, hold the packets.
    #[test]
    fn packets_written_back_arrive_whole(packets in vec(vec(any::<u8>(), 1..70), 0..20)) {
        let mut verdicts = Verdicts::new(7);
        for (id, packet) in packets.iter().enumerate() {
            verdicts.push(id as u32, Decision { action: Action::AcceptRewritten, mark: Some(0) }, packet);
        }
        let mut bytes = gathered(&verdicts);
        let mut rest = &mut bytes[..];
        for packet in &packets {
            let (length, kind, _) = message_header(rest).unwrap();
            prop_assert_eq!(kind, VERDICT);
            prop_assert_eq!(&rest[44..length], &packet[..]);
            let next = aligned(length).min(rest.len());
            rest = &mut rest[next..];
        }
        prop_assert!(rest.is_empty());
    }
}
