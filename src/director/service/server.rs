//! A real server of a virtual service (`struct ip_vs_dest`).

use super::load::ReportedLoad;
use super::stats::Stats;
use super::tunnel::Tunnel;
use crate::director::{Route, Time};
use std::fmt;
use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use sync_proto::ConnFlags;

/// Weight of a real server: 0 (no new connections) to 2147483647.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Weight(u32);

impl Weight {
    /// The largest weight.
    pub const MAX: u32 = i32::MAX as u32;

    /// A weight, if `value` is at most [`Weight::MAX`].
    pub const fn new(value: u32) -> Option<Weight> {
        if value <= Weight::MAX { Some(Weight(value)) } else { None }
    }

    /// The number.
    pub const fn get(self) -> u32 {
        self.0
    }
}

impl Default for Weight {
    fn default() -> Weight {
        Weight(1)
    }
}

/// Identifies a real server for the life of the director; never reused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ServerId(pub u64);

impl ServerId {
    /// What stands for a server that is of no service. The others begin above.
    pub const NOBODY: ServerId = ServerId(0);
}

/// How packets reach a real server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ForwardMethod {
    /// Network address translation (`-m`, MASQ).
    Nat,
    /// Local node (LOCALNODE): unchanged, to this host itself.
    Local,
    /// Direct routing (`-g`, DROUTE): unchanged, to the server's link address.
    Dr,
    /// Tunnel (`-i`, TUNNEL): unchanged, inside another packet.
    Tunnel,
    /// None (BYPASS): unchanged, to where it is addressed. Connections without a server have it.
    Bypass,
}

impl ForwardMethod {
    /// The method that a connection with these flags has.
    pub const fn of_connection(flags: ConnFlags) -> ForwardMethod {
        match flags.bits() & ConnFlags::METHOD.bits() {
            1 => ForwardMethod::Local,
            2 => ForwardMethod::Tunnel,
            3 => ForwardMethod::Dr,
            0 => ForwardMethod::Nat,
            // Nothing stands for the others. What another director gives one to is sent nowhere else, as in the kernel.
            _ => ForwardMethod::Bypass,
        }
    }

    /// Whether packets are routed unchanged, each by the [`Route`] from its virtual address to the server.
    pub const fn is_routed(self) -> bool {
        matches!(self, ForwardMethod::Dr | ForwardMethod::Local)
    }

    /// What a connection to a server of this method has from the start: the method's number, and, where replies go
    /// from the server to the client by themselves, [`NOOUTPUT`](ConnFlags::NOOUTPUT) (`ip_vs_bind_dest`).
    pub const fn connection_flags(self) -> ConnFlags {
        let number = match self {
            ForwardMethod::Nat => return ConnFlags::from_bits(0),
            ForwardMethod::Local => 1,
            ForwardMethod::Tunnel => 2,
            ForwardMethod::Dr => 3,
            ForwardMethod::Bypass => return ConnFlags::from_bits(4),
        };
        ConnFlags::from_bits(number | ConnFlags::NOOUTPUT.bits())
    }
}

/// The word in the configuration file.
impl fmt::Display for ForwardMethod {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            ForwardMethod::Nat => "nat",
            ForwardMethod::Local => "local",
            ForwardMethod::Dr => "dr",
            ForwardMethod::Tunnel => "tunnel",
            ForwardMethod::Bypass => "bypass",
        })
    }
}

/// How many connections a server may have (`ipvsadm -x`, `-y`); templates are none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Thresholds {
    /// With as many as this the server is full, and schedulers pass it over; 0: it never is.
    pub upper: u32,
    /// With fewer than this it is not full any more; 0: with fewer than three quarters of `upper`, rounded up.
    pub lower: u32,
}

impl Thresholds {
    /// The largest threshold.
    pub const MAX: u32 = i32::MAX as u32;

