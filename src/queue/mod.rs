//! Who sends which block.

pub mod range;
