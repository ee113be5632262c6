//! `nfvs sync test`: who has answered, and why perhaps nobody has.

use super::show::{by_reason, sync_daemon};
use crate::daemon::api::{SyncTestBackup, SyncTestStatus};
use anyhow::bail;
use std::io::Write;

/// Prints who has answered, a line each.
pub(super) fn print(tested: &SyncTestStatus, out: &mut impl Write) -> anyhow::Result<()> {
    let sealed = if tested.authenticated { "with a key" } else { "without a key" };
    writeln!(out, "asked by the master ({}, ttl={}) {sealed}", sync_daemon(&tested.daemon), tested.ttl)?;
    for failure in &tested.failed {
        writeln!(out, "  port {}: the question did not leave: {}", failure.port, failure.error)?;
    }
    for backup in &tested.backups {
        writeln!(out, "  {}", line(backup, tested.authenticated))?;
    }
    if !tested.refused.is_empty() {
        writeln!(out, "  answers refused: {}", by_reason(&tested.refused))?;
    }
    Ok(())
}

/// What a backup has answered.
fn line(backup: &SyncTestBackup, sealed: bool) -> String {
    let SyncTestBackup { address, syncid, authenticated, lost, answered, silent } = backup;
    let micros = || answered.iter().map(|port| port.micros);
    let (least, most) = (micros().min().unwrap_or_default(), micros().max().unwrap_or_default());
    let mut line = match answered.len() + silent.len() {
        1 => format!("{address}: answered in {}", millis(least)),
        ports => {
            let count = answered.len();
            format!(
                "{address}: answered by {count} of {ports} ports in {} to {}",
                millis(least),
                millis(most)
            )
        }
    };
    if !silent.is_empty() {
        let silent: Vec<String> = silent.iter().map(u16::to_string).collect();
        line += &format!(", not by {}", silent.join(" "));
    }
    if sealed {
        line += if *authenticated { ", with the key" } else { ", without a key" };
    }
    line += &format!(", syncid {syncid}");
    if let Some(lost) = lost {
        line += &format!(", messages lost {lost}");
    }
    line
}

fn millis(micros: u64) -> String {
    format!("{}.{:02} ms", micros / 1000, micros % 1000 / 10)
}

/// Fails if fewer backups have answered by every port than are expected.
pub(super) fn judge(tested: &SyncTestStatus, expected: usize) -> anyhow::Result<()> {
    let count = tested.backups.iter().filter(|backup| backup.silent.is_empty()).count();
    if count >= expected {
        return Ok(());
    }
    let (daemon, wait) = (&tested.daemon, tested.wait);
    let last = daemon.port + (daemon.ports - 1);
    let ports = if last > daemon.port { format!("{}-{last}", daemon.port) } else { last.to_string() };
    let who = match (tested.backups.len(), count, expected) {
        (0, ..) => format!("nobody has answered within {wait} s"),
        (_, 0, 1) => {
            format!("nobody has answered by every port within {wait} s; is sync_ports the same everywhere?")
        }
        _ => format!("of {expected} backups, {count} answered by every port within {wait} s"),
    };
    bail!(
        "{who}
to look at: whether the backup runs, and is an nfvs (the kernel's IPVS takes messages, but never answers);
  its interface, group {}, port {ports}, syncid {} and keys (nfvs show sync there counts what it refuses);
  firewalls: UDP to port {ports} has to get in there, and UDP from port {ports} by {} here;
  routers in between: ttl {} allows {} of them",
        daemon.group,
        daemon.syncid,
        daemon.interface,
        tested.ttl,
        tested.ttl.saturating_sub(1),
    );
}
