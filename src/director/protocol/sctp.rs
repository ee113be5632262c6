//! SCTP as IPVS sees it (`net/netfilter/ipvs/ip_vs_proto_sctp.c`): the first chunk of a packet and its direction alone
//! move the state. Tags, numbers and the chunks behind it are not looked at.

use super::Direction;
use std::fmt;
use std::time::Duration;

/// State of an SCTP association. The discriminant is the kernel's number (`IP_VS_SCTP_S_*`), which the synchronisation
/// protocol carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum SctpState {
    /// Created; no packet has moved it yet.
    None,
    /// The client sent its first INIT.
    Init1,
    /// The client sent INIT again.
    Init,
    /// The server sent INIT ACK, and with it its cookie.
    CookieSent,
    /// The client sent the cookie back.
    CookieReplied,
    /// The server sent an INIT itself and awaits the client's cookie.
    CookieWait,
    /// The client answered the server's INIT with its cookie.
    Cookie,
    /// The server sent the client's cookie back.
    CookieEchoed,
    /// Both sides hold the association.
    Established,
    /// The server sent SHUTDOWN.
    ShutdownSent,
    /// The client sent SHUTDOWN.
    ShutdownReceived,
    /// The server sent SHUTDOWN ACK.
    ShutdownAckSent,
    /// Aborted while it was being set up.
    Rejected,
    /// Over.
    Closed,
}

impl SctpState {
    /// All states in the order of their numbers.
    pub(super) const ALL: [SctpState; 14] = [
        SctpState::None,
        SctpState::Init1,
        SctpState::Init,
        SctpState::CookieSent,
        SctpState::CookieReplied,
        SctpState::CookieWait,
        SctpState::Cookie,
        SctpState::CookieEchoed,
        SctpState::Established,
        SctpState::ShutdownSent,
        SctpState::ShutdownReceived,
        SctpState::ShutdownAckSent,
        SctpState::Rejected,
        SctpState::Closed,
    ];

    /// The state after a packet in `direction` with `event`.
    pub fn next(self, direction: Direction, event: SctpEvent) -> SctpState {
        let table = match direction {
            Direction::Input => &INPUT,
            Direction::Output => &OUTPUT,
            Direction::InputOnly => &INPUT_ONLY,
        };
        table[event as usize][self as usize]
    }

    /// Whether an association in this state counts in its server's active connections.
    pub const fn is_active(self) -> bool {
        matches!(self, SctpState::Established)
    }

    /// `sctp_timeouts` of the kernel; none of them can be changed.
    pub(super) const fn timeout(self) -> Duration {
        match self {
            SctpState::Established => Duration::from_secs(900),
            SctpState::None => Duration::from_secs(2),
            SctpState::Init1 | SctpState::Rejected => Duration::from_secs(4),
            _ => Duration::from_secs(61),
        }
    }
}

impl fmt::Display for SctpState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            SctpState::None => "NONE",
            SctpState::Init1 => "INIT1",
            SctpState::Init => "INIT",
            SctpState::CookieSent => "C-SENT",
            SctpState::CookieReplied => "C-REPLIED",
            SctpState::CookieWait => "C-WAIT",
            SctpState::Cookie => "COOKIE",
            SctpState::CookieEchoed => "C-ECHOED",
            SctpState::Established => "ESTABLISHED",
            SctpState::ShutdownSent => "S-SENT",
            SctpState::ShutdownReceived => "S-RECEIVED",
            SctpState::ShutdownAckSent => "S-ACK-SENT",
            SctpState::Rejected => "REJECTED",
            SctpState::Closed => "CLOSED",
        })
    }
}

/// What a packet's chunks mean to the state tables, whose rows are in this order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum SctpEvent {
    /// DATA, and every type that has no row of its own.
    Data,
    /// INIT.
    Init,
    /// INIT ACK.
    InitAck,
    /// COOKIE ECHO.
    CookieEcho,
    /// COOKIE ACK.
    CookieAck,
    /// SHUTDOWN.
    Shutdown,
    /// SHUTDOWN ACK.
    ShutdownAck,
    /// SHUTDOWN COMPLETE.
    ShutdownComplete,
    /// ERROR.
    Error,
    /// ABORT.
    Abort,
}

impl SctpEvent {
    /// The event of a packet whose first chunk is of type `first` (RFC 9260, 3.2) and that has a chunk of type
    /// `second` behind it.
    ///
    /// The second counts only where the end of a handshake is refused in the same packet: an ABORT behind COOKIE ECHO
    /// or COOKIE ACK.
    pub const fn from_chunks(first: u8, second: Option<u8>) -> SctpEvent {
        match (SctpEvent::from_chunk(first), second) {
            (SctpEvent::CookieEcho | SctpEvent::CookieAck, Some(ABORT)) => SctpEvent::Abort,
            (event, _) => event,
        }
    }

