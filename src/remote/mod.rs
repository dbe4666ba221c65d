//! HTTP out: the client of a receiver. The only place for reqwest, and the only retry driver.

mod client;
mod limit;
mod pulse;
mod retry;

pub use client::{BlockBody, Client, ClientOptions, IndexBody};
pub use limit::Bandwidth;
pub use retry::Patience;
