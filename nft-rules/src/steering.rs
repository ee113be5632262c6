//! The fixed rules: which chains a table has and what they say. Pure; `Display` prints them as nft text.
//!
//! The way of a packet through them is told in `docs/steering.md`. Base chains are for ever: a queued packet
//! whose hook has been rebuilt meanwhile is dropped by the kernel, so what changes are set elements only.

use std::fmt;

pub(crate) use crate::statement::Family;
use crate::{
    ASK_AGAIN, DECIDED, PASS_BY, QueueClass, QueuePlan, QueueTarget, REFUSE_NO_SERVER, UNTRACK,
    sets::{self, Set},
    statement::{
        Client, Field,
        Statement::{self, *},
        Transport,
    },
};

/// The name of our table in both families.
pub const TABLE: &str = "nfvs";

/// The steering of a network namespace: everything about the tables but their elements.
///
/// `Display` prints both tables as nft text. With [`QueueTarget::Native`] it can be loaded with `nft -f`; nft has
/// no word for the xtables target, which is printed as the `queue` statement it stands for.
///
/// ```
/// use nft_rules::{QueuePlan, QueueTarget, Steering};
///
/// let queues = QueuePlan { base: 0, count: 1 };
/// let steering = Steering { queues, target: QueueTarget::Native, direct_routing: true };
/// assert!(steering.to_string().contains("counter queue num 0 bypass"));
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Steering {
    /// The queues.
    pub queues: QueuePlan,
    /// How rules hand packets to them; see [`probe`](crate::probe).
    pub target: QueueTarget,
    /// Whether there are rules for direct routing, which not every kernel has expressions for; see
    /// [`probe_direct_routing`](crate::probe_direct_routing). Without them no endpoint may have routes.
    pub direct_routing: bool,
}

/// Where a base chain stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Hook {
    Prerouting,
    Input,
    Forward,
    /// A chain of type route: a changed destination or mark is routed anew.
    Output,
    Postrouting,
}

impl Hook {
    fn text(self) -> &'static str {
        match self {
            Hook::Prerouting => "type filter hook prerouting",
            Hook::Input => "type filter hook input",
            Hook::Forward => "type filter hook forward",
            Hook::Output => "type route hook output",
            Hook::Postrouting => "type filter hook postrouting",
        }
    }
}

/// A chain: its name, its hook and priority if it is a base chain, its rules.
#[derive(Debug)]
pub(crate) struct Chain {
    pub(crate) name: &'static str,
    pub(crate) hook: Option<(Hook, i32)>,
    pub(crate) rules: Vec<Vec<Statement>>,
}

/// Before connection tracking (-200), behind defragmentation (-400).
const RAW: i32 = -300;
/// Behind the packets' way through the queues, still before connection tracking.
const AFTER_RAW: i32 = -299;
/// Where other tables mangle; before the firewall's filters (0).
const MANGLE: i32 = -150;
/// Behind the firewall's filters.
const LAST: i32 = 300;

const TCP: u8 = 6;
const UDP: u8 = 17;
const SCTP: u8 = 132;

const TO: &[Field] = &[Field::DestinationAddress];
const TO_PROTOCOL: &[Field] = &[Field::DestinationAddress, Field::Protocol];
const TO_PORT: &[Field] = &[Field::DestinationAddress, Field::Protocol, Field::DestinationPort];
const FROM_PROTOCOL: &[Field] = &[Field::SourceAddress, Field::Protocol];
const FROM_PORT: &[Field] = &[Field::SourceAddress, Field::Protocol, Field::SourcePort];
const EMBEDDED: &[Field] = &[Field::EmbeddedDestination];
const REDIRECTED: &[Field] = &[Field::RedirectedDestination];
const MARK_ID: &[Field] = &[Field::MarkId];
const OPERATOR_MARK: &[Field] = &[Field::OperatorMark];
const PROTOCOL: &[Field] = &[Field::Protocol];
const FROM: &[Field] = &[Field::SourceAddress];
const FROM_ETHER: &[Field] = &[Field::SourceEther];
const TO_MARK_ID: &[Field] = &[Field::DestinationAddress, Field::MarkId];

/// Where FTP's data connections go: its own port for them, or one that the server has chosen.
const FTP_DATA_PORT: u16 = 20;
const FIRST_UNPRIVILEGED_PORT: u16 = 1024;

