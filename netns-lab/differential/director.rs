//! The two directors: what they are told, and what they know, in the same words.

use crate::network::{Network, within};
use crate::packet::Protocol;
use crate::steps::{Change, Key, Scheduler, Server};
use anyhow::{Context, ensure};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::fmt;
use std::fs::read_to_string;
use std::io::{BufRead, BufReader, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::os::unix::net::UnixStream;
use std::process::{Command, Stdio};

/// Who balances.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Balancer {
    Ipvs,
    Nfvs,
}

/// One of the two.
pub(crate) enum Director {
    Ipvs { namespace: String },
    Nfvs { socket: BufReader<UnixStream> },
}

/// A connection or a template, as both know it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Entry {
    pub(crate) protocol: Protocol,
    pub(crate) client: SocketAddr,
    pub(crate) virtual_address: SocketAddr,
    pub(crate) server: SocketAddr,
    pub(crate) state: String,
    /// Seconds; differs by what little time lies between the two.
    pub(crate) expires: u64,
}

impl fmt::Display for Director {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Director::Ipvs { .. } => "IPVS",
            Director::Nfvs { .. } => "nfvs",
        })
    }
}

impl Director {
    pub(crate) fn new(balancer: Balancer, network: &Network) -> anyhow::Result<Director> {
        Ok(match balancer {
            Balancer::Ipvs => Director::Ipvs { namespace: network.namespace("director") },
            Balancer::Nfvs => {
                let socket = UnixStream::connect(format!("{}/nfvs.sock", network.folder()))?;
                Director::Nfvs { socket: BufReader::new(socket) }
            }
        })
    }

    /// Makes a change. Returns whether it was granted.
    pub(crate) fn change(&mut self, change: &Change) -> anyhow::Result<bool> {
        match self {
            Director::Ipvs { namespace } => {
                let output = Command::new("ip")
                    .args(["netns", "exec", namespace, "ipvsadm"])
                    .args(ipvsadm_words(change))
                    .output()?;
                Ok(output.status.success())
            }
            Director::Nfvs { socket } => Ok(ask(socket, &request(change))?.is_ok()),
        }
    }

    /// Makes changes that have to be granted, all at once where that is possible.
    pub(crate) fn make(&mut self, changes: &[Change]) -> anyhow::Result<()> {
        match self {
            Director::Ipvs { namespace } => {
                let lines: Vec<String> =
                    changes.iter().map(|change| ipvsadm_words(change).join(" ") + "\n").collect();
                let mut restore = Command::new("ip")
                    .args(["netns", "exec", namespace, "ipvsadm", "--restore"])
                    .stdin(Stdio::piped())
                    .spawn()?;
                restore.stdin.take().context("a pipe")?.write_all(lines.concat().as_bytes())?;
                ensure!(restore.wait()?.success(), "ipvsadm refuses {}", lines.concat());
            }
            Director::Nfvs { socket } => {
                for change in changes {
                    granted(socket, &request(change))?;
                }
            }
        }
        Ok(())
    }

    /// Services, servers and entries.
    pub(crate) fn state(&mut self) -> anyhow::Result<Vec<String>> {
        let mut state = self.services()?;
        let mut entries: Vec<String> = self
            .entries()?
            .into_iter()
            .map(|entry| {
                let Entry { protocol, client, virtual_address, server, state, .. } = entry;
                format!("{} {client} {virtual_address} {server} {state}", protocol.name())
            })
            .collect();
        entries.sort();
        state.extend(entries);
        Ok(state)
    }

