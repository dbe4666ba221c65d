//! A bucket in S3, or in something that speaks like it, as a source. The only place for the AWS SDK.
//!
//! The SDK signs, and knows credentials, addresses and XML. Deadlines, retries and the proof that an answer is the one that was
//! asked for are ours (`retry`, `get`): a body that is cut or stands still is none of the SDK's business.

mod connect;
mod get;
mod hcp;
mod head;
mod http;
mod list;
mod retry;
mod stream;
mod when;

pub use get::Wanted;
pub use hcp::{Credentials, hcp_credentials};
pub use head::Head;
pub use list::Listed;
pub use stream::ObjectReader;

use super::{Piece, Source};
use crate::archive::entry::FileEntry;
use crate::telemetry::Monitor;
use futures_util::StreamExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::runtime::Handle;
use tokio::sync::Semaphore;

/// How the bucket gets into an address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Addressing {
    /// `https://bucket.host/key`
    Virtual,
    /// `https://host/bucket/key`
    Path,
}

/// Which bucket, and how to reach it. Credentials are not in here: the SDK looks for them in the environment, in profiles, and
/// in what the host's role gives.
#[derive(Debug, Clone)]
pub struct BucketOptions {
    /// The bucket's name; an HCP calls it a namespace.
    pub bucket: String,
    /// What lies below it is the source; empty for all of the bucket, else with a `/` at its end.
    pub prefix: String,
    /// The address of the service, where it is not AWS itself.
    pub endpoint: Option<String>,
    /// The region; `None` means what the environment, a profile or the host's role says.
    pub region: Option<String>,
    /// The profile; `None` means what the environment says.
    pub profile: Option<String>,
    /// How the bucket gets into an address; `None` means as is usual for the endpoint.
    pub addressing: Option<Addressing>,
    /// List by the older of the two requests.
    pub list_v1: bool,
    /// Sign requests; a public bucket needs no signature.
    pub sign: bool,
    /// Verify the service's certificate.
    pub verify_tls: bool,
    /// A PEM file with the certificate authorities to trust in place of the system's.
    pub ca_file: Option<PathBuf>,
    /// A request is given up, and made again, when nothing of its answer comes for this long.
    pub timeout: Duration,
    /// Requests that may be under way at once.
    pub requests: usize,
}

/// A prefix of a bucket whose objects are read. Called from threads that may block, not from those of the runtime.
pub struct Bucket {
    client: aws_sdk_s3::Client,
    name: String,
    prefix: String,
    list_v1: bool,
    /// One for each request that may be under way.
    permits: Arc<Semaphore>,
    requests: usize,
    /// One for each part of a large object that is asked for ahead by those who have asked for their share.
    ahead: Arc<Semaphore>,
    patience: retry::Patience,
    runtime: Handle,
    monitor: Arc<dyn Monitor>,
}

/// Only what is no secret.
impl std::fmt::Debug for Bucket {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Bucket")
            .field("name", &self.name)
            .field("prefix", &self.prefix)
            .finish_non_exhaustive()
    }
}

impl Bucket {
    /// The address of the source for people and for the index: `s3://bucket/prefix`.
    #[must_use]
    pub fn address(&self) -> String {
        format!("s3://{}/{}", self.name, self.prefix)
    }

    /// The key of what has this path below the prefix.
    fn key(&self, path: &[u8]) -> Vec<u8> {
        [self.prefix.as_bytes(), path].concat()
    }

    /// Runs `work` for each of `jobs`, as many at once as there may be requests, and gives the results in the order of the jobs.
    fn each<T, R, F: Future<Output = R>>(
        &self,
        jobs: impl IntoIterator<Item = T>,
        work: impl Fn(T) -> F,
    ) -> Vec<R> {
        let jobs = futures_util::stream::iter(jobs).map(work).buffered(self.requests);
        self.runtime.block_on(jobs.collect())
    }

    /// Does `work`, but not after the user has said to stop: a request may hang for long.
    async fn unless_cancelled<T>(
        &self,
        work: impl Future<Output = Result<T, retry::Trouble>>,
    ) -> Result<T, retry::Trouble> {
        let cancelled = async {
            while !self.monitor.is_cancelled() {
                tokio::time::sleep(CANCEL_TICK).await;
            }
        };
        tokio::select! {
            biased;
            outcome = work => outcome,
            () = cancelled => Err(retry::Trouble::Refused(0, "interrupted".to_string())),
        }
    }

    /// Asks for what is known of each of these paths, without their contents.
    pub fn heads(&self, paths: &[&[u8]]) -> Vec<Result<Head, String>> {
        self.each(paths.iter().map(|path| self.key(path)), async |key| self.head(&key).await)
    }
}

/// How often it is looked whether the user wants to stop.
const CANCEL_TICK: Duration = Duration::from_millis(200);

/// How long the parts are that a range of `length` bytes is cut into.
fn part_bytes(length: usize, requests: usize) -> usize {
    length.div_ceil(requests.max(1)).max(LEAST_PART_BYTES)
}

/// A range is not cut into parts that are shorter: each costs a request.
const LEAST_PART_BYTES: usize = 4 << 20;

impl Source for Bucket {
    fn read(&self, file: &FileEntry, file_offset: u64, buffer: &mut [u8]) -> Result<(), String> {
        let piece = Piece { file: file.clone(), file_offset, buffer };
        self.read_each(vec![piece]).pop().unwrap_or_else(|| Err("it was not read".to_string()))
    }

    /// Small objects side by side, the parts of large ranges, too.
    fn read_each(&self, pieces: Vec<Piece<'_>>) -> Vec<Result<(), String>> {
        let mut outcomes: Vec<Result<(), String>> = pieces.iter().map(|_| Ok(())).collect();
        let parts = pieces.into_iter().enumerate().flat_map(|(number, piece)| {
            let Piece { file, file_offset, buffer } = piece;
            let part_bytes = part_bytes(buffer.len(), self.requests);
            let wanted = Arc::new(Wanted::of(&file, self.key(file.path.as_bytes())));
            buffer
                .chunks_mut(part_bytes)
                .enumerate()
                .map(move |(at, part)| (number, wanted.clone(), file_offset + (at * part_bytes) as u64, part))
        });
        let read = self.each(parts, async |(number, wanted, offset, part)| {
            let outcome = match &*wanted {
                Ok(wanted) => self.get_into(wanted, offset, part).await.map(drop).map_err(|e| e.reason()),
                Err(why) => Err(why.clone()),
            };
            (number, outcome)
        });
        for (number, outcome) in read {
            if outcomes[number].is_ok() {
                outcomes[number] = outcome;
            }
        }
        outcomes
    }
}