impl Steering {
    /// The chains of a table, every one behind those it goes to.
    pub(crate) fn chains(&self, family: Family) -> Vec<Chain> {
        let mut chains = vec![
            chain(
                "refuse",
                vec![
                    vec![Protocol(TCP), Counter, TcpReset],
                    // Every other protocol gets one answer: nothing at the VIP listens to it.
                    vec![Counter, PortUnreachable],
                ],
            ),
            chain("icmp_errors", vec![self.queue(QueueClass::Established, 0, vec![])]),
            chain("icmp_errors_to_vip", vec![vec![Notrack], vec![Goto("icmp_errors")]]),
            chain("reply", self.queues(QueueClass::Established, Client::Destination)),
            chain("reply_routed", self.queues(QueueClass::Routed, Client::Destination)),
            chain("request_established", self.queues(QueueClass::Established, Client::Source)),
            chain("request_open", self.queues(QueueClass::Open, Client::Source)),
            chain("request_datagram", self.queues(QueueClass::Datagram, Client::Source)),
            chain("request_routed_established", self.queues(QueueClass::Routed, Client::Source)),
            chain("request_routed_datagram", self.queues(QueueClass::RoutedDatagram, Client::Source)),
            chain("request_tunnelled_established", self.queues(QueueClass::Tunnelled, Client::Source)),
            chain("request_tunnelled_datagram", self.queues(QueueClass::TunnelledDatagram, Client::Source)),
            chain(
                "request_by_class",
                vec![
                    vec![Syn, Goto("request_open")],
                    vec![Protocol(TCP), Goto("request_established")],
                    vec![Protocol(UDP), Goto("request_datagram")],
                    vec![Init, Goto("request_open")],
                    // SCTP, AH, ESP: the sets have no other protocol.
                    vec![Goto("request_established")],
                ],
            ),
            chain(
                "request_routed",
                vec![
                    vec![Syn, Goto("request_open")],
                    vec![Protocol(TCP), Goto("request_routed_established")],
                    vec![Protocol(UDP), Goto("request_routed_datagram")],
                ],
            ),
            chain(
                "request_tunnelled",
                vec![
                    vec![Syn, Goto("request_open")],
                    vec![Protocol(UDP), Goto("request_tunnelled_datagram")],
                    vec![Init, Goto("request_open")],
                    vec![Goto("request_tunnelled_established")],
                ],
            ),
            chain("request", request(TO_PORT, &sets::ROUTED_SERVICES, &sets::TUNNELLED_SERVICES)),
            chain("request_ftp_data", request_ftp_data()),
            chain(
                "request_any_port",
                request(TO_PROTOCOL, &sets::ROUTED_SERVICES_ANY_PORT, &sets::TUNNELLED_SERVICES_ANY_PORT),
            ),
            chain("virtual_icmp", virtual_icmp(family)),
            // Balanced already: this host is the server that was chosen, and a VIP that it does not have is a mistake.
            chain("from_peer", vec![vec![ToThisHost, MarkWith(PASS_BY), Accept], vec![Goto("refuse")]]),
            chain(
                "virtual",
                [
                    vec![vec![In(FROM_ETHER, &sets::PEERS), Goto("from_peer")]],
                    to_vip(
                        "virtual_icmp",
                        ["request", "request_any_port"],
                        Goto("reply"),
                        ftp_data("request_ftp_data"),
                        from_servers("reply"),
                    ),
                ]
                .concat(),
            ),
            chain("about_server", about_server(family)),
            chain("to_server", to_server(family)),
            chain(
                "from_server",
                [
                    from_servers("reply"),
                    vec![
                        // A server reached by direct routing answers as the VIP.
                        vec![In(FROM_PORT, &sets::SERVICES), Goto("reply_routed")],
                        vec![Protocol(TCP), In(FROM, &sets::FTP_DATA_REPLIES), Goto("reply_routed")],
                        vec![In(FROM_PROTOCOL, &sets::SERVICES_ANY_PORT), Goto("reply_routed")],
                        vec![Icmp, Goto("about_server")],
                    ],
                ]
                .concat(),
            ),
            chain(
                "request_marked",
                vec![
                    vec![In(OPERATOR_MARK, &sets::TUNNELLED_FWMARKS), Goto("request_tunnelled")],
                    vec![Goto("request_by_class")],
                ],
            ),
            chain(
                "marked",
                vec![
                    // It may be anybody's if the daemon does not take it, so connection tracking must not miss it.
                    vec![Protocol(TCP), Goto("request_marked")],
                    vec![Protocol(UDP), Goto("request_marked")],
                    vec![Protocol(SCTP), Goto("request_marked")],
                    vec![In(TO, &sets::VIPS), Goto("virtual")],
                    vec![Goto("from_server")],
                ],
            ),
            chain("leftover_icmp", leftover_icmp(family)),
            chain("leftover", to_vip("leftover_icmp", ["refuse", "refuse"], Accept, vec![], vec![])),
            chain("silence", vec![vec![Counter, Drop]]),
            chain("silent_server", from_servers("silence")),
            chain(
                "silent_virtual",
                to_vip(
                    "leftover_icmp",
                    ["silence", "silence"],
                    Goto("silence"),
                    ftp_data("silence"),
                    from_servers("silence"),
                ),
            ),
            chain(
                "silent_marked",
                vec![
                    vec![Protocol(TCP), Goto("silence")],
                    vec![Protocol(UDP), Goto("silence")],
                    vec![Protocol(SCTP), Goto("silence")],
                    vec![In(TO, &sets::VIPS), Goto("silent_virtual")],
                    vec![Goto("silent_server")],
                ],
            ),
            // What was handed to a queue has its way to here told once more: nobody has taken it. Not so replies by
            // direct routing, which are right as they are.
            chain(
                "silent",
                vec![
                    vec![In(OPERATOR_MARK, &sets::FWMARKS), Goto("silent_marked")],
                    vec![In(TO, &sets::VIPS), Goto("silent_virtual")],
                    vec![Goto("silent_server")],
                ],
            ),
            chain(
                "answered",
                vec![
                    vec![In(MARK_ID, &sets::REPLY_MARKS), Notrack, Accept],
                    vec![MarkedWith(ASK_AGAIN), Notrack, Accept],
                    vec![MarkedWith(UNTRACK), Notrack, ClearMarkId, Accept],
                    vec![MarkedWith(REFUSE_NO_SERVER), Counter, PortUnreachable],
                    vec![MarkedWith(PASS_BY), ClearMarkId, Accept],
                    vec![MarkedWith(DECIDED), ClearMarkId],
                    vec![In(TO, &sets::VIPS), Goto("leftover")],
                ],
            ),
            chain(
                "after",
                vec![
                    vec![Marked, Goto("answered")],
                    vec![In(PROTOCOL, &sets::SILENT), Goto("silent")],
                    vec![In(TO, &sets::VIPS), Goto("leftover")],
                ],
            ),
            chain("ask_again", vec![vec![ClearMarkId], vec![Icmp, Goto("icmp_errors")], vec![Goto("reply")]]),
            chain("route_in", route_in()),
            chain("route_send", if self.direct_routing { route_send(family) } else { vec![] }),
            chain("route_out", self.route_out()),
            chain("route_back", route_back(family)),
            chain("set_source", set_source()),
        ];
        chains.extend(base_chains(family));
        if self.direct_routing {
            let routed = vec![Untracked, Marked, In(TO_MARK_ID, &sets::ROUTED), Goto("route_send")];
            chains.push(Chain { name: "forward", hook: Some((Hook::Forward, LAST)), rules: vec![routed] });
        }
        chains
    }

