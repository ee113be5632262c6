//! The settings of the whole director, by their kernel names (`net.ipv4.vs.*`,
//! `Documentation/networking/ipvs-sysctl.rst`).
//!
//! They stand in one table. The [`Tunables`] that packets are handled by are made of it here, and the configuration
//! makes of it what may be written. What stands there has an effect; a tunable that has none is refused.

use crate::director::defence::DefenceMode;

/// Gives the table of tunables to the macro `$then`: description, name, kind and default of each, in the order of
/// names. The kinds are types where `$then` uses them; the defaults are the kernel's, as the director's types have
/// them.
macro_rules! tunable_table {
    ($then:ident) => {
        $then! {
            /// Of how many packets that would make connections one is dropped where `drop_packet` is 3; 0: none is.
            am_droprate: Quantity = 10,
            /// How little memory is short, in pages of 4096 bytes, each room for 32 connections; see
            /// docs/operations.md.
            amemthresh: Quantity = 1024,
            /// 1: while another director's connections are received, requests are not balanced, but pass as if there
            /// were no services; replies are still translated.
            backup_only: Switch = false,
            /// 1: packets with a mark whose service has no server to choose go on to where they are addressed.
            cache_bypass: Switch = false,
            /// Which connections give way to a SYN from the same port: 0: none; 1: those in TIME_WAIT and CLOSE; 2 and
            /// 3: those in FIN_WAIT as well, if their replies do not pass the director.
            conn_reuse_mode: ReuseMode = 1,
            /// Drop half-open connections, and idle ones, at random: 0: never; 1 and 2: while memory is short (shown as
            /// 2 then); 3: always.
            drop_entry: DefenceMode = DefenceMode::Off,
            /// Drop some of the packets that would make connections: 0: never; 1 and 2: while memory is short (shown as
            /// 2 then), the more the shorter it is; 3: always.
            drop_packet: DefenceMode = DefenceMode::Off,
            /// 1: connections end when their server is removed, and give way to a SYN when its weight is 0.
            expire_nodest_conn: Switch = false,
            /// 1: clients do not stay with a server of weight 0.
            expire_quiescent_template: Switch = false,
            /// 1: what comes out of tunnels of this host (IP in IP, GRE) is not balanced.
            ignore_tunneled: Switch = false,
            /// After how many seconds lblc forgets the server of an address that nobody has asked for.
            lblc_expiration: Quantity = 86_400,
            /// After how many seconds lblcr forgets the servers of an address that nobody has asked for, and takes one
            /// from those that have not changed.
            lblcr_expiration: Quantity = 86_400,
            /// 1: a server reached by NAT that sends what belongs to no connection is told so, by ICMP port
            /// unreachable.
            nat_icmp_send: Switch = false,
            /// 1: clients are told when a packet that must not be fragmented does not fit into the tunnel to its
            /// server; 0: what it is wrapped in may be fragmented.
            pmtu_disc: Switch = true,
            /// 0: rates stay as they are.
            run_estimation: Switch = true,
            /// 1: an ICMP error about a reply of no known connection is scheduled as what was replied to would be.
            schedule_icmp: Switch = false,
            /// Go by the TCP states made for attacks: 0: never; 1 and 2: while memory is short (shown as 2 then); 3:
            /// always.
            secure_tcp: DefenceMode = DefenceMode::Off,
            /// 1: SCTP associations may start in their middle.
            sloppy_sctp: Switch = false,
            /// 1: TCP connections may start in their middle.
            sloppy_tcp: Switch = false,
            /// 1: of clients that stay with a server, that alone is told to other directors, and not their connections.
            sync_persist_mode: Switch = false,
            /// Among how many UDP ports, a power of two, what is told to other directors is shared out; each has a
            /// thread.
            sync_ports: SyncPorts = 1,
            /// How many messages to other directors may wait for each port; further ones are discarded. In the kernel,
            /// the default depends on memory.
            sync_qlen_max: Quantity = 8192,
            /// After how many seconds other directors are told again of a connection that has not changed, with its
            /// next packet; 0: only the number of packets counts.
            sync_refresh_period: Quantity = 0,
            /// How many times that is repeated, an eighth of the period apart.
            sync_retries: SyncRetries = 0,
            /// The size of the sockets' buffers for messages to and from other directors, in bytes; 0: the system's.
            sync_sock_size: Quantity = 0,
            /// After which packet from the client other directors are told of a connection, and in each of how many
            /// packets that is so; `[3, 50]`: after the 3rd, 53rd, 103rd. A period of 0: once, or by
            /// `sync_refresh_period` alone.
            sync_threshold: SyncThreshold = SyncThreshold { packet: 3, period: 50 },
            /// The version of the synchronisation protocol that is written; both are read.
            sync_version: SyncVersion = SyncVersion::V1,
        }
    };
}

