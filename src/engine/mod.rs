//! What the program does: index, plan, upload, receive, check, sync. It never prints and never reads the environment.

pub mod blockcopy;
pub mod buffers;
pub mod check;
pub mod history;
pub mod index;
pub mod index_body;
mod opener;
mod pace;
mod pipeline;
pub mod plan;
pub mod receive;
pub mod rewind;
pub mod stream;
pub mod upload;