    /// Each service, and its servers in their order.
    pub(crate) fn services(&mut self) -> anyhow::Result<Vec<String>> {
        let mut services: BTreeMap<String, String> = BTreeMap::new();
        match self {
            Director::Ipvs { namespace } => {
                let text = within(namespace, || read_to_string("/proc/thread-self/net/ip_vs"))??;
                let mut last = String::new();
                // Three lines of headings.
                for line in text.lines().skip(3) {
                    let words: Vec<&str> = line.split_whitespace().collect();
                    if let ["->", server, method, weight, active, inactive] = words[..] {
                        let method = if method == "Masq" { "nat" } else { "dr" };
                        let line =
                            format!("\n -> {} {method} {weight} {active} {inactive}", hexadecimal(server)?);
                        services.entry(last.clone()).or_default().push_str(&line);
                    } else {
                        let [protocol, address, scheduler, ..] = words[..] else {
                            anyhow::bail!("/proc/net/ip_vs: {line}")
                        };
                        let persistent = if words.contains(&"persistent") { " persistent" } else { "" };
                        let name = match protocol {
                            "FWM" => format!("fwmark {}", u32::from_str_radix(address, 16)?),
                            _ => format!("{} {}", protocol.to_lowercase(), hexadecimal(address)?),
                        };
                        last = format!("{name} {scheduler}{persistent}");
                        services.entry(last.clone()).or_default();
                    }
                }
            }
            Director::Nfvs { socket } => {
                for service in list(&granted(socket, &json!({ "command": "show-services" }))?)? {
                    let persistent = if service["persistence"].is_object() { " persistent" } else { "" };
                    let name = match service["fwmark"].as_u64() {
                        Some(mark) => format!("fwmark {mark}"),
                        None => format!("{} {}", text(&service["protocol"])?, endpoint(service)?),
                    };
                    let name = format!("{name} {}{persistent}", text(&service["scheduler"])?);
                    let mut lines = String::new();
                    for server in list(&service["servers"])? {
                        lines.push_str(&format!(
                            "\n -> {} {} {} {} {}",
                            endpoint(server)?,
                            text(&server["forward"])?,
                            server["weight"],
                            server["active"],
                            server["inactive"]
                        ));
                    }
                    services.insert(name, lines);
                }
            }
        }
        Ok(services.into_iter().map(|(service, servers)| service + &servers).collect())
    }

    /// The connection table.
    pub(crate) fn entries(&mut self) -> anyhow::Result<Vec<Entry>> {
        match self {
            Director::Ipvs { namespace } => {
                let text = within(namespace, || read_to_string("/proc/thread-self/net/ip_vs_conn"))??;
                text.lines().skip(1).map(kernel_entry).collect()
            }
            Director::Nfvs { socket } => {
                socket.get_mut().write_all(b"{\"command\":\"show-connections\"}\n")?;
                let mut entries = Vec::new();
                loop {
                    let mut line = String::new();
                    ensure!(socket.read_line(&mut line)? > 0, "nfvs hung up");
                    let answer: Value = serde_json::from_str(&line)?;
                    let Some(item) = answer.get("item") else { return Ok(entries) };
                    let address =
                        |key: &str| -> anyhow::Result<SocketAddr> { Ok(text(&item[key])?.parse()?) };
                    entries.push(Entry {
                        protocol: Protocol::from_name(text(&item["protocol"])?).context("a protocol")?,
                        client: address("client")?,
                        virtual_address: address("virtual")?,
                        server: address("server")?,
                        state: text(&item["state"])?.to_owned(),
                        expires: item["expires"].as_u64().context("a time")?,
                    });
                }
            }
        }
    }

