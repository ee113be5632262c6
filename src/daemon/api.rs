//! What is said over the control socket; `docs/control-socket.md` is the same for people.
//!
//! A request is one line of JSON, a reply one or more. Field names and meanings are stable; fields may be added.

mod sync;
mod sync_test;

pub use sync::{
    SyncAnnounceStatus, SyncBackupStatus, SyncDaemonStatus, SyncMasterStatus, SyncPeerStatus, SyncStatus,
    SyncTableState, SyncTableStatus, SyncTablesStatus,
};
pub use sync_test::{SyncTestBackup, SyncTestCounts, SyncTestFailure, SyncTestPort, SyncTestStatus};

use crate::director::Time;
use crate::director::service::{
    ClientMask, Feedback, ForwardMethod, LoadSource, OwnTimeouts, Persistence, RealServer, ServiceKey,
    TunableNumber, VirtualService,
};
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::Value;
use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

/// A request. The ones without fields are written with braces so that unknown fields are refused there too.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "command", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Request {
    /// Services with their servers: [`ServiceStatus`]es.
    ShowServices {},
    /// Connections, one [`Reply::Item`] each: [`ConnectionStatus`]es.
    ShowConnections {},
    /// Queues: [`QueueStatus`]es.
    ShowQueues {},
    /// Counters: [`Statistics`].
    ShowStats {},
    /// What is counted in a second: [`RateStatus`].
    ShowRates {},
    /// Sets counters and rates to zero.
    Zero {
        /// Protocol, address and port; none: all services, and the total.
        #[serde(default, deserialize_with = "present", skip_serializing_if = "Option::is_none")]
        service: Option<Value>,
    },
    /// Adds a service as the configuration file writes it.
    AddService {
        /// The service.
        service: Value,
    },
    /// Changes a service's scheduler and settings; those not named stay, and `null` takes one away.
    EditService {
        /// What names the service, and what is to be changed.
        service: Value,
    },
    /// Removes a service.
    DeleteService {
        /// Protocol, address and port, or the firewall mark and its family.
        service: Value,
    },
    /// Adds a server to a service.
    AddServer {
        /// Protocol, address and port.
        service: Value,
        /// The server as the configuration file writes it.
        server: Value,
    },
    /// Changes a server's weight and thresholds; those not named stay.
    EditServer {
        /// Protocol, address and port.
        service: Value,
        /// The server with what is to be changed.
        server: Value,
    },
    /// Removes a server from a service.
    DeleteServer {
        /// Protocol, address and port.
        service: Value,
        /// Address and port.
        server: Value,
    },
    /// Changes timeouts; those not named stay.
    SetTimeouts {
        /// `tcp`, `tcp_fin`, `udp`, in seconds.
        timeouts: serde_json::Map<String, Value>,
    },
    /// The settings of the whole director: [`TunablesStatus`].
    ShowTunables {},
    /// Changes settings of the whole director; those not named stay.
    SetTunables {
        /// By their names under `net.ipv4.vs`.
        tunables: serde_json::Map<String, Value>,
    },
    /// The synchronisation with other directors: [`SyncStatus`].
    ShowSync {},
    /// Starts a side of the synchronisation that does not run (`ipvsadm --start-daemon`).
    StartSync {
        /// Which one.
        side: SyncSide,
        /// As the configuration file writes it; none: as it is configured, be it for the other side.
        #[serde(default, deserialize_with = "present", skip_serializing_if = "Option::is_none")]
        daemon: Option<Value>,
    },
    /// Ends a side of the synchronisation that runs (`ipvsadm --stop-daemon`).
    StopSync {
        /// Which one.
        side: SyncSide,
    },
    /// Has this side of the synchronisation run, as it is configured, and the other one not.
    SetSyncRole {
        /// Which one.
        role: SyncSide,
    },
    /// Has the master ask its backups whether messages arrive: [`SyncTestStatus`].
    TestSync {
        /// For how many seconds answers are waited for; none: two.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        wait: Option<u64>,
        /// With how many backups that have answered by every port it is over; none: with none.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        expect: Option<u16>,
    },
    /// Reads the configuration file again: [`Reloaded`].
    Reload {},
}

/// A side of the synchronisation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum SyncSide {
    /// Tells others of the connections here.
    Master,
    /// Takes over what others tell of theirs.
    Backup,
}

impl fmt::Display for SyncSide {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            SyncSide::Master => "master",
            SyncSide::Backup => "backup",
        })
    }
}

/// Takes `null` for a value, and a wrong one, rather than for a field that was left out.
fn present<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Value>, D::Error> {
    Value::deserialize(deserializer).map(Some)
}

