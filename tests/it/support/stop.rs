//! Ending the threads of a test, also when an assertion fails.

use std::sync::atomic::{AtomicBool, Ordering};

/// Sets the flag when dropped: the threads of a scope check it, and the scope waits for them.
pub(crate) struct StopAtEnd<'a>(pub(crate) &'a AtomicBool);

impl Drop for StopAtEnd<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}
