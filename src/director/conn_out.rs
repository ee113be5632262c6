//! Connections that real servers open (`ip_vs_new_conn_out` of `net/netfilter/ipvs/ip_vs_core.c`).
//!
//! A server of SIP calls its clients as they call it: from the service's address, or they would not know it, and what
//! they say about the call has to come to the same server. So the service's persistence engine looks at what the server
//! sends as it looks at what clients send, and the call has a template from its first packet on, whoever began it.

use super::connection::{
    Connection, Controller, InboundKey, NewTemplate, OutboundKey, Placement, Template, TemplateKey,
};
use super::engine::Director;
use super::packet::{FlowInfo, Packet};
use super::scheduling::{find_template, is_valid, template_key};
use super::service::{Persistence, PersistenceEngine, RealServer, Services, Tunables, VirtualService};
use super::{DropReason, Time, Verdict};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

impl Director {
    /// A packet from where a real server is that belongs to no connection. `None`: it opens none.
    pub(super) fn connect_out(
        &self,
        now: Time,
        services: &Services,
        packet: &mut Packet<'_>,
        flow: &FlowInfo,
    ) -> Result<Option<Verdict>, DropReason> {
        let Some(call) = Call::of(services, packet, flow) else { return Ok(None) };
        let Call { service, server, persistence, virtual_address, pe_data } = call;
        let key = InboundKey { transport: flow.transport, client: flow.destination, virtual_address };
        let template = template_key(&key, service, persistence, Some(pe_data));

        let mut shard = self.table.shard(key.client.ip());
        let outbound =
            OutboundKey { transport: flow.transport, client: flow.destination, server: flow.source };
        // Its twin may have come through another worker meanwhile.
        if shard.find_outbound(&outbound, now).is_none() {
            let placement =
                self.place_out(now, &services.tunables, service, server, &template, persistence.timeout)?;
            let connection = Connection::new(&key, placement, Arc::clone(&service.core));
            if service.settings.one_packet {
                drop(shard);
                connection.count_once();
                connection.count_out(flow.len);
                connection.controller.iter().for_each(Controller::assure);
                let source = Some(connection.reply_source());
                return Ok(Some(Verdict::Forward { rewritten: None, source }));
            }
            // A client's port leads to the server that called it last; see docs/differences.md.
            if let Some(another) = shard.find_inbound(&key, now) {
                self.table.remove(&mut shard, another);
            }
            let handle = self.table.insert(&mut shard, connection, now).ok_or(DropReason::TableFull)?;
            shard.get(handle).count_conn();
        }
        drop(shard);
        self.handle_reply(now, services, packet, flow)
    }

    /// Leads the connections of `template_key` to the server that has opened one of them, whatever its weight.
    fn place_out(
        &self,
        now: Time,
        tunables: &Tunables,
        service: &VirtualService,
        server: &Arc<RealServer>,
        template_key: &TemplateKey<'_>,
        timeout: Duration,
    ) -> Result<Placement, DropReason> {
        let mut templates = self.table.templates(template_key.clients);
        let is_its =
            |template: &Template| is_valid(template, tunables) && Arc::ptr_eq(&template.server, server);
        let handle = match find_template(&mut templates, template_key, now, is_its) {
            Some(handle) => handle,
            None => {
                let template = Template::new(Arc::clone(server), server.port, Arc::clone(&service.core));
                self.table
                    .insert_template(
                        &mut templates,
                        *template_key,
                        NewTemplate::new(template, 0, timeout),
                        now,
                    )
                    .ok_or(DropReason::TableFull)?
            }
        };
        let controller = Some(templates.control(handle, now));
        // The kernel files no mark here, whatever the packet has.
        Ok(Placement { server: Arc::clone(server), server_port: server.port, controller, fwmark: 0 })
    }
}

/// What a server's packet belongs to that opens a connection.
struct Call<'a> {
    service: &'a Arc<VirtualService>,
    server: &'a Arc<RealServer>,
    persistence: Persistence,
    virtual_address: SocketAddr,
    pe_data: (PersistenceEngine, &'a [u8]),
}

impl<'a> Call<'a> {
    fn of(services: &'a Services, packet: &'a Packet<'_>, flow: &FlowInfo) -> Option<Call<'a>> {
        let (service, server) = services.conn_out(flow.source)?;
        let persistence = service.settings.persistence?;
        let engine = persistence.engine?;
        let pe_data = (engine, engine.data(packet.payload(flow))?);
        let virtual_address = service.key().endpoint()?;
        Some(Call { service, server, persistence, virtual_address, pe_data })
    }
}
