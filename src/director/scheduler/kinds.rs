//! The schedulers there are and the flags they take, by the names of `ipvsadm -s` and `-b`.
//!
//! They stand in one table each. The director's types are made of it here, the configuration's words in
//! `config::scheduler_words`.

use std::fmt;
use std::str::FromStr;

/// Gives the table of schedulers to the macro `$then`: description, variant and name of each; one is the default.
macro_rules! scheduler_table {
    ($then:ident) => {
        $then! {
            /// Round robin: each server in turn.
            Rr = "rr",
            /// Weighted round robin: in turn, in proportion to the weights.
            Wrr = "wrr",
            /// Least connection: the server with the least load.
            Lc = "lc",
            /// Weighted least connection: the server with the least load in proportion to its weight.
            #[default]
            Wlc = "wlc",
            /// Shortest expected delay: the server with the fewest active connections, the new one included, in
            /// proportion to its weight.
            Sed = "sed",
            /// Never queue: a server without active connections, and else as "sed".
            Nq = "nq",
            /// Weighted failover: the server with the highest weight.
            Fo = "fo",
            /// Weighted overflow: the server with the highest weight whose active connections are not more than that.
            Ovf = "ovf",
            /// Destination hashing: by the address that the client asked for.
            Dh = "dh",
            /// Source hashing: by the client's address, in proportion to the weights.
            Sh = "sh",
            /// Maglev hashing: by the client's address, in proportion to the weights; few clients move when servers
            /// come and go.
            Mh = "mh",
            /// Locality-based least connection: one server for each address that clients ask for.
            Lblc = "lblc",
            /// The same with replication: servers for each address that clients ask for, more when these are busy.
            Lblcr = "lblcr",
            /// Power of two choices: the less loaded of two servers that are drawn in proportion to the weights.
            Twos = "twos",
            /// Uniformly at random among the servers of weight 1 or more.
            Random = "random",
            /// At random, in proportion to the weights.
            Wrandom = "wrandom",
            /// Least load in proportion to weights that follow what the servers report; without reports, as "wlc".
            Feedback = "feedback",
        }
    };
}

pub(crate) use scheduler_table;

/// Gives the table of flags to the macro `$then`: description, variant, name, scheduler and bit of each.
macro_rules! scheduler_flag_table {
    ($then:ident) => {
        $then! {
            /// A client whose server has weight 0 or is full gets another.
            ShFallback = "sh-fallback" of Sh, FALLBACK,
            /// The client's port counts as well as its address.
            ShPort = "sh-port" of Sh, PORT,
            /// A client whose server has weight 0 or is full gets another.
            MhFallback = "mh-fallback" of Mh, FALLBACK,
            /// The client's port counts as well as its address.
            MhPort = "mh-port" of Mh, PORT,
        }
    };
}

pub(crate) use scheduler_flag_table;

