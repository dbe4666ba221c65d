//! The requests of the protocol, each with its deadline and the meaning of its answers.

use super::answer::{self, Who};
use super::body;
use super::connect::{self, TlsOptions};
use super::limit::Bandwidth;
use super::port::{Answer, LocalReceiver, ReceiverClient};
use super::request::{BlockBody, IndexBody, LogBatch};
use super::retry::{self, Failed, retry};
use super::stall_timeout::StallTimeout;
use super::throughput::Throughput;
use super::window::{Claim, Window};
use crate::archive::digest::IndexDigest;
use crate::archive::frame::Frame;
use crate::archive::protocol::{
    AdoptAnswer, AdoptRequest, BlockAnswer, CandidatesAnswer, CandidatesRequest, FinishAnswer,
    FinishProgress, FinishRequest, HEADER_ADOPT, HEADER_COMPARE, HEADER_DIGEST, HEADER_FAILED, HEADER_FREE,
    HEADER_INDEX, HEADER_LENGTH, HEADER_RANGE, HEADER_REPLACE_SOURCE, HEADER_SERVER, HEADER_SLICE,
    HEADER_SOURCE, HEADER_SOURCE_DIGEST, HEADER_SOURCE_ID, HEADER_STREAM, IndexAnswer, LogAnswer,
    PrecheckAnswer, PrecheckRequest, ProposedEntry, Similarity, Space, Status, VERSION, VerifyAnswer,
    VerifyRequest, format_ids, source_digest,
};
use crate::archive::slice::Slice;
use crate::archive::source::{SourceClaim, encode_name};
use crate::archive::zstd;
use crate::error::{Error, ErrorKind, Result};
use crate::retry_budget::RetryBudget;
use crate::telemetry::{Departure, Monitor, NamedMonitor};
use reqwest::{Body, Method, RequestBuilder, Response, StatusCode, Url, header};
use serde::de::DeserializeOwned;
use std::fs::File;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::time::Instant;

/// How a client talks.
pub struct ClientOptions {
    /// The base address, `http://host:port/tar` by default.
    pub url: String,
    /// The Unix socket that leads there, and what its address is to people.
    pub socket: Option<(PathBuf, String)>,
    /// The receiver's token, if it wants one.
    pub token: Option<String>,
    /// Whom to trust, and how to be trusted.
    pub tls: TlsOptions,
    /// Connections that are pooled.
    pub connections: usize,
    /// A block's body must go on, and after its end be answered, within this time.
    pub block_deadline: Duration,
    /// The limit on what is sent.
    pub bandwidth: Option<Arc<Bandwidth>>,
    /// A receiver without space is an error at once, and not waited for.
    pub ends_when_full: bool,
    /// The receiver itself, if it is in this process: blocks take no other way then.
    pub receiver: Option<Arc<dyn LocalReceiver>>,
}

/// A receiver, seen from a sender.
#[derive(Clone)]
pub struct Client {
    http: reqwest::Client,
    base: Url,
    /// What its address is to people, where a Unix socket leads there.
    place: Option<String>,
    /// The HTTP proxy of the environment that leads there.
    proxy: Option<String>,
    tar_id: u64,
    /// Whose archive that is.
    claim: SourceClaim,
    /// Which of several receivers it speaks to.
    slice: Option<Slice>,
    tls: TlsOptions,
    connections: usize,
    token: Option<String>,
    block_deadline: Duration,
    bandwidth: Option<Arc<Bandwidth>>,
    ends_when_full: bool,
    receiver: Option<Arc<dyn LocalReceiver>>,
    window: Arc<Window>,
    budget: RetryBudget,
    monitor: Arc<dyn Monitor>,
    throughput: Throughput,
    local: bool,
    /// The receiver has said that it takes Zstandard …
    zstd: Arc<AtomicBool>,
    /// … but it, or something on the way to it, did not.
    zstd_refused: Arc<AtomicBool>,
    /// The receiver has said that it is one of several.
    is_slice: Arc<AtomicBool>,
    /// A receiver of ours has answered: from then on, other answers are those of something on the
    /// way to it.
    was_reached: Arc<AtomicBool>,
}

