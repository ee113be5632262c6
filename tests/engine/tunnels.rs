//! Tunnels: what packets are wrapped in, what fits, and who is told of what does not.

use crate::bed::{
    ACK, Bed, FIN, SYN, endpoints, icmp_payload, key, marked, raw, sctp, server, tcp, udp, unreachable,
};
use etherparse::{IpNumber, NetSlice, SlicedPacket, TransportSlice};
use nfvs::director::packet::Transport::{Sctp, Tcp, Udp};
use nfvs::director::packet::{Problem, icmp_error};
use nfvs::director::scheduler::SchedulerKind::Rr;
use nfvs::director::service::{
    Family, ForwardMethod, Fwmark, GueChecksum, ServiceSettings, Tunables, Tunnel,
};
use nfvs::director::{
    Command, DropReason, Encapsulation, Hook, Onward, Outer, PacketMeta, Path, ReplySource, ServerSpec,
    Verdict,
};
use std::net::{IpAddr, SocketAddr};

/// A VIP and a client in each family, each with a server of either.
const VIPS: [[&str; 2]; 2] = [["10.0.0.100:80", "10.0.1.2:5000"], ["[fd00::100]:80", "[fd00:1::2]:5000"]];
const SERVERS: [&str; 2] = ["10.0.2.11:80", "[fd00:2::11]:80"];
/// The director towards the servers.
const DIRECTOR: [&str; 2] = ["10.0.2.1", "fd00:2::1"];

const KINDS: [Tunnel; 6] = [
    Tunnel::Ipip,
    Tunnel::Gre { checksum: false },
    Tunnel::Gre { checksum: true },
    Tunnel::Gue { port: 6080, checksum: GueChecksum::None },
    Tunnel::Gue { port: 6080, checksum: GueChecksum::Full },
    Tunnel::Gue { port: 6080, checksum: GueChecksum::Remote },
];

fn tunnelled(address: &str, tunnel: Tunnel) -> ServerSpec {
    ServerSpec { forward: ForwardMethod::Tunnel, tunnel, ..server(address, 1) }
}

fn bed(vip: &str, server: &str, tunnel: Tunnel) -> Bed {
    Bed::serving_specs(Tcp, vip, Rr, vec![tunnelled(server, tunnel)])
}

fn path(index: usize, mtu: u32) -> Path {
    Path { source: DIRECTOR[index].parse().unwrap(), mtu }
}

#[track_caller]
fn encapsulated(verdict: &Verdict) -> Encapsulation {
    let Verdict::Encapsulate(encapsulation) = verdict else { panic!("not encapsulated: {verdict:?}") };
    *encapsulation
}

#[track_caller]
fn sent(onward: Onward) -> Outer {
    let Onward::Send(outer) = onward else { panic!("not sent: {onward:?}") };
    outer
}

/// The outer packet as the kernel makes it of headers and payload.
fn outer_packet(outer: &Outer, path: Path, inner: &[u8]) -> Vec<u8> {
    let payload = [&outer.header, &inner[..outer.inner_len]].concat();
    raw(path.source, outer.destination, IpNumber(outer.protocol), &payload)
}

/// What an independent library finds in an outer packet: the inner one, behind right checksums.
fn unwrapped(packet: &[u8], tunnel: Tunnel) -> Vec<u8> {
    let sliced = SlicedPacket::from_ip(packet).unwrap();
    let payload = sliced.net.as_ref().and_then(NetSlice::ip_payload_ref).unwrap();
    match tunnel {
        Tunnel::Ipip => payload.payload.to_vec(),
        Tunnel::Gre { checksum } => {
            assert_eq!(payload.ip_number, IpNumber::GRE);
            let (header, inner) = payload.payload.split_at(if checksum { 8 } else { 4 });
            assert_eq!(header[..2], if checksum { [0x80, 0] } else { [0, 0] });
            assert_eq!(header[2..4], if inner[0] >> 4 == 4 { [0x08, 0x00] } else { [0x86, 0xdd] });
            if checksum {
                let sum = etherparse::checksum::u32_16bit_word::add_slice(0, payload.payload);
                assert_eq!(etherparse::checksum::u32_16bit_word::ones_complement(sum), 0);
                assert_eq!(header[6..], [0, 0]);
            }
            inner.to_vec()
        }
        Tunnel::Gue { port, checksum } => {
            let Some(TransportSlice::Udp(udp)) = &sliced.transport else { panic!("not UDP: {sliced:?}") };
            assert_eq!(udp.destination_port(), port);
            assert!(udp.source_port() >= 49_152, "{}", udp.source_port());
            assert_eq!(usize::from(udp.length()), payload.payload.len());
            let right = match &sliced.net {
                Some(NetSlice::Ipv4(ip)) => {
                    udp.to_header().calc_checksum_ipv4(&ip.header().to_header(), udp.payload()).unwrap()
                }
                Some(NetSlice::Ipv6(ip)) => {
                    udp.to_header().calc_checksum_ipv6(&ip.header().to_header(), udp.payload()).unwrap()
                }
                other => panic!("{other:?}"),
            };
            assert_eq!(udp.checksum(), if checksum == GueChecksum::None { 0 } else { right });
            let (header, inner) = udp.payload().split_at(4);
            assert_eq!(header, [0, if inner[0] >> 4 == 4 { 4 } else { 41 }, 0, 0]);
            inner.to_vec()
        }
    }
}

