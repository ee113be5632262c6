//! Hearing what directors tell each other without being one, for people who look.

use super::socket::{self, Index};
use crate::config::SyncDaemon;
use crate::daemon::clock::Clock;
use crate::daemon::netns::NamedNamespace;
use anyhow::Context;
use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::time::Duration;

/// Hears the messages to one port of a group.
#[derive(Debug)]
pub struct Listener {
    socket: UdpSocket,
    group: SocketAddr,
    clock: Clock,
}

impl Listener {
    /// Listens where a backup with these settings would, in the network namespace of this name or the own one.
    ///
    /// # Errors
    /// If there is no such namespace or interface, or this process may not.
    pub fn open(netns: Option<&str>, daemon: &SyncDaemon) -> anyhow::Result<Listener> {
        netns.map(NamedNamespace::enter).transpose()?;
        let what = || format!("cannot listen on {}", daemon.interface);
        let index = Index::of(&daemon.interface).with_context(what)?;
        let socket = socket::receiver(daemon, index, daemon.port, 0).with_context(what)?;
        socket.set_nonblocking(false).with_context(what)?;
        Ok(Listener { socket, group: SocketAddr::new(daemon.group, daemon.port), clock: Clock::start() })
    }

    /// Where messages are sent to.
    pub fn group(&self) -> SocketAddr {
        self.group
    }

    /// Waits for a message: how much of `buffer` it is, who sent it, and when it came, as time since 1970.
    ///
    /// # Errors
    /// If the interface is down or gone.
    pub fn receive(&self, buffer: &mut [u8]) -> io::Result<(usize, SocketAddr, Duration)> {
        let (length, from) = self.socket.recv_from(buffer)?;
        Ok((length, from, self.clock.since_1970()))
    }
}
