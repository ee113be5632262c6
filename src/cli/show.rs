//! `nfvs show`: tables in the columns of `ipvsadm`, or JSON.

use super::arguments::What;
use super::client::Client;
use crate::daemon::api::{
    ConnectionStatus, PersistenceStatus, QueueStatus, RateStatus, Request, ServerStatus, ServiceName,
    ServiceStatus, Statistics, SyncAnnounceStatus, SyncDaemonStatus, SyncStatus, SyncTableState,
    SyncTableStatus, SyncTablesStatus, SyncTestCounts, Traffic, TrafficRates, TunablesStatus,
};
use serde::Serialize;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::io::Write;
use std::net::{IpAddr, SocketAddr};

/// Asks the daemon and prints.
pub(super) fn show(client: &mut Client, what: What, json: bool, out: &mut impl Write) -> anyhow::Result<()> {
    match what {
        What::Services => {
            let services: Vec<ServiceStatus> = client.ask(&Request::ShowServices {})?;
            if json { print_json(&services, out) } else { print_services(&services, out) }
        }
        What::Servers => {
            let services: Vec<ServiceStatus> = client.ask(&Request::ShowServices {})?;
            if json { print_json(&flat_servers(&services), out) } else { print_servers(&services, out) }
        }
        What::Connections if json => connections_json(client, out),
        What::Connections => connections_text(client, out),
        What::Queues => {
            let queues: Vec<QueueStatus> = client.ask(&Request::ShowQueues {})?;
            if json { print_json(&queues, out) } else { print_queues(&queues, out) }
        }
        What::Stats => {
            let stats: Statistics = client.ask(&Request::ShowStats {})?;
            if json { print_json(&stats, out) } else { print_stats(&stats, out) }
        }
        What::Tunables => {
            let tunables: TunablesStatus = client.ask(&Request::ShowTunables {})?;
            if json { print_json(&tunables, out) } else { print_tunables(&tunables, out) }
        }
        What::Rates => {
            let rates: RateStatus = client.ask(&Request::ShowRates {})?;
            if json { print_json(&rates, out) } else { print_rates(&rates, out) }
        }
        What::Sync => {
            let sync: SyncStatus = client.ask(&Request::ShowSync {})?;
            if json { print_json(&sync, out) } else { print_sync(&sync, out) }
        }
    }
}

pub(super) fn print_json(value: &impl Serialize, out: &mut impl Write) -> anyhow::Result<()> {
    serde_json::to_writer_pretty(&mut *out, value)?;
    writeln!(out)?;
    Ok(())
}

