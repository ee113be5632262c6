//! The sockets of the synchronisation: those of UDP (`make_send_sock`, `make_receive_sock` of
//! `net/netfilter/ipvs/ip_vs_sync.c`), and where tables are asked for.

use crate::config::SyncDaemon;
use rustix::net::{AddressFamily, SocketFlags, SocketType, ipproto, sockopt};
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6, TcpListener, UdpSocket};
use std::os::fd::OwnedFd;

/// An interface of this network namespace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Index(u32);

impl Index {
    /// The interface called `name`.
    ///
    /// # Errors
    /// If there is none.
    pub(super) fn of(name: &str) -> io::Result<Index> {
        Ok(Index(nix::net::if_::if_nametoindex(name)?))
    }
}

/// What sends a master's messages to port `port` of its group.
///
/// # Errors
/// What the kernel refused.
pub(super) fn sender(daemon: &SyncDaemon, index: Index, port: u16, buffer: usize) -> io::Result<UdpSocket> {
    let socket = open(daemon.group)?;
    if buffer > 0 {
        sockopt::set_socket_send_buffer_size(&socket, buffer)?;
    }
    // A message longer than the link's packets is to be fragmented, not refused.
    match daemon.group {
        IpAddr::V4(group) => {
            sockopt::set_ip_multicast_if_with_ifindex(&socket, &group, &Ipv4Addr::UNSPECIFIED, index.0)?;
            sockopt::set_ip_multicast_loop(&socket, false)?;
            sockopt::set_ip_multicast_ttl(&socket, daemon.ttl.into())?;
            sockopt::set_ip_mtu_discover(&socket, sockopt::Ipv4PathMtuDiscovery::DONT)?;
        }
        IpAddr::V6(_) => {
            sockopt::set_ipv6_multicast_if(&socket, index.0)?;
            sockopt::set_ipv6_multicast_loop(&socket, false)?;
            sockopt::set_ipv6_multicast_hops(&socket, daemon.ttl.into())?;
            sockopt::set_ipv6_mtu_discover(&socket, sockopt::Ipv6PathMtuDiscovery::DONT)?;
        }
    }
    rustix::net::connect(&socket, &group(daemon, index, port))?;
    Ok(socket.into())
}

/// What receives a backup's messages at port `port` of its group.
///
/// # Errors
/// What the kernel refused.
pub(super) fn receiver(daemon: &SyncDaemon, index: Index, port: u16, buffer: usize) -> io::Result<UdpSocket> {
    let socket = open(daemon.group)?;
    sockopt::set_socket_reuseaddr(&socket, true)?;
    if buffer > 0 {
        sockopt::set_socket_recv_buffer_size(&socket, buffer)?;
    }
    bind_to_device(&socket, daemon)?;
    // Bound to the group, so that what is sent to an address of this machine is not taken.
    rustix::net::bind(&socket, &group(daemon, index, port))?;
    match daemon.group {
        IpAddr::V4(group) => {
            sockopt::set_ip_add_membership_with_ifindex(&socket, &group, &Ipv4Addr::UNSPECIFIED, index.0)?;
        }
        IpAddr::V6(group) => sockopt::set_ipv6_add_membership(&socket, &group, index.0)?,
    }
    Ok(socket.into())
}

/// What backups ask for the table at, by the interface, at whatever address of the group's family it has.
///
/// # Errors
/// What the kernel refused.
pub(super) fn listener(daemon: &SyncDaemon, port: u16) -> io::Result<TcpListener> {
    const BACKLOG: i32 = 16;
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let family = family(daemon.group);
    let socket = rustix::net::socket_with(family, SocketType::STREAM, flags, Some(ipproto::TCP))?;
    sockopt::set_socket_reuseaddr(&socket, true)?;
    // A reload opens the next one before it closes the one before.
    sockopt::set_socket_reuseport(&socket, true)?;
    bind_to_any(&socket, daemon, port)?;
    rustix::net::listen(&socket, BACKLOG)?;
    Ok(socket.into())
}

/// What answers to questions come to, by the interface, at whatever address of the group's family it has, and the port.
///
/// # Errors
/// What the kernel refused.
pub(super) fn ear(daemon: &SyncDaemon) -> io::Result<UdpSocket> {
    let socket = open(daemon.group)?;
    bind_to_any(&socket, daemon, 0)?;
    Ok(socket.into())
}

/// Binds to every address of the group's family, and of no other, by the interface.
fn bind_to_any(socket: &OwnedFd, daemon: &SyncDaemon, port: u16) -> io::Result<()> {
    let any = match daemon.group {
        IpAddr::V4(_) => IpAddr::from(Ipv4Addr::UNSPECIFIED),
        IpAddr::V6(_) => IpAddr::from(Ipv6Addr::UNSPECIFIED),
    };
    if any.is_ipv6() {
        sockopt::set_ipv6_v6only(socket, true)?;
    }
    bind_to_device(socket, daemon)?;
    Ok(rustix::net::bind(socket, &SocketAddr::new(any, port))?)
}

fn bind_to_device(socket: &OwnedFd, daemon: &SyncDaemon) -> io::Result<()> {
    let interface = daemon.interface.clone().into();
    Ok(nix::sys::socket::setsockopt(socket, nix::sys::socket::sockopt::BindToDevice, &interface)?)
}

fn family(group: IpAddr) -> AddressFamily {
    if group.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 }
}

fn open(group: IpAddr) -> io::Result<OwnedFd> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    Ok(rustix::net::socket_with(family(group), SocketType::DGRAM, flags, Some(ipproto::UDP))?)
}

fn group(daemon: &SyncDaemon, index: Index, port: u16) -> SocketAddr {
    match daemon.group {
        IpAddr::V6(group) if is_of_the_link(group) => SocketAddrV6::new(group, port, 0, index.0).into(),
        group => SocketAddr::new(group, port),
    }
}

/// Whether each link has a group of this address, so that it means nothing without an interface (RFC 4291, 2.7).
fn is_of_the_link(group: Ipv6Addr) -> bool {
    matches!(group.octets()[1] & 0x0f, 1 | 2)
}
