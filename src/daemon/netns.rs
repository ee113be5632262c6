//! Network namespaces: entering one, and being the only daemon in it.

use anyhow::{Context, bail};
use nix::sched::{CloneFlags, setns};
use std::fs::{self, File, Metadata};
use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::{SocketAddr, UnixListener, UnixStream};
use std::path::PathBuf;

/// Where `ip netns` keeps namespaces.
const NAMESPACES: &str = "/run/netns";
/// The network namespace of this process.
const OWN: &str = "/proc/self/ns/net";
/// Abstract socket names belong to the network namespace, as queues do: whoever has this one is its daemon.
const LOCK_NAME: &[u8] = b"nfvs";
/// More than the backlog of a socket holds.
const MAX_CALLERS: usize = 8192;

/// The network namespace of this process, and the name by which it was entered.
#[derive(Debug)]
pub(super) struct NamedNamespace {
    name: String,
    path: PathBuf,
    identity: Identity,
}

/// Why a namespace that was entered is one no longer, for anybody outside.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum NamespaceGone {
    /// Nothing has the name.
    #[error("the network namespace \"{0}\" was removed: there is nothing left to serve")]
    Removed(String),
    /// Something else has the name.
    #[error(
        "the network namespace \"{0}\" was removed, and another one has its name: start again to serve that"
    )]
    Replaced(String),
}

/// What tells one namespace from all others that there are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Identity {
    /// The same for all namespaces, and for nothing else: that of the kernel's own file system nsfs.
    device: u64,
    inode: u64,
}

impl Identity {
    fn of(metadata: &Metadata) -> Identity {
        Identity { device: metadata.dev(), inode: metadata.ino() }
    }
}

impl NamedNamespace {
    /// Moves this process into the named network namespace. To be called before any thread starts. Does not move if
    /// the process is there already, which is how a service manager starts it, without CAP_SYS_ADMIN.
    ///
    /// # Errors
    /// If there is no such namespace, or entering it is not allowed.
    pub(super) fn enter(name: &str) -> anyhow::Result<NamedNamespace> {
        let path = PathBuf::from(NAMESPACES).join(name);
        let place = path.display();
        let file = match File::open(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => bail!(
                "there is no network namespace \"{name}\": {place} does not exist; `ip netns add {name}` makes it"
            ),
            Err(error) => return Err(error).with_context(|| format!("cannot open {place}")),
        };
        let own = fs::metadata(OWN).with_context(|| format!("cannot look at {OWN}"))?;
        let own = Identity::of(&own);
        let identity = Identity::of(&file.metadata().with_context(|| format!("cannot look at {place}"))?);
        if identity.device != own.device {
            bail!(
                "there is no network namespace \"{name}\": {place} is a file without one; `ip netns del {name}` \
                 removes it"
            );
        }
        if identity != own {
            setns(&file, CloneFlags::CLONE_NEWNET).map_err(|error| match error {
                nix::Error::EPERM => anyhow::anyhow!(
                    "cannot enter the network namespace \"{name}\": this needs the capability CAP_SYS_ADMIN; run \
                     as root, or let the service manager place the daemon there"
                ),
                other => anyhow::anyhow!("cannot enter the network namespace \"{name}\": {other}"),
            })?;
        }
        Ok(NamedNamespace { name: name.to_owned(), path, identity })
    }

    /// Checks that the name still leads to this namespace. Once it does not, nobody but this process has it: it lives
    /// on, out of reach, for as long as the process does.
    ///
    /// # Errors
    /// If the name leads nowhere, or elsewhere. Being unable to look is no error: nothing is known then.
    pub(super) fn check(&self) -> Result<(), NamespaceGone> {
        let found = match fs::metadata(&self.path) {
            Ok(metadata) => Identity::of(&metadata),
            Err(error) if [io::ErrorKind::NotFound, io::ErrorKind::NotADirectory].contains(&error.kind()) => {
                return Err(NamespaceGone::Removed(self.name.clone()));
            }
            Err(error) => {
                tracing::debug!(%error, path = %self.path.display(), "cannot look for the namespace's name");
                return Ok(());
            }
        };
        if found == self.identity {
            Ok(())
        } else if found.device == self.identity.device {
            Err(NamespaceGone::Replaced(self.name.clone()))
        } else {
            // The file that namespaces are mounted on, with none on it any more.
            Err(NamespaceGone::Removed(self.name.clone()))
        }
    }
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
        // Anybody in the namespace may ask, faster than this could come to an end.
        for _ in 0..MAX_CALLERS {
            if self.listener.accept().is_err() {
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_that_leads_nowhere_or_elsewhere_is_told_apart() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        let own = Identity::of(&fs::metadata(OWN).unwrap());
        let check =
            |name: &str| NamedNamespace { name: "blue".to_owned(), path: path(name), identity: own }.check();
        let removed = Err(NamespaceGone::Removed("blue".to_owned()));
        std::os::unix::fs::symlink(OWN, path("same")).unwrap();
        assert_eq!(check("same"), Ok(()));
        // Any other thing of the kernel's file system of namespaces.
        std::os::unix::fs::symlink("/proc/self/ns/uts", path("other")).unwrap();
        assert_eq!(check("other"), Err(NamespaceGone::Replaced("blue".to_owned())));
        assert_eq!(check("missing"), removed);
        File::create(path("empty")).unwrap();
        assert_eq!(check("empty"), removed);
        assert_eq!(check("empty/below"), removed);
        std::os::unix::fs::symlink(path("circle"), path("circle")).unwrap();
        assert_eq!(check("circle"), Ok(()), "nothing is known");
    }
}
