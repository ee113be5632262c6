//! The command line as it is typed. Help, man pages and completions are made from the texts here.

use crate::daemon::api::SyncSide;
use clap::{Parser, Subcommand, ValueEnum};
use serde_json::{Value, json};
use std::net::IpAddr;
use std::path::{Path, PathBuf};

/// A layer-4 load balancer in user space: IPVS semantics over nftables and NFQUEUE.
///
/// Clients connect to a virtual address. nftables hands their packets to the daemon, which chooses a real server by the
/// rules of IPVS and rewrites the packet; the kernel routes it.
///
/// Every command exits with 0 when it is done, 1 when it was refused or failed (standard error says why), and 2 when
/// the command line itself was wrong.
#[derive(Debug, Parser)]
#[command(name = "nfvs", version, max_term_width = 100)]
pub(super) struct Arguments {
    #[command(subcommand)]
    pub(super) command: Command,
}

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Run the daemon in the foreground
    ///
    /// It logs to standard error, one line an event; the environment variable RUST_LOG chooses what is logged (error,
    /// warn, info, debug). SIGTERM and SIGINT end it in good order: nothing is steered to it any more, what waits is
    /// decided, and its tables and its control socket go. SIGHUP makes it read its configuration file again, as `nfvs
    /// reload` does. One daemon serves one network namespace. Under a service manager it speaks the protocol of
    /// sd_notify(3): readiness, state, reloads, watchdog.
    Run {
        /// The configuration file, JSON
        #[arg(long, value_name = "FILE")]
        config: PathBuf,
        #[command(flatten)]
        instance: Instance,
    },
    /// Make a network namespace ready for a daemon that runs without root
    ///
    /// To be run as root before `nfvs run`. It has the kernel load packet queues, lets a group read the kernel's
    /// counters of them, and switches on forwarding where servers of the configuration need it. It prints what it has
    /// changed, a line each, and nothing if all was there.
    Prepare {
        /// The configuration file of the daemon, JSON
        #[arg(long, value_name = "FILE")]
        config: PathBuf,
        /// The network namespace, as `ip netns` names it [default: the own one]
        #[arg(long, value_name = "NAME")]
        netns: Option<String>,
        /// Let this group, given by name or number, read the kernel's counters of queues, for `nfvs show queues` of a
        /// daemon that is in it [default: leave them to root]
        #[arg(long, value_name = "GROUP")]
        group: Option<String>,
        /// Leave sysctls as they are
        ///
        /// Otherwise net.ipv4.ip_forward is set to 1 if an IPv4 server that is not on this machine needs it and no
        /// interface forwards, and net.ipv6.conf.all.forwarding if an IPv6 server needs it. In the machine's own
        /// namespace that is rather the administrator's decision.
        #[arg(long)]
        no_sysctls: bool,
    },
    /// Check a configuration file; exit 1 and say what is wrong if it is not right
    ///
    /// Everything that is wrong is said on standard error, one line each, as FILE:LINE:COLUMN: PATH: MESSAGE. Nothing
    /// is changed, and nothing of the machine is looked at.
    Check {
        /// The configuration file, JSON
        file: PathBuf,
    },
    /// Print the JSON Schema of the configuration file
    ///
    /// For editors. A file that `nfvs check` takes fits the schema; the reverse does not hold, as a schema cannot say,
    /// for example, that no two services may be the same.
    Schema,
    /// Make a running daemon read its configuration file again, and wait for the result
    ///
    /// What the file has otherwise than the running daemon is changed, whole or not at all: services that stay keep
    /// their connections, counters and schedulers' places. Changes made by `nfvs request` and not in the file are
    /// undone. When the file is wrong, everything that is wrong with it is said as `nfvs check` says it; when something
    /// in it takes a restart (the keys of `queues`, and `connections.max`), or the change is not possible, that is
    /// said. The daemon then goes on as it was, and this exits with 1.
    Reload {
        #[command(flatten)]
        instance: Instance,
    },
    /// Show what a running daemon does
    ///
    /// Tables have the columns of ipvsadm(8). Names of fields in JSON are stable; fields may be added.
    Show {
        /// What to show
        what: What,
        /// Print JSON for programs instead of a table for people
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        instance: Instance,
    },
    /// Set counters and rates to zero, as `ipvsadm -Z` does
    ///
    /// Without a service: those of all services and servers, and the total. With one: those of the service and its
    /// servers; the total stays. Connections, and what `nfvs show services` says of them, stay as they are.
    Zero {
        /// The service: its name, or as one argument its protocol and address, such as "tcp 10.0.0.100:80", or its
        /// mark, such as "fwmark 5" or "fwmark 5 ipv6"
        service: Option<String>,
        #[command(flatten)]
        instance: Instance,
    },
    /// Direct the connection synchronisation between directors, or look at it
    ///
    /// Directors, those of the kernel's IPVS among them, tell each other of their connections, so that another can go on
    /// with them. `nfvs show sync` shows what runs.
    #[command(subcommand)]
    Sync(Sync),
    /// Send one request to a running daemon, as a line of JSON, and print its reply
    ///
    /// This is how services and servers are added, changed and removed while the daemon runs. Such changes are not
    /// written to the configuration file. Exits with 1 when the daemon's reply is an error.
    Request {
        /// The request, such as {"command":"show-services"}
        json: String,
        #[command(flatten)]
        instance: Instance,
    },
}

