//! HTTP out: the client of a receiver. The only place for reqwest, and the only retry driver.

mod body;
mod client;
mod connect;
mod goodput;
mod health;
mod limit;
mod pulse;
mod retry;

pub use client::{BlockBody, Client, ClientOptions, IndexBody, LogBatch};
pub use connect::{TlsOptions, is_readable_on_the_way};
pub use goodput::Goodput;
pub use health::health;
pub use limit::Bandwidth;
pub use retry::Patience;