/// One line of a reply.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reply {
    /// Done; the last line of a reply.
    Ok(Value),
    /// Refused, and why; nothing has changed. The last line of a reply.
    Error(String),
    /// One of many; more lines follow.
    Item(Box<ConnectionStatus>),
}

/// What a reload has changed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reloaded {
    /// Services that were added.
    pub added: usize,
    /// Services that were removed.
    pub removed: usize,
    /// Services that were changed: name, scheduler, settings or servers.
    pub changed: usize,
    /// Other keys of the file whose values have changed: `timeouts`, `tunables`, `answer_ping`, `peers`, `sync`.
    pub settings: Vec<String>,
}

/// In one line.
impl fmt::Display for Reloaded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Reloaded { added, removed, changed, settings } = self;
        let mut parts = Vec::new();
        if (*added, *removed, *changed) != (0, 0, 0) {
            let services = if *added == 1 { "service" } else { "services" };
            parts.push(format!("{added} {services} added, {removed} removed, {changed} changed"));
        }
        if !settings.is_empty() {
            parts.push(format!("{} changed", settings.join(", ")));
        }
        if parts.is_empty() {
            parts.push("nothing to change".to_owned());
        }
        f.write_str(&parts.join("; "))
    }
}

/// What tells a virtual service from others.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ServiceName {
    /// The operator's name for it.
    pub name: String,
    /// `tcp`, `udp` or `sctp`; like the next two, not there for a service by mark.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub protocol: Option<String>,
    /// The virtual address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address: Option<String>,
    /// The port; 0: every port.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
    /// The firewall mark; like the next one, of a service by mark only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fwmark: Option<u16>,
    /// `ipv4` or `ipv6`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub family: Option<String>,
}

impl From<&VirtualService> for ServiceName {
    fn from(service: &VirtualService) -> ServiceName {
        let (endpoint, mark) = match service.key() {
            ServiceKey::Endpoint { transport, address, port } => (Some((transport, address, port)), None),
            ServiceKey::Mark { mark, family } => (None, Some((mark, family))),
        };
        ServiceName {
            name: service.name.clone(),
            protocol: endpoint.map(|(transport, ..)| transport.to_string()),
            address: endpoint.map(|(_, address, _)| address.to_string()),
            port: endpoint.map(|(.., port)| port),
            fwmark: mark.map(|(mark, _)| mark.get()),
            family: mark.map(|(_, family)| family.to_string()),
        }
    }
}

/// A virtual service.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ServiceStatus {
    /// Which one it is.
    #[serde(flatten)]
    pub name: ServiceName,
    /// The scheduler.
    pub scheduler: String,
    /// What is set for it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub scheduler_flags: Vec<String>,
    /// Where reports of load come from, with the scheduler `feedback`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub feedback: Option<FeedbackStatus>,
    /// Whether clients stay with their server.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub persistence: Option<PersistenceStatus>,
    /// Whether each datagram is scheduled for itself.
    #[serde(default)]
    pub one_packet: bool,
    /// What becomes of the connections of a removed server, if that is set.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub on_remove: Option<String>,
    /// Its own timeouts.
    #[serde(default)]
    pub timeouts: OwnTimeoutsStatus,
    /// How packets go: `queue`.
    pub path: String,
    /// Its counters.
    pub stats: Traffic,
    /// Its servers, newest first.
    pub servers: Vec<ServerStatus>,
}

/// Where reports of load come from, as the configuration file writes it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FeedbackStatus {
    /// A web page of each server.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub http: Option<HttpReportStatus>,
    /// A file for each server.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub file: Option<String>,
    /// Seconds between a server's reports.
    pub interval: u64,
}

/// A web page with a server's load.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HttpReportStatus {
    /// The path.
    pub path: String,
    /// The TCP port, if it is not the server's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
    /// The name that is asked for, if it is not the server's address and port.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host: Option<String>,
    /// How many seconds an answer may take.
    pub timeout: u64,
}

impl From<&Feedback> for FeedbackStatus {
    fn from(feedback: &Feedback) -> FeedbackStatus {
        let (http, file) = match &feedback.source {
            LoadSource::Http { path, port, host, timeout } => {
                let (path, host) = (path.clone(), host.clone());
                (Some(HttpReportStatus { path, port: *port, host, timeout: timeout.as_secs() }), None)
            }
            LoadSource::File(template) => (None, Some(template.clone())),
        };
        FeedbackStatus { http, file, interval: feedback.interval.as_secs() }
    }
}

