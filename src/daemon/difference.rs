//! From the services that run to those a configuration wants: the commands in between. Pure.
//!
//! What stays is in no command, so it keeps its connections, its counters and its scheduler's state.

use super::api::Reloaded;
use super::translate;
use crate::config::Config;
use crate::director::service::{ServiceKey, Services, VirtualService};
use crate::director::{Command, ServerSpec, ServiceSpec};
use std::collections::{BTreeSet, HashMap, HashSet};
use std::net::SocketAddr;

/// The commands that bring `running` to `wanted`; none if it is there.
///
/// Afterwards there are the services, servers, settings, methods and timeouts that a fresh start with `wanted` would
/// give. Only the order in which schedulers walk a service's servers may be another: servers that stay keep their
/// places, and new ones come in front of them, as with [`Command::AddServer`]; a fresh start puts the last of the file
/// in front.
pub(super) fn commands(running: &Services, wanted: &Config) -> Vec<Command> {
    let specs: Vec<ServiceSpec> = wanted.services.iter().map(translate::service_spec).collect();
    let keys: HashSet<ServiceKey> = specs.iter().map(|spec| spec.key).collect();
    let mut removed: Vec<ServiceKey> =
        running.iter().map(|service| service.key()).filter(|key| !keys.contains(key)).collect();
    removed.sort_unstable();

    let mut renamed = Vec::new();
    let mut changes = Vec::new();
    let mut added = Vec::new();
    for spec in specs {
        let Some(service) = running.get(&spec.key) else {
            added.push(Command::AddService(spec));
            continue;
        };
        changes.extend(service_changes(service, &spec));
        if service.name != spec.name {
            renamed.push((spec.key, spec.name));
        }
    }

    // Names become free before they are taken.
    let mut commands: Vec<Command> = removed.into_iter().map(Command::DeleteService).collect();
    if !renamed.is_empty() {
        commands.push(Command::RenameServices(renamed));
    }
    commands.extend(changes);
    commands.extend(added);
    let timeouts = translate::timeouts(&wanted.timeouts);
    if running.timeouts != timeouts {
        commands.push(Command::SetTimeouts(timeouts));
    }
    if running.tunables != wanted.tunables {
        commands.push(Command::SetTunables(wanted.tunables));
    }
    commands
}

/// What turns a service into `spec`, its name left out.
fn service_changes(service: &VirtualService, spec: &ServiceSpec) -> Vec<Command> {
    let key = spec.key;
    let wanted: HashSet<SocketAddr> = spec.servers.iter().map(|server| server.address).collect();
    let mut commands = Vec::new();
    let mut kept = HashMap::with_capacity(service.servers.len());
    for server in &service.servers {
        let address = SocketAddr::new(server.address, server.port);
        if wanted.contains(&address) {
            let tunnel = server.tunnel();
            kept.insert(address, (server.weight(), server.forwarding().method, tunnel, server.thresholds()));
        } else {
            commands.push(Command::DeleteServer(key, address));
        }
    }
    let (known, new): (Vec<&ServerSpec>, Vec<&ServerSpec>) =
        spec.servers.iter().partition(|server| kept.contains_key(&server.address));
    let edited = known.into_iter().filter(|server| {
        kept[&server.address] != (server.weight, server.forward, server.tunnel, server.thresholds)
    });
    commands.extend(edited.map(|server| Command::EditServer(key, *server)));
    commands.extend(new.into_iter().map(|server| Command::AddServer(key, *server)));
    if (service.scheduler, &service.settings) != (spec.scheduler, &spec.settings) {
        let (scheduler, settings) = (spec.scheduler, spec.settings.clone());
        commands.push(Command::EditService { service: key, scheduler, settings });
    }
    commands
}

/// What `commands` come to, and the keys of what changes beside them.
pub(super) fn summary(commands: &[Command], beside: &[&str]) -> Reloaded {
    let (mut added, mut removed) = (0, 0);
    let mut changed = BTreeSet::new();
    let mut settings = Vec::new();
    for command in commands {
        match command {
            Command::AddService(_) => added += 1,
            Command::DeleteService(_) => removed += 1,
            Command::RenameServices(names) => changed.extend(names.iter().map(|(key, _)| *key)),
            Command::EditService { service, .. }
            | Command::AddServer(service, _)
            | Command::EditServer(service, _)
            | Command::DeleteServer(service, _) => {
                changed.insert(*service);
            }
            Command::SetTimeouts(_) => settings.push("timeouts".to_owned()),
            Command::SetTunables(_) => settings.push("tunables".to_owned()),
        }
    }
    settings.extend(beside.iter().map(|&key| key.to_owned()));
    Reloaded { added, removed, changed: changed.len(), settings }
}

#[cfg(test)]
mod tests;