    /// Connections, packets and bytes of each service and server.
    pub(crate) fn counters(&mut self) -> anyhow::Result<Vec<(String, String)>> {
        let mut counters = Vec::new();
        match self {
            Director::Ipvs { namespace } => {
                let output = Command::new("ip")
                    .args(["netns", "exec", namespace, "ipvsadm", "-Ln", "--stats", "--exact"])
                    .output()?;
                let text = String::from_utf8(output.stdout)?;
                let mut service = String::new();
                for line in text.lines().skip(3) {
                    let words: Vec<&str> = line.split_whitespace().collect();
                    let (name, numbers) = if words[0] == "->" {
                        (format!("{service} -> {}", words[1]), &words[2..])
                    } else {
                        service = format!("{} {}", words[0].to_lowercase(), words[1]);
                        (service.clone(), &words[2..])
                    };
                    counters.push((name, numbers.join(" ")));
                }
            }
            Director::Nfvs { socket } => {
                let columns = ["connections", "in_packets", "out_packets", "in_bytes", "out_bytes"];
                let numbers = |of: &Value| columns.map(|column| of["stats"][column].to_string()).join(" ");
                for service in list(&granted(socket, &json!({ "command": "show-services" }))?)? {
                    let name = format!("{} {}", text(&service["protocol"])?, endpoint(service)?);
                    counters.push((name.clone(), numbers(service)));
                    for server in list(&service["servers"])? {
                        counters.push((format!("{name} -> {}", endpoint(server)?), numbers(server)));
                    }
                }
            }
        }
        counters.sort();
        Ok(counters)
    }
}

fn ipvsadm_words(change: &Change) -> Vec<String> {
    let service = |command: &str, key: &Key| {
        let option = match (key.mark, key.protocol) {
            (Some(_), _) => "-f",
            (None, Protocol::Tcp) => "-t",
            (None, Protocol::Udp) => "-u",
            (None, Protocol::Sctp) => "--sctp-service",
        };
        let name = key.mark.map_or_else(|| key.address.to_string(), |mark| mark.to_string());
        let mut words = vec![command.to_owned(), option.to_owned(), name];
        if key.mark.is_some() && key.address.is_ipv6() {
            words.push("-6".to_owned());
        }
        words
    };
    let with_scheduler = |command: &str, key: &Key, scheduler: Scheduler, persistent: Option<u32>| {
        let mut words = service(command, key);
        words.extend(["-s".to_owned(), scheduler.name.to_owned()]);
        if !scheduler.flags.is_empty() {
            words.extend(["-b".to_owned(), scheduler.flags.join(",")]);
        }
        words.extend(persistent.into_iter().flat_map(|seconds| ["-p".to_owned(), seconds.to_string()]));
        words
    };
    let with_server = |command: &str, key: &Key, server: &Server| {
        let mut words = service(command, key);
        let method = if server.routed { "-g" } else { "-m" };
        words.extend(["-r".to_owned(), server.address.to_string(), method.to_owned()]);
        words.extend(["-w".to_owned(), server.weight.to_string()]);
        if let (upper @ 1.., lower) = server.thresholds {
            words.extend(["-x".to_owned(), upper.to_string(), "-y".to_owned(), lower.to_string()]);
        }
        words
    };
    match change {
        Change::AddService(key, scheduler, persistent) => with_scheduler("-A", key, *scheduler, *persistent),
        Change::EditService(key, scheduler, persistent) => with_scheduler("-E", key, *scheduler, *persistent),
        Change::DeleteService(key) => service("-D", key),
        Change::AddServer(key, server) => with_server("-a", key, server),
        Change::EditServer(key, server) => with_server("-e", key, server),
        Change::DeleteServer(key, address) => {
            let mut words = service("-d", key);
            words.extend(["-r".to_owned(), address.to_string()]);
            words
        }
    }
}

