//! The synchronisation with other directors: who runs, with what, and what came of it. What is said, and what becomes
//! of what others say, is for the director.

mod announce;
mod backup;
mod listen;
mod master;
mod resync;
mod seal;
mod secrets;
mod selftest;
mod socket;
mod status;
mod thread;

use super::api::SyncSide;
use super::clock::Clock;
use crate::config::{Config, Resync, SyncDaemon, SyncSettings};
use crate::director::Director;
use crate::director::service::Services;
use crate::director::sync::{BackupSettings, MasterSettings};
use announce::Announcer;
use anyhow::{Context, bail};
use backup::Backup;
pub use listen::Listener;
use master::{Desk, Master};
use resync::guest::Guest;
use resync::host::Host;
use secrets::{Secrets, Valid};
pub(super) use selftest::ask::Test;
use socket::Index;
use std::io;
use std::net::UdpSocket;
use std::sync::Arc;
use sync_proto::SyncId;

/// The longest message a backup takes in unless configured, and the least that it can be told to, in bytes of UDP
/// payload.
const LONGEST: u16 = u16::MAX;
const LEAST_OF_BACKUP: u16 = 1024;
/// The kernel has no more ports.
const MOST_PORTS: u32 = 64;

/// Both sides of the synchronisation.
#[derive(Debug)]
pub(super) struct Sync {
    director: Arc<Director>,
    clock: Clock,
    /// Drawn by lot: tells this daemon's questions and answers from those of others.
    who: u32,
    /// What the configuration file had when it was last looked at.
    configured: SyncSettings,
    secrets: Valid,
    master: Option<Side<Master>>,
    backup: Option<Side<Backup>>,
    announcer: Announcer,
}

/// What the configuration file has for the synchronisation, with what the file of keys has.
#[derive(Clone, Debug)]
pub(super) struct Wanted {
    settings: SyncSettings,
    secrets: Option<Arc<Secrets>>,
}

impl Wanted {
    /// Reads the keys. That may take as long as the disk wants.
    ///
    /// # Errors
    /// What is wrong with the keys.
    pub(super) fn load(config: &Config) -> anyhow::Result<Wanted> {
        let secrets = config.sync.authentication.as_ref().map(Secrets::load).transpose()?;
        Ok(Wanted { settings: config.sync.clone(), secrets: secrets.map(Arc::new) })
    }
}

/// A side, and with what it runs.
#[derive(Debug)]
struct Side<T> {
    daemon: SyncDaemon,
    ports: u16,
    maxlen: u16,
    runs: T,
}

/// What becomes of a side.
#[derive(Debug)]
enum Change<T> {
    None,
    Stop,
    /// All that can fail has been done.
    Start(Side<T>),
}

/// What a new configuration does to the two sides.
#[derive(Debug)]
pub(super) struct Prepared {
    wanted: Wanted,
    master: Change<Master>,
    backup: Change<Backup>,
    /// Whether the virtual addresses are announced once more if they have been already.
    announces_again: bool,
}

impl Prepared {
    /// This, and a side not running.
    fn without(mut self, side: SyncSide) -> Prepared {
        match side {
            SyncSide::Master => self.master = Change::Stop,
            SyncSide::Backup => self.backup = Change::Stop,
        }
        self
    }
}

impl Sync {
    /// Nothing runs yet. `who` is drawn by lot.
    pub(super) fn new(director: &Arc<Director>, clock: Clock, who: u32) -> Sync {
        let director = Arc::clone(director);
        let (configured, secrets) = (SyncSettings::default(), Valid::default());
        let announcer = Announcer::new(&director, clock);
        Sync { director, clock, who, configured, secrets, master: None, backup: None, announcer }
    }

    /// What the configuration file had when it was last looked at.
    pub(super) fn configured(&self) -> Wanted {
        Wanted { settings: self.configured.clone(), secrets: self.secrets.load_full() }
    }