/// IPv4 and IPv6 in both, in every kind of tunnel; of odd length, too.
#[test]
fn every_kind_of_tunnel_carries_either_family_over_either() {
    for tunnel in KINDS {
        for ([vip, client], (index, server)) in
            VIPS.into_iter().flat_map(|vip| SERVERS.into_iter().enumerate().map(move |server| (vip, server)))
        {
            let bed = bed(vip, server, tunnel);
            for (flags, content) in [(SYN, &b""[..]), (ACK, b"odd"), (ACK, b"even")] {
                let mut packet = tcp(client, vip, flags, content);
                let mut expected = packet.clone();
                let encapsulation = encapsulated(&bed.handle(&mut packet));
                let outer = sent(encapsulation.onward(path(index, 1500), &packet));
                let case = format!("{client} to {vip} by {server} in {tunnel}");
                assert_eq!(outer.destination, server.parse::<SocketAddr>().unwrap().ip(), "{case}");
                assert_eq!(outer.header.len(), tunnel.header_len());
                let unwrapped = unwrapped(&outer_packet(&outer, path(index, 1500), &packet), tunnel);
                assert_eq!(unwrapped, packet, "{case}");
                // The hop is all that has changed.
                assert_eq!(outer.hop_limit, 63);
                if vip.starts_with('[') {
                    expected[7] = 63;
                } else {
                    expected[8] = 63;
                    expected[10] += 1;
                }
                assert_eq!(unwrapped, expected, "{case}");
                let protocol = match (tunnel, vip.starts_with('[')) {
                    (Tunnel::Ipip, false) => 4,
                    (Tunnel::Ipip, true) => 41,
                    (Tunnel::Gre { .. }, _) => 47,
                    (Tunnel::Gue { .. }, _) => 17,
                };
                assert_eq!(outer.protocol, protocol, "{case}");
            }
            bed.director.check_invariants();
        }
    }
}

#[test]
fn flows_have_their_gue_port_and_packets_of_a_flow_the_same() {
    let [vip, _] = VIPS[0];
    let bed = bed(vip, SERVERS[0], Tunnel::Gue { port: 6080, checksum: GueChecksum::None });
    let port = |client: &str, flags| encapsulated(&bed.tcp(client, vip, flags).verdict).source_port;
    let ports: Vec<u16> = (0..32).map(|flow| port(&format!("10.0.1.2:{}", 4000 + flow), SYN)).collect();
    let mut different = ports.clone();
    different.sort_unstable();
    different.dedup();
    assert!(different.len() > 28, "{ports:?}");
    for (flow, expected) in ports.into_iter().enumerate() {
        assert_eq!(port(&format!("10.0.1.2:{}", 4000 + flow), ACK), expected);
    }
}

