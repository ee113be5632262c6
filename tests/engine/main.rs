//! The engine on a bench: packets in, verdicts out, time by hand.

mod bed;
mod connections;
mod errors;
mod marks;
mod one_packet;
mod persistence;
mod random;
mod removal;
mod services;
mod states;
mod thresholds;
