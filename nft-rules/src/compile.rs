//! Statements as the kernel's expressions: the same that nft makes of their text.

use nftnl::nftnl_sys as sys;

use crate::{
    QueueTarget,
    expr::Expr,
    plan::MARK_MASK,
    sets::{self, Set},
    statement::{
        ANSWER_TTL, Client, Family, Field, HASH_SEED, LOOPBACK_MSS, SCTP_CHUNK_OFFSET, SCTP_INIT, Statement,
        Transport,
    },
};

/// The expressions of a rule.
pub(crate) fn rule(statements: &[Statement], family: Family) -> Vec<Expr> {
    statements.iter().flat_map(|&statement| expressions(statement, family)).collect()
}

/// Four-byte registers: a rule's values go through here, a concatenation through those that follow.
const REG: u32 = libc::NFT_REG32_00 as u32;
/// Where the input of a hash stands: the sixteen bytes behind `REG` and three more.
const HASH_REG: u32 = REG + 4;

const LINK: u32 = libc::NFT_PAYLOAD_LL_HEADER as u32;
const NETWORK: u32 = libc::NFT_PAYLOAD_NETWORK_HEADER as u32;
const TRANSPORT: u32 = libc::NFT_PAYLOAD_TRANSPORT_HEADER as u32;

/// `NFT_META_IIF` and `NFT_META_OIF` of the loopback device: the first device of every namespace.
const LOOPBACK_INDEX: u32 = 1;
/// `enum ip_conntrack_info`/`NF_CT_STATE_UNTRACKED_BIT`.
const CT_STATE_UNTRACKED: u32 = 1 << 6;
/// `NFTA_FIB_F_DADDR` and `NFT_FIB_RESULT_ADDRTYPE`, linux/netfilter/nf_tables.h.
const FIB_DADDR: u32 = 1 << 1;
const FIB_ADDRTYPE: u32 = 3;
/// `NFT_QUEUE_FLAG_BYPASS`.
const QUEUE_BYPASS: u16 = 1;
/// `NFT_LOOKUP_F_INV`.
const LOOKUP_INVERTED: u32 = 1;
/// `NFT_PAYLOAD_CSUM_INET`, `NFT_PAYLOAD_CSUM_SCTP` (Linux 5.10) and `NFT_PAYLOAD_L4CSUM_PSEUDOHDR`.
const CSUM_INET: u32 = 1;
const CSUM_SCTP: u32 = 2;
const L4CSUM_PSEUDOHDR: u32 = 1;
/// `NFT_HASH_JENKINS`.
const HASH_JENKINS: u32 = 0;
/// `NFT_REJECT_ICMP_UNREACH` and `NFT_REJECT_TCP_RST`.
const REJECT_UNREACH: u32 = 0;
const REJECT_RESET: u32 = 1;

/// `NFT_EXTHDR_OP_TCPOPT`.
const EXTHDR_TCP_OPTION: u32 = 1;

/// RFC 9293, 3.2: kind 2, its value behind kind and length.
const TCP_OPTION_MSS: u8 = 2;
const TCP_FLAGS_OFFSET: u32 = 13;
const TCP_SYN: u8 = 0x02;
const TCP_CHECKSUM: u32 = 16;
const UDP_CHECKSUM: u32 = 6;
const SCTP_CHECKSUM: u32 = 8;
const ICMP_CHECKSUM: u32 = 2;
const IP4_FRAGMENT: u32 = 6;
const IP4_CHECKSUM: u32 = 10;

