//! What the sets and maps hold: computed from the services as a whole, and compared, so that a change of the
//! configuration becomes the elements to add and to remove. Pure; `Display` prints nft text.

use std::{collections::BTreeMap, fmt, net::IpAddr};

use crate::{
    SourceId,
    sets::{self, Set},
    steering::{Family, TABLE},
};

/// One virtual service as the steering sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint {
    /// The virtual address (VIP).
    pub address: IpAddr,
    /// The transport protocol number: 6, 17 or 132.
    ///
    /// With UDP on port 500, IKE, come ESP and, over IPv4, AH between the same addresses.
    pub protocol: u8,
    /// The virtual port; `None` is every port.
    pub port: Option<u16>,
    /// The number under which replies get this address and port as their source. Unique among the endpoints and
    /// routes of a family: of two with the same number, the later one counts.
    pub source: SourceId,
    /// The real servers whose packets are rewritten: address and port, `None` for every port. A server that is no
    /// longer chosen stays here as long as it has connections.
    pub servers: Vec<(IpAddr, Option<u16>)>,
    /// The real servers reached by direct routing, each with the number of its route from the VIP: every service
    /// of the VIP names the same one. As with `servers`, they stay as long as they have connections.
    pub routes: Vec<(IpAddr, SourceId)>,
    /// The real servers behind tunnels, of either family. Those of the VIP's are among `routes` as well, by which
    /// their replies pass. As with `servers`, they stay as long as they have connections.
    pub tunnels: Vec<IpAddr>,
    /// Whether requests are steered. `false`: the service is deleted; replies of its connections are still
    /// steered, and what clients send to its address is still refused rather than routed on.
    pub accepts: bool,
    /// Whether the VIP answers echo requests; one service of an address that wants it is enough.
    pub answers_ping: bool,
    /// Whether data connections of FTP, to port 20 or one from 1024 on, are steered to it as well.
    pub ftp_data: bool,
    /// Whether the daemon reads what clients say, so that the first bytes of a packet are not enough.
    pub reads_payload: bool,
}

/// A virtual service by mark as the steering sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Marked {
    /// The lower half of the packet mark that the operator sets.
    pub mark: u16,
    /// Whether it is a service of IPv6.
    pub ipv6: bool,
    /// The addresses of its real servers, those included that still have connections. They may answer from any port.
    pub servers: Vec<IpAddr>,
    /// The addresses of those behind tunnels, of either family.
    pub tunnels: Vec<IpAddr>,
    /// Whether requests are steered.
    pub accepts: bool,
}

/// The elements of every set, in both families.
///
/// ```
/// use nft_rules::{Elements, Endpoint, SourceId};
///
/// let endpoint = Endpoint {
///     address: "10.0.0.100".parse().unwrap(),
///     protocol: 6,
///     port: Some(80),
///     source: SourceId::MIN,
///     servers: vec![("10.0.2.11".parse().unwrap(), Some(8080))],
///     routes: vec![],
///     tunnels: vec![],
///     accepts: true,
///     answers_ping: true,
///     ftp_data: false,
///     reads_payload: false,
/// };
/// let elements = Elements::from_endpoints([endpoint]);
/// assert!(elements.to_string().starts_with("add element ip nfvs services { 10.0.0.100 . tcp . 80 }\n"));
/// assert!(Elements::default().changes(&elements).removed.is_empty());
/// ```
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Elements {
    ip4: [SetElements; sets::ALL.len()],
    ip6: [SetElements; sets::ALL.len()],
}

/// What a service by mark may consist of: TCP, UDP and SCTP.
const MARKED_PROTOCOLS: [u8; 3] = [6, 17, 132];

/// The protocol numbers of IPv4, IPv6 and GRE in IP.
const TUNNELS: [u8; 3] = [4, 41, 47];

/// The protocol numbers of all that is balanced: TCP, UDP, ESP, AH and SCTP.
const BALANCED: [u8; 5] = [6, 17, 50, 51, 132];

/// Keys and values (empty in a set that is no map) in the kernel's layout.
pub(crate) type SetElements = BTreeMap<Box<[u8]>, Box<[u8]>>;

