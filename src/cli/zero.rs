//! `nfvs zero`: counters and rates from zero.

use super::client::Client;
use super::show::endpoint;
use crate::daemon::api::{Request, ServiceStatus};
use anyhow::Context;
use serde_json::json;

/// Asks the daemon to set the counters of one service, or all, to zero.
pub(super) fn zero(client: &mut Client, service: Option<&str>) -> anyhow::Result<()> {
    let service = match service {
        None => None,
        Some(wanted) => {
            let services: Vec<ServiceStatus> = client.ask(&Request::ShowServices {})?;
            let found = find(&services, wanted).with_context(|| {
                format!("no service is called \"{wanted}\", and none has that for its address")
            })?;
            Some(json!({ "protocol": found.protocol, "address": found.address, "port": found.port }))
        }
    };
    client.ask(&Request::Zero { service })
}

/// The service of that name; if there is none, the one at that protocol and address.
fn find<'s>(services: &'s [ServiceStatus], wanted: &str) -> Option<&'s ServiceStatus> {
    let address = |service: &ServiceStatus| {
        format!("{} {}", service.protocol, endpoint(&service.address, service.port))
    };
    let named = services.iter().find(|service| service.name == wanted);
    named.or_else(|| services.iter().find(|service| address(service) == wanted))
}
