//! Why a queue could not be opened.

use std::io;

use super::{counters, socket};

/// Why a queue could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Another socket serves this queue; the kernel allows one.
    #[error("queue {queue} is already served by another process{}", owner_note(*.owner))]
    Owned {
        /// The queue's number.
        queue: u16,
        /// The netlink port of the socket that serves it, if the kernel's list could be read. The first netlink
        /// socket of a process has the process id as its port.
        owner: Option<u32>,
    },
    /// The process may not configure netfilter.
    #[error(
        "serving queue {queue} needs CAP_NET_ADMIN in the user namespace that owns this network namespace"
    )]
    MissingCapability {
        /// The queue's number.
        queue: u16,
    },
    /// The kernel was built without NFQUEUE, or its module is not to be had.
    #[error(
        "this kernel cannot queue packets to user space: NETFILTER_NETLINK_QUEUE (nfnetlink_queue) is missing"
    )]
    NoKernelSupport,
    /// Anything else.
    #[error("cannot {step} queue {queue}")]
    Failed {
        /// The queue's number.
        queue: u16,
        /// What was being done, as a verb.
        step: &'static str,
        /// What the system said.
        source: io::Error,
    },
}

/// A name that is no [`Backend`](super::Backend).
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a queue backend; allowed are \"batched\" and \"nfq\"")]
pub struct UnknownBackend;

impl OpenError {
    /// Names the cause of `source`, which came up when `step` was done to `queue`.
    ///
    /// The kernel says `EPERM` both for a queue of somebody else and for a missing capability. What an innocent
    /// request meets tells them apart.
    pub(super) fn explain(queue: u16, step: &'static str, source: io::Error) -> OpenError {
        let probe = socket::probe().err().and_then(|error| error.raw_os_error());
        match (source.raw_os_error(), probe) {
            (Some(libc::EPROTONOSUPPORT), _) | (Some(libc::EINVAL), Some(libc::EINVAL)) => {
                OpenError::NoKernelSupport
            }
            (Some(libc::EPERM), Some(libc::EPERM)) => OpenError::MissingCapability { queue },
            (Some(libc::EPERM), None) => OpenError::Owned { queue, owner: owner(queue) },
            _ => OpenError::Failed { queue, step, source },
        }
    }
}

/// The netlink port that serves `queue`. Only root may read the list, so there may be no answer.
fn owner(queue: u16) -> Option<u32> {
    let counters = counters::read_counters().ok()?;
    counters.into_iter().find(|counters| counters.queue == queue).map(|counters| counters.owner)
}

fn owner_note(owner: Option<u32>) -> String {
    owner.map(|port| format!(" (netlink port {port})")).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_name_what_is_wrong() {
        let source = || io::Error::from_raw_os_error(libc::ENOMEM);
        for (error, message) in [
            (
                OpenError::Owned { queue: 5, owner: Some(812) },
                "queue 5 is already served by another process (netlink port 812)",
            ),
            (OpenError::Owned { queue: 5, owner: None }, "queue 5 is already served by another process"),
            (OpenError::Failed { queue: 5, step: "configure", source: source() }, "cannot configure queue 5"),
        ] {
            assert_eq!(error.to_string(), message);
        }
    }

    #[test]
    fn a_kernel_without_netfilter_netlink_is_named() {
        let error =
            OpenError::explain(5, "open a socket for", io::Error::from_raw_os_error(libc::EPROTONOSUPPORT));
        assert!(matches!(error, OpenError::NoKernelSupport), "{error}");
    }
}