    /// Whether the configuration file has something else now.
    pub(super) fn is_changed(&self, wanted: &Wanted) -> bool {
        wanted.settings != self.configured || wanted.secrets != self.secrets.load_full()
    }

    /// Gets ready for what the configuration file has now, with these tunables, without a change to what runs. A
    /// side whose settings are as the file had them before stays as it is: whoever gave the director another role
    /// meant it.
    ///
    /// # Errors
    /// What keeps a side from running.
    pub(super) fn prepare(&self, wanted: Wanted, services: &Services) -> anyhow::Result<Prepared> {
        let Wanted { settings, secrets } = &wanted;
        let seals = secrets.is_some();
        let resync = settings.resync;
        let is_as_asked = resync == self.configured.resync;
        // What runs was made with room for a trailer, or without.
        let is_as_sealed = seals == self.secrets.load().is_some();
        let is_as_fast = settings.rate == self.configured.rate;
        let running = self.running(SyncSide::Master).filter(|_| !(is_as_sealed && is_as_asked && is_as_fast));
        let master = match (&self.configured.master, &settings.master) {
            (was, is) if was == is => match running {
                Some(daemon) => Change::Start(self.make_master(daemon, services, seals, resync)?),
                None => Change::None,
            },
            (_, None) => Change::Stop,
            (_, Some(daemon)) => Change::Start(self.make_master(daemon, services, seals, resync)?),
        };
        let running = self.running(SyncSide::Backup).filter(|_| !is_as_asked);
        let backup = match (&self.configured.backup, &settings.backup) {
            (was, is) if was == is => match running {
                Some(daemon) => Change::Start(self.make_backup(daemon, services, resync)?),
                None => Change::None,
            },
            (_, None) => Change::Stop,
            (_, Some(daemon)) => Change::Start(self.make_backup(daemon, services, resync)?),
        };
        Ok(Prepared { wanted, master, backup, announces_again: false })
    }

    /// Goes over to what was prepared. Call it in the runtime.
    pub(super) fn commit(&mut self, prepared: Prepared) {
        let has_announced = self.announces();
        let Wanted { settings, secrets } = prepared.wanted;
        self.configured = settings;
        self.secrets.store(secrets);
        match prepared.master {
            Change::None => {}
            Change::Stop => self.end(SyncSide::Master),
            Change::Start(side) => self.begin_master(side),
        }
        match prepared.backup {
            Change::None => {}
            Change::Stop => self.end(SyncSide::Backup),
            Change::Start(side) => self.begin_backup(side),
        }
        if !self.announces() {
            self.announcer.end();
        } else if !has_announced || prepared.announces_again {
            self.announcer.begin();
        }
    }

    /// Whether neighbours are to know this director for the one in charge: the master, and nobody's backup.
    fn announces(&self) -> bool {
        self.configured.announce && self.master.is_some() && self.backup.is_none()
    }

    /// Gets ready to start a side that does not run, as configured unless told otherwise.
    ///
    /// # Errors
    /// If it runs, or what keeps it from running.
    pub(super) fn prepare_start(
        &self,
        side: SyncSide,
        daemon: Option<&SyncDaemon>,
    ) -> anyhow::Result<Prepared> {
        if let Some(running) = self.running(side) {
            bail!("the {side} runs already, on {}", running.interface);
        }
        let daemon = daemon.or_else(|| self.usual(side)).cloned().with_context(|| {
            format!(
                "nothing is configured for the {side}; write \"sync\" into the configuration file, or name an interface"
            )
        })?;
        let (services, resync) = (self.director.services(), self.configured.resync);
        let mut prepared = self.unchanged();
        match side {
            SyncSide::Master => {
                let seals = self.secrets.load().is_some();
                prepared.master = Change::Start(self.make_master(&daemon, &services, seals, resync)?);
            }
            SyncSide::Backup => {
                prepared.backup = Change::Start(self.make_backup(&daemon, &services, resync)?);
            }
        }
        Ok(prepared)
    }

