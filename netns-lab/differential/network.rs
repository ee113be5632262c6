//! A lab with raw sockets in its nodes, whose own kernels say nothing.

use crate::director::Balancer;
use crate::packet::{Packet, Protocol, seen};
use anyhow::{Context, ensure};
use nix::sched::{CloneFlags, setns};
use nix::sys::socket::setsockopt;
use nix::sys::socket::sockopt::Mark;
use rustix::net::{AddressFamily, Protocol as Number, RawProtocol, SocketType, bind, socket};
use std::fs::File;
use std::io::{ErrorKind, Write};
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::process::{Command, Stdio};

const LAB: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/netns-lab/lab");
pub(crate) const VIPS: [&str; 2] = ["10.0.0.100", "fd00::100"];
/// The director's addresses towards the client.
pub(crate) const DIRECTOR: [&str; 2] = ["10.0.1.1", "fd00:1::1"];
pub(crate) const CLIENT: [&str; 2] = ["10.0.1.2", "fd00:1::2"];
pub(crate) const SERVERS: [[&str; 2]; 3] =
    [["10.0.2.11", "fd00:2::11"], ["10.0.3.12", "fd00:3::12"], ["10.0.4.13", "fd00:4::13"]];
/// The mark of our packets, which those have not that the nodes' own kernels send.
const OURS: u32 = 7;

/// The lab `nat` with its own name.
pub(crate) struct Network {
    name: &'static str,
    sockets: Vec<Socket>,
}

struct Socket {
    node: String,
    number: u8,
    is_ipv6: bool,
    socket: UdpSocket,
}

impl Network {
    /// The lab with raw sockets in client and servers.
    pub(crate) fn up(balancer: Balancer) -> anyhow::Result<Network> {
        let mut network = Network::alone(balancer, "{ \"services\": [] }")?;
        let nodes = [("c1", CLIENT)].into_iter().chain(["s1", "s2", "s3"].into_iter().zip(SERVERS));
        for (node, addresses) in nodes {
            network.silence(node)?;
            for address in addresses {
                let icmp = if address.contains(':') { 58 } else { 1 };
                for number in Protocol::ALL.map(Protocol::number).into_iter().chain([icmp]) {
                    let socket = network.socket(node, address.parse()?, number)?;
                    network.sockets.push(socket);
                }
            }
            if node != "c1" {
                for vip in VIPS {
                    let length = if vip.contains(':') { 128 } else { 32 };
                    network.run(node, &["ip", "address", "add", &format!("{vip}/{length}"), "dev", "lo"])?;
                }
            }
        }
        Ok(network)
    }

    /// The lab without a socket of ours, and the configuration that nfvs begins with.
    pub(crate) fn alone(balancer: Balancer, config: &str) -> anyhow::Result<Network> {
        let name = match balancer {
            Balancer::Ipvs => "differ-ipvs",
            Balancer::Nfvs => "differ-nfvs",
        };
        let network = Network { name, sockets: Vec::new() };
        let path = format!("/tmp/differential-{}.json", std::process::id());
        std::fs::write(&path, config)?;
        let mut up = vec!["up", "nat", "--vip", "local", "--config", &path];
        if let Balancer::Ipvs = balancer {
            up.push("--ipvs");
        }
        network.lab(&up)?;
        std::fs::remove_file(&path)?;
        // Whose turn an answer would be is a matter of time.
        let limits = ["net.ipv4.icmp_ratelimit=0", "net.ipv4.icmp_ratemask=0", "net.ipv6.icmp.ratelimit=0"];
        for limit in limits {
            network.run("director", &["sysctl", "-q", "-w", limit])?;
        }
        Ok(network)
    }

    /// The network namespace of a node.
    pub(crate) fn namespace(&self, node: &str) -> String {
        format!("{}-{node}", self.name)
    }

    /// Where the lab has its files.
    pub(crate) fn folder(&self) -> String {
        format!("/tmp/nfvs-lab/{}", self.name)
    }

    pub(crate) fn send(&self, packet: &Packet) -> anyhow::Result<()> {
        let (number, bytes) = packet.bytes()?;
        let is_sender = |socket: &&Socket| {
            socket.node == packet.node && socket.number == number && socket.is_ipv6 == packet.from.is_ipv6()
        };
        let sender =
            self.sockets.iter().find(is_sender).with_context(|| format!("nobody can send {packet}"))?;
        sender.socket.send_to(&bytes, SocketAddr::new(packet.to.ip(), 0))?;
        Ok(())
    }