fn request(change: &Change) -> Value {
    let service = |key: &Key| match key.mark {
        Some(mark) => {
            json!({ "fwmark": mark, "family": if key.address.is_ipv6() { "ipv6" } else { "ipv4" } })
        }
        None => {
            json!({ "protocol": key.protocol.name(), "address": key.address.ip(), "port": key.address.port() })
        }
    };
    let settings = |key: &Key, scheduler: &Scheduler, persistent: &Option<u32>| {
        let mut service = service(key);
        service["scheduler"] = scheduler.name.into();
        service["scheduler_flags"] = json!(scheduler.flags);
        service["persistence"] = persistent.map_or(Value::Null, |timeout| json!({ "timeout": timeout }));
        service
    };
    let server = |server: &Server| {
        let forward = if server.routed { "dr" } else { "nat" };
        json!({ "address": server.address.ip(), "port": server.address.port(), "weight": server.weight,
                "forward": forward, "upper_threshold": server.thresholds.0, "lower_threshold": server.thresholds.1 })
    };
    match change {
        Change::AddService(key, scheduler, persistent) => {
            let mut service = settings(key, scheduler, persistent);
            if persistent.is_none() {
                service.as_object_mut().map(|service| service.remove("persistence"));
            }
            service["servers"] = json!([]);
            json!({ "command": "add-service", "service": service })
        }
        Change::EditService(key, scheduler, persistent) => {
            json!({ "command": "edit-service", "service": settings(key, scheduler, persistent) })
        }
        Change::DeleteService(key) => json!({ "command": "delete-service", "service": service(key) }),
        Change::AddServer(key, added) => {
            json!({ "command": "add-server", "service": service(key), "server": server(added) })
        }
        Change::EditServer(key, edited) => {
            json!({ "command": "edit-server", "service": service(key), "server": server(edited) })
        }
        Change::DeleteServer(key, address) => {
            json!({ "command": "delete-server", "service": service(key),
                    "server": { "address": address.ip(), "port": address.port() } })
        }
    }
}

/// Asks nfvs; the inner result is its own.
fn ask(socket: &mut BufReader<UnixStream>, request: &Value) -> anyhow::Result<Result<Value, String>> {
    socket.get_mut().write_all(format!("{request}\n").as_bytes())?;
    let mut line = String::new();
    ensure!(socket.read_line(&mut line)? > 0, "nfvs hung up");
    let mut answer: Value = serde_json::from_str(&line)?;
    Ok(match answer.get("error") {
        Some(error) => Err(error.to_string()),
        None => Ok(answer["ok"].take()),
    })
}

fn granted(socket: &mut BufReader<UnixStream>, request: &Value) -> anyhow::Result<Value> {
    ask(socket, request)?.map_err(|error| anyhow::anyhow!("nfvs refuses {request}: {error}"))
}

fn list(value: &Value) -> anyhow::Result<&Vec<Value>> {
    value.as_array().with_context(|| format!("not a list: {value}"))
}

fn text(value: &Value) -> anyhow::Result<&str> {
    value.as_str().with_context(|| format!("not a text: {value}"))
}

fn endpoint(of: &Value) -> anyhow::Result<SocketAddr> {
    let port = of["port"].as_u64().context("a port")?;
    Ok(SocketAddr::new(text(&of["address"])?.parse()?, port.try_into()?))
}

/// A line of /proc/net/ip_vs_conn.
fn kernel_entry(line: &str) -> anyhow::Result<Entry> {
    let words: Vec<&str> = line.split_whitespace().collect();
    let [protocol, from, from_port, to, to_port, server, server_port, state, expires, ..] = words[..] else {
        anyhow::bail!("/proc/net/ip_vs_conn: {line}");
    };
    let port = |word: &str| u16::from_str_radix(word, 16);
    Ok(Entry {
        protocol: Protocol::from_name(protocol).with_context(|| format!("/proc/net/ip_vs_conn: {line}"))?,
        client: SocketAddr::new(address(from)?, port(from_port)?),
        virtual_address: SocketAddr::new(address(to)?, port(to_port)?),
        server: SocketAddr::new(address(server)?, port(server_port)?),
        state: state.to_owned(),
        expires: expires.parse()?,
    })
}

/// `0A000064:0050`, or `[fd00:...]:0050`.
fn hexadecimal(word: &str) -> anyhow::Result<SocketAddr> {
    let (host, port) = word.rsplit_once(':').with_context(|| format!("no address: {word}"))?;
    Ok(SocketAddr::new(address(host.trim_matches(['[', ']']))?, u16::from_str_radix(port, 16)?))
}

fn address(word: &str) -> anyhow::Result<IpAddr> {
    if word.contains(':') {
        return Ok(word.parse()?);
    }
    Ok(Ipv4Addr::from(u32::from_str_radix(word, 16)?).into())
}
