//! The types as written to the checked model: everything that depends on more than one value.

use super::complaint::Findings;
use super::feedback;
use super::file;
use super::model::{Config, Key, Queues, Server, Service, Timeouts};
use super::read::{self, Read};
use super::settings;
use super::sync;
use super::tunables::Tunables;
use super::tunnel::{self, Tunnel};
use crate::director::service::{Family, ForwardMethod, Fwmark, Weight};
use jsonc_parser::ast::Value;
use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

/// Reads the configuration whose outermost value is `root`. With findings, what is returned is not to be used: wrong
/// values are left out of it or have become defaults.
pub(super) fn config(root: &Value<'_>, findings: &mut Findings<'_>) -> Config {
    let file = read::object::<file::File>(root, String::new(), findings);
    let timeouts =
        part::<file::Timeouts>(root, "timeouts", findings).map(|read| read.written).unwrap_or_default();
    let connections =
        part::<file::Connections>(root, "connections", findings).map(|read| read.written).unwrap_or_default();
    let tunables = part::<Tunables>(root, "tunables", findings);
    let queues = part::<file::Queues>(root, "queues", findings);
    let mut known = Known::default();
    let services = read::elements(root, "", "services")
        .filter_map(|(path, value)| service(value, path, &mut known, findings))
        .collect();
    let peers = read::elements(root, "", "peers")
        .filter_map(|(path, value)| read::single(value, path, findings))
        .collect();
    let (sync, tunables) = sync::sync(root, tunables.as_ref(), findings);
    Config {
        services,
        timeouts: Timeouts {
            tcp: Duration::from_secs(timeouts.tcp.get().into()),
            tcp_fin: Duration::from_secs(timeouts.tcp_fin.get().into()),
            udp: Duration::from_secs(timeouts.udp.get().into()),
        },
        max_connections: connections.max.get(),
        queues: check_queues(queues.as_ref(), findings),
        tunables: tunables.into(),
        answer_ping: file.is_none_or(|read| read.written.answer_ping),
        peers,
        sync,
    }
}

/// Reads the object under `key` of `root`, if it is there.
fn part<'a, T: file::Object>(
    root: &'a Value<'a>,
    key: &str,
    findings: &mut Findings<'_>,
) -> Option<Read<'a, T>> {
    read::part(root, "", key, findings)
}

fn check_queues(read: Option<&Read<'_, file::Queues>>, findings: &mut Findings<'_>) -> Queues {
    let written = read.map(|read| read.written).unwrap_or_default();
    let queues = Queues {
        base: written.base.get(),
        count: written.count.map(file::QueueCount::get),
        backend: written.backend,
        length: written.length.get(),
    };
    if let Some(read) = read.filter(|read| read.is_right("base") && read.is_right("count")) {
        let needed = u32::from(Queues::CLASSES * queues.count.unwrap_or(Queues::MAX_COUNT));
        let last = u32::from(queues.base) + needed - 1;
        if last > u32::from(u16::MAX) {
            let each = match queues.count {
                Some(count) => format!("{count} queues"),
                None => {
                    format!("up to {} queues (one per core, as \"count\" is not given)", Queues::MAX_COUNT)
                }
            };
            let most = u32::from(u16::MAX) + 1 - needed;
            let message = format!(
                "{} is too high: {} classes of {each} would end at {last}, past the last queue number, 65535; \
                 allowed here: 0 to {most}",
                queues.base,
                Queues::CLASSES,
            );
            read.complain(findings, "base", message);
        }
    }
    queues
}

/// What the services so far have taken, and who was first.
#[derive(Default)]
struct Known {
    keys: HashMap<Key, Place>,
    names: HashMap<String, Place>,
}

/// Where something was said first.
struct Place {
    path: String,
    line: usize,
}

impl Place {
    fn of<T>(read: &Read<'_, T>, findings: &Findings<'_>) -> Place {
        Place { path: read.path.clone(), line: findings.line(read.offset()) }
    }
}

impl std::fmt::Display for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} on line {}", self.path, self.line)
    }
}

