//! The settings of a service and the thresholds of a server: rules between their values.

use super::complaint::Findings;
use super::feedback;
use super::file;
use super::model::{Key, Protocol};
use super::read::{self, Read};
use super::scheduler_words;
use super::service_keys::{self, Netmask};
use crate::director::scheduler::{SchedulerFlag, SchedulerFlags, SchedulerKind};
use crate::director::service::{
    ClientMask, Family, OnRemove, OwnTimeouts, Persistence, PersistenceEngine, ServiceSettings, Thresholds,
};
use jsonc_parser::ast::Value;
use jsonc_parser::common::Ranged;
use std::net::Ipv4Addr;
use std::time::Duration;

/// The settings of the service that is `value` and was read as `read`.
pub(super) fn settings(
    value: &Value<'_>,
    read: &Read<'_, file::Service>,
    key: Key,
    findings: &mut Findings<'_>,
) -> ServiceSettings {
    let persistence = read::part::<service_keys::Persistence>(value, &read.path, "persistence", findings);
    let timeouts = read::part::<service_keys::OwnTimeouts>(value, &read.path, "timeouts", findings);
    if read.written.one_packet && protocol(key).is_some_and(|protocol| protocol != Protocol::Udp) {
        let message = "only datagrams can be scheduled each for itself; leave the key out, or write \"udp\" for \
                       the protocol";
        read.complain(findings, "one_packet", message.to_owned());
    }
    ServiceSettings {
        scheduler_flags: scheduler_flags(value, read, findings),
        persistence: persistence.map(|read| self::persistence(&read, key, findings)),
        one_packet: read.written.one_packet,
        on_remove: read.written.on_remove.map(OnRemove::from),
        timeouts: timeouts.map(|read| own_timeouts(&read, key, findings)).unwrap_or_default(),
        feedback: feedback::feedback(value, read, findings),
    }
}

/// What is set for the scheduler, which must be one that has such flags.
fn scheduler_flags(
    value: &Value<'_>,
    read: &Read<'_, file::Service>,
    findings: &mut Findings<'_>,
) -> SchedulerFlags {
    let scheduler = SchedulerKind::from(read.written.scheduler);
    let mut flags: Vec<SchedulerFlag> = Vec::new();
    for (path, value) in read::elements(value, &read.path, "scheduler_flags") {
        let Some(word) = read::word::<scheduler_words::SchedulerFlag>(value, &path, findings) else {
            continue;
        };
        let flag = SchedulerFlag::from(word);
        if flag.scheduler() != scheduler && read.is_right("scheduler") {
            let message = format!(
                "\"{flag}\" is for the scheduler \"{}\", and this is \"{scheduler}\"; leave it out",
                flag.scheduler()
            );
            findings.add(value.start(), path, message);
        } else if flags.contains(&flag) {
            findings.add(value.start(), path, format!("\"{flag}\" is already in the list; keep one"));
        }
        flags.push(flag);
    }
    flags.into_iter().collect()
}

/// How many connections a server may have.
pub(super) fn thresholds(read: &Read<'_, file::Server>, findings: &mut Findings<'_>) -> Thresholds {
    let (upper, lower) = (read.written.upper_threshold.get(), read.written.lower_threshold.get());
    let is_right = read.is_right("upper_threshold") && read.is_right("lower_threshold");
    if lower > upper && is_right {
        let message = match upper {
            0 => format!("{lower} is of no use without an \"upper_threshold\", which makes the server full"),
            _ => format!("{lower} is above the upper_threshold; allowed here: 0 to {upper}"),
        };
        read.complain(findings, "lower_threshold", message);
    }
    Thresholds { upper, lower }
}

/// The protocol of a service; none of a service by mark, which has all.
fn protocol(key: Key) -> Option<Protocol> {
    match key {
        Key::Endpoint { protocol, .. } => Some(protocol),
        Key::Mark { .. } => None,
    }
}

fn persistence(
    read: &Read<'_, service_keys::Persistence>,
    key: Key,
    findings: &mut Findings<'_>,
) -> Persistence {
    let clients = match (key.family(), read.written.netmask) {
        (Family::V4, None) => Some(ClientMask::V4(Ipv4Addr::BROADCAST)),
        (Family::V4, Some(Netmask::Mask(mask))) => Some(ClientMask::V4(mask)),
        (Family::V4, Some(Netmask::Bits(bits))) if bits <= 32 => {
            Some(ClientMask::V4(Ipv4Addr::from_bits(u32::MAX << (32 - bits))))
        }
        (Family::V6, None) => Some(ClientMask::V6(128)),
        (Family::V6, Some(Netmask::Bits(bits))) => Some(ClientMask::V6(bits)),
        _ => None,
    };
    if clients.is_none() {
        let message = match key.family() {
            Family::V4 => "an IPv4 address has 32 bits; write a mask such as \"255.255.255.0\", or 1 to 32",
            Family::V6 => "the service is of IPv6; write a number of bits from 1 to 128",
        };
        read.complain(findings, "netmask", message.to_owned());
    }
    let engine = read.written.engine.map(PersistenceEngine::from);
    if engine.is_some() && protocol(key).is_some_and(|protocol| protocol != Protocol::Udp) {
        let message = "the engine reads datagrams only; leave the key out, or write \"udp\" for the protocol";
        read.complain(findings, "engine", message.to_owned());
    }
    Persistence {
        timeout: Duration::from_secs(read.written.timeout.get().into()),
        clients: clients.unwrap_or(ClientMask::V6(128)),
        engine,
    }
}

fn own_timeouts(
    read: &Read<'_, service_keys::OwnTimeouts>,
    key: Key,
    findings: &mut Findings<'_>,
) -> OwnTimeouts {
    for (name, of) in [("tcp", Protocol::Tcp), ("tcp_fin", Protocol::Tcp), ("udp", Protocol::Udp)] {
        if let Some(protocol) = protocol(key).filter(|protocol| *protocol != of && read.has(name)) {
            let message = format!("a service of {protocol} has no such timeout; leave the key out");
            read.complain(findings, name, message);
        }
    }
    let duration =
        |written: Option<file::Timeout>| written.map(|time| Duration::from_secs(time.get().into()));
    let service_keys::OwnTimeouts { tcp, tcp_fin, udp } = read.written;
    OwnTimeouts { tcp: duration(tcp), tcp_fin: duration(tcp_fin), udp: duration(udp) }
}