/// The difference between two [`Elements`]. A map key whose value changes is in both.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Changes {
    /// What is to be added.
    pub added: Elements,
    /// What is to be removed, before anything is added.
    pub removed: Elements,
}

impl Endpoint {
    /// Whether the daemon only decides about its packets, by their first bytes: nothing is translated. (Chunks of SCTP
    /// may begin anywhere.)
    fn is_decided_by_headers(&self) -> bool {
        const TCP: u8 = 6;
        const UDP: u8 = 17;
        let changes_none = self.servers.is_empty() && self.tunnels.is_empty();
        let is_routed = changes_none && !self.routes.is_empty();
        is_routed && !self.reads_payload && matches!(self.protocol, TCP | UDP)
    }
}

impl Elements {
    /// The elements for these endpoints.
    pub fn from_endpoints(endpoints: impl IntoIterator<Item = Endpoint>) -> Self {
        let mut elements = Elements::default();
        for endpoint in endpoints {
            elements.add_endpoint(&endpoint);
        }
        elements
    }

    /// These elements and those for services by mark.
    #[must_use]
    pub fn with_marked(mut self, services: impl IntoIterator<Item = Marked>) -> Self {
        for service in services {
            self.add_marked(&service);
        }
        self
    }

    /// These elements and the interfaces of other directors, by their Ethernet addresses: packets that come from them to
    /// a VIP of this host are delivered as if nobody balanced, and to another are refused.
    #[must_use]
    pub fn with_peers(mut self, peers: impl IntoIterator<Item = [u8; 6]>) -> Self {
        for peer in peers {
            for family in Family::ALL {
                self.set_of(family, &sets::PEERS).insert(peer.into(), [].into());
            }
        }
        self
    }

    /// These elements and those by which packets out of tunnels of this host (IP in IP, GRE) are not balanced
    /// (`ignore_tunneled`).
    #[must_use]
    pub fn ignoring_tunnels(mut self) -> Self {
        for protocol in TUNNELS {
            for family in Family::ALL {
                self.set_of(family, &sets::IGNORED_TUNNELS).insert([protocol].into(), [].into());
            }
        }
        self
    }

    /// These elements and those by which packets that nobody has decided about, for no daemon listens, are dropped: those
    /// to services, and those from servers whose packets are rewritten. Another director may go on with their
    /// connections, if nobody resets them before.
    #[must_use]
    pub fn silent_alone(mut self) -> Self {
        for protocol in BALANCED {
            for family in Family::ALL {
                self.set_of(family, &sets::SILENT).insert([protocol].into(), [].into());
            }
        }
        self
    }

    /// The steps from `self` to `to`.
    pub fn changes(&self, to: &Elements) -> Changes {
        Changes { added: to.without(self), removed: self.without(to) }
    }

    /// Whether no set has an element.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Elements in all sets of both families.
    pub fn len(&self) -> usize {
        self.ip4.iter().chain(&self.ip6).map(BTreeMap::len).sum()
    }

    /// The sets that have elements in a family, in a fixed order.
    pub(crate) fn sets(&self, family: Family) -> impl Iterator<Item = (&'static Set, &SetElements)> {
        sets::ALL.into_iter().zip(self.family(family)).filter(|(_, elements)| !elements.is_empty())
    }

