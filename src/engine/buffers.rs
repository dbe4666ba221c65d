//! A pool of large buffers. New pages for every block would cost more time than the work in them,
//! and an allocator that keeps freed pages makes the use of memory unpredictable.

use parking_lot::Mutex;
use std::ops::{Deref, DerefMut};
use std::sync::Arc;

/// A larger buffer, in bytes, is freed at once.
const MAX_POOLED_BYTES: usize = 64 << 20;

/// Buffers that are not in use.
#[derive(Debug)]
pub struct Buffers {
    free: Mutex<Vec<Vec<u8>>>,
    capacity: usize,
}

impl Buffers {
    /// A pool of at most `capacity` buffers.
    #[must_use]
    pub fn new(capacity: usize) -> Arc<Self> {
        Arc::new(Self { free: Mutex::default(), capacity })
    }

    /// A buffer with the content of its last use.
    #[must_use]
    pub fn take(self: &Arc<Self>) -> Buffer {
        let bytes = self.free.lock().pop().unwrap_or_default();
        Buffer { bytes, pool: self.clone() }
    }
}

/// A buffer in use; it returns to its pool when it is dropped.
#[derive(Debug)]
pub struct Buffer {
    bytes: Vec<u8>,
    pool: Arc<Buffers>,
}

impl Deref for Buffer {
    type Target = Vec<u8>;

    fn deref(&self) -> &Vec<u8> {
        &self.bytes
    }
}

impl DerefMut for Buffer {
    fn deref_mut(&mut self) -> &mut Vec<u8> {
        &mut self.bytes
    }
}

impl AsRef<[u8]> for Buffer {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        let mut free = self.pool.free.lock();
        if free.len() < self.pool.capacity && self.bytes.capacity() <= MAX_POOLED_BYTES {
            free.push(std::mem::take(&mut self.bytes));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keeps_few_buffers_and_no_huge_one() {
        let pool = Buffers::new(1);
        let (mut a, b) = (pool.take(), pool.take());
        a.resize(10, 7);
        drop(a);
        drop(b);
        let again = pool.take();
        assert_eq!(**again, [7; 10]);
        assert!(pool.take().is_empty());
        let mut large = pool.take();
        large.reserve(MAX_POOLED_BYTES + 1);
        drop(large);
        assert_eq!(pool.take().capacity(), 0);
    }
}