    const fn from_chunk(kind: u8) -> SctpEvent {
        match kind {
            INIT => SctpEvent::Init,
            2 => SctpEvent::InitAck,
            ABORT => SctpEvent::Abort,
            7 => SctpEvent::Shutdown,
            8 => SctpEvent::ShutdownAck,
            9 => SctpEvent::Error,
            10 => SctpEvent::CookieEcho,
            11 => SctpEvent::CookieAck,
            14 => SctpEvent::ShutdownComplete,
            _ => SctpEvent::Data,
        }
    }

    /// Whether a packet with this event may start an association: an INIT, or under `sloppy` (`sloppy_sctp`)
    /// everything but an ABORT.
    pub const fn starts_connection(self, sloppy: bool) -> bool {
        match self {
            SctpEvent::Init => true,
            SctpEvent::Abort => false,
            _ => sloppy,
        }
    }
}

const INIT: u8 = 1;
const ABORT: u8 = 6;

type Table = [[SctpState; 14]; 10];

const I1: SctpState = SctpState::Init1;
const IN: SctpState = SctpState::Init;
const CS: SctpState = SctpState::CookieSent;
const CR: SctpState = SctpState::CookieReplied;
const CW: SctpState = SctpState::CookieWait;
const CO: SctpState = SctpState::Cookie;
const CE: SctpState = SctpState::CookieEchoed;
const ES: SctpState = SctpState::Established;
const SS: SctpState = SctpState::ShutdownSent;
const SR: SctpState = SctpState::ShutdownReceived;
const SA: SctpState = SctpState::ShutdownAckSent;
const RJ: SctpState = SctpState::Rejected;
const CL: SctpState = SctpState::Closed;

// `sctp_states` of the kernel.
#[rustfmt::skip]
const INPUT: Table = [
    //        NO  I1  IN  CS  CR  CW  CO  CE  ES  SS  SR  SA  RJ  CL
    /* d  */ [ES, I1, IN, CS, CR, CW, CO, CE, ES, SS, SR, SA, RJ, CL],
    /* i  */ [I1, IN, IN, CS, CR, CW, CO, CE, ES, SS, SR, SA, IN, IN],
    /* ia */ [CW, CW, CW, CS, CR, CO, CO, CE, ES, SS, SR, SA, RJ, CL],
    /* ce */ [CR, IN, IN, CR, CR, CW, CO, CE, ES, SS, SR, SA, RJ, CL],
    /* ca */ [ES, I1, IN, CS, CR, CW, CO, ES, ES, SS, SR, SA, RJ, CL],
    /* s  */ [SR, I1, IN, CS, CR, CW, CO, CE, SR, SS, SR, SA, RJ, CL],
    /* sa */ [CL, IN, IN, CS, CR, CW, CO, CE, ES, CL, SR, CL, RJ, CL],
    /* sc */ [CL, CL, CL, CS, CR, CW, CO, CE, ES, SS, SR, CL, RJ, CL],
    /* er */ [CL, I1, IN, CS, CR, CW, CO, CL, ES, SS, SR, SA, RJ, CL],
    /* ab */ [CL, CL, CL, CL, CL, RJ, CL, CL, CL, CL, CL, CL, CL, CL],
];
#[rustfmt::skip]
const OUTPUT: Table = [
    //        NO  I1  IN  CS  CR  CW  CO  CE  ES  SS  SR  SA  RJ  CL
    /* d  */ [ES, I1, IN, CS, CR, CW, CO, CE, ES, SS, SR, SA, RJ, CL],
    /* i  */ [CW, CW, CW, CW, CW, CW, CW, CW, ES, CW, CW, CW, CW, CW],
    /* ia */ [CS, CS, CS, CS, CR, CW, CO, CE, ES, SS, SR, SA, RJ, CL],
    /* ce */ [CE, CE, CE, CE, CE, CE, CE, CE, ES, SS, SR, SA, RJ, CL],
    /* ca */ [ES, ES, ES, ES, ES, ES, ES, ES, ES, SS, SR, SA, RJ, CL],
    /* s  */ [SS, SS, SS, SS, SS, SS, SS, SS, SS, SS, SR, SA, RJ, CL],
    /* sa */ [SA, SA, SA, SA, SA, CW, CO, CE, ES, SA, SA, SA, RJ, CL],
    /* sc */ [CL, I1, IN, CS, CR, CW, CO, CE, ES, SS, SR, SA, RJ, CL],
    /* er */ [CL, CL, CL, CL, CL, CW, CO, CE, ES, SS, SR, SA, RJ, CL],
    /* ab */ [CL, RJ, CL, CL, CL, CL, CL, CL, CL, CL, CL, CL, CL, CL],
];
#[rustfmt::skip]
const INPUT_ONLY: Table = [
    //        NO  I1  IN  CS  CR  CW  CO  CE  ES  SS  SR  SA  RJ  CL
    /* d  */ [ES, I1, IN, CS, CR, ES, CO, CE, ES, SS, SR, SA, RJ, CL],
    /* i  */ [I1, IN, IN, IN, IN, IN, CO, CE, ES, SS, SR, SA, IN, IN],
    /* ia */ [CE, CE, CE, CE, CE, CE, CO, CE, ES, SS, SR, SA, RJ, CL],
    /* ce */ [ES, ES, ES, ES, ES, ES, CO, CE, ES, SS, SR, SA, RJ, CL],
    /* ca */ [ES, I1, IN, ES, ES, CW, ES, ES, ES, SS, SR, SA, RJ, CL],
    /* s  */ [SR, I1, IN, CS, CR, CW, CO, CE, SR, SS, SR, SA, RJ, CL],
    /* sa */ [CL, IN, IN, CS, CR, CW, CO, CE, CL, CL, SR, CL, RJ, CL],
    /* sc */ [CL, CL, CL, CL, CL, CW, CO, CE, ES, SS, CL, CL, RJ, CL],
    /* er */ [CL, I1, IN, CS, CR, CW, CO, CE, ES, SS, SR, SA, RJ, CL],
    /* ab */ [CL, CL, CL, CL, CL, RJ, CL, CL, CL, CL, CL, CL, CL, CL],
];

