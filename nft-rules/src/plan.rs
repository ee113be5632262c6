//! Which queue a packet goes to, and what the packet mark means: the numbers that the rules in the kernel and
//! the daemon that answers them must agree on.
//!
//! ```
//! use nft_rules::{QueueClass, QueuePlan, SourceId};
//!
//! let plan = QueuePlan { base: 100, count: 2 };
//! assert_eq!(plan.number(QueueClass::Open, 1), 103);
//! let id = SourceId::new(7).unwrap();
//! assert_eq!(id.apply(0x0000_0042), 0x0007_0042); // the lower half stays the operator's
//! assert_eq!(SourceId::from_mark(0x0007_0042), Some(id));
//! ```

use std::fmt;

use crate::Error;

/// The bits of the packet mark that are ours; the others are the operator's and pass unchanged.
pub const MARK_MASK: u32 = 0xffff_0000;

/// The mark, within [`MARK_MASK`], by which the daemon has a packet to a VIP refused with ICMP (ICMPv6) port
/// unreachable, TCP included: what IPVS answers when a service has no server left.
pub const REFUSE_NO_SERVER: u32 = 0xffff_0000;

/// The mark, within [`MARK_MASK`], of a reply whose source no map has: it comes to the daemon once more, behind
/// routing, and the daemon writes the source itself.
pub const ASK_AGAIN: u32 = 0xfffe_0000;

/// The mark, within [`MARK_MASK`], of a packet that connection tracking is to leave alone: a request that is steered by
/// the operator's mark and that the daemon has taken (what it has not taken goes on tracked, like any packet of
/// anybody), or one that the daemon itself sends.
pub const UNTRACK: u32 = 0xfffd_0000;

/// The mark, within [`MARK_MASK`], of a packet to a VIP that is not ours to balance: another director has done so, or it
/// has come out of a tunnel that is to be left alone.
pub const PASS_BY: u32 = 0xfffc_0000;

/// The mark, within [`MARK_MASK`], of a packet that the daemon has decided about without more to say to the rules: it is
/// on its way, or none of its own and treated as if it had never been in a queue. What comes to the rules behind a queue
/// without a mark has been decided about by nobody.
pub const DECIDED: u32 = 0xfffb_0000;

/// A number on the packet mark that names the virtual side of a packet, which the kernel writes when the packet
/// leaves (POSTROUTING) or is delivered (INPUT).
///
/// Either a virtual service: its address and port become the source of a reply. Or a route, which is a VIP and a
/// real server behind it that direct routing reaches: a request is routed as if it went to the server, and has the
/// VIP for its destination again when it leaves.
///
/// The daemon hands it over in the upper half of the packet mark. A family's services and routes share the
/// numbers; the same number in the other family is another.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SourceId(u16);

impl SourceId {
    /// The lowest number.
    pub const MIN: SourceId = SourceId(1);
    /// The highest number; those above it are [`DECIDED`], [`PASS_BY`], [`UNTRACK`], [`ASK_AGAIN`] and
    /// [`REFUSE_NO_SERVER`].
    pub const MAX: SourceId = SourceId(65_530);

    /// The source with this number, `None` outside 1 to 65530.
    pub fn new(number: u16) -> Option<Self> {
        (Self::MIN.0..=Self::MAX.0).contains(&number).then_some(SourceId(number))
    }

    /// The source a packet mark names, `None` if the mark is not ours or is one of those that name none.
    pub fn from_mark(mark: u32) -> Option<Self> {
        Self::new((mark >> 16) as u16)
    }

    /// The number.
    pub fn get(self) -> u16 {
        self.0
    }

    /// The bits of the mark that name this source, host byte order.
    pub fn mark(self) -> u32 {
        u32::from(self.0) << 16
    }

    /// `mark` with our bits set to this source and the operator's kept.
    pub fn apply(self, mark: u32) -> u32 {
        mark & !MARK_MASK | self.mark()
    }
}

/// What the packets of a queue have in common. Flags and copy range are settings of a queue, and a flood of one
/// kind must not displace another: hence queues of their own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum QueueClass {
    /// TCP without SYN and SCTP without INIT to a VIP, AH and ESP, all replies of servers, ICMP errors.
    Established,
    /// TCP with SYN, SCTP with INIT to a VIP.
    Open,
    /// UDP to a VIP.
    Datagram,
    /// What the daemon only decides about and never writes back, so that the first bytes are enough: TCP without
    /// SYN to a service whose servers are all reached by direct routing, and replies that come from a VIP.
    Routed,
    /// The same of UDP to such a service.
    RoutedDatagram,
    /// What may go to a server in a tunnel, and so has to come segment by segment: all but SYN, INIT and UDP to a
    /// service that has, or had, a server behind one.
    Tunnelled,
    /// UDP to such a service.
    TunnelledDatagram,
}

impl QueueClass {
    /// Every class, in the order of the queue numbers. Later classes are appended, never inserted.
    pub const ALL: [QueueClass; 7] = [
        QueueClass::Established,
        QueueClass::Open,
        QueueClass::Datagram,
        QueueClass::Routed,
        QueueClass::RoutedDatagram,
        QueueClass::Tunnelled,
        QueueClass::TunnelledDatagram,
    ];