macro_rules! define_kinds {
    ($($(#[$meta:meta])* $variant:ident = $name:literal,)*) => {
        /// The schedulers there are; the default is that of `ipvsadm`.
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
        pub enum SchedulerKind { $($(#[$meta])* $variant,)* }

        impl SchedulerKind {
            /// All kinds.
            pub const ALL: &[SchedulerKind] = &[$(SchedulerKind::$variant,)*];

            /// The name, as `ipvsadm -s` takes it.
            pub const fn name(self) -> &'static str {
                match self { $(SchedulerKind::$variant => $name,)* }
            }
        }
    };
}

scheduler_table!(define_kinds);

impl SchedulerKind {
    /// Whether it keeps something that it forgets in time, see
    /// [`Scheduler::on_tick`](super::Scheduler::on_tick).
    pub const fn forgets(self) -> bool {
        matches!(self, SchedulerKind::Lblc | SchedulerKind::Lblcr)
    }

    /// How many servers it can have; `None`: any number.
    pub const fn most_servers(self) -> Option<usize> {
        match self {
            SchedulerKind::Mh => Some(super::mh::BUCKETS),
            _ => None,
        }
    }
}

impl fmt::Display for SchedulerKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl FromStr for SchedulerKind {
    type Err = UnknownScheduler;

    fn from_str(name: &str) -> Result<SchedulerKind, UnknownScheduler> {
        SchedulerKind::ALL.iter().copied().find(|kind| kind.name() == name).ok_or(UnknownScheduler)
    }
}

/// No scheduler has the name given; [`SchedulerKind::ALL`] are those that exist.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("unknown scheduler")]
pub struct UnknownScheduler;

macro_rules! define_flags {
    ($($(#[$doc:meta])* $variant:ident = $name:literal of $kind:ident, $bit:ident,)*) => {
        /// What can be set for a scheduler (`ipvsadm -b`).
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum SchedulerFlag { $($(#[$doc])* $variant,)* }

        impl SchedulerFlag {
            /// All flags, those of one scheduler in the order in which `ipvsadm` shows them.
            pub const ALL: &[SchedulerFlag] = &[$(SchedulerFlag::$variant,)*];

            /// The name, as `ipvsadm -b` takes it.
            pub const fn name(self) -> &'static str {
                match self { $(SchedulerFlag::$variant => $name,)* }
            }

            /// The scheduler that has it.
            pub const fn scheduler(self) -> SchedulerKind {
                match self { $(SchedulerFlag::$variant => SchedulerKind::$kind,)* }
            }

            const fn bit(self) -> u8 {
                match self { $(SchedulerFlag::$variant => SchedulerFlags::$bit,)* }
            }
        }
    };
}

scheduler_flag_table!(define_flags);

impl fmt::Display for SchedulerFlag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// The flags of a service's scheduler. What each means is the scheduler's affair.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct SchedulerFlags(u8);

impl SchedulerFlags {
    /// `IP_VS_SVC_F_SCHED1`.
    const FALLBACK: u8 = 0x08;
    /// `IP_VS_SVC_F_SCHED2`.
    const PORT: u8 = 0x10;

    /// Whether what cannot be had is replaced (`sh-fallback`, `mh-fallback`).
    pub const fn has_fallback(self) -> bool {
        self.0 & SchedulerFlags::FALLBACK != 0
    }

    /// Whether the client's port counts (`sh-port`, `mh-port`).
    pub const fn has_port(self) -> bool {
        self.0 & SchedulerFlags::PORT != 0
    }

    /// By what names a scheduler of this kind has them.
    pub fn of(self, kind: SchedulerKind) -> impl Iterator<Item = SchedulerFlag> {
        let is_set = move |flag: &SchedulerFlag| flag.scheduler() == kind && self.0 & flag.bit() != 0;
        SchedulerFlag::ALL.iter().copied().filter(is_set)
    }
}

impl FromIterator<SchedulerFlag> for SchedulerFlags {
    fn from_iter<I: IntoIterator<Item = SchedulerFlag>>(flags: I) -> SchedulerFlags {
        SchedulerFlags(flags.into_iter().fold(0, |bits, flag| bits | flag.bit()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_stand_for_themselves() {
        for &kind in SchedulerKind::ALL {
            assert_eq!(kind.to_string().parse(), Ok(kind));
        }
        assert_eq!("rrr".parse::<SchedulerKind>(), Err(UnknownScheduler));
        assert_eq!(SchedulerKind::default().name(), "wlc");
    }

    #[test]
    fn flags_are_those_of_their_scheduler() {
        for &flag in SchedulerFlag::ALL {
            let flags: SchedulerFlags = [flag].into_iter().collect();
            assert_eq!(flags.of(flag.scheduler()).collect::<Vec<_>>(), [flag]);
            assert_eq!(flags.of(SchedulerKind::Wlc).count(), 0);
            assert_eq!(flags.has_port(), flag.name().ends_with("-port"), "{flag}");
            assert_eq!(flags.has_fallback(), flag.name().ends_with("-fallback"), "{flag}");
        }
        let both: SchedulerFlags = [SchedulerFlag::ShPort, SchedulerFlag::ShFallback].into_iter().collect();
        let names = both.of(SchedulerKind::Sh).map(SchedulerFlag::name);
        assert_eq!(names.collect::<Vec<_>>(), ["sh-fallback", "sh-port"]);
        assert_eq!(both.of(SchedulerKind::Mh).count(), 2, "the bits are the same, as in the kernel");
    }
}
