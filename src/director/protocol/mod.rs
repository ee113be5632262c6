//! The transport protocols: what starts a connection, its states and how long each may last.
//!
//! TCP follows the tables of `net/netfilter/ipvs/ip_vs_proto_tcp.c`, SCTP those of `ip_vs_proto_sctp.c`; UDP has one
//! state (`ip_vs_proto_udp.c`); SIP is read as far as persistence needs it. Nothing here knows addresses, packets or
//! the time.
//!
//! ```
//! use nfvs::director::protocol::{Direction, Event, State, Strictness, TcpEvent, TcpState, Timeouts};
//! let syn = Event::Tcp(TcpEvent::from_flags(0x02));
//! let new = State::Tcp(TcpState::None);
//! let step = new.advance(Direction::Input, syn, Strictness::default(), &Timeouts::default());
//! assert_eq!(step.state, State::Tcp(TcpState::SynRecv));
//! assert_eq!(step.timeout.as_secs(), 60);
//! assert_eq!(step.activity, Some(true));
//! ```

mod sctp;
mod sip;
mod tcp;

pub use sctp::{SctpEvent, SctpState};
pub use sip::call_id;
pub use tcp::{TcpEvent, TcpState};

use std::fmt;
use std::time::Duration;

/// How long a connection lives that was created but that no packet has moved yet (`ip_vs_conn_new`).
pub const NEW_CONNECTION_TIMEOUT: Duration = Duration::from_secs(3);

/// Which way a packet of a connection goes, and what is known of the other way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// From the client to the server.
    Input,
    /// From the server to the client.
    Output,
    /// From the client to the server, of a connection no reply of which has passed the director (`NOOUTPUT`): what the
    /// server said is concluded from what the client says.
    InputOnly,
}

/// What a packet means to the state tables of its protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// A TCP segment; `None`: its flags hold no event.
    Tcp(Option<TcpEvent>),
    /// A UDP datagram.
    Udp,
    /// An SCTP packet.
    Sctp(SctpEvent),
}

impl Event {
    /// Whether the packet may start a connection (`conn_schedule` of the protocols).
    pub const fn starts_connection(self, strictness: Strictness) -> bool {
        match self {
            Event::Tcp(event) => TcpEvent::starts_connection(event, strictness.sloppy_tcp),
            Event::Udp => true,
            Event::Sctp(event) => event.starts_connection(strictness.sloppy_sctp),
        }
    }
}

/// What the protocols make of doubtful packets, by the tunables of the same names. All are off by default.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Strictness {
    /// TCP connections go by the tables made for attacks.
    pub secure_tcp: bool,
    /// A TCP connection may start in its middle.
    pub sloppy_tcp: bool,
    /// An SCTP association may start in its middle.
    pub sloppy_sctp: bool,
}

/// The timeouts an operator may change (`ipvsadm --set`), whole seconds; those of other states are fixed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timeouts {
    /// TCP in ESTABLISHED.
    pub tcp: Duration,
    /// TCP in FIN_WAIT.
    pub tcp_fin: Duration,
    /// UDP.
    pub udp: Duration,
}

impl Timeouts {
    /// How long a connection in `state` lives after its last packet.
    pub const fn of(&self, state: State) -> Duration {
        match state {
            State::Tcp(state) => state.timeout(self),
            State::Udp => self.udp,
            State::Sctp(state) => state.timeout(),
        }
    }
}

impl Default for Timeouts {
    fn default() -> Timeouts {
        Timeouts {
            tcp: Duration::from_secs(900),
            tcp_fin: Duration::from_secs(120),
            udp: Duration::from_secs(300),
        }
    }
}

/// A connection's protocol and its state therein.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum State {
    /// TCP; a new connection is in [`TcpState::None`].
    Tcp(TcpState),
    /// UDP, which has this one state.
    Udp,
    /// SCTP; a new association is in [`SctpState::None`].
    Sctp(SctpState),
}

impl State {
    /// What a packet in `direction` that means `event` does to a connection in this state. An event of another
    /// protocol, which no connection's packets have, moves nothing.
    pub fn advance(
        self,
        direction: Direction,
        event: Event,
        strictness: Strictness,
        timeouts: &Timeouts,
    ) -> Step {
        let state = match (self, event) {
            (State::Tcp(state), Event::Tcp(event)) => {
                State::Tcp(state.next(direction, event, strictness.secure_tcp))
            }
            (State::Sctp(state), Event::Sctp(event)) => State::Sctp(state.next(direction, event)),
            (state, _) => state,
        };
        let activity = (state.is_active() != self.is_active()).then_some(state.is_active());
        let assures = match state {
            State::Tcp(TcpState::Established) | State::Sctp(SctpState::Established) => self != state,
            State::Tcp(_) | State::Sctp(_) => false,
            State::Udp => direction == Direction::Output,
        };
        Step { state, timeout: timeouts.of(state), activity, assures }
    }

