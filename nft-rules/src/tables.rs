//! The tables in the kernel: put there, updated, and taken away, each in one transaction.

use crate::{
    Changes, Elements, Error, Steering, sets,
    steering::{Family, TABLE},
    transaction::{self, Transaction},
};

/// Our tables in the network namespace of the thread that installed them.
///
/// Dropping this leaves them there: refusing what nobody balances is the rules' work and goes on when the daemon
/// dies. The methods work in the namespace of the calling thread, which must be that of [`Tables::install`].
#[derive(Debug)]
pub struct Tables {
    steering: Steering,
    elements: Elements,
    replaced_leftover: bool,
}

impl Tables {
    /// Puts both tables in place in one transaction. Tables of our name, left by a daemon that was killed, are
    /// replaced in it: no packet meets neither the old nor the new.
    ///
    /// # Errors
    /// See [`Error`]; nothing has changed then.
    pub fn install(steering: &Steering, elements: Elements) -> Result<Tables, Error> {
        steering.queues.validate()?;
        let mut replaced_leftover = false;
        for family in Family::ALL {
            replaced_leftover |= transaction::table_exists(TABLE, family)?;
        }
        put(steering, &elements)?;
        Ok(Tables { steering: *steering, elements, replaced_leftover })
    }

    /// Puts the tables in place again if somebody has removed one, as `nft flush ruleset` does at the head of many
    /// firewalls. Returns whether that was so.
    ///
    /// # Errors
    /// See [`Error`]; nothing has changed then.
    pub fn repair(&mut self) -> Result<bool, Error> {
        for family in Family::ALL {
            if !transaction::table_exists(TABLE, family)? {
                put(&self.steering, &self.elements)?;
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Whether tables of our name were there before.
    pub fn replaced_leftover(&self) -> bool {
        self.replaced_leftover
    }

    /// What the rules are.
    pub fn steering(&self) -> &Steering {
        &self.steering
    }

    /// What the sets hold.
    pub fn elements(&self) -> &Elements {
        &self.elements
    }

    /// Makes the sets hold `elements` instead, in one transaction, while packets pass. Returns what it took.
    ///
    /// # Errors
    /// [`Error::Changed`] if another program has meddled with the tables, else see [`Error`]; nothing has
    /// changed then, and [`Tables::elements`] is what it was.
    pub fn update(&mut self, elements: Elements) -> Result<Changes, Error> {
        let changes = self.elements.changes(&elements);
        if changes.is_empty() {
            return Ok(changes);
        }
        let mut transaction = Transaction::new();
        for family in Family::ALL {
            // Removals first: a key whose value changes is among both.
            for (set, removed) in changes.removed.sets(family) {
                transaction.remove_elements(family, set, removed);
            }
            for (set, added) in changes.added.sets(family) {
                transaction.add_elements(family, set, added);
            }
        }
        transaction.commit()?;
        self.elements = elements;
        Ok(changes)
    }

    /// Removes both tables in one transaction; that somebody else has removed them already is no error.
    ///
    /// # Errors
    /// See [`Error`]; both tables are still there then.
    pub fn remove(&mut self) -> Result<(), Error> {
        remove()?;
        self.elements = Elements::default();
        Ok(())
    }
}

/// Puts both tables with these elements in place of what there may be.
fn put(steering: &Steering, elements: &Elements) -> Result<(), Error> {
    let mut transaction = Transaction::new();
    for family in Family::ALL {
        delete(&mut transaction, family);
        transaction.add_table(TABLE, family);
        for set in sets::ALL {
            transaction.add_set(family, set);
        }
        for (set, elements) in elements.sets(family) {
            transaction.add_elements(family, set, elements);
        }
        for chain in &steering.chains(family) {
            transaction.add_chain(TABLE, family, chain);
            for rule in &chain.rules {
                transaction.add_rule(TABLE, family, chain.name, rule);
            }
        }
    }
    transaction.commit()
}

/// Removes tables of our name, whoever left them, in one transaction. Returns whether there were any.
///
/// # Errors
/// See [`Error`]; what was there is still there then.
pub fn remove_leftover() -> Result<bool, Error> {
    let mut found = false;
    for family in Family::ALL {
        found |= transaction::table_exists(TABLE, family)?;
    }
    if found {
        remove()?;
    }
    Ok(found)
}

fn remove() -> Result<(), Error> {
    let mut transaction = Transaction::new();
    for family in Family::ALL {
        delete(&mut transaction, family);
    }
    transaction.commit()
}

/// Deletes a table that may not exist: adding one that does is no error, and deleting what was added is none.
fn delete(transaction: &mut Transaction, family: Family) {
    transaction.add_table(TABLE, family);
    transaction.delete_table(TABLE, family);
}