fn service(
    value: &Value<'_>,
    path: String,
    known: &mut Known,
    findings: &mut Findings<'_>,
) -> Option<Service> {
    let servers: Vec<WrittenServer<'_>> = read::elements(value, &path, "servers")
        .filter_map(|(path, value)| WrittenServer::read(value, path, findings))
        .collect();
    let read = read::object::<file::Service>(value, path, findings)?;
    let key = key(&read, &servers, findings)?;
    if let Some(first) = known.keys.get(&key) {
        let message = format!("{key} is already {first}; list all its servers there");
        findings.add(read.offset(), read.path.clone(), message);
    } else {
        known.keys.insert(key, Place::of(&read, findings));
        check_name(&read, key, known, findings);
    }

    let mut service = Service {
        name: name(&read.written, key),
        key,
        scheduler: read.written.scheduler.into(),
        path: read.written.path,
        settings: settings::settings(value, &read, key, findings),
        servers: Vec::with_capacity(servers.len()),
    };
    let mut places = HashMap::with_capacity(servers.len());
    for written in servers.iter().filter(|written| written.server.is_right("port")) {
        let Some(server) = server(written, &service, findings) else { continue };
        let read = &written.server;
        let socket = SocketAddr::new(server.address, server.port);
        if let Some(first) = places.get(&socket) {
            let message = format!("{socket} is already {first}; to give a server more, raise its weight");
            findings.add(read.offset(), read.path.clone(), message);
        } else {
            places.insert(socket, Place::of(read, findings));
            service.servers.push(server);
        }
    }
    Some(service)
}

/// What the service is found by; nothing if that is missing or wrong.
fn key(
    read: &Read<'_, file::Service>,
    servers: &[WrittenServer<'_>],
    findings: &mut Findings<'_>,
) -> Option<Key> {
    let file::Service { protocol, address, port, fwmark, family, .. } = &read.written;
    if read.has("fwmark") {
        for key in ["protocol", "address", "port"].into_iter().filter(|key| read.has(key)) {
            let message = "a service by fwmark has none: it takes every protocol, address and port that is marked; \
                           leave this key out, or \"fwmark\"";
            read.complain(findings, key, message.to_owned());
        }
        let mark = fwmark.map(|mark| Fwmark::new(mark.get()).expect("both types have the same bounds"))?;
        let of_servers = servers.first().map(|written| Family::of(written.server.written.address.get()));
        let family = family.map(Family::from).or(of_servers);
        if family.is_none() && read.is_right("family") {
            let message = "no server tells the address family; write \"family\": \"ipv4\" or \"ipv6\"";
            read.complain(findings, "fwmark", message.to_owned());
        }
        return Some(Key::Mark { mark, family: family? });
    }
    for key in ["protocol", "address", "port"].into_iter().filter(|key| !read.has(key)) {
        findings.add(read.offset(), read.path.clone(), format!("the key {key:?} is missing"));
    }
    if read.has("family") {
        let message = "only a service by fwmark has a family; the address tells that of any other";
        read.complain(findings, "family", message.to_owned());
    }
    Some(Key::Endpoint {
        protocol: (*protocol)?,
        address: address.as_ref()?.get(),
        port: port.as_ref()?.get(),
    })
}

/// The name as given, or made from what is unique: `tcp-10.0.0.100-80`, `udp-fd00--1-53`, `fwmark-5-ipv4`.
fn name(written: &file::Service, key: Key) -> String {
    match (&written.name, key) {
        (Some(name), _) => name.clone().into_string(),
        (None, Key::Endpoint { protocol, address, port }) => {
            format!("{protocol}-{}-{port}", address.to_string().replace(':', "-"))
        }
        (None, Key::Mark { mark, family }) => format!("fwmark-{mark}-{family}"),
    }
}

fn check_name(read: &Read<'_, file::Service>, key: Key, known: &mut Known, findings: &mut Findings<'_>) {
    let name = name(&read.written, key);
    if let Some(first) = known.names.get(&name) {
        let message = format!("{name:?} is already the name of {first}; each service needs its own");
        read.complain(findings, "name", message);
    } else {
        known.names.insert(name, Place::of(read, findings));
    }
}

/// A server, and the object in it.
struct WrittenServer<'a> {
    server: Read<'a, file::Server>,
    tunnel: Option<Read<'a, Tunnel>>,
}