const SHORT_DEADLINE: Duration = Duration::from_secs(60);
/// A user who wants to give up sooner still waits so long for an answer: a receiver may work that
/// long before it says that it does ...
const MIN_DEADLINE: Duration = Duration::from_secs(15);
/// ... but not where there is nothing to work on.
const MIN_STATUS_DEADLINE: Duration = Duration::from_secs(5);
/// What a receiver checks of an index in a second, on a slow machine: rows …
const INDEX_ROWS_PER_S: u64 = 10_000;
/// … and bytes of a compressed one. An index of ten million files takes its time, and one of a few
/// must not wait as long.
const INDEX_BYTES_PER_S: u64 = 500_000;

impl Client {
    /// Makes a client of archive 0 that gives up when nothing has succeeded or moved for
    /// `stall_timeout`; nothing is sent yet.
    ///
    /// # Errors
    /// The address or a file of certificates is not valid.
    pub fn new(options: ClientOptions, stall_timeout: Duration, monitor: Arc<dyn Monitor>) -> Result<Self> {
        let base = connect::base(&options.url)?;
        let local = connect::is_loopback(&base);
        let proxy = connect::proxy_of(&base).filter(|_| options.socket.is_none());
        let window = Window::new(options.connections, options.bandwidth.as_ref().map(|limit| limit.rate()));
        let mut http = connect::builder(&base, &options.tls)?.pool_max_idle_per_host(options.connections);
        let mut place = None;
        if let Some((socket, name)) = options.socket {
            http = http.unix_socket(socket);
            place = Some(name);
        }
        let http = connect::build(http)?;
        Ok(Self {
            http,
            base,
            place,
            proxy,
            window,
            tar_id: 0,
            claim: SourceClaim::default(),
            slice: None,
            tls: options.tls,
            connections: options.connections,
            token: options.token,
            block_deadline: options.block_deadline,
            bandwidth: options.bandwidth,
            ends_when_full: options.ends_when_full,
            receiver: options.receiver,
            budget: retry::budget(stall_timeout),
            monitor,
            throughput: Throughput::default(),
            local,
            zstd: Arc::default(),
            zstd_refused: Arc::default(),
            is_slice: Arc::default(),
            was_reached: Arc::default(),
        })
    }

    /// The same client, of a receiver of which nothing is known yet.
    fn unknown(self) -> Self {
        // The slices share a limit, and perhaps the link.
        let slices = self.slice.map_or(1, Slice::count);
        let rate = self.bandwidth.as_ref().map(|limit| (limit.rate() / slices).max(1));
        let name = self.slice.map(|slice| format!("slice {slice}")).unwrap_or_default();
        Self {
            window: Window::new(self.connections, rate),
            budget: self.budget.another(),
            throughput: Throughput::default(),
            zstd: Arc::default(),
            zstd_refused: Arc::default(),
            was_reached: Arc::default(),
            monitor: Arc::new(NamedMonitor { monitor: self.monitor.clone(), name }),
            ..self
        }
    }

    /// Whether what it tells of its work is the progress of the whole work.
    fn is_of_all(&self) -> bool {
        self.slice.is_none_or(Slice::is_first)
    }

    fn request(&self, method: Method, tail: &str, deadline: Option<Duration>) -> Result<RequestBuilder> {
        let url = self.base.join(&format!("{}/{tail}", self.tar_id)).map_err(|e| {
            Error::new(ErrorKind::Usage, format!("cannot make an address of {}", self.base)).with_source(e)
        })?;
        let mut request = self.http.request(method, url);
        if let Some(deadline) = deadline {
            request = request.timeout(deadline);
        }
        if let Some(token) = &self.token {
            request = request.bearer_auth(token);
        }
        if let Some(slice) = self.slice {
            request = request.header(HEADER_SLICE, slice.to_string());
        }
        Ok(request)
    }

    /// The same request with what the sender says of its source.
    fn claiming(&self, mut request: RequestBuilder) -> RequestBuilder {
        if let Some(source) = &self.claim.source {
            let (id, name) = (source.id.to_string(), encode_name(&source.name));
            request = request
                .header(HEADER_SOURCE_DIGEST, source_digest(id.as_bytes(), name.as_bytes()).to_string())
                .header(HEADER_SOURCE_ID, id)
                .header(HEADER_SOURCE, name);
        }
        if self.claim.replaces { request.header(HEADER_REPLACE_SOURCE, 1) } else { request }
    }

