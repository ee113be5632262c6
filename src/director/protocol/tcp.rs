//! TCP as IPVS sees it (`net/netfilter/ipvs/ip_vs_proto_tcp.c`): flags and direction alone move the state, sequence
//! numbers are not looked at.

use super::{Direction, Timeouts};
use std::fmt;
use std::time::Duration;

const FIN: u8 = 0x01;
const SYN: u8 = 0x02;
const RST: u8 = 0x04;
const ACK: u8 = 0x10;

/// State of a TCP connection. The discriminant is the kernel's number (`IP_VS_TCP_S_*`), which the synchronisation
/// protocol carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum TcpState {
    /// Created; no packet has moved it yet.
    None,
    /// Both sides have answered.
    Established,
    /// The server sent the first SYN.
    SynSent,
    /// The client sent a SYN.
    SynRecv,
    /// The server sent a FIN.
    FinWait,
    /// Both sides sent a FIN.
    TimeWait,
    /// Reset, or closed otherwise.
    Close,
    /// The client sent a FIN.
    CloseWait,
    /// The kernel's name for a last ACK awaited; its tables enter it only from itself.
    LastAck,
    /// The kernel's name for a listener; its tables enter it only from itself.
    Listen,
    /// The server answered the client's SYN, or replies pass by elsewhere, under `secure_tcp`; the normal tables never
    /// enter it.
    SynAck,
}

impl TcpState {
    /// All states in the order of their numbers.
    pub(super) const ALL: [TcpState; 11] = [
        TcpState::None,
        TcpState::Established,
        TcpState::SynSent,
        TcpState::SynRecv,
        TcpState::FinWait,
        TcpState::TimeWait,
        TcpState::Close,
        TcpState::CloseWait,
        TcpState::LastAck,
        TcpState::Listen,
        TcpState::SynAck,
    ];

    /// The state after a packet in `direction` with `event`; `None`: flags that hold no event. `secure`: under attack,
    /// by the tables that believe a client later (the tunable `secure_tcp`).
    pub fn next(self, direction: Direction, event: Option<TcpEvent>, secure: bool) -> TcpState {
        let table = match (direction, secure) {
            (Direction::Input, false) => &INPUT,
            (Direction::Output, false) => &OUTPUT,
            (Direction::InputOnly, false) => &INPUT_ONLY,
            (Direction::Input, true) => &SECURE_INPUT,
            (Direction::Output, true) => &SECURE_OUTPUT,
            (Direction::InputOnly, true) => &SECURE_INPUT_ONLY,
        };
        match event {
            Some(event) => table[event as usize][self as usize],
            None => TcpState::Close,
        }
    }

    /// Whether a connection in this state counts in its server's active connections.
    pub const fn is_active(self) -> bool {
        matches!(self, TcpState::Established | TcpState::SynSent | TcpState::SynRecv | TcpState::SynAck)
    }

    pub(super) const fn timeout(self, timeouts: &Timeouts) -> Duration {
        match self {
            TcpState::Established => timeouts.tcp,
            TcpState::FinWait => timeouts.tcp_fin,
            TcpState::None => Duration::from_secs(2),
            TcpState::Close => Duration::from_secs(10),
            TcpState::LastAck => Duration::from_secs(30),
            TcpState::SynRecv | TcpState::CloseWait => Duration::from_secs(60),
            TcpState::SynSent | TcpState::TimeWait | TcpState::Listen | TcpState::SynAck => {
                Duration::from_secs(120)
            }
        }
    }
}

impl fmt::Display for TcpState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            TcpState::None => "NONE",
            TcpState::Established => "ESTABLISHED",
            TcpState::SynSent => "SYN_SENT",
            TcpState::SynRecv => "SYN_RECV",
            TcpState::FinWait => "FIN_WAIT",
            TcpState::TimeWait => "TIME_WAIT",
            TcpState::Close => "CLOSE",
            TcpState::CloseWait => "CLOSE_WAIT",
            TcpState::LastAck => "LAST_ACK",
            TcpState::Listen => "LISTEN",
            TcpState::SynAck => "SYNACK",
        })
    }
}

