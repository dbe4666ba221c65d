//! HTTP out: the client of a receiver, and the way to one by ssh. The only place for reqwest, and the only retry driver.

mod answer;
mod body;
mod client;
mod connect;
mod health;
mod limit;
mod port;
mod request;
mod retry;
pub mod ssh;
mod stall_timeout;
mod throughput;
mod window;

pub use client::{Client, ClientOptions};
pub use connect::{TlsOptions, is_readable_on_the_way, receiver_address};
pub use health::health;
pub use limit::{Bandwidth, Grant, SharedLimit};
pub use port::{Answer, LocalReceiver, ReceiverClient};
pub use request::{BlockBody, ChangeKind, IndexBody, IndexForm, LogBatch};
pub use throughput::Throughput;
pub use window::{Claim, Window};