fn expressions(statement: Statement, family: Family) -> Vec<Expr> {
    match statement {
        Statement::In(fields, set) => {
            let mut list = concatenation(fields, family, REG);
            list.push(lookup(set));
            list
        }
        Statement::NotIn(fields, set) => {
            let mut list = concatenation(fields, family, REG);
            list.push(lookup(set).u32(sys::NFTNL_EXPR_LOOKUP_FLAGS, LOOKUP_INVERTED));
            list
        }
        Statement::Protocol(number) => protocol(number),
        Statement::Icmp => protocol(family.icmp()),
        Statement::IcmpType(first, last) => {
            let mut list = protocol(family.icmp());
            list.push(payload(TRANSPORT, 0, 1, REG));
            if first == last {
                list.push(compare(libc::NFT_CMP_EQ, [first]));
            } else {
                list.extend([compare(libc::NFT_CMP_GTE, [first]), compare(libc::NFT_CMP_LTE, [last])]);
            }
            list
        }
        Statement::ToTcpPort(port) => to_tcp_port(libc::NFT_CMP_EQ, port, family),
        Statement::ToTcpPortFrom(port) => to_tcp_port(libc::NFT_CMP_GTE, port, family),
        Statement::Syn => {
            let mut list = protocol(libc::IPPROTO_TCP as u8);
            list.extend([
                payload(TRANSPORT, TCP_FLAGS_OFFSET, 1, REG),
                bitwise(&[TCP_SYN], &[0]),
                compare(libc::NFT_CMP_NEQ, [0]),
            ]);
            list
        }
        Statement::Init => {
            let mut list = protocol(libc::IPPROTO_SCTP as u8);
            list.extend([
                payload(TRANSPORT, SCTP_CHUNK_OFFSET, 1, REG),
                compare(libc::NFT_CMP_EQ, [SCTP_INIT]),
            ]);
            list
        }
        Statement::FromLoopback => {
            vec![meta(libc::NFT_META_IIF, REG), compare(libc::NFT_CMP_EQ, LOOPBACK_INDEX.to_ne_bytes())]
        }
        Statement::ToLoopback => {
            vec![meta(libc::NFT_META_OIF, REG), compare(libc::NFT_CMP_EQ, LOOPBACK_INDEX.to_ne_bytes())]
        }
        Statement::ToThisHost => vec![
            Expr::new(c"fib")
                .u32(sys::NFTNL_EXPR_FIB_DREG, REG)
                .u32(sys::NFTNL_EXPR_FIB_RESULT, FIB_ADDRTYPE)
                .u32(sys::NFTNL_EXPR_FIB_FLAGS, FIB_DADDR),
            compare(libc::NFT_CMP_EQ, u32::from(libc::RTN_LOCAL).to_ne_bytes()),
        ],
        Statement::Untracked => vec![
            Expr::new(c"ct")
                .u32(sys::NFTNL_EXPR_CT_KEY, libc::NFT_CT_STATE as u32)
                .u32(sys::NFTNL_EXPR_CT_DREG, REG),
            bitwise(&CT_STATE_UNTRACKED.to_ne_bytes(), &[0; 4]),
            compare(libc::NFT_CMP_NEQ, [0; 4]),
        ],
        Statement::Marked => {
            let mut list = load(Field::MarkId, family, REG);
            list.push(compare(libc::NFT_CMP_NEQ, [0; 4]));
            list
        }
        Statement::MarkedWith(mark) => {
            let mut list = load(Field::MarkId, family, REG);
            list.push(compare(libc::NFT_CMP_EQ, mark.to_ne_bytes()));
            list
        }
        Statement::Hash { client, count, index } => hash(client, count, index, family),
        Statement::Counter => vec![Expr::new(c"counter")],
        Statement::Notrack => vec![Expr::new(c"notrack")],
        Statement::Queue(QueueTarget::Native, number) => vec![
            Expr::new(c"queue")
                .u16(sys::NFTNL_EXPR_QUEUE_NUM, number)
                .u16(sys::NFTNL_EXPR_QUEUE_TOTAL, 1)
                .u16(sys::NFTNL_EXPR_QUEUE_FLAGS, QUEUE_BYPASS),
        ],
        Statement::Queue(QueueTarget::Xtables, number) => vec![Expr::xt_nfqueue(number)],
        Statement::Accept => vec![verdict(libc::NF_ACCEPT)],
        Statement::Drop => vec![verdict(libc::NF_DROP)],
        Statement::Goto(chain) => vec![verdict(libc::NFT_GOTO).text(sys::NFTNL_EXPR_IMM_CHAIN, chain)],
        Statement::TcpReset => vec![reject(REJECT_RESET, 0)],
        Statement::PortUnreachable => vec![reject(
            REJECT_UNREACH,
            match family {
                Family::Ip4 => 3,
                Family::Ip6 => 4,
            },
        )],
        Statement::MarkFromDestination => {
            let mut list = load(Field::DestinationAddress, family, REG);
            list.extend([look_through(&sets::VIP_MARKS), set_mark()]);
            list
        }
        Statement::DestinationFromSource => {
            let mut list = load(Field::SourceAddress, family, REG);
            list.push(write_address(Field::DestinationAddress, family));
            list
        }
        Statement::SourceFromMark => {
            let mut list = load(Field::MarkId, family, REG);
            list.extend([look_through(&sets::REPLY_ADDRESS), write_address(Field::SourceAddress, family)]);
            list
        }
        Statement::PortFromMark(transport) => port_from_mark(transport, family),
        Statement::ClearMark => vec![immediate(&[0; 4]), set_mark()],
        Statement::Exchange(field, map) => {
            let mut list = concatenation(&[field, Field::MarkId], family, REG);
            list.extend([look_through(map), write_address(field, family)]);
            list
        }
        Statement::FragmentField(value) => {
            vec![payload(NETWORK, IP4_FRAGMENT, 2, REG), compare(libc::NFT_CMP_EQ, value.to_be_bytes())]
        }
        Statement::SetFragmentField(value) => {
            vec![
                immediate(&value.to_be_bytes()),
                write(NETWORK, IP4_FRAGMENT, 2, Some((CSUM_INET, IP4_CHECKSUM))),
            ]
        }
        Statement::DupToDestination => {
            let mut list = load(Field::DestinationAddress, family, REG);
            list.push(Expr::new(c"dup").u32(sys::NFTNL_EXPR_DUP_SREG_ADDR, REG));
            list
        }
        Statement::ClearMarkId => {
            vec![meta(libc::NFT_META_MARK, REG), bitwise(&(!MARK_MASK).to_ne_bytes(), &[0; 4]), set_mark()]
        }
        Statement::MarkWith(mark) => {
            vec![
                meta(libc::NFT_META_MARK, REG),
                bitwise(&(!MARK_MASK).to_ne_bytes(), &mark.to_ne_bytes()),
                set_mark(),
            ]
        }
        Statement::SetTtl => match family {
            // Checksums go by 16 bits, so the protocol beside it is read and written too.
            Family::Ip4 => vec![
                payload(NETWORK, 8, 2, REG),
                bitwise(&[0, 0xff], &[ANSWER_TTL, 0]),
                write(NETWORK, 8, 2, Some((CSUM_INET, IP4_CHECKSUM))),
            ],
            Family::Ip6 => vec![immediate(&[ANSWER_TTL]), write(NETWORK, 7, 1, None)],
        },
        Statement::SetIcmpType(number) => vec![
            payload(TRANSPORT, 0, 2, REG),
            bitwise(&[0, 0xff], &[number, 0]),
            write(TRANSPORT, 0, 2, Some((CSUM_INET, ICMP_CHECKSUM))),
        ],
        Statement::LimitSegments => vec![
            immediate(&LOOPBACK_MSS.to_be_bytes()),
            Expr::new(c"exthdr")
                .u32(sys::NFTNL_EXPR_EXTHDR_SREG, REG)
                .u8(sys::NFTNL_EXPR_EXTHDR_TYPE, TCP_OPTION_MSS)
                .u32(sys::NFTNL_EXPR_EXTHDR_OFFSET, 2)
                .u32(sys::NFTNL_EXPR_EXTHDR_LEN, 2)
                .u32(sys::NFTNL_EXPR_EXTHDR_OP, EXTHDR_TCP_OPTION),
        ],
    }
}

