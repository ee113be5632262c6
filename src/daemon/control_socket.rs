//! The control socket: requests and replies as lines of JSON over a Unix socket.

use super::api::{ConnectionStatus, Reply, Request, SyncTestStatus};
use super::control::{Control, reply, to_value};
use super::reload::Reloader;
use crate::director::connection::{ConnectionView, TemplateView};
use anyhow::{Context, bail};
use rustix::fs::Mode;
use std::fs;
use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::os::unix::net::UnixStream as StdUnixStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use sync_proto::ConnFlags;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader, BufWriter};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{Mutex, Semaphore};

/// The longest request.
const MAX_REQUEST: u64 = 1 << 20;
/// How much of a request goes to the log, in characters.
const MAX_LOGGED: usize = 2000;
/// Clients at a time: they share the process's open files, commonly 1024, with what steering needs.
const MAX_CLIENTS: usize = 256;
/// How long a client may keep a connection without a word.
const IDLE: Duration = Duration::from_secs(60);

/// A bound control socket; its file goes when this does.
#[derive(Debug)]
pub(super) struct ControlSocket {
    listener: UnixListener,
    path: PathBuf,
    /// Which file it is.
    identity: (u64, u64),
}

impl ControlSocket {
    /// Binds the socket at `path`, in place of one that a dead daemon left there.
    ///
    /// # Errors
    /// If a living daemon has it, or the file system refuses.
    pub(super) fn bind(path: &Path) -> anyhow::Result<ControlSocket> {
        let place = path.display();
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder)
                .with_context(|| format!("cannot make the folder of the control socket {place}"))?;
        }
        match fs::symlink_metadata(path) {
            Ok(found) if !found.file_type().is_socket() => {
                bail!("{place} exists and is no socket: give another --socket, or remove it")
            }
            Ok(_) => match StdUnixStream::connect(path) {
                Ok(_) => bail!("another daemon answers on the control socket {place}"),
                // Nobody listens any more.
                Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => fs::remove_file(path)
                    .with_context(|| format!("cannot remove the old control socket {place}"))?,
                Err(error) => {
                    return Err(error).with_context(|| {
                        format!("cannot tell whether a daemon has the control socket {place}")
                    });
                }
            },
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error).with_context(|| format!("cannot look at {place}")),
        }
        // Nobody else may connect, not even between making the file and setting its mode.
        let umask = rustix::process::umask(Mode::from_raw_mode(0o177));
        let bound = UnixListener::bind(path);
        rustix::process::umask(umask);
        let listener = bound.with_context(|| format!("cannot make the control socket {place}"))?;
        let identity = identity(path).with_context(|| format!("cannot look at {place}"))?;
        Ok(ControlSocket { listener, path: path.to_owned(), identity })
    }

    /// Serves clients for ever, each on its own.
    pub(super) async fn serve(&self, control: &Arc<Mutex<Control>>, reloader: &Arc<Reloader>) {
        let places = Arc::new(Semaphore::new(MAX_CLIENTS));
        loop {
            match self.listener.accept().await {
                Ok((stream, _)) => {
                    let (control, reloader) = (Arc::clone(control), Arc::clone(reloader));
                    let place = Arc::clone(&places).try_acquire_owned();
                    tokio::spawn(async move {
                        let conversation = match place {
                            Ok(_place) => converse(stream, &control, &reloader).await,
                            Err(_) => turn_away(stream).await,
                        };
                        if let Err(error) = conversation {
                            tracing::debug!(%error, "a control client went away");
                        }
                    });
                }
                Err(error) => {
                    tracing::warn!(%error, "the control socket cannot accept");
                    tokio::time::sleep(Duration::from_millis(200)).await;
                }
            }
        }
    }
}

impl Drop for ControlSocket {
    fn drop(&mut self) {
        // By now the path may be another daemon's.
        let removed = identity(&self.path).and_then(|found| match found == self.identity {
            true => fs::remove_file(&self.path),
            false => Ok(()),
        });
        if let Err(error) = removed {
            tracing::debug!(%error, "the control socket's file was gone already");
        }
    }
}

/// Device and inode of a file.
fn identity(path: &Path) -> io::Result<(u64, u64)> {
    fs::symlink_metadata(path).map(|found| (found.dev(), found.ino()))
}

/// Tells one client too many why it is not served.
async fn turn_away(mut stream: UnixStream) -> io::Result<()> {
    say(&mut stream, &Reply::Error(format!("{MAX_CLIENTS} clients are connected already; try again"))).await
}

/// Answers one client's requests until it leaves.
async fn converse(stream: UnixStream, control: &Mutex<Control>, reloader: &Reloader) -> io::Result<()> {
    let (reader, writer) = stream.into_split();
    let mut reader = BufReader::new(reader);
    let mut writer = BufWriter::new(writer);
    let mut line = Vec::new();
    loop {
        line.clear();
        let mut limited = (&mut reader).take(MAX_REQUEST);
        let read = limited.read_until(b'\n', &mut line);
        let length = tokio::time::timeout(IDLE, read).await.map_err(|_| io::ErrorKind::TimedOut)??;
        if length == 0 {
            return Ok(());
        }
        if length as u64 == MAX_REQUEST && !line.ends_with(b"\n") {
            say(&mut writer, &Reply::Error(format!("a request is one line of at most {MAX_REQUEST} bytes")))
                .await?;
            return writer.flush().await;
        }
        if line.trim_ascii().is_empty() {
            continue;
        }
        match serde_json::from_slice::<Request>(&line) {
            Err(error) => say(&mut writer, &Reply::Error(format!("not a request: {error}"))).await?,
            Ok(Request::ShowConnections {}) => show_connections(&mut writer, control).await?,
            Ok(Request::Reload {}) => {
                let answered = reloader.reload().await.and_then(|reloaded| to_value(&reloaded));
                say(&mut writer, &reply(answered)).await?;
            }
            Ok(Request::TestSync { wait, expect }) => {
                let tested = test_sync(control, wait, expect).await.and_then(|tested| to_value(&tested));
                say(&mut writer, &reply(tested)).await?;
            }
            Ok(request) => {
                let reply = control.lock().await.answer(&request);
                log(&request, &reply);
                say(&mut writer, &reply).await?;
            }
        }
        writer.flush().await?;
    }
}

