//! The kernel's own counters of all queues of a network namespace.

use std::fs::{self, Permissions};
use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};

/// What the kernel counts for one queue (`nfnetlink_queue.c`, `seq_show`). Counters start with the queue and wrap.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QueueCounters {
    /// The queue's number.
    pub queue: u16,
    /// The netlink port of the socket that serves it.
    pub owner: u32,
    /// Packets that wait for a verdict now, received or not.
    pub waiting: u32,
    /// Packets dropped because [`max_len`](super::QueueConfig::max_len) packets waited already.
    pub queue_dropped: u32,
    /// Packets dropped because the receive buffer was full.
    pub user_dropped: u32,
    /// Packets that got a number: those handed over, and those in `user_dropped`.
    pub numbered: u32,
}

/// Reads the counters of all queues in the network namespace of the calling thread.
///
/// # Errors
/// `PermissionDenied` for those whom the file's owner, group and mode keep out: all but root, unless
/// [`share_counters`] was there. `NotFound` if the kernel has no NFQUEUE, and `InvalidData` if the list looks unlike
/// what is known.
pub fn read_counters() -> io::Result<Vec<QueueCounters>> {
    parse(&fs::read_to_string(FILE)?)
}

/// Lets the members of a group read the counters of the network namespace of the calling thread, for as long as the
/// namespace lives. Returns whether they could not before.
///
/// # Errors
/// `PermissionDenied` without root, `NotFound` if the kernel has no NFQUEUE.
pub fn share_counters(group: u32) -> io::Result<bool> {
    const GROUP_READS: u32 = 0o040;
    const ALL_READ: u32 = 0o004;
    let now = fs::metadata(FILE)?;
    let mode = now.mode() & 0o777;
    if mode & ALL_READ != 0 || now.gid() == group && mode & GROUP_READS != 0 {
        return Ok(false);
    }
    chown(FILE, None, Some(group))?;
    fs::set_permissions(FILE, Permissions::from_mode(mode | GROUP_READS))?;
    Ok(true)
}

/// Not below /proc/net, which shows the namespace of the process's first thread.
const FILE: &str = "/proc/thread-self/net/netfilter/nfnetlink_queue";

fn parse(text: &str) -> io::Result<Vec<QueueCounters>> {
    text.lines()
        .map(|line| {
            parse_line(line).ok_or_else(|| {
                io::Error::new(
                    io::ErrorKind::InvalidData,
                    format!("unknown form of queue counters: {line:?}"),
                )
            })
        })
        .collect()
}

/// Columns: queue, owner, waiting, copy mode, copy range, queue dropped, user dropped, last number, 1.
fn parse_line(line: &str) -> Option<QueueCounters> {
    let mut columns = line.split_ascii_whitespace().map(|column| column.parse::<u32>().ok());
    let mut next = || columns.next()?;
    let (queue, owner, waiting, _mode, _range) = (next()?, next()?, next()?, next()?, next()?);
    Some(QueueCounters {
        queue: queue.try_into().ok()?,
        owner,
        waiting,
        queue_dropped: next()?,
        user_dropped: next()?,
        numbered: next()?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_the_kernel_prints() {
        let text = "    0   4711     2 2 65531     0     0       12  1\n\
                    65535 4294963120 16384 2   128 4294967295    77 4294967290  1\n";
        let first = QueueCounters {
            queue: 0,
            owner: 4711,
            waiting: 2,
            queue_dropped: 0,
            user_dropped: 0,
            numbered: 12,
        };
        let last = QueueCounters {
            queue: 65_535,
            owner: 4_294_963_120,
            waiting: 16_384,
            queue_dropped: u32::MAX,
            user_dropped: 77,
            numbered: 4_294_967_290,
        };
        assert_eq!(parse(text).unwrap(), [first, last]);
        assert_eq!(parse("").unwrap(), []);
    }

    #[test]
    fn refuses_what_it_does_not_know() {
        for line in
            ["", "1 2 3 4 5 6 7", "1 2 3 4 5 6 x 8 1", "65536 2 3 4 5 6 7 8 1", "-1 2 3 4 5 6 7 8 1", "queue"]
        {
            let error = parse(&format!("{line}\n")).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::InvalidData, "{line:?}");
        }
    }
}