fn port_from_mark(transport: Transport, family: Family) -> Vec<Expr> {
    let (number, checksum) = match transport {
        Transport::Tcp => (libc::IPPROTO_TCP, Some((CSUM_INET, TCP_CHECKSUM))),
        Transport::Udp => (libc::IPPROTO_UDP, Some((CSUM_INET, UDP_CHECKSUM))),
        Transport::UdpUnsummed => (libc::IPPROTO_UDP, None),
        Transport::Sctp => (libc::IPPROTO_SCTP, Some((CSUM_SCTP, SCTP_CHECKSUM))),
    };
    let mut list = protocol(number as u8);
    let summed = match transport {
        Transport::Tcp | Transport::Sctp => None,
        Transport::Udp => Some(libc::NFT_CMP_NEQ),
        Transport::UdpUnsummed => Some(libc::NFT_CMP_EQ),
    };
    if let Some(operator) = summed {
        list.extend([payload(TRANSPORT, UDP_CHECKSUM, 2, REG), compare(operator, [0; 2])]);
    }
    list.extend(load(Field::MarkId, family, REG));
    list.extend([look_through(&sets::REPLY_PORT), write(TRANSPORT, 0, 2, checksum)]);
    list
}

fn hash(client: Client, count: u16, index: u16, family: Family) -> Vec<Expr> {
    let fields = client.fields();
    let len: u32 = fields.iter().map(|field| registers(*field, family) * 4).sum();
    let mut list = concatenation(&fields, family, HASH_REG);
    list.push(
        Expr::new(c"hash")
            .u32(sys::NFTNL_EXPR_HASH_SREG, HASH_REG)
            .u32(sys::NFTNL_EXPR_HASH_DREG, REG)
            .u32(sys::NFTNL_EXPR_HASH_LEN, len)
            .u32(sys::NFTNL_EXPR_HASH_MODULUS, u32::from(count))
            .u32(sys::NFTNL_EXPR_HASH_SEED, HASH_SEED)
            .u32(sys::NFTNL_EXPR_HASH_TYPE, HASH_JENKINS),
    );
    list.push(compare(libc::NFT_CMP_EQ, u32::from(index).to_ne_bytes()));
    list
}