/// The kernel's rule: what the packet says, but that of congestion only that it may be told.
#[test]
fn the_outer_header_has_the_inner_type_of_service_and_its_fragment_flag() {
    let [vip, client] = VIPS[0];
    let bed = bed(vip, SERVERS[0], Tunnel::Ipip);
    bed.tcp(client, vip, SYN);
    for (inner, expected) in [(0x00, 0x00), (0x2b, 0x2a), (0x29, 0x29), (0x2a, 0x2a), (0xb8, 0xb8)] {
        for (flags, may_be_fragmented) in [(0x40, false), (0x00, true)] {
            let mut packet = tcp(client, vip, ACK, b"");
            (packet[1], packet[6]) = (inner, flags);
            let encapsulation = encapsulated(&bed.handle_any(Hook::Prerouting, &mut packet));
            let outer = sent(encapsulation.onward(path(0, 1500), &packet));
            assert_eq!((outer.traffic_class, outer.may_be_fragmented), (expected, may_be_fragmented));
        }
    }
    let [vip, client] = VIPS[1];
    let bed = self::bed(vip, SERVERS[1], Tunnel::Ipip);
    let mut packet = tcp(client, vip, SYN, b"");
    (packet[0], packet[1]) = (0x62, 0xb0);
    let encapsulation = encapsulated(&bed.handle_any(Hook::Prerouting, &mut packet));
    assert_eq!(sent(encapsulation.onward(path(1, 1500), &packet)).traffic_class, 0x2a);
}

/// What an ICMP error says: from whom, to whom, type and code, the number in it, and whose packet it is about.
#[track_caller]
fn read_error(error: &[u8]) -> (IpAddr, IpAddr, u8, u8, u32, (SocketAddr, SocketAddr)) {
    crate::bed::assert_right_checksums(error);
    let (from, to) = endpoints(error);
    let header = if from.is_ipv4() { 20 } else { 40 };
    let number = u32::from_be_bytes(error[header + 4..header + 8].try_into().unwrap());
    let about = endpoints_of_part(icmp_payload(error));
    (from.ip(), to.ip(), error[header], error[header + 1], number, about)
}

/// The same as `endpoints`, of a packet that may be cut.
fn endpoints_of_part(bytes: &[u8]) -> (SocketAddr, SocketAddr) {
    let (header, address) = if bytes[0] >> 4 == 4 { (20, 12..20) } else { (40, 8..40) };
    let addresses = &bytes[address];
    let ip = |bytes: &[u8]| match bytes.len() {
        4 => IpAddr::from(<[u8; 4]>::try_from(bytes).unwrap()),
        _ => IpAddr::from(<[u8; 16]>::try_from(bytes).unwrap()),
    };
    let (from, to) = addresses.split_at(addresses.len() / 2);
    let port = |at: usize| u16::from_be_bytes([bytes[header + at], bytes[header + at + 1]]);
    (SocketAddr::new(ip(from), port(0)), SocketAddr::new(ip(to), port(2)))
}

fn at(endpoint: &str) -> SocketAddr {
    endpoint.parse().unwrap()
}

#[test]
fn the_last_hop_is_told_to_the_client_in_the_name_of_the_virtual_address() {
    for ([vip, client], kind) in VIPS.into_iter().zip([11, 3]) {
        let bed = bed(vip, SERVERS[0], Tunnel::Ipip);
        let with_hops = |hops| {
            let mut packet = tcp(client, vip, SYN, b"");
            packet[if vip.starts_with('[') { 7 } else { 8 }] = hops;
            packet
        };
        for hops in [0, 1] {
            let verdict = bed.handle_any(Hook::Prerouting, &mut with_hops(hops));
            let Verdict::Tell { error, goes_on: false } = verdict else { panic!("{verdict:?}") };
            let told = (at(vip).ip(), at(client).ip(), kind, 0, 0, (at(client), at(vip)));
            assert_eq!(read_error(&error), told);
        }
        assert_eq!(bed.director.drops(DropReason::HopLimit), 2);
        assert_eq!(encapsulated(&bed.handle_any(Hook::Prerouting, &mut with_hops(2))).inner.hop_limit, 1);
        // A client on this host is no hop away.
        assert_eq!(encapsulated(&bed.handle_any(Hook::Output, &mut with_hops(1))).inner.hop_limit, 1);
    }
}

#[test]
fn errors_are_bounded_but_those_that_find_the_mtu() {
    let [vip, client] = VIPS[0];
    let bed = bed(vip, SERVERS[0], Tunnel::Ipip);
    let packet = tcp(client, vip, SYN, b"");
    let told = |problem| (0..200).filter(|_| bed.director.tell(bed.now, problem, &packet).is_some()).count();
    assert_eq!(told(Problem::HopLimit), 50);
    assert_eq!(told(Problem::Unreachable), 0);
    assert_eq!(told(Problem::TooBig { mtu: 1400 }), 200);
}

