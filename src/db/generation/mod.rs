//! Generations of an index: the next one, the way from one to another, and what is known of those
//! that were.

mod afresh;
mod apply;
mod checks;
mod copy;
mod editor;
mod gone;
mod history;
mod next;
mod outgoing;
mod rebuild;
mod rewind;
#[cfg(test)]
mod tests;
mod whole;

pub use afresh::{Afresh, lay_out_afresh};
pub use apply::{Applied, apply, each_record};
pub(super) use gone::remember_own;
pub use gone::{Placed, note_taken_back, remember_gone};
pub use history::{Counters, Generation, History, Previous, Step};
pub use next::NextGeneration;
pub use outgoing::without_private;
pub use rebuild::{rebuild, remember, set_counters};
pub use rewind::Rewound;
pub use whole::copy_rows;