/// Fields one behind the other, each from the next free register on.
fn concatenation(fields: &[Field], family: Family, first: u32) -> Vec<Expr> {
    let mut register = first;
    let mut list = Vec::new();
    for &field in fields {
        list.extend(load(field, family, register));
        register += registers(field, family);
    }
    list
}

fn registers(field: Field, family: Family) -> u32 {
    match field {
        Field::Protocol
        | Field::SourcePort
        | Field::DestinationPort
        | Field::MarkId
        | Field::OperatorMark => 1,
        Field::SourceEther => 2,
        _ => family.address_len() / 4,
    }
}

fn load(field: Field, family: Family, register: u32) -> Vec<Expr> {
    let len = family.address_len();
    vec![match field {
        Field::SourceAddress | Field::DestinationAddress => {
            payload(NETWORK, field.network_offset(family), len, register)
        }
        Field::Protocol => meta(libc::NFT_META_L4PROTO, register),
        Field::SourcePort => payload(TRANSPORT, 0, 2, register),
        Field::DestinationPort => payload(TRANSPORT, 2, 2, register),
        Field::EmbeddedDestination | Field::RedirectedDestination => {
            payload(TRANSPORT, field.icmp_offset(family), len, register)
        }
        Field::MarkId => {
            let mask = MARK_MASK.to_ne_bytes();
            return vec![meta(libc::NFT_META_MARK, register), bitwise_in(register, &mask, &[0; 4])];
        }
        Field::SourceEther => {
            return vec![
                meta(libc::NFT_META_IIFTYPE, register),
                compare(libc::NFT_CMP_EQ, libc::ARPHRD_ETHER.to_ne_bytes()),
                payload(LINK, 6, 6, register),
            ];
        }
        Field::OperatorMark => {
            return vec![meta(libc::NFT_META_MARK, register), bitwise(&(!MARK_MASK).to_ne_bytes(), &[0; 4])];
        }
    }]
}

fn to_tcp_port(operator: libc::c_int, port: u16, family: Family) -> Vec<Expr> {
    let mut list = protocol(libc::IPPROTO_TCP as u8);
    list.extend(load(Field::DestinationPort, family, REG));
    list.push(compare(operator, port.to_be_bytes()));
    list
}

fn protocol(number: u8) -> Vec<Expr> {
    vec![meta(libc::NFT_META_L4PROTO, REG), compare(libc::NFT_CMP_EQ, [number])]
}

fn payload(base: u32, offset: u32, len: u32, register: u32) -> Expr {
    Expr::new(c"payload")
        .u32(sys::NFTNL_EXPR_PAYLOAD_BASE, base)
        .u32(sys::NFTNL_EXPR_PAYLOAD_OFFSET, offset)
        .u32(sys::NFTNL_EXPR_PAYLOAD_LEN, len)
        .u32(sys::NFTNL_EXPR_PAYLOAD_DREG, register)
}

