//! HTTP out: the client of a receiver. The only place for reqwest, and the only retry driver.

mod body;
mod client;
mod goodput;
mod limit;
mod pulse;
mod retry;

pub use client::{BlockBody, Client, ClientOptions, IndexBody, LogBatch};
pub use goodput::Goodput;
pub use limit::Bandwidth;
pub use retry::Patience;
