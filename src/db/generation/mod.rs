//! Generations of an index: the next one, the way from one to another, and what is known of those
//! that were.

mod apply;
mod checks;
mod compact;
mod copy;
mod editor;
mod history;
mod next;
mod outgoing;
mod rebuild;
mod rewind;
#[cfg(test)]
mod tests;
mod tombstones;
mod whole;

pub use apply::{Applied, apply, each_record};
pub use compact::{Compacted, compact};
pub use history::{Counters, Generation, History, Previous, Step};
pub use next::NextGeneration;
pub use outgoing::without_private;
pub use rebuild::{add_generation, rebuild, set_counters};
pub use rewind::Rewound;
pub(super) use tombstones::add_own_tombstones;
pub use tombstones::{Placed, add_tombstones, set_reverted};
pub use whole::copy_rows;
