//! Objects of a store that answers every range with the whole object.
//!
//! Such an object is read in one stream, and a reader of a range waits until the stream has arrived
//! there. Ranges are served in the order of their offsets, so that the readers of neighbouring
//! ranges share one GET. A range before the position of the stream costs a new GET.
//!
//! Locks: the stream of an object is an async lock that the reader at its position holds; the map
//! of objects and the offsets that readers wait for are locked for single operations only, also
//! while the stream is held.

use super::error::S3Error;
use super::object::{Head, ObjectState};
use aws_sdk_s3::primitives::ByteStream;
use bytes::Bytes;
use parking_lot::Mutex;
use std::collections::{BTreeMap, HashMap};
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::sync::{MutexGuard, Notify};

/// How long a range waits for the readers of earlier ranges before the stream skips those.
const GAP_TIMEOUT: Duration = Duration::from_secs(2);
/// Objects whose streams stay open without a waiting reader.
const MAX_IDLE: usize = 16;

/// How the store answers ranges, as far as known, and the open streams.
#[derive(Default)]
pub(super) struct WholeObjects {
    has_ranges: AtomicBool,
    ignores_ranges: AtomicBool,
    objects: Mutex<HashMap<ObjectState, Arc<WholeObject>>>,
}

/// An object that is read in one stream.
#[derive(Default)]
pub(super) struct WholeObject {
    stream: tokio::sync::Mutex<ObjectStream>,
    /// The offsets that readers wait for, each with their number.
    waiting: Mutex<BTreeMap<u64, usize>>,
    moved: Notify,
}

/// The stream of an object.
#[derive(Default)]
pub(super) struct ObjectStream {
    open: Option<(Head, ByteStream)>,
    /// Bytes that came and are not read yet.
    rest: Bytes,
    /// The offset of `rest` in the object.
    position: u64,
}

impl WholeObjects {
    /// Records that a part was answered with that part.
    pub(super) fn record_range(&self) {
        self.has_ranges.store(true, Ordering::Relaxed);
    }

    /// Takes the body of an answer with the whole object where a part was requested: it serves all
    /// of the object's readers.
    pub(super) fn offer(&self, state: &ObjectState, head: Head, body: ByteStream) {
        if !self.has_ranges.load(Ordering::Relaxed) && !self.ignores_ranges.swap(true, Ordering::Relaxed) {
            tracing::info!("the store ignores ranges: each object is read as a whole");
        }
        self.objects.lock().entry(state.clone()).or_insert_with(|| {
            let stream = ObjectStream { open: Some((head, body)), ..ObjectStream::default() }.into();
            Arc::new(WholeObject { stream, ..WholeObject::default() })
        });
    }

    /// Whether `range` of the object has to come from its stream.
    pub(super) fn serves(&self, state: &ObjectState, range: &Range<u64>) -> bool {
        *range != (0..state.size())
            && (self.ignores_ranges.load(Ordering::Relaxed) || self.objects.lock().contains_key(state))
    }

    pub(super) fn object(&self, state: &ObjectState) -> Arc<WholeObject> {
        let mut objects = self.objects.lock();
        if objects.len() > MAX_IDLE {
            // An object without readers has its only reference in the map.
            objects.retain(|other, object| other == state || Arc::strong_count(object) > 1);
        }
        objects.entry(state.clone()).or_default().clone()
    }
}

/// A reader that waits for its offset, for as long as this exists.
pub(super) struct Turn<'a> {
    object: &'a WholeObject,
    offset: u64,
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        let mut waiting = self.object.waiting.lock();
        if let Some(count) = waiting.get_mut(&self.offset) {
            *count -= 1;
            if *count == 0 {
                waiting.remove(&self.offset);
            }
        }
        drop(waiting);
        self.object.moved.notify_waiters();
    }
}

impl WholeObject {
    /// Registers a reader for `offset`.
    pub(super) fn wait_for(&self, offset: u64) -> Turn<'_> {
        *self.waiting.lock().entry(offset).or_default() += 1;
        Turn { object: self, offset }
    }

    /// Waits until the stream is at `offset`, or no other reader will bring it there.
    pub(super) async fn stream_at(&self, offset: u64) -> MutexGuard<'_, ObjectStream> {
        let mut has_waited = false;
        loop {
            let mut moved = std::pin::pin!(self.moved.notified());
            moved.as_mut().enable();
            let stream = self.stream.lock().await;
            let is_first = self.waiting.lock().first_key_value().is_some_and(|(&first, _)| first == offset);
            if is_first && (stream.position >= offset || has_waited) {
                return stream;
            }
            drop(stream);
            has_waited = tokio::time::timeout(GAP_TIMEOUT, moved).await.is_err();
        }
    }
}

impl ObjectStream {
    /// Whether bytes from `offset` on can still come from this stream.
    pub(super) fn reaches(&self, offset: u64) -> bool {
        self.open.is_some() && self.position <= offset
    }

    /// Restarts with the answer to a GET of the whole object.
    pub(super) fn open(&mut self, answer: (Head, ByteStream)) {
        *self = Self { open: Some(answer), ..Self::default() };
    }

    /// Closes it.
    pub(super) fn close(&mut self) {
        *self = Self::default();
    }

    pub(super) fn position(&self) -> u64 {
        self.position
    }

    pub(super) fn head(&self) -> Option<Head> {
        self.open.as_ref().map(|(head, _)| head.clone())
    }

    /// The next bytes, at most `limit`.
    pub(super) async fn next(&mut self, limit: u64) -> Result<Bytes, S3Error> {
        while self.rest.is_empty() {
            let next = match &mut self.open {
                Some((_, body)) => body.next().await,
                None => None,
            };
            match next {
                Some(Ok(bytes)) => self.rest = bytes,
                next => {
                    self.open = None;
                    return Err(if next.is_some() { S3Error::cut() } else { S3Error::ended_early() });
                }
            }
        }
        let count = usize::try_from(limit).unwrap_or(usize::MAX).min(self.rest.len());
        let bytes = self.rest.split_to(count);
        self.position += bytes.len() as u64;
        Ok(bytes)
    }
}