/// What runs, in the words of `ipvsadm -l --daemon`, and what came of it.
fn print_sync(sync: &SyncStatus, out: &mut impl Write) -> anyhow::Result<()> {
    if let Some(master) = &sync.master {
        let (daemon, version) = (sync_daemon(&master.daemon), master.version);
        writeln!(out, "master sync daemon ({daemon}, ttl={}, version={version})", master.ttl)?;
        writeln!(
            out,
            "  sent: messages {}, bytes {}, records {}",
            master.messages, master.bytes, master.records
        )?;
        if let Some(rate) = master.rate {
            writeln!(out, "  rate: {rate} messages a second at most")?;
        }
        writeln!(out, "  messages lost: {}", by_reason(&master.lost))?;
        writeln!(out, "  records not sent: {}", by_reason(&master.unsent))?;
        if let SyncTestCounts { questions: questions @ 1.., answers } = master.tests {
            writeln!(out, "  tests: questions {questions}, answers {answers}")?;
        }
        if let Some(tables) = &master.resync {
            let SyncTablesStatus { port, complete, in_progress, entries, failed } = tables;
            let failed = by_reason(failed);
            writeln!(
                out,
                "  tables told at port {port}: complete {complete}, in progress {in_progress}, failed {failed}; entries {entries}"
            )?;
        }
    }
    if let Some(backup) = &sync.backup {
        writeln!(out, "backup sync daemon ({})", sync_daemon(&backup.daemon))?;
        writeln!(out, "  received: messages {}, records {}", backup.messages, backup.records)?;
        writeln!(
            out,
            "  records: new {}, updates {}, replacements {}; without a server here {}",
            backup.created, backup.updated, backup.replaced, backup.unbound
        )?;
        writeln!(out, "  refused: {}", by_reason(&backup.rejected))?;
        for peer in &backup.peers {
            let address = peer.address.as_deref().unwrap_or("others");
            let (messages, refused, records) = (peer.messages, peer.refused, peer.records);
            write!(out, "  from {address}: messages {messages}, refused {refused}, records {records}")?;
            if let Some(lost) = peer.lost {
                write!(out, ", lost {lost}")?;
            }
            if let Some(lag) = peer.lag_ms {
                write!(out, ", lag {lag} ms")?;
            }
            if let SyncTestCounts { questions: questions @ 1.., answers } = peer.tests {
                write!(out, ", questions {questions} (answered {answers})")?;
            }
            writeln!(out, "; last {} s ago", peer.last_message)?;
        }
        for table in backup.resync.iter().flatten() {
            writeln!(out, "  table of {}: {}", table.master, table_state(table))?;
        }
        if backup.resync.as_ref().is_some_and(Vec::is_empty) {
            writeln!(out, "  tables: no master has offered one")?;
        }
    }
    if sync.master.is_none() && sync.backup.is_none() {
        writeln!(out, "no synchronisation")?;
    }
    if let Some(SyncAnnounceStatus { times, arp, neighbour, failed, nowhere }) = &sync.announce {
        writeln!(
            out,
            "virtual addresses announced: {times} times, ARP {arp}, neighbour advertisements {neighbour}, failed {failed}; without an interface {nowhere}"
        )?;
    }
    Ok(())
}

/// How far a master's table has come.
fn table_state(table: &SyncTableStatus) -> String {
    let SyncTableStatus { entries, records, known, rejected, millis, since, .. } = table;
    let (seconds, tenths) = (millis / 1000, millis % 1000 / 100);
    match table.state {
        SyncTableState::Waiting => "to be asked for".to_owned(),
        SyncTableState::Asking => format!("asking for {seconds}.{tenths} s"),
        SyncTableState::Receiving => {
            format!("receiving, {records} of about {entries} in {seconds}.{tenths} s")
        }
        SyncTableState::Complete => format!(
            "complete, {records} records (known {known}, refused {rejected}) in {seconds}.{tenths} s; {since} s ago"
        ),
        SyncTableState::Failed => format!(
            "failed after {records} of about {entries}: {}; {since} s ago",
            table.error.as_deref().unwrap_or("unknown")
        ),
    }
}

pub(super) fn sync_daemon(daemon: &SyncDaemonStatus) -> String {
    let SyncDaemonStatus { interface, syncid, group, port, ports, maxlen } = daemon;
    let last = if *ports > 1 { format!("-{}", port + (ports - 1)) } else { String::new() };
    format!("mcast={interface}, syncid={syncid}, maxlen={maxlen}, group={group}, port={port}{last}")
}

/// Counters that are not zero.
pub(super) fn by_reason(counters: &BTreeMap<String, u64>) -> String {
    let counted: Vec<String> = counters
        .iter()
        .filter(|(_, count)| **count > 0)
        .map(|(name, count)| format!("{name} {count}"))
        .collect();
    if counted.is_empty() { "none".to_owned() } else { counted.join(", ") }
}

/// What names a service, and what it is found by.
const SERVICE_KEY: [&str; 6] = ["name", "protocol", "address", "port", "fwmark", "family"];

