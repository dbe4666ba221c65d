//! An S3 server in the test itself: one bucket in memory, every request recorded, wrong on demand.

mod answer;
mod list;
mod wire;

use super::{settings, with_hosts};
use crate::support::index::md5_hex;
use crate::support::run::{Cmd, Lab};
use md5::Digest;
use std::collections::BTreeMap;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread::JoinHandle;
use std::time::Duration;

pub(crate) use wire::Request;

/// The host name of the stub where the bucket is to stand before it. It resolves nowhere: see
/// [`Stub::named`].
const HOST: &str = "s3.test";

/// An object, or one version of it.
#[derive(Debug, Clone)]
pub(crate) struct Object {
    pub(crate) body: Arc<Vec<u8>>,
    /// Its size where its content is made up when it is asked for.
    made_up: Option<usize>,
    /// Without quotes.
    pub(crate) etag: String,
    pub(crate) version: Option<String>,
    /// In milliseconds since 1970.
    pub(crate) modified_ms: i64,
    /// Sent with it: `x-amz-meta-mtime`, `Content-Encoding`, ...
    pub(crate) headers: Vec<(String, String)>,
}

impl Object {
    /// With the md5 of its contents as ETag, no version id, and always the same time.
    pub(crate) fn new(body: impl Into<Vec<u8>>) -> Self {
        let body = body.into();
        let etag = md5_hex(&body);
        let (body, modified_ms) = (Arc::new(body), 1_700_000_000_123);
        Self { body, made_up: None, etag, version: None, modified_ms, headers: vec![] }
    }

    /// Of any size, without taking memory: every eight bytes are the number of their place. It can
    /// be read in ranges only.
    pub(crate) fn made_up(size: usize) -> Self {
        Self { made_up: Some(size), ..Self::new("") }.etag("0123456789abcdef0123456789abcdef-900")
    }

    fn size(&self) -> usize {
        self.made_up.unwrap_or(self.body.len())
    }

    /// What has the bytes of this range, and where in it they are.
    fn piece(&self, range: Range<usize>) -> (Arc<Vec<u8>>, usize) {
        match self.made_up {
            None => (self.body.clone(), range.start),
            Some(_) => (Arc::new(made_up(range)), 0),
        }
    }

    pub(crate) fn etag(mut self, etag: &str) -> Self {
        self.etag = etag.to_string();
        self
    }

    /// With the ETag of an upload in parts of `part` bytes.
    pub(crate) fn in_parts(self, part: usize) -> Self {
        let parts: Vec<u8> =
            self.body.chunks(part).flat_map(|part| md5::Md5::digest(part).to_vec()).collect();
        let etag = format!("{}-{}", md5_hex(&parts), self.body.len().div_ceil(part));
        self.etag(&etag)
    }

    pub(crate) fn version(mut self, version: &str) -> Self {
        self.version = Some(version.to_string());
        self
    }

    pub(crate) fn modified_ms(mut self, modified_ms: i64) -> Self {
        self.modified_ms = modified_ms;
        self
    }

    pub(crate) fn header(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.into(), value.into()));
        self
    }
}

/// The bytes of this range of an object whose content is made up.
pub(crate) fn made_up(range: Range<usize>) -> Vec<u8> {
    let words = range.start / 8..range.end.div_ceil(8);
    let bytes: Vec<u8> = words.clone().flat_map(|word| (word as u64).to_be_bytes()).collect();
    bytes[range.start - words.start * 8..range.end - words.start * 8].to_vec()
}

/// What a list by ListObjects says of where it goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum NextMarker {
    /// Nothing: AWS says it only with a delimiter.
    None,
    /// The last key, encoded as keys are.
    Encoded,
    /// The last key as it is, although keys are encoded.
    Raw,
    /// A token of its own; a marker that is none means the first page.
    Token,
}

/// Which lists the stub knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Lists {
    /// ListObjectsV2 and ListObjects.
    Both,
    /// ListObjectsV2 is answered with 501.
    V2Refused,
    /// ListObjectsV2 is answered as ListObjects: no tokens, and those that are sent are ignored.
    V2AsV1,
}

