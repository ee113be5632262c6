//! What was removed while connections are left: servers, which come back with their counters, and services, whose
//! replies still need a source (`struct netns_ipvs.dest_trash`).

use super::Time;
use super::service::{RealServer, ServiceCore, ServiceKey};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

/// How long a removed server is remembered after its last connection and template (`IP_VS_DEST_TRASH_PERIOD`), so that
/// it comes back with its counters.
const TRASH_PERIOD: Duration = Duration::from_secs(120);

/// Removed servers and deleted services, by the service's key.
#[derive(Clone, Debug, Default)]
pub(super) struct Trash {
    remains: BTreeMap<ServiceKey, Remains>,
}

#[derive(Clone, Debug, Default)]
struct Remains {
    servers: Vec<Trashed>,
    services: Vec<Arc<ServiceCore>>,
}

/// A removed server.
#[derive(Clone, Debug)]
pub(super) struct Trashed {
    /// The service that had it.
    pub(super) core: Arc<ServiceCore>,
    /// The server.
    pub(super) server: Arc<RealServer>,
    idle_since: Option<Time>,
}

impl Trash {
    /// Remembers a server of the service `core`.
    pub(super) fn put_server(&mut self, core: Arc<ServiceCore>, server: Arc<RealServer>) {
        let remains = self.remains.entry(core.key).or_default();
        remains.servers.push(Trashed { core, server, idle_since: None });
    }

    /// Remembers a service, until none of its servers is remembered.
    pub(super) fn put_service(&mut self, core: Arc<ServiceCore>) {
        self.remains.entry(core.key).or_default().services.push(core);
    }

    /// A server comes back only to a service of the same key (`ip_vs_trash_get_dest`).
    pub(super) fn take_server(&mut self, key: ServiceKey, server: SocketAddr) -> Option<Trashed> {
        let servers = &mut self.remains.get_mut(&key)?.servers;
        let is_it =
            |trashed: &Trashed| (trashed.server.address, trashed.server.port) == (server.ip(), server.port());
        let position = servers.iter().position(is_it)?;
        Some(servers.remove(position))
    }

    /// The deleted service that had this key before.
    pub(super) fn predecessor(&self, key: ServiceKey) -> Option<&Arc<ServiceCore>> {
        self.remains.get(&key)?.services.first()
    }

    /// The servers that services of this key had.
    pub(super) fn servers_of(&self, key: ServiceKey) -> impl Iterator<Item = &Arc<RealServer>> {
        self.remains.get(&key).into_iter().flat_map(|remains| &remains.servers).map(|trashed| &trashed.server)
    }

    /// All servers, each with the key of its service.
    pub(super) fn servers(&self) -> impl Iterator<Item = (ServiceKey, &Arc<RealServer>)> {
        self.remains
            .iter()
            .flat_map(|(key, remains)| remains.servers.iter().map(|trashed| (*key, &trashed.server)))
    }

    /// The deleted services, one of each key: all of one key have the same source.
    pub(super) fn services(&self) -> impl Iterator<Item = &Arc<ServiceCore>> {
        self.remains.values().filter_map(|remains| remains.services.first())
    }

    /// Forgets servers that have had no connection and no template for two minutes. Returns whether there were any.
    pub(super) fn expire(&mut self, now: Time) -> bool {
        let mut changed = false;
        for Remains { servers, .. } in self.remains.values_mut() {
            let before = servers.len();
            servers.retain_mut(|trashed| {
                if trashed.server.is_in_use() {
                    trashed.idle_since = None;
                    return true;
                }
                now - *trashed.idle_since.get_or_insert(now) < TRASH_PERIOD
            });
            changed |= servers.len() != before;
        }
        self.drop_unused_services();
        changed
    }

    /// Forgets services none of whose servers is remembered: no reply needs their source.
    pub(super) fn drop_unused_services(&mut self) {
        self.remains.retain(|_, Remains { servers, services }| {
            services.retain(|core| servers.iter().any(|trashed| Arc::ptr_eq(&trashed.core, core)));
            !(servers.is_empty() && services.is_empty())
        });
    }
}
