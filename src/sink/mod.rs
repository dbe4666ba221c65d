//! Where bytes go: a folder on disk, path-safe, staged and durable.

mod copy;
pub mod device;
pub mod disk;
mod expected;
mod kept;
mod left;
mod metadata;
mod names;
mod remove;
mod reserve;
mod staging;
pub mod storage;
mod times;

pub use expected::Expected;
pub use kept::Kept;
pub use left::LeftOver;
pub use names::NameKey;
pub use remove::{Backup, Outcome, Removal};
pub use times::Scratch;