/// How the stub behaves, until told otherwise.
#[derive(Debug, Clone)]
pub(crate) struct Settings {
    pub(crate) bucket: String,
    /// As an HCP: the bucket must stand before the host name (403), and whatever has to do with the
    /// newer checksums is refused (400).
    pub(crate) hcp: bool,
    pub(crate) lists: Lists,
    /// How many keys a page has at most.
    pub(crate) page: usize,
    /// Whether `encoding-type=url` is obeyed.
    pub(crate) encodes: bool,
    /// Lists say that keys are encoded, whether they are or not.
    pub(crate) says_encoded: bool,
    /// Whether lists say ETags.
    pub(crate) lists_etags: bool,
    /// Whether answers of objects say ETags.
    pub(crate) has_etags: bool,
    /// Whether HEAD says the length.
    pub(crate) heads_length: bool,
    /// HEAD says that every object is empty.
    pub(crate) heads_empty: bool,
    /// Whether a list says that there is more, beside where it goes on.
    pub(crate) says_truncated: bool,
    /// Whether ranges are obeyed.
    pub(crate) ranges: bool,
    /// The text in the place of every time.
    pub(crate) date: Option<String>,
    /// More headers of objects.
    pub(crate) headers: Vec<(String, String)>,
    /// Keys in lists are in the order of the result of this function.
    pub(crate) order: fn(&[u8]) -> Vec<u8>,
    pub(crate) next_marker: NextMarker,
    /// Every key of a list comes twice.
    pub(crate) twice: bool,
    /// Pages without keys that come before the first, each with a token of its own.
    pub(crate) empty_pages: usize,
    /// By how many seconds its clock is ahead; requests whose time differs by more than 15 minutes
    /// are refused.
    pub(crate) clock_ahead_s: Option<i64>,
    /// The shortest time of every answer.
    pub(crate) delay: Duration,
}

/// Which requests a fault is for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum On {
    Any,
    /// Lists of either kind.
    List,
    /// GETs of any object.
    Gets,
    /// GETs of this key.
    Get(Vec<u8>),
    /// HEADs of this key.
    Head(Vec<u8>),
}

impl On {
    pub(crate) fn get(key: impl AsRef<[u8]>) -> Self {
        Self::Get(key.as_ref().to_vec())
    }

    pub(crate) fn head(key: impl AsRef<[u8]>) -> Self {
        Self::Head(key.as_ref().to_vec())
    }

    fn is_for(&self, request: &Request) -> bool {
        match self {
            Self::Any => true,
            Self::List => request.is_list(),
            Self::Gets => request.method == "GET" && !request.key.is_empty(),
            Self::Get(key) => request.method == "GET" && request.key == *key,
            Self::Head(key) => request.method == "HEAD" && request.key == *key,
        }
    }
}

/// The fault of an answer.
#[derive(Debug, Clone)]
pub(crate) enum Fault {
    /// No fault: lets requests through before the next fault has its turn.
    Pass,
    /// This status with the error document that goes with it: 503 is SlowDown, 412
    /// PreconditionFailed.
    Status(u16),
    /// This status and this document.
    Answer(u16, String),
    /// This status and a document that does not end.
    Endless(u16),
    /// The connection is closed without an answer.
    Hangup,
    /// The connection is closed after so many bytes of the body.
    CutAfter(usize),
    /// Nothing comes for this long after so many bytes of the body.
    StallAfter(usize, Duration),
    /// It comes late.
    Delay(Duration),
    /// If-Match is ignored.
    IgnoreIfMatch,
    /// A range is answered with 200 and all of the object.
    WholeObject,
    /// A range is answered with 206 and a Content-Range that begins and ends one byte later.
    WrongContentRange,
    /// So many bytes less than the Content-Range says, with a Content-Length that fits the body.
    Shorter(usize),
    /// So many bytes more, all zero.
    Longer(usize),
    /// A range is answered with as many bytes from the beginning, as if they were the range.
    FromBeginning,
    /// One bit of the answer is flipped.
    Flip(usize),
    /// The contents asked for, with another ETag.
    OtherEtag(String),
    /// The answer is right, but from now on the key holds this object.
    ThenReplace(Object),
    /// A list without keys that says that there are more.
    EmptyPage,
    /// The first page, saying that there are more, with always the same token.
    SamePage,
    /// A list that ends in the middle.
    MalformedXml,
}

struct Rule {
    on: On,
    left: usize,
    fault: Fault,
}

struct State {
    settings: Settings,
    /// All versions of each key, the newest last.
    objects: BTreeMap<Vec<u8>, Vec<Object>>,
    rules: Vec<Rule>,
    log: Vec<Request>,
}

#[derive(Default)]
struct Counters {
    connections: AtomicUsize,
    now: AtomicUsize,
    most: AtomicUsize,
}

