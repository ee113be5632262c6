//! The way out for what goes through tunnels, and for the ICMP errors about what cannot.
//!
//! A raw socket for each kind of outer packet: the kernel writes the outer IP header, chooses source, route and
//! neighbour with each packet, fragments, and learns the MTU of a path from the errors that routers send about such
//! packets, because it finds the socket that they came from. Nothing is ever received here.
//!
//! Whether a packet fits has to be known before it is sent. So a worker asks for the way to each server, once in each
//! burst of packets that goes there.

use super::queue::{Action, Decision};
use crate::director::packet::Problem;
use crate::director::{Director, DropReason, Encapsulation, Onward, Outer, Path, Time};
use nft_rules::{MARK_MASK, UNTRACK};
use nix::sys::socket::sockopt::{Ipv6RecvErr, Mark};
use nix::sys::socket::{
    ControlMessage, MsgFlags, SockaddrIn, SockaddrIn6, SockaddrLike, sendmsg, setsockopt,
};
use rustix::net::sockopt::{self, Ipv4PathMtuDiscovery, Ipv6PathMtuDiscovery};
use rustix::net::{
    AddressFamily, Protocol, RawProtocol, SendFlags, SocketFlags, SocketType, connect, connect_unspec,
    getsockname, sendto, socket_with,
};
use std::io::{self, IoSlice};
use std::net::{IpAddr, SocketAddr, SocketAddrV4, SocketAddrV6};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

/// Sends a worker's packets into tunnels. Sockets are opened when there is something to send.
#[derive(Debug)]
pub(super) struct TunnelSender {
    director: Arc<Director>,
    sockets: Vec<(Kind, OwnedFd)>,
    /// The ways that were asked for in this burst.
    paths: Vec<(IpAddr, Option<Path>)>,
}

/// What a socket is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// Outer packets of one protocol.
    Tunnel { is_v4: bool, protocol: u8, may_be_fragmented: bool },
    /// IPv6 errors about outer packets of one protocol: the kernel learns from them only where a socket wants to know
    /// (`rawv6_err`), and then fails what is sent from it next. So nothing is.
    Errors { protocol: u8 },
    /// Finding a way; nothing is sent.
    Probe { is_v4: bool },
    /// Packets with their IP headers.
    Whole { is_v4: bool },
}

impl TunnelSender {
    /// A sender in the network namespace of the thread that uses it.
    pub(super) fn new(director: Arc<Director>) -> TunnelSender {
        TunnelSender { director, sockets: Vec::new(), paths: Vec::new() }
    }

    /// Forgets the ways: routes, addresses and MTUs may have changed.
    pub(super) fn begin_burst(&mut self) {
        self.paths.clear();
    }

    /// Sends a packet to its server, or says why not, or lets it go on if this host is the server.
    pub(super) fn send(
        &mut self,
        now: Time,
        encapsulation: &Encapsulation,
        packet: &[u8],
        mark: u32,
    ) -> Decision {
        let mut onward = self.onward(encapsulation, packet);
        if let Onward::Send(outer) = &onward
            && let Err(error) = self.send_outer(outer, packet)
        {
            tracing::debug!(server = %outer.destination, %error, "a packet was not sent into its tunnel");
            self.paths.retain(|(server, _)| *server != encapsulation.server);
            // The kernel may have learned of a smaller MTU since it was asked.
            onward = match self.onward(encapsulation, packet) {
                Onward::Tell(problem) => Onward::Tell(problem),
                _ => Onward::Drop(DropReason::TunnelSend),
            };
        }
        match onward {
            Onward::Local => return goes_on(mark),
            Onward::Send(_) => {}
            Onward::Tell(problem) => {
                self.director.note_drop(problem.drop_reason());
                if let Some(error) = self.director.tell(now, problem, packet) {
                    self.tell(&error);
                }
            }
            Onward::Drop(reason) => self.director.note_drop(reason),
        }
        Decision::DROP
    }

