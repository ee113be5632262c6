//! Asks servers how loaded they are, for services with the scheduler `feedback`, and tells the director.
//!
//! Each such service has a task of its own on the main thread. It asks all servers at the same time, once in an interval;
//! what they say, or that they say nothing, goes to `Director::note_load`. Whatever keeps it from working, a director
//! that hears nothing goes by the configured weights.

use super::clock::Clock;
use crate::director::Director;
use crate::director::service::{Feedback, Load, LoadSource, ServiceKey};
use anyhow::{Context, bail};
use http_body_util::{BodyExt, Empty};
use hyper::Request;
use hyper::body::Bytes;
use hyper::client::conn::http1;
use hyper::header::{CONNECTION, HOST, USER_AGENT};
use hyper_util::rt::TokioIo;
use std::collections::{HashMap, HashSet};
use std::fs::{self, File};
use std::io::Read;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::MissedTickBehavior;

/// How much is read of a report; its first line is shorter.
const LONGEST_REPORT: usize = 256;
/// How many web servers are asked at the same time, those of all services together: each takes a file descriptor.
const MOST_QUESTIONS: usize = 256;

/// The tasks that ask servers.
#[derive(Debug)]
pub(super) struct Reporters {
    director: Arc<Director>,
    clock: Clock,
    questions: Arc<Semaphore>,
    running: HashMap<ServiceKey, Reporter>,
}

/// The task of a service; it ends with this.
#[derive(Debug)]
struct Reporter {
    feedback: Feedback,
    task: AbortHandle,
}

impl Drop for Reporter {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Reporters {
    /// No tasks yet: see [`follow`](Self::follow).
    pub(super) fn new(director: Arc<Director>, clock: Clock) -> Reporters {
        let questions = Arc::new(Semaphore::new(MOST_QUESTIONS));
        Reporters { director, clock, questions, running: HashMap::new() }
    }

    /// Brings the tasks up to date with the director's services; their servers they look up by themselves. Call it in
    /// the runtime, after each change.
    pub(super) fn follow(&mut self) {
        let services = self.director.services();
        let feedback_of = |key: &ServiceKey| services.get(key).and_then(|service| service.feedback());
        self.running.retain(|key, reporter| feedback_of(key) == Some(&reporter.feedback));
        for service in services.iter() {
            let key = service.key();
            let Some(feedback) = service.feedback().filter(|_| !self.running.contains_key(&key)) else {
                continue;
            };
            let asking = Asking {
                director: Arc::clone(&self.director),
                clock: self.clock,
                questions: Arc::clone(&self.questions),
                key,
                silent: HashSet::new(),
            };
            let feedback = feedback.clone();
            let task = tokio::spawn(asking.run(feedback.clone())).abort_handle();
            self.running.insert(key, Reporter { feedback, task });
        }
    }
}

/// The work of a service's task.
struct Asking {
    director: Arc<Director>,
    clock: Clock,
    questions: Arc<Semaphore>,
    key: ServiceKey,
    /// The servers whose last report was missed, so that the log says it once.
    silent: HashSet<SocketAddr>,
}

impl Asking {
    async fn run(mut self, feedback: Feedback) {
        // Services do not all ask at the same moment.
        tokio::time::sleep(feedback.interval.mul_f64(fastrand::f64())).await;
        let mut interval = tokio::time::interval(feedback.interval);
        interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            interval.tick().await;
            let servers = self.servers();
            self.silent.retain(|server| servers.contains(server));
            match &feedback.source {
                LoadSource::Http { path, port, host, timeout } => {
                    let mut answers = JoinSet::new();
                    for server in servers {
                        let page = Page {
                            address: SocketAddr::new(server.ip(), port.unwrap_or(server.port())),
                            path: path.clone(),
                            host: host.clone(),
                        };
                        let (questions, timeout) = (Arc::clone(&self.questions), *timeout);
                        answers.spawn(async move { (server, ask(&page, &questions, timeout).await) });
                    }
                    while let Some(Ok((server, answer))) = answers.join_next().await {
                        self.note(server, answer);
                    }
                }
                source @ LoadSource::File(_) => {
                    let source = source.clone();
                    let files = servers.into_iter().filter_map(move |server| {
                        source.file_of(server).map(|file| (server, read_report(&file)))
                    });
                    // A disk that does not answer stops this service's reports, and nothing else.
                    let read = tokio::task::spawn_blocking(move || files.collect::<Vec<_>>());
                    for (server, answer) in read.await.unwrap_or_default() {
                        self.note(server, answer);
                    }
                }
            }
            self.director.regulate(self.key, self.clock.now());
        }
    }

