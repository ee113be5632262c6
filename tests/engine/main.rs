//! The engine on a bench: packets in, verdicts out, time by hand.

mod bed;
mod connections;
mod errors;
mod forwarding;
mod ipsec;
mod marks;
mod one_packet;
mod persistence;
mod random;
mod removal;
mod sctp;
mod services;
mod thresholds;
