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
            pub fn numbers(&self) -> Vec<(&'static str, u32)> {
                vec![$((stringify!($name), self.$name.number())),*]
            }

            /// Names and numbers as the kernel shows them: of a defence that acts because memory `is_short`, another
            /// than was set.
            pub fn numbers_now(&self, is_short: bool) -> Vec<(&'static str, u32)> {
                vec![$((stringify!($name), self.$name.number_now(is_short))),*]
            }
        }
    };
}

tunable_table!(define);

/// The value of a tunable.
pub trait TunableValue: Copy {
    /// The value that a number stands for; one that stands for none is taken for the nearest in meaning.
    fn of(number: u32) -> Self;

    /// The number that stands for it.
    fn number(self) -> u32;

    /// The number that the kernel shows for it while memory `is_short`, or is not.
    fn number_now(self, _is_short: bool) -> u32 {
        self.number()
    }
}

impl TunableValue for bool {
    fn of(number: u32) -> bool {
        number != 0
    }

    fn number(self) -> u32 {
        self.into()
    }
}

impl TunableValue for u8 {
    fn of(number: u32) -> u8 {
        u8::try_from(number).unwrap_or(u8::MAX)
    }

    fn number(self) -> u32 {
        self.into()
    }
}

impl TunableValue for u32 {
    fn of(number: u32) -> u32 {
        number
    }

    fn number(self) -> u32 {
        self
    }
}

impl TunableValue for DefenceMode {
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
    }

    #[test]
    fn the_defaults_are_those_of_the_kernel() {
        let defaults = [
            ("am_droprate", 10),
            ("amemthresh", 1024),
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
        ];
        assert_eq!(Tunables::default().numbers(), defaults);
    }

    #[test]
    fn the_table_is_in_the_order_of_names() {
        let tunables = Tunables::default();
        assert!(tunables.numbers().is_sorted_by_key(|(name, _)| *name));
        assert_eq!(tunables.numbers(), tunables.numbers_now(true));
    }
}
