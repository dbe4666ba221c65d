//! The flags of commands that have to do with a queue of several hosts.

use super::args;
use crate::engine::upload::{QueueOptions, TotalLimit};
use crate::error::{Error, ErrorKind, Result};
use crate::queue::lease::EngineAddress;
use crate::remote::Bandwidth;
use clap::Args;
use rand::RngExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

/// Where the queue is.
#[derive(Args)]
pub(super) struct EngineArgs {
    /// The queue that hosts share: redis://[user@]host[:port] of a Redis or Valkey, rediss:// with
    /// TLS, redis+sentinel://host,host/name with sentinels
    #[arg(long, value_name = "URL")]
    queue: Option<String>,
    /// A file with the password of the queue [default: environment TARLIKE_QUEUE_PASSWORD]
    #[arg(long, value_name = "FILE", requires = "queue")]
    queue_password_file: Option<PathBuf>,
    /// A PEM file with the certificates to trust for the queue, in place of the system's
    #[arg(long, value_name = "FILE", requires = "queue")]
    queue_ca_file: Option<PathBuf>,
}

/// How blocks are shared with other hosts.
#[derive(Args)]
pub(super) struct QueueArgs {
    #[command(flatten)]
    engine: EngineArgs,
    /// How long a host may be silent before others take over what it has
    #[arg(long, value_name = "SECONDS", default_value_t = 60, value_parser = clap::value_parser!(u64).range(1..=3600))]
    queue_lease: u64,
    /// All hosts of the queue together send at most this many bytes a second; give all of them the
    /// same. K, M, G are powers of 1024, KB, MB, GB of 1000
    #[arg(long, value_name = "RATE", requires = "queue", value_parser = args::some_bytes)]
    bwlimit_total: Option<u64>,
}

impl EngineArgs {
    /// Where the queue is, if one is named.
    ///
    /// # Errors
    /// A file cannot be read.
    pub(super) fn address(&self) -> Result<Option<EngineAddress>> {
        let Some(url) = &self.queue else { return Ok(None) };
        let read = |what: &str, path: &PathBuf| {
            std::fs::read_to_string(path).map_err(|e| {
                Error::io(format!("cannot read the {what} {}", path.display()), e).with_kind(ErrorKind::Usage)
            })
        };
        let password = match &self.queue_password_file {
            Some(path) => Some(read("password file", path)?),
            None => std::env::var("TARLIKE_QUEUE_PASSWORD").ok(),
        };
        let password = password.map(|text| text.trim().to_owned()).filter(|text| !text.is_empty());
        let authorities = self
            .queue_ca_file
            .as_ref()
            .map(|path| read("CA file", path))
            .transpose()?
            .map(String::into_bytes);
        Ok(Some(EngineAddress { url: url.clone(), password, authorities }))
    }

    /// The same of a command that needs a queue.
    ///
    /// # Errors
    /// None is named, or a file cannot be read.
    pub(super) fn needed(&self) -> Result<EngineAddress> {
        self.address()?.ok_or_else(|| {
            Error::new(ErrorKind::Usage, "no queue is named")
                .with_hint("give --queue URL, or set TARLIKE_QUEUE: redis://host for example")
        })
    }
}

/// The name of this process in a queue, which no other process ever has.
pub(super) fn host_name() -> String {
    let system = rustix::system::uname();
    let random: u32 = rand::rng().random();
    format!("{}/{}/{random:08x}", system.nodename().to_string_lossy(), std::process::id())
}

impl QueueArgs {
    /// Whether a queue is named.
    pub(super) fn is_given(&self) -> bool {
        self.engine.queue.is_some()
    }

    /// The queue, if one is named, for a host that sends `own_limit` bytes a second itself.
    ///
    /// # Errors
    /// A file cannot be read.
    pub(super) fn options(&self, own_limit: Option<u64>) -> Result<Option<QueueOptions>> {
        let Some(address) = self.engine.address()? else { return Ok(None) };
        let limit = self.bwlimit_total.map(|total| TotalLimit {
            bytes_per_second: total,
            own: Arc::new(Bandwidth::new(own_limit.map_or(total, |own| own.min(total)))),
        });
        let (lease, leaves) = (Duration::from_secs(self.queue_lease), Arc::default());
        Ok(Some(QueueOptions { address, host: host_name(), lease, limit, leaves }))
    }
}
