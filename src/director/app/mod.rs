//! Applications that tell each other addresses and ports in what they send (`ip_vs_app.c`): FTP (`ip_vs_ftp.c`).
//!
//! A **control connection** is a translated connection to port 21. What is said there about data connections is read
//! ([`ftp`]), and rewritten where it names the server: the stream then has another length on each side, which
//! [`SequenceShift`] makes good. The **data connections** that were announced are made before their first packet comes,
//! and belong to the control connection: it lasts as long as they do.

mod follow;
pub mod ftp;

use super::connection::{Connection, InboundKey};
use super::packet::{SegmentEdit, SequenceShift, Transport};
use super::protocol::Direction;
use super::service::FTP_PORT;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

/// What a connection is to FTP.
#[derive(Debug)]
pub enum Application {
    /// Where commands and answers go.
    Control(Control),
    /// Where files go. It holds the control connection that announced it.
    Data(Hold),
    /// Nothing, but another director adjusts its sequence numbers. It is kept to be told on.
    Foreign(sync_proto::SequenceShifts),
}

/// What is remembered of a control connection.
#[derive(Debug)]
pub struct Control {
    /// How the client's sequence numbers change on their way to the server (`in_seq`).
    in_seq: SequenceShift,
    /// How the server's change on their way to the client (`out_seq`).
    out_seq: SequenceShift,
    /// The client wants to be told where the server waits, and has not been.
    awaits_answer: bool,
    announced: Option<Announced>,
    data_connections: Holds,
}

/// The last answer that told a client where the server waits: it may be sent again.
#[derive(Clone, Copy, Debug)]
struct Announced {
    sequence: u32,
    server_port: u16,
    virtual_port: u16,
}

impl Application {
    /// What a new connection is to FTP (`ip_vs_app_conn_bind`).
    pub fn of(connection: &Connection) -> Option<Application> {
        let is_control = connection.is_nat()
            && connection.transport == Transport::Tcp
            && connection.virtual_address().port() == FTP_PORT;
        is_control.then(|| Application::Control(Control::new(connection.inbound_key())))
    }

    /// How sequence numbers are adjusted, as the synchronisation protocol has it, if anything is known of that.
    pub fn sequence_shifts(&self) -> Option<sync_proto::SequenceShifts> {
        match self {
            Application::Control(Control { in_seq, out_seq, .. }) => {
                Some(sync_proto::SequenceShifts { input: in_seq.told(), output: out_seq.told() })
            }
            Application::Data(_) => None,
            Application::Foreign(shifts) => Some(*shifts),
        }
    }

    /// Takes over how another director adjusts sequence numbers.
    pub fn adjust_sequence(&mut self, shifts: sync_proto::SequenceShifts) {
        match self {
            Application::Control(control) => {
                control.in_seq = SequenceShift::of_told(shifts.input);
                control.out_seq = SequenceShift::of_told(shifts.output);
            }
            Application::Data(_) => {}
            Application::Foreign(known) => *known = shifts,
        }
    }
}

impl Control {
    /// That of the control connection that `key` names.
    fn new(key: InboundKey) -> Control {
        Control {
            in_seq: SequenceShift::default(),
            out_seq: SequenceShift::default(),
            awaits_answer: false,
            announced: None,
            data_connections: Holds(Arc::new(Held { key, count: AtomicU32::new(0) })),
        }
    }

    /// The data connections that have been announced here and have not ended.
    pub fn data_connections(&self) -> &Holds {
        &self.data_connections
    }

    /// What changes in a segment that goes in `direction`.
    fn edit(&self, direction: Direction, replaced: Option<(Range<usize>, Vec<u8>)>) -> SegmentEdit {
        let (sent, acknowledged) = match direction {
            Direction::Input | Direction::InputOnly => (self.in_seq, self.out_seq),
            Direction::Output => (self.out_seq, self.in_seq),
        };
        SegmentEdit { sent, acknowledged, replaced }
    }
}

/// What is held: a control connection, and how many hold it (`n_control`).
#[derive(Debug)]
struct Held {
    key: InboundKey,
    count: AtomicU32,
}

/// Counts those that hold a control connection.
#[derive(Debug)]
pub struct Holds(Arc<Held>);

impl Holds {
    /// One more that holds it.
    pub fn hold(&self) -> Hold {
        self.0.count.fetch_add(1, Ordering::Relaxed);
        Hold(Arc::clone(&self.0))
    }

    /// How many there are.
    pub fn count(&self) -> u32 {
        self.0.count.load(Ordering::Relaxed)
    }

    /// What tells those that hold this from others.
    pub fn held(&self) -> *const () {
        Arc::as_ptr(&self.0).cast()
    }
}

/// One that holds a control connection, until it is dropped.
#[derive(Debug)]
pub struct Hold(Arc<Held>);

impl Hold {
    /// How the control connection is found, which may have ended before its time.
    pub fn control_key(&self) -> &InboundKey {
        &self.0.key
    }

    /// What is held; see [`Holds::held`].
    pub fn held(&self) -> *const () {
        Arc::as_ptr(&self.0).cast()
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        self.0.count.fetch_sub(1, Ordering::Relaxed);
    }
}