#[cfg(test)]
mod tests {
    use super::super::State;
    use super::*;
    use std::fmt::Write;

    const STATES: [SctpState; 14] = [SctpState::None, I1, IN, CS, CR, CW, CO, CE, ES, SS, SR, SA, RJ, CL];

    // Independent of the tables' own short names: the letters come from the names the kernel prints.
    fn short(state: SctpState) -> &'static str {
        match state.to_string().as_str() {
            "NONE" => "NO",
            "INIT1" => "I1",
            "INIT" => "IN",
            "C-SENT" => "CS",
            "C-REPLIED" => "CR",
            "C-WAIT" => "CW",
            "COOKIE" => "CO",
            "C-ECHOED" => "CE",
            "ESTABLISHED" => "ES",
            "S-SENT" => "SS",
            "S-RECEIVED" => "SR",
            "S-ACK-SENT" => "SA",
            "REJECTED" => "RJ",
            "CLOSED" => "CL",
            other => panic!("no such state: {other}"),
        }
    }

    /// Only the cells where a packet changes the state, which is how the tables are read.
    fn moves(direction: Direction) -> String {
        let mut text = String::new();
        let chunks = [
            ("DATA", 0),
            ("INIT", 1),
            ("INIT ACK", 2),
            ("COOKIE ECHO", 10),
            ("COOKIE ACK", 11),
            ("SHUTDOWN", 7),
            ("SHUTDOWN ACK", 8),
            ("SHUTDOWN COMPLETE", 14),
            ("ERROR", 9),
            ("ABORT", 6),
        ];
        for (name, kind) in chunks {
            write!(text, "{name}:").unwrap();
            for from in STATES {
                let to = from.next(direction, SctpEvent::from_chunks(kind, None));
                if to != from {
                    write!(text, " {}-{}", short(from), short(to)).unwrap();
                }
            }
            text.push('\n');
        }
        text
    }

    #[test]
    fn input_table_is_the_kernels() {
        let expected = "\
DATA: NO-ES
INIT: NO-I1 I1-IN RJ-IN CL-IN
INIT ACK: NO-CW I1-CW IN-CW CW-CO
COOKIE ECHO: NO-CR I1-IN CS-CR
COOKIE ACK: NO-ES CE-ES
SHUTDOWN: NO-SR ES-SR
SHUTDOWN ACK: NO-CL I1-IN SS-CL SA-CL
SHUTDOWN COMPLETE: NO-CL I1-CL IN-CL SA-CL
ERROR: NO-CL CE-CL
ABORT: NO-CL I1-CL IN-CL CS-CL CR-CL CW-RJ CO-CL CE-CL ES-CL SS-CL SR-CL SA-CL RJ-CL
";
        assert_eq!(moves(Direction::Input), expected);
    }

    #[test]
    fn output_table_is_the_kernels() {
        let expected = "\
DATA: NO-ES
INIT: NO-CW I1-CW IN-CW CS-CW CR-CW CO-CW CE-CW SS-CW SR-CW SA-CW RJ-CW CL-CW
INIT ACK: NO-CS I1-CS IN-CS
COOKIE ECHO: NO-CE I1-CE IN-CE CS-CE CR-CE CW-CE CO-CE
COOKIE ACK: NO-ES I1-ES IN-ES CS-ES CR-ES CW-ES CO-ES CE-ES
SHUTDOWN: NO-SS I1-SS IN-SS CS-SS CR-SS CW-SS CO-SS CE-SS ES-SS
SHUTDOWN ACK: NO-SA I1-SA IN-SA CS-SA CR-SA SS-SA SR-SA
SHUTDOWN COMPLETE: NO-CL
ERROR: NO-CL I1-CL IN-CL CS-CL CR-CL
ABORT: NO-CL I1-RJ IN-CL CS-CL CR-CL CW-CL CO-CL CE-CL ES-CL SS-CL SR-CL SA-CL RJ-CL
";
        assert_eq!(moves(Direction::Output), expected);
    }

    #[test]
    fn input_only_table_is_the_kernels() {
        let expected = "\
DATA: NO-ES CW-ES
INIT: NO-I1 I1-IN CS-IN CR-IN CW-IN RJ-IN CL-IN
INIT ACK: NO-CE I1-CE IN-CE CS-CE CR-CE CW-CE
COOKIE ECHO: NO-ES I1-ES IN-ES CS-ES CR-ES CW-ES
COOKIE ACK: NO-ES CS-ES CR-ES CO-ES CE-ES
SHUTDOWN: NO-SR ES-SR
SHUTDOWN ACK: NO-CL I1-IN ES-CL SS-CL SA-CL
SHUTDOWN COMPLETE: NO-CL I1-CL IN-CL CS-CL CR-CL SR-CL SA-CL
ERROR: NO-CL
ABORT: NO-CL I1-CL IN-CL CS-CL CR-CL CW-RJ CO-CL CE-CL ES-CL SS-CL SR-CL SA-CL RJ-CL
";
        assert_eq!(moves(Direction::InputOnly), expected);
    }

    #[test]
    fn states_are_numbered_as_in_the_kernel() {
        for (number, state) in STATES.into_iter().enumerate() {
            assert_eq!(state as usize, number, "{state}");
        }
    }

    #[test]
    fn timeouts_and_activity() {
        let expected = "NONE 2 false, INIT1 4 false, INIT 61 false, C-SENT 61 false, C-REPLIED 61 false, \
            C-WAIT 61 false, COOKIE 61 false, C-ECHOED 61 false, ESTABLISHED 900 true, S-SENT 61 false, \
            S-RECEIVED 61 false, S-ACK-SENT 61 false, REJECTED 4 false, CLOSED 61 false";
        let rows = STATES.map(|s| format!("{s} {} {}", s.timeout().as_secs(), s.is_active()));
        assert_eq!(rows.join(", "), expected);
    }

    #[test]
    fn a_new_association_may_replace_a_closed_one_only() {
        let reusable: Vec<_> = STATES.into_iter().filter(|&state| State::Sctp(state).is_reusable()).collect();
        assert_eq!(reusable, [CL]);
    }

    #[test]
    fn the_first_chunk_counts_but_for_an_abort_at_the_end_of_the_handshake() {
        let cases = [
            ((3, None), SctpEvent::Data),
            ((4, None), SctpEvent::Data),
            ((5, None), SctpEvent::Data),
            ((12, None), SctpEvent::Data),
            ((192, None), SctpEvent::Data),
            ((10, Some(0)), SctpEvent::CookieEcho),
            ((10, Some(6)), SctpEvent::Abort),
            ((11, Some(6)), SctpEvent::Abort),
            ((0, Some(6)), SctpEvent::Data),
            ((1, Some(6)), SctpEvent::Init),
        ];
        for ((first, second), event) in cases {
            assert_eq!(SctpEvent::from_chunks(first, second), event, "{first} {second:?}");
        }
    }

    #[test]
    fn an_init_starts_an_association_and_whatever_is_no_abort_where_rules_are_sloppy() {
        for kind in 0..=u8::MAX {
            let event = SctpEvent::from_chunks(kind, None);
            assert_eq!(event.starts_connection(false), kind == 1, "{kind}");
            assert_eq!(event.starts_connection(true), kind != 6, "{kind}");
        }
    }
}
