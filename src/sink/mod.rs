//! Where bytes go: a folder on disk, path-safe, staged and durable.

mod aside;
mod backup;
mod cache;
mod copy;
pub mod device;
pub mod disk;
mod epochs;
mod expected;
mod fence;
mod folding;
mod kept;
mod left;
mod metadata;
mod mount;
mod names;
mod pairing;
mod places;
mod port;
mod remove;
mod reserve;
mod running;
mod shared;
mod staging;
mod storage;
#[cfg(test)]
mod tests;
mod times;

pub use backup::Backup;
pub use expected::Expected;
pub use fence::PublishLock;
pub use kept::Kept;
pub use left::LeftOver;
pub use mount::is_suspicious;
pub use names::NameKey;
pub use pairing::{is_used, records_of, refuse_base_without_state};
pub use port::{Sink, Storage};
pub use remove::{Outcome, Removal};
pub use times::Scratch;
