//! Standard output that somebody may stop reading.

use std::io::{self, BufWriter, Write};

/// Buffered output that knows whether its reader went away, as `head` does.
///
/// The error alone does not tell: the control socket can break in the same way.
#[derive(Debug)]
pub(super) struct Output<W: Write> {
    writer: BufWriter<W>,
    unwanted: bool,
}

impl<W: Write> Output<W> {
    /// Buffers what goes to `writer`.
    pub(super) fn new(writer: W) -> Output<W> {
        Output { writer: BufWriter::new(writer), unwanted: false }
    }

    /// Whether the reader went away.
    pub(super) fn is_unwanted(&self) -> bool {
        self.unwanted
    }

    fn note<T>(&mut self, result: io::Result<T>) -> io::Result<T> {
        self.unwanted |= result.as_ref().is_err_and(|error| error.kind() == io::ErrorKind::BrokenPipe);
        result
    }
}

impl<W: Write> Write for Output<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.writer.write(bytes);
        self.note(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        let flushed = self.writer.flush();
        self.note(flushed)
    }
}
