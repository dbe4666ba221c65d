//! A large object from its beginning to its end: a few parts are asked for ahead, so that a link with a long way is kept full.

use super::Bucket;
use super::get::Wanted;
use std::collections::VecDeque;
use std::sync::Arc;
use tokio::task::JoinHandle;

/// Parts that are asked for ahead of the one that is read.
const AHEAD: usize = 4;

/// An object that is being read, part by part.
pub struct ObjectReader {
    bucket: Arc<Bucket>,
    wanted: Arc<Wanted>,
    part_bytes: u64,
    /// Where what nobody has asked for yet begins.
    next: u64,
    coming: VecDeque<JoinHandle<Result<Vec<u8>, String>>>,
}

impl ObjectReader {
    /// Parts have `part_bytes` bytes, the last one what is left. Nothing is asked for yet.
    #[must_use]
    pub fn new(bucket: Arc<Bucket>, wanted: Wanted, part_bytes: usize) -> Self {
        let (wanted, part_bytes) = (Arc::new(wanted), part_bytes as u64);
        Self { bucket, wanted, part_bytes, next: 0, coming: VecDeque::new() }
    }

    /// The next part; `None` at the end.
    ///
    /// # Errors
    /// Why the object counts as failed.
    pub fn next_part(&mut self) -> Option<Result<Vec<u8>, String>> {
        while self.coming.len() < AHEAD && self.next < self.wanted.size() {
            let start = self.next;
            let length = self.part_bytes.min(self.wanted.size() - start);
            self.next += length;
            let (bucket, wanted) = (self.bucket.clone(), self.wanted.clone());
            self.coming.push_back(self.bucket.runtime.spawn(async move {
                let mut part = vec![0; usize::try_from(length).unwrap_or(0)];
                bucket.get_into(&wanted, start, &mut part).await.map_err(|trouble| trouble.reason())?;
                Ok(part)
            }));
        }
        let part = self.bucket.runtime.block_on(self.coming.pop_front()?);
        Some(part.unwrap_or_else(|_| Err("reading it crashed; this is a bug of tar-like".to_string())))
    }
}

impl Drop for ObjectReader {
    fn drop(&mut self) {
        self.coming.iter().for_each(JoinHandle::abort);
    }
}
