//! The engine on a bench: packets in, verdicts out, time by hand.

mod bed;
mod connections;
mod counters;
mod errors;
mod forwarding;
mod ipsec;
mod random;
mod sctp;
mod services;
