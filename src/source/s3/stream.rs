//! A large object from its beginning to its end: some parts are asked for ahead, so that a link with a long way is kept full.

use super::Bucket;
use super::get::Wanted;
use std::collections::VecDeque;
use std::ops::DerefMut;
use std::sync::Arc;
use tokio::sync::OwnedSemaphorePermit;
use tokio::task::JoinHandle;

/// Parts that every reader may ask for ahead of the one that is read.
const AHEAD: usize = 2;
/// Parts that the readers of a bucket may ask for beyond that, whoever comes first: one that is alone has a link to fill, and many
/// at once must not fill the memory.
pub(super) const SHARED_AHEAD: usize = 10;

/// An object that is being read, part by part, each into a buffer `B`.
pub struct ObjectReader<B> {
    bucket: Arc<Bucket>,
    wanted: Arc<Wanted>,
    part_bytes: u64,
    /// Where what nobody has asked for yet begins.
    next: u64,
    coming: VecDeque<Coming<B>>,
}

struct Coming<B> {
    part: JoinHandle<Result<B, String>>,
    _shared: Option<OwnedSemaphorePermit>,
}

impl<B: DerefMut<Target = Vec<u8>> + Send + 'static> ObjectReader<B> {
    /// Parts have `part_bytes` bytes, the last one what is left. Nothing is asked for yet.
    #[must_use]
    pub fn new(bucket: Arc<Bucket>, wanted: Wanted, part_bytes: usize) -> Self {
        let (wanted, part_bytes) = (Arc::new(wanted), part_bytes as u64);
        Self { bucket, wanted, part_bytes, next: 0, coming: VecDeque::new() }
    }

    /// The next part; `None` at the end. `buffer` gives buffers, with whatever is in them, for those that are asked for.
    ///
    /// # Errors
    /// Why the object counts as failed.
    pub fn next_part(&mut self, buffer: impl Fn() -> B) -> Option<Result<B, String>> {
        while self.next < self.wanted.size() {
            let shared = match self.coming.len() {
                ..AHEAD => None,
                _ => match self.bucket.ahead.clone().try_acquire_owned() {
                    Ok(permit) => Some(permit),
                    Err(_) => break,
                },
            };
            let start = self.next;
            let length = self.part_bytes.min(self.wanted.size() - start);
            self.next += length;
            let (bucket, wanted, mut part) = (self.bucket.clone(), self.wanted.clone(), buffer());
            let part = self.bucket.runtime.spawn(async move {
                part.resize(usize::try_from(length).unwrap_or(0), 0);
                bucket.get_into(&wanted, start, &mut part).await.map_err(|trouble| trouble.reason())?;
                Ok(part)
            });
            self.coming.push_back(Coming { part, _shared: shared });
        }
        let part = self.bucket.runtime.block_on(self.coming.pop_front()?.part);
        Some(part.unwrap_or_else(|_| Err("reading it crashed; this is a bug of tar-like".to_string())))
    }
}

impl<B> Drop for ObjectReader<B> {
    fn drop(&mut self) {
        self.coming.iter().for_each(|coming| coming.part.abort());
    }
}
