//! Applications that tell each other addresses and ports in what they send (`ip_vs_app.c`): FTP (`ip_vs_ftp.c`).
//!
//! A **control connection** is a translated connection to port 21. What is said there about data connections is read
//! ([`ftp`]), and rewritten where it names the server: the stream then has another length on each side, which
//! [`SequenceShift`] makes good. The **data connections** that were announced are made before their first packet comes,
//! and belong to the control connection: it lasts as long as they do.

mod follow;
pub mod ftp;

use super::connection::Connection;
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
}

/// What is remembered of a control connection.
#[derive(Debug, Default)]
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
        is_control.then(|| Application::Control(Control::default()))
    }
}

impl Control {
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

/// How many hold something (`n_control`).
#[derive(Debug, Default)]
pub struct Holds(Arc<AtomicU32>);

impl Holds {
    /// One more that holds it.
    pub fn hold(&self) -> Hold {
        self.0.fetch_add(1, Ordering::Relaxed);
        Hold(Arc::clone(&self.0))
    }

    /// How many there are.
    pub fn count(&self) -> u32 {
        self.0.load(Ordering::Relaxed)
    }

    /// What tells those that hold this from others.
    pub fn held(&self) -> *const () {
        Arc::as_ptr(&self.0).cast()
    }
}

/// One that holds something, until it is dropped.
#[derive(Debug)]
pub struct Hold(Arc<AtomicU32>);

impl Hold {
    /// What is held; see [`Holds::held`].
    pub fn held(&self) -> *const () {
        Arc::as_ptr(&self.0).cast()
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}