/// One object a server, with the service it belongs to.
fn flat_servers(services: &[ServiceStatus]) -> Vec<Value> {
    services
        .iter()
        .flat_map(|service| {
            service.servers.iter().map(move |server| {
                let mut value = json!(server);
                let mut key = json!(service);
                let key = key.as_object_mut().expect("a service is an object");
                key.retain(|name, _| SERVICE_KEY.contains(&name.as_str()));
                value["service"] = json!(key);
                value
            })
        })
        .collect()
}

fn print_services(services: &[ServiceStatus], out: &mut impl Write) -> anyhow::Result<()> {
    writeln!(out, "Prot LocalAddress:Port Scheduler Flags")?;
    writeln!(out, "  -> RemoteAddress:Port           Forward Weight ActiveConn InActConn")?;
    for service in services {
        writeln!(out, "{} {}{}", service_column(&service.name), service.scheduler, flags(service))?;
        for server in &service.servers {
            writeln!(
                out,
                "  -> {:<28} {:<7} {:<6} {:<10} {:<10}",
                endpoint(&server.address, server.port),
                forward_column(server),
                server.weight,
                server.active,
                server.inactive
            )?;
        }
    }
    Ok(())
}

fn print_servers(services: &[ServiceStatus], out: &mut impl Write) -> anyhow::Result<()> {
    writeln!(
        out,
        "{:<28} {:<28} {:<7} {:<6} {:<10} {:<10}",
        "RemoteAddress:Port", "Service", "Forward", "Weight", "ActiveConn", "InActConn"
    )?;
    for service in services {
        for server in &service.servers {
            writeln!(
                out,
                "{:<28} {:<28} {:<7} {:<6} {:<10} {:<10}",
                endpoint(&server.address, server.port),
                service_column(&service.name),
                forward_column(server),
                server.weight,
                server.active,
                server.inactive
            )?;
        }
    }
    Ok(())
}

fn print_stats(stats: &Statistics, out: &mut impl Write) -> anyhow::Result<()> {
    print_heading(["Conns", "InPkts", "OutPkts", "InBytes", "OutBytes"], out)?;
    for service in &stats.services {
        writeln!(out, "{:<33}{}", service_column(&service.name), traffic_columns(&service.stats))?;
        for server in &service.servers {
            let address = endpoint(&server.address, server.port);
            writeln!(out, "  -> {address:<28}{}", traffic_columns(&server.stats))?;
        }
    }
    writeln!(out, "{:<33}{}", "Total", traffic_columns(&stats.total))?;
    writeln!(out, "\nconnections: {} of at most {}", stats.connections, stats.max_connections)?;
    if stats.dropped_entries > 0 {
        writeln!(out, "dropped against floods: {}", stats.dropped_entries)?;
    }
    let drops: Vec<String> = stats
        .drops
        .iter()
        .filter(|(_, count)| count.as_u64() != Some(0))
        .map(|(reason, count)| format!("{reason} {count}"))
        .collect();
    writeln!(out, "dropped: {}", if drops.is_empty() { "none".to_owned() } else { drops.join(", ") })?;
    Ok(())
}

/// As `sysctl` prints them.
fn print_tunables(tunables: &TunablesStatus, out: &mut impl Write) -> anyhow::Result<()> {
    for (name, value) in tunables {
        writeln!(out, "{name} = {value}")?;
    }
    Ok(())
}

fn print_rates(rates: &RateStatus, out: &mut impl Write) -> anyhow::Result<()> {
    print_heading(["CPS", "InPPS", "OutPPS", "InBPS", "OutBPS"], out)?;
    for service in &rates.services {
        writeln!(out, "{:<33}{}", service_column(&service.name), rate_columns(&service.rates))?;
        for server in &service.servers {
            let address = endpoint(&server.address, server.port);
            writeln!(out, "  -> {address:<28}{}", server_rate_columns(&server.rates))?;
        }
    }
    writeln!(out, "{:<33}{}", "Total", rate_columns(&rates.total))?;
    Ok(())
}

