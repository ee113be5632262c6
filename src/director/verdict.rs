//! What goes into the director with a packet, and what comes out.

use super::packet::Rewritten;
use super::service::Fwmark;
use super::tunnel::Encapsulation;

/// Where the packet met nfvs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hook {
    /// It arrived from a link and has not been routed yet.
    Prerouting,
    /// A process of this namespace sent it.
    Output,
    /// It was here before, has been routed, and is about to leave or to be delivered: see
    /// [`ReplySource::ASKED_AGAIN`].
    Late,
}

/// What the kernel says about a packet beside its bytes.
#[derive(Clone, Copy, Debug)]
pub struct PacketMeta {
    /// Where the packet met nfvs.
    pub hook: Hook,
    /// The kernel still owes the L4 checksum (`NFQA_SKB_CSUMNOTREADY`): the field holds a partial sum. Whoever
    /// writes the packet back owes the full sum.
    pub checksum_owed: bool,
    /// Several segments in one packet (`NFQA_SKB_GSO`); the kernel cuts it again behind the queue.
    pub gso: bool,
    /// The packet's length on the wire, in bytes; larger than the bytes at hand when the copy was cut.
    pub original_len: usize,
    /// What the operator's rules have marked it with.
    pub mark: Option<Fwmark>,
}

/// The fate of one packet.
#[derive(Debug, PartialEq, Eq)]
#[must_use]
pub enum Verdict {
    /// Not ours: goes on as if nfvs were absent.
    Accept,
    /// Ours: goes on, with the bytes written back if they changed, and with the source set late by the kernel if
    /// `source` says so.
    Forward {
        /// Proof that the bytes were changed and are complete, or the bytes themselves if their number changed; `None`:
        /// the kernel keeps its own bytes.
        rewritten: Option<Rewritten>,
        /// Which virtual address and port the kernel puts in as the source, after routing.
        source: Option<ReplySource>,
    },
    /// Ours, and unchanged on its way to a real server or from it (`ip_vs_dr_xmit`): the kernel routes it as the
    /// server's, and puts the virtual address back behind routing.
    Route(Route),
    /// Ours, and on its way to a real server inside another packet, which is to be sent; this one ends
    /// (`ip_vs_tunnel_xmit`).
    Encapsulate(Encapsulation),
    /// Somebody else is to be sent this ICMP error, a whole IP packet.
    Tell {
        /// The error.
        error: Vec<u8>,
        /// Whether the packet goes on, as none of a connection that would have to be tracked; else it ends.
        goes_on: bool,
    },
    /// Addressed to a virtual IP but not served: the rules answer.
    Refuse(Refusal),
    /// Dropped, and counted under its reason.
    Drop(DropReason),
}

/// How a packet to a virtual IP is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// No such connection or service: TCP is reset, the rest gets ICMP port unreachable.
    NotServed,
    /// A service without an available server: ICMP port unreachable, for TCP too (`ip_vs_leave`).
    NoServer,
}

/// Names the virtual address (and port) that the kernel writes as the source of a reply.
///
/// Travels in the upper 16 bits of the packet mark. Below [`LIMIT`](ReplySource::LIMIT), a service's number; the two
/// others that are possible are the constants.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ReplySource(pub u16);

impl ReplySource {
    /// One more than the largest number of a service.
    pub const LIMIT: u16 = 0xfffb;
    /// No source at all: the packet is one that no rule could know for ours, and connection tracking is to leave it
    /// alone as it does those that are known by their address.
    pub const UNTRACKED: ReplySource = ReplySource(0xfffd);
    /// One that no rule could know: the director sets it itself when the packet comes again, at [`Hook::Late`].
    pub const ASKED_AGAIN: ReplySource = ReplySource(0xfffe);
}

/// Names a virtual address and a real server that packets to it reach by direct routing.
///
/// Out of the same numbers as [`ReplySource`], one of which is never both in one address family.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Route(pub u16);

macro_rules! drop_reasons {
    ($($(#[$doc:meta])* $variant:ident = $name:literal,)*) => {
        /// Why a packet was dropped. Closed: every drop is counted under one of these.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum DropReason { $($(#[$doc])* $variant,)* }

        impl DropReason {
            /// All reasons, in the order of their counters.
            pub const ALL: &[DropReason] = &[$(DropReason::$variant,)*];

            /// The reason's name in statistics.
            pub const fn name(self) -> &'static str {
                match self { $(DropReason::$variant => $name,)* }
            }
        }
    };
}

drop_reasons! {
    /// Headers that are cut short, or whose lengths contradict the packet.
    Malformed = "malformed",
    /// The kernel copied only part of a packet that has to be rewritten.
    Truncated = "truncated",
    /// Several SCTP packets in one, as older kernels hand them over: writing back would destroy the list they are.
    SctpSegments = "sctp_segments",
    /// Several TCP segments in one, of which one would have got another length: cut again to their old size, the others
    /// would not be what they were. Their sender repeats them one by one.
    FtpSegments = "ftp_segments",
    /// An IP fragment that the kernel did not reassemble.
    Fragment = "fragment",
    /// An ICMP error whose own checksum is wrong, or a packet of a control connection of FTP whose checksum is.
    BadChecksum = "bad_checksum",
    /// The connection's real server has been removed (`expire_nodest_conn` = 0).
    ServerRemoved = "server_removed",
    /// The connection came from another director, no service here has its server, and no way there is known but
    /// through one.
    Unbound = "unbound",
    /// The connection table is full.
    TableFull = "table_full",
    /// A first packet in which the service's persistence engine finds no Call-ID.
    NoCallId = "no_call_id",
    /// An ICMP error that was to be scheduled, for a service without an available server (`schedule_icmp`).
    NoServer = "no_server",
    /// One of the packets that would have made connections, dropped against a flood (`drop_packet`).
    DropPacket = "drop_packet",
    /// Every port that could stand in for the client's towards a shared server is taken.
    PortsExhausted = "ports_exhausted",
    /// No hop is left on the way to a server behind a tunnel; the client is told.
    HopLimit = "hop_limit",
    /// Longer than what the tunnel to its server takes; the client is told.
    TooBig = "too_big",
    /// No route leads to the server behind a tunnel; the client is told.
    Unreachable = "unreachable",
    /// The path to a server leaves no room in a tunnel for packets of any use, or the packet is too long for any
    /// tunnel.
    TunnelMtu = "tunnel_mtu",
    /// Several segments in one, which no tunnel takes: they came before the kernel was told to cut them.
    TunnelSegments = "tunnel_segments",
    /// The system did not send the outer packet.
    TunnelSend = "tunnel_send",
}
