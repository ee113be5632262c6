//! The addresses to be written into a header, of one family.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::checksum::Change;
use super::{ipv4, ipv6};
use crate::director::DropReason;

/// New addresses for a header. Made before the first byte is touched, so that a wrong family leaves the packet as
/// it was.
#[derive(Clone, Copy, Debug)]
pub(super) enum Addresses {
    V4 { source: Option<Ipv4Addr>, destination: Option<Ipv4Addr> },
    V6 { source: Option<Ipv6Addr>, destination: Option<Ipv6Addr> },
}

impl Addresses {
    /// Addresses for a header of the family of `present`, which is one of those that are there.
    ///
    /// # Errors
    ///
    /// [`DropReason::Malformed`] if an address is of the other family.
    pub(super) fn new(
        present: IpAddr,
        source: Option<IpAddr>,
        destination: Option<IpAddr>,
    ) -> Result<Addresses, DropReason> {
        Ok(match present {
            IpAddr::V4(_) => Addresses::V4 { source: v4(source)?, destination: v4(destination)? },
            IpAddr::V6(_) => Addresses::V6 { source: v6(source)?, destination: v6(destination)? },
        })
    }

    /// Writes into the header that `bytes` begin with; answers how the sum of a pseudo header changed.
    pub(super) fn write(self, bytes: &mut [u8]) -> Result<Change, DropReason> {
        match self {
            Addresses::V4 { source, destination } => ipv4::set_addresses(bytes, source, destination),
            Addresses::V6 { source, destination } => ipv6::set_addresses(bytes, source, destination),
        }
    }

    /// Writes into the header that `bytes` begin with; answers how the sum of the header itself changed.
    pub(super) fn write_embedded(self, bytes: &mut [u8]) -> Result<Change, DropReason> {
        let change = self.write(bytes)?;
        Ok(match self {
            // The header's own checksum has taken up the change.
            Addresses::V4 { .. } => Change::default(),
            Addresses::V6 { .. } => change,
        })
    }
}

fn v4(address: Option<IpAddr>) -> Result<Option<Ipv4Addr>, DropReason> {
    match address {
        Some(IpAddr::V4(address)) => Ok(Some(address)),
        Some(IpAddr::V6(_)) => Err(DropReason::Malformed),
        None => Ok(None),
    }
}

fn v6(address: Option<IpAddr>) -> Result<Option<Ipv6Addr>, DropReason> {
    match address {
        Some(IpAddr::V6(address)) => Ok(Some(address)),
        Some(IpAddr::V4(_)) => Err(DropReason::Malformed),
        None => Ok(None),
    }
}