    fn add_endpoint(&mut self, endpoint: &Endpoint) {
        let Endpoint { address, protocol, port, source, .. } = *endpoint;
        let mark = source.mark();
        self.insert(address, &sets::REPLY_MARKS, mark_bytes(mark), []);
        self.insert(address, &sets::REPLY_ADDRESS, mark_bytes(mark), address_bytes(address));
        // A port that is the same already must not be written: SCTP would get a new CRC, and damage with it a right
        // one.
        if let Some(port) = port
            && endpoint.servers.iter().any(|&(_, of_server)| of_server != Some(port))
        {
            self.insert(address, &sets::REPLY_PORT, mark_bytes(mark), port.to_be_bytes());
        }
        self.insert(address, &sets::VIPS, address_bytes(address), []);
        if endpoint.accepts {
            match port {
                Some(port) => self.insert(address, &sets::SERVICES, with_port(address, protocol, port), []),
                None => self.insert(address, &sets::SERVICES_ANY_PORT, with_protocol(address, protocol), []),
            }
            for &follower in followers(address, protocol, port) {
                self.insert(address, &sets::SERVICES_ANY_PORT, with_protocol(address, follower), []);
            }
            let own_queues = own_queues(endpoint);
            if let Some([of_port, of_any_port, _]) = own_queues {
                match port {
                    Some(port) => self.insert(address, of_port, with_port(address, protocol, port), []),
                    None => self.insert(address, of_any_port, with_protocol(address, protocol), []),
                }
            }
            self.insert_vip_mark(address, mark);
            if endpoint.answers_ping {
                self.insert(address, &sets::PINGABLE, address_bytes(address), []);
            }
            if endpoint.ftp_data {
                self.insert(address, &sets::FTP_DATA, address_bytes(address), []);
                if !endpoint.routes.is_empty() {
                    self.insert(address, &sets::FTP_DATA_REPLIES, address_bytes(address), []);
                }
                if let Some([.., of_ftp_data]) = own_queues {
                    self.insert(address, of_ftp_data, address_bytes(address), []);
                }
            }
        }
        for &(server, port) in &endpoint.servers {
            match port {
                Some(port) => self.insert(server, &sets::SERVERS, with_port(server, protocol, port), []),
                None => self.insert(server, &sets::SERVERS_ANY_PORT, with_protocol(server, protocol), []),
            }
            for &follower in followers(server, protocol, port) {
                self.insert(server, &sets::SERVERS_ANY_PORT, with_protocol(server, follower), []);
            }
            self.insert(server, &sets::SERVER_ADDRESSES, address_bytes(server), []);
        }
        for &(server, route) in &endpoint.routes {
            self.add_route(address, server, route.mark());
        }
        for &server in &endpoint.tunnels {
            self.insert(server, &sets::SERVER_ADDRESSES, address_bytes(server), []);
        }
    }

    fn add_route(&mut self, vip: IpAddr, server: IpAddr, mark: u32) {
        self.insert(vip, &sets::ROUTE_MARKS, mark_bytes(mark), []);
        self.insert(vip, &sets::ROUTED, with_mark(server, mark), []);
        self.insert(vip, &sets::ROUTE_SERVERS, with_mark(vip, mark), address_bytes(server));
        self.insert(vip, &sets::ROUTE_VIPS, with_mark(server, mark), address_bytes(vip));
        self.insert(server, &sets::SERVER_ADDRESSES, address_bytes(server), []);
    }

    fn add_marked(&mut self, service: &Marked) {
        let family = if service.ipv6 { Family::Ip6 } else { Family::Ip4 };
        if service.accepts {
            let mark = mark_bytes(u32::from(service.mark));
            self.set_of(family, &sets::FWMARKS).insert(mark.into(), [].into());
            if !service.tunnels.is_empty() {
                self.set_of(family, &sets::TUNNELLED_FWMARKS).insert(mark.into(), [].into());
            }
        }
        // As long as there is anything of it left, errors may be about it.
        self.set_of(family, &sets::ERRORS_ABOUT_ANY).insert([family.icmp()].into(), [].into());
        for &server in &service.servers {
            for protocol in MARKED_PROTOCOLS {
                self.insert(server, &sets::SERVERS_ANY_PORT, with_protocol(server, protocol), []);
            }
            self.insert(server, &sets::SERVER_ADDRESSES, address_bytes(server), []);
        }
        for &server in &service.tunnels {
            self.insert(server, &sets::SERVER_ADDRESSES, address_bytes(server), []);
        }
    }

    /// Any source of the VIP will do; the lowest is taken so that the order of the endpoints does not matter.
    fn insert_vip_mark(&mut self, vip: IpAddr, mark: u32) {
        let marks = self.set_mut(vip, &sets::VIP_MARKS);
        let lowest = marks
            .get(&*address_bytes(vip))
            .and_then(|present| <[u8; 4]>::try_from(&**present).ok())
            .map_or(mark, |present| mark.min(u32::from_ne_bytes(present)));
        marks.insert(address_bytes(vip), mark_bytes(lowest).into());
    }