    /// Below how many connections a full server is one that may be chosen again.
    const fn effective_lower(self) -> u32 {
        if self.lower == 0 { self.upper - (self.upper >> 2) } else { self.lower }
    }
}

/// How packets reach a real server, and how they may have before: a connection keeps the method it began with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Forwarding {
    /// The method of new connections.
    pub method: ForwardMethod,
    /// Whether it is, or was, [`ForwardMethod::Nat`].
    pub translates: bool,
    /// Whether it is, or was, [`ForwardMethod::Tunnel`].
    pub tunnels: bool,
    /// The route that packets take if the method is, or was, [one that routes](ForwardMethod::is_routed), and replies
    /// if it is, or was, [`ForwardMethod::Tunnel`].
    pub route: Option<Route>,
}

impl Forwarding {
    /// What a server has from the start; one that routes needs a route before its first packet.
    pub fn new(method: ForwardMethod, route: Option<Route>) -> Forwarding {
        let (translates, tunnels) = (method == ForwardMethod::Nat, method == ForwardMethod::Tunnel);
        Forwarding { method, translates, tunnels, route }
    }

    /// The same after a change of the method, with a route where there was none.
    pub fn changed(self, method: ForwardMethod, route: Option<Route>) -> Forwarding {
        let new = Forwarding::new(method, self.route.or(route));
        let (translates, tunnels) = (self.translates || new.translates, self.tunnels || new.tunnels);
        Forwarding { translates, tunnels, ..new }
    }

    const TRANSLATES: u32 = 1 << 31;
    const TUNNELS: u32 = 1 << 30;

    /// All of it in a word, so that nobody sees a part of a change: the route below, above it the flags that
    /// connections begin with.
    fn pack(self) -> u32 {
        let translates = if self.translates { Forwarding::TRANSLATES } else { 0 };
        let tunnels = if self.tunnels { Forwarding::TUNNELS } else { 0 };
        let route = self.route.map_or(0, |route| u32::from(route.0));
        translates | tunnels | self.method.connection_flags().bits() << 16 | route
    }

    fn unpack(word: u32) -> Forwarding {
        let method = ForwardMethod::of_connection(ConnFlags::from_bits(word >> 16));
        let route = word as u16;
        Forwarding {
            method,
            translates: word & Forwarding::TRANSLATES != 0,
            tunnels: word & Forwarding::TUNNELS != 0,
            route: (route != 0).then_some(Route(route)),
        }
    }
}

/// A real server: where it is, how much it gets, how much it has.
#[derive(Debug)]
pub struct RealServer {
    /// Identity, for scheduler state.
    pub id: ServerId,
    /// The server's address.
    pub address: IpAddr,
    /// The server's port; 0: the port the client asked for.
    pub port: u16,
    /// Traffic counters.
    pub stats: Stats,
    /// How loaded it says it is, where its service goes by that.
    pub reported: ReportedLoad,
    forwarding: AtomicU32,
    tunnel: AtomicU32,
    weight: AtomicU32,
    last_weight: AtomicU32,
    available: AtomicBool,
    active: AtomicU32,
    total: AtomicU32,
    templates: AtomicU32,
    upper_threshold: AtomicU32,
    lower_threshold: AtomicU32,
    overloaded: AtomicBool,
}

impl RealServer {
    /// A configured server without connections.
    pub fn new(
        id: ServerId,
        address: IpAddr,
        port: u16,
        forward: ForwardMethod,
        weight: Weight,
    ) -> RealServer {
        RealServer {
            id,
            address,
            port,
            stats: Stats::default(),
            reported: ReportedLoad::default(),
            forwarding: AtomicU32::new(Forwarding::new(forward, None).pack()),
            tunnel: AtomicU32::new(Tunnel::default().pack()),
            weight: AtomicU32::new(weight.get()),
            last_weight: AtomicU32::new(weight.get()),
            available: AtomicBool::new(true),
            active: AtomicU32::new(0),
            total: AtomicU32::new(0),
            templates: AtomicU32::new(0),
            upper_threshold: AtomicU32::new(0),
            lower_threshold: AtomicU32::new(0),
            overloaded: AtomicBool::new(false),
        }
    }

