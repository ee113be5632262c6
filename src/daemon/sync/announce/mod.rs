//! Tells the neighbours, when a director comes to be in charge, that the virtual addresses are here. What neighbours
//! have to do with it, and what is said to them: [`links`] and [`announcement`](crate::director::packet).
//!
//! Addresses are looked up each time something is said: whoever puts them on an interface may come a moment later.

mod links;

use crate::daemon::clock::Clock;
use crate::director::packet::{arp_announcement, neighbour_advertisement};
use crate::director::service::ServiceKey;
use crate::director::{Director, Time};
use links::{Link, is_router, links, places};
use nix::sys::socket::{LinkAddr, MsgFlags, sendto};
use rustix::net::{AddressFamily, SocketFlags, SocketType, socket_with};
use std::collections::BTreeSet;
use std::io;
use std::net::IpAddr;
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::task::AbortHandle;

/// How long each round comes after the one before. RFC 4861 (7.2.6, 10) allows three, a second apart; the last is for
/// a switch that lets nothing pass at first, and for addresses that come late.
const ROUNDS: [Duration; 3] = [Duration::ZERO, Duration::from_secs(1), Duration::from_secs(4)];
/// The least time between two rounds, however often somebody asks.
const APART: Duration = Duration::from_secs(1);
/// After so many frames, the next ones wait: 6,400 in a second at most.
const BURST: usize = 64;
const PAUSE: Duration = Duration::from_millis(10);

/// Announces the virtual addresses of a director's services.
#[derive(Debug)]
pub(super) struct Announcer {
    director: Arc<Director>,
    clock: Clock,
    told: Arc<Mutex<Told>>,
    series: Option<Series>,
}

/// What has been told, since the daemon was started.
#[derive(Clone, Debug, Default)]
pub(super) struct Told {
    /// How often it was begun.
    pub times: u64,
    /// ARP announcements sent.
    pub arp: u64,
    /// Neighbour advertisements sent.
    pub neighbour: u64,
    /// What could not be sent.
    pub failed: u64,
    /// How many addresses the last round has found no place for.
    pub nowhere: u64,
    /// When the last round began.
    last: Option<Time>,
    /// Whether the last frame was refused, so that the log says it once.
    was_refused: bool,
}

/// The task of a series of rounds; it ends with this.
#[derive(Debug)]
struct Series(AbortHandle);

impl Drop for Series {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Announcer {
    /// One that has told nothing yet.
    pub(super) fn new(director: &Arc<Director>, clock: Clock) -> Announcer {
        Announcer { director: Arc::clone(director), clock, told: Arc::default(), series: None }
    }

    /// Begins to announce, from the first round. Call it in the runtime.
    pub(super) fn begin(&mut self) {
        lock(&self.told).times += 1;
        let (director, clock, told) = (Arc::clone(&self.director), self.clock, Arc::clone(&self.told));
        let work = async move {
            let last = lock(&told).last;
            let early = last.map_or(Duration::ZERO, |last| APART.saturating_sub(clock.now().since(last)));
            tokio::time::sleep(early).await;
            for pause in ROUNDS {
                tokio::time::sleep(pause).await;
                lock(&told).last = Some(clock.now());
                if let Err(error) = round(&director, &told).await {
                    refused(&told, "nothing can be announced", &error);
                }
            }
        };
        self.series = Some(Series(tokio::spawn(work).abort_handle()));
    }

    /// Announces no more.
    pub(super) fn end(&mut self) {
        self.series = None;
    }

    /// What has been told.
    pub(super) fn told(&self) -> Told {
        lock(&self.told).clone()
    }
}

/// Tells of each virtual address once, wherever it has a place.
async fn round(director: &Director, told: &Mutex<Told>) -> io::Result<()> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    // Of no protocol: it receives nothing.
    let socket = socket_with(AddressFamily::PACKET, SocketType::RAW, flags, None)?;
    let (mut nowhere, mut frames) = (0, Vec::new());
    let links = links()?;
    for address in addresses(director) {
        let places = places(address, links.iter().map(|(link, _)| link));
        if places.is_empty() {
            nowhere += 1;
            tracing::debug!(%address, "no interface here has neighbours that ask for the address");
        }
        let frame = |(position, source): (usize, IpAddr)| (address, &links[position], source);
        frames.extend(places.into_iter().map(frame));
    }
    lock(told).nowhere = nowhere;
    tracing::debug!(frames = frames.len(), nowhere, "announcing virtual addresses");
    for burst in frames.chunks(BURST) {
        for (address, (link, to), source) in burst {
            match send(&socket, *address, link, *source, to) {
                Ok(()) => sent(told, *address),
                Err(error) => {
                    refused(told, &format!("{address} cannot be announced on {}", link.name), &error);
                }
            }
        }
        tokio::time::sleep(PAUSE).await;
    }
    Ok(())
}

/// The virtual addresses of services that other hosts can know.
fn addresses(director: &Director) -> BTreeSet<IpAddr> {
    let services = director.services();
    let address = |key| match key {
        ServiceKey::Endpoint { address, .. } => Some(address),
        ServiceKey::Mark { .. } => None,
    };
    let addresses = services.iter().filter_map(|service| address(service.key()));
    addresses.filter(|address| !address.is_loopback()).collect()
}

fn send(socket: &OwnedFd, address: IpAddr, link: &Link, source: IpAddr, to: &LinkAddr) -> io::Result<()> {
    let frame = match (address, source) {
        (IpAddr::V6(address), IpAddr::V6(source)) => {
            neighbour_advertisement(address, link.ethernet, source, is_router(&link.name))
        }
        (IpAddr::V4(address), _) => arp_announcement(address, link.ethernet),
        (IpAddr::V6(_), IpAddr::V4(_)) => unreachable!("a place is of the address's family"),
    };
    sendto(socket.as_raw_fd(), &frame, to, MsgFlags::empty())?;
    Ok(())
}

fn sent(told: &Mutex<Told>, address: IpAddr) {
    let mut told = lock(told);
    match address {
        IpAddr::V4(_) => told.arp += 1,
        IpAddr::V6(_) => told.neighbour += 1,
    }
    if std::mem::take(&mut told.was_refused) {
        tracing::info!("virtual addresses are announced again");
    }
}

fn refused(told: &Mutex<Told>, what: &str, error: &io::Error) {
    let mut told = lock(told);
    told.failed += 1;
    if !std::mem::replace(&mut told.was_refused, true) {
        tracing::warn!(%error, "{what}; neighbours may go on with what they know");
    }
}

/// Counters cannot be left in a wrong state.
fn lock(told: &Mutex<Told>) -> MutexGuard<'_, Told> {
    told.lock().unwrap_or_else(PoisonError::into_inner)
}
