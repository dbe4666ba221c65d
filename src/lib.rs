//! tar-like moves a folder to another host: indexed first, cut into numbered blocks of one virtual
//! archive, sent in parallel, put back together, and verified. `docs/dev/ARCHITECTURE.md` has the
//! map of the modules, `docs/dev/INVARIANTS.md` what is promised.

pub mod archive;
pub mod commands;
pub mod db;
pub mod engine;
pub mod error;
pub mod folder;
pub mod queue;
pub mod remote;
pub mod retry_budget;
pub mod server;
pub mod sink;
pub mod source;
pub mod telemetry;
pub mod unix_time;