    /// Whether it is of no service: nobody chooses it, and nothing is counted for it.
    pub fn is_nobody(&self) -> bool {
        self.id == ServerId::NOBODY
    }

    /// The current weight.
    pub fn weight(&self) -> Weight {
        Weight(self.weight.load(Ordering::Relaxed))
    }

    /// The weight as it was before it became 0 (`last_weight`); 0 if it was never another since the server was added.
    pub fn last_weight(&self) -> Weight {
        Weight(self.last_weight.load(Ordering::Relaxed))
    }

    /// Changes the weight.
    pub fn set_weight(&self, weight: Weight) {
        if weight.get() != 0 {
            self.last_weight.store(weight.get(), Ordering::Relaxed);
        }
        self.weight.store(weight.get(), Ordering::Relaxed);
    }

    /// Gives the weight to a server that comes back, as if it had never had another.
    pub fn reset_weight(&self, weight: Weight) {
        self.last_weight.store(weight.get(), Ordering::Relaxed);
        self.weight.store(weight.get(), Ordering::Relaxed);
    }

    /// The weight times 1024, multiplied by what follows from the server's reports; 0 only for weight 0.
    pub fn effective_weight(&self, now: Time) -> u64 {
        u64::from(self.weight().get()) * u64::from(self.reported.factor(now).in_1024ths())
    }

    /// How packets reach it.
    pub fn forwarding(&self) -> Forwarding {
        Forwarding::unpack(self.forwarding.load(Ordering::Relaxed))
    }

    /// Changes how packets of new connections reach it.
    pub fn set_forwarding(&self, forwarding: Forwarding) {
        self.forwarding.store(forwarding.pack(), Ordering::Relaxed);
    }

    /// How packets are wrapped that reach it through a tunnel.
    pub fn tunnel(&self) -> Tunnel {
        Tunnel::unpack(self.tunnel.load(Ordering::Relaxed))
    }

    /// Changes how packets are wrapped, also those of connections there are.
    pub fn set_tunnel(&self, tunnel: Tunnel) {
        self.tunnel.store(tunnel.pack(), Ordering::Relaxed);
    }

    /// Whether the server is configured, as opposed to removed with connections left.
    pub fn is_available(&self) -> bool {
        self.available.load(Ordering::Relaxed)
    }

    /// Marks the server as configured or removed.
    pub fn set_available(&self, available: bool) {
        self.available.store(available, Ordering::Relaxed);
    }

    /// How many connections it may have.
    pub fn thresholds(&self) -> Thresholds {
        Thresholds {
            upper: self.upper_threshold.load(Ordering::Relaxed),
            lower: self.lower_threshold.load(Ordering::Relaxed),
        }
    }

    /// Changes how many connections it may have. Between the two thresholds it stays what it was.
    pub fn set_thresholds(&self, thresholds: Thresholds) {
        self.upper_threshold.store(thresholds.upper, Ordering::Relaxed);
        self.lower_threshold.store(thresholds.lower, Ordering::Relaxed);
        let total = self.total_conns();
        if thresholds.upper == 0 || total < thresholds.effective_lower() {
            self.overloaded.store(false, Ordering::Relaxed);
        } else if total >= thresholds.upper {
            self.overloaded.store(true, Ordering::Relaxed);
        }
    }

    /// Whether it has got as many connections as it may have, and not yet lost enough of them
    /// (`IP_VS_DEST_F_OVERLOAD`).
    pub fn is_overloaded(&self) -> bool {
        self.overloaded.load(Ordering::Relaxed)
    }

    /// Whether a scheduler may choose the server.
    pub fn is_eligible(&self) -> bool {
        self.weight().get() > 0 && !self.is_overloaded()
    }

