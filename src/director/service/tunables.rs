//! The settings of the whole director, by their kernel names (`net.ipv4.vs.*`,
//! `Documentation/networking/ipvs-sysctl.rst`).

/// The tunables. The defaults are the kernel's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tunables {
    /// Whether what has a mark, and finds no server, goes on to where it is addressed.
    pub cache_bypass: bool,
    /// Which connections give way to a SYN that comes from the same port: 0 none; any other value those in TIME_WAIT and
    /// CLOSE; with bit 1 (value 2) those in FIN_WAIT as well whose replies do not pass the director.
    pub conn_reuse_mode: u8,
    /// Whether connections end when their server is removed, and give way to a SYN when its weight is 0.
    pub expire_nodest_conn: bool,
    /// Whether a template whose server has weight 0 is void, so that the client's next connection is scheduled.
    pub expire_quiescent_template: bool,
}

impl Tunables {
    /// The largest `conn_reuse_mode` that means something.
    pub const MAX_CONN_REUSE_MODE: u8 = 3;
}

impl Default for Tunables {
    fn default() -> Tunables {
        Tunables {
            cache_bypass: false,
            conn_reuse_mode: 1,
            expire_nodest_conn: false,
            expire_quiescent_template: false,
        }
    }
}