    /// A packet of this host that the daemon has given a route, and the copies that are sent.
    fn route_out(&self) -> Vec<Vec<Statement>> {
        let mut rules = vec![vec![In(TO_MARK_ID, &sets::ROUTED), Accept]];
        if self.direct_routing {
            let to_server = Exchange(Field::DestinationAddress, &sets::ROUTE_SERVERS);
            rules.push(vec![to_server, Goto("route_send")]);
        }
        rules.push(vec![Notrack, Accept]);
        rules
    }

    fn queue(&self, class: QueueClass, index: u16, mut rule: Vec<Statement>) -> Vec<Statement> {
        rule.extend([Counter, Queue(self.target, self.queues.number(class, index))]);
        rule
    }

    fn queues(&self, class: QueueClass, client: Client) -> Vec<Vec<Statement>> {
        match self.queues.count {
            1 => vec![self.queue(class, 0, vec![])],
            count => (0..count)
                .map(|index| self.queue(class, index, vec![Hash { client, count, index }]))
                .collect(),
        }
    }
}

/// What becomes of a packet to a VIP. Told thrice: on its way to the queue; of what comes out of the queue as it went in
/// (the daemon does not want it, or is not there), where requests are refused and the rest is let go; and of what
/// nobody has decided about where that is to be dropped.
///
/// `requests`: of services of one port, and of every port.
fn to_vip(
    icmp: &'static str,
    requests: [&'static str; 2],
    reply: Statement,
    ftp_data: Vec<Vec<Statement>>,
    from_servers: Vec<Vec<Statement>>,
) -> Vec<Vec<Statement>> {
    let [request, request_any_port] = requests;
    let exact = vec![
        vec![Icmp, Goto(icmp)],
        vec![In(TO_PORT, &sets::SERVICES), Goto(request)],
        // A client on this host has the VIP for its own address if it is configured here.
        vec![In(FROM_PORT, &sets::SERVERS), ToThisHost, reply],
        vec![In(FROM_PROTOCOL, &sets::SERVERS_ANY_PORT), ToThisHost, reply],
        // A real server on the address of a VIP, addressed directly: none of ours.
        vec![In(TO_PORT, &sets::SERVERS), Accept],
    ];
    let services_any_port = vec![vec![In(TO_PROTOCOL, &sets::SERVICES_ANY_PORT), Goto(request_any_port)]];
    let other = vec![
        vec![In(TO_PROTOCOL, &sets::SERVERS_ANY_PORT), Accept],
        // Fits no service. This host's own stack answers for its addresses: it refuses what nobody listens to,
        // and a VIP that is the only address of the host still takes ssh and the replies to its own connections.
        vec![ToThisHost, Accept],
        vec![Goto("refuse")],
    ];
    [exact, ftp_data, services_any_port, from_servers, other].concat()
}

/// What servers send whose packets are rewritten. To the VIP, they send what they mean for themselves as clients.
fn from_servers(chain: &'static str) -> Vec<Vec<Statement>> {
    vec![
        vec![In(FROM_PORT, &sets::SERVERS), Goto(chain)],
        vec![In(FROM_PROTOCOL, &sets::SERVERS_ANY_PORT), Goto(chain)],
    ]
}

/// What may be a data connection to a service of FTP. If it is none, it is refused like any packet to the address.
fn ftp_data(chain: &'static str) -> Vec<Vec<Statement>> {
    [ToTcpPort(FTP_DATA_PORT), ToTcpPortFrom(FIRST_UNPRIVILEGED_PORT)]
        .map(|to_data_port| vec![to_data_port, In(TO, &sets::FTP_DATA), Goto(chain)])
        .into()
}

/// A packet to a service, which `to` finds in `routed` if the daemon rewrites none of its packets, and in `tunnelled`
/// if it may send some on in tunnels.
fn request(to: &'static [Field], routed: &'static Set, tunnelled: &'static Set) -> Vec<Vec<Statement>> {
    vec![
        vec![Notrack],
        vec![In(to, routed), Goto("request_routed")],
        vec![In(to, tunnelled), Goto("request_tunnelled")],
        vec![Goto("request_by_class")],
    ]
}

/// What may be a data connection. If it is none, it may be anybody's whose address the VIP is, so connection tracking
/// must not miss it, unless another service has it then.
fn request_ftp_data() -> Vec<Vec<Statement>> {
    vec![
        vec![In(TO_PROTOCOL, &sets::SERVICES_ANY_PORT), Notrack],
        vec![In(TO, &sets::ROUTED_FTP_DATA), Goto("request_routed")],
        vec![In(TO, &sets::TUNNELLED_FTP_DATA), Goto("request_tunnelled")],
        vec![Goto("request_by_class")],
    ]
}

/// The types of ICMP errors, as ranges.
fn error_types(family: Family) -> &'static [(u8, u8)] {
    match family {
        // Destination unreachable, source quench, time exceeded, parameter problem.
        Family::Ip4 => &[(3, 3), (4, 4), (11, 12)],
        // Destination unreachable, packet too big, time exceeded, parameter problem.
        Family::Ip6 => &[(1, 4)],
    }
}

