//! The tunables as they are written: those of the director's table, and why others of the kernel's are refused.

use super::file::Object;
use super::number::number;
use crate::director::service::{self as director, TunableValue, tunable_table};
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::{self, SeqAccess, Unexpected, Visitor};
use serde::{Deserialize, Deserializer, Serialize};
use std::borrow::Cow;
use std::fmt;

macro_rules! written {
    ($($(#[$doc:meta])* $name:ident: $kind:ident = $default:expr,)*) => {
        /// Settings of the whole director, by their names under net.ipv4.vs.
        #[derive(Clone, Copy, Debug, Serialize, Deserialize, JsonSchema)]
        #[serde(deny_unknown_fields, default)]
        pub struct Tunables {
            $($(#[$doc])* pub $name: $kind,)*
        }

        impl From<Tunables> for director::Tunables {
            fn from(written: Tunables) -> director::Tunables {
                director::Tunables { $($name: TunableValue::of(written.$name.get()),)* }
            }
        }

        impl From<director::Tunables> for Tunables {
            fn from(tunables: director::Tunables) -> Tunables {
                Tunables {
                    $($name: $kind::new(tunables.$name.number().into()).expect("what is set may be written"),)*
                }
            }
        }
    };
}

tunable_table!(written);

impl Default for Tunables {
    fn default() -> Tunables {
        director::Tunables::default().into()
    }
}

impl Object for Tunables {
    const REQUIRED: &'static [&'static str] = &[];

    fn why_not(key: &str) -> Option<&'static str> {
        REFUSED.iter().find(|(names, _)| names.contains(&key)).map(|(_, why)| *why)
    }
}

/// The kernel's tunables that would have no effect, and why.
const REFUSED: &[(&[&str], &str)] = &[
    (
        &["snat_reroute"],
        "nfvs sets the source of a reply behind routing, and routes it once, as the server's packet",
    ),
    (
        &["conntrack"],
        "nfvs keeps traffic of services out of connection tracking, which would take it for invalid",
    ),
    (
        &["est_cpulist", "est_nice"],
        "nfvs estimates rates in its main thread, which CPUAffinity= and Nice= of its unit are for",
    ),
];

number! {
    /// Off or on.
    Switch(u32): "a number", 0 to 1
}

number! {
    /// Some quantity.
    Quantity(u32): "a number", 0 to 2147483647
}

number! {
    /// `conn_reuse_mode`.
    ReuseMode(u32): "a mode", 0 to 3
}

number! {
    /// When a defence acts.
    DefenceMode(u32): "a mode", 0 to 3
}

number! {
    /// `sync_retries`.
    SyncRetries(u32): "a number", 0 to 3
}

number! {
    /// `sync_version`.
    SyncVersion(u32): "a version", 0 to 1
}

/// `sync_ports`: a power of two.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct SyncPorts(u32);

impl SyncPorts {
    const ALL: [u32; 7] = [1, 2, 4, 8, 16, 32, 64];

    /// The number, if it is allowed.
    pub fn new(number: u64) -> Option<SyncPorts> {
        u32::try_from(number).ok().filter(|number| SyncPorts::ALL.contains(number)).map(SyncPorts)
    }

    /// The number.
    pub const fn get(self) -> u32 {
        self.0
    }
}

impl<'de> Deserialize<'de> for SyncPorts {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<SyncPorts, D::Error> {
        struct Power;
        impl Visitor<'_> for Power {
            type Value = SyncPorts;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("1, 2, 4, 8, 16, 32 or 64")
            }

            fn visit_u64<E: de::Error>(self, number: u64) -> Result<SyncPorts, E> {
                SyncPorts::new(number).ok_or_else(|| E::invalid_value(Unexpected::Unsigned(number), &self))
            }
        }
        deserializer.deserialize_u64(Power)
    }
}

impl JsonSchema for SyncPorts {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "SyncPorts".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "enum": SyncPorts::ALL })
    }
}

/// `sync_threshold`: a packet, and of how many packets it is one. The packet is below the period, but if that is 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct SyncThreshold([u32; 2]);

impl SyncThreshold {
    /// The numbers, if they are allowed together.
    pub fn new(numbers: [u32; 2]) -> Option<SyncThreshold> {
        let [packet, period] = numbers;
        let is_right = numbers.iter().all(|number| *number <= i32::MAX as u32);
        (is_right && (period == 0 || packet < period)).then_some(SyncThreshold(numbers))
    }

    /// The numbers.
    pub const fn get(self) -> [u32; 2] {
        self.0
    }
}

impl<'de> Deserialize<'de> for SyncThreshold {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<SyncThreshold, D::Error> {
        struct Pair;
        impl<'de> Visitor<'de> for Pair {
            type Value = SyncThreshold;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(
                    "two numbers from 0 to 2147483647 in [ ], the first below the second or the second 0",
                )
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut numbers: A) -> Result<SyncThreshold, A::Error> {
                let refused = || de::Error::invalid_value(Unexpected::Seq, &self);
                let mut next = || numbers.next_element::<Quantity>().map_err(|_| refused());
                match (next()?, next()?, next()?) {
                    (Some(packet), Some(period), None) => {
                        SyncThreshold::new([packet.get(), period.get()]).ok_or_else(refused)
                    }
                    _ => Err(refused()),
                }
            }
        }
        deserializer.deserialize_tuple(2, Pair)
    }
}

impl JsonSchema for SyncThreshold {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "SyncThreshold".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        let number = serde_json::json!({ "type": "integer", "minimum": 0, "maximum": i32::MAX });
        json_schema!({ "type": "array", "items": number, "minItems": 2, "maxItems": 2 })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_refused_is_not_in_the_table() {
        let known: Vec<&str> =
            director::Tunables::default().numbers().iter().map(|(name, _)| *name).collect();
        for name in REFUSED.iter().flat_map(|(names, _)| *names) {
            assert!(!known.contains(name), "{name}");
        }
        assert!(Tunables::why_not("conntrack").is_some_and(|why| why.contains("tracking")));
        assert_eq!(Tunables::why_not("conn_track"), None);
    }

    #[test]
    fn numbers_are_those_of_the_director() {
        let modes = u64::from(director::Tunables::MAX_CONN_REUSE_MODE);
        assert!(ReuseMode::new(modes).is_some() && ReuseMode::new(modes + 1).is_none());
        assert_eq!(director::Tunables::from(Tunables::default()), director::Tunables::default());
    }

    #[test]
    fn a_threshold_is_below_its_period_if_that_is_not_0() {
        let rows = [([3, 50], true), ([0, 0], true), ([7, 0], true), ([0, 1], true), ([50, 50], false)];
        for (numbers, is_right) in rows {
            assert_eq!(SyncThreshold::new(numbers).is_some(), is_right, "{numbers:?}");
        }
        let largest = i32::MAX as u32;
        assert!(SyncThreshold::new([0, largest]).is_some() && SyncThreshold::new([0, largest + 1]).is_none());
    }
}
