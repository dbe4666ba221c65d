//! Reading an index, ours or the original program's.

mod at;
mod chunk_maps;
mod ids;
mod owned;
mod pieces;
mod reader;
mod skipped;
mod totals;
mod walk;

pub use at::Row;
pub(super) use pieces::{Side, find_content, read_extents};
pub use reader::{IndexReader, Summary, check_replaceable};
pub(super) use walk::WALK_ORDER;
pub use walk::WalkRows;