impl<'a> WrittenServer<'a> {
    fn read(value: &'a Value<'a>, path: String, findings: &mut Findings<'_>) -> Option<WrittenServer<'a>> {
        let server: Read<'a, file::Server> = read::object(value, path, findings)?;
        let tunnel = read::part(value, &server.path, "tunnel", findings);
        Some(WrittenServer { server, tunnel })
    }
}

fn server(written: &WrittenServer<'_>, service: &Service, findings: &mut Findings<'_>) -> Option<Server> {
    let read = &written.server;
    let tunnel = tunnel::tunnel(read, written.tunnel.as_ref(), findings);
    let address = read.written.address.get();
    let written_port = read.written.port.map(file::Port::get);
    if let Some(message) = wrong_port(written_port, read.written.forward.into(), service) {
        read.complain(findings, "port", message);
        return None;
    }
    let forward = ForwardMethod::from(read.written.forward);
    if forward.is_routed() && matches!(service.key, Key::Mark { .. }) {
        let message = format!(
            "\"{forward}\" cannot be: a route leads from the service's address, and a service by fwmark has none; use \
             \"nat\", or give the service an address"
        );
        read.complain(findings, "forward", message);
        return None;
    }
    let port = written_port.unwrap_or(service.key.port());
    if let Some(message) = feedback::no_port(port, service.settings.feedback.as_ref()) {
        read.complain(findings, "port", message);
        return None;
    }
    if let Some(message) = unreachable_server(address, port, forward, service) {
        read.complain(findings, "address", message);
        return None;
    }
    Some(Server {
        address,
        port,
        weight: Weight::new(read.written.weight.get()).expect("both types have the same bounds"),
        forward,
        tunnel,
        thresholds: settings::thresholds(read, findings),
    })
}

/// Why a server of `service` that packets reach by `forward` cannot have `port`.
fn wrong_port(port: Option<u16>, forward: ForwardMethod, service: &Service) -> Option<String> {
    let by_mark = matches!(service.key, Key::Mark { .. });
    let is_persistent = service.settings.persistence.is_some();
    match port {
        Some(port) if by_mark && is_persistent && port != 0 => Some(format!(
            "{port} cannot be: a persistent service by fwmark keeps the port the client asked for; leave the key out"
        )),
        Some(port) if !by_mark && service.key.port() == 0 && port != 0 => Some(format!(
            "{port} cannot be: the service has port 0 and keeps the port the client asked for; leave the key out"
        )),
        Some(0) if service.key.port() != 0 => Some(format!(
            "0 is only for a service with port 0; write a port from 1 to 65535, or leave the key out for the \
             service's {}",
            service.key.port()
        )),
        Some(port) if by_mark && forward == ForwardMethod::Tunnel && port != 0 => Some(format!(
            "{port} cannot be: with \"forward\": \"tunnel\" packets reach the server as the client sent them; leave the \
             key out, or use \"nat\""
        )),
        Some(port) if !by_mark && forward != ForwardMethod::Nat && port != service.key.port() => {
            Some(format!(
                "{port} cannot be: with \"forward\": \"{forward}\" packets reach the server as the client sent them, for the \
             service's {}; leave the key out, or use \"nat\"",
                service.key.port()
            ))
        }
        _ => None,
    }
}

/// Why a server at `address` and `port` that packets reach by `forward` could never serve `service`.
fn unreachable_server(
    address: IpAddr,
    port: u16,
    forward: ForwardMethod,
    service: &Service,
) -> Option<String> {
    if Family::of(address) != service.key.family() && forward != ForwardMethod::Tunnel {
        let family = match service.key.family() {
            Family::V4 => "IPv4",
            Family::V6 => "IPv6",
        };
        let of_service = match service.key {
            Key::Endpoint { address, .. } => address.to_string(),
            Key::Mark { .. } => service.key.to_string(),
        };
        return Some(format!(
            "{address} is of another family than the service's {of_service}; write an {family} address, or use \
             \"tunnel\""
        ));
    }
    let vip = match service.key {
        Key::Endpoint { address, .. } => Some(address),
        Key::Mark { .. } => None,
    };
    let is_loopback = vip.is_some_and(|vip| vip.is_loopback());
    let is_service = (Some(address), port) == (vip, service.key.port());
    if is_service && forward != ForwardMethod::Local {
        let or_port = if port == 0 { "" } else { " or port" };
        Some(format!(
            "{} is the service itself: packets would go in a circle; write another address{or_port}",
            service.key
        ))
    } else if address.is_loopback() && !is_loopback {
        Some(format!(
            "{address} is a loopback address, and the kernel drops what comes from a network to it; write another \
             address of this machine"
        ))
    } else {
        let vip = vip.filter(|_| is_loopback && !address.is_loopback())?;
        Some(format!(
            "{address} cannot serve {vip}: clients of a loopback address have one themselves, and it must not leave \
             the machine; write a loopback address"
        ))
    }
}
