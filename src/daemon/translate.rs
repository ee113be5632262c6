//! From what people write (configuration, requests) to commands for the director.
//!
//! A request's service and server are put into a configuration document of their own, so that they are checked by
//! the same rules, and refused with the same words, as a configuration file.

use super::api::{
    FeedbackStatus, OwnTimeoutsStatus, PersistenceStatus, Request, TunableStatus, TunnelStatus,
};
use crate::config::{self, Config, SyncDaemon};
use crate::director::packet::Transport;
use crate::director::protocol::Timeouts;
use crate::director::scheduler::SchedulerFlag;
use crate::director::service::{
    RealServer, ServiceKey, ServiceSettings, Services, Thresholds, VirtualService,
};
use crate::director::{Command, CommandError, ServerSpec, ServiceSpec};
use anyhow::{Context, bail};
use serde_json::{Value, json};
use std::net::SocketAddr;

/// What names a service.
const KEY: &[&str] = &["protocol", "address", "port", "fwmark", "family"];
/// What can be changed of a service.
const SETTINGS: &[&str] =
    &["scheduler", "scheduler_flags", "feedback", "persistence", "one_packet", "on_remove", "timeouts"];
/// What names a server, and what can be changed of it.
const SERVER_KEY: &[&str] = &["address", "port"];
const SERVER_SETTINGS: &[&str] = &["weight", "forward", "tunnel", "upper_threshold", "lower_threshold"];

/// The commands that bring a fresh director to `config`.
pub(super) fn config_commands(config: &Config) -> Vec<Command> {
    [Command::SetTimeouts(timeouts(&config.timeouts)), Command::SetTunables(config.tunables)]
        .into_iter()
        .chain(config.services.iter().map(|service| Command::AddService(service_spec(service))))
        .collect()
}