/// Neighbour discovery and listener discovery are about links, not about services.
fn link_types(family: Family) -> Vec<Vec<Statement>> {
    match family {
        Family::Ip4 => vec![],
        Family::Ip6 => vec![vec![IcmpType(130, 137), Accept], vec![IcmpType(143, 143), Accept]],
    }
}

fn virtual_icmp(family: Family) -> Vec<Vec<Statement>> {
    let (request, reply) = match family {
        Family::Ip4 => (8, 0),
        Family::Ip6 => (128, 129),
    };
    let echo = IcmpType(request, request);
    let mut rules: Vec<_> = error_types(family)
        .iter()
        .map(|&(first, last)| vec![IcmpType(first, last), Goto("icmp_errors_to_vip")])
        .collect();
    rules.extend(link_types(family));
    rules.extend([
        vec![echo, NotIn(TO, &sets::PINGABLE), Counter, Drop],
        vec![ToThisHost, Accept],
        // The mark is the one place to keep the VIP in while the two addresses change places.
        vec![
            echo,
            MarkFromDestination,
            DestinationFromSource,
            SourceFromMark,
            ClearMark,
            SetTtl,
            SetIcmpType(reply),
            Notrack,
            Counter,
            Accept,
        ],
        vec![Counter, Drop],
    ]);
    rules
}

