//! Network namespaces: entering one, and being the only daemon in it.

use anyhow::{Context, bail};
use nix::sched::{CloneFlags, setns};
use std::fs::File;
use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::{SocketAddr, UnixListener, UnixStream};
use std::path::PathBuf;

/// Where `ip netns` keeps namespaces.
const NAMESPACES: &str = "/run/netns";
/// Abstract socket names belong to the network namespace, as queues do: whoever has this one is its daemon.
const LOCK_NAME: &[u8] = b"nfvs";

/// Moves this process into the named network namespace. To be called before any thread starts. Does nothing if
/// the process is there already, which is how a service manager starts it, without CAP_SYS_ADMIN.
///
/// # Errors
/// If there is no such namespace, or entering it is not allowed.
pub(super) fn enter(name: &str) -> anyhow::Result<()> {
    let path = PathBuf::from(NAMESPACES).join(name);
    let namespace = match File::open(&path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => bail!(
            "there is no network namespace \"{name}\": {} does not exist; `ip netns add {name}` makes it",
            path.display()
        ),
        Err(error) => return Err(error).with_context(|| format!("cannot open {}", path.display())),
    };
    let own = File::open("/proc/self/ns/net").context("cannot open /proc/self/ns/net")?.metadata()?;
    if own.ino() == namespace.metadata()?.ino() {
        return Ok(());
    }
    setns(&namespace, CloneFlags::CLONE_NEWNET).map_err(|error| match error {
        nix::Error::EPERM => anyhow::anyhow!(
            "cannot enter the network namespace \"{name}\": this needs the capability CAP_SYS_ADMIN; run as \
             root, or let the service manager place the daemon there"
        ),
        other => anyhow::anyhow!("cannot enter the network namespace \"{name}\": {other}"),
    })
}

/// Held by the one daemon of a network namespace.
#[derive(Debug)]
pub(super) struct NamespaceLock {
    listener: UnixListener,
}

impl NamespaceLock {
    /// Becomes the namespace's daemon.
    ///
    /// # Errors
    /// If another process is; names its pid.
    pub(super) fn take() -> anyhow::Result<NamespaceLock> {
        let address = SocketAddr::from_abstract_name(LOCK_NAME)?;
        match UnixListener::bind_addr(&address) {
            Ok(listener) => {
                listener.set_nonblocking(true)?;
                Ok(NamespaceLock { listener })
            }
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
                let owner = UnixStream::connect_addr(&address)
                    .and_then(|stream| Ok(rustix::net::sockopt::socket_peercred(&stream)?));
                match owner {
                    Ok(owner) => bail!(
                        "another nfvs serves this network namespace: pid {}",
                        owner.pid.as_raw_nonzero()
                    ),
                    Err(_) => bail!("another nfvs serves this network namespace"),
                }
            }
            Err(error) => Err(error).context("cannot claim this network namespace"),
        }
    }

    /// Forgets who has asked for the owner. Left alone, they fill the socket's backlog, and whoever asks next hangs.
    pub(super) fn forget_callers(&self) {
        while self.listener.accept().is_ok() {}
    }
}
