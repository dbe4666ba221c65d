//! What the next run would find and send, without reading a content or asking a receiver: the
//! source as its attributes or its list tell beside the newest generation of its index, or two
//! generations beside each other.

mod between;
mod changes;
mod compare;
mod source;

pub use between::{BetweenOptions, between};
pub use changes::{ChangeKind, EntrySink, Plan, PlannedChange, Tally};
pub(super) use compare::{check_cancelled, missing_bytes};
pub use source::{PlanOptions, plan};