    async fn send(&self, request: RequestBuilder) -> std::result::Result<Response, Failed> {
        let was_reached = self.was_reached.load(Ordering::Relaxed);
        request.send().await.map_err(|e| connect::failure(e, was_reached, self.proxy.as_deref()))
    }

    /// Refuses an archive of another source before anything is sent.
    fn check_source(&self, status: &Status) -> Result<()> {
        match (&self.claim.source, status.source_id.as_ref().and_then(|id| id.parse().ok())) {
            (Some(_), Some(bound)) => {
                self.claim.check(self.tar_id, &bound, status.source.as_deref().unwrap_or_default())
            }
            _ => Ok(()),
        }
    }

    /// Nothing may stand still longer than requests may fail.
    fn deadline(&self, least: Duration, most: Duration) -> Duration {
        self.budget.left().clamp(least, most.max(least))
    }

    async fn put_or_compare<T: DeserializeOwned>(&self, index: &IndexBody, adopt: &'static str) -> Result<T> {
        let movement = self.budget.movement(index.length);
        retry(&self.budget, &*self.monitor, || async {
            let timeout = StallTimeout::new(movement.clone());
            let request = self
                .claiming(self.request(Method::PUT, "db", None)?)
                .header(header::CONTENT_LENGTH, index.length)
                .header(HEADER_INDEX, index.digest.to_string())
                .body(body::of_file(&index.file, index.length, self.bandwidth.clone(), &timeout)?);
            let request = index
                .headers(adopt)
                .into_iter()
                .fold(request, |request, (name, value)| request.header(name, value));
            let exchange = async { self.read(self.send(request).await?).await };
            timeout
                .watch(
                    self.answer_deadline((index.length / INDEX_BYTES_PER_S).saturating_add(index.work_s)),
                    exchange,
                )
                .await
                .map_err(|failed: Failed| {
                    let is_final = index.has_other_way() && failed.error.kind() == ErrorKind::NoSpace;
                    Failed { is_final: failed.is_final || is_final, ..failed }
                })
        })
        .await
    }

    /// How long a block may stand still.
    fn standstill(&self) -> Duration {
        self.deadline(MIN_DEADLINE.min(self.block_deadline), self.block_deadline)
    }

    /// How long a request may stand still whose answer takes the receiver `work_s` seconds of work.
    fn answer_deadline(&self, work_s: u64) -> Duration {
        self.standstill().saturating_add(Duration::from_secs(work_s))
    }

    /// Turns an answer that is no success into the error that it means, and so one of something
    /// that stands in for the receiver.
    async fn accepted(&self, response: Response) -> std::result::Result<Response, Failed> {
        match self.who(&response) {
            who if !response.status().is_success() => {
                let failed = answer::refusal(response, who, &self.base).await;
                let is_final = self.ends_when_full && failed.error.kind() == ErrorKind::NoSpace;
                Err(Failed { is_final: failed.is_final || is_final, ..failed })
            }
            Who::Between => Err(answer::stand_in(&response, &self.base)),
            _ => Ok(response),
        }
    }

    /// What a success says.
    async fn read<T: DeserializeOwned>(&self, response: Response) -> std::result::Result<T, Failed> {
        let who = self.who(&response);
        answer::json(self.accepted(response).await?, who, &self.base).await
    }

    fn who(&self, response: &Response) -> Who {
        match self.is_ours(response) {
            true => Who::Ours,
            false if self.was_reached.load(Ordering::Relaxed) => Who::Between,
            false => Who::Unknown,
        }
    }

    fn is_ours(&self, response: &Response) -> bool {
        let ours = response.headers().get(HEADER_SERVER).is_some_and(|version| version == VERSION);
        if ours {
            self.was_reached.store(true, Ordering::Relaxed);
            let takes = !self.zstd_refused.load(Ordering::Relaxed) && accepts_zstd(response.headers());
            self.zstd.store(takes, Ordering::Relaxed);
            self.is_slice.store(response.headers().contains_key(HEADER_SLICE), Ordering::Relaxed);
            self.budget.record_contact();
        }
        ours
    }