    fn servers(&self) -> Vec<SocketAddr> {
        let services = self.director.services();
        let servers = services.get(&self.key).map_or(&[][..], |service| &service.servers);
        servers.iter().map(|server| SocketAddr::new(server.address, server.port)).collect()
    }

    fn note(&mut self, server: SocketAddr, answer: anyhow::Result<Load>) {
        let service = self.key;
        self.director.note_load(service, server, answer.as_ref().ok().copied(), self.clock.now());
        match answer {
            Ok(_) if self.silent.remove(&server) => {
                tracing::info!(%service, %server, "the server reports its load again");
            }
            Err(error) if self.silent.insert(server) => {
                tracing::warn!(%service, %server, "there is no report of the server's load: {error:#}");
            }
            _ => {}
        }
    }
}

/// Where a server's report is.
struct Page {
    address: SocketAddr,
    path: String,
    host: Option<String>,
}

/// Asks a web server, as soon as not too many others are being asked.
async fn ask(page: &Page, questions: &Semaphore, timeout: Duration) -> anyhow::Result<Load> {
    let _one_of_many = questions.acquire().await?;
    let answer = tokio::time::timeout(timeout, answer(page)).await;
    answer.with_context(|| format!("{} has not answered within {timeout:?}", page.address))?
}

async fn answer(page: &Page) -> anyhow::Result<Load> {
    let stream = TcpStream::connect(page.address)
        .await
        .with_context(|| format!("cannot connect to {}", page.address))?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    let host = page.host.clone().unwrap_or_else(|| page.address.to_string());
    let request = Request::get(&page.path)
        .header(HOST, host)
        .header(USER_AGENT, concat!("nfvs/", env!("CARGO_PKG_VERSION")))
        .header(CONNECTION, "close")
        .body(Empty::<Bytes>::new())?;
    let exchange = async move {
        let response = sender.send_request(request).await?;
        if !response.status().is_success() {
            bail!("{} answers with {}", page.address, response.status());
        }
        let mut body = response.into_body();
        let mut report = Vec::new();
        while !report.contains(&b'\n')
            && report.len() < LONGEST_REPORT
            && let Some(frame) = body.frame().await
        {
            report.extend(frame?.into_data().unwrap_or_default());
        }
        report.truncate(LONGEST_REPORT);
        load(&report)
    };
    // The connection has to be driven for the exchange to get on. It may end first, with all that was said.
    let (mut exchange, connection) = (pin!(exchange), pin!(connection));
    tokio::select! {
        biased;
        answer = &mut exchange => answer,
        _ = connection => exchange.await,
    }
}

fn read_report(path: &str) -> anyhow::Result<Load> {
    let context = || format!("cannot read {path}");
    // Opening anything else may have effects, or last.
    if !fs::metadata(path).with_context(context)?.is_file() {
        bail!("{path} is no regular file");
    }
    let file = File::open(path).with_context(context)?;
    let mut report = Vec::new();
    file.take(LONGEST_REPORT as u64).read_to_end(&mut report).with_context(context)?;
    load(&report)
}

fn load(report: &[u8]) -> anyhow::Result<Load> {
    Load::from_report(report).with_context(|| {
        let shown = String::from_utf8_lossy(report).lines().next().unwrap_or_default().to_owned();
        format!("{shown:?} is not a load: a decimal number that is not below 0, alone in the first line")
    })
}

#[cfg(test)]
mod tests;
