//! Who stands where no service has a server: for connections that [go on by themselves](super::bypass), and for what
//! another director has told of that belongs to no service here. In the kernel such connections have no `dest`.

use super::ReplySource;
use super::packet::Transport;
use super::scheduler::{self, SchedulerKind};
use super::service::{Family, ForwardMethod, RealServer, ServerId, ServiceCore, ServiceKey, Stats, Weight};
use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::{Arc, Mutex, PoisonError, Weak};

/// Servers and a service that are nobody's. What counts and chooses passes them over.
#[derive(Debug)]
pub(super) struct Nobody {
    /// At the unspecified address of each family.
    anywhere: [Arc<RealServer>; 2],
    /// At addresses that entries lead to. The lock is taken with parts of the table locked, and nothing inside it.
    somewhere: Mutex<HashMap<IpAddr, Weak<RealServer>>>,
    service: Arc<ServiceCore>,
}

impl Nobody {
    pub(super) fn new() -> Nobody {
        // No rule knows who replies. The address is one that no service can have.
        let key = ServiceKey::Endpoint {
            transport: Transport::Tcp,
            address: Ipv4Addr::UNSPECIFIED.into(),
            port: 0,
        };
        let scheduler = scheduler::build(SchedulerKind::Rr, 0);
        let total: Arc<Stats> = Arc::default();
        let service = ServiceCore::new(key, ReplySource::ASKED_AGAIN, scheduler, Arc::default(), total);
        let addresses: [IpAddr; 2] = [Ipv4Addr::UNSPECIFIED.into(), Ipv6Addr::UNSPECIFIED.into()];
        Nobody {
            anywhere: addresses.map(|address| Arc::new(server(address))),
            somewhere: Mutex::default(),
            service: Arc::new(service),
        }
    }

    /// Nobody in particular.
    pub(super) fn anywhere(&self, family: Family) -> Arc<RealServer> {
        Arc::clone(&self.anywhere[family as usize])
    }

    /// Whoever is at this address; the same while anybody refers to it.
    pub(super) fn at(&self, address: IpAddr) -> Arc<RealServer> {
        let mut somewhere = self.somewhere.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = somewhere.get(&address).and_then(Weak::upgrade) {
            return known;
        }
        if somewhere.len() == somewhere.capacity() {
            somewhere.retain(|_, known| known.strong_count() > 0);
        }
        let new = Arc::new(server(address));
        somewhere.insert(address, Arc::downgrade(&new));
        new
    }

    /// The service of what no service has.
    pub(super) fn service(&self) -> Arc<ServiceCore> {
        Arc::clone(&self.service)
    }
}

/// The method is that of what goes on by itself; other entries have one of their own.
fn server(address: IpAddr) -> RealServer {
    RealServer::new(ServerId::NOBODY, address, 0, ForwardMethod::Bypass, Weight::default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn servers_are_shared_while_somebody_refers_to_them_and_forgotten_afterwards() {
        let nobody = Nobody::new();
        let address = |number: u32| IpAddr::from(Ipv4Addr::from_bits(number));
        let kept = nobody.at(address(1));
        assert!(Arc::ptr_eq(&kept, &nobody.at(address(1))));
        assert!(!Arc::ptr_eq(&kept, &nobody.at(address(2))));
        (3..10_000).for_each(|number| drop(nobody.at(address(number))));
        assert!(nobody.somewhere.lock().unwrap().len() < 16, "what nobody refers to takes no memory");
        assert!(Arc::ptr_eq(&kept, &nobody.at(address(1))));
        assert!(kept.is_nobody() && kept.is_available());
    }
}
