//! Reading a large object from its start to its end. Some parts are requested ahead, so that a link
//! with a long delay stays full.

use super::bucket::Bucket;
use super::object::ObjectState;
use std::collections::VecDeque;
use std::ops::DerefMut;
use std::sync::Arc;
use tokio::sync::OwnedSemaphorePermit;
use tokio::task::JoinHandle;

/// Parts that every reader may request ahead of the one that is read.
const AHEAD: usize = 2;
/// Parts that all readers of a bucket together may request beyond that, first come, first served: a
/// single reader has a link to fill, and many at once must not fill the memory.
pub(super) const SHARED_AHEAD: usize = 10;

/// An object that is being read, part by part, each into a buffer `B`.
pub struct ObjectReader<B> {
    bucket: Arc<Bucket>,
    state: Arc<ObjectState>,
    part_bytes: u64,
    /// The offset of the first byte that is not requested yet.
    next: u64,
    requested: VecDeque<RequestedPart<B>>,
}

struct RequestedPart<B> {
    part: JoinHandle<Result<B, String>>,
    _shared: Option<OwnedSemaphorePermit>,
}

impl<B: DerefMut<Target = Vec<u8>> + Send + 'static> ObjectReader<B> {
    /// Parts have `part_bytes` bytes, the last one has the rest. Nothing is requested yet.
    #[must_use]
    pub fn new(bucket: Arc<Bucket>, state: ObjectState, part_bytes: usize) -> Self {
        let (state, part_bytes) = (Arc::new(state), part_bytes as u64);
        Self { bucket, state, part_bytes, next: 0, requested: VecDeque::new() }
    }

    /// The next part; `None` at the end. `buffer` gives buffers for the parts that are requested;
    /// their content is overwritten.
    ///
    /// # Errors
    /// Why the object counts as failed.
    pub fn next_part(&mut self, buffer: impl Fn() -> B) -> Option<Result<B, String>> {
        while self.next < self.state.size() {
            let shared = match self.requested.len() {
                ..AHEAD => None,
                _ => match self.bucket.ahead.clone().try_acquire_owned() {
                    Ok(permit) => Some(permit),
                    Err(_) => break,
                },
            };
            let start = self.next;
            let length = self.part_bytes.min(self.state.size() - start);
            self.next += length;
            let (bucket, state, mut part) = (self.bucket.clone(), self.state.clone(), buffer());
            let part = self.bucket.runtime.spawn(async move {
                part.resize(usize::try_from(length).unwrap_or(0), 0);
                bucket.get_into(&state, start, &mut part).await.map_err(|error| error.reason())?;
                Ok(part)
            });
            self.requested.push_back(RequestedPart { part, _shared: shared });
        }
        let part = self.bucket.runtime.block_on(self.requested.pop_front()?.part);
        Some(part.unwrap_or_else(|_| Err("reading it crashed; this is a bug of tar-like".to_string())))
    }
}

impl<B> Drop for ObjectReader<B> {
    fn drop(&mut self) {
        self.requested.iter().for_each(|requested| requested.part.abort());
    }
}
