//! The settings of the whole director, by their kernel names (`net.ipv4.vs.*`, `Documentation/networking/ipvs-sysctl`).

/// The tunables. The defaults are the kernel's.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tunables {
    /// Whether a template whose server has weight 0 is void, so that the client's next connection is scheduled.
    pub expire_quiescent_template: bool,
}
