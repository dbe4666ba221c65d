//! Blocks that are wrong on purpose.