    /// What a block tells of the link: how long it took, less the receiver's own work.
    fn record_time(
        &self,
        claim: &Claim,
        took: Duration,
        outcome: &std::result::Result<Option<BlockAnswer>, Failed>,
    ) {
        match outcome {
            Ok(answer) => {
                let work = answer.as_ref().and_then(|answer| Duration::try_from_secs_f64(answer.dur).ok());
                claim.record(took.saturating_sub(work.unwrap_or_default()), true);
            }
            Err(failed) if failed.error.kind() == ErrorKind::TooSlow => claim.record_too_slow(),
            Err(failed) if failed.error.kind() == ErrorKind::Unreachable => claim.record(took, false),
            // Refused for other reasons, perhaps before it was on its way.
            Err(_) => {}
        }
    }

    /// A refusal of a Zstandard body is perhaps one of that coding, by something on the way: the
    /// block, and all that follow, can come in the one that everybody takes.
    fn without_zstd(&self, block: &BlockBody, failed: Failed) -> Failed {
        let kind = failed.error.kind();
        let about_body = [ErrorKind::Malformed, ErrorKind::LengthRequired, ErrorKind::BadBlock];
        if !block.zstd || !about_body.contains(&kind) {
            return failed;
        }
        self.zstd_refused.store(true, Ordering::Relaxed);
        self.zstd.store(false, Ordering::Relaxed);
        Failed { error: failed.error.with_kind(ErrorKind::BadBlock), ..failed }
    }

    /// Asks for the status, by the address that ends with `tail`. `of_missing` gives the answer of a
    /// receiver of ours that has no index of this archive, if that is no error.
    async fn ask_status<T>(
        &self,
        tail: &str,
        of_status: impl Fn(Status) -> T,
        of_missing: impl Fn(&Response) -> Option<T>,
    ) -> Result<Option<T>> {
        retry(&self.budget, &*self.monitor, || async {
            let deadline = self.deadline(MIN_STATUS_DEADLINE, SHORT_DEADLINE);
            let response = self.send(self.request(Method::GET, tail, Some(deadline))?).await?;
            let unknown =
                [StatusCode::NOT_FOUND, StatusCode::METHOD_NOT_ALLOWED, StatusCode::NOT_IMPLEMENTED];
            let who = self.who(&response);
            if who == Who::Unknown && unknown.contains(&response.status()) {
                return Ok(None);
            }
            if who == Who::Ours
                && response.status() == StatusCode::NOT_FOUND
                && let Some(answer) = of_missing(&response)
            {
                return Ok(Some(answer));
            }
            let status: Status = self.read(response).await?;
            self.check_source(&status)?;
            Ok(Some(of_status(status)))
        })
        .await
    }

    /// Sends a block once.
    async fn send_block(
        &self,
        block: &BlockBody,
        index: &IndexDigest,
        timeout: StallTimeout,
    ) -> std::result::Result<Option<BlockAnswer>, Failed> {
        let tail = format!("{}/{}", block.block_size, block.number);
        let mut request = self
            .request(Method::PUT, &tail, None)?
            .header(header::CONTENT_LENGTH, block.body.length())
            .header(HEADER_INDEX, index.to_string());
        if let Some(digest) = &block.digest {
            request = request.header(HEADER_DIGEST, digest.to_string());
        }
        if block.zstd {
            request = request.header(header::CONTENT_ENCODING, zstd::CODING);
        }
        if let Some(part) = &block.part {
            request = request.header(HEADER_RANGE, format!("{}-{}", part.start, part.end));
        }
        if !block.failed.is_empty() {
            request = request.header(HEADER_FAILED, format_ids(&block.failed));
        }
        let departure = block.in_flight.begin(block.body.length());
        let request = request.body(self.frame_body(&block.body, &timeout, Some(departure)));
        let exchange = async {
            let response = self.accepted(self.send(request).await?).await?;
            match self.who(&response) {
                Who::Ours => self.read(response).await.map(Some),
                _ => Ok(None),
            }
        };
        timeout.watch(self.standstill(), exchange).await
    }

