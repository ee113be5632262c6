//! Packets of protocols for which the kernel need not have sockets: made and read by hand.

use super::lab::{Lab, wait_for};
use rustix::net::{AddressFamily, Protocol, RawProtocol, SocketType, bind, socket};
use std::io::ErrorKind;
use std::net::{IpAddr, SocketAddr, UdpSocket};

pub(crate) const SCTP: u8 = 132;
pub(crate) const ESP: u8 = 50;
pub(crate) const AH: u8 = 51;
/// Sockets of this protocol send packets as they are, IP header included.
pub(crate) const WHOLE_PACKETS: u8 = 255;

/// What a node sends and receives of one protocol, from the transport header on.
pub(crate) struct Raw(UdpSocket);

impl Raw {
    /// A socket in `node` of the lab; packets it sends come from `address`.
    pub(crate) fn new(lab: &Lab, node: &str, address: IpAddr, protocol: u8) -> Raw {
        let family = if address.is_ipv6() { AddressFamily::INET6 } else { AddressFamily::INET };
        let number = RawProtocol::new(protocol.into()).map(Protocol::from_raw);
        let made = lab.enter(node, || {
            let made = socket(family, SocketType::RAW, number)?;
            bind(&made, &SocketAddr::new(address, 0))?;
            Ok::<_, rustix::io::Errno>(made)
        });
        let socket = UdpSocket::from(made.expect("a raw socket"));
        socket.set_nonblocking(true).expect("a socket that does not wait");
        Raw(socket)
    }

    pub(crate) fn send(&self, to: IpAddr, packet: &[u8]) {
        self.0.send_to(packet, SocketAddr::new(to, 0)).expect("a packet that leaves");
    }

    /// A packet that has arrived, and where it came from.
    fn arrived(&self) -> Option<(IpAddr, Vec<u8>)> {
        let mut bytes = [0; 65_536];
        match self.0.recv_from(&mut bytes) {
            Ok((len, from)) => {
                // IPv4 comes with its header, IPv6 without.
                let header = if from.is_ipv4() { usize::from(bytes[0] & 0x0f) * 4 } else { 0 };
                Some((from.ip(), bytes[header..len].to_vec()))
            }
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::WouldBlock, "{error}");
                None
            }
        }
    }
}

/// The first packet that arrives at one of `sockets` and is `wanted`: at which, from where, and what.
#[track_caller]
pub(crate) fn first_at(sockets: &[&Raw], wanted: impl Fn(&[u8]) -> bool) -> (usize, IpAddr, Vec<u8>) {
    let mut found = None;
    wait_for("a packet", || {
        for (index, socket) in sockets.iter().enumerate() {
            while let Some((from, packet)) = socket.arrived() {
                if wanted(&packet) {
                    found = Some((index, from, packet));
                    return true;
                }
            }
        }
        false
    });
    found.expect("what was waited for")
}