    /// What has arrived at the nodes since it was asked last.
    pub(crate) fn receive(&mut self) -> anyhow::Result<Vec<String>> {
        let mut arrived = Vec::new();
        let mut bytes = [0; 2048];
        for Socket { node, number, is_ipv6, socket } in &self.sockets {
            loop {
                let (len, from) = match socket.recv_from(&mut bytes) {
                    Ok(received) => received,
                    Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                    Err(error) => return Err(error).context("a node's socket"),
                };
                // IPv4 comes with its header, IPv6 without.
                let header = if *is_ipv6 { 0 } else { usize::from(bytes[0] & 0x0f) * 4 };
                let payload = &bytes[header..len];
                let is_error = match number {
                    1 => matches!(payload[0], 3 | 11 | 12),
                    58 => payload[0] < 128,
                    _ => true,
                };
                if is_error {
                    arrived.push(seen(node, *number, from.ip(), payload)?);
                }
            }
        }
        Ok(arrived)
    }

    fn socket(&self, node: &str, address: IpAddr, number: u8) -> anyhow::Result<Socket> {
        let family = if address.is_ipv6() { AddressFamily::INET6 } else { AddressFamily::INET };
        let made = within(&self.namespace(node), || -> anyhow::Result<_> {
            let protocol = RawProtocol::new(number.into()).map(Number::from_raw);
            let made = socket(family, SocketType::RAW, protocol)?;
            setsockopt(&made, Mark, &OURS)?;
            bind(&made, &SocketAddr::new(address, 0))?;
            Ok(made)
        })??;
        let socket = UdpSocket::from(made);
        socket.set_nonblocking(true)?;
        Ok(Socket { node: node.to_owned(), number, is_ipv6: address.is_ipv6(), socket })
    }

    /// Keeps the node's own kernel from answering.
    fn silence(&self, node: &str) -> anyhow::Result<()> {
        let rules = format!(
            "table inet silence {{ chain output {{ type filter hook output priority 0\n\
             meta l4proto {{ tcp, udp, sctp }} meta mark != {OURS} drop\n\
             icmp type {{ destination-unreachable, time-exceeded, parameter-problem }} meta mark != {OURS} drop\n\
             icmpv6 type {{ destination-unreachable, time-exceeded, parameter-problem }} meta mark != {OURS} drop\n}}\n}}\n"
        );
        let mut nft = Command::new("ip")
            .args(["netns", "exec", &self.namespace(node), "nft", "-f", "-"])
            .stdin(Stdio::piped())
            .spawn()?;
        nft.stdin.take().context("a pipe")?.write_all(rules.as_bytes())?;
        ensure!(nft.wait()?.success(), "the rules of {node} are refused");
        Ok(())
    }

    pub(crate) fn run(&self, node: &str, words: &[&str]) -> anyhow::Result<()> {
        let status =
            Command::new("ip").args(["netns", "exec", &self.namespace(node)]).args(words).status()?;
        ensure!(status.success(), "{words:?} in {node}: {status}");
        Ok(())
    }

    fn lab(&self, arguments: &[&str]) -> anyhow::Result<()> {
        let status = Command::new(LAB).args(arguments).env("LAB_NAME", self.name).status()?;
        ensure!(status.success(), "lab {arguments:?}: {status}");
        Ok(())
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        if let Err(error) = self.lab(&["down"]) {
            eprintln!("differential: {error:#}");
        }
    }
}

/// Runs `work` on a thread in a network namespace. Sockets it makes stay there.
pub(crate) fn within<T: Send>(namespace: &str, work: impl FnOnce() -> T + Send) -> anyhow::Result<T> {
    let file = File::open(format!("/run/netns/{namespace}"))?;
    let entered = std::thread::scope(|scope| {
        scope.spawn(|| setns(&file, CloneFlags::CLONE_NEWNET).map(|()| work())).join()
    });
    Ok(entered.map_err(|_| anyhow::anyhow!("a thread in {namespace} panicked"))??)
}