/// About the synchronisation.
#[derive(Debug, Subcommand)]
pub(super) enum Sync {
    /// Be master, and no backup any more
    ///
    /// For notify scripts of keepalived and the like; done if it is so already. The settings are those of the
    /// configuration file: of the key "sync.master" or, without one, of "sync.backup".
    Master {
        #[command(flatten)]
        instance: Instance,
    },
    /// Be backup, and no master any more
    ///
    /// As `nfvs sync master`, the other way round.
    Backup {
        #[command(flatten)]
        instance: Instance,
    },
    /// Start one side, whatever the other does, as `ipvsadm --start-daemon` does
    ///
    /// Refused if it runs already. Without --interface the settings are those of the configuration file.
    Start {
        /// Which side
        side: SyncSide,
        #[command(flatten)]
        daemon: SyncDaemon,
        #[command(flatten)]
        instance: Instance,
    },
    /// End one side, whatever the other does, as `ipvsadm --stop-daemon` does
    ///
    /// Refused if it does not run. What a master had not sent yet is lost.
    Stop {
        /// Which side
        side: SyncSide,
        #[command(flatten)]
        instance: Instance,
    },
    /// Ask the backups whether messages arrive, and show who answers; exit 1 if too few do
    ///
    /// The master sends a message that asks for an answer, by each of its ports, as it sends all others: by the same
    /// sockets, to the same group, made with the same key. A backup that takes it answers at once, if it is an nfvs; the
    /// kernel's takes it for an empty message. A backup counts if it has answered by every port. Connections are not
    /// touched.
    Test {
        /// For how long to wait for answers, from 1 to 60 seconds
        #[arg(long, value_name = "SECONDS", default_value_t = 2, value_parser = clap::value_parser!(u64).range(1..=60))]
        wait: u64,
        /// How many backups have to answer; with so many it is over at once [default: 1, and all that answer within the
        /// time are shown]
        #[arg(long, value_name = "NUMBER", value_parser = clap::value_parser!(u16).range(1..=256))]
        expect: Option<u16>,
        /// Print JSON for programs
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        instance: Instance,
    },
    /// Decode the messages in a recording, or as they come
    ///
    /// Each message is a line, and each of its records one more. What a receiver would refuse is said with how much it
    /// would lose: the record, the rest of the message, or the datagram. No daemon is needed.
    Dump {
        /// The recording, a pcap file as `tcpdump -w` writes it
        #[arg(long, value_name = "FILE", required_unless_present = "listen")]
        pcap: Option<PathBuf>,
        /// Listen on this interface, until interrupted
        #[arg(long, value_name = "INTERFACE", conflicts_with = "pcap")]
        listen: Option<String>,
        /// The multicast group to listen to [default: 224.0.0.81]
        #[arg(long, value_name = "ADDRESS", requires = "listen")]
        group: Option<IpAddr>,
        /// The network namespace to listen in, as `ip netns` names it [default: the own one]
        #[arg(long, value_name = "NAME", requires = "listen")]
        netns: Option<String>,
        /// The UDP port; of a recording, that of the director's first sync thread: those of 63 more are behind it
        /// [default: 8848]
        #[arg(long)]
        port: Option<u16>,
        /// Print JSON for programs, a message a line
        #[arg(long)]
        json: bool,
    },
}