    fn insert(
        &mut self,
        at: IpAddr,
        set: &'static Set,
        key: impl Into<Box<[u8]>>,
        value: impl Into<Box<[u8]>>,
    ) {
        self.set_mut(at, set).insert(key.into(), value.into());
    }

    fn set_mut(&mut self, at: IpAddr, set: &'static Set) -> &mut SetElements {
        self.set_of(if at.is_ipv4() { Family::Ip4 } else { Family::Ip6 }, set)
    }

    fn set_of(&mut self, family: Family, set: &'static Set) -> &mut SetElements {
        let family = match family {
            Family::Ip4 => &mut self.ip4,
            Family::Ip6 => &mut self.ip6,
        };
        let index = sets::ALL.iter().position(|other| other.name == set.name).expect("ALL has every set");
        &mut family[index]
    }

    fn family(&self, family: Family) -> &[SetElements; sets::ALL.len()] {
        match family {
            Family::Ip4 => &self.ip4,
            Family::Ip6 => &self.ip6,
        }
    }

    fn without(&self, other: &Elements) -> Elements {
        Elements { ip4: difference(&self.ip4, &other.ip4), ip6: difference(&self.ip6, &other.ip6) }
    }
}

impl Changes {
    /// Whether there is nothing to do.
    pub fn is_empty(&self) -> bool {
        self.added.is_empty() && self.removed.is_empty()
    }
}

impl fmt::Display for Elements {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for family in Family::ALL {
            for (set, elements) in self.sets(family) {
                let text: Vec<_> =
                    elements.iter().map(|(key, value)| set.element_text(family, key, value)).collect();
                writeln!(f, "add element {family} {TABLE} {} {{ {} }}", set.name, text.join(", "))?;
            }
        }
        Ok(())
    }
}

fn difference(
    from: &[SetElements; sets::ALL.len()],
    to: &[SetElements; sets::ALL.len()],
) -> [SetElements; sets::ALL.len()] {
    std::array::from_fn(|set| {
        let kept = |key: &[u8], value: &[u8]| to[set].get(key).is_some_and(|other| **other == *value);
        from[set]
            .iter()
            .filter(|(key, value)| !kept(key, value))
            .map(|(key, value)| (key.clone(), value.clone()))
            .collect()
    })
}

/// The sets that lead an endpoint's packets to other queues than those of what is rewritten: of services of a port, of
/// every port, and of data connections of FTP.
fn own_queues(endpoint: &Endpoint) -> Option<[&'static Set; 3]> {
    if endpoint.is_decided_by_headers() {
        Some([&sets::ROUTED_SERVICES, &sets::ROUTED_SERVICES_ANY_PORT, &sets::ROUTED_FTP_DATA])
    } else if !endpoint.tunnels.is_empty() {
        Some([&sets::TUNNELLED_SERVICES, &sets::TUNNELLED_SERVICES_ANY_PORT, &sets::TUNNELLED_FTP_DATA])
    } else {
        None
    }
}

/// The protocols without ports that belong to an endpoint as well: what IKE (RFC 7296, 2) protects. An
/// authentication header over IPv6 stands before another protocol and is no protocol of its own.
fn followers(address: IpAddr, protocol: u8, port: Option<u16>) -> &'static [u8] {
    const UDP: u8 = 17;
    const KEY_EXCHANGE: u16 = 500;
    const ESP: u8 = 50;
    const AH: u8 = 51;
    match (address, protocol, port) {
        (IpAddr::V4(_), UDP, None | Some(KEY_EXCHANGE)) => &[ESP, AH],
        (IpAddr::V6(_), UDP, None | Some(KEY_EXCHANGE)) => &[ESP],
        _ => &[],
    }
}

fn address_bytes(address: IpAddr) -> Box<[u8]> {
    match address {
        IpAddr::V4(address) => address.octets().into(),
        IpAddr::V6(address) => address.octets().into(),
    }
}

fn mark_bytes(mark: u32) -> [u8; 4] {
    mark.to_ne_bytes()
}

fn with_mark(address: IpAddr, mark: u32) -> Vec<u8> {
    [&*address_bytes(address), &mark_bytes(mark)].concat()
}

fn with_protocol(address: IpAddr, protocol: u8) -> Vec<u8> {
    [&*address_bytes(address), &[protocol, 0, 0, 0]].concat()
}

