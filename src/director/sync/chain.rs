//! An entry's record, and those of what controls it (`ip_vs_sync_conn`, `ip_vs_sync_conn_v0` of `ip_vs_sync.c`): a
//! connection, the control connection of FTP that announced it, the template that it was made from.

use super::counters::Unsent;
use super::emission::{Rules, Subject};
use super::limit::Urgency;
use super::master::Master;
use crate::director::Time;
use crate::director::connection::{
    Connection, Handle, InboundKey, Shard, Template, TemplateHandle, TemplateShard,
};
use crate::director::engine::Director;
use crate::director::service::{Services, Tunables};
use std::hash::BuildHasher;
use std::sync::Arc;
use sync_proto::{Addresses, ConnFlags, OptionalParameters, Record, Version};

/// All that it takes to look at entries for a master that runs.
struct Emitter<'a> {
    director: &'a Director,
    master: &'a Master,
    now: Time,
    tunables: &'a Tunables,
    rules: Rules,
}

impl Director {
    /// Looks whether other directors are to be told of a connection that a client's packet has just come for, and was
    /// counted.
    #[inline]
    pub(in crate::director) fn synchronise(
        &self,
        now: Time,
        services: &Services,
        shard: &mut Shard,
        handle: Handle,
    ) {
        if self.sync.is_master() {
            let packets = shard.get(handle).packets();
            self.emit(now, services, |emitter| emitter.connection(shard, handle, packets));
        }
    }

    /// The same of a template that a datagram has just come for whose connection ended at once; counts it.
    pub(in crate::director) fn synchronise_once(
        &self,
        now: Time,
        services: &Services,
        template: &Arc<Template>,
    ) {
        if !self.sync.is_master() {
            template.note_packet();
        } else if services.tunables.sync_version == Version::V1 {
            self.emit(now, services, |emitter| emitter.controlling_template(template));
        }
    }

    /// The same of a connection whose time was over, and that goes on because it controls others.
    pub(in crate::director) fn synchronise_extended(
        &self,
        now: Time,
        services: &Services,
        shard: &mut Shard,
        handle: Handle,
    ) {
        let packets = services.tunables.sync_threshold.packet;
        self.emit(now, services, |emitter| emitter.connection(shard, handle, packets));
    }

    /// The same of such a template.
    pub(in crate::director) fn synchronise_extended_template(
        &self,
        now: Time,
        services: &Services,
        templates: &mut TemplateShard,
        handle: TemplateHandle,
    ) {
        let packets = services.tunables.sync_threshold.packet;
        self.emit(now, services, |emitter| emitter.template(templates, handle, packets));
    }

    fn emit(&self, now: Time, services: &Services, look: impl FnOnce(&Emitter<'_>)) {
        let master = self.sync.master.load();
        let Some(master) = master.as_deref() else { return };
        let tunables = &services.tunables;
        look(&Emitter { director: self, master, now, tunables, rules: Rules::of(tunables) });
    }
}

impl Emitter<'_> {
    fn connection(&self, shard: &mut Shard, handle: Handle, packets: u32) {
        let is_v0 = self.tunables.sync_version == Version::V0;
        let connection = shard.get(handle);
        if is_v0 && connection.client().is_ipv6() {
            return;
        }
        let control = connection.held_by().map(|hold| (*hold.control_key(), hold.held()));
        let control = control.and_then(|(key, held)| find_control(shard, &key, held, self.now));
        let template =
            shard.get(handle).controller.as_ref().map(|controller| Arc::clone(controller.template()));
        // An FTP data connection is two steps from the template of its control connection.
        let is_led = template.is_some() || control.is_some_and(|it| shard.get(it).controller.is_some());
        let is_left_out = self.rules.templates_alone && is_led;
        let due = if is_left_out { None } else { self.connection_due(shard.get_mut(handle), packets) };
        let is_due = due.is_some();
        if let Some(urgency) = due {
            self.push_connection(shard.get(handle), urgency);
        }
        if is_v0 && !is_due {
            return;
        }
        if let Some(control) = control {
            self.connection(shard, control, self.rules.threshold);
        } else if let Some(template) = template {
            self.controlling_template(&template);
        }
    }