    /// How much of each packet the daemon needs, and in which shape.
    pub fn copy(self) -> PacketCopy {
        match self {
            QueueClass::Established | QueueClass::Open | QueueClass::Datagram => PacketCopy::Whole,
            QueueClass::Routed | QueueClass::RoutedDatagram => PacketCopy::Headers,
            QueueClass::Tunnelled | QueueClass::TunnelledDatagram => PacketCopy::Segments,
        }
    }
}

impl fmt::Display for QueueClass {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            QueueClass::Established => "established",
            QueueClass::Open => "open",
            QueueClass::Datagram => "datagram",
            QueueClass::Routed => "routed",
            QueueClass::RoutedDatagram => "routed-udp",
            QueueClass::Tunnelled => "tunnel",
            QueueClass::TunnelledDatagram => "tunnel-udp",
        })
    }
}

/// What a queue hands over of each packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum PacketCopy {
    /// All of it, several segments in one (GSO) as they are: it is written back, and the kernel cuts it afterwards.
    Whole,
    /// The first bytes: it is only decided about.
    Headers,
    /// All of it, with several segments in one cut before, and no checksum owed: it is sent on by the daemon.
    Segments,
}

/// The queue numbers: `count` queues of each class, one class after the other, from `base` up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct QueuePlan {
    /// The first queue number.
    pub base: u16,
    /// Queues per class, at least one; as a rule one per worker thread.
    pub count: u16,
}

impl QueuePlan {
    /// The number of queue `index` (below `count`) of a class.
    ///
    /// # Panics
    /// If the plan does not pass [`QueuePlan::validate`], or `index` is not below `count`.
    pub fn number(&self, class: QueueClass, index: u16) -> u16 {
        assert!(index < self.count, "queue {index} of a class that has {}", self.count);
        let offset = class as u16 * self.count + index;
        self.base.checked_add(offset).expect("the plan was validated")
    }

    /// Every queue as (class, index within the class, queue number), in the order of the numbers.
    pub fn all(&self) -> impl Iterator<Item = (QueueClass, u16, u16)> {
        let plan = *self;
        QueueClass::ALL.into_iter().flat_map(move |class| {
            (0..plan.count).map(move |index| (class, index, plan.number(class, index)))
        })
    }

    /// Whether there is at least one queue per class and the last queue number is at most 65535.
    ///
    /// # Errors
    /// [`Error::Queues`] otherwise.
    pub fn validate(&self) -> Result<(), Error> {
        let last = u32::from(self.base) + u32::from(self.count) * QueueClass::ALL.len() as u32;
        if self.count == 0 || last > 1 << 16 {
            return Err(Error::Queues { base: self.base, count: self.count, classes: QueueClass::ALL.len() });
        }
        Ok(())
    }
}

/// How a rule hands a packet to a queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum QueueTarget {
    /// The `queue` expression of nftables (`CONFIG_NFT_QUEUE`).
    Native,
    /// The `NFQUEUE` target of xtables through nft_compat (`CONFIG_NFT_COMPAT` and
    /// `CONFIG_NETFILTER_XT_TARGET_NFQUEUE`): the same queues, for kernels without the expression.
    Xtables,
}

impl fmt::Display for QueueTarget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            QueueTarget::Native => "nftables queue expression",
            QueueTarget::Xtables => "xtables NFQUEUE target through nft_compat",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn queue_numbers_follow_one_another_by_class() {
        let plan = QueuePlan { base: 40, count: 2 };
        let numbers: Vec<_> = plan.all().collect();
        assert_eq!(
            numbers,
            [
                (QueueClass::Established, 0, 40),
                (QueueClass::Established, 1, 41),
                (QueueClass::Open, 0, 42),
                (QueueClass::Open, 1, 43),
                (QueueClass::Datagram, 0, 44),
                (QueueClass::Datagram, 1, 45),
                (QueueClass::Routed, 0, 46),
                (QueueClass::Routed, 1, 47),
                (QueueClass::RoutedDatagram, 0, 48),
                (QueueClass::RoutedDatagram, 1, 49),
                (QueueClass::Tunnelled, 0, 50),
                (QueueClass::Tunnelled, 1, 51),
                (QueueClass::TunnelledDatagram, 0, 52),
                (QueueClass::TunnelledDatagram, 1, 53),
            ]
        );
    }

    #[test]
    fn a_plan_must_fit_the_queue_numbers() {
        assert!(QueuePlan { base: 65_529, count: 1 }.validate().is_ok());
        assert!(QueuePlan { base: 65_530, count: 1 }.validate().is_err());
        assert!(QueuePlan { base: 0, count: 0 }.validate().is_err());
        assert!(QueuePlan { base: 0, count: 65_535 }.validate().is_err());
    }

    #[test]
    fn marks_name_sources_and_nothing_else() {
        assert_eq!(SourceId::new(0), None);
        assert_eq!(SourceId::new(0xffff), None);
        for special in [REFUSE_NO_SERVER, ASK_AGAIN, UNTRACK, PASS_BY, DECIDED] {
            assert_eq!(SourceId::from_mark(special | 5), None);
        }
        assert_eq!(SourceId::from_mark(0x1234), None);
        assert_eq!(SourceId::from_mark(SourceId::MAX.apply(0xffff_ffff)), Some(SourceId::MAX));
    }
}
