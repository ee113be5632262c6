//! The tunables as they are written: those of the director's table, and why others of the kernel's are refused.

use super::file::Object;
use super::number::number;
use crate::director::service::{self as director, TunableValue, tunable_table};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

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
        &[
            "sync_ports",
            "sync_persist_mode",
            "sync_qlen_max",
            "sync_refresh_period",
            "sync_retries",
            "sync_sock_size",
            "sync_threshold",
            "sync_version",
        ],
        "this version of nfvs does not synchronise connections with another director",
    ),
    (
        &["backup_only"],
        "this version of nfvs does not synchronise connections, and is no other director's backup",
    ),
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
        assert!(Tunables::why_not("sync_threshold").is_some_and(|why| why.contains("synchronise")));
        assert_eq!(Tunables::why_not("sync_treshold"), None);
    }

    #[test]
    fn numbers_are_those_of_the_director() {
        let modes = u64::from(director::Tunables::MAX_CONN_REUSE_MODE);
        assert!(ReuseMode::new(modes).is_some() && ReuseMode::new(modes + 1).is_none());
        assert_eq!(director::Tunables::from(Tunables::default()), director::Tunables::default());
    }
}
