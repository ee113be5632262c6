//! Reports of load come in here, for services with the scheduler `feedback`. Who asks servers, and how, is the shell's
//! affair; what is made of the answers is `scheduler/law.rs`'s.
//!
//! Nothing here takes a lock that packets wait for.

use super::Time;
use super::engine::Director;
use super::scheduler::{Member, Regulation, regulate};
use super::service::{Load, ServiceKey};
use std::net::SocketAddr;

impl Director {
    /// Takes notice of what a server has reported; `None`: it did not, or nothing that is a load. Of a server that is
    /// not there any more, or whose service does not go by reports, nothing is noted.
    pub fn note_load(&self, service: ServiceKey, server: SocketAddr, load: Option<Load>, now: Time) {
        let services = self.services();
        let feedback = services.get(&service).and_then(|service| service.feedback());
        if let (Some(feedback), Some(server)) = (feedback, services.server(&service, server)) {
            match load {
                Some(load) => server.reported.note(load, feedback, now),
                None => server.reported.note_missed(),
            }
        }
    }

    /// Brings the factors of a service's servers up to date with their reports. Call it once in each of the service's
    /// intervals, after its reports were noted.
    pub fn regulate(&self, service: ServiceKey, now: Time) {
        let services = self.services();
        let Some(service) = services.get(&service).filter(|service| service.feedback().is_some()) else {
            return;
        };
        let regulated = service.servers.iter().filter(|server| server.weight().get() > 0);
        let fresh = regulated.filter(|server| server.reported.is_fresh(now));
        let mut known: Vec<_> = fresh.map(|server| (server, server.reported.regulation())).collect();
        let mut members: Vec<Member<'_>> = known
            .iter_mut()
            .filter_map(|(server, known)| {
                let regulation: &mut Regulation = known.as_mut()?;
                let weight = server.weight().get().into();
                // A product of a few million connections and 256 is exact.
                Some(Member { regulation, weight, connections: server.load() as f64 })
            })
            .collect();
        regulate(&mut members);
        for (server, regulation) in &known {
            if let Some(regulation) = **regulation {
                server.reported.set_factor(regulation.factor());
            }
        }
    }
}
