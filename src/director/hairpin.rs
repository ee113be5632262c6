//! Clients that are served by themselves: a real server asks a virtual address, and is the server that is chosen.
//!
//! Its own address would be the source of what comes to it then, and it would drop that. So it sees the virtual address
//! in place of its own as a client: the one address of the director that it is known to reach it by. The source is
//! written behind routing, where a local address is no martian any more; and what it answers goes to the virtual
//! address, with the port that tells which connection it is.

use super::connection::{Handle, OutboundKey, Shard};
use super::engine::Director;
use super::packet::{FlowInfo, Packet, Rewrite, Transport};
use super::{DropReason, Time, Verdict};
use std::net::SocketAddr;
use std::sync::MutexGuard;

impl Director {
    /// The connection of a packet that `server` has sent to `client`, or to the virtual address that stands for it.
    pub(super) fn find_reply(
        &self,
        now: Time,
        transport: Transport,
        server: SocketAddr,
        client: SocketAddr,
    ) -> Option<(MutexGuard<'_, Shard>, Handle)> {
        let find = |client: SocketAddr| {
            let shard = self.table.shard(client.ip());
            let handle = shard.find_outbound(&OutboundKey { transport, client, server }, now)?;
            Some((shard, handle))
        };
        find(client).or_else(|| {
            let (shard, handle) = find(SocketAddr::new(server.ip(), client.port()))?;
            let connection = shard.get(handle);
            let is_its = connection.is_hairpin() && connection.virtual_address().ip() == client.ip();
            is_its.then_some((shard, handle))
        })
    }

    /// A request that was here before, on its way to a server that has sent it: writes the source.
    pub(super) fn set_hairpin_source(
        &self,
        now: Time,
        packet: &mut Packet<'_>,
        flow: &FlowInfo,
    ) -> Result<Verdict, DropReason> {
        let found = self.find_reply(now, flow.transport, flow.destination, flow.source);
        let Some((shard, handle)) = found.filter(|(shard, handle)| shard.get(*handle).is_hairpin()) else {
            return Ok(Verdict::Accept);
        };
        let source = Some(shard.get(handle).client_as_seen());
        drop(shard);
        let rewritten = packet.rewrite(flow, Rewrite { source, destination: None })?;
        Ok(Verdict::Forward { rewritten: Some(rewritten), source: None })
    }
}