    /// Gets ready to end a side that runs.
    ///
    /// # Errors
    /// If it does not run.
    pub(super) fn prepare_stop(&self, side: SyncSide) -> anyhow::Result<Prepared> {
        if self.running(side).is_none() {
            bail!("the {side} does not run");
        }
        Ok(self.unchanged().without(side))
    }

    /// Gets ready to have one side run, as configured unless it does already, and the other one not.
    ///
    /// # Errors
    /// What keeps it from running.
    pub(super) fn prepare_role(&self, side: SyncSide) -> anyhow::Result<Prepared> {
        let mut prepared = match self.running(side) {
            None => self.prepare_start(side, None)?,
            Some(_) => self.unchanged(),
        };
        // Whoever says so once more may have moved addresses.
        prepared.announces_again = true;
        Ok(prepared.without(match side {
            SyncSide::Master => SyncSide::Backup,
            SyncSide::Backup => SyncSide::Master,
        }))
    }

    /// Whether the master runs.
    pub(super) fn has_master(&self) -> bool {
        self.master.is_some()
    }

    /// Whether the master runs once this is [carried out](Self::commit).
    pub(super) fn has_master_with(&self, prepared: &Prepared) -> bool {
        match prepared.master {
            Change::None => self.has_master(),
            Change::Stop => false,
            Change::Start(_) => true,
        }
    }

    /// Gets ready to ask the backups whether messages arrive.
    ///
    /// # Errors
    /// If no master runs, or answers cannot be heard.
    pub(super) fn prepare_test(&self) -> anyhow::Result<Test> {
        let Some(side) = &self.master else {
            bail!("the master does not run, and only a master asks its backups");
        };
        let ear = socket::ear(&side.daemon)
            .with_context(|| format!("no answers can be heard on {}", side.daemon.interface))?;
        let (errands, bells) = side.runs.errands();
        Ok(Test {
            daemon: status::daemon(side),
            ttl: side.daemon.ttl,
            ear,
            errands,
            trailer: side.runs.trailer(),
            who: self.who,
            secrets: Arc::clone(&self.secrets),
            bells,
            clock: self.clock,
        })
    }

    fn unchanged(&self) -> Prepared {
        let (master, backup) = (Change::None, Change::None);
        Prepared { wanted: self.configured(), master, backup, announces_again: false }
    }

    fn running(&self, side: SyncSide) -> Option<&SyncDaemon> {
        match side {
            SyncSide::Master => self.master.as_ref().map(|side| &side.daemon),
            SyncSide::Backup => self.backup.as_ref().map(|side| &side.daemon),
        }
    }

    /// How a side is configured, if only for the other one.
    fn usual(&self, side: SyncSide) -> Option<&SyncDaemon> {
        let SyncSettings { master, backup, .. } = &self.configured;
        match side {
            SyncSide::Master => master.as_ref().or(backup.as_ref()),
            SyncSide::Backup => backup.as_ref().or(master.as_ref()),
        }
    }

    fn make_master(
        &self,
        daemon: &SyncDaemon,
        services: &Services,
        seals: bool,
        resync: Option<Resync>,
    ) -> anyhow::Result<Side<Master>> {
        let sockets = self.open(SyncSide::Master, daemon, services, socket::sender)?;
        let maxlen = daemon.maxlen.unwrap_or(daemon.usual_message());
        let ports = sockets.len() as u16;
        let secrets = seals.then(|| Arc::clone(&self.secrets));
        let syncid = SyncId(daemon.syncid);
        let desk = |Resync { port }| -> anyhow::Result<Desk> {
            let listener = socket::listener(daemon, port).with_context(|| {
                format!(
                    "nobody can ask for the table at TCP port {port} of {} (sync.resync)",
                    daemon.interface
                )
            })?;
            let host = Host::new(&self.director, &self.secrets, self.clock, syncid);
            Ok(Desk { listener, port, host, syncid })
        };
        let desk = resync.map(desk).transpose()?;
        let runs = Master::new(sockets, secrets, desk, &self.director, self.clock)?;
        Ok(Side { daemon: daemon.clone(), ports, maxlen, runs })
    }

