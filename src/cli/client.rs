//! The other end of the control socket.

use crate::daemon::api::{ConnectionStatus, Reply, Request};
use anyhow::{Context, bail};
use serde::de::DeserializeOwned;
use std::io::{self, BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;

/// What a daemon said when it refused a request.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(super) struct Refused(String);

impl Refused {
    /// Whether it is about places in a file, which the daemon names by their absolute path.
    pub(super) fn is_located(&self) -> bool {
        self.0.starts_with('/')
    }
}

/// A connection to a daemon.
#[derive(Debug)]
pub(super) struct Client {
    stream: BufReader<UnixStream>,
}

impl Client {
    /// Connects to the daemon whose control socket is at `path`.
    pub(super) fn connect(path: &Path) -> anyhow::Result<Client> {
        match UnixStream::connect(path) {
            Ok(stream) => Ok(Client { stream: BufReader::new(stream) }),
            Err(error) => {
                let hint = match error.kind() {
                    io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => {
                        "no daemon runs there; is --netns or --socket right?"
                    }
                    io::ErrorKind::PermissionDenied => "only the daemon's user and root may talk to it",
                    _ => "the daemon cannot be reached",
                };
                Err(error).with_context(|| format!("{}: {hint}", path.display()))
            }
        }
    }

    /// Asks for something that is answered in one piece.
    pub(super) fn ask<T: DeserializeOwned>(&mut self, request: &Request) -> anyhow::Result<T> {
        self.send(&serde_json::to_string(request)?)?;
        match self.receive()? {
            Reply::Ok(value) => {
                serde_json::from_value(value).context("the daemon's answer is not understood")
            }
            Reply::Error(error) => Err(Refused(error).into()),
            Reply::Item(_) => bail!("the daemon's answer is not understood"),
        }
    }

    /// Asks for the connections and hands each to `each`.
    pub(super) fn connections(
        &mut self,
        mut each: impl FnMut(ConnectionStatus) -> anyhow::Result<()>,
    ) -> anyhow::Result<()> {
        self.send(&serde_json::to_string(&Request::ShowConnections {})?)?;
        loop {
            match self.receive()? {
                Reply::Item(connection) => each(*connection)?,
                Reply::Ok(_) => return Ok(()),
                Reply::Error(error) => return Err(Refused(error).into()),
            }
        }
    }

    /// Sends a line as it is and copies the reply to `out`. Returns whether the daemon was content.
    pub(super) fn relay(&mut self, line: &str, out: &mut impl Write) -> anyhow::Result<bool> {
        if line.contains('\n') {
            bail!("a request is one line");
        }
        self.send(line)?;
        loop {
            let line = self.line()?;
            out.write_all(line.as_bytes())?;
            match serde_json::from_str(&line).context("the daemon's answer is not understood")? {
                Reply::Item(_) => {}
                Reply::Ok(_) => return Ok(true),
                Reply::Error(_) => return Ok(false),
            }
        }
    }

    fn send(&mut self, line: &str) -> anyhow::Result<()> {
        let stream = self.stream.get_mut();
        match stream.write_all(line.as_bytes()).and_then(|()| stream.write_all(b"\n")) {
            // It hung up; what it had to say before is still there to be read.
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
            sent => sent.context("the daemon does not listen"),
        }
    }

    fn receive(&mut self) -> anyhow::Result<Reply> {
        serde_json::from_str(&self.line()?).context("the daemon's answer is not understood")
    }

    fn line(&mut self) -> anyhow::Result<String> {
        let mut line = String::new();
        if self.stream.read_line(&mut line).context("the daemon went away")? == 0 {
            bail!("the daemon went away");
        }
        Ok(line)
    }
}
