//! The backup of an index: one file that only grows. A snapshot of the index, then a change for
//! each generation.
//!
//! ```text
//! 0      slot A                 4096   slot B                 8192   record, record, ...
//! ```
//!
//! Both slots say the same kind of thing: where the whole records end, and which version is the
//! newest. They are written in turn, the older one, in place, after the records that it counts are
//! on stable storage; so a write that is torn costs one slot, and the other says what was true
//! before. Numbers are little-endian.
//!
//! | slot | bytes |
//! |---|---|
//! | magic `tar-like backup\n` | 16 |
//! | version of the format: 1 | 4 |
//! | zero | 4 |
//! | sequence: the higher one counts | 8 |
//! | end of the last record in the file | 8 |
//! | newest version | 8 |
//! | BLAKE3 of all before | 32 |
//!
//! | head of a record | bytes |
//! |---|---|
//! | magic `tlrecord` | 8 |
//! | kind: `S` snapshot, `C` change, `R` rewind | 1 |
//! | zero | 7 |
//! | version: the generation's number | 8 |
//! | parent: the version that was live before; 0 for none | 8 |
//! | created, in seconds since 1970 | 8 |
//! | length of the payload, which follows the head | 8 |
//! | digest of the index at this version | 32 |
//! | BLAKE3 of the payload | 32 |
//! | check of the record before; zeros in the first | 32 |
//! | check: BLAKE3 of all before | 32 |
//!
//! A record names the one before it by its check. So nothing that an interrupted run left behind
//! the end passes for a record, and a record that is whole counts even where no slot says so any
//! more. What a payload holds is not this module's concern.
//!
//! Which records make a version is [`Lineage`]'s to say: a *rewind* takes the file back to an
//! ancestor, and what came after that ancestor is abandoned and never part of a version again.

mod lineage;
mod record;
mod slot;

pub use lineage::{Lineage, NotNext, Place, Rebase};
pub use record::{HEAD_LEN, Kind, NotARecord, RecordHead};
pub use slot::{NotASlot, RECORDS, SLOT_LEN, SLOTS, Slot, newest_slot};
