//! Where bytes go: a folder on disk, path-safe, staged and durable.

mod copy;
pub mod device;
pub mod disk;
mod expected;
mod remove;
mod staging;

pub use expected::Expected;
pub use remove::{Backup, Outcome};
