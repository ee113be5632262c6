//! The engine on a bench: packets in, verdicts out, time by hand.

mod bed;
mod bypass;
mod connections;
mod counters;
#[path = "../../nft-rules/tests/common/crc32c.rs"]
mod crc32c;
mod defence;
mod direct_routing;
mod errors;
mod feedback;
mod forwarding;
mod ftp;
mod hairpin;
mod icmp;
mod ipsec;
mod local_node;
mod marks;
mod one_packet;
mod persistence;
mod random;
mod removal;
mod routed_settings;
mod schedulers;
mod sctp;
mod services;
mod sip;
mod sync_backup;
mod sync_link;
mod sync_master;
mod sync_recordings;
mod sync_resync;
mod sync_simulation;
mod thresholds;
mod timers;
mod tunnels;