/// The commands of a request for change.
///
/// # Errors
/// What is wrong with the request.
pub(super) fn commands(request: &Request, current: &Services) -> anyhow::Result<Vec<Command>> {
    Ok(vec![match request {
        Request::AddService { service } => Command::AddService(checked_service(service, None)?),
        Request::EditService { service } => {
            only("service", service, &[KEY, SETTINGS].concat())?;
            any_of("service", service, SETTINGS)?;
            let key = checked_service(&without(service, SETTINGS), None)?.key;
            let running = current.get(&key).ok_or(CommandError::NoSuchService(key))?;
            let mut changed = over(settings(running), service);
            // What is set for a scheduler goes with it.
            if changed["scheduler"] != running.scheduler.name() {
                for key in ["scheduler_flags", "feedback"] {
                    if service.get(key).is_none() {
                        changed = without(&changed, &[key]);
                    }
                }
            }
            let spec = checked_service(&changed, None)?;
            Command::EditService { service: spec.key, scheduler: spec.scheduler, settings: spec.settings }
        }
        Request::DeleteService { service } => Command::DeleteService(service_key(service)?),
        Request::AddServer { service, server } => {
            let (key, server) = checked_server(service, server, current)?;
            Command::AddServer(key, server)
        }
        Request::EditServer { service, server } => {
            any_of("server", server, SERVER_SETTINGS)?;
            let (key, address) = named_server(service, &without(server, SERVER_SETTINGS), current)?;
            let running = current.get(&key).ok_or(CommandError::NoSuchService(key))?;
            let position = running
                .position(address)
                .ok_or(CommandError::NoSuchServer { service: key, server: address })?;
            let mut changed = over(server_settings(&running.servers[position]), server);
            if changed["forward"] != "tunnel" && server.get("tunnel").is_none() {
                changed = without(&changed, &["tunnel"]);
            }
            let (key, server) = checked_server(service, &changed, current)?;
            Command::EditServer(key, server)
        }
        Request::DeleteServer { service, server } => {
            only("server", server, SERVER_KEY)?;
            let (key, address) = named_server(service, server, current)?;
            Command::DeleteServer(key, address)
        }
        Request::SetTimeouts { timeouts: changed } => {
            let mut all = json!({
                "tcp": current.timeouts.tcp.as_secs(),
                "tcp_fin": current.timeouts.tcp_fin.as_secs(),
                "udp": current.timeouts.udp.as_secs(),
            });
            for (name, value) in changed {
                all[name] = value.clone();
            }
            let config = checked(&json!({ "services": [], "timeouts": all }), &[])?;
            Command::SetTimeouts(timeouts(&config.timeouts))
        }
        Request::SetTunables { tunables: changed } => {
            let mut all: serde_json::Map<String, Value> = current
                .tunables
                .numbers()
                .into_iter()
                .map(|(name, number)| (name.to_owned(), json!(TunableStatus::from(number))))
                .collect();
            for (name, value) in changed {
                all.insert(name.clone(), value.clone());
            }
            let config = checked(&json!({ "services": [], "tunables": all }), &[])?;
            Command::SetTunables(config.tunables)
        }
        Request::ShowServices {}
        | Request::ShowConnections {}
        | Request::ShowQueues {}
        | Request::ShowStats {}
        | Request::ShowTunables {}
        | Request::ShowRates {}
        | Request::ShowSync {}
        | Request::StartSync { .. }
        | Request::StopSync { .. }
        | Request::SetSyncRole { .. }
        | Request::TestSync { .. }
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

/// A side of the synchronisation, as the configuration file writes it.
///
/// # Errors
/// What is wrong with it.
pub(super) fn sync_daemon(daemon: &Value) -> anyhow::Result<SyncDaemon> {
    let document = json!({ "services": [], "sync": { "master": daemon } });
    checked(&document, &[("sync.master", "daemon")])?.sync.master.context("daemon: missing")
}

/// The servers a command would bring in or change.
pub(super) fn servers(command: &Command) -> &[ServerSpec] {
    match command {
        Command::AddService(spec) => spec.servers.as_slice(),
        Command::AddServer(_, server) | Command::EditServer(_, server) => std::slice::from_ref(server),
        _ => &[],
    }
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

fn checked_server(
    service: &Value,
    server: &Value,
    current: &Services,
) -> anyhow::Result<(ServiceKey, ServerSpec)> {
    only("service", service, KEY)?;
    let mut spec = checked_service(service, Some(server))?;
    // What a server may be depends on the settings of its service, which the request does not repeat.
    if let Some(running) = current.get(&spec.key) {
        spec = checked_service(&over(settings(running), service), Some(server))?;
    }
    let server = spec.servers.first().copied().context("server: missing")?;
    Ok((spec.key, server))
}

/// The service and the server that a request names. One of the other family can only be behind a tunnel.
fn named_server(
    service: &Value,
    server: &Value,
    current: &Services,
) -> anyhow::Result<(ServiceKey, SocketAddr)> {
    let named = checked_server(service, server, current).or_else(|error| {
        let tunnelled = over(json!({ "forward": "tunnel" }), server);
        checked_server(service, &tunnelled, current).map_err(|_| error)
    });
    named.map(|(key, server)| (key, server.address))
}

/// What is set for a service, as the configuration file writes it.
fn settings(service: &VirtualService) -> Value {
    let ServiceSettings { scheduler_flags: _, persistence, one_packet, on_remove, timeouts, feedback } =
        &service.settings;
    let flags: Vec<&str> = service.scheduler_flags().map(SchedulerFlag::name).collect();
    let mut written =
        json!({ "scheduler": service.scheduler.name(), "scheduler_flags": flags, "one_packet": one_packet });
    if let Some(persistence) = persistence {
        written["persistence"] = json!(PersistenceStatus::from(persistence));
    }
    if let Some(feedback) = feedback {
        written["feedback"] = json!(FeedbackStatus::from(feedback));
    }
    if let Some(on_remove) = on_remove {
        written["on_remove"] = on_remove.to_string().into();
    }
    written["timeouts"] = json!(OwnTimeoutsStatus::from(timeouts));
    written
}

/// What can be changed of a server, as the configuration file writes it.
fn server_settings(server: &RealServer) -> Value {
    let Thresholds { upper, lower } = server.thresholds();
    let mut written = json!({
        "weight": server.weight().get(),
        "forward": server.forwarding().method.to_string(),
        "upper_threshold": upper,
        "lower_threshold": lower,
    });
    if let Some(tunnel) = TunnelStatus::of(server) {
        written["tunnel"] = json!(tunnel);
    }
    written
}

/// `current` with what `changed` says otherwise; `null` there takes a key away.
fn over(mut current: Value, changed: &Value) -> Value {
    for (key, value) in changed.as_object().into_iter().flatten() {
        current[key] = value.clone();
    }
    if let Some(fields) = current.as_object_mut() {
        fields.retain(|_, value| !value.is_null());
    }
    current
}

/// `value` without these keys.
fn without(value: &Value, keys: &[&str]) -> Value {
    let mut value = value.clone();
    if let Some(fields) = value.as_object_mut() {
        fields.retain(|key, _| !keys.contains(&key.as_str()));
    }
    value
}

/// Refuses a request that would change nothing.
fn any_of(what: &str, value: &Value, keys: &[&str]) -> anyhow::Result<()> {
    if keys.iter().any(|key| value.get(key).is_some()) {
        return Ok(());
    }
    bail!("{what}: nothing to change; give one of: {}", keys.join(", "))
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
        key: match service.key {
            config::Key::Endpoint { protocol, address, port } => {
                let transport = match protocol {
                    config::Protocol::Tcp => Transport::Tcp,
                    config::Protocol::Udp => Transport::Udp,
                    config::Protocol::Sctp => Transport::Sctp,
                };
                ServiceKey::Endpoint { transport, address, port }
            }
            config::Key::Mark { mark, family } => ServiceKey::Mark { mark, family },
        },
        name: service.name.clone(),
        scheduler: service.scheduler,
        settings: service.settings.clone(),
        servers: service
            .servers
            .iter()
            .map(|server| ServerSpec {
                address: SocketAddr::new(server.address, server.port),
                weight: server.weight,
                forward: server.forward,
                tunnel: server.tunnel,
                thresholds: server.thresholds,
            })
            .collect(),
    }
}

/// The timeouts of the configuration.
pub(super) fn timeouts(timeouts: &config::Timeouts) -> Timeouts {
    Timeouts { tcp: timeouts.tcp, tcp_fin: timeouts.tcp_fin, udp: timeouts.udp }
}

#[cfg(test)]
mod tests;
