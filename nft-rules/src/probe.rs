//! Which way of queueing this kernel has, and whether it has what direct routing needs.

use crate::{
    Error, QueueTarget,
    statement::{Family, Statement},
    steering::Chain,
    transaction::Transaction,
};

/// The name of the table a probe makes and removes in one transaction: nobody ever sees it.
const PROBE_TABLE: &str = "nfvs_probe";

/// Finds out, in the network namespace of this thread, how rules can hand packets to a queue: the native
/// expression if the kernel has it, else the xtables target.
///
/// # Errors
/// [`Error::NoQueue`] if neither is there, naming what is missing; [`Error::Permission`] without
/// CAP_NET_ADMIN; other refusals as they are.
pub fn probe() -> Result<QueueTarget, Error> {
    match try_target(QueueTarget::Native) {
        Ok(()) => Ok(QueueTarget::Native),
        Err(Error::MissingFeature { source: native, .. }) => match try_target(QueueTarget::Xtables) {
            Ok(()) => Ok(QueueTarget::Xtables),
            Err(Error::MissingFeature { source: xtables, .. }) => Err(Error::NoQueue { native, xtables }),
            Err(error) => Err(error),
        },
        Err(error) => Err(error),
    }
}

/// Finds out, in the network namespace of this thread, whether rules can send packets as direct routing needs it.
///
/// # Errors
/// [`Error::MissingFeature`] if they cannot, naming what is missing; [`Error::Permission`] without CAP_NET_ADMIN;
/// other refusals as they are.
pub fn probe_direct_routing() -> Result<(), Error> {
    Family::ALL.into_iter().try_for_each(|family| try_statement(family, Statement::DupToDestination))
}

fn try_target(target: QueueTarget) -> Result<(), Error> {
    try_statement(Family::Ip4, Statement::Queue(target, 0))
}

/// A rule with this statement in a throw-away table that the same transaction deletes.
fn try_statement(family: Family, statement: Statement) -> Result<(), Error> {
    let chain = Chain { name: "probe", hook: None, rules: vec![vec![statement]] };
    let mut transaction = Transaction::new();
    transaction.add_table(PROBE_TABLE, family);
    transaction.add_chain(PROBE_TABLE, family, &chain);
    transaction.add_rule(PROBE_TABLE, family, chain.name, &chain.rules[0]);
    transaction.delete_table(PROBE_TABLE, family);
    transaction.commit()
}
