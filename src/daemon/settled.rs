//! What a daemon settles when it starts: settings that a reload cannot change.

use super::queue::Backend;
use crate::config::{Config, QueueBackend};
use nft_rules::QueuePlan;
use std::fmt;
use std::num::NonZeroUsize;

/// Sizes and queues, defaults filled in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Settled {
    /// How many connections there may be.
    pub max_connections: u32,
    /// The queues' numbers.
    pub queues: QueuePlan,
    /// Who reads them.
    pub backend: Backend,
    /// Packets that may wait in each.
    pub queue_length: u32,
    cores: NonZeroUsize,
}

impl Settled {
    /// What `config` settles on a machine with `cores` cores.
    pub(super) fn new(config: &Config, cores: NonZeroUsize) -> Settled {
        Settled {
            max_connections: config.max_connections,
            queues: QueuePlan { base: config.queues.base, count: config.queues.count_for(cores) },
            backend: match config.queues.backend {
                QueueBackend::Batched => Backend::Batched,
                QueueBackend::Nfq => Backend::Nfq,
            },
            queue_length: config.queues.length,
            cores,
        }
    }

    /// Checks that `config` settles nothing otherwise.
    ///
    /// # Errors
    /// Every setting that it would change.
    pub(super) fn check(&self, config: &Config) -> Result<(), NeedsRestart> {
        let wanted = Settled::new(config, self.cores);
        let settings: Vec<Setting> = self
            .list()
            .into_iter()
            .zip(wanted.list())
            .filter(|(running, wanted)| running != wanted)
            .map(|((key, running), (_, wanted))| Setting { key, running, wanted })
            .collect();
        if settings.is_empty() { Ok(()) } else { Err(NeedsRestart(settings)) }
    }

    /// Keys of the configuration file, and their values.
    fn list(&self) -> [(&'static str, String); 5] {
        [
            ("connections.max", self.max_connections.to_string()),
            ("queues.base", self.queues.base.to_string()),
            ("queues.count", self.queues.count.to_string()),
            ("queues.backend", format!("\"{}\"", self.backend)),
            ("queues.length", self.queue_length.to_string()),
        ]
    }
}

/// Settings that only a restart can change; never none.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct NeedsRestart(Vec<Setting>);

#[derive(Debug, PartialEq, Eq)]
struct Setting {
    key: &'static str,
    running: String,
    wanted: String,
}

impl std::error::Error for NeedsRestart {}

/// A line for each setting.
impl fmt::Display for NeedsRestart {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, Setting { key, running, wanted }) in self.0.iter().enumerate() {
            let end = if index > 0 { "\n" } else { "" };
            write!(f, "{end}{key}: it is {running} while the daemon runs, and {wanted} takes a restart")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config;

    #[test]
    fn each_setting_is_named_with_both_values() {
        let config = |more: &str| config::check("test", &format!("{{ \"services\": []{more} }}")).unwrap();
        let settled = Settled::new(&config(""), NonZeroUsize::new(2).unwrap());
        let error = |more: &str| settled.check(&config(more)).map_err(|error| error.to_string());
        for same in
            ["", r#", "queues": { "count": 2 }, "connections": { "max": 1048576 }, "answer_ping": false"#]
        {
            assert_eq!(error(same), Ok(()), "{same}");
        }
        for (more, lines) in [
            (
                r#", "queues": { "count": 3 }"#,
                "queues.count: it is 2 while the daemon runs, and 3 takes a restart",
            ),
            (
                r#", "queues": { "backend": "nfq", "length": 2048, "base": 8 }, "connections": { "max": 9 }"#,
                "connections.max: it is 1048576 while the daemon runs, and 9 takes a restart\n\
                 queues.base: it is 0 while the daemon runs, and 8 takes a restart\n\
                 queues.backend: it is \"batched\" while the daemon runs, and \"nfq\" takes a restart\n\
                 queues.length: it is 65536 while the daemon runs, and 2048 takes a restart",
            ),
        ] {
            assert_eq!(error(more).unwrap_err(), lines);
        }
    }
}