/// Changes are worth a line in the log, questions are not.
fn log(request: &Request, reply: &Reply) {
    let is_question = matches!(
        request,
        Request::ShowServices {}
            | Request::ShowConnections {}
            | Request::ShowQueues {}
            | Request::ShowStats {}
            | Request::ShowTunables {}
            | Request::ShowRates {}
            | Request::ShowSync {}
    );
    if is_question {
        return;
    }
    // As it was asked, on one line: JSON has escapes for whatever would break it.
    let request: String =
        serde_json::to_string(request).unwrap_or_default().chars().take(MAX_LOGGED).collect();
    match reply {
        Reply::Error(error) => tracing::warn!(%request, error, "a change was refused"),
        _ => tracing::info!(%request, "changed"),
    }
}

/// Tests the synchronisation, while others are answered.
async fn test_sync(
    control: &Mutex<Control>,
    wait: Option<u64>,
    expect: Option<u16>,
) -> anyhow::Result<SyncTestStatus> {
    let test = control.lock().await.sync_test()?;
    test.run(wait, expect).await
}

async fn show_connections(
    writer: &mut (impl AsyncWriteExt + Unpin),
    control: &Mutex<Control>,
) -> io::Result<()> {
    let (director, now) = {
        let control = control.lock().await;
        (Arc::clone(control.director()), control.now())
    };
    for part in director.connections(now) {
        for connection in part {
            say(writer, &Reply::Item(Box::new(connection_status(&connection)))).await?;
        }
    }
    for part in director.templates(now) {
        for template in part {
            say(writer, &Reply::Item(Box::new(template_status(&template)))).await?;
        }
    }
    say(writer, &Reply::Ok(serde_json::Value::Null)).await
}

async fn say(writer: &mut (impl AsyncWriteExt + Unpin), reply: &Reply) -> io::Result<()> {
    let mut line = serde_json::to_vec(reply)?;
    line.push(b'\n');
    writer.write_all(&line).await
}

fn connection_status(connection: &ConnectionView) -> ConnectionStatus {
    ConnectionStatus {
        protocol: connection.transport.to_string(),
        client: connection.client.to_string(),
        virtual_address: connection.virtual_address.to_string(),
        server: connection.server.to_string(),
        state: connection.state.to_string(),
        expires: connection.expires.as_secs(),
        origin: origin(connection.flags),
        template: false,
        forward: connection.forward.to_string(),
        flags: connection.flags.to_string(),
        path: "queue".to_owned(),
        pe_name: None,
        pe_data: None,
    }
}

/// Where an entry with these flags was made.
fn origin(flags: ConnFlags) -> String {
    if flags.contains(ConnFlags::SYNC) { "sync" } else { "local" }.to_owned()
}

fn template_status(template: &TemplateView) -> ConnectionStatus {
    ConnectionStatus {
        protocol: template.transport.map_or_else(|| "ip".to_owned(), |transport| transport.to_string()),
        client: SocketAddr::new(template.clients, 0).to_string(),
        virtual_address: template.virtual_address.to_string(),
        server: template.server.to_string(),
        state: template.state().to_owned(),
        expires: template.expires.as_secs(),
        origin: origin(template.flags),
        template: true,
        forward: "nat".to_owned(),
        flags: template.flags.to_string(),
        path: "queue".to_owned(),
        pe_name: template.pe_data.as_ref().map(|(engine, _)| engine.to_string()),
        // Bytes are not text, but those of Latin-1 have the numbers of its characters.
        pe_data: template
            .pe_data
            .as_ref()
            .map(|(_, data)| data.iter().map(|&byte| char::from(byte)).collect()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_flags_say_who_made_an_entry() {
        assert_eq!(
            [0x0100, 0x0120, 0x1120].map(|bits| origin(ConnFlags::from_bits(bits))),
            ["local", "sync", "sync"]
        );
    }

    #[tokio::test]
    async fn a_socket_goes_with_its_daemon_but_no_other_daemons() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("nfvs.sock");
        let first = ControlSocket::bind(&path).unwrap();
        assert!(ControlSocket::bind(&path).unwrap_err().to_string().contains("another daemon answers"));
        fs::remove_file(&path).unwrap();
        let second = ControlSocket::bind(&path).unwrap();
        drop(first);
        assert!(path.exists());
        drop(second);
        assert!(!path.exists());
    }

    #[tokio::test]
    async fn what_a_dead_daemon_left_is_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("nfvs.sock");
        drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
        assert!(ControlSocket::bind(&path).is_ok());
    }
}
