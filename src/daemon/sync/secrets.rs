//! The keys as the configuration has them now, which senders and receivers look at with each message: a reload changes
//! them without ending anything.

use super::seal::Keys;
use crate::config::Authentication;
use anyhow::{Context, bail};
use arc_swap::ArcSwapOption;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::sync::Arc;

/// What directors show each other who they are with.
#[derive(Debug, PartialEq, Eq)]
pub(in crate::daemon) struct Secrets {
    /// The keys.
    pub(super) keys: Keys,
    /// Whether messages that are made with no key are refused.
    pub(super) required: bool,
}

/// The secrets that are valid now, if there are any.
pub(super) type Valid = Arc<ArcSwapOption<Secrets>>;

impl Secrets {
    /// Reads the keys from where the configuration says that they are.
    ///
    /// # Errors
    /// If the file cannot be read, is not secret, or has no keys in it.
    pub(in crate::daemon) fn load(authentication: &Authentication) -> anyhow::Result<Secrets> {
        const OTHERS: u32 = 0o007;
        let Authentication { keys: path, required } = authentication;
        let place = path.display();
        let text = fs::read_to_string(path).with_context(|| format!("cannot read the keys in {place}"))?;
        let mode = fs::metadata(path).with_context(|| format!("cannot look at {place}"))?.mode();
        if mode & OTHERS != 0 {
            bail!(
                "the keys in {place} are no secret: everybody may read or change the file; use chmod o= {place}"
            );
        }
        let keys = Keys::read(&text).with_context(|| place.to_string())?;
        Ok(Secrets { keys, required: *required })
    }
}
