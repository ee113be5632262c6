//! What can go wrong between the description and the kernel.

use std::{fmt, io};

use crate::steering::Family;

/// Why the tables could not be probed, installed, updated or removed. Nothing has changed in the kernel then.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The kernel refuses netlink messages of this process (EPERM).
    #[error("nftables: permission denied: CAP_NET_ADMIN is missing in this network namespace")]
    Permission,
    /// The kernel knows nothing of nftables (`CONFIG_NF_TABLES`), or not of this family.
    #[error("nftables: not in this kernel: {options} is missing")]
    NoNftables {
        /// The kernel configuration options that are missing.
        options: Options,
    },
    /// A rule needs expressions of which the kernel lacks at least one.
    #[error("{message} was refused; the kernel lacks one of {options}")]
    MissingFeature {
        /// What was refused.
        message: String,
        /// The kernel configuration options the rule needs beyond `CONFIG_NF_TABLES`.
        options: Options,
        /// The kernel's answer.
        source: io::Error,
    },
    /// Neither way of queueing exists in this kernel.
    #[error(
        "no way to queue packets: native queue expression: {native} (CONFIG_NFT_QUEUE); \
         xt NFQUEUE target: {xtables} (CONFIG_NFT_COMPAT and CONFIG_NETFILTER_XT_TARGET_NFQUEUE)"
    )]
    NoQueue {
        /// The answer to the native expression.
        native: io::Error,
        /// The answer to the xtables target.
        xtables: io::Error,
    },
    /// A table, set or element that this process had put there is gone, or one that it adds is there already.
    #[error("{message} was refused: another program has changed the table")]
    Changed {
        /// What was refused.
        message: String,
        /// The kernel's answer: ENOENT or EEXIST.
        source: io::Error,
    },
    /// The kernel refused a message for another reason.
    #[error("{message} was refused")]
    Refused {
        /// What was refused.
        message: String,
        /// The kernel's answer.
        source: io::Error,
    },
    /// The netlink socket failed.
    #[error("nftables: the netlink socket failed")]
    Socket(#[from] io::Error),
    /// The kernel answered fewer messages than it was sent.
    #[error("nftables: the kernel answered {answered} of {sent} messages")]
    Unanswered {
        /// Messages answered.
        answered: usize,
        /// Messages sent.
        sent: usize,
    },
    /// The queue numbers do not fit.
    #[error(
        "queues: {count} queues in each of {classes} classes from number {base}: at least one, and none above 65535"
    )]
    Queues {
        /// First number.
        base: u16,
        /// Queues per class.
        count: u16,
        /// Classes.
        classes: usize,
    },
}

/// Kernel configuration options, printed with their `CONFIG_` prefix.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Options(pub Vec<&'static str>);

impl fmt::Display for Options {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, option) in self.0.iter().enumerate() {
            write!(f, "{}CONFIG_{option}", if i == 0 { "" } else { ", " })?;
        }
        Ok(())
    }
}

/// What a netlink message asked for, kept beside the message so that a refusal can be named.
#[derive(Debug, Clone)]
pub(crate) enum Message {
    /// Making or removing a table, a chain, a set: its name in words.
    Table(Family),
    /// A rule, in words, and the kernel options it needs.
    Rule { text: String, options: Vec<&'static str> },
    /// A base or regular chain, a set.
    Part(String),
    /// Elements going into or out of a set.
    Elements(String),
}

impl Message {
    /// The error that a refusal of this message with `errno` is.
    pub(crate) fn refused(&self, errno: i32) -> Error {
        let source = io::Error::from_raw_os_error(errno);
        match (self, errno) {
            (_, libc::EPERM) => Error::Permission,
            (Message::Table(family), libc::EAFNOSUPPORT | libc::EOPNOTSUPP) => {
                Error::NoNftables { options: Options(vec![family.option()]) }
            }
            (Message::Rule { text, options }, libc::ENOENT | libc::EOPNOTSUPP) if !options.is_empty() => {
                Error::MissingFeature { message: text.clone(), options: Options(options.clone()), source }
            }
            (Message::Elements(message), libc::ENOENT | libc::EEXIST) => {
                Error::Changed { message: message.clone(), source }
            }
            _ => Error::Refused { message: self.to_string(), source },
        }
    }
}

impl fmt::Display for Message {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Message::Table(family) => write!(f, "table {family} {}", crate::steering::TABLE),
            Message::Rule { text, .. } | Message::Part(text) | Message::Elements(text) => f.write_str(text),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusals_say_what_to_do() {
        let rule =
            Message::Rule { text: "chain refuse of table ip nfvs: rule `x`".into(), options: vec!["NFT_CT"] };
        assert_eq!(
            rule.refused(libc::EPERM).to_string(),
            "nftables: permission denied: CAP_NET_ADMIN is missing in this network namespace"
        );
        assert_eq!(
            rule.refused(libc::ENOENT).to_string(),
            "chain refuse of table ip nfvs: rule `x` was refused; the kernel lacks one of CONFIG_NFT_CT"
        );
        assert_eq!(
            Message::Elements("elements of set vips of table ip nfvs".into())
                .refused(libc::ENOENT)
                .to_string(),
            "elements of set vips of table ip nfvs was refused: another program has changed the table"
        );
        assert_eq!(
            Message::Table(Family::Ip6).refused(libc::EAFNOSUPPORT).to_string(),
            "nftables: not in this kernel: CONFIG_NF_TABLES_IPV6 is missing"
        );
    }
}