fn with_port(address: IpAddr, protocol: u8, port: u16) -> Vec<u8> {
    let [high, low] = port.to_be_bytes();
    [&*with_protocol(address, protocol), &[high, low, 0, 0]].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn endpoint(address: &str, port: Option<u16>, source: u16) -> Endpoint {
        let server = if address.contains(':') { "fd00:2::11" } else { "10.0.2.11" };
        Endpoint {
            address: address.parse().unwrap(),
            protocol: 6,
            port,
            source: SourceId::new(source).unwrap(),
            servers: vec![(server.parse().unwrap(), port.map(|_| 8080))],
            routes: vec![],
            tunnels: vec![],
            accepts: true,
            answers_ping: true,
            ftp_data: false,
            reads_payload: false,
        }
    }

    #[test]
    fn a_service_by_mark_has_no_address_and_its_servers_every_port() {
        let marked = |accepts| Marked {
            mark: 5,
            ipv6: false,
            servers: vec!["10.0.2.11".parse().unwrap()],
            tunnels: vec![],
            accepts,
        };
        let replies = "add element ip nfvs errors_about_any { icmp }\n\
             add element ip nfvs servers_any_port { 10.0.2.11 . tcp, 10.0.2.11 . udp, 10.0.2.11 . sctp }\n\
             add element ip nfvs server_addresses { 0x0a00020b }\n";
        assert_eq!(Elements::default().with_marked([marked(false)]).to_string(), replies);
        let requests = "add element ip nfvs fwmarks { 0x00000005 }\n";
        assert_eq!(
            Elements::default().with_marked([marked(true)]).to_string(),
            format!("{requests}{replies}")
        );
    }

    #[test]
    fn a_service_of_every_port_has_no_port_to_reply_from() {
        let elements = Elements::from_endpoints([endpoint("10.0.0.100", None, 3)]);
        assert_eq!(
            elements.to_string(),
            "add element ip nfvs services_any_port { 10.0.0.100 . tcp }\n\
             add element ip nfvs vips { 10.0.0.100 }\n\
             add element ip nfvs pingable { 10.0.0.100 }\n\
             add element ip nfvs servers_any_port { 10.0.2.11 . tcp }\n\
             add element ip nfvs server_addresses { 0x0a00020b }\n\
             add element ip nfvs reply_marks { 0x00030000 }\n\
             add element ip nfvs reply_address { 0x00030000 : 10.0.0.100 }\n\
             add element ip nfvs vip_marks { 10.0.0.100 : 0x00030000 }\n"
        );
    }

    #[test]
    fn families_keep_apart() {
        let elements = Elements::from_endpoints([endpoint("fd00::100", Some(80), 1)]);
        assert!(elements.to_string().lines().all(|line| line.starts_with("add element ip6 ")), "{elements}");
        assert!(elements.to_string().contains("servers { fd00:2::11 . tcp . 8080 }"), "{elements}");
    }

    #[test]
    fn a_deleted_service_steers_replies_and_refuses_requests() {
        let mut deleted = endpoint("10.0.0.100", Some(80), 1);
        deleted.accepts = false;
        assert_eq!(
            Elements::from_endpoints([deleted]).to_string(),
            "add element ip nfvs vips { 10.0.0.100 }\n\
             add element ip nfvs servers { 10.0.2.11 . tcp . 8080 }\n\
             add element ip nfvs server_addresses { 0x0a00020b }\n\
             add element ip nfvs reply_marks { 0x00010000 }\n\
             add element ip nfvs reply_address { 0x00010000 : 10.0.0.100 }\n\
             add element ip nfvs reply_port { 0x00010000 : 80 }\n"
        );
    }

    #[test]
    fn a_route_leads_from_a_vip_to_a_server_and_back() {
        let mut routed = endpoint("10.0.0.100", Some(80), 1);
        let via = |server: &str, route| (server.parse().unwrap(), SourceId::new(route).unwrap());
        routed.servers.clear();
        routed.routes = vec![via("10.0.2.11", 2), via("10.0.2.12", 3)];
        let mut other_port = endpoint("10.0.0.100", Some(443), 4);
        other_port.routes = vec![via("10.0.2.11", 2)];
        let elements = Elements::from_endpoints([routed, other_port]).to_string();
        for line in [
            "routed_services { 10.0.0.100 . tcp . 80 }",
            "servers { 10.0.2.11 . tcp . 8080 }",
            "server_addresses { 0x0a00020b, 0x0a00020c }",
            "route_marks { 0x00020000, 0x00030000 }",
            "routed { 10.0.2.11 . 0x00020000, 10.0.2.12 . 0x00030000 }",
            "route_servers { 10.0.0.100 . 0x00020000 : 10.0.2.11, 10.0.0.100 . 0x00030000 : 10.0.2.12 }",
            "route_vips { 10.0.2.11 . 0x00020000 : 10.0.0.100, 10.0.2.12 . 0x00030000 : 10.0.0.100 }",
        ] {
            assert!(elements.contains(&format!("add element ip nfvs {line}\n")), "{line}: {elements}");
        }
    }

    #[test]
    fn a_server_behind_a_tunnel_is_of_any_family_and_takes_the_packets_of_its_services_to_queues_of_their_own()
     {
        let tunnels: Vec<IpAddr> = vec!["10.0.2.12".parse().unwrap(), "fd00:2::12".parse().unwrap()];
        let mut mixed = endpoint("10.0.0.100", Some(80), 1);
        mixed.routes = vec![(tunnels[0], SourceId::new(2).unwrap())];
        mixed.tunnels = tunnels.clone();
        let marked = Marked { mark: 5, ipv6: true, servers: vec![], tunnels, accepts: true };
        let text = Elements::from_endpoints([mixed.clone()]).with_marked([marked.clone()]).to_string();
        let has = |line: &str| assert!(text.contains(line), "{line}: {text}");
        has("ip nfvs tunnelled_services { 10.0.0.100 . tcp . 80 }");
        has("ip6 nfvs tunnelled_fwmarks { 0x00000005 }");
        has("ip nfvs server_addresses { 0x0a00020b, 0x0a00020c }");
        has("ip6 nfvs server_addresses { 0xfd000002000000000000000000000012 }");
        has("ip nfvs servers { 10.0.2.11 . tcp . 8080 }");
        has("ip nfvs route_vips { 10.0.2.12 . 0x00020000 : 10.0.0.100 }");
        assert!(!text.contains("routed_services"), "{text}");

        // Without another server, packets need to come segment by segment all the same.
        mixed.servers.clear();
        let text = Elements::from_endpoints([mixed.clone()]).to_string();
        assert!(!text.contains("routed_services") && text.contains(" tunnelled_services "), "{text}");
        let every_port = Endpoint { port: None, ..mixed.clone() };
        let text = Elements::from_endpoints([every_port]).to_string();
        assert!(text.contains("ip nfvs tunnelled_services_any_port { 10.0.0.100 . tcp }"), "{text}");
        let ftp = Endpoint { ftp_data: true, ..mixed };
        let text = Elements::from_endpoints([ftp]).to_string();
        assert!(text.contains("ip nfvs tunnelled_ftp_data { 10.0.0.100 }"), "{text}");
        let deleted = Elements::default().with_marked([Marked { accepts: false, ..marked }]).to_string();
        assert!(!deleted.contains("tunnelled_fwmarks"), "{deleted}");
    }

    #[test]
    fn data_connections_of_ftp_are_routed_where_nothing_is_translated() {
        let mut ftp = endpoint("10.0.0.100", Some(21), 1);
        ftp.ftp_data = true;
        let sets = |ftp: &Endpoint| {
            let elements = Elements::from_endpoints([ftp.clone()]).to_string();
            ["ftp_data", "ftp_data_replies", "routed_ftp_data"]
                .map(|set| elements.contains(&format!("add element ip nfvs {set} {{ 10.0.0.100 }}\n")))
        };
        assert_eq!(sets(&ftp), [true, false, false], "nobody answers in the name of the VIP");
        ftp.routes = vec![("10.0.2.11".parse().unwrap(), SourceId::new(2).unwrap())];
        assert_eq!(sets(&ftp), [true, true, false], "some server's packets are rewritten");
        ftp.servers.clear();
        assert_eq!(sets(&ftp), [true; 3]);
    }

    #[test]
    fn what_clients_say_is_not_in_the_first_bytes() {
        let mut routed = endpoint("10.0.0.100", Some(5060), 1);
        routed.protocol = 17;
        routed.routes = vec![("10.0.2.11".parse().unwrap(), SourceId::new(2).unwrap())];
        routed.servers.clear();
        let is_routed = |endpoint: &Endpoint| {
            Elements::from_endpoints([endpoint.clone()]).to_string().contains(" routed_services ")
        };
        assert!(is_routed(&routed));
        routed.reads_payload = true;
        assert!(!is_routed(&routed));
    }

    #[test]
    fn what_services_share_stays_until_the_last_goes() {
        let one = endpoint("10.0.0.100", Some(80), 1);
        let two = endpoint("10.0.0.100", Some(443), 2);
        let both = Elements::from_endpoints([two.clone(), one.clone()]);
        assert_eq!(both, Elements::from_endpoints([one.clone(), two.clone()]));
        let changes = both.changes(&Elements::from_endpoints([two]));
        // The server, the VIP and its answers to echo requests are still wanted; the VIP is known by source 2 now.
        assert_eq!(
            changes.removed.to_string(),
            "add element ip nfvs services { 10.0.0.100 . tcp . 80 }\n\
             add element ip nfvs reply_marks { 0x00010000 }\n\
             add element ip nfvs reply_address { 0x00010000 : 10.0.0.100 }\n\
             add element ip nfvs reply_port { 0x00010000 : 80 }\n\
             add element ip nfvs vip_marks { 10.0.0.100 : 0x00010000 }\n"
        );
        assert_eq!(changes.added.to_string(), "add element ip nfvs vip_marks { 10.0.0.100 : 0x00020000 }\n");
    }

    #[test]
    fn with_the_exchange_of_keys_comes_what_it_protects() {
        let exchange = |address, port, server_port: Option<u16>| {
            let endpoint = endpoint(address, port, 1);
            let servers = endpoint.servers.iter().map(|(server, _)| (*server, server_port)).collect();
            let elements =
                Elements::from_endpoints([Endpoint { protocol: 17, servers, ..endpoint }]).to_string();
            elements
                .lines()
                .filter(|line| line.contains("any_port"))
                .map(|line| format!("{line}\n"))
                .collect::<String>()
        };
        assert_eq!(
            exchange("10.0.0.100", Some(500), Some(500)),
            "add element ip nfvs services_any_port { 10.0.0.100 . esp, 10.0.0.100 . ah }\n\
             add element ip nfvs servers_any_port { 10.0.2.11 . esp, 10.0.2.11 . ah }\n"
        );
        assert_eq!(
            exchange("fd00::100", None, None),
            "add element ip6 nfvs services_any_port { fd00::100 . udp, fd00::100 . esp }\n\
             add element ip6 nfvs servers_any_port { fd00:2::11 . udp, fd00:2::11 . esp }\n"
        );
        // A server that answers from another port is not where replies to port 500 come from (ip_vs_proto_ah_esp.c).
        assert_eq!(
            exchange("10.0.0.100", Some(500), Some(4500)),
            "add element ip nfvs services_any_port { 10.0.0.100 . esp, 10.0.0.100 . ah }\n"
        );
        assert_eq!(exchange("10.0.0.100", Some(4500), Some(500)).lines().count(), 1, "a server for port 500");
        assert_eq!(exchange("10.0.0.100", Some(53), Some(53)), "");
    }

    #[test]
    fn silence_is_an_element_of_each_protocol_that_is_balanced() {
        let silent = Elements::default().silent_alone();
        assert_eq!(
            silent.to_string(),
            "add element ip nfvs silent { tcp, udp, esp, ah, sctp }\n\
             add element ip6 nfvs silent { tcp, udp, esp, ah, sctp }\n"
        );
        assert_eq!(silent.changes(&Elements::default()).removed, silent);
    }

    #[test]
    fn nothing_changes_between_equals() {
        let elements = Elements::from_endpoints([endpoint("10.0.0.100", Some(80), 1)]);
        assert!(elements.changes(&elements).is_empty());
    }
}