pub(crate) use tunable_table;

/// Off or on.
type Switch = bool;
/// Some quantity.
type Quantity = u32;
/// A set of two bits.
type ReuseMode = u8;
/// A power of two.
type SyncPorts = u32;
/// How often.
type SyncRetries = u8;
/// A version of the synchronisation protocol.
type SyncVersion = sync_proto::Version;

/// After which packets other directors are told of a connection (`sync_threshold`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SyncThreshold {
    /// Which packet of each period.
    pub packet: u32,
    /// How many packets are a period; 0: there are no periods.
    pub period: u32,
}

/// A tunable as it is written and shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TunableNumber {
    /// One number.
    One(u32),
    /// Two of them.
    Two([u32; 2]),
}

impl From<u32> for TunableNumber {
    fn from(number: u32) -> TunableNumber {
        TunableNumber::One(number)
    }
}

impl From<[u32; 2]> for TunableNumber {
    fn from(numbers: [u32; 2]) -> TunableNumber {
        TunableNumber::Two(numbers)
    }
}

macro_rules! define {
    ($($(#[$doc:meta])* $name:ident: $kind:ty = $default:expr,)*) => {
        /// The tunables. The defaults are the kernel's.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub struct Tunables {
            $($(#[$doc])* pub $name: $kind,)*
        }

        impl Default for Tunables {
            fn default() -> Tunables {
                Tunables { $($name: $default,)* }
            }
        }

        impl Tunables {
            /// Names and numbers, as they are set.
            pub fn numbers(&self) -> Vec<(&'static str, TunableNumber)> {
                vec![$((stringify!($name), self.$name.number().into())),*]
            }

            /// Names and numbers as the kernel shows them: of a defence that acts because memory `is_short`, another
            /// than was set.
            pub fn numbers_now(&self, is_short: bool) -> Vec<(&'static str, TunableNumber)> {
                vec![$((stringify!($name), self.$name.number_now(is_short).into())),*]
            }
        }
    };
}

tunable_table!(define);

/// The value of a tunable.
pub trait TunableValue: Copy {
    /// What it is written as: a number, or two.
    type Number: Into<TunableNumber>;

    /// The value that a number stands for; one that stands for none is taken for the nearest in meaning.
    fn of(number: Self::Number) -> Self;

    /// The number that stands for it.
    fn number(self) -> Self::Number;

    /// The number that the kernel shows for it while memory `is_short`, or is not.
    fn number_now(self, _is_short: bool) -> Self::Number {
        self.number()
    }
}

impl TunableValue for bool {
    type Number = u32;

    fn of(number: u32) -> bool {
        number != 0
    }

    fn number(self) -> u32 {
        self.into()
    }
}

impl TunableValue for u8 {
    type Number = u32;

    fn of(number: u32) -> u8 {
        u8::try_from(number).unwrap_or(u8::MAX)
    }

    fn number(self) -> u32 {
        self.into()
    }
}

impl TunableValue for u32 {
    type Number = u32;

    fn of(number: u32) -> u32 {
        number
    }

    fn number(self) -> u32 {
        self
    }
}

impl TunableValue for SyncVersion {
    type Number = u32;

    fn of(number: u32) -> SyncVersion {
        if number == 0 { SyncVersion::V0 } else { SyncVersion::V1 }
    }

    fn number(self) -> u32 {
        match self {
            SyncVersion::V0 => 0,
            SyncVersion::V1 => 1,
        }
    }
}

impl TunableValue for SyncThreshold {
    type Number = [u32; 2];

    fn of([packet, period]: [u32; 2]) -> SyncThreshold {
        SyncThreshold { packet, period }
    }

    fn number(self) -> [u32; 2] {
        [self.packet, self.period]
    }
}

impl TunableValue for DefenceMode {
    type Number = u32;

    fn of(number: u32) -> DefenceMode {
        match number {
            0 => DefenceMode::Off,
            // In the kernel, 2 is what 1 becomes while memory is short, and becomes 1 again.
            1 | 2 => DefenceMode::Automatic,
            _ => DefenceMode::Always,
        }
    }

    fn number(self) -> u32 {
        match self {
            DefenceMode::Off => 0,
            DefenceMode::Automatic => 1,
            DefenceMode::Always => 3,
        }
    }

    fn number_now(self, is_short: bool) -> u32 {
        if self == DefenceMode::Automatic && is_short { 2 } else { self.number() }
    }
}

impl Tunables {
    /// The largest `conn_reuse_mode` that means something.
    pub const MAX_CONN_REUSE_MODE: u8 = 3;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_number_means_itself_and_acting_is_shown() {
        let mode = DefenceMode::of;
        assert_eq!([0, 1, 3].map(|number| mode(number).number()), [0, 1, 3]);
        assert_eq!([0, 1, 2, 3].map(|number| mode(number).number_now(true)), [0, 2, 2, 3]);
        assert_eq!([0, 1, 2, 3].map(|number| mode(number).number_now(false)), [0, 1, 1, 3]);
        assert_eq!([0, 1].map(|number| bool::of(number).number()), [0, 1]);
        assert_eq!([0, 1].map(|number| SyncVersion::of(number).number()), [0, 1]);
        assert_eq!(SyncThreshold::of([0, 7]).number(), [0, 7]);
    }

    #[test]
    fn the_defaults_are_those_of_the_kernel() {
        let defaults = [
            ("am_droprate", 10),
            ("amemthresh", 1024),
            ("backup_only", 0),
            ("cache_bypass", 0),
            ("conn_reuse_mode", 1),
            ("drop_entry", 0),
            ("drop_packet", 0),
            ("expire_nodest_conn", 0),
            ("expire_quiescent_template", 0),
            ("ignore_tunneled", 0),
            ("lblc_expiration", 86_400),
            ("lblcr_expiration", 86_400),
            ("nat_icmp_send", 0),
            ("pmtu_disc", 1),
            ("run_estimation", 1),
            ("schedule_icmp", 0),
            ("secure_tcp", 0),
            ("sloppy_sctp", 0),
            ("sloppy_tcp", 0),
            ("sync_persist_mode", 0),
            ("sync_ports", 1),
            ("sync_qlen_max", 8192),
            ("sync_refresh_period", 0),
            ("sync_retries", 0),
            ("sync_sock_size", 0),
            ("sync_version", 1),
        ];
        let numbers = Tunables::default().numbers();
        let (pairs, single): (Vec<_>, Vec<_>) =
            numbers.into_iter().partition(|(_, number)| matches!(number, TunableNumber::Two(_)));
        assert_eq!(single, defaults.map(|(name, number)| (name, TunableNumber::One(number))));
        assert_eq!(pairs, [("sync_threshold", TunableNumber::Two([3, 50]))]);
    }

    #[test]
    fn the_table_is_in_the_order_of_names() {
        let tunables = Tunables::default();
        assert!(tunables.numbers().is_sorted_by_key(|(name, _)| *name));
        assert_eq!(tunables.numbers(), tunables.numbers_now(true));
    }
}
