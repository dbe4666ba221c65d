//! The receiver's index while it is still arriving: a log of batches, each one transaction. Batches
//! of a later stream are compared with the rows that are there, which stay as long as they are the
//! same; so an interrupted stream goes on where it was.

mod compare;
mod differences;
mod index;

pub use differences::Differences;
pub use index::{Appended, GrowingIndex, Head};
