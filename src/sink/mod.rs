//! Where bytes go: a folder on disk, path-safe, staged and durable.

pub mod device;
pub mod disk;
