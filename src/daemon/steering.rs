//! From the director's services, and what else is wished of steering, to what the tables have to hold.

use crate::config::Config;
use crate::director::SteeredService;
use crate::director::service::{Family, ServiceKey, Tunables};
use nft_rules::{Elements, Endpoint, Marked, SourceId};
use std::collections::BTreeSet;
use std::net::SocketAddr;

/// What the configuration wishes of steering beside its services.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct SteeringWishes {
    answer_ping: bool,
    /// The Ethernet addresses of other directors.
    peers: BTreeSet<[u8; 6]>,
}

impl From<&Config> for SteeringWishes {
    fn from(config: &Config) -> SteeringWishes {
        SteeringWishes {
            answer_ping: config.answer_ping,
            peers: config.peers.iter().map(|peer| peer.octets()).collect(),
        }
    }
}

impl SteeringWishes {
    /// The keys of the configuration file whose values are others in `to`.
    pub(super) fn changes(&self, to: &SteeringWishes) -> Vec<&'static str> {
        let changes =
            [("answer_ping", self.answer_ping != to.answer_ping), ("peers", self.peers != to.peers)];
        changes.into_iter().filter_map(|(key, changed)| changed.then_some(key)).collect()
    }

    /// What the tables have to hold for these services, and if other directors hear of their connections.
    pub(super) fn elements(
        &self,
        steered: &[SteeredService],
        tunables: &Tunables,
        is_sync_master: bool,
    ) -> Elements {
        let mut elements = services(steered, self.answer_ping).with_peers(self.peers.iter().copied());
        if tunables.ignore_tunneled {
            elements = elements.ignoring_tunnels();
        }
        if is_sync_master { elements.silent_alone() } else { elements }
    }
}

/// What the tables have to hold for services alone.
pub(super) fn services(steered: &[SteeredService], answer_ping: bool) -> Elements {
    let any = |port: u16| (port != 0).then_some(port);
    let endpoints = steered.iter().filter_map(|service| {
        let ServiceKey::Endpoint { transport, address, port } = service.key else { return None };
        Some(Endpoint {
            address,
            protocol: transport.number(),
            port: any(port),
            source: SourceId::new(service.source.0).expect("the director counts sources as the rules do"),
            servers: service.servers.iter().map(|server| (server.ip(), any(server.port()))).collect(),
            routes: service
                .routes
                .iter()
                .map(|&(server, route)| {
                    (server, SourceId::new(route.0).expect("the director counts routes as the rules do"))
                })
                .collect(),
            tunnels: service.tunnels.clone(),
            accepts: service.accepts,
            answers_ping: answer_ping,
            ftp_data: service.ftp_data,
            reads_payload: service.reads_payload,
        })
    });
    let marked = steered.iter().filter_map(|service| {
        let ServiceKey::Mark { mark, family } = service.key else { return None };
        Some(Marked {
            mark: mark.get(),
            ipv6: family == Family::V6,
            servers: service.servers.iter().map(SocketAddr::ip).collect(),
            tunnels: service.tunnels.clone(),
            accepts: service.accepts,
        })
    });
    Elements::from_endpoints(endpoints).with_marked(marked)
}
