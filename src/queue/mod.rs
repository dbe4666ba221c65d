//! Who sends which block. A queue is a hint: the receiver's journal alone says what is still
//! missing, so that a queue may give a block twice, or lose all that it knows, and no file is wrong
//! for it.

pub mod lease;
pub mod range;

use crate::error::Result;
use std::pin::Pin;
use std::sync::Arc;
use tokio::sync::watch;

/// What a call to a queue ends with.
pub type Answer<'a, T> = Pin<Box<dyn Future<Output = Result<T>> + Send + 'a>>;

/// Gives out block numbers to the workers of one host.
pub trait BlockQueue: Send + Sync {
    /// The next block to send; waits while others may leave some. `None` when nothing is left.
    ///
    /// # Errors
    /// The queue can never be used.
    fn claim(&self) -> Answer<'_, Option<Ticket>>;
    /// The receiver has acknowledged all of a block.
    fn confirm(&self, ticket: Ticket);
    /// This host cannot send all of a block.
    fn fail(&self, ticket: Ticket) -> Answer<'_, ()>;
    /// Gives back what was claimed and not confirmed. Nothing is claimed afterwards.
    fn close(&self) -> Answer<'_, ()>;
}

/// A block to send.
#[derive(Debug, Clone)]
pub struct Ticket {
    /// The number of the block.
    pub number: u64,
    /// It was sent before, and the receiver did not find what the index says.
    pub again: bool,
    /// The lease that it is of.
    lease: Option<Arc<watch::Sender<bool>>>,
}

impl Ticket {
    /// Ends when another host has sent the block.
    pub async fn taken(&self) {
        match &self.lease {
            None => std::future::pending().await,
            // The sender is part of the ticket, so it cannot be gone.
            Some(lease) => {
                let _ = lease.subscribe().wait_for(|gone| *gone).await;
            }
        }
    }
}
