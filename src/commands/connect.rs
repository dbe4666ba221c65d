//! The flags of whoever talks to a receiver.

use super::output::Output;
use super::tls::TlsArgs;
use crate::error::{Error, ErrorKind, Result};
use crate::remote::{Bandwidth, Client, ClientOptions, Patience, is_readable_on_the_way};
use crate::telemetry::{Monitor, Notice};
use clap::Args;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

/// Which receiver, and how to talk to it.
#[derive(Args)]
pub(super) struct ConnectArgs {
    /// The number of the archive at the receiver: different folders need different numbers
    #[arg(long, value_name = "NUMBER", default_value_t = 0, value_parser = clap::value_parser!(u64).range(..=i64::MAX as u64))]
    pub(super) tar_id: u64,
    #[command(flatten)]
    tls: TlsArgs,
    /// A file with the receiver's token [default: environment TARLIKE_TOKEN]
    #[arg(long, value_name = "FILE", env = "TARLIKE_TOKEN_FILE")]
    token_file: Option<PathBuf>,
    /// Give up when nothing was accepted for this many seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 900, value_parser = clap::value_parser!(u64).range(1..))]
    stall_timeout: u64,
    /// Send a request again when nothing of it moved for this many seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 300, value_parser = clap::value_parser!(u64).range(1..))]
    block_timeout: u64,
}

impl ConnectArgs {
    /// The token that the flags or the environment give.
    pub(super) fn token(&self) -> Result<Option<String>> {
        read_token(self.token_file.as_deref())
    }

    /// A client for the receiver at `url`, with so many connections that send at most `bandwidth` bytes a second.
    pub(super) fn client(
        &self,
        url: String,
        token: Option<String>,
        connections: usize,
        bandwidth: Option<u64>,
        output: &Arc<Output>,
    ) -> Result<Arc<Client>> {
        self.tls.warn(output);
        if token.is_some() && is_readable_on_the_way(&url) {
            output.notice(Notice::Warning(format!(
                "{url} is plain http: whoever is on the way can read the token and all contents; use https"
            )));
        }
        let client = ClientOptions {
            url,
            tar_id: self.tar_id,
            token,
            tls: self.tls.options(),
            connections,
            block_deadline: Duration::from_secs(self.block_timeout),
            bandwidth: bandwidth.map(|rate| Arc::new(Bandwidth::new(rate))),
        };
        let patience = Patience::new(Duration::from_secs(self.stall_timeout));
        Client::new(client, patience, output.clone()).map(Arc::new)
    }
}

/// A token never stands on the command line, where everybody on the host could read it.
pub(super) fn read_token(file: Option<&Path>) -> Result<Option<String>> {
    let text = match file {
        Some(path) => std::fs::read_to_string(path).map_err(|e| {
            Error::io(format!("cannot read the token file {}", path.display()), e).with_kind(ErrorKind::Usage)
        })?,
        None => std::env::var("TARLIKE_TOKEN").unwrap_or_default(),
    };
    let text = text.trim().to_owned();
    match (text.is_empty(), file) {
        (true, Some(path)) => {
            Err(Error::new(ErrorKind::Usage, format!("the token file {} is empty", path.display())))
        }
        (true, None) => Ok(None),
        (false, _) => Ok(Some(text)),
    }
}