/// Nobody could be told of what came from no one host.
#[test]
fn no_error_is_sent_to_many() {
    for source in ["0.0.0.0:5000", "255.255.255.255:5000", "224.0.0.1:5000", "[::]:5000", "[ff02::1]:5000"] {
        let vip = if source.starts_with('[') { VIPS[1][0] } else { VIPS[0][0] };
        assert_eq!(icmp_error(&tcp(source, vip, SYN, b""), Problem::Unreachable), None, "{source}");
    }
    assert_eq!(icmp_error(&[], Problem::Unreachable), None);
    assert_eq!(icmp_error(&[0x45; 19], Problem::Unreachable), None);
}

/// Inner family, outer family, tunnel, MTU of the path, length of the packet, and what its sender is told.
#[test]
fn what_does_not_fit_is_told_with_the_room_there_is() {
    let gre = Tunnel::Gre { checksum: true };
    let gue = Tunnel::Gue { port: 6080, checksum: GueChecksum::Full };
    for (inner, outer, tunnel, mtu, len, told) in [
        (0, 0, Tunnel::Ipip, 1500, 1480, None),
        (0, 0, Tunnel::Ipip, 1500, 1481, Some(1480)),
        (0, 0, Tunnel::Ipip, 1300, 1500, Some(1280)),
        (0, 0, gre, 1500, 1473, Some(1472)),
        (0, 0, gue, 1500, 1468, None),
        (0, 0, gue, 1500, 1469, Some(1468)),
        (0, 1, Tunnel::Ipip, 1500, 1461, Some(1460)),
        (0, 1, gue, 1300, 1249, Some(1248)),
        (1, 0, Tunnel::Ipip, 1500, 1480, None),
        (1, 0, Tunnel::Ipip, 1500, 1481, Some(1480)),
        // Less than what every link of IPv6 takes is never asked for: such packets go in pieces.
        (1, 0, Tunnel::Ipip, 1290, 1281, Some(1280)),
        (1, 0, Tunnel::Ipip, 1290, 1280, None),
        (1, 1, Tunnel::Ipip, 1300, 1281, Some(1280)),
        (1, 1, gre, 1300, 1280, None),
    ] {
        let [vip, client] = VIPS[inner];
        let bed = bed(vip, SERVERS[outer], tunnel);
        let headers = if inner == 0 { 40 } else { 60 };
        let mut packet = tcp(client, vip, SYN, &vec![7; len - headers]);
        let encapsulation = encapsulated(&bed.handle_any(Hook::Prerouting, &mut packet));
        let case = format!("{len} bytes from {client} to {} in {tunnel}, {mtu}", SERVERS[outer]);
        match (encapsulation.onward(path(outer, mtu), &packet), told) {
            (Onward::Send(_), None) => {}
            (Onward::Tell(problem), Some(told)) => {
                assert_eq!(problem, Problem::TooBig { mtu: told }, "{case}");
                let error = bed.director.tell(bed.now, problem, &packet).unwrap();
                let (kind, code) = if inner == 0 { (3, 4) } else { (2, 0) };
                let expected = (at(vip).ip(), at(client).ip(), kind, code, told, (at(client), at(vip)));
                assert_eq!(read_error(&error), expected, "{case}");
                assert!(error.len() <= if inner == 0 { 576 } else { 1280 }, "{case}");
            }
            (onward, told) => panic!("{case}: {onward:?} instead of {told:?}"),
        }
    }
}

#[test]
fn what_may_be_fragmented_is_sent_whatever_fits() {
    let [vip, client] = VIPS[0];
    let bed = bed(vip, SERVERS[0], Tunnel::Ipip);
    let may_be_fragmented = |bed: &Bed, dont_fragment: bool| {
        let mut packet = tcp(client, vip, SYN, &[7; 1460]);
        packet[6] = if dont_fragment { 0x40 } else { 0 };
        let encapsulation = encapsulated(&bed.handle_any(Hook::Prerouting, &mut packet));
        matches!(encapsulation.onward(path(0, 1300), &packet), Onward::Send(outer) if outer.may_be_fragmented)
    };
    assert_eq!([may_be_fragmented(&bed, false), may_be_fragmented(&bed, true)], [true, false]);
    // A datagram of IPv6 may have come in fragments; its sender could do nothing about its length.
    let [vip_6, client_6] = VIPS[1];
    let bed_6 = Bed::serving_specs(Udp, vip_6, Rr, vec![tunnelled(SERVERS[1], Tunnel::Ipip)]);
    let mut datagram = udp(client_6, vip_6, &[7; 20_000]);
    let encapsulation = encapsulated(&bed_6.handle_any(Hook::Prerouting, &mut datagram));
    assert!(sent(encapsulation.onward(path(1, 1300), &datagram)).may_be_fragmented);

    let tunables = Tunables { pmtu_disc: false, ..Tunables::default() };
    bed.director.apply(&[Command::SetTunables(tunables)]).unwrap();
    assert_eq!([may_be_fragmented(&bed, false), may_be_fragmented(&bed, true)], [true, true]);
}