/// For how long clients stay with their server, and which ones count as one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PersistenceStatus {
    /// Seconds after a client's last new connection.
    pub timeout: u64,
    /// A dotted mask for IPv4, a number of bits for IPv6, as the configuration file takes both.
    pub netmask: Value,
    /// The persistence engine, if there is one: `sip`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub engine: Option<String>,
}

impl From<&Persistence> for PersistenceStatus {
    fn from(persistence: &Persistence) -> PersistenceStatus {
        PersistenceStatus {
            timeout: persistence.timeout.as_secs(),
            netmask: match persistence.clients {
                ClientMask::V4(mask) => mask.to_string().into(),
                ClientMask::V6(length) => length.into(),
            },
            engine: persistence.engine.map(|engine| engine.to_string()),
        }
    }
}

/// Timeouts of one service in seconds; those that are not there are as for all services.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct OwnTimeoutsStatus {
    /// TCP in ESTABLISHED.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tcp: Option<u64>,
    /// TCP in FIN_WAIT.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tcp_fin: Option<u64>,
    /// UDP.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub udp: Option<u64>,
}

impl From<&OwnTimeouts> for OwnTimeoutsStatus {
    fn from(timeouts: &OwnTimeouts) -> OwnTimeoutsStatus {
        let seconds = |timeout: Option<Duration>| timeout.map(|timeout| timeout.as_secs());
        OwnTimeoutsStatus {
            tcp: seconds(timeouts.tcp),
            tcp_fin: seconds(timeouts.tcp_fin),
            udp: seconds(timeouts.udp),
        }
    }
}

/// The settings of the whole director, by their names under `net.ipv4.vs`.
pub type TunablesStatus = BTreeMap<String, TunableStatus>;

/// A setting: a number, or a list of two.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum TunableStatus {
    /// A number.
    One(u32),
    /// Two of them.
    Two([u32; 2]),
}

impl From<TunableNumber> for TunableStatus {
    fn from(number: TunableNumber) -> TunableStatus {
        match number {
            TunableNumber::One(number) => TunableStatus::One(number),
            TunableNumber::Two(numbers) => TunableStatus::Two(numbers),
        }
    }
}

/// As `sysctl` prints it.
impl fmt::Display for TunableStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            TunableStatus::One(number) => number.fmt(f),
            TunableStatus::Two([first, second]) => write!(f, "{first} {second}"),
        }
    }
}

/// A real server.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ServerStatus {
    /// Its address.
    pub address: String,
    /// Its port; 0: the port the client asked for.
    pub port: u16,
    /// Its weight.
    pub weight: u32,
    /// How packets reach it: `nat`, `dr` or `tunnel`.
    pub forward: String,
    /// How packets are wrapped; of a server with `tunnel` only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tunnel: Option<TunnelStatus>,
    /// Active connections.
    pub active: u32,
    /// Other connections.
    pub inactive: u32,
    /// Persistence templates.
    #[serde(default)]
    pub persistent: u32,
    /// With how many connections it is full; 0: never.
    #[serde(default)]
    pub upper_threshold: u32,
    /// Below how many it may be chosen again; 0: three quarters of the other.
    #[serde(default)]
    pub lower_threshold: u32,
    /// Whether it is full, and passed over.
    #[serde(default)]
    pub overloaded: bool,
    /// `unchecked`: no health check is configured.
    pub health: String,
    /// What its reports have come to, with the scheduler `feedback`.
    #[serde(flatten)]
    pub reported: Option<ReportedStatus>,
    /// Its counters.
    pub stats: Traffic,
}

/// What a server's reports of load have come to.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct ReportedStatus {
    /// Its load, smoothed: 0 idle, 1 fully loaded; none while there is no fresh report.
    pub load: Option<f64>,
    /// The weight by which it gets connections now.
    pub effective_weight: f64,
    /// Reports that came.
    pub reports: u64,
    /// Reports that did not come, or had no load in them.
    pub missed_reports: u64,
}

impl ReportedStatus {
    /// What is known at `now`, in thousandths.
    pub fn of(server: &RealServer, now: Time) -> ReportedStatus {
        let rounded = |number: f64| (number * 1000.0).round() / 1000.0;
        let (reports, missed_reports) = server.reported.counts();
        ReportedStatus {
            load: server.reported.smoothed(now).map(rounded),
            effective_weight: rounded(f64::from(server.weight().get()) * server.reported.factor(now).get()),
            reports,
            missed_reports,
        }
    }
}

/// How packets to a server are wrapped, as the configuration file writes it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TunnelStatus {
    /// `ipip`, `gue` or `gre`.
    #[serde(rename = "type")]
    pub kind: String,
    /// The UDP port of `gue`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
    /// `none`, `full` or `remote`.
    pub checksum: String,
}

