//! Block-sized buffers that are used again: fresh pages for every block cost more time than what is done in them, and
//! an allocator that keeps freed ones makes memory unpredictable.

use std::ops::{Deref, DerefMut};
use std::sync::{Arc, Mutex, PoisonError};

/// Buffers larger than this, in bytes, are given back to the system at once.
const LARGEST_KEPT: usize = 64 << 20;

/// A place for buffers that nobody needs at the moment.
#[derive(Debug)]
pub struct Buffers {
    free: Mutex<Vec<Vec<u8>>>,
    keep: usize,
}

impl Buffers {
    /// Keeps at most `keep` buffers.
    #[must_use]
    pub fn new(keep: usize) -> Arc<Self> {
        Arc::new(Self { free: Mutex::default(), keep })
    }

    /// A buffer with whatever is in it from its last use.
    #[must_use]
    pub fn take(self: &Arc<Self>) -> Buffer {
        let bytes = self.free.lock().unwrap_or_else(PoisonError::into_inner).pop().unwrap_or_default();
        Buffer { bytes, home: self.clone() }
    }
}

/// A buffer on loan; it goes back when it is dropped.
#[derive(Debug)]
pub struct Buffer {
    bytes: Vec<u8>,
    home: Arc<Buffers>,
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
        let mut free = self.home.free.lock().unwrap_or_else(PoisonError::into_inner);
        if free.len() < self.home.keep && self.bytes.capacity() <= LARGEST_KEPT {
            free.push(std::mem::take(&mut self.bytes));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buffers_come_back_but_not_too_many_and_not_too_large() {
        let pool = Buffers::new(1);
        let (mut a, b) = (pool.take(), pool.take());
        a.resize(10, 7);
        drop(a);
        drop(b);
        let again = pool.take();
        assert_eq!(**again, [7; 10]);
        assert!(pool.take().is_empty());
        let mut large = pool.take();
        large.reserve(LARGEST_KEPT + 1);
        drop(large);
        assert_eq!(pool.take().capacity(), 0);
    }
}