#[test]
fn a_path_without_room_takes_nothing_and_a_server_on_this_host_gets_the_packet_as_it_came() {
    let [vip, client] = VIPS[0];
    let bed = bed(vip, SERVERS[0], Tunnel::Ipip);
    let mut packet = tcp(client, vip, SYN, b"");
    let encapsulation = encapsulated(&bed.handle_any(Hook::Prerouting, &mut packet));
    assert_eq!(encapsulation.onward(path(0, 87), &packet), Onward::Drop(DropReason::TunnelMtu));
    let here = Path { source: at(SERVERS[0]).ip(), mtu: 65_536 };
    assert_eq!(encapsulation.onward(here, &packet), Onward::Local);
    // Longer than a datagram can be with what GUE puts before it.
    let gue = Encapsulation { tunnel: KINDS[3], ..encapsulation };
    let mut long = tcp(client, vip, SYN, &vec![7; 65_490]);
    let inner = encapsulated(&bed.handle_any(Hook::Prerouting, &mut long)).inner;
    let gue = Encapsulation { inner, may_be_fragmented: true, ..gue };
    assert_eq!(gue.onward(path(0, 1500), &long), Onward::Drop(DropReason::TunnelMtu));
}

#[test]
fn what_a_tunnel_takes_is_whole_and_owes_nothing() {
    let [vip, client] = VIPS[0];
    let bed = bed(vip, SERVERS[0], Tunnel::Ipip);
    let mut packet = tcp(client, vip, SYN, b"content");
    let complete = packet.clone();
    let meta = PacketMeta {
        hook: Hook::Output,
        checksum_owed: true,
        gso: false,
        original_len: packet.len(),
        mark: None,
    };
    packet[36..38].copy_from_slice(&[0xab, 0xcd]);
    let verdict = bed.director.handle_packet(bed.now, &meta, &mut packet);
    assert!(matches!(verdict, Verdict::Encapsulate(_)));
    assert_eq!(packet, complete, "the checksum is paid");

    let gso = PacketMeta { gso: true, ..meta };
    let verdict = bed.director.handle_packet(bed.now, &gso, &mut packet);
    assert_eq!(verdict, Verdict::Drop(DropReason::TunnelSegments));
    let cut = PacketMeta { original_len: packet.len() + 1, ..meta };
    packet[3] += 1;
    let verdict = bed.director.handle_packet(bed.now, &cut, &mut packet);
    assert_eq!(verdict, Verdict::Drop(DropReason::Truncated));
    // A datagram without checksum stays without; padding behind the packet stays here.
    let bed = Bed::serving_specs(Udp, vip, Rr, vec![tunnelled(SERVERS[0], Tunnel::Ipip)]);
    let mut datagram = udp(client, vip, b"question");
    datagram[26..28].fill(0);
    let len = datagram.len();
    datagram.extend([0; 6]);
    let encapsulation = encapsulated(&bed.handle_any(Hook::Prerouting, &mut datagram));
    assert_eq!(datagram[26..28], [0, 0]);
    assert_eq!(sent(encapsulation.onward(path(0, 1500), &datagram)).inner_len, len);
}

/// Flags as in the kernel: TUNNEL, NOOUTPUT until a reply passes, INACTIVE.
#[test]
fn a_connection_has_the_flags_and_states_of_one_whose_replies_are_not_seen() {
    let ([vip, client], server) = (VIPS[0], SERVERS[0]);
    let bed = bed(vip, server, Tunnel::Ipip);
    let row = |state: &str, expires: u32, flags: &str| {
        vec![format!("tcp {client} -> {vip} -> {server} {state} {expires} {flags}")]
    };
    for (flags, expected) in [
        (SYN, row("SYN_RECV", 60, "0x0082")),
        (ACK, row("ESTABLISHED", 900, "0x0082")),
        (FIN | ACK, row("FIN_WAIT", 120, "0x0182")),
    ] {
        bed.tcp(client, vip, flags);
        assert_eq!(bed.states(), expected);
    }
    bed.tcp(vip, client, FIN | ACK);
    assert_eq!(bed.states(), row("FIN_WAIT", 120, "0x0102"));
}

