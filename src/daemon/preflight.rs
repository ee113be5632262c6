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

/// Checks that packets reach the server at `address` by `method`.
///
/// # Errors
/// Says what is missing.
pub(super) fn check_server(address: IpAddr, method: ForwardMethod) -> anyhow::Result<()> {
    match method {
        ForwardMethod::Nat | ForwardMethod::Dr => check_forwarding(address),
        // What goes there is sent from here.
        ForwardMethod::Tunnel => check_tunnels(address),
    }
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

    /// Switches it on in the network namespace of this thread.
    ///
    /// # Errors
    /// If it cannot be written.
    pub(super) fn switch_on(&self) -> anyhow::Result<()> {
        let path = format!("/proc/sys/{}", self.name.replace('.', "/"));
        fs::write(path, "1").with_context(|| format!("cannot set the sysctl {} to 1", self.name))
    }
}

/// Checks that packets reach the server at `address`: that this namespace forwards packets of its family, unless the
/// server is in it.
///
/// # Errors
/// [`ForwardingOff`] names the sysctl.
fn check_forwarding(address: IpAddr) -> anyhow::Result<()> {
    match forwarding_off(address)? {
        Some(off) => Err(off.into()),
        None => Ok(()),
    }
}

/// The sysctl that keeps packets from the server at `address`, if one does.
///
/// # Errors
/// If the sysctls cannot be read.
pub(super) fn forwarding_off(address: IpAddr) -> anyhow::Result<Option<ForwardingOff>> {
    if is_local(address) {
        return Ok(None);
    }
    // IPv4 forwards on each interface that says so, IPv6 only where all of it is switched on.
    let (pattern, name) = match address {
        IpAddr::V4(_) => ("/proc/sys/net/ipv4/conf", "net.ipv4.ip_forward"),
        IpAddr::V6(_) => ("/proc/sys/net/ipv6/conf", "net.ipv6.conf.all.forwarding"),
    };
    let on = |interface: &str| {
        fs::read_to_string(format!("{pattern}/{interface}/forwarding")).is_ok_and(|value| value.trim() != "0")
    };
    let forwards = match address {
        IpAddr::V4(_) => fs::read_dir(pattern)
            .with_context(|| format!("cannot read {pattern}"))?
            .filter_map(Result::ok)
            .any(|entry| entry.file_name().to_str().is_some_and(on)),
        IpAddr::V6(_) => on("all"),
    };
    Ok((!forwards).then_some(ForwardingOff { name, server: address }))
}

/// Whether the kernel has what direct routing needs, in this namespace.
///
/// # Errors
/// If it has not and `config` has servers that are reached so.
pub(super) fn direct_routing(config: &Config) -> anyhow::Result<bool> {
    let wanted = |server: &&config::Server| server.forward == ForwardMethod::Dr;
    match nft_rules::probe_direct_routing() {
        Ok(()) => Ok(true),
        Err(error @ nft_rules::Error::MissingFeature { .. }) => {
            match config.services.iter().flat_map(|service| &service.servers).find(wanted) {
                Some(server) => Err(error).context(no_direct_routing(server.address)),
                None => Ok(false),
            }
        }
        Err(error) => Err(error.into()),
    }
}

/// Why the server at `address` cannot be reached where [`direct_routing`] says no.
pub(super) fn no_direct_routing(address: IpAddr) -> String {
    format!(
        "the server {address} cannot have \"forward\": \"dr\": this kernel has no `dup` for nftables \
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
