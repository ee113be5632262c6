//! Replays exchanges of TCP packets through a kernel's NAT service, recorded in `tests/vectors/states.jsonl`, against
//! the state machine alone.

use nfvs::director::protocol::{Direction, State, TcpEvent, TcpState, Timeouts, starts_connection};
use nfvs::director::service::{ForwardMethod, RealServer, ServerId, Weight};
use serde::Deserialize;
use std::fs;
use std::net::{IpAddr, Ipv4Addr};

#[derive(Deserialize)]
struct Exchange {
    protocol: String,
    forward: String,
    secure_tcp: u32,
    steps: Vec<Step>,
}

#[derive(Deserialize)]
struct Step {
    dir: String,
    event: String,
    state: String,
    expires: u64,
    active: u32,
    inactive: u32,
}

impl Step {
    fn direction(&self) -> Direction {
        match self.dir.as_str() {
            "in" => Direction::Input,
            "out" => Direction::Output,
            other => panic!("direction {other}"),
        }
    }

    fn flags(&self) -> u8 {
        self.event.chars().fold(0, |flags, letter| {
            flags
                | match letter {
                    'F' => 0x01,
                    'S' => 0x02,
                    'R' => 0x04,
                    'P' => 0x08,
                    'A' => 0x10,
                    other => panic!("flag {other}"),
                }
        })
    }
}

const NEW: State = State::Tcp(TcpState::None);

#[test]
fn nat_exchanges_of_a_kernel() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/vectors/states.jsonl");
    let text = fs::read_to_string(path).unwrap_or_else(|error| panic!("{path}: {error}"));
    let timeouts = Timeouts::default();
    let (mut replayed, mut left_out, mut packets, mut reused) = (0, 0, 0, 0);
    for (number, line) in (1..).zip(text.lines()) {
        let exchange: Exchange = serde_json::from_str(line).unwrap_or_else(|e| panic!("line {number}: {e}"));
        if (exchange.protocol.as_str(), exchange.forward.as_str(), exchange.secure_tcp) != ("tcp", "nat", 0) {
            left_out += 1;
            continue;
        }
        let address = IpAddr::V4(Ipv4Addr::LOCALHOST);
        let server = RealServer::new(ServerId(1), address, 80, ForwardMethod::Nat, Weight::default());
        let mut state = NEW;
        server.bind_connection(state.is_active());
        for (index, step) in exchange.steps.iter().enumerate() {
            let direction = step.direction();
            if direction == Direction::Input && starts_connection(step.flags()) && state.is_reusable() {
                server.unbind_connection(state.is_active());
                state = NEW;
                server.bind_connection(state.is_active());
                reused += 1;
            }
            let after = state.advance(direction, TcpEvent::from_flags(step.flags()), &timeouts);
            state = after.state;
            if let Some(active) = after.activity {
                server.set_connection_active(active);
            }
            let found = (
                state.to_string(),
                after.timeout.as_secs() - 1,
                server.active_conns(),
                server.inactive_conns(),
            );
            let expected = (step.state.clone(), step.expires, step.active, step.inactive);
            assert_eq!(found, expected, "line {number}, packet {index}: {} {}", step.dir, step.event);
            packets += 1;
        }
        replayed += 1;
    }
    println!(
        "{replayed} exchanges, {packets} packets, {reused} reused; {left_out} left out (SCTP, DR, secure_tcp)"
    );
    assert_eq!((replayed, packets, reused, left_out), (60, 432, 19, 300));
}