/// ICMP errors about requests that were rewritten: they embed the real server as destination. Those about replies are
/// sent to the VIP, but a service by mark has no address that could be known.
fn about_server(family: Family) -> Vec<Vec<Statement>> {
    error_types(family)
        .iter()
        .flat_map(|&(first, last)| {
            let errors = |about: &'static [Field], set| {
                vec![IcmpType(first, last), In(about, set), Goto("icmp_errors")]
            };
            [errors(EMBEDDED, &sets::SERVER_ADDRESSES), errors(PROTOCOL, &sets::ERRORS_ABOUT_ANY)]
        })
        .collect()
}

/// ICMP errors that this host sends to a real server, about a reply that had the server's address meanwhile.
fn to_server(family: Family) -> Vec<Vec<Statement>> {
    error_types(family)
        .iter()
        .map(|&(first, last)| vec![IcmpType(first, last), Goto("icmp_errors")])
        .collect()
}

/// A packet that has come in and that the daemon has given a route. It is routed as the server's: a request to its
/// server, a reply from it, which neither looks like one of this host's own to a host that has the VIP, nor to
/// `rp_filter` like one from elsewhere.
fn route_in() -> Vec<Vec<Statement>> {
    [Field::DestinationAddress, Field::SourceAddress]
        .map(|field| vec![Exchange(field, &sets::ROUTE_SERVERS), Notrack, Accept])
        .into()
}

/// The fragment field of a packet that may be fragmented, and of one that may not: the flag DF.
const MAY_BE_FRAGMENTED: u16 = 0;
const DF: u16 = 0x4000;
/// The flag that RFC 791 reserves, and that nobody sets.
const RESERVED: u16 = 0x8000;

/// A request that has been routed to its server. Its copy comes out with DF, and has to be told from one that came in
/// with it.
fn route_send(family: Family) -> Vec<Vec<Statement>> {
    let mut rules = match family {
        Family::Ip4 => vec![vec![FragmentField(MAY_BE_FRAGMENTED), SetFragmentField(RESERVED)]],
        Family::Ip6 => vec![],
    };
    rules.push(vec![DupToDestination, Drop]);
    rules
}

/// The other way round, behind routing.
fn route_back(family: Family) -> Vec<Vec<Statement>> {
    let mut rules = match family {
        Family::Ip4 => vec![vec![FragmentField(RESERVED | DF), SetFragmentField(MAY_BE_FRAGMENTED)]],
        Family::Ip6 => vec![],
    };
    rules.extend([
        vec![Exchange(Field::DestinationAddress, &sets::ROUTE_VIPS)],
        vec![Exchange(Field::SourceAddress, &sets::ROUTE_VIPS)],
        vec![ClearMarkId],
    ]);
    rules
}

fn leftover_icmp(family: Family) -> Vec<Vec<Statement>> {
    let mut rules = link_types(family);
    rules.extend([vec![ToThisHost, Accept], vec![Counter, Drop]]);
    rules
}

/// A lookup that fails ends its rule only: a service of every port has no port to set; ICMP, AH and ESP have none
/// either.
fn set_source() -> Vec<Vec<Statement>> {
    vec![
        // The daemon's own; what is left to do is the same as at the end, and sooner done.
        vec![MarkedWith(UNTRACK), ClearMarkId, Accept],
        vec![MarkedWith(ASK_AGAIN), Goto("ask_again")],
        vec![In(MARK_ID, &sets::ROUTE_MARKS), Goto("route_back")],
        vec![PortFromMark(Transport::Tcp)],
        vec![PortFromMark(Transport::Udp)],
        vec![PortFromMark(Transport::UdpUnsummed)],
        vec![PortFromMark(Transport::Sctp)],
        vec![SourceFromMark],
        vec![ClearMarkId],
    ]
}

