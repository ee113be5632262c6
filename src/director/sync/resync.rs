//! The whole table for a backup that lacks it, which no kernel can be asked for: it began after connections had become
//! silent, or has lost messages.
//!
//! The table is told part by part, so that no packet waits for long, while packets change it. What is told is of the
//! moment at which its part was looked at; what happens to an entry afterwards goes to the backup in messages, as ever.
//! Those may come before the table does. So a backup first notes that it takes a table in, and then asks; a record of
//! the table changes no entry of which a message has told since, nor one that packets have come for here, and everything
//! else as a message would.
//!
//! Templates come first: whoever takes over in the middle then at least has each client stay with its server.

use super::chain::{find_control, record_of};
use super::counters::Unsent;
use super::emission::{Rules, is_told};
use super::master::Open;
use super::{MasterSettings, SyncId};
use crate::director::Time;
use crate::director::connection::{Connection, Place, Shard, TemplateHandle, TemplateShard};
use crate::director::engine::Director;
use sync_proto::{EncodeError, Record, Version};

/// How long messages are: 255 records of IPv6, the most that one can have.
const MESSAGE: usize = 20_000;

/// Who tells of the whole table, and how far that has come.
#[derive(Debug)]
pub struct Walk {
    settings: MasterSettings,
    stage: Stage,
    open: Option<Open>,
    full: Vec<Vec<u8>>,
    told: u64,
    left_out: u64,
}

#[derive(Debug)]
enum Stage {
    Templates(Place),
    Connections(Place),
    Over,
}

impl Walk {
    /// Begins, for a group of directors, with room for so many bytes behind the last record of each message.
    pub fn new(syncid: SyncId, trailer: usize) -> Walk {
        Walk {
            settings: MasterSettings { syncid, max_len: MESSAGE + trailer, ports: 1, trailer, rate: None },
            stage: Stage::Templates(Place::default()),
            open: None,
            full: Vec::new(),
            told: 0,
            left_out: 0,
        }
    }

    /// Whether all has been told.
    pub fn is_over(&self) -> bool {
        matches!(self.stage, Stage::Over)
    }

    /// How many entries were told of.
    pub fn told(&self) -> u64 {
        self.told
    }

    /// How many entries were not, because messages never tell of them as they are, or cannot.
    pub fn left_out(&self) -> u64 {
        self.left_out
    }

    fn push(&mut self, now: Time, record: &Record<'_>) -> Result<(), Unsent> {
        let settings = &self.settings;
        let open = self.open.get_or_insert_with(|| Open::new(settings, Version::V1, now));
        let mut pushed = open.push(record);
        if pushed == Err(EncodeError::Full) {
            let full = std::mem::replace(open, Open::new(settings, Version::V1, now));
            self.full.extend(full.finish());
            pushed = open.push(record);
        }
        pushed.map_err(|_| Unsent::Refused)?;
        self.told += 1;
        Ok(())
    }
}

impl Director {
    /// Looks at the next part of the table, and returns the messages that are full then; at the end, the last one. A
    /// trailer is zeros.
    pub fn walk_on(&self, now: Time, walk: &mut Walk) -> Vec<Vec<u8>> {
        let mut stage = std::mem::replace(&mut walk.stage, Stage::Over);
        match &mut stage {
            Stage::Templates(place) => {
                let tell = |shard: &TemplateShard, part: usize| {
                    shard.living(part, now).for_each(|handle| self.tell_template(now, walk, shard, handle));
                };
                if !self.table.next_template_part(place, tell) {
                    stage = Stage::Connections(Place::default());
                }
            }
            Stage::Connections(place) => {
                let rules = Rules::of(&self.services.load().tunables);
                let tell = |shard: &Shard, part: usize| {
                    let connections = shard.living(part, now);
                    connections.for_each(|it| self.tell_connection(now, walk, rules, shard, it));
                };
                if !self.table.next_part(place, tell) {
                    stage = Stage::Over;
                    walk.full.extend(walk.open.take().and_then(Open::finish));
                }
            }
            Stage::Over => {}
        }
        walk.stage = stage;
        std::mem::take(&mut walk.full)
    }

    fn tell_template(&self, now: Time, walk: &mut Walk, shard: &TemplateShard, handle: TemplateHandle) {
        let told = match shard.record(handle) {
            Some(record) if record.engine.is_some() && shard.get(handle).server.is_nobody() => {
                Err(Unsent::EngineUnbound)
            }
            Some(record) => walk.push(now, &record),
            None => Err(Unsent::TwoFamilies),
        };
        self.note_told(walk, told);
    }

    fn tell_connection(
        &self,
        now: Time,
        walk: &mut Walk,
        rules: Rules,
        shard: &Shard,
        connection: &Connection,
    ) {
        let is_left_out = rules.templates_alone && is_led(shard, connection, now);
        if is_left_out || !is_told(connection.state) {
            walk.left_out += 1;
            return;
        }
        let record = record_of(connection).ok_or(Unsent::TwoFamilies);
        let told = record.and_then(|record| walk.push(now, &record));
        self.note_told(walk, told);
    }

    fn note_told(&self, walk: &mut Walk, told: Result<(), Unsent>) {
        if let Err(reason) = told {
            walk.left_out += 1;
            self.sync.counters.note_unsent(reason);
        }
    }
}

/// Whether a template has led a connection to its server, or the control connection of FTP that announced it.
fn is_led(shard: &Shard, connection: &Connection, now: Time) -> bool {
    let control = connection.held_by().and_then(|it| find_control(shard, it.control_key(), it.held(), now));
    connection.controller.is_some() || control.is_some_and(|it| shard.get(it).controller.is_some())
}