/// With what one side of the synchronisation runs.
#[derive(Clone, Debug, clap::Args)]
pub(super) struct SyncDaemon {
    /// The interface that messages leave by, or come in by
    #[arg(long, value_name = "NAME", visible_alias = "mcast-interface")]
    pub(super) interface: Option<String>,
    /// Tells groups of directors apart; a backup with 0 takes the messages of all [default: 0]
    #[arg(long, value_name = "NUMBER", requires = "interface")]
    pub(super) syncid: Option<u8>,
    /// The multicast group [default: 224.0.0.81]
    #[arg(long, value_name = "ADDRESS", visible_alias = "mcast-group", requires = "interface")]
    pub(super) group: Option<String>,
    /// The UDP port, or the first of several [default: 8848]
    #[arg(long, value_name = "NUMBER", visible_alias = "mcast-port", requires = "interface")]
    pub(super) port: Option<u16>,
    /// The time to live of messages [default: 1]
    #[arg(long, value_name = "NUMBER", visible_alias = "mcast-ttl", requires = "interface")]
    pub(super) ttl: Option<u8>,
    /// The longest message, in bytes of UDP payload
    #[arg(long, value_name = "BYTES", visible_alias = "sync-maxlen", requires = "interface")]
    pub(super) maxlen: Option<u16>,
}

/// Which daemon is meant.
#[derive(Clone, Debug, clap::Args)]
pub(super) struct Instance {
    /// The network namespace, as `ip netns` names it; also names the instance [default: the own one, "default"]
    #[arg(long, value_name = "NAME")]
    pub(super) netns: Option<String>,
    /// The control socket [default: /run/nfvs/INSTANCE.sock]
    #[arg(long, value_name = "PATH")]
    socket: Option<PathBuf>,
}

impl SyncDaemon {
    /// As the configuration file writes it; none: as the file has it.
    pub(super) fn written(&self) -> Option<Value> {
        let SyncDaemon { interface, syncid, group, port, ttl, maxlen } = self;
        let all = json!({
            "interface": interface, "syncid": syncid, "group": group, "port": port, "ttl": ttl, "maxlen": maxlen,
        });
        let mut all = all.as_object()?.clone();
        all.retain(|_, value| !value.is_null());
        (!all.is_empty()).then(|| all.into())
    }
}

impl Instance {
    /// Where the control socket is.
    pub(super) fn socket(&self) -> PathBuf {
        self.socket.clone().unwrap_or_else(|| {
            let instance = self.netns.as_deref().unwrap_or("default");
            Path::new("/run/nfvs").join(format!("{instance}.sock"))
        })
    }
}

/// What can be shown.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub(super) enum What {
    /// Virtual services and their real servers
    Services,
    /// Real servers, one a line
    Servers,
    /// The connection table
    Connections,
    /// Packet queues: what waits, what was dropped
    Queues,
    /// Traffic counters and drop reasons
    Stats,
    /// Connections, packets and bytes a second
    Rates,
    /// Settings of the whole director, by their names under net.ipv4.vs
    Tunables,
    /// The synchronisation with other directors
    Sync,
}
