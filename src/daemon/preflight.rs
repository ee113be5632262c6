//! What must be there before the daemon can work: capabilities and forwarding. `nfvs run` names what is not,
//! `nfvs prepare` sees to it.

use crate::config::{self, Config};
use crate::director::service::ForwardMethod;
use anyhow::{Context, bail};
use rustix::thread::{CapabilitySet, capabilities};
use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, UdpSocket};

/// Checks that the process may do what it has to.
///
/// # Errors
/// Names the capability that is missing.
pub(super) fn check_capabilities() -> anyhow::Result<()> {
    let effective = capabilities(None).context("cannot read this process's capabilities")?.effective;
    if !effective.contains(CapabilitySet::NET_ADMIN) {
        bail!(
            "the capability CAP_NET_ADMIN is missing: it is needed for nftables rules and packet queues; run as \
             root or grant it"
        );
    }
    Ok(())
}

/// Checks that the process may send packets into tunnels, which the server at `address` takes.
///
/// # Errors
/// Names the capability that is missing.
fn check_tunnels(address: IpAddr) -> anyhow::Result<()> {
    let effective = capabilities(None).context("cannot read this process's capabilities")?.effective;
    if !effective.contains(CapabilitySet::NET_RAW) {
        bail!(
            "the server {address} cannot have \"forward\": \"tunnel\": the capability CAP_NET_RAW is missing; run as \
             root or grant it"
        );
    }
    Ok(())
}

/// A sysctl that keeps packets from a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "the sysctl {name} is 0 in this network namespace: packets would not reach server {server}; set it with `sysctl \
     -w {name}=1`"
)]
pub(super) struct ForwardingOff {
    name: &'static str,
    server: IpAddr,
}

impl ForwardingOff {
    /// The sysctl's name.
    pub(super) fn name(&self) -> &'static str {
        self.name
    }

    /// The server that needs it.
    pub(super) fn server(&self) -> IpAddr {
        self.server
    }

    /// Switches it on in the network namespace of this thread.
    ///
    /// # Errors
    /// If it cannot be written.
    pub(super) fn switch_on(&self) -> anyhow::Result<()> {
        let path = format!("/proc/sys/{}", self.name.replace('.', "/"));
        fs::write(path, "1").with_context(|| format!("cannot set the sysctl {} to 1", self.name))
    }
}

/// Checks that packets reach the servers at these addresses by these methods: that this process may send into tunnels,
/// and that this namespace forwards packets to the other servers, unless they are in it.
///
/// # Errors
/// Says what is missing, and which server needs it.
pub(super) fn check_servers(
    servers: &(impl Iterator<Item = (IpAddr, ForwardMethod)> + Clone),
) -> anyhow::Result<()> {
    if let Some((address, _)) = servers.clone().find(|&(_, method)| method == ForwardMethod::Tunnel) {
        check_tunnels(address)?;
    }
    match forwarding_off(servers)?.into_iter().next() {
        Some(off) => Err(off.into()),
        None => Ok(()),
    }
}

/// The sysctls that keep packets from servers at these addresses, at most one for each family.
///
/// # Errors
/// If the sysctls cannot be read.
pub(super) fn forwarding_off(
    servers: &(impl Iterator<Item = (IpAddr, ForwardMethod)> + Clone),
) -> anyhow::Result<Vec<ForwardingOff>> {
    // What goes into a tunnel is sent from here.
    let forwarded = servers.clone().filter(|&(_, method)| method != ForwardMethod::Tunnel);
    let servers = forwarded.map(|(address, _)| address);
    let mut off = Vec::new();
    for (is_ipv6, name) in [(false, "net.ipv4.ip_forward"), (true, "net.ipv6.conf.all.forwarding")] {
        let mut servers = servers.clone().filter(|server| server.is_ipv6() == is_ipv6).peekable();
        if servers.peek().is_none() || forwards(is_ipv6)? {
            continue;
        }
        off.extend(servers.find(|&server| !is_local(server)).map(|server| ForwardingOff { name, server }));
    }
    Ok(off)
}

/// IPv4 forwards on each interface that says so, IPv6 only where all of it is switched on.
fn forwards(is_ipv6: bool) -> anyhow::Result<bool> {
    const IP4: &str = "/proc/sys/net/ipv4/conf";
    const IP6: &str = "/proc/sys/net/ipv6/conf";
    let on = |family: &str, interface: &str| {
        fs::read_to_string(format!("{family}/{interface}/forwarding")).is_ok_and(|value| value.trim() != "0")
    };
    if is_ipv6 {
        return Ok(on(IP6, "all"));
    }
    Ok(fs::read_dir(IP4)
        .with_context(|| format!("cannot read {IP4}"))?
        .filter_map(Result::ok)
        .filter_map(|entry| entry.file_name().into_string().ok())
        // What interfaces to come will have.
        .any(|interface| interface != "default" && on(IP4, &interface)))
}

/// Whether the kernel has what direct routing needs, in this namespace.
///
/// # Errors
/// If it has not and `config` has servers that are reached so.
pub(super) fn direct_routing(config: &Config) -> anyhow::Result<bool> {
    let wanted = |server: &&config::Server| server.forward.is_routed();
    match nft_rules::probe_direct_routing() {
        Ok(()) => Ok(true),
        Err(error @ nft_rules::Error::MissingFeature { .. }) => match config.servers().find(wanted) {
            Some(server) => Err(error).context(no_direct_routing(server.address, server.forward)),
            None => Ok(false),
        },
        Err(error) => Err(error.into()),
    }
}

/// Why the server at `address` cannot be reached where [`direct_routing`] says no.
pub(super) fn no_direct_routing(address: IpAddr, method: ForwardMethod) -> String {
    format!(
        "the server {address} cannot have \"forward\": \"{method}\": this kernel has no `dup` for nftables \
         (CONFIG_NFT_DUP_IPV4, CONFIG_NFT_DUP_IPV6)"
    )
}

/// Whether this namespace has the address. What is sent to an address of one's own has it as its source too; that a
/// socket may be bound to it says nothing (`net.ipv4.ip_nonlocal_bind`).
fn is_local(address: IpAddr) -> bool {
    let unspecified = match address {
        IpAddr::V4(_) => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        IpAddr::V6(_) => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
    };
    // A datagram socket that is connected has sent nothing yet.
    let source = UdpSocket::bind((unspecified, 0))
        .and_then(|socket| socket.connect((address, 9)).and_then(|()| socket.local_addr()));
    address.is_loopback() || source.is_ok_and(|source| source.ip() == address)
}
