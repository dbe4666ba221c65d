//! The port through which senders talk to a receiver. [`super::Client`] speaks HTTP; the engine's
//! tests put a receiver of the same process behind it.

use super::request::{BlockBody, IndexBody, LogBatch};
use super::throughput::Throughput;
use super::window::{Claim, Window};
use crate::archive::digest::IndexDigest;
use crate::archive::protocol::{
    AdoptAnswer, AdoptRequest, BlockAnswer, CandidatesAnswer, CandidatesRequest, FinishAnswer, FinishRequest,
    IndexAnswer, LogAnswer, PrecheckAnswer, ProposedEntry, Similarity, Space, Status, VerifyAnswer,
    VerifyRequest,
};
use crate::archive::slice::Slice;
use crate::archive::source::SourceClaim;
use crate::error::Result;
use crate::retry_budget::RetryBudget;
use std::fs::File;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

/// What a request ends with, once it has ended.
pub type Answer<'a, T> = Pin<Box<dyn Future<Output = Result<T>> + Send + 'a>>;

/// A receiver in this process. It takes blocks out of the memory in which their sender has them;
/// all other requests take the same way to it as to any receiver.
pub trait LocalReceiver: Send + Sync {
    /// Takes in a block of archive `tar_id`, whose body is its content. It blocks.
    ///
    /// # Errors
    /// As the receiver would answer.
    fn put_block(&self, tar_id: u64, block: &BlockBody, index: &IndexDigest) -> Result<BlockAnswer>;
    /// Has the receiver share the blocks of `source` as the content of the file `id` of archive
    /// `tar_id`, and gives this copy, which does not change any more. `None` where that cannot be: the
    /// content has to be sent then. It blocks.
    fn clone_file(&self, tar_id: u64, id: u64, source: &File) -> Option<File>;
}

