//! The port through which senders talk to a receiver. [`Client`] speaks HTTP; the engine's tests
//! put a receiver of the same process behind it.

use super::client::Client;
use super::request::{BlockBody, IndexBody, LogBatch};
use super::throughput::Throughput;
use super::window::{Claim, Window};
use crate::archive::digest::IndexDigest;
use crate::archive::protocol::{
    AdoptAnswer, AdoptRequest, BlockAnswer, FinishAnswer, FinishRequest, IndexAnswer, LogAnswer, Similarity,
    Status,
};
use crate::error::Result;
use crate::retry_budget::RetryBudget;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

/// What a request ends with, once it has ended.
pub type Answer<'a, T> = Pin<Box<dyn Future<Output = Result<T>> + Send + 'a>>;

/// One archive of a receiver. Each request is repeated until it succeeds, is refused for good, or
/// the retry budget is used up. The methods of [`Client`] of the same names say what each one
/// means, and its errors.
pub trait ReceiverClient: Send + Sync {
    /// The receiver's address, for people and the progress database.
    fn address(&self) -> &str;
    /// How fast the link takes what is sent.
    fn throughput(&self) -> &Throughput;
    /// How many bytes may be under way at once.
    fn window(&self) -> &Arc<Window>;
    /// Whether the receiver is on this host, and nothing limits the rate.
    fn is_local(&self) -> bool;
    /// Whether the receiver takes blocks as Zstandard frames.
    fn takes_zstd(&self) -> Arc<AtomicBool>;
    /// How long requests may fail.
    fn budget(&self) -> &RetryBudget;
    /// How far the archive is; `None` says that the receiver knows only the original protocol.
    fn status(&self, block_size: u64, from: u64) -> Answer<'_, Option<Status>>;
    /// Puts a whole index, or the change of one.
    fn put_index<'a>(&'a self, index: &'a IndexBody) -> Answer<'a, IndexAnswer>;
    /// Asks how much of an index the receiver has.
    fn compare<'a>(&'a self, index: &'a IndexBody) -> Answer<'a, Similarity>;
    /// Adds a batch to the log of the index.
    fn append_log<'a>(&'a self, batch: &'a LogBatch) -> Answer<'a, LogAnswer>;
    /// Puts a block, for which `claim` was made.
    fn put_block<'a>(
        &'a self,
        block: &'a BlockBody,
        index: &'a IndexDigest,
        claim: &'a Claim,
    ) -> Answer<'a, Option<BlockAnswer>>;
    /// Says that this sender is done with `index`, and waits until the receiver has finished.
    fn finish<'a>(&'a self, index: &'a IndexDigest, finish: FinishRequest) -> Answer<'a, FinishAnswer>;
    /// Has the receiver read what is below its base folder, and waits until it has.
    fn adopt<'a>(&'a self, adopt: &'a AdoptRequest) -> Answer<'a, AdoptAnswer>;
    /// Has the receiver `stat` what it has published, once.
    fn precheck<'a>(&'a self, index: &'a IndexDigest, name: u64) -> Answer<'a, ()>;
}

impl ReceiverClient for Client {
    fn address(&self) -> &str {
        self.address()
    }

    fn throughput(&self) -> &Throughput {
        self.throughput()
    }

    fn window(&self) -> &Arc<Window> {
        self.window()
    }

    fn is_local(&self) -> bool {
        self.is_local()
    }

    fn takes_zstd(&self) -> Arc<AtomicBool> {
        self.takes_zstd()
    }

    fn budget(&self) -> &RetryBudget {
        self.budget()
    }

    fn status(&self, block_size: u64, from: u64) -> Answer<'_, Option<Status>> {
        Box::pin(self.status(block_size, from))
    }

    fn put_index<'a>(&'a self, index: &'a IndexBody) -> Answer<'a, IndexAnswer> {
        Box::pin(self.put_index(index))
    }

    fn compare<'a>(&'a self, index: &'a IndexBody) -> Answer<'a, Similarity> {
        Box::pin(self.compare(index))
    }

    fn append_log<'a>(&'a self, batch: &'a LogBatch) -> Answer<'a, LogAnswer> {
        Box::pin(self.append_log(batch))
    }

    fn put_block<'a>(
        &'a self,
        block: &'a BlockBody,
        index: &'a IndexDigest,
        claim: &'a Claim,
    ) -> Answer<'a, Option<BlockAnswer>> {
        Box::pin(self.put_block(block, index, claim))
    }

    fn finish<'a>(&'a self, index: &'a IndexDigest, finish: FinishRequest) -> Answer<'a, FinishAnswer> {
        Box::pin(self.finish(index, finish))
    }

    fn adopt<'a>(&'a self, adopt: &'a AdoptRequest) -> Answer<'a, AdoptAnswer> {
        Box::pin(self.adopt(adopt))
    }

    fn precheck<'a>(&'a self, index: &'a IndexDigest, name: u64) -> Answer<'a, ()> {
        Box::pin(self.precheck(index, name))
    }
}
