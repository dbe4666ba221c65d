//! What an index knows of its past: the backup of its generations.

pub mod backup;