/// What a segment's flags mean to the state tables, whose rows are in this order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum TcpEvent {
    /// SYN, with or without ACK.
    Syn,
    /// FIN.
    Fin,
    /// ACK alone.
    Ack,
    /// RST, whatever else is set.
    Rst,
}

impl TcpEvent {
    /// The event in the flags byte of a TCP header (RFC 9293: FIN 0x01, SYN 0x02, RST 0x04, ACK 0x10). RST wins, then
    /// SYN, FIN, ACK; `None` if none of them is set.
    pub const fn from_flags(flags: u8) -> Option<TcpEvent> {
        if flags & RST != 0 {
            Some(TcpEvent::Rst)
        } else if flags & SYN != 0 {
            Some(TcpEvent::Syn)
        } else if flags & FIN != 0 {
            Some(TcpEvent::Fin)
        } else if flags & ACK != 0 {
            Some(TcpEvent::Ack)
        } else {
            None
        }
    }

    /// Whether a segment with this event may start a connection: a SYN (ACK beside it does not matter: the data
    /// connection of active FTP starts from the other side), or under `sloppy` (`sloppy_tcp`) whatever has no RST.
    pub const fn starts_connection(event: Option<TcpEvent>, sloppy: bool) -> bool {
        match event {
            Some(TcpEvent::Syn) => true,
            Some(TcpEvent::Rst) => false,
            _ => sloppy,
        }
    }
}

type Table = [[TcpState; 11]; 4];

const ES: TcpState = TcpState::Established;
const SS: TcpState = TcpState::SynSent;
const SR: TcpState = TcpState::SynRecv;
const FW: TcpState = TcpState::FinWait;
const TW: TcpState = TcpState::TimeWait;
const CL: TcpState = TcpState::Close;
const CW: TcpState = TcpState::CloseWait;
const LA: TcpState = TcpState::LastAck;
const LI: TcpState = TcpState::Listen;
const SA: TcpState = TcpState::SynAck;

// `tcp_states` of the kernel. A client's RST leaves SYN_RECV alone: only the server can refuse a half-open connection.
#[rustfmt::skip]
const INPUT: Table = [
    //         NO  ES  SS  SR  FW  TW  CL  CW  LA  LI  SA
    /* syn */ [SR, ES, ES, SR, SR, SR, SR, SR, SR, SR, SR],
    /* fin */ [CL, CW, SS, TW, TW, TW, CL, CW, LA, LI, TW],
    /* ack */ [ES, ES, SS, ES, FW, TW, CL, CW, CL, LI, ES],
    /* rst */ [CL, CL, CL, SR, CL, CL, CL, CL, LA, LI, SR],
];
#[rustfmt::skip]
const OUTPUT: Table = [
    //         NO  ES  SS  SR  FW  TW  CL  CW  LA  LI  SA
    /* syn */ [SS, ES, SS, SR, SS, SS, SS, SS, SS, LI, SR],
    /* fin */ [TW, FW, SS, TW, FW, TW, CL, TW, LA, LI, TW],
    /* ack */ [ES, ES, SS, ES, FW, TW, CL, CW, LA, ES, ES],
    /* rst */ [CL, CL, SS, CL, CL, TW, CL, CL, CL, CL, CL],
];
#[rustfmt::skip]
const INPUT_ONLY: Table = [
    //         NO  ES  SS  SR  FW  TW  CL  CW  LA  LI  SA
    /* syn */ [SR, ES, ES, SR, SR, SR, SR, SR, SR, SR, SR],
    /* fin */ [CL, FW, SS, TW, FW, TW, CL, CW, LA, LI, TW],
    /* ack */ [ES, ES, SS, ES, FW, TW, CL, CW, CL, LI, ES],
    /* rst */ [CL, CL, CL, SR, CL, CL, CL, CL, LA, LI, CL],
];