    /// Gives a block to a receiver in this process, once.
    fn hand_over(
        &self,
        receiver: &dyn LocalReceiver,
        block: &BlockBody,
        index: &IndexDigest,
    ) -> std::result::Result<Option<BlockAnswer>, Failed> {
        let put = || receiver.put_block(self.tar_id, block, index);
        tokio::task::block_in_place(put).map(Some).map_err(|error| {
            let kind = error.kind().as_answered();
            let is_final = self.ends_when_full && kind == ErrorKind::NoSpace;
            Failed { answered: true, is_final, ..error.of_receiver().with_kind(kind).into() }
        })
    }

    fn frame_body(&self, frame: &Frame, timeout: &StallTimeout, departure: Option<Departure>) -> Body {
        body::of_frame(frame, self.bandwidth.clone(), self.throughput.begin(), timeout, departure)
    }
}

impl ReceiverClient for Client {
    fn address(&self) -> &str {
        self.place.as_deref().unwrap_or_else(|| self.base.as_str().trim_end_matches('/'))
    }

    fn throughput(&self) -> &Throughput {
        &self.throughput
    }

    fn window(&self) -> &Arc<Window> {
        &self.window
    }

    fn is_local(&self) -> bool {
        self.local && self.bandwidth.is_none()
    }

    fn is_in_process(&self) -> bool {
        self.receiver.is_some()
    }

    fn for_archive(&self, tar_id: u64, claim: SourceClaim) -> Arc<dyn ReceiverClient> {
        Arc::new(Self { tar_id, claim, ..self.clone() })
    }

    fn for_slice(&self, slice: Slice, address: Option<&str>) -> Result<Arc<dyn ReceiverClient>> {
        let Some(address) = address else {
            // What leads to the other slices is not what leads to the first one.
            let client = Self { slice: Some(slice), ..self.clone() };
            return Ok(Arc::new(if slice.is_first() { client } else { client.unknown() }));
        };
        let base = connect::base(address)?;
        if self.base.scheme() == "https" && base.scheme() != "https" {
            let what =
                format!("slice {slice} has the address {address}, where everybody can read what is sent");
            return Err(Error::new(ErrorKind::Usage, what)
                .with_hint("give the receivers the https addresses of all slices with --peers"));
        }
        let http = connect::builder(&base, &self.tls)?.pool_max_idle_per_host(self.connections);
        let client = Self {
            proxy: connect::proxy_of(&base),
            local: connect::is_loopback(&base),
            http: connect::build(http)?,
            base,
            place: None,
            receiver: None,
            slice: Some(slice),
            ..self.clone()
        };
        Ok(Arc::new(client.unknown()))
    }

    fn takes_zstd(&self) -> Arc<AtomicBool> {
        self.zstd.clone()
    }

    fn is_slice(&self) -> bool {
        self.is_slice.load(Ordering::Relaxed)
    }

    fn budget(&self) -> &RetryBudget {
        &self.budget
    }