/// One archive of a receiver. Each request is repeated until it succeeds, is refused for good, or
/// the retry budget is used up.
pub trait ReceiverClient: Send + Sync {
    /// A client for archive `tar_id` of the same receiver, whose sender says of its source what
    /// `claim` says. What is known of the link stays shared. Its [`ReceiverClient::status`] refuses
    /// an archive of another source.
    fn for_archive(&self, tar_id: u64, claim: SourceClaim) -> Arc<dyn ReceiverClient>;
    /// A client for the same archive of another one of several receivers, or of this one as a slice:
    /// at `address`, or else at the same address, which leads on by the slice. The limit stays shared.
    /// What is known of the link, the window and the budget are its own, except for the first slice
    /// at the same address.
    ///
    /// # Errors
    /// The address is not valid, or less safe than this one.
    fn for_slice(&self, slice: Slice, address: Option<&str>) -> Result<Arc<dyn ReceiverClient>>;
    /// The base address, for people and the progress database.
    fn address(&self) -> &str;
    /// How fast the link takes what is sent.
    fn throughput(&self) -> &Throughput;
    /// How much may be sent at once.
    fn window(&self) -> &Arc<Window>;
    /// Whether the receiver is on this host, and nothing limits the rate.
    fn is_local(&self) -> bool;
    /// Whether blocks go to a [`LocalReceiver`].
    fn is_in_process(&self) -> bool;
    /// Whether the receiver takes blocks as Zstandard frames: false until it has said so.
    fn takes_zstd(&self) -> Arc<AtomicBool>;
    /// Whether the receiver is one of several: false until it has said so.
    fn is_slice(&self) -> bool;
    /// How long requests may fail.
    fn budget(&self) -> &RetryBudget;
    /// How far the archive is; `Ok(None)` says that the receiver knows only the original's protocol
    /// (FORMAT.md 5.1).
    ///
    /// # Errors
    /// [`crate::error::ErrorKind::NotFound`] if the receiver has no index for this archive, or what
    /// the retries ended with.
    fn status(&self, block_size: u64, from: u64) -> Answer<'_, Option<Status>>;
    /// Whether what is missing fits on the receiver's disk; `None` if it does not say. Without an
    /// index of this archive, nothing is known to be needed.
    ///
    /// # Errors
    /// As [`Self::status`].
    fn space(&self) -> Answer<'_, Option<Space>>;
    /// Puts the index.
    ///
    /// # Errors
    /// The receiver refuses it, or what the retries ended with.
    fn put_index<'a>(&'a self, index: &'a IndexBody) -> Answer<'a, IndexAnswer>;
    /// Writes the receiver's active index, which must be `index` and has about `rows` rows, to the
    /// empty file `target`, as a body that [`Self::put_index`] could put; at most `limit_bytes`.
    ///
    /// # Errors
    /// Another index is active, the token is not for reading indexes, the body is too large, or what
    /// the retries ended with.
    fn get_index<'a>(
        &'a self,
        index: &'a IndexDigest,
        rows: u64,
        limit_bytes: u64,
        target: &'a File,
    ) -> Answer<'a, ()>;
    /// Has the receiver say how much of an index there is, by the adoption that it names. Nothing
    /// changes there.
    ///
    /// # Errors
    /// As [`Self::put_index`].
    fn compare<'a>(&'a self, index: &'a IndexBody) -> Answer<'a, Similarity>;
    /// Adds a batch to the log of the index.
    ///
    /// # Errors
    /// The receiver refuses it, or what the retries ended with.
    fn append_log<'a>(&'a self, batch: &'a LogBatch) -> Answer<'a, LogAnswer>;
    /// As [`LocalReceiver::clone_file`], if the receiver is one. It has acknowledged the file's row.
    fn clone_file(&self, id: u64, source: &File) -> Option<File>;
    /// Puts a block, for which `claim` was made, and tells its [`InFlight`](crate::telemetry::InFlight)
    /// what leaves; gives what our receiver answers, or `None` where a
    /// receiver of the original's kind accepted it.
    ///
    /// # Errors
    /// The receiver refuses it, or what the retries ended with. If the claim [is
    /// outdated](Claim::is_outdated) then, its bytes have to be claimed again.
    fn put_block<'a>(
        &'a self,
        block: &'a BlockBody,
        index: &'a IndexDigest,
        claim: &'a Claim,
    ) -> Answer<'a, Option<BlockAnswer>>;
    /// Says that this sender is done with `index`, and waits for what that sets off.
    ///
    /// # Errors
    /// [`crate::error::ErrorKind::WrongIndex`]: another index is active meanwhile. Or the receiver
    /// refuses, or what the retries ended with.
    fn finish<'a>(&'a self, index: &'a IndexDigest, finish: FinishRequest) -> Answer<'a, FinishAnswer>;
    /// What the receiver, whose active index is `index`, could delete: a page of the list that
    /// `candidates` names, once the receiver has made it. Only for receivers that say
    /// [`Status::lists`].
    ///
    /// # Errors
    /// [`crate::error::ErrorKind::WrongIndex`]: another index is active meanwhile. Or the receiver
    /// refuses, or what the retries ended with.
    fn candidates<'a>(
        &'a self,
        index: &'a IndexDigest,
        candidates: CandidatesRequest,
    ) -> Answer<'a, CandidatesAnswer>;
    /// Has the receiver find out what is below its base folder, and waits until it has.
    ///
    /// # Errors
    /// The receiver refuses or does not know how, or what the retries ended with.
    fn adopt<'a>(&'a self, adopt: &'a AdoptRequest) -> Answer<'a, AdoptAnswer>;
    /// Has the receiver `stat` what it has published of `index`, while something else is done here;
    /// `name` is what [`FinishRequest::looked`] may say afterwards. Gives what was changed there, if
    /// the receiver says it. Tried once: nothing depends on it.
    ///
    /// # Errors
    /// Whatever there is.
    fn precheck<'a>(&'a self, index: &'a IndexDigest, name: u64) -> Answer<'a, PrecheckAnswer>;
    /// Which of `entries` other archives of the receiver would keep out of their places, and whether
    /// there are other archives. Without any entries: which of those of `index`, if that is the
    /// active index, are not in place because of that.
    ///
    /// # Errors
    /// The receiver refuses, or what the retries ended with.
    fn conflicts<'a>(
        &'a self,
        index: &'a IndexDigest,
        entries: Vec<ProposedEntry>,
    ) -> Answer<'a, PrecheckAnswer>;
    /// Has the receiver read what it has published of `index`, and gives whether it has and how far
    /// it is; the same request asks again. Only for receivers that say [`Status::verifies`].
    ///
    /// # Errors
    /// The receiver refuses, or what the retries ended with.
    fn verify<'a>(
        &'a self,
        index: &'a IndexDigest,
        verify: &'a VerifyRequest,
    ) -> Answer<'a, (bool, VerifyAnswer)>;
}
