//! The Ethernet links of this network namespace, and on which of them neighbours ask for an address.

use nix::ifaddrs::{InterfaceAddress, getifaddrs};
use nix::net::if_::InterfaceFlags;
use nix::sys::socket::{LinkAddr, SockaddrStorage};
use std::collections::{BTreeMap, HashSet};
use std::fs;
use std::io;
use std::net::{IpAddr, Ipv6Addr};

/// An Ethernet link that is up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Link {
    /// The interface.
    pub name: String,
    /// Its Ethernet address.
    pub ethernet: [u8; 6],
    /// The IP addresses it has.
    pub addresses: Vec<Assigned>,
}

/// An IP address of an interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Assigned {
    /// The address.
    pub address: IpAddr,
    /// The mask of its network.
    pub mask: IpAddr,
    /// Whether it may turn out to be another's: duplicate address detection has not ended, or has found another.
    pub is_tentative: bool,
}

impl Assigned {
    fn has_in_its_network(&self, address: IpAddr) -> bool {
        match (self.address, self.mask, address) {
            (IpAddr::V4(own), IpAddr::V4(mask), IpAddr::V4(other)) => own & mask == other & mask,
            (IpAddr::V6(own), IpAddr::V6(mask), IpAddr::V6(other)) => own & mask == other & mask,
            _ => false,
        }
    }
}

/// Where an address is announced: on which of `links`, by its position, and as from which address.
///
/// That is on the links that have it. Where none has it, the director can only be asked for it as a proxy, or have it
/// on lo: on the links to whose networks it belongs.
pub(super) fn places<'a>(
    address: IpAddr,
    links: impl Iterator<Item = &'a Link> + Clone,
) -> Vec<(usize, IpAddr)> {
    let own = |assigned: &&Assigned| assigned.address == address;
    if links.clone().any(|link| link.addresses.iter().any(|assigned| own(&assigned))) {
        let settled = |assigned: &&Assigned| own(assigned) && !assigned.is_tentative;
        let having = links.enumerate().filter(|(_, link)| link.addresses.iter().any(|it| settled(&it)));
        return having.map(|(position, _)| (position, address)).collect();
    }
    let near = |assigned: &&Assigned| assigned.has_in_its_network(address) && !assigned.is_tentative;
    let source = |link: &Link| link.addresses.iter().find(near).map(|assigned| assigned.address);
    links.enumerate().filter_map(|(position, link)| Some((position, source(link)?))).collect()
}

/// The links, and how the kernel calls each.
///
/// # Errors
/// If the kernel does not say.
pub(super) fn links() -> io::Result<Vec<(Link, LinkAddr)>> {
    // The kernel counts IPv6 addresses by another list, which alone says what state they are in.
    let tentative = tentative(&fs::read_to_string("/proc/net/if_inet6").unwrap_or_default());
    let mut found: BTreeMap<String, (Link, LinkAddr)> = BTreeMap::new();
    let all: Vec<InterfaceAddress> = getifaddrs()?.collect();
    for InterfaceAddress { interface_name: name, flags, address, .. } in &all {
        let link = address.as_ref().and_then(SockaddrStorage::as_link_addr);
        if let Some(link) = link.filter(|link| is_ethernet(*flags, link.hatype()))
            && let Some(ethernet) = link.addr()
        {
            found.insert(name.clone(), (Link { name: name.clone(), ethernet, addresses: Vec::new() }, *link));
        }
    }
    for InterfaceAddress { interface_name: name, address, netmask, .. } in &all {
        // An IPv4 address may have a label, which begins with the interface's name.
        let name = name.split(':').next().unwrap_or_default();
        if let Some((link, _)) = found.get_mut(name)
            && let Some(address) = address.as_ref().and_then(ip)
            && let Some(mask) = netmask.as_ref().and_then(ip)
        {
            let is_tentative = tentative.contains(&(name.to_owned(), address));
            link.addresses.push(Assigned { address, mask, is_tentative });
        }
    }
    Ok(found.into_values().collect())
}

/// Whether an interface is one whose neighbours are told of Ethernet addresses, and can be now.
fn is_ethernet(flags: InterfaceFlags, hardware: u16) -> bool {
    let up = InterfaceFlags::IFF_UP | InterfaceFlags::IFF_RUNNING | InterfaceFlags::IFF_BROADCAST;
    let silent = InterfaceFlags::IFF_LOOPBACK | InterfaceFlags::IFF_NOARP;
    hardware == libc::ARPHRD_ETHER && flags.contains(up) && !flags.intersects(silent)
}

fn ip(address: &SockaddrStorage) -> Option<IpAddr> {
    let v4 = address.as_sockaddr_in().map(|it| IpAddr::from(it.ip()));
    v4.or_else(|| address.as_sockaddr_in6().map(|it| IpAddr::from(it.ip())))
}