    /// The state of the same protocol that has this number in the synchronisation protocol, if there is one.
    pub fn with_number(self, number: u16) -> Option<State> {
        let number = usize::from(number);
        match self {
            State::Tcp(_) => TcpState::ALL.get(number).copied().map(State::Tcp),
            State::Udp => (number == 0).then_some(State::Udp),
            State::Sctp(_) => SctpState::ALL.get(number).copied().map(State::Sctp),
        }
    }

    /// Its number in the synchronisation protocol, which is the kernel's.
    pub const fn number(self) -> u8 {
        match self {
            State::Tcp(state) => state as u8,
            State::Udp => 0,
            State::Sctp(state) => state as u8,
        }
    }

    /// Whether the connection counts in its server's active connections.
    pub const fn is_active(self) -> bool {
        match self {
            State::Tcp(state) => state.is_active(),
            State::Udp => false,
            State::Sctp(state) => state.is_active(),
        }
    }

    /// Whether the connection is over, so that a client that starts another from the same port gets a new one, perhaps
    /// on another server (`is_new_conn_expected` with any `conn_reuse_mode` but 0).
    pub const fn is_reusable(self) -> bool {
        matches!(self, State::Tcp(TcpState::TimeWait | TcpState::Close) | State::Sctp(SctpState::Closed))
    }
}

/// The name in `/proc/net/ip_vs_conn`.
impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            State::Tcp(state) => state.fmt(f),
            State::Udp => f.pad("UDP"),
            State::Sctp(state) => state.fmt(f),
        }
    }
}

/// What one packet does to a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Step {
    /// The new state.
    pub state: State,
    /// The connection's timeout from this packet on; restarted even if the state is the same.
    pub timeout: Duration,
    /// `Some(true)`: the connection became active; `Some(false)`: it ceased to be; for
    /// [`RealServer::set_connection_active`](super::service::RealServer::set_connection_active).
    pub activity: Option<bool>,
    /// The connection has come to something, and with it the template that it was made from
    /// (`ip_vs_control_assure_ct`).
    pub assures: bool,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn udp_lives_300_seconds_from_each_packet_and_is_never_active() {
        let timeouts = Timeouts::default();
        for direction in [Direction::Input, Direction::Output, Direction::InputOnly] {
            let step = State::Udp.advance(direction, Event::Udp, Strictness::default(), &timeouts);
            let expected = Step {
                state: State::Udp,
                timeout: Duration::from_secs(300),
                activity: None,
                assures: direction == Direction::Output,
            };
            assert_eq!(step, expected);
        }
        assert!(!State::Udp.is_active());
    }

    #[test]
    fn three_timeouts_can_be_changed() {
        let seconds = Duration::from_secs;
        let timeouts = Timeouts { tcp: seconds(11), tcp_fin: seconds(12), udp: seconds(13) };
        assert_eq!(timeouts.of(State::Tcp(TcpState::Established)), seconds(11));
        assert_eq!(timeouts.of(State::Tcp(TcpState::FinWait)), seconds(12));
        assert_eq!(timeouts.of(State::Udp), seconds(13));
        assert_eq!(timeouts.of(State::Tcp(TcpState::CloseWait)), seconds(60));
    }

    #[test]
    fn states_have_the_names_and_numbers_of_the_synchronisation_protocol() {
        let rows = [(6, State::Tcp(TcpState::None)), (17, State::Udp), (132, State::Sctp(SctpState::None))];
        for (protocol, first) in rows {
            let names =
                (0..=u16::from(u8::MAX)).map_while(|number| sync_proto::state_name(Some(protocol), number));
            let names: Vec<&str> = names.collect();
            for (number, name) in (0..).zip(&names) {
                let state = first.with_number(number).expect(name);
                assert_eq!((state.to_string(), u16::from(state.number())), ((*name).to_owned(), number));
            }
            assert_eq!(first.with_number(names.len() as u16), None, "{protocol}");
        }
    }

    #[test]
    fn activity_is_reported_on_change_only() {
        let timeouts = Timeouts::default();
        let mut state = State::Tcp(TcpState::None);
        let handshake_and_end = [
            (Direction::Input, TcpEvent::Syn, Some(true)),
            (Direction::Output, TcpEvent::Syn, None),
            (Direction::Input, TcpEvent::Ack, None),
            (Direction::Output, TcpEvent::Fin, Some(false)),
            (Direction::Input, TcpEvent::Fin, None),
        ];
        for (direction, event, activity) in handshake_and_end {
            let step = state.advance(direction, Event::Tcp(Some(event)), Strictness::default(), &timeouts);
            assert_eq!(step.activity, activity, "{state} {direction:?} {event:?}");
            state = step.state;
        }
        assert_eq!(state, State::Tcp(TcpState::TimeWait));
        assert!(state.is_reusable());
    }

    #[test]
    fn a_state_is_two_bytes_and_pads_as_the_kernels_table_does() {
        assert_eq!(size_of::<State>(), 2);
        assert_eq!(format!("{:<11}|", State::Udp), "UDP        |");
        assert_eq!(format!("{:<11}|", State::Tcp(TcpState::SynRecv)), "SYN_RECV   |");
        assert_eq!(format!("{:<11}|", State::Sctp(SctpState::ShutdownAckSent)), "S-ACK-SENT |");
    }
}