    fn status(&self, block_size: u64, from: u64) -> Answer<'_, Option<Status>> {
        let tail = format!("status?blk_size={block_size}&from={from}");
        Box::pin(async move { self.ask_status(&tail, |status| status, |_| None).await })
    }

    fn space(&self) -> Answer<'_, Option<Space>> {
        // Nothing is missing from there on.
        let tail = format!("status?from={}&space=1", i64::MAX);
        let of_missing = |response: &Response| {
            let free_bytes = response.headers().get(HEADER_FREE)?.to_str().ok()?.parse().ok()?;
            Some(Some(Space { needed_bytes: 0, free_bytes }))
        };
        Box::pin(async move {
            match self.ask_status(&tail, |status| status.space, of_missing).await {
                // An earlier receiver does not say it of an archive that it does not have.
                Err(e) if e.kind() == ErrorKind::NotFound => Ok(None),
                answer => Ok(answer?.flatten()),
            }
        })
    }

    fn put_index<'a>(&'a self, index: &'a IndexBody) -> Answer<'a, IndexAnswer> {
        Box::pin(self.put_or_compare(index, HEADER_ADOPT))
    }

    fn get_index<'a>(
        &'a self,
        index: &'a IndexDigest,
        rows: u64,
        limit_bytes: u64,
        target: &'a File,
    ) -> Answer<'a, ()> {
        Box::pin(async move {
            let movement = self.budget.movement(limit_bytes);
            retry(&self.budget, &*self.monitor, || async {
                let timeout = StallTimeout::new(movement.clone());
                let request = self.request(Method::GET, "db", None)?.header(HEADER_INDEX, index.to_string());
                let exchange = async {
                    let response = self.accepted(self.send(request).await?).await?;
                    body::to_file(response, target, limit_bytes, &timeout).await
                };
                timeout.watch(self.answer_deadline(rows / INDEX_ROWS_PER_S), exchange).await
            })
            .await
            .map_err(|e| match e.kind() {
                ErrorKind::MethodNotAllowed => e.with_hint(
                    "use the same version of tar-like on all hosts, or copy the index and use upload --queue",
                ),
                ErrorKind::Forbidden => {
                    e.with_hint("a worker's token needs two scopes: tar-like token new --scope upload,index")
                }
                _ => e,
            })
        })
    }

    fn compare<'a>(&'a self, index: &'a IndexBody) -> Answer<'a, Similarity> {
        Box::pin(self.put_or_compare(index, HEADER_COMPARE))
    }

    fn append_log<'a>(&'a self, batch: &'a LogBatch) -> Answer<'a, LogAnswer> {
        Box::pin(async move {
            let movement = self.budget.movement(batch.body.length());
            retry(&self.budget, &*self.monitor, || async {
                let timeout = StallTimeout::new(movement.clone());
                let request = self
                    .claiming(self.request(Method::POST, "log", None)?)
                    .header(header::CONTENT_LENGTH, batch.body.length())
                    .header(HEADER_STREAM, batch.stream.to_string())
                    .header(HEADER_INDEX, batch.before.to_string())
                    .header(HEADER_LENGTH, batch.length)
                    .body(self.frame_body(&batch.body, &timeout, None));
                let exchange = async { self.read(self.send(request).await?).await };
                let work_s = batch.rows.map_or(0, |rows| rows / INDEX_ROWS_PER_S);
                timeout.watch(self.answer_deadline(work_s), exchange).await
            })
            .await
        })
    }

    fn clone_file(&self, id: u64, source: &File) -> Option<File> {
        self.receiver.as_ref()?.clone_file(self.tar_id, id, source)
    }

    fn put_block<'a>(
        &'a self,
        block: &'a BlockBody,
        index: &'a IndexDigest,
        claim: &'a Claim,
    ) -> Answer<'a, Option<BlockAnswer>> {
        Box::pin(async move {
            let movement = self.budget.movement(block.body.length());
            retry(&self.budget, &*self.monitor, || async {
                let start = Instant::now();
                let outcome = match &self.receiver {
                    Some(receiver) => self.hand_over(&**receiver, block, index),
                    None => self.send_block(block, index, StallTimeout::new(movement.clone())).await,
                };
                self.monitor.counters().wire_bytes.add(block.body.length());
                self.record_time(claim, start.elapsed(), &outcome);
                outcome.map_err(|failed| {
                    block.in_flight.revert();
                    let is_final = failed.is_final || claim.is_outdated();
                    Failed { is_final, ..self.without_zstd(block, failed) }
                })
            })
            .await
        })
    }

    fn finish<'a>(&'a self, index: &'a IndexDigest, finish: FinishRequest) -> Answer<'a, FinishAnswer> {
        Box::pin(async move {
            let finish = FinishRequest { name: Some(rand::random()), ..finish };
            let counters = self.monitor.counters();
            if self.is_of_all() {
                counters.files_done.set(0);
            }
            loop {
                let answer = retry(&self.budget, &*self.monitor, || async {
                    let deadline = Some(self.deadline(MIN_DEADLINE, SHORT_DEADLINE));
                    let request = self
                        .claiming(self.request(Method::POST, "finish", deadline)?)
                        .header(HEADER_INDEX, index.to_string())
                        .json(&finish);
                    let response = self.accepted(self.send(request).await?).await?;
                    if response.status() == StatusCode::ACCEPTED {
                        return self.read(response).await.map(Err);
                    }
                    self.read(response).await.map(Ok)
                })
                .await?;
                match answer {
                    Ok(answer) => return Ok(answer),
                    // An earlier receiver does not say how far it is.
                    Err(FinishProgress { files_done, .. }) if self.is_of_all() => {
                        counters.files_done.set(files_done);
                    }
                    Err(_) => {}
                }
            }
        })
    }

    fn candidates<'a>(
        &'a self,
        index: &'a IndexDigest,
        candidates: CandidatesRequest,
    ) -> Answer<'a, CandidatesAnswer> {
        Box::pin(async move {
            loop {
                let page = retry(&self.budget, &*self.monitor, || async {
                    let request = self
                        .request(
                            Method::POST,
                            "candidates",
                            Some(self.deadline(MIN_DEADLINE, SHORT_DEADLINE)),
                        )?
                        .header(HEADER_INDEX, index.to_string())
                        .json(&candidates);
                    let response = self.accepted(self.send(request).await?).await?;
                    let is_made = response.status() != StatusCode::ACCEPTED;
                    Ok(is_made.then_some(self.read(response).await?))
                })
                .await?;
                if let Some(page) = page {
                    return Ok(page);
                }
            }
        })
    }

    fn adopt<'a>(&'a self, adopt: &'a AdoptRequest) -> Answer<'a, AdoptAnswer> {
        Box::pin(async move {
            loop {
                let (ready, answer) = retry(&self.budget, &*self.monitor, || async {
                    let deadline = Some(self.deadline(MIN_DEADLINE, SHORT_DEADLINE));
                    let request = self.claiming(self.request(Method::POST, "adopt", deadline)?).json(adopt);
                    let response = self.accepted(self.send(request).await?).await?;
                    Ok((response.status() != StatusCode::ACCEPTED, self.read(response).await?))
                })
                .await?;
                if ready {
                    return Ok(answer);
                }
            }
        })
    }

    fn verify<'a>(
        &'a self,
        index: &'a IndexDigest,
        verify: &'a VerifyRequest,
    ) -> Answer<'a, (bool, VerifyAnswer)> {
        Box::pin(async move {
            retry(&self.budget, &*self.monitor, || async {
                let request = self
                    .request(Method::POST, "verify", Some(self.deadline(MIN_DEADLINE, SHORT_DEADLINE)))?
                    .header(HEADER_INDEX, index.to_string())
                    .json(verify);
                let response = self.accepted(self.send(request).await?).await?;
                Ok((response.status() != StatusCode::ACCEPTED, self.read(response).await?))
            })
            .await
        })
    }

    fn conflicts<'a>(
        &'a self,
        index: &'a IndexDigest,
        entries: Vec<ProposedEntry>,
    ) -> Answer<'a, PrecheckAnswer> {
        let body = PrecheckRequest { name: rand::random(), entries: Some(entries) };
        Box::pin(async move {
            retry(&self.budget, &*self.monitor, || async {
                let request = self
                    .request(Method::POST, "look", Some(self.deadline(MIN_DEADLINE, SHORT_DEADLINE)))?
                    .header(HEADER_INDEX, index.to_string())
                    .json(&body);
                let response = self.accepted(self.send(request).await?).await?;
                self.read(response).await
            })
            .await
        })
    }

    fn precheck<'a>(&'a self, index: &'a IndexDigest, name: u64) -> Answer<'a, PrecheckAnswer> {
        Box::pin(async move {
            let request = self
                .request(Method::POST, "look", None)?
                .header(HEADER_INDEX, index.to_string())
                .json(&PrecheckRequest { name, entries: None });
            let answered = async {
                let response = self.accepted(self.send(request).await?).await?;
                match response.status() {
                    // An earlier receiver tells nothing.
                    StatusCode::NO_CONTENT => Ok(PrecheckAnswer::default()),
                    _ => self.read(response).await,
                }
            };
            answered.await.map_err(|failed: Failed| failed.error)
        })
    }
}

/// Whether an answer says that requests may have bodies in Zstandard.
fn accepts_zstd(headers: &header::HeaderMap) -> bool {
    let accepted = headers.get_all(header::ACCEPT_ENCODING).iter().filter_map(|value| value.to_str().ok());
    let names = accepted.flat_map(|value| value.split(',')).filter_map(|coding| coding.split(';').next());
    names.into_iter().any(|name| name.trim().eq_ignore_ascii_case(zstd::CODING))
}