/// The addresses in a list of `/proc/net/if_inet6` that may turn out to be others', with their interfaces.
fn tentative(list: &str) -> HashSet<(String, IpAddr)> {
    const TENTATIVE: u32 = 0x40;
    const DUPLICATE: u32 = 0x08;
    let tentative = |line: &str| {
        let mut words = line.split_whitespace();
        let address = Ipv6Addr::from(u128::from_str_radix(words.next()?, 16).ok()?);
        // Between them stand the interface's number, the length of the prefix and the scope.
        let flags = u32::from_str_radix(words.nth(3)?, 16).ok()?;
        let name = words.next()?.to_owned();
        (flags & (TENTATIVE | DUPLICATE) != 0).then_some((name, IpAddr::V6(address)))
    };
    list.lines().filter_map(tentative).collect()
}

/// Whether an interface forwards IPv6.
pub(super) fn is_router(interface: &str) -> bool {
    let setting = fs::read_to_string(format!("/proc/sys/net/ipv6/conf/{interface}/forwarding"));
    setting.is_ok_and(|value| value.trim() != "0")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A link with such addresses, `ADDRESS MASK`; one in brackets is tentative.
    fn link(addresses: &[&str]) -> Link {
        let assigned = |written: &&str| {
            let is_tentative = written.starts_with('[');
            let (address, mask) = written.trim_matches(['[', ']']).split_once(' ').unwrap();
            Assigned { address: address.parse().unwrap(), mask: mask.parse().unwrap(), is_tentative }
        };
        Link { name: String::new(), ethernet: [2; 6], addresses: addresses.iter().map(assigned).collect() }
    }

    #[test]
    fn an_address_is_announced_where_neighbours_ask_for_it() {
        const ALONE: &str = "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff";
        let first =
            ["10.0.1.11 255.255.255.0", "fd00:1::11 ffff:ffff:ffff:ffff::", "10.0.0.100 255.255.255.255"];
        let second = [
            "10.0.2.11 255.255.255.0",
            "fd00:2::11 ffff:ffff:ffff:ffff::",
            &format!("fd00:1::100 {ALONE}"),
            &format!("[fd00:2::100 {ALONE}]"),
            "[fd00:3::11 ffff:ffff:ffff:ffff::]",
        ];
        let third = ["10.0.1.13 255.255.255.0"];
        let links = [link(&first), link(&second), link(&third)];
        for (address, expected, what) in [
            ("10.0.0.100", vec![(0, "10.0.0.100")], "one link has it"),
            ("fd00:1::100", vec![(1, "fd00:1::100")], "the one that has it, whoever has its network"),
            ("10.0.1.100", vec![(0, "10.0.1.11"), (2, "10.0.1.13")], "none has it, two are of its network"),
            ("fd00:2::7", vec![(1, "fd00:2::11")], "none has it, one is of its network"),
            ("fd00:2::100", vec![], "it is not yet known whether it is another's"),
            ("fd00:3::7", vec![], "it is not known whether the network's address is another's"),
            ("10.0.3.100", vec![], "no network has it: routes lead to it"),
            ("10.0.0.101", vec![], "the network of a single address has no other"),
        ] {
            let address: IpAddr = address.parse().unwrap();
            let expected: Vec<(usize, IpAddr)> =
                expected.iter().map(|(position, source)| (*position, source.parse().unwrap())).collect();
            assert_eq!(places(address, links.iter()), expected, "{address}: {what}");
        }
    }

    #[test]
    fn only_ethernets_that_are_up_have_neighbours() {
        let up = InterfaceFlags::IFF_UP | InterfaceFlags::IFF_RUNNING | InterfaceFlags::IFF_BROADCAST;
        for (flags, hardware, expected, what) in [
            (up, libc::ARPHRD_ETHER, true, "an Ethernet"),
            (up | InterfaceFlags::IFF_NOARP, libc::ARPHRD_ETHER, false, "a dummy"),
            (up - InterfaceFlags::IFF_RUNNING, libc::ARPHRD_ETHER, false, "no link"),
            (up - InterfaceFlags::IFF_UP, libc::ARPHRD_ETHER, false, "switched off"),
            (up | InterfaceFlags::IFF_LOOPBACK, libc::ARPHRD_LOOPBACK, false, "lo"),
            (up, libc::ARPHRD_TUNNEL, false, "a tunnel"),
        ] {
            assert_eq!(is_ethernet(flags, hardware), expected, "{what}");
        }
    }

    #[test]
    fn tentative_addresses_are_told_from_others() {
        let list = "fd000001000000000000000000000011 02 40 00 80    eth0\n\
                    fd000000000000000000000000000100 02 80 00 c0    eth0\n\
                    fd000000000000000000000000000101 03 80 00 88    eth1\n";
        let expected = [("eth0", "fd00::100"), ("eth1", "fd00::101")];
        let expected = expected.map(|(name, address)| (name.to_owned(), address.parse().unwrap()));
        assert_eq!(tentative(list), HashSet::from(expected));
    }
}