    /// Sends an ICMP error, a whole IP packet, to where its header says.
    pub(super) fn tell(&mut self, error: &[u8]) {
        let Some(to) = destination(error) else { return };
        let sent = self
            .socket(Kind::Whole { is_v4: to.is_ipv4() })
            .and_then(|socket| Ok(sendto(socket, error, SendFlags::DONTWAIT, &SocketAddr::new(to, 0))?));
        if let Err(error) = sent {
            tracing::debug!(client = %to, %error, "an ICMP error was not sent");
        }
    }

    fn onward(&mut self, encapsulation: &Encapsulation, packet: &[u8]) -> Onward {
        match self.path(encapsulation.server) {
            Some(path) => encapsulation.onward(path, packet),
            None => Onward::Tell(Problem::Unreachable),
        }
    }

    /// The way to a server, `None` if there is none.
    fn path(&mut self, server: IpAddr) -> Option<Path> {
        if let Some(&(_, path)) = self.paths.iter().find(|(known, _)| *known == server) {
            return path;
        }
        let path = match self.find_path(server) {
            Ok(path) => Some(path),
            Err(error) => {
                tracing::debug!(%server, %error, "no way leads to a server behind a tunnel");
                None
            }
        };
        self.paths.push((server, path));
        path
    }

    fn find_path(&mut self, server: IpAddr) -> io::Result<Path> {
        let probe = self.socket(Kind::Probe { is_v4: server.is_ipv4() })?;
        // A socket that has been connected would go on with the source it had.
        connect_unspec(probe)?;
        connect(probe, &SocketAddr::new(server, 0))?;
        let source: SocketAddr = getsockname(probe)?.try_into()?;
        let mtu = if server.is_ipv4() { sockopt::ip_mtu(probe) } else { sockopt::ipv6_mtu(probe) };
        Ok(Path { source: source.ip(), mtu: mtu? })
    }

    /// Sends an outer packet with what it takes of `packet`.
    fn send_outer(&mut self, outer: &Outer, packet: &[u8]) -> io::Result<()> {
        let Outer { source, destination, protocol, may_be_fragmented, ref header, .. } = *outer;
        let is_v4 = destination.is_ipv4();
        if !is_v4 {
            // It has to be there.
            self.socket(Kind::Errors { protocol })?;
        }
        let socket = self.socket(Kind::Tunnel { is_v4, protocol, may_be_fragmented })?.as_raw_fd();
        let inner = packet.get(..outer.inner_len).unwrap_or(packet);
        let slices = [IoSlice::new(header), IoSlice::new(inner)];
        let hop_limit = libc::c_int::from(outer.hop_limit);
        match destination {
            IpAddr::V4(destination) => {
                let source = source.and_then(|source| match source {
                    IpAddr::V4(source) => Some(libc::in_pktinfo {
                        ipi_ifindex: 0,
                        ipi_spec_dst: libc::in_addr { s_addr: u32::from_ne_bytes(source.octets()) },
                        ipi_addr: libc::in_addr { s_addr: 0 },
                    }),
                    IpAddr::V6(_) => None,
                });
                let [hop_limit, class] =
                    [ControlMessage::Ipv4Ttl(&hop_limit), ControlMessage::Ipv4Tos(&outer.traffic_class)];
                let to = SockaddrIn::from(SocketAddrV4::new(destination, 0));
                send(
                    socket,
                    &slices,
                    [hop_limit, class],
                    source.as_ref().map(ControlMessage::Ipv4PacketInfo),
                    &to,
                )
            }
            IpAddr::V6(destination) => {
                let source = source.and_then(|source| match source {
                    IpAddr::V6(source) => Some(libc::in6_pktinfo {
                        ipi6_addr: libc::in6_addr { s6_addr: source.octets() },
                        ipi6_ifindex: 0,
                    }),
                    IpAddr::V4(_) => None,
                });
                let class = i32::from(outer.traffic_class);
                let [hop_limit, class] =
                    [ControlMessage::Ipv6HopLimit(&hop_limit), ControlMessage::Ipv6TClass(&class)];
                let to = SockaddrIn6::from(SocketAddrV6::new(destination, 0, 0, 0));
                send(
                    socket,
                    &slices,
                    [hop_limit, class],
                    source.as_ref().map(ControlMessage::Ipv6PacketInfo),
                    &to,
                )
            }
        }
    }

