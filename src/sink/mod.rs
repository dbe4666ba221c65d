//! Where bytes go: a folder on disk, path-safe, staged and durable.

mod copy;
pub mod device;
pub mod disk;
mod expected;
mod kept;
mod remove;
mod staging;

pub use expected::Expected;
pub use kept::Kept;
pub use remove::{Backup, Outcome};