fn print_heading(columns: [&str; 5], out: &mut impl Write) -> anyhow::Result<()> {
    write!(out, "{:<33}", "Prot LocalAddress:Port")?;
    for column in columns {
        write!(out, " {column:>8}")?;
    }
    writeln!(out, "\n  -> RemoteAddress:Port")?;
    Ok(())
}

fn print_queues(queues: &[QueueStatus], out: &mut impl Write) -> anyhow::Result<()> {
    writeln!(
        out,
        "{:>5} {:<12} {:<8} {:<8} {:>8} {:>12} {:>12} {:>8} {:>8} {:>8} {:>8}",
        "Queue",
        "Class",
        "Backend",
        "Worker",
        "Waiting",
        "Received",
        "Verdicts",
        "Refused",
        "Full",
        "NoBuffer",
        "Lost"
    )?;
    for queue in queues {
        writeln!(
            out,
            "{:>5} {:<12} {:<8} {:<8} {:>8} {:>12} {:>12} {:>8} {:>8} {:>8} {:>8}",
            queue.queue,
            queue.class,
            queue.backend,
            if queue.running { "running" } else { "ENDED" },
            known(queue.waiting),
            queue.received,
            queue.verdicts,
            queue.refused,
            known(queue.dropped),
            known(queue.user_dropped),
            queue.lost
        )?;
    }
    if let Some(reason) = queues.iter().find_map(|queue| queue.unknown.as_ref()) {
        writeln!(out, "\n-: {reason}")?;
    }
    Ok(())
}

fn known(number: Option<u32>) -> String {
    number.map_or_else(|| "-".to_owned(), |number| number.to_string())
}

fn connections_json(client: &mut Client, out: &mut impl Write) -> anyhow::Result<()> {
    let mut separator = "[\n  ";
    client.connections(|connection| {
        out.write_all(separator.as_bytes())?;
        serde_json::to_writer(&mut *out, &connection)?;
        separator = ",\n  ";
        Ok(())
    })?;
    writeln!(out, "{}", if separator.starts_with('[') { "[]" } else { "\n]" })?;
    Ok(())
}

fn connections_text(client: &mut Client, out: &mut impl Write) -> anyhow::Result<()> {
    writeln!(out, "IPVS connection entries")?;
    writeln!(
        out,
        "pro expire {:<11} {:<18} {:<18} {:<18} {:<16} pe_data",
        "state", "source", "virtual", "destination", "pe name"
    )?;
    client.connections(|connection: ConnectionStatus| {
        write!(
            out,
            "{:<3} {:02}:{:02}  {:<11} {:<18} {:<18} ",
            connection.protocol.to_uppercase(),
            connection.expires / 60,
            connection.expires % 60,
            connection.state,
            connection.client,
            connection.virtual_address,
        )?;
        match (connection.pe_name, connection.pe_data) {
            (Some(name), Some(data)) => {
                writeln!(out, "{:<18} {name:<16} {}", connection.server, data.escape_debug())?;
            }
            _ => writeln!(out, "{}", connection.server)?,
        }
        Ok(())
    })
}

fn service_column(service: &ServiceName) -> String {
    let family = if service.family.as_deref() == Some("ipv6") { " IPv6" } else { "" };
    match (&service.protocol, &service.address, service.port, service.fwmark) {
        (Some(protocol), Some(address), Some(port), _) => {
            format!("{:<4} {}", protocol.to_uppercase(), endpoint(address, port))
        }
        (.., mark) => format!("FWM  {}{family}", mark.unwrap_or_default()),
    }
}

