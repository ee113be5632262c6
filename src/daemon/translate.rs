//! From what people write (configuration, requests) to commands for the director.
//!
//! A request's service and server are put into a configuration document of their own, so that they are checked by
//! the same rules, and refused with the same words, as a configuration file.

use super::api::Request;
use crate::config::{self, Config};
use crate::director::packet::Transport;
use crate::director::protocol::Timeouts;
use crate::director::scheduler::SchedulerKind;
use crate::director::service::{ForwardMethod, ServiceKey};
use crate::director::{Command, ServerSpec, ServiceSpec};
use anyhow::{Context, bail};
use serde_json::{Value, json};
use std::net::SocketAddr;

/// What names a service.
const KEY: &[&str] = &["protocol", "address", "port"];

/// The commands that bring a fresh director to `config`.
pub(super) fn config_commands(config: &Config) -> Vec<Command> {
    std::iter::once(Command::SetTimeouts(timeouts(&config.timeouts)))
        .chain(config.services.iter().map(|service| Command::AddService(service_spec(service))))
        .collect()
}

/// The commands of a request for change.
///
/// # Errors
/// What is wrong with the request.
pub(super) fn commands(request: &Request, current: &Timeouts) -> anyhow::Result<Vec<Command>> {
    Ok(vec![match request {
        Request::AddService { service } => Command::AddService(checked_service(service, None)?),
        Request::EditService { service } => {
            if service.get("scheduler").is_none() {
                bail!("service.scheduler: missing");
            }
            only("service", service, &["protocol", "address", "port", "scheduler"])?;
            let spec = checked_service(service, None)?;
            Command::EditService { service: spec.key, scheduler: spec.scheduler }
        }
        Request::DeleteService { service } => Command::DeleteService(service_key(service)?),
        Request::AddServer { service, server } => {
            let (key, server) = checked_server(service, server)?;
            Command::AddServer(key, server)
        }
        Request::EditServer { service, server } => {
            if server.get("weight").is_none() {
                bail!("server.weight: missing");
            }
            let (key, server) = checked_server(service, server)?;
            Command::EditServer(key, server)
        }
        Request::DeleteServer { service, server } => {
            only("server", server, &["address", "port"])?;
            let (key, server) = checked_server(service, server)?;
            Command::DeleteServer(key, server.address)
        }
        Request::SetTimeouts { timeouts: changed } => {
            let mut all = json!({
                "tcp": current.tcp.as_secs(),
                "tcp_fin": current.tcp_fin.as_secs(),
                "udp": current.udp.as_secs(),
            });
            for (name, value) in changed {
                all[name] = value.clone();
            }
            let config = checked(&json!({ "services": [], "timeouts": all }), &[])?;
            Command::SetTimeouts(timeouts(&config.timeouts))
        }
        Request::ShowServices {}
        | Request::ShowConnections {}
        | Request::ShowQueues {}
        | Request::ShowStats {}
        | Request::ShowRates {}
        | Request::Zero { .. }
        | Request::Reload {} => {
            return Ok(Vec::new());
        }
    }])
}

/// The service that a request names.
///
/// # Errors
/// What is wrong with the name.
pub(super) fn service_key(service: &Value) -> anyhow::Result<ServiceKey> {
    only("service", service, KEY)?;
    Ok(checked_service(service, None)?.key)
}

/// The servers a command would bring in.
pub(super) fn added_servers(command: &Command) -> impl Iterator<Item = SocketAddr> + '_ {
    let servers = match command {
        Command::AddService(spec) => spec.servers.as_slice(),
        Command::AddServer(_, server) => std::slice::from_ref(server),
        _ => &[],
    };
    servers.iter().map(|server| server.address)
}

fn checked_service(service: &Value, server: Option<&Value>) -> anyhow::Result<ServiceSpec> {
    let mut service = service.clone();
    if let (Some(server), Some(fields)) = (server, service.as_object_mut()) {
        fields.insert("servers".to_owned(), json!([server]));
    }
    let config = checked(
        &json!({ "services": [service] }),
        &[("services[0].servers[0]", "server"), ("services[0]", "service")],
    )?;
    config.services.first().map(service_spec).context("service: missing")
}

fn checked_server(service: &Value, server: &Value) -> anyhow::Result<(ServiceKey, ServerSpec)> {
    only("service", service, KEY)?;
    let spec = checked_service(service, Some(server))?;
    let server = spec.servers.first().copied().context("server: missing")?;
    Ok((spec.key, server))
}

/// Refuses what a request would say in vain.
fn only(what: &str, value: &Value, allowed: &[&str]) -> anyhow::Result<()> {
    match value.as_object().and_then(|fields| fields.keys().find(|key| !allowed.contains(&key.as_str()))) {
        Some(key) => bail!("{what}.{key}: of no use here; allowed: {}", allowed.join(", ")),
        None => Ok(()),
    }
}

/// Checks a document made from a request. `names` says what its places are called in the request.
fn checked(document: &Value, names: &[(&str, &str)]) -> anyhow::Result<Config> {
    config::check("request", &document.to_string()).map_err(|complaints| {
        let lines: Vec<String> = complaints
            .as_slice()
            .iter()
            .map(|complaint| {
                let place =
                    names.iter().fold(complaint.path.clone(), |path, (from, to)| path.replace(from, to));
                format!("{place}: {}", complaint.message)
            })
            .collect();
        anyhow::anyhow!(lines.join("; "))
    })
}

/// A service of the configuration, to be added.
pub(super) fn service_spec(service: &config::Service) -> ServiceSpec {
    ServiceSpec {
        key: ServiceKey {
            transport: match service.protocol {
                config::Protocol::Tcp => Transport::Tcp,
                config::Protocol::Udp => Transport::Udp,
                config::Protocol::Sctp => Transport::Sctp,
            },
            address: service.address,
            port: service.port,
        },
        name: service.name.clone(),
        scheduler: match service.scheduler {
            config::SchedulerName::Rr => SchedulerKind::Rr,
            config::SchedulerName::Wrr => SchedulerKind::Wrr,
            config::SchedulerName::Lc => SchedulerKind::Lc,
            config::SchedulerName::Wlc => SchedulerKind::Wlc,
            config::SchedulerName::Random => SchedulerKind::Random,
        },
        servers: service
            .servers
            .iter()
            .map(|server| ServerSpec {
                address: SocketAddr::new(server.address, server.port),
                weight: server.weight,
                forward: ForwardMethod::Nat,
            })
            .collect(),
    }
}

/// The timeouts of the configuration.
pub(super) fn timeouts(timeouts: &config::Timeouts) -> Timeouts {
    Timeouts { tcp: timeouts.tcp, tcp_fin: timeouts.tcp_fin, udp: timeouts.udp }
}
