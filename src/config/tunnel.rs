//! The tunnel to a server: as it is written, and the rules between its values.

use super::complaint::Findings;
use super::file::{self, Object};
use super::number::number;
use super::read::Read;
use crate::director::service as director;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// How packets are wrapped that reach the server through a tunnel.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Tunnel {
    /// What the packets are wrapped in (ipvsadm --tun-type).
    #[serde(rename = "type")]
    pub kind: TunnelType,
    /// The UDP port that the server takes GUE packets at (ipvsadm --tun-port). Needed for "gue", of no use otherwise.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "TunnelPort")]
    pub port: Option<TunnelPort>,
    /// What checksum the wrapping has.
    pub checksum: TunnelChecksum,
}

impl Object for Tunnel {
    const REQUIRED: &'static [&'static str] = &[];
    const WITHOUT_DEFAULT: &'static [&'static str] = &["port"];
}

/// What packets in a tunnel are wrapped in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum TunnelType {
    /// Another IP header.
    #[default]
    Ipip,
    /// Generic UDP encapsulation.
    Gue,
    /// Generic routing encapsulation.
    Gre,
}

/// What checksum the wrapping of packets has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum TunnelChecksum {
    /// None (ipvsadm --tun-nocsum).
    #[default]
    None,
    /// One over all of the packet (ipvsadm --tun-csum). With "gue" and "gre".
    Full,
    /// The same from nfvs; what IPVS does with it saves work for network cards (ipvsadm --tun-remcsum). With "gue".
    Remote,
}

number! {
    /// The UDP port of GUE.
    TunnelPort(u16): "a port", 1 to 65535
}

/// The tunnel to a server; the simplest one if none is written.
pub(super) fn tunnel(
    server: &Read<'_, file::Server>,
    written: Option<&Read<'_, Tunnel>>,
    findings: &mut Findings<'_>,
) -> director::Tunnel {
    if server.written.forward != file::Forward::Tunnel && server.is_right("forward") {
        if server.has("tunnel") {
            let message =
                "only a server with \"forward\": \"tunnel\" has one; write that, or leave this key out";
            server.complain(findings, "tunnel", message.to_owned());
        }
        return director::Tunnel::Ipip;
    }
    let Some(read) = written else { return director::Tunnel::Ipip };
    let Tunnel { kind, port, checksum } = read.written;
    if kind != TunnelType::Gue && read.has("port") && read.is_right("type") {
        let message = "only a tunnel of \"type\": \"gue\" has a port; leave the key out";
        read.complain(findings, "port", message.to_owned());
    }
    let full = checksum == TunnelChecksum::Full;
    match (kind, checksum) {
        (TunnelType::Ipip, TunnelChecksum::None) => director::Tunnel::Ipip,
        (TunnelType::Gre, TunnelChecksum::None | TunnelChecksum::Full) => {
            director::Tunnel::Gre { checksum: full }
        }
        (TunnelType::Gue, _) => {
            if port.is_none() && read.is_right("port") {
                let message = "the key \"port\" is missing: packets of \"gue\" go to a UDP port; write the one that \
                               the server takes them at, from 1 to 65535";
                read.complain(findings, "port", message.to_owned());
            }
            director::Tunnel::Gue {
                port: port.map_or(1, TunnelPort::get),
                checksum: match checksum {
                    TunnelChecksum::None => director::GueChecksum::None,
                    TunnelChecksum::Full => director::GueChecksum::Full,
                    TunnelChecksum::Remote => director::GueChecksum::Remote,
                },
            }
        }
        (TunnelType::Ipip, _) | (TunnelType::Gre, TunnelChecksum::Remote) => {
            if read.is_right("type") {
                let message = match kind {
                    TunnelType::Gre => "\"gre\" has no remote checksum; write \"none\" or \"full\"",
                    _ => {
                        "\"ipip\" has no checksum; leave the key out, or write \"gue\" or \"gre\" for the type"
                    }
                };
                read.complain(findings, "checksum", message.to_owned());
            }
            director::Tunnel::Ipip
        }
    }
}
