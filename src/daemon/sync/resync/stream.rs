//! Hellos and messages over a connection. A message says in its third and fourth byte how long it is.

use super::super::seal::{Keys, Sealer, StreamOpener, TRAILER};
use super::super::secrets::Secrets;
use super::wire::{Hello, KeyId};
use super::{Failure, HANDSHAKE, STALL};
use std::io;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::time::timeout;

/// The header of a message, of version 1.
const HEADER: usize = 8;

/// What a connection goes over.
pub(super) trait Stream: AsyncRead + AsyncWrite + Unpin {}

impl<T: AsyncRead + AsyncWrite + Unpin> Stream for T {}

/// What both sides of a connection with keys can make, and nobody else.
#[derive(Debug)]
pub(super) struct Agreed {
    /// With what the backup shows that it has the key.
    pub(super) proof: [u8; 32],
    /// The key of the messages.
    pub(super) keys: Keys,
}

impl Agreed {
    /// By the key called `id`, and all that was said.
    pub(super) fn new(secrets: &Secrets, id: KeyId, backup: &Hello, master: &Hello) -> Option<Agreed> {
        let said = [backup.encode(), master.encode()].concat();
        let proof = secrets.keys.derive(id, b"nfvs resync: the backup has the key", &said)?;
        let keys = Keys::of(secrets.keys.derive(id, b"nfvs resync: the messages of the master", &said)?);
        Some(Agreed { proof, keys })
    }

    /// Whether this is the proof. It takes as long whatever is wrong with it.
    pub(super) fn is_proof(&self, bytes: &[u8; 32]) -> bool {
        self.proof.iter().zip(bytes).fold(0, |difference, (one, other)| difference | one ^ other) == 0
    }
}

/// The names of the keys that are valid.
pub(super) fn names(secrets: Option<&Secrets>) -> [KeyId; 2] {
    secrets.map(|secrets| secrets.keys.ids()).unwrap_or_default()
}

/// Sixteen bytes that nobody can foresee.
pub(in crate::daemon::sync) fn lot() -> io::Result<[u8; 16]> {
    let mut lot = [0; 16];
    rustix::rand::getrandom(&mut lot, rustix::rand::GetRandomFlags::empty())?;
    Ok(lot)
}

/// Waits for so many bytes of the handshake.
pub(super) async fn receive<const N: usize>(stream: &mut impl Stream) -> Result<[u8; N], Failure> {
    let mut bytes = [0; N];
    within(HANDSHAKE, stream.read_exact(&mut bytes)).await?;
    Ok(bytes)
}

/// Waits for a hello.
pub(super) async fn receive_hello(stream: &mut impl Stream) -> Result<Hello, Failure> {
    Hello::decode(&receive(stream).await?).ok_or(Failure::Garbage)
}

/// Sends bytes, as soon as there is room for them.
pub(super) async fn send(stream: &mut impl Stream, bytes: &[u8]) -> Result<(), Failure> {
    within(STALL, stream.write_all(bytes)).await
}

/// Writes messages, sealed where there is a key.
pub(super) struct Writer {
    seal: Option<(Sealer, Keys)>,
}

impl Writer {
    /// Of a connection that has begun `since_1970`.
    pub(super) fn new(agreed: Option<Agreed>, since_1970: Duration) -> Writer {
        Writer { seal: agreed.map(|agreed| (Sealer::new(since_1970), agreed.keys)) }
    }

    /// How many bytes it needs behind the last record.
    pub(super) fn trailer(&self) -> usize {
        if self.seal.is_some() { TRAILER } else { 0 }
    }

    /// Sends a message.
    pub(super) async fn write(
        &mut self,
        stream: &mut impl Stream,
        mut message: Vec<u8>,
        since_1970: Duration,
    ) -> Result<(), Failure> {
        if let Some((sealer, keys)) = &mut self.seal {
            sealer.seal(keys, &mut message, since_1970);
        }
        send(stream, &message).await
    }
}

/// Reads messages, and looks at their seals where there is a key.
pub(super) struct Reader {
    opener: Option<StreamOpener>,
    message: Vec<u8>,
}

impl Reader {
    /// Of a connection that nothing has been read of.
    pub(super) fn new(agreed: Option<Agreed>) -> Reader {
        Reader { opener: agreed.map(|agreed| StreamOpener::new(agreed.keys)), message: Vec::new() }
    }

    /// Waits for the next message.
    pub(super) async fn read(&mut self, stream: &mut impl Stream) -> Result<&[u8], Failure> {
        let mut start = [0; HEADER];
        within(STALL, stream.read_exact(&mut start)).await?;
        let length = usize::from(u16::from_be_bytes([start[2], start[3]]));
        if length < HEADER {
            return Err(Failure::Garbage);
        }
        self.message.clear();
        self.message.extend_from_slice(&start);
        self.message.resize(length, 0);
        within(STALL, stream.read_exact(&mut self.message[HEADER..])).await?;
        if let Some(opener) = &mut self.opener {
            opener.open(&self.message).map_err(Failure::Unsealed)?;
        }
        Ok(&self.message)
    }
}

async fn within<T>(time: Duration, work: impl Future<Output = io::Result<T>>) -> Result<(), Failure> {
    match timeout(time, work).await {
        Ok(Ok(_)) => Ok(()),
        Ok(Err(error)) if is_end(&error) => Err(Failure::Ended),
        Ok(Err(error)) => Err(Failure::Io(error)),
        Err(_) => Err(Failure::Silent),
    }
}

fn is_end(error: &io::Error) -> bool {
    use io::ErrorKind::{BrokenPipe, ConnectionReset, UnexpectedEof};
    matches!(error.kind(), BrokenPipe | ConnectionReset | UnexpectedEof)
}
