//! ICMP errors about replies: on to the server, which a new connection names where none is known and the tunable
//! `schedule_icmp` says so (`ip_vs_in_icmp`, `ip_vs_try_to_schedule` of `net/netfilter/ipvs/ip_vs_core.c`).
//!
//! A client's path tells a server what its packets are too large for. Of several directors that share a virtual
//! address, the one that gets the error need not be the one that has the connection; where all of them would choose the
//! same server, this one still finds it.

use super::connection::{Connection, InboundKey};
use super::engine::{Director, Way, towards};
use super::packet::{IcmpErrorInfo, IcmpRewrite, Packet, Transport};
use super::scheduling::{Occasion, OccasionKind, Unscheduled, connect_once};
use super::service::{Family, Fwmark, Services};
use super::tunnel::Destination;
use super::{DropReason, Refusal, ReplySource, Time, Verdict};

/// How an error about a reply goes on to a connection's server.
pub(super) enum ToServer {
    /// As it is.
    Unchanged(Verdict),
    /// As it is, inside another packet.
    Enclosed(Destination),
    /// In terms of the server.
    Rewritten(IcmpRewrite, Option<ReplySource>),
}

impl ToServer {
    /// Says how, and counts it.
    pub(super) fn of(
        connection: &mut Connection,
        services: &Services,
        error: &IcmpErrorInfo,
    ) -> Result<ToServer, DropReason> {
        connection.count_in(error.len);
        if !connection.is_nat() {
            connection.note_packet();
        }
        match towards(connection, services)? {
            Way::Enclosed(to) => return Ok(ToServer::Enclosed(to)),
            Way::Unchanged(verdict) => return Ok(ToServer::Unchanged(verdict)),
            Way::Translated => {}
        }
        let server = connection.server_address();
        let rewrite = IcmpRewrite {
            destination: Some(server.ip()),
            embedded_source: Some(server),
            embedded_destination: connection.translates_client().then(|| connection.client_as_seen()),
            ..IcmpRewrite::default()
        };
        Ok(ToServer::Rewritten(rewrite, connection.request_source()))
    }
}

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
        let occasion = Occasion { kind: OccasionKind::Error, mark };
        let to_server = if service.settings.one_packet && key.transport == Transport::Udp {
            self.place(now, &services.tunables, &key, service, occasion)
                .map(|placement| ToServer::of(&mut connect_once(&key, service, placement), services, error))
        } else {
            let mut shard = self.table.shard(key.client.ip());
            // It may have come meanwhile.
            let known = shard.find_inbound(&key, now).map(Ok);
            known
                .unwrap_or_else(|| self.schedule(now, services, &mut shard, &key, service, occasion))
                .map(|handle| ToServer::of(shard.get_mut(handle), services, error))
        };
        match to_server {
            Ok(to_server) => self.send_error(to_server?, packet, error),
            Err(Unscheduled::Dropped(reason)) => Err(reason),
            Err(Unscheduled::Refused(Refusal::NotServed)) => Ok(Verdict::Accept),
            // Nobody is told of an error about an error.
            Err(Unscheduled::Refused(Refusal::NoServer)) => Err(DropReason::NoServer),
        }
    }

    /// The verdict about an error to a server. Writes what is to be written.
    pub(super) fn send_error(
        &self,
        to_server: ToServer,
        packet: &mut Packet<'_>,
        error: &IcmpErrorInfo,
    ) -> Result<Verdict, DropReason> {
        match to_server {
            ToServer::Unchanged(verdict) => Ok(verdict),
            ToServer::Enclosed(to) => self.encapsulate_error(to, packet, error),
            ToServer::Rewritten(rewrite, source) => {
                let rewritten = packet.rewrite_icmp_error(error, rewrite)?;
                Ok(Verdict::Forward { rewritten: Some(rewritten), source })
            }
        }
    }
}
