//! Packets of protocols for which the kernel need not have sockets: made and read by hand.

use std::{
    net::{IpAddr, SocketAddr, UdpSocket},
    os::fd::{AsRawFd, FromRawFd, OwnedFd},
    time::Duration,
};

use super::Node;

pub(crate) const SCTP: u8 = 132;
pub(crate) const ESP: u8 = 50;
pub(crate) const AH: u8 = 51;

/// How long a packet that should come is waited for.
const PATIENCE: Duration = Duration::from_secs(10);

/// What is sent and received of one protocol in a node, from the transport header on.
pub(crate) struct Raw(UdpSocket);

impl Raw {
    /// A socket for packets of `protocol` in the family of `like`.
    pub(crate) fn new(node: &Node, like: &str, protocol: u8) -> Raw {
        let family = if like.contains(':') { libc::AF_INET6 } else { libc::AF_INET };
        let descriptor = node.run(|| {
            // SAFETY: the call takes numbers only.
            let descriptor = unsafe { libc::socket(family, libc::SOCK_RAW, protocol.into()) };
            assert!(descriptor >= 0, "{}", std::io::Error::last_os_error());
            // SAFETY: the descriptor is new and nobody else's.
            unsafe { OwnedFd::from_raw_fd(descriptor) }
        });
        let socket = UdpSocket::from(descriptor);
        socket.set_read_timeout(Some(PATIENCE)).expect("a timeout");
        Raw(socket)
    }

    /// The same, of which all packets come from `address`.
    pub(crate) fn bound(node: &Node, address: IpAddr, protocol: u8) -> Raw {
        let raw = Raw::new(node, &address.to_string(), protocol);
        let descriptor = raw.0.as_raw_fd();
        let bound = match address {
            IpAddr::V4(address) => {
                let address = libc::sockaddr_in {
                    sin_family: libc::AF_INET as libc::sa_family_t,
                    sin_port: 0,
                    sin_addr: libc::in_addr { s_addr: u32::from_ne_bytes(address.octets()) },
                    sin_zero: [0; 8],
                };
                let len = size_of_val(&address) as libc::socklen_t;
                // SAFETY: the address lives through the call, and the length is its own.
                unsafe { libc::bind(descriptor, (&raw const address).cast(), len) }
            }
            IpAddr::V6(address) => {
                let address = libc::sockaddr_in6 {
                    sin6_family: libc::AF_INET6 as libc::sa_family_t,
                    sin6_port: 0,
                    sin6_flowinfo: 0,
                    sin6_addr: libc::in6_addr { s6_addr: address.octets() },
                    sin6_scope_id: 0,
                };
                let len = size_of_val(&address) as libc::socklen_t;
                // SAFETY: the address lives through the call, and the length is its own.
                unsafe { libc::bind(descriptor, (&raw const address).cast(), len) }
            }
        };
        assert_eq!(bound, 0, "{}", std::io::Error::last_os_error());
        raw
    }

    pub(crate) fn send(&self, to: &str, packet: &[u8]) {
        let to: IpAddr = to.parse().expect("an address");
        self.0.send_to(packet, SocketAddr::new(to, 0)).expect("a packet that leaves");
    }

    /// The next packet that `wanted` accepts, and where it comes from.
    pub(crate) fn receive(&self, wanted: impl Fn(&[u8]) -> bool) -> (IpAddr, Vec<u8>) {
        let mut bytes = [0; 2048];
        loop {
            let (len, from) = self.0.recv_from(&mut bytes).expect("the packet that was sent");
            // IPv4 comes with its header, IPv6 without.
            let header = if from.is_ipv4() { usize::from(bytes[0] & 0x0f) * 4 } else { 0 };
            let packet = &bytes[header..len];
            if wanted(packet) {
                return (from.ip(), packet.to_vec());
            }
        }
    }
}
