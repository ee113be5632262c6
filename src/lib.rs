//! nfvs, a layer-4 load balancer in user space with the semantics of IPVS.
//!
//! # The map
//!
//! * [`director`] decides: services, real servers, schedulers, connections, packets. It is pure: no sockets, no
//!   clock, no randomness; time and seed are arguments.
//! * [`config`] turns the JSON an operator wrote into a checked model, or into a list of located complaints.
//! * [`daemon`] is the shell around the director: queues, workers, the control socket, the steering rules.
//! * [`cli`] is what people type.
//!
//! Two crates stand beside this one: `nft-rules` (the steering, described and applied) and `sync-proto` (the
//! vocabulary of the IPVS synchronisation protocol).
//!
//! # The way of one packet
//!
//! A client sends to a virtual IP. nftables (the table `nfvs`) puts the packet into an NFQUEUE before routing. A
//! worker of [`daemon`] receives it in a burst with others and asks [`director::Director::handle_packet`], which
//! parses it, finds its connection or schedules a new one to a real server, advances the connection's state and
//! rewrites destination address and port in place. The verdict carries the bytes back; the kernel routes them to
//! the server. The server's reply is queued as well; the director recognises it and answers with a mark alone, and
//! the kernel sets the source to the virtual address on the way out. What belongs to no connection goes on
//! untouched.

pub mod cli;
pub mod config;
pub mod daemon;
pub mod director;
