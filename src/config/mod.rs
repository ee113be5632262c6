//! The configuration: the JSON an operator wrote, turned into a checked model or into located complaints.
//!
//! A configuration passes three stages, each in its own file:
//!
//! * `syntax`: text to a tree that knows where each value stands; strict JSON, nothing else.
//! * [`file`](mod@file) and `read`: the tree to the types as written, object by object, so that one mistake does
//!   not hide the next. What a single value may be is said by its type's `Deserialize`.
//! * `rules`: the types as written to [`Config`], with everything that depends on more than one value.
//!
//! Nothing here looks at the machine: a file is right or wrong wherever it is checked.
//!
//! ```
//! let text = r#"{ "services": [ { "protocol": "tcp", "address": "10.0.0.100", "port": 80,
//!                 "servers": [ { "address": "10.0.2.11", "weight": -1 } ] } ] }"#;
//! let complaints = nfvs::config::check("web.json", text).unwrap_err();
//! assert_eq!(
//!     complaints.to_string(),
//!     "web.json:2:66: services[0].servers[0].weight: -1 is not a weight from 0 to 2147483647"
//! );
//! ```

mod complaint;
pub mod feedback;
pub mod file;
mod mac;
mod model;
mod node;
mod number;
mod read;
mod rules;
pub mod scheduler_words;
pub mod service_keys;
mod settings;
pub mod sync;
mod syntax;
mod text;
pub mod tunables;
pub mod tunnel;

pub use complaint::{Complaint, Complaints};
pub use mac::MacAddress;
pub use model::{
    Authentication, Config, Key, PathChoice, Protocol, QueueBackend, Queues, Resync, Server, Service,
    SyncDaemon, SyncSettings, Timeouts, UnknownWord,
};

use complaint::Findings;
use std::path::{Path, PathBuf};

/// Why a configuration file could not be loaded.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// The file could not be read; the source says why.
    #[error("cannot read {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The file was read, but what it says is wrong.
    #[error(transparent)]
    Wrong(#[from] Complaints),
}

/// Reads and checks the file at `path`.
///
/// # Errors
///
/// [`LoadError::Read`] if the file cannot be read, [`LoadError::Wrong`] with all complaints if it is not right.
pub fn load(path: &Path) -> Result<Config, LoadError> {
    let bytes = std::fs::read(path).map_err(|source| LoadError::Read { path: path.to_owned(), source })?;
    Ok(check_bytes(&path.display().to_string(), &bytes)?)
}

/// As [`check`], for bytes that may not even be text.
///
/// # Errors
///
/// All complaints, in the order of the file.
pub fn check_bytes(file_name: &str, bytes: &[u8]) -> Result<Config, Complaints> {
    match std::str::from_utf8(bytes) {
        Ok(text) => check(file_name, text),
        Err(error) => {
            let (valid, rest) = bytes.split_at(error.valid_up_to());
            // `valid` is UTF-8 by the meaning of `valid_up_to`, so nothing is replaced here.
            let text = String::from_utf8_lossy(valid);
            let mut findings = Findings::new(&text);
            let byte = rest.first().copied().unwrap_or_default();
            findings.add(
                text.len(),
                "",
                format!("the byte 0x{byte:02x} is not UTF-8; save the file as UTF-8"),
            );
            Err(findings.into_complaints(file_name))
        }
    }
}

/// Checks the configuration in `text`; `file_name` is only what the complaints call it.
///
/// # Errors
///
/// All complaints, in the order of the file.
pub fn check(file_name: &str, text: &str) -> Result<Config, Complaints> {
    let mut findings = Findings::new(text);
    match syntax::parse(text) {
        Ok(root) => {
            let config = rules::config(&root, &mut findings);
            if findings.is_empty() { Ok(config) } else { Err(findings.into_complaints(file_name)) }
        }
        Err(error) => {
            findings.add(error.offset, "", error.message);
            Err(findings.into_complaints(file_name))
        }
    }
}

/// The JSON Schema (draft 2020-12) of the configuration, for editors; `packaging/nfvs.schema.json` is this.
///
/// A file that passes [`check`] fits the schema. The reverse does not hold: a schema cannot say, for example, that
/// no two services may be the same.
pub fn schema() -> serde_json::Value {
    schemars::schema_for!(file::File).to_value()
}
