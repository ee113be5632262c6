//! `nfvs prepare`: what root does for a daemon that runs without root.

use super::netns::NamedNamespace;
use super::preflight;
use super::queue::{self, OpenError};
use crate::config::{self, Config};
use anyhow::{Context, bail};
use nix::unistd::Group;
use std::io::{self, Write};
use std::path::PathBuf;
use std::process::Command;

/// What `nfvs prepare` was told.
#[derive(Clone, Debug)]
pub struct PrepareOptions {
    /// The configuration file of the daemon.
    pub config: PathBuf,
    /// Its network namespace; `None`: the one the process is in.
    pub netns: Option<String>,
    /// The group that may read the kernel's counters of queues, by name or number; `None`: that stays as it is.
    pub group: Option<String>,
    /// Whether forwarding is switched on where the servers need it.
    pub sysctls: bool,
}

/// Makes a network namespace ready for a daemon that runs without root. Says to `out` what it has changed, a line
/// each, and nothing if all was there.
///
/// # Errors
/// What is wrong with the configuration, or what could not be done; what was done before stays.
pub fn prepare(options: &PrepareOptions, out: &mut impl Write) -> anyhow::Result<()> {
    let config = config::load(&options.config)?;
    let group = options.group.as_deref().map(group_id).transpose()?;
    if let Some(name) = &options.netns {
        NamedNamespace::enter(name)?;
    }
    preflight::check_capabilities()?;
    load_queues()?;
    if let (Some(name), Some(id)) = (&options.group, group) {
        let shared = queue::share_counters(id).map_err(|error| {
            let hint = match error.kind() {
                io::ErrorKind::PermissionDenied => ": run as root",
                _ => "",
            };
            anyhow::Error::new(error)
                .context(format!("cannot let the group {name} read the kernel's counters of queues{hint}"))
        })?;
        if shared {
            writeln!(out, "the group {name} may read the kernel's counters of queues")?;
        }
    }
    if options.sysctls {
        switch_on_forwarding(&config, out)?;
    }
    Ok(())
}

fn group_id(group: &str) -> anyhow::Result<u32> {
    if let Some(found) =
        Group::from_name(group).with_context(|| format!("cannot look for the group {group}"))?
    {
        return Ok(found.gid.as_raw());
    }
    match group.parse() {
        // The largest number means none at all.
        Ok(number) if number != u32::MAX => Ok(number),
        _ => bail!("there is no group \"{group}\"; `groupadd --system {group}` makes it"),
    }
}

/// Sees to it that the kernel has NFQUEUE, and with it the file of its counters.
fn load_queues() -> anyhow::Result<()> {
    let is_supported = || queue::is_supported().context("cannot ask the kernel for packet queues");
    if is_supported()? {
        return Ok(());
    }
    // A kernel that does not load modules by itself; this one may not be there, or come to nothing.
    let _ = Command::new("modprobe").arg("nfnetlink_queue").status();
    if is_supported()? { Ok(()) } else { Err(OpenError::NoKernelSupport.into()) }
}

/// As the servers of `config` need it.
fn switch_on_forwarding(config: &Config, out: &mut impl Write) -> anyhow::Result<()> {
    for off in preflight::forwarding_off(&config.servers().map(|server| (server.address, server.forward)))? {
        off.switch_on()?;
        writeln!(out, "the sysctl {} is 1 now: server {} needs it", off.name(), off.server())?;
    }
    Ok(())
}
