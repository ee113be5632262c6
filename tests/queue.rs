//! Both queue backends against the kernel, each test in a network namespace of its own. Needs root and `iptables`.

mod common;

use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use common::netns::{Namespace, isolated, run};
use nfvs::daemon::queue::{
    Action, Backend, Decision, OpenError, PacketQueue, QueueConfig, QueueCounters, QueueIoStats,
    QueuedPacket, WHOLE_PACKET, open, read_counters,
};
use nfvs::director::Hook;
use rustix::net::sockopt;

macro_rules! on_both_backends {
    ($($test:ident,)*) => {
        mod batched {
            $(#[test] fn $test() { super::isolated(|| super::$test(super::Backend::Batched)); })*
        }
        mod nfq {
            $(#[test] fn $test() { super::isolated(|| super::$test(super::Backend::Nfq)); })*
        }
    };
}

on_both_backends! {
    accepted_packets_pass_in_order_and_unchanged,
    dropped_packets_end,
    rewritten_packets_arrive_rewritten,
    resized_packets_arrive_resized,
    local_output_is_told_from_arrivals,
    marks_are_read_set_and_kept,
    gso_packets_are_written_back_whole,
    a_packet_copied_in_part_is_not_written_back,
    resizing_loses_no_packet,
    a_flood_is_accounted_for,
    a_full_receive_buffer_is_accounted_for,
    fail_open_lets_the_flood_pass,
    a_verdict_that_comes_too_late_is_counted,
    a_burst_larger_than_the_send_buffer_is_sent,
    a_verdict_larger_than_the_send_buffer_becomes_a_drop,
    a_second_owner_is_refused_by_name,
    a_missing_capability_is_named,
    nothing_to_serve_is_no_error,
}

fn accepted_packets_pass_in_order_and_unchanged(backend: Backend) {
    let mut queue = open(backend, &QueueConfig::new(QUEUE)).unwrap();
    let udp = Udp::queued();
    for byte in 0..100 {
        udp.send(&[byte; 18]);
    }
    let handled = drain(&mut *queue, &mut |packet| {
        assert_eq!((packet.meta.original_len, packet.payload.len()), (46, 46));
        assert_eq!((packet.meta.hook, packet.meta.gso, packet.mark), (Hook::Prerouting, false, 0));
        packet.payload.fill(0xff);
        ACCEPT
    });
    assert_eq!(handled, 100);
    for byte in 0..100 {
        assert_eq!(udp.receive(), [byte; 18], "only AcceptRewritten writes back");
    }
    assert_eq!(queue.stats(), QueueIoStats { received: 100, verdicts: 100, ..QueueIoStats::default() });
}

fn dropped_packets_end(backend: Backend) {
    let mut queue = open(backend, &QueueConfig::new(QUEUE)).unwrap();
    let udp = Udp::queued();
    for byte in 0..10 {
        udp.send(&[byte]);
    }
    let decide = &mut |packet: QueuedPacket<'_>| {
        if packet.payload.last().unwrap().is_multiple_of(2) { ACCEPT } else { Decision::DROP }
    };
    assert_eq!(drain(&mut *queue, decide), 10);
    for byte in [0, 2, 4, 6, 8] {
        assert_eq!(udp.receive(), [byte]);
    }
    assert!(udp.is_empty());
}

fn resized_packets_arrive_resized(backend: Backend) {
    for (ip, header, number) in [(V4, 20, 13), (V6, 40, 14)] {
        let mut queue = open(backend, &QueueConfig::new(number)).unwrap();
        let udp = Udp::through(ip, number);
        for length in 1..=9 {
            udp.send(&vec![b'a'; length]);
        }
        // Longer by up to 2,000 bytes, which is more than the kernel has room for, and shorter down to nothing.
        let resized = |length: usize| if length.is_multiple_of(2) { 2000 + length } else { length / 3 };
        drain_queue(number, &mut *queue, &mut |packet| {
            let length = resized(packet.payload.len() - header - 8);
            let mut bytes = packet.payload[..header + 8].to_vec();
            bytes.resize(header + 8 + length, b'b');
            set_lengths(&mut bytes);
            complete_checksum(&mut bytes);
            Decision { action: Action::AcceptResized(bytes), mark: None }
        });
        for length in 1..=9 {
            assert_eq!(udp.receive(), vec![b'b'; resized(length)], "{length} bytes over {ip}");
        }
    }
    assert_eq!(checksum_errors("Udp"), 0);
}

fn rewritten_packets_arrive_rewritten(backend: Backend) {
    for (ip, number, gso) in [(V4, 7, true), (V4, 8, false), (V6, 9, true), (V6, 10, false)] {
        let mut queue = open(backend, &QueueConfig { gso, ..QueueConfig::new(number) }).unwrap();
        let udp = Udp::through(ip, number);
        // Every remainder of a length by 4, for the padding.
        for length in 1..=33 {
            udp.send(&vec![b'a'; length]);
        }
        let mut owed = 0;
        drain_queue(number, &mut *queue, &mut |packet| {
            *packet.payload.last_mut().unwrap() = b'Z';
            owed += usize::from(packet.meta.checksum_owed);
            complete_checksum(packet.payload);
            REWRITTEN
        });
        for length in 1..=33 {
            let mut expected = vec![b'a'; length];
            expected[length - 1] = b'Z';
            assert_eq!(udp.receive(), expected);
        }
        // The loopback never sums; without F_GSO the kernel does before it queues.
        assert_eq!(owed, if gso { 33 } else { 0 });
    }
    assert_eq!(checksum_errors("Udp"), 0);
}

fn local_output_is_told_from_arrivals(backend: Backend) {
    let mut queue = open(backend, &QueueConfig::new(QUEUE)).unwrap();
    let udp = Udp::on(V4);
    udp.queue_at("OUTPUT", QUEUE);
    udp.queue_at("PREROUTING", QUEUE);
    udp.send(b"x");
    let mut hooks = Vec::new();
    serve_until(
        &mut *queue,
        &mut |packet| {
            hooks.push(packet.meta.hook);
            ACCEPT
        },
        || !udp.is_empty(),
    );
    assert_eq!(hooks, [Hook::Output, Hook::Prerouting]);
}

fn marks_are_read_set_and_kept(backend: Backend) {
    run("nft add table ip test");
    run("nft add counter ip test changed");
    run("nft add counter ip test kept");
    run("nft add chain ip test before { type filter hook prerouting priority -400 ; }");
    run("nft add chain ip test after { type filter hook prerouting priority -150 ; }");
    run("nft add rule ip test before meta l4proto udp meta mark set 0x1234");
    run("nft add rule ip test after meta mark 0xffff1234 counter name changed");
    run("nft add rule ip test after meta mark 0x1234 counter name kept");
    let mut queue = open(backend, &QueueConfig::new(QUEUE)).unwrap();
    let udp = Udp::queued();
    for byte in 0..5 {
        udp.send(&[byte]);
    }
    drain(&mut *queue, &mut |packet| {
        assert_eq!(packet.mark, 0x1234);
        let first_three = *packet.payload.last().unwrap() < 3;
        Decision { mark: first_three.then_some(packet.mark | 0xffff_0000), ..ACCEPT }
    });
    for byte in 0..5 {
        assert_eq!(udp.receive(), [byte]);
    }
    for (counter, packets) in [("changed", "packets 3 "), ("kept", "packets 2 ")] {
        let text = run(&format!("nft list counter ip test {counter}"));
        assert!(text.contains(packets), "{text}");
    }
}

fn gso_packets_are_written_back_whole(backend: Backend) {
    const MEGABYTES: usize = 24;
    let client = Namespace::new();
    run(&format!("ip link add near type veth peer name far netns {}", client.path()));
    run("ip addr add 192.0.2.1/24 dev near");
    run("ip link set near up");
    client.enter(|| {
        run("ip addr add 192.0.2.2/24 dev far");
        run("ip link set far up");
    });
    run("iptables -t raw -A PREROUTING -p tcp --dport 9000 -j NFQUEUE --queue-num 7");

    let mut queue = open(backend, &QueueConfig::new(QUEUE)).unwrap();
    let listener = TcpListener::bind("192.0.2.1:9000").unwrap();
    let block: Vec<u8> = (0..1 << 20).map(|i: u32| (i.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    let done = AtomicBool::new(false);
    let (mut gso, mut longest) = (0, 0);
    thread::scope(|scope| {
        scope.spawn(|| {
            client.enter(|| {
                let mut stream = TcpStream::connect("192.0.2.1:9000").unwrap();
                for _ in 0..MEGABYTES {
                    stream.write_all(&block).unwrap();
                }
            });
        });
        scope.spawn(|| {
            let _done = SetOnDrop(&done);
            let (mut stream, _) = listener.accept().unwrap();
            let mut received = vec![0; block.len()];
            for megabyte in 0..MEGABYTES {
                stream.read_exact(&mut received).unwrap();
                assert!(received == block, "megabyte {megabyte} differs");
            }
            assert_eq!(stream.read(&mut received).unwrap(), 0);
        });
        serve_until(
            &mut *queue,
            &mut |packet| {
                gso += u32::from(packet.meta.gso);
                longest = longest.max(packet.meta.original_len);
                complete_checksum(packet.payload);
                REWRITTEN
            },
            || done.load(Ordering::Relaxed),
        );
    });
    drain(&mut *queue, &mut |_| ACCEPT);
    assert!(gso > 0 && longest > 30_000, "{gso} GSO packets, the longest packet {longest} bytes");
    assert_eq!(checksum_errors("Tcp"), 0);
    let stats = queue.stats();
    let clean =
        QueueIoStats { received: stats.received, verdicts: stats.received, ..QueueIoStats::default() };
    assert_eq!(stats, clean);
}

fn a_packet_copied_in_part_is_not_written_back(backend: Backend) {
    let mut queue = open(backend, &QueueConfig { copy_range: 100, ..QueueConfig::new(QUEUE) }).unwrap();
    let udp = Udp::queued();
    for length in [500, 50, 501] {
        udp.send(&vec![7; length]);
    }
    let mut lengths = Vec::new();
    drain(&mut *queue, &mut |packet| {
        lengths.push((packet.meta.original_len, packet.payload.len()));
        if packet.meta.original_len == 529 {
            return ACCEPT;
        }
        if packet.payload.len() == packet.meta.original_len {
            complete_checksum(packet.payload);
        }
        REWRITTEN
    });
    assert_eq!(lengths, [(528, 100), (78, 78), (529, 100)]);
    assert_eq!(udp.receive(), [7; 50]);
    assert_eq!(udp.receive(), [7; 501], "accepting what was not copied is allowed");
    assert!(udp.is_empty());
    assert_eq!(
        queue.stats(),
        QueueIoStats { received: 3, verdicts: 3, truncated: 1, ..QueueIoStats::default() }
    );
}

fn resizing_loses_no_packet(backend: Backend) {
    let mut queue = open(backend, &QueueConfig { max_len: 50, ..QueueConfig::new(QUEUE) }).unwrap();
    let udp = Udp::queued();
    for byte in 0..50 {
        udp.send(&[byte]);
    }
    until("50 packets wait", || counters().waiting == 50);
    let room = match backend {
        Backend::Batched => {
            queue.resize(60).unwrap();
            10
        }
        Backend::Nfq => {
            assert_eq!(queue.resize(60).unwrap_err().kind(), ErrorKind::Unsupported);
            0
        }
    };
    for byte in 50..70 {
        udp.send(&[byte]);
    }
    until("20 packets arrived", || counters().numbered + counters().queue_dropped == 70);
    assert_eq!(counters().queue_dropped, 20 - room);
    assert_eq!(drain(&mut *queue, &mut |_| ACCEPT), 50 + room as usize);
    for byte in 0..50 + room as u8 {
        assert_eq!(udp.receive(), [byte]);
    }
    assert!(udp.is_empty());
}

fn a_flood_is_accounted_for(backend: Backend) {
    let mut queue = open(backend, &QueueConfig { max_len: 100, ..QueueConfig::new(QUEUE) }).unwrap();
    flood(3_000);
    until("all packets arrived", || counters().numbered + counters().queue_dropped == 3_000);
    assert_eq!((counters().waiting, counters().queue_dropped, counters().user_dropped), (100, 2_900, 0));
    assert_eq!(drain(&mut *queue, &mut |_| ACCEPT), 100);
}

fn a_full_receive_buffer_is_accounted_for(backend: Backend) {
    let mut queue =
        open(backend, &QueueConfig { receive_buffer: 100_000, ..QueueConfig::new(QUEUE) }).unwrap();
    flood(3_000);
    until("all packets arrived", || counters().numbered == 3_000);
    let QueueCounters { queue_dropped, user_dropped, waiting, .. } = counters();
    assert!((100..2_900).contains(&user_dropped), "{user_dropped} did not fit the buffer");
    assert_eq!((queue_dropped, waiting), (0, 3_000 - user_dropped));
    assert_eq!(drain(&mut *queue, &mut |_| ACCEPT), waiting as usize);
}

fn fail_open_lets_the_flood_pass(backend: Backend) {
    let config = QueueConfig { max_len: 10, fail_open: true, ..QueueConfig::new(QUEUE) };
    let mut queue = open(backend, &config).unwrap();
    let udp = Udp::queued();
    for byte in 0..50 {
        udp.send(&[byte]);
    }
    for byte in 10..50 {
        assert_eq!(udp.receive(), [byte], "passed at once");
    }
    assert_eq!(drain(&mut *queue, &mut |_| ACCEPT), 10);
    for byte in 0..10 {
        assert_eq!(udp.receive(), [byte], "passed the queue");
    }
    assert_eq!(counters().queue_dropped, 0);
}

fn a_verdict_that_comes_too_late_is_counted(backend: Backend) {
    let mut queue = open(backend, &QueueConfig::new(QUEUE)).unwrap();
    let udp = Udp::queued();
    for byte in 0..3 {
        udp.send(&[byte]);
    }
    until("3 packets wait", || counters().waiting == 3);
    // The kernel drops the packets of a device that goes down (`nfqnl_dev_drop`); their messages stay.
    run("ip link set lo down");
    until("the packets are gone", || counters().waiting == 0);
    run("ip link set lo up");
    udp.send(b"alive");
    let mut handled = 0;
    for _ in 0..20 {
        handled += queue.serve(PATIENCE, &mut |_| ACCEPT).unwrap();
        if handled == 4 && queue.stats().refused == 3 {
            break;
        }
    }
    assert_eq!(udp.receive(), b"alive");
    assert_eq!(
        queue.stats(),
        QueueIoStats { received: 4, verdicts: 4, refused: 3, ..QueueIoStats::default() }
    );
}

fn a_burst_larger_than_the_send_buffer_is_sent(backend: Backend) {
    let mut queue =
        open(backend, &QueueConfig { send_buffer: 512 << 10, ..QueueConfig::new(QUEUE) }).unwrap();
    let udp = Udp::queued();
    for byte in 0..60 {
        udp.send(&[byte; 65_000]);
    }
    until("60 packets wait", || counters().waiting == 60);
    let handled = queue
        .serve(PATIENCE, &mut |packet| {
            complete_checksum(packet.payload);
            REWRITTEN
        })
        .unwrap();
    // 3.9 MB of verdicts from one call, for a buffer that takes 1 MiB.
    assert_eq!(handled, 60);
    for byte in 0..60 {
        assert!(udp.receive() == [byte; 65_000], "datagram {byte}");
    }
    assert_eq!(counters().waiting, 0);
    assert_eq!(queue.stats(), QueueIoStats { received: 60, verdicts: 60, ..QueueIoStats::default() });
}

fn a_verdict_larger_than_the_send_buffer_becomes_a_drop(backend: Backend) {
    let mut queue = open(backend, &QueueConfig { send_buffer: 8_192, ..QueueConfig::new(QUEUE) }).unwrap();
    let udp = Udp::queued();
    udp.send(&[1; 10]);
    udp.send(&[2; 60_000]);
    udp.send(&[3; 10]);
    until("3 packets wait", || counters().waiting == 3);
    drain(&mut *queue, &mut |packet| {
        complete_checksum(packet.payload);
        REWRITTEN
    });
    assert_eq!(udp.receive(), [1; 10]);
    assert_eq!(udp.receive(), [3; 10]);
    assert!(udp.is_empty());
    let QueueIoStats { verdicts, send_failures, verdicts_lost, .. } = queue.stats();
    assert_eq!((verdicts, send_failures, verdicts_lost), (2, 1, 1));
}

fn a_second_owner_is_refused_by_name(backend: Backend) {
    for first in [Backend::Batched, Backend::Nfq] {
        let mut queue = None;
        // The queue of the round before is not free at once: a process that another test is starting right now may
        // share its socket for a moment.
        until("the queue is free", || {
            queue = open(first, &QueueConfig::new(QUEUE)).ok();
            queue.is_some()
        });
        let error = open(backend, &QueueConfig::new(QUEUE)).err().expect("the queue is taken");
        let port = counters().owner;
        assert!(
            matches!(error, OpenError::Owned { queue: QUEUE, owner: Some(owner) } if owner == port),
            "{error}"
        );
        assert_eq!(
            error.to_string(),
            format!("queue 7 is already served by another process (netlink port {port})")
        );
    }
}

fn a_missing_capability_is_named(backend: Backend) {
    use rustix::thread::{CapabilitySet, capabilities, set_capabilities};
    // Of this thread only.
    let mut sets = capabilities(None).unwrap();
    sets.effective.remove(CapabilitySet::NET_ADMIN);
    set_capabilities(None, sets).unwrap();
    let error = open(backend, &QueueConfig::new(QUEUE)).err().expect("the capability is missing");
    assert!(matches!(error, OpenError::MissingCapability { queue: QUEUE }), "{error}");
    assert!(error.to_string().contains("CAP_NET_ADMIN"), "{error}");
}

fn nothing_to_serve_is_no_error(backend: Backend) {
    let mut queue =
        open(backend, &QueueConfig { copy_range: WHOLE_PACKET, ..QueueConfig::new(QUEUE) }).unwrap();
    for patience in [Duration::ZERO, Duration::from_nanos(1), Duration::from_millis(5)] {
        assert_eq!(queue.serve(patience, &mut |_| panic!("no packet was sent")).unwrap(), 0);
    }
    assert_eq!(queue.stats(), QueueIoStats::default());
}

// Helpers.

const QUEUE: u16 = 7;
const V4: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
const V6: IpAddr = IpAddr::V6(Ipv6Addr::LOCALHOST);
const ACCEPT: Decision = Decision { action: Action::Accept, mark: None };
const REWRITTEN: Decision = Decision { action: Action::AcceptRewritten, mark: None };
const PATIENCE: Duration = Duration::from_millis(20);
/// How often a condition is looked at, `PATIENCE` apart, before the test fails.
const LOOKS: u32 = 1_000;

/// A UDP sender and receiver on the loopback.
struct Udp {
    sender: UdpSocket,
    receiver: UdpSocket,
}

impl Udp {
    /// What is sent goes through [`QUEUE`].
    fn queued() -> Udp {
        Udp::through(V4, QUEUE)
    }

    fn through(ip: IpAddr, queue: u16) -> Udp {
        let udp = Udp::on(ip);
        udp.queue_at("PREROUTING", queue);
        udp
    }

    fn on(ip: IpAddr) -> Udp {
        let receiver = UdpSocket::bind(SocketAddr::new(ip, 0)).unwrap();
        let sender = UdpSocket::bind(SocketAddr::new(ip, 0)).unwrap();
        sender.connect(receiver.local_addr().unwrap()).unwrap();
        receiver.set_read_timeout(Some(PATIENCE * LOOKS)).unwrap();
        sockopt::set_socket_recv_buffer_size_force(&receiver, 64 << 20).unwrap();
        Udp { sender, receiver }
    }

    /// Queues what is on the way at the given hook.
    fn queue_at(&self, chain: &str, queue: u16) {
        let program = if self.address().is_ipv4() { "iptables" } else { "ip6tables" };
        let port = self.address().port();
        run(&format!("{program} -t raw -A {chain} -p udp --dport {port} -j NFQUEUE --queue-num {queue}"));
    }

    fn address(&self) -> SocketAddr {
        self.receiver.local_addr().unwrap()
    }

    fn send(&self, bytes: &[u8]) {
        self.sender.send(bytes).unwrap();
    }

    fn receive(&self) -> Vec<u8> {
        let mut buffer = vec![0; 65_536];
        let length = self.receiver.recv(&mut buffer).expect("a datagram");
        buffer.truncate(length);
        buffer
    }

    /// Nothing is there to receive now.
    fn is_empty(&self) -> bool {
        self.receiver.set_nonblocking(true).unwrap();
        let result = self.receiver.peek(&mut [0]);
        self.receiver.set_nonblocking(false).unwrap();
        result.is_err_and(|error| error.kind() == ErrorKind::WouldBlock)
    }
}

/// Sends `count` datagrams to the queue and lets go of them.
fn flood(count: u32) {
    let udp = Udp::queued();
    for number in 0..count {
        udp.send(&number.to_be_bytes());
    }
}

/// Serves until the condition holds. Returns how many packets were handled.
fn serve_until(
    queue: &mut dyn PacketQueue,
    decide: &mut dyn FnMut(QueuedPacket<'_>) -> Decision,
    condition: impl Fn() -> bool,
) -> usize {
    let mut handled = 0;
    let mut idle = 0;
    while !condition() {
        match queue.serve(PATIENCE, decide).unwrap() {
            0 => idle += 1,
            packets => {
                handled += packets;
                idle = 0;
            }
        }
        assert!(idle < LOOKS, "nothing comes, and nothing changes; handled {handled}");
    }
    handled
}

/// Serves until no packet is left without verdict.
fn drain(queue: &mut dyn PacketQueue, decide: &mut dyn FnMut(QueuedPacket<'_>) -> Decision) -> usize {
    drain_queue(QUEUE, queue, decide)
}

fn drain_queue(
    number: u16,
    queue: &mut dyn PacketQueue,
    decide: &mut dyn FnMut(QueuedPacket<'_>) -> Decision,
) -> usize {
    serve_until(queue, decide, || counters_of(number).waiting == 0)
}

fn until(what: &str, mut condition: impl FnMut() -> bool) {
    for _ in 0..LOOKS {
        if condition() {
            return;
        }
        thread::sleep(PATIENCE);
    }
    panic!("waited in vain until {what}: {:?}", read_counters());
}

fn counters() -> QueueCounters {
    counters_of(QUEUE)
}

fn counters_of(number: u16) -> QueueCounters {
    let all = read_counters().unwrap();
    *all.iter().find(|counters| counters.queue == number).expect("the queue is open")
}

/// How often the kernel met a wrong checksum in this namespace.
fn checksum_errors(protocol: &str) -> u32 {
    let text = std::fs::read_to_string("/proc/thread-self/net/snmp").unwrap();
    let mut lines = text.lines().filter(|line| line.starts_with(&format!("{protocol}:")));
    let (names, values) = (lines.next().unwrap(), lines.next().unwrap());
    let column = names.split(' ').position(|name| name == "InCsumErrors").unwrap();
    values.split(' ').nth(column).unwrap().parse().unwrap()
}

/// Writes the whole checksum of a TCP or UDP packet without IPv6 extension headers.
fn complete_checksum(packet: &mut [u8]) {
    let (addresses, header_len, protocol) = match packet[0] >> 4 {
        4 => (12..20, usize::from(packet[0] & 15) * 4, packet[9]),
        _ => (8..40, 40, packet[6]),
    };
    let field = header_len + if protocol == 6 { 16 } else { 6 };
    packet[field..field + 2].fill(0);
    let words = |bytes: &[u8]| -> u64 {
        let (pairs, rest) = bytes.as_chunks::<2>();
        pairs.iter().map(|pair| u64::from(u16::from_be_bytes(*pair))).sum::<u64>()
            + rest.iter().map(|byte| u64::from(*byte) << 8).sum::<u64>()
    };
    let l4 = &packet[header_len..];
    let mut sum = words(&packet[addresses]) + words(l4) + l4.len() as u64 + u64::from(protocol);
    while sum > 0xffff {
        sum = (sum >> 16) + (sum & 0xffff);
    }
    let sum = match !(sum as u16) {
        0 if protocol == 17 => 0xffff,
        sum => sum,
    };
    packet[field..field + 2].copy_from_slice(&sum.to_be_bytes());
}

/// Writes the lengths that an IP header without options and the UDP header behind it have to have.
fn set_lengths(packet: &mut [u8]) {
    let len = packet.len() as u16;
    let header_len = if packet[0] >> 4 == 4 { 20 } else { 40 };
    packet[header_len + 4..header_len + 6].copy_from_slice(&(len - header_len as u16).to_be_bytes());
    if header_len == 40 {
        packet[4..6].copy_from_slice(&(len - 40).to_be_bytes());
        return;
    }
    packet[2..4].copy_from_slice(&len.to_be_bytes());
    packet[10..12].fill(0);
    let mut sum: u32 =
        packet[..20].as_chunks::<2>().0.iter().map(|pair| u32::from(u16::from_be_bytes(*pair))).sum();
    while sum > 0xffff {
        sum = (sum >> 16) + (sum & 0xffff);
    }
    packet[10..12].copy_from_slice(&(!(sum as u16)).to_be_bytes());
}

/// Ends the serving loop also when the thread that should end it fails.
struct SetOnDrop<'a>(&'a AtomicBool);

impl Drop for SetOnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}
