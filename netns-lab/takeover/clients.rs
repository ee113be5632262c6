//! Clients that notice when a director loses their connections: long downloads, of which every byte has to arrive, and
//! flows of datagrams.

use anyhow::{Context, ensure};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, UdpSocket};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};

/// A download that gets nothing for so long is lost.
const STALL: Duration = Duration::from_secs(60);
/// How long a flow waits for the answer to a datagram.
const PATIENCE: Duration = Duration::from_millis(500);

/// What clients are to do.
#[derive(Clone, Copy)]
pub(crate) struct Wanted {
    /// How many download `/files/large` by HTTP.
    pub(crate) downloads: usize,
    /// How many exchange datagrams with an echo, until all downloads are through.
    pub(crate) flows: usize,
    /// How many bytes a download takes at once, at most.
    pub(crate) piece: usize,
    /// How long clients wait between two pieces or datagrams.
    pub(crate) every: Duration,
}

/// Clients, and what is known of them while they run.
pub(crate) struct Clients {
    pub(crate) wanted: Wanted,
    /// Downloads of which something has arrived.
    pub(crate) started: AtomicUsize,
    /// Flows that had an answer.
    pub(crate) answered: AtomicUsize,
    /// Downloads that have arrived as they were sent.
    pub(crate) finished: AtomicUsize,
    is_over: AtomicBool,
    longest_stall_millis: AtomicUsize,
}

impl Clients {
    pub(crate) fn new(wanted: Wanted) -> Arc<Clients> {
        let [started, answered, finished, longest_stall_millis] = [0; 4].map(AtomicUsize::new);
        let is_over = AtomicBool::new(false);
        Arc::new(Clients { wanted, started, answered, finished, is_over, longest_stall_millis })
    }

    /// Whether all downloads and flows have begun.
    pub(crate) fn have_begun(&self) -> bool {
        self.started.load(Ordering::Relaxed) == self.wanted.downloads
            && self.answered.load(Ordering::Relaxed) == self.wanted.flows
    }

    /// The longest time for which a download got nothing.
    pub(crate) fn longest_stall(&self) -> Duration {
        Duration::from_millis(self.longest_stall_millis.load(Ordering::Relaxed) as u64)
    }

    /// Downloads this file from the web servers, and exchanges datagrams with the echoes, each in turn. Returns when
    /// all have what they want.
    ///
    /// # Errors
    ///
    /// The first client that has not: its connection was refused, reset or silent for a minute, or brought other bytes.
    pub(crate) async fn run(
        self: &Arc<Clients>,
        file: &Arc<Vec<u8>>,
        web: &[SocketAddr],
        echo: &[SocketAddr],
    ) -> anyhow::Result<()> {
        let (mut downloads, mut flows) = (JoinSet::new(), JoinSet::new());
        for (number, server) in web.iter().copied().cycle().take(self.wanted.downloads).enumerate() {
            let (clients, file) = (Arc::clone(self), Arc::clone(file));
            downloads.spawn(async move {
                clients.download(server, &file).await.with_context(|| format!("download {number}"))
            });
        }
        for (number, server) in echo.iter().copied().cycle().take(self.wanted.flows).enumerate() {
            let clients = Arc::clone(self);
            flows.spawn(async move {
                clients.chat(server, number).await.with_context(|| format!("flow {number}"))
            });
        }
        while let Some(download) = downloads.join_next().await {
            download??;
        }
        self.is_over.store(true, Ordering::Relaxed);
        while let Some(flow) = flows.join_next().await {
            flow??;
        }
        Ok(())
    }

    /// Downloads the file slowly; what arrives is what was sent.
    async fn download(&self, server: SocketAddr, file: &[u8]) -> anyhow::Result<()> {
        let socket = if server.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
        // Or the kernel would take the whole file at once.
        socket.set_recv_buffer_size(16 * 1024)?;
        let mut stream = socket.connect(server).await.context("connect")?;
        stream.write_all(b"GET /files/large HTTP/1.0\r\nHost: lab\r\n\r\n").await.context("ask")?;
        let (mut received, mut piece) = (Vec::new(), vec![0; self.wanted.piece]);
        let mut last = Instant::now();
        loop {
            let read = timeout(STALL, stream.read(&mut piece)).await;
            let so_far = received.len();
            let length = read
                .with_context(|| format!("nothing came for a minute after {so_far} bytes"))?
                .with_context(|| format!("after {so_far} bytes"))?;
            self.longest_stall_millis.fetch_max(last.elapsed().as_millis() as usize, Ordering::Relaxed);
            last = Instant::now();
            if length == 0 {
                break;
            }
            if received.is_empty() {
                self.started.fetch_add(1, Ordering::Relaxed);
            }
            received.extend_from_slice(&piece[..length]);
            sleep(self.wanted.every).await;
        }
        let header = received.windows(4).position(|bytes| bytes == b"\r\n\r\n").context("no header")?;
        let body = &received[header + 4..];
        ensure!(body == file, "{} bytes that differ from the {} of the file", body.len(), file.len());
        self.finished.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }

    /// Exchanges datagrams until all downloads are through; some may be lost, and none is another's.
    async fn chat(&self, server: SocketAddr, number: usize) -> anyhow::Result<()> {
        let any: SocketAddr = if server.is_ipv4() { ([0; 4], 0).into() } else { ([0_u16; 8], 0).into() };
        let socket = UdpSocket::bind(any).await?;
        socket.connect(server).await?;
        let mut answer = [0; 64];
        let mut is_answered = false;
        let mut count = 0;
        while !self.is_over.load(Ordering::Relaxed) {
            count += 1;
            let question = format!("{number} {count}");
            // Refused is what a director without the virtual address says.
            let _ = socket.send(question.as_bytes()).await;
            if let Ok(Ok(length)) = timeout(PATIENCE, socket.recv(&mut answer)).await {
                let is_ours = answer[..length].starts_with(format!("{number} ").as_bytes());
                ensure!(is_ours, "another's answer: {}", String::from_utf8_lossy(&answer[..length]));
                if !is_answered {
                    is_answered = true;
                    self.answered.fetch_add(1, Ordering::Relaxed);
                }
            }
            sleep(self.wanted.every).await;
        }
        Ok(())
    }
}