// `tcp_states_dos` of the kernel. A client's ACK alone does not make a connection ESTABLISHED, and with it long-lived.
#[rustfmt::skip]
const SECURE_INPUT: Table = [
    //         NO  ES  SS  SR  FW  TW  CL  CW  LA  LI  SA
    /* syn */ [SR, ES, ES, SR, SR, SR, SR, SR, SR, SR, SA],
    /* fin */ [CL, CW, SS, TW, TW, TW, CL, CW, LA, LI, SA],
    /* ack */ [ES, ES, SS, SR, FW, TW, CL, CW, CL, LI, SA],
    /* rst */ [CL, CL, CL, SR, CL, CL, CL, CL, LA, LI, CL],
];
#[rustfmt::skip]
const SECURE_OUTPUT: Table = [
    //         NO  ES  SS  SR  FW  TW  CL  CW  LA  LI  SA
    /* syn */ [SS, ES, SS, SA, SS, SS, SS, SS, SS, LI, SA],
    /* fin */ [TW, FW, SS, TW, FW, TW, CL, TW, LA, LI, TW],
    /* ack */ [ES, ES, SS, ES, FW, TW, CL, CW, LA, ES, ES],
    /* rst */ [CL, CL, SS, CL, CL, TW, CL, CL, CL, CL, CL],
];
#[rustfmt::skip]
const SECURE_INPUT_ONLY: Table = [
    //         NO  ES  SS  SR  FW  TW  CL  CW  LA  LI  SA
    /* syn */ [SA, ES, ES, SR, SA, SA, SA, SA, SA, SA, SA],
    /* fin */ [CL, FW, SS, TW, FW, TW, CL, CW, LA, LI, TW],
    /* ack */ [ES, ES, SS, ES, FW, TW, CL, CW, CL, LI, ES],
    /* rst */ [CL, CL, CL, SR, CL, CL, CL, CL, LA, LI, CL],
];

#[cfg(test)]
mod tests {
    use super::super::State;
    use super::*;
    use std::fmt::Write;

    const STATES: [TcpState; 11] = [TcpState::None, ES, SS, SR, FW, TW, CL, CW, LA, LI, SA];

