//! The numbers by which the rules know reply sources and routes: one stock for both in each address family, because a
//! packet's mark carries one of either.

use super::change::CommandError;
use super::{ReplySource, Route};
use std::collections::{HashMap, HashSet};
use std::net::IpAddr;

/// The numbers of one address family.
#[derive(Debug, Default)]
pub(super) struct Marks {
    used: HashSet<u16>,
    /// No number below is free.
    from: u16,
    /// The routes there are, from a virtual address to a server.
    routes: HashMap<(IpAddr, IpAddr), Route>,
}

impl Marks {
    /// Takes notice of a source in use.
    pub(super) fn note_source(&mut self, source: ReplySource) {
        self.used.insert(source.0);
    }

    /// Takes notice of a route in use.
    pub(super) fn note_route(&mut self, from: IpAddr, to: IpAddr, route: Route) {
        self.used.insert(route.0);
        self.routes.insert((from, to), route);
    }

    /// The number of a new source: the lowest that is free.
    pub(super) fn source(&mut self) -> Result<ReplySource, CommandError> {
        self.take().map(ReplySource)
    }

    /// The route from `from` to `to`, the one of every service with that address.
    pub(super) fn route(&mut self, from: IpAddr, to: IpAddr) -> Result<Route, CommandError> {
        if let Some(&route) = self.routes.get(&(from, to)) {
            return Ok(route);
        }
        let route = Route(self.take()?);
        self.routes.insert((from, to), route);
        Ok(route)
    }

    fn take(&mut self) -> Result<u16, CommandError> {
        let free = (self.from.max(1)..ReplySource::LIMIT)
            .find(|number| !self.used.contains(number))
            .ok_or(CommandError::TooManyServices { max: usize::from(ReplySource::LIMIT) - 1 })?;
        self.used.insert(free);
        self.from = free + 1;
        Ok(free)
    }
}