/// What is set for a service beside its scheduler's name, as `ipvsadm` writes it.
fn flags(service: &ServiceStatus) -> String {
    let mut flags = String::new();
    if !service.scheduler_flags.is_empty() {
        flags.push_str(&format!(" ({})", service.scheduler_flags.join(",")));
    }
    if let Some(PersistenceStatus { timeout, netmask, engine }) = &service.persistence {
        flags.push_str(&format!(" persistent {timeout}"));
        if *netmask != json!("255.255.255.255") && *netmask != json!(128) {
            flags.push_str(&format!(" mask {}", netmask.as_str().map_or(netmask.to_string(), str::to_owned)));
        }
        if let Some(engine) = engine {
            flags.push_str(&format!(" pe {engine}"));
        }
    }
    if service.one_packet {
        flags.push_str(" ops");
    }
    flags
}

/// `address:port`, with IPv6 addresses in brackets.
pub(super) fn endpoint(address: &str, port: u16) -> String {
    match address.parse::<IpAddr>() {
        Ok(address) => SocketAddr::new(address, port).to_string(),
        Err(_) => format!("{address}:{port}"),
    }
}

/// The word `ipvsadm` uses for the forwarding method.
fn forward_column(server: &ServerStatus) -> &str {
    match server.forward.as_str() {
        "nat" => "Masq",
        "dr" => "Route",
        "local" => "Local",
        "tunnel" => "Tunnel",
        other => other,
    }
}

fn traffic_columns(traffic: &Traffic) -> String {
    [traffic.connections, traffic.in_packets, traffic.out_packets, traffic.in_bytes, traffic.out_bytes]
        .map(large_number)
        .concat()
}

fn rate_columns(rates: &TrafficRates) -> String {
    counts_per_second(rates).into_iter().chain(bytes_per_second(rates)).map(large_number).collect()
}

/// `ipvsadm --rate` cuts only the bytes of a server.
fn server_rate_columns(rates: &TrafficRates) -> String {
    let counts = counts_per_second(rates).map(|count| format!(" {count:>8}")).concat();
    counts + &bytes_per_second(rates).map(large_number).concat()
}

fn counts_per_second(rates: &TrafficRates) -> [u64; 3] {
    [rates.connections_per_second, rates.in_packets_per_second, rates.out_packets_per_second]
}

fn bytes_per_second(rates: &TrafficRates) -> [u64; 2] {
    [rates.in_bytes_per_second, rates.out_bytes_per_second]
}

/// A number in nine columns, cut as `ipvsadm --stats` cuts it.
fn large_number(number: u64) -> String {
    match number {
        0..100_000_000 => format!(" {number:>8}"),
        100_000_000..1_000_000_000 => format!("{:>8}K", number / 1_000),
        1_000_000_000..100_000_000_000 => format!("{:>8}M", number / 1_000_000),
        100_000_000_000..100_000_000_000_000 => format!("{:>8}G", number / 1_000_000_000),
        _ => format!("{:>8}T", number / 1_000_000_000_000),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn large_numbers_are_cut_as_ipvsadm_cuts_them() {
        for (number, text) in [
            (0, "        0"),
            (99_999_999, " 99999999"),
            (100_000_000, "  100000K"),
            (1_000_000_000, "    1000M"),
            (100_000_000_000, "     100G"),
            (u64::MAX, "18446744T"),
        ] {
            assert_eq!(large_number(number), text);
        }
    }

    #[test]
    fn flags_of_the_scheduler_come_first() {
        let service = json!({ "name": "web", "scheduler": "sh", "scheduler_flags": ["sh-fallback", "sh-port"],
            "persistence": { "timeout": 60, "netmask": "255.255.255.0" }, "one_packet": true, "path": "queue",
            "stats": Traffic::default(), "servers": [] });
        let service: ServiceStatus = serde_json::from_value(service).unwrap();
        assert_eq!(flags(&service), " (sh-fallback,sh-port) persistent 60 mask 255.255.255.0 ops");
    }

    #[test]
    fn addresses_of_both_families_get_ports() {
        assert_eq!(endpoint("10.0.0.1", 80), "10.0.0.1:80");
        assert_eq!(endpoint("fd00::1", 80), "[fd00::1]:80");
    }
}