/// A host that has the VIP takes a reply for its own unless it looks like the server's; over another family it cannot.
#[test]
fn replies_that_cross_the_director_are_routed_as_the_servers_where_that_can_be_said() {
    let [vip, client] = VIPS[0];
    let bed = Bed::serving_specs(Tcp, vip, Rr, SERVERS.map(|of| tunnelled(of, Tunnel::Ipip)).into());
    let steered = bed.director.steering().remove(0);
    let address = |server: &str| at(server).ip();
    assert_eq!(steered.tunnels, [address(SERVERS[1]), address(SERVERS[0])]);
    assert!(steered.servers.is_empty());
    let [(routed, route)] = steered.routes[..] else { panic!("one route: {:?}", steered.routes) };
    assert_eq!(routed, address(SERVERS[0]));
    let mut verdicts = vec![];
    for port in 6000..6002 {
        let client = format!("10.0.1.2:{port}");
        let to = encapsulated(&bed.tcp(&client, vip, SYN).verdict).server;
        verdicts.push((to, bed.tcp(vip, &client, SYN | ACK).verdict));
    }
    verdicts.sort_by_key(|(to, _)| *to);
    assert_eq!(verdicts[0], (address(SERVERS[0]), Verdict::Route(route)));
    assert_eq!(verdicts[1], (address(SERVERS[1]), Verdict::Forward { rewritten: None, source: None }));
    assert!(bed.tcp(client, vip, SYN).verdict != Verdict::Route(route));
}

#[test]
fn connections_keep_their_method_and_take_the_tunnel_that_the_server_has_now() {
    let ([vip, client], first) = (VIPS[0], SERVERS[0]);
    let bed = bed(vip, first, Tunnel::Ipip);
    bed.tcp(client, vip, SYN);
    let edit = |spec: ServerSpec| bed.director.apply(&[Command::EditServer(key(Tcp, vip), spec)]).unwrap();
    let gre = Tunnel::Gre { checksum: false };
    edit(tunnelled(first, gre));
    assert_eq!(encapsulated(&bed.tcp(client, vip, ACK).verdict).tunnel, gre);
    edit(server(first, 1));
    assert_eq!(encapsulated(&bed.tcp(client, vip, ACK).verdict).server, at(first).ip());
    assert_eq!(bed.tcp("10.0.1.2:5001", vip, SYN).destination(), first);
    // Its packets keep coming segment by segment.
    assert_eq!(bed.director.steering().remove(0).tunnels, [at(first).ip()]);
}

#[test]
fn every_service_has_servers_behind_tunnels() {
    let [vip, client] = VIPS[0];
    let mark = Fwmark::new(5).unwrap();
    let one_packet = ServiceSettings { one_packet: true, ..ServiceSettings::default() };
    let bed = Bed::serving_specs(Sctp, vip, Rr, vec![tunnelled(SERVERS[0], Tunnel::Ipip)]);
    bed.add_specs(Udp, vip, Rr, one_packet, vec![tunnelled(SERVERS[0], Tunnel::Ipip)]);
    bed.add_service_specs(marked(5, Family::V4), Rr, vec![tunnelled("[fd00:2::11]:0", Tunnel::Ipip)]);
    encapsulated(&bed.handle_any(Hook::Prerouting, &mut sctp(client, vip, 1)));
    encapsulated(&bed.udp(client, vip).verdict);
    let anywhere = "192.0.2.7:443";
    let mut request = tcp(client, anywhere, SYN, b"");
    let verdict = bed.handle_at(Hook::Prerouting, Some(mark), &mut request);
    assert_eq!(encapsulated(&verdict).server, at(SERVERS[1]).ip());
    assert_eq!(
        bed.states(),
        [
            format!("sctp {client} -> {vip} -> {} INIT1 4 0x0182", SERVERS[0]),
            format!("tcp {client} -> {anywhere} -> [fd00:2::11]:443 SYN_RECV 60 0x0082"),
        ],
        "one of each, but for datagrams"
    );
    bed.director.check_invariants();
}