    fn socket(&mut self, kind: Kind) -> io::Result<BorrowedFd<'_>> {
        let position = match self.sockets.iter().position(|(known, _)| *known == kind) {
            Some(position) => position,
            None => {
                self.sockets.push((kind, open(kind)?));
                self.sockets.len() - 1
            }
        };
        Ok(self.sockets[position].1.as_fd())
    }
}

/// A packet that goes on as it came, as one of those that connection tracking is to leave alone.
pub(super) fn goes_on(mark: u32) -> Decision {
    Decision { action: Action::Accept, mark: Some(mark & !MARK_MASK | UNTRACK) }
}

fn send(
    socket: i32,
    slices: &[IoSlice<'_>; 2],
    [hop_limit, class]: [ControlMessage<'_>; 2],
    source: Option<ControlMessage<'_>>,
    to: &impl SockaddrLike,
) -> io::Result<()> {
    let sent = match source {
        None => sendmsg(socket, slices, &[hop_limit, class], MsgFlags::MSG_DONTWAIT, Some(to)),
        Some(source) => {
            sendmsg(socket, slices, &[hop_limit, class, source], MsgFlags::MSG_DONTWAIT, Some(to))
        }
    };
    Ok(sent.map(drop)?)
}

fn open(kind: Kind) -> io::Result<OwnedFd> {
    let (is_v4, protocol) = match kind {
        Kind::Tunnel { is_v4, protocol, .. } => (is_v4, i32::from(protocol)),
        Kind::Errors { protocol } => (false, i32::from(protocol)),
        Kind::Probe { is_v4 } | Kind::Whole { is_v4 } => (is_v4, libc::IPPROTO_RAW),
    };
    let family = if is_v4 { AddressFamily::INET } else { AddressFamily::INET6 };
    let protocol = RawProtocol::new(protocol.cast_unsigned()).map(Protocol::from_raw);
    let socket = socket_with(family, SocketType::RAW, SocketFlags::CLOEXEC, protocol)?;
    setsockopt(&socket, Mark, &UNTRACK)?;
    // The kernel offers it all packets of its protocol that arrive, and passes it over once it is full.
    sockopt::set_socket_recv_buffer_size(&socket, 0)?;
    if let Kind::Errors { .. } = kind {
        setsockopt(&socket, Ipv6RecvErr, &true)?;
    }
    if let Kind::Tunnel { may_be_fragmented, .. } = kind {
        // By force, or up to the system's bound.
        sockopt::set_socket_send_buffer_size_force(&socket, SEND_BUFFER)
            .or_else(|_| sockopt::set_socket_send_buffer_size(&socket, SEND_BUFFER))?;
        match (is_v4, may_be_fragmented) {
            (true, true) => sockopt::set_ip_mtu_discover(&socket, Ipv4PathMtuDiscovery::DONT),
            (true, false) => sockopt::set_ip_mtu_discover(&socket, Ipv4PathMtuDiscovery::DO),
            (false, true) => sockopt::set_ipv6_mtu_discover(&socket, Ipv6PathMtuDiscovery::DONT),
            (false, false) => sockopt::set_ipv6_mtu_discover(&socket, Ipv6PathMtuDiscovery::DO),
        }?;
    }
    Ok(socket)
}

/// Where a packet's own header says that it goes.
fn destination(packet: &[u8]) -> Option<IpAddr> {
    match packet.first()? >> 4 {
        4 => packet.get(16..20)?.as_array::<4>().map(|octets| IpAddr::from(*octets)),
        _ => packet.get(24..40)?.as_array::<16>().map(|octets| IpAddr::from(*octets)),
    }
}

/// Bytes that may wait for a device.
const SEND_BUFFER: usize = 4 << 20;
