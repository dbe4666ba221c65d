//! Generations of an index: the next one, the way from one to another, and what is known of those that were.

mod apply;
mod checks;
mod editor;
mod history;
mod next;
#[cfg(test)]
mod tests;

pub use apply::{Applied, apply};
pub use history::{Generation, History, Step};
pub use next::{NextGeneration, rewind};
