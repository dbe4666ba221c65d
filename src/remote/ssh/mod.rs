//! A host that is reached by ssh: its shell starts a receiver there whose only connection is
//! standard input and output. [`SshReceiver`] stands in for it here, as a Unix socket that only this
//! user can reach.
//!
//! ```text
//! client ── Unix socket ── mux ── ssh … sshd ── mux ── tar-like proxy --stdio
//! ```
//!
//! Nothing listens on that host, and no token is needed: who holds the pipes is the sender. Nothing
//! of a run stands on a command line there; it goes over standard input.

mod bridge;
mod hello;
mod mux;
mod place;
mod session;

pub use bridge::SshReceiver;
pub use hello::{Greeting, Hello};
pub use mux::{Incoming, Mux, MuxStream, Side};
pub use place::SshPlace;
pub use session::Shell;