/// The server; it stops listening when dropped.
pub(crate) struct Stub {
    pub(crate) addr: SocketAddr,
    state: Arc<Mutex<State>>,
    counters: Arc<Counters>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Stub {
    /// As AWS: both lists, but without delimiters; any addressing. A name of fewer than three
    /// characters is none: clients would put it into the path.
    pub(crate) fn start(bucket: &str) -> Self {
        let settings = Settings {
            bucket: bucket.to_string(),
            hcp: false,
            lists: Lists::Both,
            page: 1000,
            encodes: true,
            says_encoded: false,
            lists_etags: true,
            has_etags: true,
            heads_length: true,
            heads_empty: false,
            says_truncated: true,
            ranges: true,
            date: None,
            headers: vec![],
            order: <[u8]>::to_vec,
            next_marker: NextMarker::None,
            twice: false,
            empty_pages: 0,
            clock_ahead_s: None,
            delay: Duration::ZERO,
        };
        let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let addr = listener.local_addr().unwrap();
        let state = State { settings, objects: BTreeMap::new(), rules: vec![], log: vec![] };
        let state = Arc::new(Mutex::new(state));
        let (counters, stop) = (Arc::new(Counters::default()), Arc::new(AtomicBool::new(false)));
        let (shared, counted, stopped) = (state.clone(), counters.clone(), stop.clone());
        let thread = std::thread::spawn(move || {
            for stream in listener.incoming() {
                if stopped.load(Ordering::SeqCst) {
                    return;
                }
                let (Ok(stream), state, counters) = (stream, shared.clone(), counted.clone()) else {
                    continue;
                };
                counters.connections.fetch_add(1, Ordering::SeqCst);
                std::thread::spawn(move || wire::connection(stream, &state, &counters));
            }
        });
        Self { addr, state, counters, stop, thread: Some(thread) }
    }

    /// As an HCP: see [`Settings::hcp`] and [`Lists::V2AsV1`].
    pub(crate) fn start_hcp(bucket: &str) -> Self {
        let stub = Self::start(bucket);
        stub.set(|settings| {
            settings.hcp = true;
            settings.lists = Lists::V2AsV1;
        });
        stub
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    /// Changes how it behaves, from the next request on.
    pub(crate) fn set(&self, change: impl FnOnce(&mut Settings)) {
        change(&mut self.state().settings);
    }

    /// Puts an object, in place of an older one or, if it has a version id, over it.
    pub(crate) fn put(&self, key: impl AsRef<[u8]>, object: Object) {
        self.state().put(key.as_ref(), object);
    }

    /// Removes an object with all its versions.
    pub(crate) fn remove(&self, key: impl AsRef<[u8]>) {
        self.state().objects.remove(key.as_ref());
    }

    /// The next `times` requests that match `on` meet `fault`. If several faults match a request,
    /// the one that was added first has its turn; `usize::MAX` times is for ever.
    pub(crate) fn fault(&self, on: On, times: usize, fault: Fault) {
        self.state().rules.push(Rule { on, left: times, fault });
    }

    /// From now on there are no faults.
    pub(crate) fn clear_faults(&self) {
        self.state().rules.clear();
    }

    /// The requests since the last call.
    pub(crate) fn take(&self) -> Vec<Request> {
        std::mem::take(&mut self.state().log)
    }

    /// How many connections there have been.
    pub(crate) fn connections(&self) -> usize {
        self.counters.connections.load(Ordering::SeqCst)
    }

    /// How many requests were being answered at one time, at most.
    pub(crate) fn most_at_once(&self) -> usize {
        self.counters.most.load(Ordering::SeqCst)
    }

    /// `http://127.0.0.1:PORT`, for clients that put the bucket into the path: before an address
    /// nothing can stand.
    pub(crate) fn endpoint(&self) -> String {
        format!("http://{}", self.addr)
    }

    /// The same with a host name, for clients that put the bucket before it. Where this name leads
    /// here: [`Stub::named`],
    /// [`Stub::as_proxy`].
    pub(crate) fn named_endpoint(&self) -> String {
        format!("http://{HOST}:{}", self.addr.port())
    }

    /// The environment of a program that is to read the bucket, at [`Stub::endpoint`].
    pub(crate) fn env(&self) -> Vec<(String, String)> {
        settings(&self.endpoint(), &self.state().settings.bucket)
    }

    /// `cmd` with the same environment, but for [`Stub::named_endpoint`], and with an /etc/hosts in
    /// which that name and the bucket's below it lead here. `None`, and a word why, on a machine
    /// where one may not mount.
    pub(crate) fn named(&self, lab: &Lab, cmd: Cmd) -> Option<Cmd> {
        let bucket = self.state().settings.bucket.clone();
        let cmd = with_hosts(lab, cmd, &[HOST, &format!("{bucket}.{HOST}")])?;
        Some(cmd.envs(settings(&self.named_endpoint(), &bucket)))
    }

    /// The environment for [`Stub::named_endpoint`] that works everywhere, with a client that heeds
    /// `http_proxy`: the stub is its own proxy, and no name is looked up.
    pub(crate) fn as_proxy(&self) -> Vec<(String, String)> {
        let mut env = settings(&self.named_endpoint(), &self.state().settings.bucket);
        env.push(("http_proxy".into(), self.endpoint()));
        env
    }
}

impl Drop for Stub {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        let _ = TcpStream::connect(self.addr);
        let _ = self.thread.take().map(JoinHandle::join);
    }
}

impl State {
    fn put(&mut self, key: &[u8], object: Object) {
        let versions = self.objects.entry(key.to_vec()).or_default();
        if object.version.is_none() {
            versions.clear();
        }
        versions.push(object);
    }

    /// The fault whose turn it is with this request.
    fn fault_for(&mut self, request: &Request) -> Fault {
        let Some(rule) = self.rules.iter_mut().find(|rule| rule.left > 0 && rule.on.is_for(request)) else {
            return Fault::Pass;
        };
        if rule.left != usize::MAX {
            rule.left -= 1;
        }
        rule.fault.clone()
    }
}