/// Writes `REG` into the packet; `checksum` is the type and the offset, in the same header, of the checksum that
/// follows.
fn write(base: u32, offset: u32, len: u32, checksum: Option<(u32, u32)>) -> Expr {
    let write = Expr::new(c"payload")
        .u32(sys::NFTNL_EXPR_PAYLOAD_SREG, REG)
        .u32(sys::NFTNL_EXPR_PAYLOAD_BASE, base)
        .u32(sys::NFTNL_EXPR_PAYLOAD_OFFSET, offset)
        .u32(sys::NFTNL_EXPR_PAYLOAD_LEN, len);
    match checksum {
        None => write,
        Some((kind, at)) => {
            write.u32(sys::NFTNL_EXPR_PAYLOAD_CSUM_TYPE, kind).u32(sys::NFTNL_EXPR_PAYLOAD_CSUM_OFFSET, at)
        }
    }
}

/// Writes `REG` over an address; the transport checksum covers it as well (pseudo header).
fn write_address(field: Field, family: Family) -> Expr {
    let header_checksum = match family {
        Family::Ip4 => Some((CSUM_INET, IP4_CHECKSUM)),
        Family::Ip6 => None,
    };
    write(NETWORK, field.network_offset(family), family.address_len(), header_checksum)
        .u32(sys::NFTNL_EXPR_PAYLOAD_FLAGS, L4CSUM_PSEUDOHDR)
}

fn meta(key: libc::c_int, register: u32) -> Expr {
    Expr::new(c"meta").u32(sys::NFTNL_EXPR_META_KEY, key as u32).u32(sys::NFTNL_EXPR_META_DREG, register)
}

fn set_mark() -> Expr {
    Expr::new(c"meta")
        .u32(sys::NFTNL_EXPR_META_KEY, libc::NFT_META_MARK as u32)
        .u32(sys::NFTNL_EXPR_META_SREG, REG)
}

fn lookup(set: &Set) -> Expr {
    Expr::new(c"lookup").u32(sys::NFTNL_EXPR_LOOKUP_SREG, REG).text(sys::NFTNL_EXPR_LOOKUP_SET, set.name)
}

/// `REG` := what the map has for `REG`.
fn look_through(map: &Set) -> Expr {
    lookup(map).u32(sys::NFTNL_EXPR_LOOKUP_DREG, REG)
}

fn compare(operator: libc::c_int, data: impl Into<Vec<u8>>) -> Expr {
    Expr::new(c"cmp")
        .u32(sys::NFTNL_EXPR_CMP_SREG, REG)
        .u32(sys::NFTNL_EXPR_CMP_OP, operator as u32)
        .data(sys::NFTNL_EXPR_CMP_DATA, data)
}

/// `REG` := `REG` & mask ^ xor.
fn bitwise(mask: &[u8], xor: &[u8]) -> Expr {
    bitwise_in(REG, mask, xor)
}

fn bitwise_in(register: u32, mask: &[u8], xor: &[u8]) -> Expr {
    Expr::new(c"bitwise")
        .u32(sys::NFTNL_EXPR_BITWISE_SREG, register)
        .u32(sys::NFTNL_EXPR_BITWISE_DREG, register)
        .u32(sys::NFTNL_EXPR_BITWISE_LEN, mask.len() as u32)
        .data(sys::NFTNL_EXPR_BITWISE_MASK, mask)
        .data(sys::NFTNL_EXPR_BITWISE_XOR, xor)
}

fn immediate(data: &[u8]) -> Expr {
    Expr::new(c"immediate").u32(sys::NFTNL_EXPR_IMM_DREG, REG).data(sys::NFTNL_EXPR_IMM_DATA, data)
}

fn verdict(code: libc::c_int) -> Expr {
    Expr::new(c"immediate")
        .u32(sys::NFTNL_EXPR_IMM_DREG, libc::NFT_REG_VERDICT as u32)
        .u32(sys::NFTNL_EXPR_IMM_VERDICT, code as u32)
}

fn reject(kind: u32, code: u8) -> Expr {
    Expr::new(c"reject").u32(sys::NFTNL_EXPR_REJECT_TYPE, kind).u8(sys::NFTNL_EXPR_REJECT_CODE, code)
}