    // Independent of the tables' own short names: the letters come from the names the kernel prints.
    fn short(state: TcpState) -> &'static str {
        match state.to_string().as_str() {
            "NONE" => "NO",
            "ESTABLISHED" => "ES",
            "SYN_SENT" => "SS",
            "SYN_RECV" => "SR",
            "FIN_WAIT" => "FW",
            "TIME_WAIT" => "TW",
            "CLOSE" => "CL",
            "CLOSE_WAIT" => "CW",
            "LAST_ACK" => "LA",
            "LISTEN" => "LI",
            "SYNACK" => "SA",
            other => panic!("no such state: {other}"),
        }
    }

    fn table(direction: Direction, secure: bool) -> String {
        let mut text = String::new();
        let flags = [("syn", SYN), ("fin", FIN), ("ack", ACK), ("rst", RST)];
        for (name, flags) in flags {
            write!(text, "{name}:").unwrap();
            for state in STATES {
                write!(text, " {}", short(state.next(direction, TcpEvent::from_flags(flags), secure)))
                    .unwrap();
            }
            text.push('\n');
        }
        text
    }

    #[test]
    fn input_table_is_the_kernels() {
        let expected = "\
syn: SR ES ES SR SR SR SR SR SR SR SR
fin: CL CW SS TW TW TW CL CW LA LI TW
ack: ES ES SS ES FW TW CL CW CL LI ES
rst: CL CL CL SR CL CL CL CL LA LI SR
";
        assert_eq!(table(Direction::Input, false), expected);
    }

    #[test]
    fn output_table_is_the_kernels() {
        let expected = "\
syn: SS ES SS SR SS SS SS SS SS LI SR
fin: TW FW SS TW FW TW CL TW LA LI TW
ack: ES ES SS ES FW TW CL CW LA ES ES
rst: CL CL SS CL CL TW CL CL CL CL CL
";
        assert_eq!(table(Direction::Output, false), expected);
    }

    #[test]
    fn input_only_table_is_the_kernels() {
        let expected = "\
syn: SR ES ES SR SR SR SR SR SR SR SR
fin: CL FW SS TW FW TW CL CW LA LI TW
ack: ES ES SS ES FW TW CL CW CL LI ES
rst: CL CL CL SR CL CL CL CL LA LI CL
";
        assert_eq!(table(Direction::InputOnly, false), expected);
    }

    /// The rows in which the tables under attack differ from the others.
    fn secure_rows(direction: Direction) -> String {
        let (normal, secure) = (table(direction, false), table(direction, true));
        normal
            .lines()
            .zip(secure.lines())
            .filter(|(one, other)| one != other)
            .map(|(_, row)| format!("{row}\n"))
            .collect()
    }

    #[test]
    fn secure_tables_are_the_kernels() {
        let input = "\
syn: SR ES ES SR SR SR SR SR SR SR SA
fin: CL CW SS TW TW TW CL CW LA LI SA
ack: ES ES SS SR FW TW CL CW CL LI SA
rst: CL CL CL SR CL CL CL CL LA LI CL
";
        assert_eq!(secure_rows(Direction::Input), input);
        assert_eq!(secure_rows(Direction::Output), "syn: SS ES SS SA SS SS SS SS SS LI SA\n");
        assert_eq!(secure_rows(Direction::InputOnly), "syn: SA ES ES SR SA SA SA SA SA SA SA\n");
    }

    #[test]
    fn states_are_numbered_as_in_the_kernel() {
        for (number, state) in STATES.into_iter().enumerate() {
            assert_eq!(state as usize, number, "{state}");
        }
    }

    #[test]
    fn timeouts_and_activity() {
        let expected = "NONE 2 false, ESTABLISHED 900 true, SYN_SENT 120 true, SYN_RECV 60 true, \
            FIN_WAIT 120 false, TIME_WAIT 120 false, CLOSE 10 false, CLOSE_WAIT 60 false, LAST_ACK 30 false, \
            LISTEN 120 false, SYNACK 120 true";
        let timeouts = Timeouts::default();
        let rows = STATES.map(|s| format!("{s} {} {}", s.timeout(&timeouts).as_secs(), s.is_active()));
        assert_eq!(rows.join(", "), expected);
    }

    #[test]
    fn a_new_connection_may_replace_time_wait_and_close_only() {
        let reusable: Vec<_> = STATES.into_iter().filter(|&state| State::Tcp(state).is_reusable()).collect();
        assert_eq!(reusable, [TW, CL]);
        assert!(!State::Udp.is_reusable());
    }

    #[test]
    fn flags_rank_rst_syn_fin_ack() {
        let cases = [
            (RST | SYN | FIN | ACK, Some(TcpEvent::Rst)),
            (SYN | FIN | ACK, Some(TcpEvent::Syn)),
            (FIN | ACK, Some(TcpEvent::Fin)),
            (ACK | 0x08, Some(TcpEvent::Ack)),
            (0x08 | 0x20 | 0x40 | 0x80, None),
            (0, None),
        ];
        for (flags, event) in cases {
            assert_eq!(TcpEvent::from_flags(flags), event, "{flags:#04x}");
        }
    }

    #[test]
    fn syn_without_rst_starts_a_connection_and_anything_without_rst_where_rules_are_sloppy() {
        for flags in 0..=u8::MAX {
            let event = TcpEvent::from_flags(flags);
            let is_reset = flags & RST != 0;
            assert_eq!(
                TcpEvent::starts_connection(event, false),
                flags & SYN != 0 && !is_reset,
                "{flags:#04x}"
            );
            assert_eq!(TcpEvent::starts_connection(event, true), !is_reset, "{flags:#04x}");
        }
    }

    #[test]
    fn a_segment_without_event_closes() {
        for state in STATES {
            for direction in [Direction::Input, Direction::Output, Direction::InputOnly] {
                for secure in [false, true] {
                    assert_eq!(state.next(direction, None, secure), TcpState::Close);
                }
            }
        }
    }
}
