//! The names of schedulers and of their flags as they are written: those of the director's tables.

use crate::director::scheduler::{self as director, scheduler_flag_table, scheduler_table};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

macro_rules! written_schedulers {
    ($($(#[$meta:meta])* $variant:ident = $name:literal,)*) => {
        /// Who chooses the real server of a new connection, by the names of `ipvsadm -s`.
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
        #[serde(rename_all = "lowercase")]
        pub enum SchedulerName { $($(#[$meta])* $variant,)* }

        impl From<SchedulerName> for director::SchedulerKind {
            fn from(name: SchedulerName) -> director::SchedulerKind {
                match name { $(SchedulerName::$variant => director::SchedulerKind::$variant,)* }
            }
        }

        impl From<director::SchedulerKind> for SchedulerName {
            fn from(kind: director::SchedulerKind) -> SchedulerName {
                match kind { $(director::SchedulerKind::$variant => SchedulerName::$variant,)* }
            }
        }
    };
}

scheduler_table!(written_schedulers);

macro_rules! written_flags {
    ($($(#[$doc:meta])* $variant:ident = $name:literal of $kind:ident, $bit:ident,)*) => {
        /// What is set for a scheduler, by the names of `ipvsadm -b`.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
        #[serde(rename_all = "kebab-case")]
        pub enum SchedulerFlag { $($(#[$doc])* $variant,)* }

        impl From<SchedulerFlag> for director::SchedulerFlag {
            fn from(flag: SchedulerFlag) -> director::SchedulerFlag {
                match flag { $(SchedulerFlag::$variant => director::SchedulerFlag::$variant,)* }
            }
        }
    };
}

scheduler_flag_table!(written_flags);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_the_names_of_the_director() {
        for &kind in director::SchedulerKind::ALL {
            assert_eq!(serde_json::to_value(SchedulerName::from(kind)).unwrap(), kind.name());
            assert_eq!(director::SchedulerKind::from(SchedulerName::from(kind)), kind);
        }
        for &flag in director::SchedulerFlag::ALL {
            let word: SchedulerFlag = serde_json::from_value(flag.name().into()).unwrap();
            assert_eq!(director::SchedulerFlag::from(word), flag);
        }
    }
}
