//! `nfvs zero`: counters and rates from zero.

use super::client::Client;
use super::show::endpoint;
use crate::daemon::api::{Request, ServiceName, ServiceStatus};
use anyhow::Context;
use serde_json::json;

/// Asks the daemon to set the counters of one service, or all, to zero.
pub(super) fn zero(client: &mut Client, service: Option<&str>) -> anyhow::Result<()> {
    let service = match service {
        None => None,
        Some(wanted) => {
            let services: Vec<ServiceStatus> = client.ask(&Request::ShowServices {})?;
            let found = find(&services, wanted).with_context(|| {
                format!("no service is called \"{wanted}\", and none has that for its address or mark")
            })?;
            let mut key = json!(found);
            key.as_object_mut().map(|key| key.remove("name"));
            Some(key)
        }
    };
    client.ask(&Request::Zero { service })
}

/// The service of that name; if there is none, the one at that protocol and address, or with that mark.
fn find<'s>(services: &'s [ServiceStatus], wanted: &str) -> Option<&'s ServiceName> {
    let mut names = services.iter().map(|service| &service.name);
    names
        .clone()
        .find(|service| service.name == wanted)
        .or_else(|| names.find(|service| key(service) == wanted))
}

/// What a service is called that has no name.
fn key(service: &ServiceName) -> String {
    match service {
        ServiceName { protocol: Some(protocol), address: Some(address), port: Some(port), .. } => {
            format!("{protocol} {}", endpoint(address, *port))
        }
        ServiceName { fwmark, family, .. } => {
            let family = if family.as_deref() == Some("ipv6") { " ipv6" } else { "" };
            format!("fwmark {}{family}", fwmark.unwrap_or_default())
        }
    }
}
