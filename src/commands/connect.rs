//! The flags of commands that talk to a receiver.

use super::output::Output;
use super::tls::TlsArgs;
use crate::engine::receive::Receiver;
use crate::error::{Error, ErrorKind, Result};
use crate::remote::ssh::SshPlace;
use crate::remote::{
    Bandwidth, Client, ClientOptions, LocalReceiver, ReceiverClient, is_readable_on_the_way,
};
use crate::telemetry::{Monitor, Notice};
use clap::Args;
use std::env::VarError;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

/// Which archive of the receiver, and how to talk to it.
#[derive(Args, Clone)]
pub(super) struct ConnectArgs {
    /// The number of the archive at the receiver; each source needs one of its own [default:
    /// derived from the source]
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

impl ConnectArgs {
    /// The flags with which another command reaches the same receiver.
    pub(super) fn flags(&self) -> Vec<OsString> {
        let mut flags = self.tls.flags();
        if let Some(file) = &self.token_file {
            flags.extend(["--token-file".into(), file.into()]);
        }
        flags
    }
}

/// What leads to a receiver.
enum Reach {
    /// Its address.
    Address,
    /// A Unix socket; and what its address is to people.
    Socket(PathBuf, String),
    /// It is in this process.
    Process(Arc<Receiver>),
}

/// How receivers are reached.
pub(super) struct Connection {
    pub(super) connect: ConnectArgs,
    /// How many connections are kept open.
    pub(super) connections: usize,
    /// The limit on what is sent.
    pub(super) bandwidth: Option<Arc<Bandwidth>>,
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
        self.warn(&url, token.as_deref());
        self.client_with(url, token, self.bandwidth.clone())
    }

    /// The same with another limit on what is sent, and without warnings.
    pub(super) fn client_with(
        &self,
        url: String,
        token: Option<String>,
        bandwidth: Option<Arc<Bandwidth>>,
    ) -> Result<Arc<dyn ReceiverClient>> {
        self.client_for(url, token, bandwidth, Reach::Address)
    }

    /// The same for a receiver at `place` that was started for this run, and is reached by `socket`.
    pub(super) fn ssh_client(&self, place: &SshPlace, socket: PathBuf) -> Result<Arc<dyn ReceiverClient>> {
        let url = format!("http://{}/tar", place.host());
        let reach = Reach::Socket(socket, place.to_string());
        self.client_for(url, None, self.bandwidth.clone(), reach)
    }

    /// Warns of what is not protected on the way to the receiver at `url`.
    pub(super) fn warn(&self, url: &str, token: Option<&str>) {
        self.connect.tls.warn(&self.output);
        if token.is_some() && is_readable_on_the_way(url) {
            self.output.notice(Notice::Warning(format!(
                "{url} is plain http: everybody on the way can read the token and all contents; use https"
            )));
        }
    }

    /// The same for `receiver`, which is in this process: no other process frees space for it
    /// meanwhile. A limit on what is sent is kept on the usual way.
    pub(super) fn local_client(
        &self,
        url: String,
        token: String,
        receiver: Arc<Receiver>,
    ) -> Result<Arc<dyn ReceiverClient>> {
        self.warn(&url, Some(&token));
        self.client_for(url, Some(token), self.bandwidth.clone(), Reach::Process(receiver))
    }

    fn client_for(
        &self,
        url: String,
        token: Option<String>,
        bandwidth: Option<Arc<Bandwidth>>,
        reach: Reach,
    ) -> Result<Arc<dyn ReceiverClient>> {
        let connect = &self.connect;
        // No other process frees space for a receiver of this run alone.
        let ends_when_full = !matches!(reach, Reach::Address);
        let (socket, receiver) = match reach {
            Reach::Address => (None, None),
            Reach::Socket(path, address) => (Some((path, address)), None),
            Reach::Process(receiver) => (None, Some(receiver as Arc<dyn LocalReceiver>)),
        };
        let client = ClientOptions {
            url,
            socket,
            token,
            tls: connect.tls.options(),
            connections: self.connections,
            block_deadline: Duration::from_secs(connect.block_timeout),
            ends_when_full,
            receiver: receiver.filter(|_| bandwidth.is_none()),
            bandwidth,
        };
        let stall_timeout = Duration::from_secs(connect.stall_timeout);
        Ok(Arc::new(Client::new(client, stall_timeout, self.output.clone())?))
    }
}

/// Reads a token from `file`, or from the environment. There is no flag for a token itself, since
/// everybody on the host can read the command line.
///
/// # Errors
/// The file cannot be read, or what is given is no token.
pub(super) fn read_token(file: Option<&Path>) -> Result<Option<String>> {
    let Some(path) = file else {
        return match std::env::var("TARLIKE_TOKEN") {
            Ok(text) if text.trim().is_empty() => Ok(None),
            Ok(text) => token_of(&text, "the variable TARLIKE_TOKEN").map(Some),
            Err(VarError::NotPresent) => Ok(None),
            Err(VarError::NotUnicode(_)) => {
                Err(no_token("the variable TARLIKE_TOKEN has bytes that are no text"))
            }
        };
    };
    let what = format!("the token file {}", path.display());
    let text = std::fs::read_to_string(path)
        .map_err(|e| Error::io(format!("cannot read {what}"), e).with_kind(ErrorKind::Usage))?;
    token_of(&text, &what).map(Some)
}

/// The token that is `text`, which stands in `what`.
fn token_of(text: &str, what: &str) -> Result<String> {
    let text = text.trim();
    let lines = text.lines().count();
    if text.is_empty() {
        Err(Error::new(ErrorKind::Usage, format!("{what} is empty")))
    } else if lines > 1 {
        Err(no_token(format!("{what} has {lines} lines, and a token has one")))
    } else if text.contains(char::is_control) {
        Err(no_token(format!("{what} has control characters, which no token has")))
    } else {
        Ok(text.to_owned())
    }
}

fn no_token(what: impl Into<String>) -> Error {
    Error::new(ErrorKind::Usage, what).with_hint(
        "a sender has one secret, as tar-like token new writes it to standard output; the file with a line for \
         each token is for proxy --tokens",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_one_line() {
        let said = |text| token_of(text, "x").map_err(|e| e.to_string());
        assert_eq!(said(" secret \n\n"), Ok("secret".to_string()));
        assert_eq!(said("one two ü"), Ok("one two ü".to_string()));
        assert_eq!(said(" \n"), Err("x is empty".to_string()));
        assert_eq!(said("one\ntwo\r\n"), Err("x has 2 lines, and a token has one".to_string()));
        for text in ["a\rb", "a\0b", "a\tb", "\u{1b}[1m"] {
            assert_eq!(said(text), Err("x has control characters, which no token has".to_string()));
        }
        assert_eq!(token_of("a\nb", "x").unwrap_err().kind(), ErrorKind::Usage);
    }
}