fn base_chains(family: Family) -> Vec<Chain> {
    let redirect = match family {
        Family::Ip4 => IcmpType(5, 5),
        Family::Ip6 => IcmpType(137, 137),
    };
    // What comes in through lo has passed OUTPUT and POSTROUTING, which have seen to it.
    let from_loopback = vec![FromLoopback, Accept];
    let to_marked = vec![In(OPERATOR_MARK, &sets::FWMARKS), Goto("marked")];
    let to_vip = vec![In(TO, &sets::VIPS), Goto("virtual")];
    let other = vec![Goto("from_server")];
    // The `ct` in here does more than match: it is what makes the kernel track connections in this namespace
    // and with that defragment (-400) what the queues get. `notrack` alone does not.
    let late = vec![vec![Untracked, Marked, Goto("set_source")]];
    // Both SYNs between a client and a server on this host pass here.
    let within = vec![vec![Untracked, ToLoopback, Syn, LimitSegments]];
    let given_route = |chain| vec![Marked, In(MARK_ID, &sets::ROUTE_MARKS), Goto(chain)];
    let base = |name, hook, priority, rules| Chain { name, hook: Some((hook, priority)), rules };
    vec![
        base(
            "prerouting",
            Hook::Prerouting,
            RAW,
            vec![
                from_loopback.clone(),
                // Out of a tunnel of this host: it has the mark of the packet that it was in.
                vec![MarkedWith(PASS_BY), Accept],
                to_marked.clone(),
                to_vip.clone(),
                other.clone(),
            ],
        ),
        base(
            "prerouting_after",
            Hook::Prerouting,
            AFTER_RAW,
            vec![from_loopback, given_route("route_in"), vec![Goto("after")]],
        ),
        base(
            "output",
            Hook::Output,
            RAW,
            vec![
                // What the daemon sends. It keeps its mark until it has passed the hooks of this table: one that
                // changes here has the packet routed anew.
                vec![MarkedWith(UNTRACK), Notrack, Accept],
                // This host's routing is not the client's or the server's business: the director must stay in the
                // path. A redirect would name the real server to the client, or the client to the server.
                vec![redirect, In(REDIRECTED, &sets::SERVER_ADDRESSES), Counter, Drop],
                vec![redirect, In(TO, &sets::SERVER_ADDRESSES), Counter, Drop],
                // A copy that direct routing sends: nothing else has both before it was steered.
                vec![Untracked, Marked, Accept],
                to_marked,
                to_vip,
                vec![Icmp, In(TO, &sets::SERVER_ADDRESSES), Goto("to_server")],
                other,
            ],
        ),
        base(
            "output_after",
            Hook::Output,
            AFTER_RAW,
            vec![vec![MarkedWith(UNTRACK), Untracked, Accept], given_route("route_out"), vec![Goto("after")]],
        ),
        base(
            "input",
            Hook::Input,
            MANGLE,
            [vec![vec![In(PROTOCOL, &sets::IGNORED_TUNNELS), MarkWith(PASS_BY), Accept]], late.clone()]
                .concat(),
        ),
        base("postrouting", Hook::Postrouting, MANGLE, [within, late].concat()),
    ]
}

fn chain(name: &'static str, rules: Vec<Vec<Statement>>) -> Chain {
    Chain { name, hook: None, rules }
}

/// A rule in nft's text.
pub(crate) fn rule_text(rule: &[Statement], family: Family) -> String {
    rule.iter().map(|statement| statement.text(family)).collect::<Vec<_>>().join(" ")
}

impl fmt::Display for Steering {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.target == QueueTarget::Xtables {
            writeln!(f, "# queue: {}", self.target)?;
        }
        for family in Family::ALL {
            writeln!(f, "table {family} {TABLE} {{")?;
            for set in sets::ALL {
                write_set(f, set, family)?;
            }
            for chain in self.chains(family) {
                writeln!(f, "\tchain {} {{", chain.name)?;
                if let Some((hook, priority)) = chain.hook {
                    writeln!(f, "\t\t{} priority {priority}; policy accept;", hook.text())?;
                }
                for rule in &chain.rules {
                    writeln!(f, "\t\t{}", rule_text(rule, family))?;
                }
                writeln!(f, "\t}}")?;
            }
            writeln!(f, "}}")?;
        }
        Ok(())
    }
}

fn write_set(f: &mut fmt::Formatter<'_>, set: &Set, family: Family) -> fmt::Result {
    let kind = if set.value.is_some() { "map" } else { "set" };
    let raw =
        format!("@th,{},{}", Field::EmbeddedDestination.icmp_offset(family) * 8, family.address_len() * 8);
    writeln!(f, "\t{kind} {} {{\n\t\t{}\n\t}}", set.name, set.type_text(family, &raw))
}