/// An error about a reply, which came from the server in the name of the VIP.
#[test]
fn an_error_about_a_reply_goes_through_the_tunnel_as_well() {
    for [vip, client] in VIPS {
        let bed = bed(vip, SERVERS[0], Tunnel::Ipip);
        bed.tcp(client, vip, SYN);
        let ip = |endpoint| at(endpoint).ip().to_string();
        let mut error = unreachable(&ip(client), &ip(vip), &tcp(vip, client, ACK, b""));
        let encapsulation = encapsulated(&bed.handle_any(Hook::Prerouting, &mut error));
        assert_eq!(encapsulation.inner.len, error.len());
        assert!(encapsulation.may_be_fragmented, "no error is told about an error");
        crate::bed::assert_right_checksums(&error);
        // Nor is one told about one whose last hop this was.
        let mut error = unreachable(&ip(client), &ip(vip), &tcp(vip, client, ACK, b""));
        error[if vip.starts_with('[') { 7 } else { 8 }] = 1;
        assert_eq!(bed.handle_any(Hook::Prerouting, &mut error), Verdict::Drop(DropReason::HopLimit));
    }
}

/// An ICMP error of `kind` and `code` from a router at the other end of the tunnel's family, about an outer packet.
fn router_says(index: usize, kind: u8, code: u8, number: u32, outer: &[u8]) -> Vec<u8> {
    let (router, here) = (["10.0.9.9", "fd00:9::9"][index], DIRECTOR[index]);
    crate::bed::icmp(router, here, kind, code, number, outer)
}

#[test]
fn what_routers_say_of_the_outer_packet_the_client_is_told_of_the_inner() {
    for tunnel in KINDS {
        for (inner, outer) in [(0, 0), (0, 1), (1, 0), (1, 1)] {
            let [vip, client] = VIPS[inner];
            let bed = bed(vip, SERVERS[outer], tunnel);
            let mut packet = tcp(client, vip, SYN, b"content");
            let encapsulation = encapsulated(&bed.handle_any(Hook::Prerouting, &mut packet));
            let sent = sent(encapsulation.onward(path(outer, 1500), &packet));
            let about = outer_packet(&sent, path(outer, 1500), &packet);
            let overhead = [20, 40][outer] + tunnel.header_len() as u32;
            let too_big = [(3, 4), (2, 0)];
            let rows = [
                (too_big[outer], 1400, (too_big[inner], 1400 - overhead)),
                // IPv6 has no smaller packets than these to ask for.
                (too_big[outer], 1300, (too_big[inner], [1300 - overhead, 1280][inner])),
                ([(3, 1), (1, 3)][outer], 0, ([(3, 1), (1, 3)][inner], 0)),
                ([(11, 0), (3, 0)][outer], 0, ([(11, 0), (3, 0)][inner], 0)),
            ];
            for ((kind, code), number, ((kind_told, code_told), number_told)) in rows {
                let mut error = router_says(outer, kind, code, number, &about);
                let verdict = bed.handle_any(Hook::Prerouting, &mut error);
                let Verdict::Tell { error, goes_on: true } = verdict else {
                    panic!("{tunnel} {vip} {outer}: {verdict:?}")
                };
                let told =
                    (at(vip).ip(), at(client).ip(), kind_told, code_told, number_told, (at(client), at(vip)));
                assert_eq!(read_error(&error), told, "{tunnel}");
            }
            // A parameter problem is in what the client has not written: the kernel alone gets it.
            let kind = [12, 4][outer];
            let verdict = bed.handle_any(Hook::Prerouting, &mut router_says(outer, kind, 0, 0, &about));
            let untracked = Verdict::Forward { rewritten: None, source: Some(ReplySource::UNTRACKED) };
            assert_eq!(verdict, untracked);
            // Errors about others' packets, of another tunnel, or damaged ones, go on as if nfvs were absent.
            let mut damaged = router_says(outer, 3, 1, 0, &about);
            *damaged.last_mut().unwrap() ^= 1;
            let mut others = about.clone();
            let client_port = about.len() - packet.len() + [20, 40][inner];
            others[client_port] ^= 1;
            let other_tunnel = KINDS.into_iter().find(|other| other.kind() != tunnel.kind()).unwrap();
            for mut error in [damaged, router_says(outer, [3, 1][outer], 1, 0, &others)] {
                assert_eq!(bed.handle_any(Hook::Prerouting, &mut error), Verdict::Accept, "{tunnel}");
            }
            let edit = Command::EditServer(key(Tcp, vip), tunnelled(SERVERS[outer], other_tunnel));
            bed.director.apply(&[edit]).unwrap();
            let mut late = router_says(outer, [3, 1][outer], 1, 0, &about);
            assert_eq!(bed.handle_any(Hook::Prerouting, &mut late), Verdict::Accept, "{tunnel}");
        }
    }
}