    /// Connections in an active state (`activeconns`).
    pub fn active_conns(&self) -> u32 {
        self.active.load(Ordering::Relaxed)
    }

    /// All connections (`totalconns`).
    pub fn total_conns(&self) -> u32 {
        self.total.load(Ordering::Relaxed)
    }

    /// Connections that are not active, as `ipvsadm` shows them.
    pub fn inactive_conns(&self) -> u32 {
        self.total_conns().saturating_sub(self.active_conns())
    }

    /// Persistence templates (`persistconns`), which are not connections.
    pub fn templates(&self) -> u32 {
        self.templates.load(Ordering::Relaxed)
    }

    /// Whether anything in the table still refers to the server.
    pub fn is_in_use(&self) -> bool {
        self.total_conns() > 0 || self.templates() > 0
    }

    /// The load that lc and wlc compare: `active * 256 + total` (`ip_vs_dest_conn_overhead`).
    pub fn load(&self) -> u64 {
        u64::from(self.active_conns()) * 256 + u64::from(self.total_conns())
    }

    /// Counts a new connection.
    pub fn bind_connection(&self, active: bool) {
        let total = self.total.fetch_add(1, Ordering::Relaxed) + 1;
        if total == self.upper_threshold.load(Ordering::Relaxed) {
            self.overloaded.store(true, Ordering::Relaxed);
        }
        if active {
            self.active.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Counts the end of a connection.
    pub fn unbind_connection(&self, active: bool) {
        let total = self.total.fetch_sub(1, Ordering::Relaxed);
        if self.is_overloaded() && total == self.thresholds().effective_lower() {
            self.overloaded.store(false, Ordering::Relaxed);
        }
        if active {
            self.active.fetch_sub(1, Ordering::Relaxed);
        }
    }

    /// Counts a new template.
    pub fn bind_template(&self) {
        self.templates.fetch_add(1, Ordering::Relaxed);
    }

    /// Counts the end of a template.
    pub fn unbind_template(&self) {
        self.templates.fetch_sub(1, Ordering::Relaxed);
    }

    /// Counts a connection that became active or ceased to be.
    pub fn set_connection_active(&self, active: bool) {
        if active {
            self.active.fetch_add(1, Ordering::Relaxed);
        } else {
            self.active.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_remembers_how_its_connections_may_have_begun() {
        let nat = Forwarding::new(ForwardMethod::Nat, None);
        let dr = nat.changed(ForwardMethod::Dr, Some(Route(65_534)));
        let route = Some(Route(65_534));
        assert_eq!(dr, Forwarding { method: ForwardMethod::Dr, translates: true, tunnels: false, route });
        let again = dr.changed(ForwardMethod::Nat, None);
        assert_eq!(again, Forwarding { method: ForwardMethod::Nat, ..dr });
        let always_dr = Forwarding::new(ForwardMethod::Dr, Some(Route(1)));
        assert!(!always_dr.translates);
        let tunnel = Forwarding::new(ForwardMethod::Tunnel, None);
        let local = Forwarding::new(ForwardMethod::Local, Some(Route(7)));
        let once_tunnel = tunnel.changed(ForwardMethod::Nat, None);
        assert!(tunnel.tunnels && once_tunnel.tunnels && once_tunnel.translates && !dr.tunnels);
        for forwarding in [nat, dr, again, always_dr, tunnel, once_tunnel, local] {
            assert_eq!(Forwarding::unpack(forwarding.pack()), forwarding);
        }
    }

    #[test]
    fn connections_begin_with_the_flags_of_the_kernel() {
        assert_eq!(ForwardMethod::Nat.connection_flags().to_string(), "0x0000");
        assert_eq!(ForwardMethod::Dr.connection_flags().to_string(), "0x0083");
        assert_eq!(ForwardMethod::Local.connection_flags().to_string(), "0x0081");
        assert_eq!(ForwardMethod::Bypass.connection_flags().to_string(), "0x0004");
    }
}