    fn make_backup(
        &self,
        daemon: &SyncDaemon,
        services: &Services,
        resync: Option<Resync>,
    ) -> anyhow::Result<Side<Backup>> {
        let sockets = self.open(SyncSide::Backup, daemon, services, socket::receiver)?;
        let maxlen = daemon.maxlen.map_or(LONGEST, |length| length.max(LEAST_OF_BACKUP));
        let ports = sockets.len() as u16;
        let syncid = SyncId(daemon.syncid);
        let guest = resync.map(|_| Guest {
            interface: daemon.interface.clone(),
            syncid,
            director: Arc::clone(&self.director),
            secrets: Arc::clone(&self.secrets),
            clock: self.clock,
        });
        let (maxlen_bytes, secrets, names) = (usize::from(maxlen), &self.secrets, (syncid, self.who));
        let runs = Backup::new(sockets, maxlen_bytes, secrets, guest, names, &self.director, self.clock)?;
        Ok(Side { daemon: daemon.clone(), ports, maxlen, runs })
    }

    /// Opens the sockets of a side, one a port.
    fn open(
        &self,
        side: SyncSide,
        daemon: &SyncDaemon,
        services: &Services,
        open: fn(&SyncDaemon, Index, u16, usize) -> io::Result<UdpSocket>,
    ) -> anyhow::Result<Vec<UdpSocket>> {
        let what = || format!("the {side} of the synchronisation cannot run on {}", daemon.interface);
        let index = Index::of(&daemon.interface).with_context(what)?;
        // The second side has as many ports as the first, whatever has been set since.
        let master = self.master.as_ref().map(|side| side.ports);
        let running = master.or(self.backup.as_ref().map(|side| side.ports));
        let ports = running.unwrap_or(services.tunables.sync_ports.min(MOST_PORTS) as u16);
        let Some(last) = daemon.port.checked_add(ports - 1) else {
            bail!("{}: port {} is too high for {ports} ports (tunables.sync_ports)", what(), daemon.port);
        };
        let buffer = services.tunables.sync_sock_size as usize;
        (daemon.port..=last)
            .map(|port| open(daemon, index, port, buffer))
            .collect::<io::Result<Vec<UdpSocket>>>()
            .with_context(what)
    }

    fn begin_master(&mut self, side: Side<Master>) {
        self.end(SyncSide::Master);
        let settings = MasterSettings {
            syncid: SyncId(side.daemon.syncid),
            max_len: side.maxlen.into(),
            ports: side.ports.into(),
            trailer: side.runs.trailer(),
            rate: self.configured.rate,
        };
        self.director.start_sync_master(settings, side.runs.begin());
        log_begin(SyncSide::Master, &side);
        self.master = Some(side);
    }

    fn begin_backup(&mut self, side: Side<Backup>) {
        self.end(SyncSide::Backup);
        self.director.start_sync_backup(BackupSettings { syncid: SyncId(side.daemon.syncid) });
        side.runs.begin();
        log_begin(SyncSide::Backup, &side);
        self.backup = Some(side);
    }

    fn end(&mut self, side: SyncSide) {
        let ended = match side {
            SyncSide::Master => {
                self.director.stop_sync_master();
                self.master.take().map(|side| side.daemon)
            }
            SyncSide::Backup => {
                let daemon = self.backup.take().map(|side| side.daemon);
                self.director.stop_sync_backup();
                daemon
            }
        };
        if let Some(daemon) = ended {
            tracing::info!(%side, interface = daemon.interface, "no longer synchronising");
        }
    }
}

fn log_begin<T>(side: SyncSide, Side { daemon, ports, .. }: &Side<T>) {
    let SyncDaemon { interface, group, port, .. } = daemon;
    tracing::info!(%side, interface, %group, port, ports, "synchronising");
}
