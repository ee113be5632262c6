//! The types as written to the checked model: everything that depends on more than one value.

use super::complaint::Findings;
use super::file;
use super::model::{Config, Protocol, Queues, Server, Service, Timeouts, endpoint};
use super::read::{self, Read};
use crate::director::service::Weight;
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
    let queues = part::<file::Queues>(root, "queues", findings);
    let mut known = Known::default();
    let services = read::elements(root, "", "services")
        .filter_map(|(path, value)| service(value, path, &mut known, findings))
        .collect();
    Config {
        services,
        timeouts: Timeouts {
            tcp: Duration::from_secs(timeouts.tcp.get().into()),
            tcp_fin: Duration::from_secs(timeouts.tcp_fin.get().into()),
            udp: Duration::from_secs(timeouts.udp.get().into()),
        },
        max_connections: connections.max.get(),
        queues: check_queues(queues.as_ref(), findings),
        answer_ping: file.is_none_or(|read| read.written.answer_ping),
    }
}

/// Reads the object under `key` of `root`, if it is there. That it is an object at all is checked with `root`.
fn part<'a, T: file::Object>(
    root: &'a Value<'a>,
    key: &str,
    findings: &mut Findings<'_>,
) -> Option<Read<'a, T>> {
    let value = read::value_of(root, key)?;
    value.as_object()?;
    read::object(value, key.to_owned(), findings)
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
    endpoints: HashMap<(Protocol, IpAddr, u16), Place>,
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
    let servers: Vec<Read<'_, file::Server>> = read::elements(value, &path, "servers")
        .filter_map(|(path, value)| read::object(value, path, findings))
        .collect();
    let read = read::object::<file::Service>(value, path, findings)?;
    let (protocol, address, port) =
        (read.written.protocol, read.written.address.get(), read.written.port.get());

    if let Some(first) = known.endpoints.get(&(protocol, address, port)) {
        let message =
            format!("{} is already {first}; list all its servers there", endpoint(protocol, address, port));
        findings.add(read.offset(), read.path.clone(), message);
    } else {
        known.endpoints.insert((protocol, address, port), Place::of(&read, findings));
        check_name(&read, known, findings);
    }

    let mut service = Service {
        name: name(&read.written),
        protocol,
        address,
        port,
        scheduler: read.written.scheduler,
        path: read.written.path,
        servers: Vec::with_capacity(servers.len()),
    };
    let mut places = HashMap::with_capacity(servers.len());
    for read in servers.iter().filter(|read| read.is_right("port")) {
        let Some(server) = server(read, &service, findings) else { continue };
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

/// The name as given, or made from what is unique: `tcp-10.0.0.100-80`, `udp-fd00--1-53`.
fn name(written: &file::Service) -> String {
    match &written.name {
        Some(name) => name.clone().into_string(),
        None => {
            let address = written.address.get().to_string().replace(':', "-");
            format!("{}-{address}-{}", written.protocol, written.port.get())
        }
    }
}

fn check_name(read: &Read<'_, file::Service>, known: &mut Known, findings: &mut Findings<'_>) {
    let name = name(&read.written);
    if let Some(first) = known.names.get(&name) {
        let message = format!("{name:?} is already the name of {first}; each service needs its own");
        read.complain(findings, "name", message);
    } else {
        known.names.insert(name, Place::of(read, findings));
    }
}

fn server(read: &Read<'_, file::Server>, service: &Service, findings: &mut Findings<'_>) -> Option<Server> {
    let address = read.written.address.get();
    let written_port = read.written.port.map(file::Port::get);
    match written_port {
        Some(port) if service.port == 0 && port != 0 => {
            let message = format!(
                "{port} cannot be: the service has port 0 and keeps the port the client asked for; leave the key out"
            );
            read.complain(findings, "port", message);
            return None;
        }
        Some(0) if service.port != 0 => {
            let message = format!(
                "0 is only for a service with port 0; write a port from 1 to 65535, or leave the key out for the \
                 service's {}",
                service.port
            );
            read.complain(findings, "port", message);
            return None;
        }
        Some(port) if read.written.forward == file::Forward::Dr && port != service.port => {
            let message = format!(
                "{port} cannot be: with \"forward\": \"dr\" packets reach the server as the client sent them, for the \
                 service's {}; leave the key out, or use \"nat\"",
                service.port
            );
            read.complain(findings, "port", message);
            return None;
        }
        _ => {}
    }
    let port = written_port.unwrap_or(service.port);
    if let Some(message) = unreachable_server(address, port, service) {
        read.complain(findings, "address", message);
        return None;
    }
    Some(Server {
        address,
        port,
        weight: Weight::new(read.written.weight.get()).expect("both types have the same bounds"),
        forward: read.written.forward.into(),
    })
}

/// Why a server at `address` and `port` could never serve `service`.
fn unreachable_server(address: IpAddr, port: u16, service: &Service) -> Option<String> {
    let vip = service.address;
    if address.is_ipv4() != vip.is_ipv4() {
        let family = if vip.is_ipv4() { "IPv4" } else { "IPv6" };
        Some(format!("{address} is of another family than the service's {vip}; write an {family} address"))
    } else if (address, port) == (vip, service.port) {
        let itself = endpoint(service.protocol, vip, port);
        let or_port = if port == 0 { "" } else { " or port" };
        Some(format!(
            "{itself} is the service itself: packets would go in a circle; write another address{or_port}"
        ))
    } else if address.is_loopback() && !vip.is_loopback() {
        Some(format!(
            "{address} is a loopback address, and the kernel drops what comes from a network to it; write another \
             address of this machine"
        ))
    } else if vip.is_loopback() && !address.is_loopback() {
        Some(format!(
            "{address} cannot serve {vip}: clients of a loopback address have one themselves, and it must not leave \
             the machine; write a loopback address"
        ))
    } else {
        None
    }
}
