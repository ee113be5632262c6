//! Frames that tell the neighbours on an Ethernet which Ethernet address has an IP address: the ARP announcement of
//! RFC 5227, section 3 (the gratuitous ARP request of RFC 5944, section 4.6), and the unsolicited neighbour
//! advertisement of RFC 4861, section 7.2.6. Neighbours that know another one take this one instead; those that know
//! none learn nothing. When they are sent, and where, is for others to say.

use super::checksum::Sum;
use pnet_packet::ip::IpNextHeaderProtocols;
use std::net::{Ipv4Addr, Ipv6Addr};

/// An ARP request, to everybody, whose sender asks for its own `address`.
pub fn arp_announcement(address: Ipv4Addr, ethernet: [u8; 6]) -> Vec<u8> {
    // Ethernet, IPv4, lengths of both, request.
    const REQUEST: [u8; 8] = [0, 1, 0x08, 0x00, 6, 4, 0, 1];
    let mut frame = frame([0xff; 6], ethernet, ETHERTYPE_ARP);
    frame.extend(REQUEST);
    frame.extend(ethernet);
    frame.extend(address.octets());
    // Whom it asks is what it wants to know.
    frame.extend([0; 6]);
    frame.extend(address.octets());
    frame
}

/// A neighbour advertisement of `address`, to all nodes of the link, that overrides what they know. It comes from
/// `source`, an address of the interface; `is_router` says whether the interface forwards.
pub fn neighbour_advertisement(
    address: Ipv6Addr,
    ethernet: [u8; 6],
    source: Ipv6Addr,
    is_router: bool,
) -> Vec<u8> {
    const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
    const LEN: u16 = 32;
    const HOP_LIMIT: u8 = 255;
    const ADVERTISEMENT: u8 = 136;
    const ROUTER: u8 = 0x80;
    const OVERRIDE: u8 = 0x20;
    // The target's link-layer address, of one unit of eight bytes.
    const OPTION: [u8; 2] = [2, 1];
    let next_header = IpNextHeaderProtocols::Icmpv6.0;
    let flags = OVERRIDE | if is_router { ROUTER } else { 0 };

    let mut message = vec![ADVERTISEMENT, 0, 0, 0, flags, 0, 0, 0];
    message.extend(address.octets());
    message.extend(OPTION);
    message.extend(ethernet);
    let sum = Sum::default().add(&source.octets()).add(&ALL_NODES.octets()).add(&LEN.to_be_bytes());
    let checksum = sum.add(&[0, next_header]).add(&message).checksum();
    message[2..4].copy_from_slice(&checksum.to_be_bytes());

    let mut frame = frame([0x33, 0x33, 0, 0, 0, 1], ethernet, ETHERTYPE_IPV6);
    frame.extend([0x60, 0, 0, 0]);
    frame.extend(LEN.to_be_bytes());
    frame.extend([next_header, HOP_LIMIT]);
    frame.extend(source.octets());
    frame.extend(ALL_NODES.octets());
    frame.extend(message);
    frame
}

fn frame(destination: [u8; 6], source: [u8; 6], ethertype: u16) -> Vec<u8> {
    [&destination[..], &source, &ethertype.to_be_bytes()].concat()
}

const ETHERTYPE_ARP: u16 = 0x0806;
const ETHERTYPE_IPV6: u16 = 0x86dd;

#[cfg(test)]
mod tests {
    use super::*;
    use etherparse::{IpNumber, NetSlice, SlicedPacket, TransportSlice};

    const ETHERNET: [u8; 6] = [0x52, 0x54, 0, 0x12, 0x34, 0x56];

    #[test]
    fn an_arp_announcement_asks_everybody_for_the_senders_own_address() {
        let frame = arp_announcement(Ipv4Addr::new(10, 0, 0, 100), ETHERNET);
        #[rustfmt::skip]
        let expected = [
            0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x52, 0x54, 0x00, 0x12, 0x34, 0x56, 0x08, 0x06,
            0x00, 0x01, 0x08, 0x00, 0x06, 0x04, 0x00, 0x01,
            0x52, 0x54, 0x00, 0x12, 0x34, 0x56, 10, 0, 0, 100,
            0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 10, 0, 0, 100,
        ];
        assert_eq!(frame, expected);
    }

    #[test]
    fn a_neighbour_advertisement_overrides_what_all_nodes_know() {
        let [address, host]: [Ipv6Addr; 2] = ["fd00::100", "fd00:1::11"].map(|it| it.parse().unwrap());
        // From the address itself where the interface has it, and by a router or by a host.
        for (source, is_router, flags) in [(address, true, 0xa0), (host, false, 0x20)] {
            let frame = neighbour_advertisement(address, ETHERNET, source, is_router);
            assert_eq!(frame[..14], [0x33, 0x33, 0, 0, 0, 1, 0x52, 0x54, 0, 0x12, 0x34, 0x56, 0x86, 0xdd]);
            // Another library reads it.
            let read = SlicedPacket::from_ethernet(&frame).expect("a whole frame");
            let Some(NetSlice::Ipv6(ip)) = read.net else { panic!("no IPv6: {frame:02x?}") };
            let header = ip.header();
            assert_eq!((header.next_header(), header.hop_limit()), (IpNumber::IPV6_ICMP, 255));
            assert_eq!(header.source_addr(), source);
            assert_eq!(header.destination_addr().to_string(), "ff02::1");
            let Some(TransportSlice::Icmpv6(icmp)) = read.transport else {
                panic!("no ICMPv6: {frame:02x?}")
            };
            assert!(icmp.is_checksum_valid(header.source(), header.destination()), "{frame:02x?}");
            assert_eq!((icmp.type_u8(), icmp.code_u8()), (136, 0));
            assert_eq!(icmp.bytes5to8(), [flags, 0, 0, 0]);
            let options = [2, 1, 0x52, 0x54, 0, 0x12, 0x34, 0x56];
            assert_eq!(icmp.payload(), [&address.octets()[..], &options].concat());
        }
    }
}
