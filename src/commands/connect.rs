//! The flags of commands that talk to a receiver.

use super::output::Output;
use super::tls::TlsArgs;
use crate::error::{Error, ErrorKind, Result};
use crate::remote::{Bandwidth, Client, ClientOptions, ReceiverClient, is_readable_on_the_way};
use crate::telemetry::{Monitor, Notice};
use clap::Args;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

/// Which archive of the receiver, and how to talk to it.
#[derive(Args)]
pub(super) struct ConnectArgs {
    /// The number of the archive at the receiver; each source needs one of its own [default: sync
    /// and rewind: derived from the source; upload: 0]
    #[arg(long, value_name = "NUMBER", value_parser = clap::value_parser!(u64).range(..=i64::MAX as u64))]
    pub(super) tar_id: Option<u64>,
    #[command(flatten)]
    tls: TlsArgs,
    /// A file with the receiver's token [default: environment TARLIKE_TOKEN]
    #[arg(long, value_name = "FILE", env = "TARLIKE_TOKEN_FILE")]
    token_file: Option<PathBuf>,
    /// Give up when for this many seconds nothing moved and the receiver accepted nothing
    #[arg(long, value_name = "SECONDS", default_value_t = 900, value_parser = clap::value_parser!(u64).range(1..))]
    stall_timeout: u64,
    /// Send a request again when nothing of it moved for this many seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 300, value_parser = clap::value_parser!(u64).range(1..))]
    block_timeout: u64,
}

/// How receivers are reached.
pub(super) struct Connection {
    pub(super) connect: ConnectArgs,
    /// How many connections are kept open.
    pub(super) connections: usize,
    /// The limit on what is sent, in bytes a second.
    pub(super) bandwidth: Option<u64>,
    pub(super) output: Arc<Output>,
}

impl Connection {
    /// For a receiver in this process alone.
    pub(super) fn of_this_process(output: &Arc<Output>) -> Self {
        let connect = ConnectArgs {
            tar_id: None,
            tls: TlsArgs::default(),
            token_file: None,
            stall_timeout: 900,
            block_timeout: 300,
        };
        Self { connect, connections: 5, bandwidth: None, output: output.clone() }
    }

    /// The token that the flags or the environment give.
    pub(super) fn token(&self) -> Result<Option<String>> {
        read_token(self.connect.token_file.as_deref())
    }

    /// A client for the receiver at `url`. Warns of what is not protected.
    pub(super) fn client(&self, url: String, token: Option<String>) -> Result<Arc<dyn ReceiverClient>> {
        self.client_for(url, token, false)
    }

    /// The same for a receiver in this process: no other process frees space for it meanwhile.
    pub(super) fn local_client(&self, url: String, token: String) -> Result<Arc<dyn ReceiverClient>> {
        self.client_for(url, Some(token), true)
    }

    fn client_for(
        &self,
        url: String,
        token: Option<String>,
        ends_when_full: bool,
    ) -> Result<Arc<dyn ReceiverClient>> {
        let connect = &self.connect;
        connect.tls.warn(&self.output);
        if token.is_some() && is_readable_on_the_way(&url) {
            self.output.notice(Notice::Warning(format!(
                "{url} is plain http: everybody on the way can read the token and all contents; use https"
            )));
        }
        let client = ClientOptions {
            url,
            token,
            tls: connect.tls.options(),
            connections: self.connections,
            block_deadline: Duration::from_secs(connect.block_timeout),
            ends_when_full,
            bandwidth: self.bandwidth.map(|rate| Arc::new(Bandwidth::new(rate))),
        };
        let stall_timeout = Duration::from_secs(connect.stall_timeout);
        Ok(Arc::new(Client::new(client, stall_timeout, self.output.clone())?))
    }
}

/// Reads a token from `file`, or from the environment. There is no flag for a token itself, since
/// everybody on the host can read the command line.
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
