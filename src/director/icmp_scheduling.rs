//! ICMP errors about replies: on to the server, which a new connection names where none is known and the tunable
//! `schedule_icmp` says so (`ip_vs_in_icmp`, `ip_vs_try_to_schedule` of `net/netfilter/ipvs/ip_vs_core.c`).
//!
//! A client's path tells a server what its packets are too large for. Of several directors that share a virtual
//! address, the one that gets the error need not be the one that has the connection; where all of them would choose the
//! same server, this one still finds it.

use super::connection::{Connection, InboundKey};
use super::engine::{Director, unchanged};
use super::packet::{IcmpErrorInfo, IcmpRewrite, Packet, Transport};
use super::scheduling::{Unscheduled, connect_once};
use super::service::{Family, Fwmark, Services};
use super::{DropReason, Refusal, ReplySource, Time, Verdict};

/// How an error about a reply goes on.
pub(super) enum Onward {
    /// As it is.
    Unchanged(Verdict),
    /// In terms of the server.
    Rewritten(IcmpRewrite, Option<ReplySource>),
}

impl Onward {
    /// To the connection's server. Counts it.
    pub(super) fn to_server(connection: &mut Connection, error: &IcmpErrorInfo) -> Onward {
        connection.count_in(error.len);
        if let Some(verdict) = unchanged(connection) {
            connection.note_packet();
            return Onward::Unchanged(verdict);
        }
        let server = connection.server_address();
        let rewrite = IcmpRewrite {
            destination: Some(server.ip()),
            embedded_source: Some(server),
            embedded_destination: connection.translates_client().then(|| connection.client_as_seen()),
            ..IcmpRewrite::default()
        };
        Onward::Rewritten(rewrite, connection.request_source())
    }

    /// Writes what is to be written.
    pub(super) fn send(self, packet: &mut Packet<'_>, error: &IcmpErrorInfo) -> Result<Verdict, DropReason> {
        match self {
            Onward::Unchanged(verdict) => Ok(verdict),
            Onward::Rewritten(rewrite, source) => {
                let rewritten = packet.rewrite_icmp_error(error, rewrite)?;
                Ok(Verdict::Forward { rewritten: Some(rewritten), source })
            }
        }
    }
}

/// An error need not embed more than eight bytes of what IP carried, in which no persistence engine finds anything.
const EMBEDDED: &[u8] = &[];

impl Director {
    /// An error about a packet of no connection, as if it were one about a reply: what the reply would have answered
    /// is scheduled. Whatever its flags were, it may start a connection.
    pub(super) fn schedule_error(
        &self,
        now: Time,
        services: &Services,
        mark: Option<Fwmark>,
        packet: &mut Packet<'_>,
        error: &IcmpErrorInfo,
    ) -> Result<Verdict, DropReason> {
        if !services.tunables.schedule_icmp || error.is_about_ipsec() {
            return Ok(Verdict::Accept);
        }
        let key = InboundKey {
            transport: error.embedded_transport,
            client: error.embedded_destination,
            virtual_address: error.embedded_source,
        };
        let marked = mark.and_then(|mark| services.marked(mark, Family::of(key.client.ip())));
        let service = marked.or_else(|| services.find(key.transport, key.virtual_address));
        let Some(service) = service else { return Ok(Verdict::Accept) };
        if services.defence.drops_packet() {
            return Err(DropReason::DropPacket);
        }
        let onward = if service.settings.one_packet && key.transport == Transport::Udp {
            self.place(now, &services.tunables, &key, service, EMBEDDED)
                .map(|placement| Onward::to_server(&mut connect_once(&key, service, placement), error))
        } else {
            let mut shard = self.table.shard(key.client.ip());
            // It may have come meanwhile.
            let known = shard.find_inbound(&key, now).map(Ok);
            known
                .unwrap_or_else(|| self.schedule(now, services, &mut shard, &key, service, EMBEDDED))
                .map(|handle| Onward::to_server(shard.get_mut(handle), error))
        };
        match onward {
            Ok(onward) => onward.send(packet, error),
            Err(Unscheduled::Dropped(reason)) => Err(reason),
            Err(Unscheduled::Refused(Refusal::NotServed)) => Ok(Verdict::Accept),
            // Nobody is told of an error about an error.
            Err(Unscheduled::Refused(Refusal::NoServer)) => Err(DropReason::NoServer),
        }
    }
}
