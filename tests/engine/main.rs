//! The engine on a bench: packets in, verdicts out, time by hand.

mod bed;
mod connections;
mod errors;
mod forwarding;
mod random;
mod services;
mod states;