    fn connection_due(&self, connection: &mut Connection, packets: u32) -> Option<Urgency> {
        let (subject, timeout) = (Subject::Connection(connection.state), connection.timeout());
        let urgency = connection.emission.urgency(subject);
        let is_due = connection.emission.is_due(&self.rules, self.now, subject, timeout, packets);
        is_due.then_some(urgency)
    }

    fn push_connection(&self, connection: &Connection, urgency: Urgency) {
        match record_of(connection) {
            Some(record) => {
                self.push(self.director.hasher.hash_one(connection.inbound_key()), (urgency, &record));
            }
            None => self.director.sync.counters.note_unsent(Unsent::TwoFamilies),
        }
    }

    /// A template, with a packet of one of its connections.
    fn controlling_template(&self, template: &Arc<Template>) {
        let Some(clients) = template.home() else { return };
        let mut templates = self.director.table.templates(clients);
        let Some(handle) = templates.filed(template) else { return };
        let counted = template.note_packet();
        let packets = if templates.take_extended(handle) { self.rules.threshold } else { counted };
        self.template(&mut templates, handle, packets);
    }

    fn template(&self, templates: &mut TemplateShard, handle: TemplateHandle, packets: u32) {
        let version = self.tunables.sync_version;
        let timeout = templates.timeout(handle);
        if version == Version::V0 && templates.is_ipv6(handle) {
            return;
        }
        let emission = templates.emission_mut(handle);
        let urgency = emission.urgency(Subject::Template);
        if !emission.is_due(&self.rules, self.now, Subject::Template, timeout, packets) {
            return;
        }
        let Some(record) = templates.record(handle) else {
            self.director.sync.counters.note_unsent(Unsent::TwoFamilies);
            return;
        };
        if version == Version::V1 && record.engine.is_some() && templates.get(handle).server.is_nobody() {
            self.director.sync.counters.note_unsent(Unsent::EngineUnbound);
            return;
        }
        let key = (record.addresses, record.virtual_port, record.engine);
        self.push(self.director.hasher.hash_one(key), (urgency, &record));
    }

    fn push(&self, hash: u64, told: (Urgency, &Record<'_>)) {
        let queue_len = usize::try_from(self.tunables.sync_qlen_max).unwrap_or(usize::MAX);
        let form = (self.tunables.sync_version, queue_len);
        self.master.push(self.now, form, hash, told, &self.director.sync.counters);
    }
}

/// The control connection that holds count at, if it is still there.
pub(super) fn find_control(shard: &Shard, key: &InboundKey, held: *const (), now: Time) -> Option<Handle> {
    let found = shard.find_inbound(key, now)?;
    let control = shard.get(found).control()?;
    (control.data_connections().held() == held).then_some(found)
}

/// What other directors are to know of a connection. `None`: its client and its server have addresses of different
/// families.
pub(super) fn record_of(connection: &Connection) -> Option<Record<'static>> {
    let (client, virtual_address) = (connection.client(), connection.virtual_address());
    let server = connection.server_address();
    let adjusted = connection.flags.intersects(ConnFlags::SEQUENCE);
    Some(Record {
        protocol: connection.transport.number(),
        flags: connection.flags,
        state: connection.state.number().into(),
        client_port: client.port(),
        virtual_port: virtual_address.port(),
        server_port: server.port(),
        addresses: Addresses::new(client.ip(), virtual_address.ip(), server.ip())?,
        fwmark: connection.fwmark(),
        timeout_seconds: connection.timeout().as_secs().try_into().unwrap_or(u32::MAX),
        sequence: adjusted.then(|| connection.sequence_shifts().unwrap_or_default()),
        engine: None,
        optional: OptionalParameters::default(),
    })
}