impl TunnelStatus {
    /// The tunnel to a server, if new connections have one.
    pub fn of(server: &RealServer) -> Option<TunnelStatus> {
        let tunnel = server.tunnel();
        (server.forwarding().method == ForwardMethod::Tunnel).then(|| TunnelStatus {
            kind: tunnel.kind().to_owned(),
            port: tunnel.port(),
            checksum: tunnel.checksum().to_owned(),
        })
    }
}

/// Counters of a service or a server.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Traffic {
    /// Connections scheduled.
    pub connections: u64,
    /// Packets from clients.
    pub in_packets: u64,
    /// Packets to clients.
    pub out_packets: u64,
    /// Bytes from clients, IP headers included.
    pub in_bytes: u64,
    /// Bytes to clients, IP headers included.
    pub out_bytes: u64,
}

/// A connection.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ConnectionStatus {
    /// `tcp`, `udp` or `sctp`; `ip` of the template of a firewall mark.
    pub protocol: String,
    /// Address and port of the client; port 0 of a template.
    pub client: String,
    /// The virtual address and port.
    #[serde(rename = "virtual")]
    pub virtual_address: String,
    /// Address and port of the real server.
    pub server: String,
    /// The state, by the kernel's names.
    pub state: String,
    /// Seconds until it ends unless packets come.
    pub expires: u64,
    /// Where it was made: `local`, or `sync` if another director has told of it.
    pub origin: String,
    /// Whether it is a persistence template.
    pub template: bool,
    /// How packets reach the server: `nat`, `dr` or `tunnel`.
    pub forward: String,
    /// Flags of the synchronisation protocol, in hexadecimal.
    pub flags: String,
    /// How packets go: `queue`.
    pub path: String,
    /// The persistence engine of a template that one has made: `sip`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pe_name: Option<String>,
    /// What the engine has found, a character for each byte: the Call-ID.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pe_data: Option<String>,
}

/// A packet queue.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct QueueStatus {
    /// Its number.
    pub queue: u16,
    /// What it carries: `established`, `open`, `datagram`, `routed`, `routed-udp`, `tunnel` or `tunnel-udp`.
    pub class: String,
    /// `batched` or `nfq`.
    pub backend: String,
    /// Whether its worker runs.
    pub running: bool,
    /// Packets that wait for a verdict; none: see `unknown`.
    pub waiting: Option<u32>,
    /// Packets dropped because the queue was full; none: see `unknown`.
    pub dropped: Option<u32>,
    /// Packets dropped because the socket's buffer was full; none: see `unknown`.
    pub user_dropped: Option<u32>,
    /// Why the three numbers above, which only the kernel has, are not known.
    pub unknown: Option<String>,
    /// Packets received.
    pub received: u64,
    /// Verdicts given.
    pub verdicts: u64,
    /// Verdicts the kernel could not use: the packet was gone.
    pub refused: u64,
    /// Packets dropped because their copy was cut or their verdict could not be sent.
    pub lost: u64,
}

/// Counters of the whole director.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Statistics {
    /// Connections in the table.
    pub connections: usize,
    /// How many there may be.
    pub max_connections: usize,
    /// Connections and templates that defences have dropped.
    #[serde(default)]
    pub dropped_entries: u64,
    /// Packets dropped, by reason.
    pub drops: serde_json::Map<String, Value>,
    /// Counters of all services together, deleted ones included.
    pub total: Traffic,
    /// Counters of services and servers.
    pub services: Vec<ServiceStatus>,
}

/// What the whole director counts in a second.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RateStatus {
    /// All services together, deleted ones included.
    pub total: TrafficRates,
    /// The services.
    pub services: Vec<ServiceRates>,
}

/// What a service counts in a second.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ServiceRates {
    /// Which one it is.
    #[serde(flatten)]
    pub name: ServiceName,
    /// Its rates.
    pub rates: TrafficRates,
    /// Its servers, newest first.
    pub servers: Vec<ServerRates>,
}

/// What a server counts in a second.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ServerRates {
    /// Its address.
    pub address: String,
    /// Its port; 0: the port the client asked for.
    pub port: u16,
    /// Its rates.
    pub rates: TrafficRates,
}

/// Moving averages of what is counted in a second.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TrafficRates {
    /// Connections scheduled.
    pub connections_per_second: u64,
    /// Packets from clients.
    pub in_packets_per_second: u64,
    /// Packets to clients.
    pub out_packets_per_second: u64,
    /// Bytes from clients, IP headers included.
    pub in_bytes_per_second: u64,
    /// Bytes to clients, IP headers included.
    pub out_bytes_per_second: u64,
}
