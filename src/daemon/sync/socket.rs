//! The UDP sockets of the synchronisation (`make_send_sock`, `make_receive_sock` of
//! `net/netfilter/ipvs/ip_vs_sync.c`).

use crate::config::SyncDaemon;
use rustix::net::{AddressFamily, SocketFlags, SocketType, ipproto, sockopt};
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6, UdpSocket};
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
    nix::sys::socket::setsockopt(
        &socket,
        nix::sys::socket::sockopt::BindToDevice,
        &daemon.interface.clone().into(),
    )?;
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

fn open(group: IpAddr) -> io::Result<OwnedFd> {
    let family = if group.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    Ok(rustix::net::socket_with(family, SocketType::DGRAM, flags, Some(ipproto::UDP))?)
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
