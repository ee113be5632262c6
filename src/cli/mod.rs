//! What people type: parse, resolve, run, exit code.
//!
//! Exit codes: 0 done, 1 refused or failed, 2 the command line itself was wrong.

mod arguments;
mod client;
mod dump;
mod output;
mod show;
mod sync_test;
mod zero;

use crate::config::SyncDaemon;
use crate::daemon::api::{Reloaded, Request, SyncSide, SyncTestStatus};
use crate::{config, daemon};
use arguments::{Arguments, Command, Instance, Sync};
use clap::{CommandFactory, Parser};
use client::{Client, Refused};
use output::Output;
use std::io::{self, Write};
use std::process::ExitCode;
use tracing_subscriber::EnvFilter;

/// The command line, from which man pages and completions are made.
pub fn command() -> clap::Command {
    Arguments::command()
}

/// Runs the command line of this process.
pub fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let mut out = Output::new(io::stdout());
    match execute(arguments.command, &mut out) {
        Ok(code) => code,
        // Whoever read the output has seen enough; that is no failure.
        Err(_) if out.is_unwanted() => ExitCode::SUCCESS,
        Err(error) => {
            // Complaints begin with file, line and column, which editors look for.
            let about_a_file = matches!(error.downcast_ref(), Some(config::LoadError::Wrong(_)))
                || error.downcast_ref().is_some_and(Refused::is_located);
            let name = if about_a_file { "" } else { "nfvs: " };
            let _ = writeln!(io::stderr(), "{name}{error:#}");
            ExitCode::FAILURE
        }
    }
}

fn execute(command: Command, out: &mut impl Write) -> anyhow::Result<ExitCode> {
    match command {
        Command::Run { config, instance } => {
            start_log();
            let socket = instance.socket();
            daemon::run(&daemon::RunOptions { config, netns: instance.netns, socket })?;
            return Ok(ExitCode::SUCCESS);
        }
        Command::Prepare { config, netns, group, no_sysctls } => {
            let options = daemon::PrepareOptions { config, netns, group, sysctls: !no_sysctls };
            let prepared = daemon::prepare(&options, out);
            // What was changed stays changed, and is to be known, if the rest failed.
            out.flush()?;
            prepared?;
        }
        Command::Check { file } => {
            config::load(&file)?;
            writeln!(out, "{}: ok", file.display())?;
        }
        Command::Schema => writeln!(out, "{:#}", config::schema())?,
        Command::Reload { instance } => {
            let reloaded: Reloaded = Client::connect(&instance.socket())?.ask(&Request::Reload {})?;
            writeln!(out, "reloaded: {reloaded}")?;
        }
        Command::Show { what, json, instance } => {
            let mut client = Client::connect(&instance.socket())?;
            show::show(&mut client, what, json, out)?;
        }
        Command::Zero { service, instance } => {
            zero::zero(&mut Client::connect(&instance.socket())?, service.as_deref())?;
        }
        Command::Sync(Sync::Dump { pcap: Some(pcap), port, json, .. }) => {
            dump::recording(&pcap, port, json, out)?;
        }
        Command::Sync(Sync::Dump { listen, group, netns, port, json, .. }) => {
            let daemon = SyncDaemon::new(listen.unwrap_or_default(), group, port);
            dump::listen(&daemon::Listener::open(netns.as_deref(), &daemon)?, json, out)?;
        }
        Command::Sync(Sync::Master { instance }) => become_only(SyncSide::Master, &instance)?,
        Command::Sync(Sync::Backup { instance }) => become_only(SyncSide::Backup, &instance)?,
        Command::Sync(Sync::Start { side, daemon, instance }) => {
            let request = Request::StartSync { side, daemon: daemon.written() };
            Client::connect(&instance.socket())?.ask::<()>(&request)?;
        }
        Command::Sync(Sync::Stop { side, instance }) => {
            Client::connect(&instance.socket())?.ask::<()>(&Request::StopSync { side })?;
        }
        Command::Sync(Sync::Test { wait, expect, json, instance }) => {
            let request = Request::TestSync { wait: Some(wait), expect };
            let tested: SyncTestStatus = Client::connect(&instance.socket())?.ask(&request)?;
            if json {
                show::print_json(&tested, out)?;
            } else {
                sync_test::print(&tested, out)?;
            }
            // Who has answered is to be known, if others have not.
            out.flush()?;
            sync_test::judge(&tested, expect.unwrap_or(1).into())?;
        }
        Command::Request { json, instance } => {
            let mut client = Client::connect(&instance.socket())?;
            if !client.relay(&json, out)? {
                out.flush()?;
                return Ok(ExitCode::FAILURE);
            }
        }
    }
    out.flush()?;
    Ok(ExitCode::SUCCESS)
}

fn become_only(role: SyncSide, instance: &Instance) -> anyhow::Result<()> {
    Client::connect(&instance.socket())?.ask(&Request::SetSyncRole { role })
}

/// One line an event, on standard error; `RUST_LOG` chooses what is logged.
fn start_log() {
    let wanted = std::env::var_os(EnvFilter::DEFAULT_ENV).filter(|wanted| !wanted.is_empty());
    let parsed = wanted.map_or(Ok(EnvFilter::new("info")), |_| EnvFilter::try_from_default_env());
    let (filter, wrong) = match parsed {
        Ok(filter) => (filter, None),
        Err(error) => (EnvFilter::new("info"), Some(error)),
    };
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_target(false)
        .with_ansi(false)
        .with_writer(io::stderr)
        // It would panic when nobody reads standard error any more.
        .log_internal_errors(false)
        .init();
    if let Some(error) = wrong {
        tracing::warn!(%error, "RUST_LOG is not understood; taking \"info\"");
    }
}