/// The connection is there as long as its client may come back.
#[test]
fn so_it_is_when_the_last_server_behind_a_tunnel_was_removed() {
    let [vip, client] = VIPS[0];
    let bed = bed(vip, SERVERS[0], KINDS[0]);
    let mut packet = tcp(client, vip, SYN, b"");
    let encapsulation = encapsulated(&bed.handle_any(Hook::Prerouting, &mut packet));
    let sent = sent(encapsulation.onward(path(0, 1500), &packet));
    let mut error = router_says(0, 3, 1, 0, &outer_packet(&sent, path(0, 1500), &packet));
    bed.director
        .apply(&[Command::DeleteServer(key(Tcp, vip), tunnelled(SERVERS[0], KINDS[0]).address)])
        .unwrap();
    let verdict = bed.handle_any(Hook::Prerouting, &mut error);
    assert!(matches!(verdict, Verdict::Tell { goes_on: true, .. }), "{verdict:?}");
}

#[test]
fn a_client_that_allows_fragments_is_not_told_of_a_narrow_path() {
    let [vip, client] = VIPS[0];
    let bed = bed(vip, SERVERS[0], Tunnel::Ipip);
    let mut packet = tcp(client, vip, SYN, b"");
    packet[6] = 0;
    let encapsulation = encapsulated(&bed.handle_any(Hook::Prerouting, &mut packet));
    let about = outer_packet(&sent(encapsulation.onward(path(0, 1500), &packet)), path(0, 1500), &packet);
    let verdict = bed.handle_any(Hook::Prerouting, &mut router_says(0, 3, 4, 1400, &about));
    assert_eq!(verdict, Verdict::Forward { rewritten: None, source: Some(ReplySource::UNTRACKED) });
}

/// A key of GRE and its version, another protocol in it; a variant of GUE, its control messages and flags.
#[test]
fn what_nfvs_would_not_have_sent_is_not_looked_into() {
    let (gre, gue) =
        (Tunnel::Gre { checksum: false }, Tunnel::Gue { port: 6080, checksum: GueChecksum::None });
    let [vip, client] = VIPS[0];
    for (tunnel, at, value) in
        [(gre, 0, 0x20), (gre, 1, 1), (gre, 2, 0x65), (gue, 8, 0x40), (gue, 8, 0x20), (gue, 10, 0x80)]
    {
        let bed = bed(vip, SERVERS[0], tunnel);
        let mut packet = tcp(client, vip, SYN, b"");
        let encapsulation = encapsulated(&bed.handle_any(Hook::Prerouting, &mut packet));
        let mut about =
            outer_packet(&sent(encapsulation.onward(path(0, 1500), &packet)), path(0, 1500), &packet);
        let verdict = |about: &[u8]| bed.handle_any(Hook::Prerouting, &mut router_says(0, 3, 1, 0, about));
        assert!(matches!(verdict(&about), Verdict::Tell { .. }), "{tunnel}");
        about[20 + at] = value;
        assert_eq!(verdict(&about), Verdict::Accept, "{tunnel} {at} {value:#x}");
    }
}

/// Every byte of an error may lie, and every length.
#[test]
fn errors_about_tunnels_that_lie_are_nobodys() {
    let mut random = fastrand::Rng::with_seed(7);
    for tunnel in KINDS {
        for (inner, outer) in [(0, 0), (0, 1), (1, 0), (1, 1)] {
            let [vip, client] = VIPS[inner];
            let bed = bed(vip, SERVERS[outer], tunnel);
            let mut packet = tcp(client, vip, SYN, b"");
            let encapsulation = encapsulated(&bed.handle_any(Hook::Prerouting, &mut packet));
            let sent = sent(encapsulation.onward(path(outer, 1500), &packet));
            let error = router_says(outer, 3, 0, 0, &outer_packet(&sent, path(outer, 1500), &packet));
            for _ in 0..2_000 {
                let mut lie = error.clone();
                let at = random.usize(..lie.len());
                lie[at] = random.u8(..);
                lie.truncate(random.usize(1..=lie.len()));
                let _ = bed.handle_any(Hook::Prerouting, &mut lie);
            }
            bed.director.check_invariants();
        }
    }
}
