//! The values that only services and their servers have, as they are written: marks, masks, words, thresholds.

use super::file::Object;
use super::number::number;
use crate::director::service as director;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::{self, Deserializer, Visitor};
use serde::{Deserialize, Serialize};
use std::borrow::Cow;
use std::fmt;
use std::net::Ipv4Addr;

/// Clients stay with their server from one connection to the next (ipvsadm -p).
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Persistence {
    /// For how many seconds after a client's last new connection.
    pub timeout: PersistenceTimeout,
    /// Which clients count as one: those whose addresses are the same under this mask (IPv4), or in as many of the first
    /// bits. Default: each client for itself.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Netmask")]
    pub netmask: Option<Netmask>,
}

impl Object for Persistence {
    const REQUIRED: &'static [&'static str] = &[];
}

/// Timeouts of one service, in seconds. Default: those of all services.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct OwnTimeouts {
    /// An established TCP connection, in seconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "super::file::Timeout")]
    pub tcp: Option<super::file::Timeout>,
    /// A TCP connection after a FIN, in seconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "super::file::Timeout")]
    pub tcp_fin: Option<super::file::Timeout>,
    /// A UDP exchange, in seconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "super::file::Timeout")]
    pub udp: Option<super::file::Timeout>,
}

impl Object for OwnTimeouts {
    const REQUIRED: &'static [&'static str] = &[];
}

/// Settings of the whole director, by their names under net.ipv4.vs.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Tunables {
    /// 1: packets with a mark whose service has no server to choose go on to where they are addressed.
    pub cache_bypass: Switch,
    /// Which connections give way to a SYN from the same port: 0: none; 1: those in TIME_WAIT and CLOSE; 2 and 3: those
    /// in FIN_WAIT as well, if their replies do not pass the director.
    pub conn_reuse_mode: ConnReuseMode,
    /// 1: connections end when their server is removed, and give way to a SYN when its weight is 0.
    pub expire_nodest_conn: Switch,
    /// 1: clients do not stay with a server of weight 0.
    pub expire_quiescent_template: Switch,
}

impl Object for Tunables {
    const REQUIRED: &'static [&'static str] = &[];
}

impl From<Tunables> for director::Tunables {
    fn from(written: Tunables) -> director::Tunables {
        director::Tunables {
            cache_bypass: written.cache_bypass.get() != 0,
            conn_reuse_mode: written.conn_reuse_mode.get(),
            expire_nodest_conn: written.expire_nodest_conn.get() != 0,
            expire_quiescent_template: written.expire_quiescent_template.get() != 0,
        }
    }
}

/// What becomes of the connections of a server that is removed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum OnRemove {
    /// Packets are dropped until the server comes back, as in IPVS.
    Keep,
    /// Clients are refused: TCP is reset, everything else gets ICMP port unreachable.
    Reset,
    /// The next packet goes to another server, if it may start a connection.
    Reschedule,
}

impl From<OnRemove> for director::OnRemove {
    fn from(word: OnRemove) -> director::OnRemove {
        match word {
            OnRemove::Keep => director::OnRemove::Keep,
            OnRemove::Reset => director::OnRemove::Reset,
            OnRemove::Reschedule => director::OnRemove::Reschedule,
        }
    }
}

/// An address family.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Family {
    /// IPv4.
    Ipv4,
    /// IPv6.
    Ipv6,
}

impl From<Family> for director::Family {
    fn from(word: Family) -> director::Family {
        match word {
            Family::Ipv4 => director::Family::V4,
            Family::Ipv6 => director::Family::V6,
        }
    }
}

number! {
    /// A firewall mark: the operator's half of the packet mark.
    Fwmark(u16): "a firewall mark", 1 to 65535
}

number! {
    /// How long clients stay with their server, as long as `ipvsadm -p` allows.
    PersistenceTimeout(u32): "a time", 1 to 2678400, "seconds"; default 360
}

number! {
    /// How many connections a server may have before it is full; 0: it never is.
    UpperThreshold(u32): "a number of connections", 0 to 2147483647; default 0
}

number! {
    /// Below how many connections a full server may be chosen again.
    LowerThreshold(u32): "a number of connections", 0 to 2147483647; default 0
}

number! {
    /// `conn_reuse_mode`.
    ConnReuseMode(u8): "a mode", 0 to 3; default 1
}

number! {
    /// A setting that is off or on.
    Switch(u8): "a number", 0 to 1; default 0
}

/// Which bits of a client's address count: a number of the first ones, or (IPv4 only) a mask that says the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(untagged)]
pub enum Netmask {
    /// As many of the first bits, 1 to 128.
    Bits(u8),
    /// A mask of one to 32 first bits.
    Mask(Ipv4Addr),
}

impl Netmask {
    fn bits(number: u64) -> Option<Netmask> {
        u8::try_from(number).ok().filter(|bits| (1..=128).contains(bits)).map(Netmask::Bits)
    }

    fn mask(text: &str) -> Option<Netmask> {
        let mask: Ipv4Addr = text.parse().ok()?;
        let bits = mask.to_bits();
        (bits != 0 && bits.leading_ones() == bits.count_ones()).then_some(Netmask::Mask(mask))
    }
}

impl<'de> Deserialize<'de> for Netmask {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Netmask, D::Error> {
        struct Either;
        impl Visitor<'_> for Either {
            type Value = Netmask;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(
                    "a mask such as \"255.255.255.0\", or a number of bits: 1 to 32 for IPv4, 1 to 128 for IPv6",
                )
            }

            fn visit_u64<E: de::Error>(self, number: u64) -> Result<Netmask, E> {
                Netmask::bits(number).ok_or_else(|| E::invalid_value(de::Unexpected::Unsigned(number), &self))
            }

            fn visit_f64<E: de::Error>(self, number: f64) -> Result<Netmask, E> {
                let whole = (1..=128_u8).find(|whole| f64::from(*whole) == number);
                whole.map(Netmask::Bits).ok_or_else(|| E::invalid_value(de::Unexpected::Float(number), &self))
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Netmask, E> {
                Netmask::mask(text).ok_or_else(|| E::invalid_value(de::Unexpected::Str(text), &self))
            }
        }
        deserializer.deserialize_any(Either)
    }
}

impl JsonSchema for Netmask {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "Netmask".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "anyOf": [
                { "type": "integer", "minimum": 1, "maximum": 128 },
                { "type": "string", "format": "ipv4" }
            ]
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn masks_are_of_first_bits() {
        for (text, is_right) in [
            ("255.255.255.255", true),
            ("255.255.255.0", true),
            ("128.0.0.0", true),
            ("0.0.0.0", false),
            ("255.0.255.0", false),
            ("24", false),
        ] {
            assert_eq!(Netmask::mask(text).is_some(), is_right, "{text}");
        }
        assert_eq!([Netmask::bits(0), Netmask::bits(129)], [None; 2]);
        assert_eq!(Netmask::bits(128), Some(Netmask::Bits(128)));
    }

    #[test]
    fn defaults_are_those_of_the_director() {
        assert_eq!(director::Tunables::from(Tunables::default()), director::Tunables::default());
        let modes = u64::from(director::Tunables::MAX_CONN_REUSE_MODE);
        assert!(ConnReuseMode::new(modes).is_some() && ConnReuseMode::new(modes + 1).is_none());
        assert_eq!(UpperThreshold::new(u64::from(director::Thresholds::MAX) + 1), None);
    }
}
