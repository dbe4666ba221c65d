//! What the program does: index, plan, upload, receive, check, sync. The engine never prints and
//! never reads the environment; it speaks through the [`Monitor`](crate::telemetry::Monitor) of a
//! run, which also says when the user has cancelled the run.

mod archive_number;
pub mod blockcopy;
pub mod buffers;
pub mod check;
mod compression_policy;
pub mod destination;
#[cfg(test)]
mod direct;
pub mod history;
pub mod identity;
mod in_process;
pub mod index;
pub mod index_body;
pub mod index_lock;
pub mod index_source;
pub mod indexes;
mod opener;
mod pipeline;
pub mod plan;
pub mod receive;
pub mod repair;
pub mod rewind;
mod spill;
pub mod stream;
pub mod sync;
pub mod tasks;
pub mod upload;
pub mod worker;
