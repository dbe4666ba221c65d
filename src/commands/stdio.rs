//! `tar-like proxy --stdio`: a receiver for the one sender that holds standard input and output. It
//! ends when that sender does.

use super::local_receiver::tell_in_use;
use super::output::{Outcome, Output};
use super::signals::stop_signal;
use crate::engine::destination::NewFolder;
use crate::engine::receive::{Receiver, ReceiverOptions};
use crate::error::{Error, ErrorKind, Result};
use crate::remote::ssh::{Greeting, Hello, Incoming, Mux, Side};
use crate::server::{self, Access, AccessOptions, ServerOptions};
use rustix::fs::OFlags;
use serde_json::json;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tempfile::TempDir;
use tokio::io::BufReader;
use tokio::net::unix::pipe;

/// The largest block that it takes, in bytes.
const MAX_BLOCK_BYTES: u64 = 1 << 32;

/// Serves the sender until it ends.
pub(super) async fn run(max_index_bytes: u64, output: &Arc<Output>) -> Result<Outcome> {
    let signal = stop_signal();
    let (mut input, mut answers) = streams()?;
    let opened = open(&mut input, max_index_bytes, output).await;
    let greeting = Greeting::new(&opened.as_ref().map(drop).map_err(clone_of));
    greeting.write(&mut answers).await.map_err(|e| Error::io("cannot answer the sender", e))?;
    // The sender has said it to the user.
    let Ok(base) = opened else { return Ok(ended()) };
    let (mux, incoming) = Mux::start(tokio::io::join(input, answers), Side::Started)
        .await
        .map_err(|e| Error::io("the sender says no more", e))?;
    let end = async {
        tokio::select! {
            () = mux.ended() => {}
            () = signal => {}
        }
    };
    serve(base.receiver.clone(), incoming, max_index_bytes, end).await?;
    drop(mux);
    base.close();
    Ok(ended())
}

fn ended() -> Outcome {
    Outcome { command: "proxy", exit: 0, text: String::new(), fields: json!({}) }
}

fn clone_of(error: &Error) -> Error {
    let same = Error::new(error.kind(), error.to_string());
    match error.hint() {
        Some(hint) => same.with_hint(hint),
        None => same,
    }
}

async fn serve(
    receiver: Arc<Receiver>,
    incoming: Incoming,
    max_index_bytes: u64,
    end: impl Future<Output = ()>,
) -> Result<()> {
    // Who holds standard input is the sender, and no other process can connect.
    let access = Access::load(AccessOptions::default())?;
    let options = ServerOptions {
        max_block_bytes: MAX_BLOCK_BYTES,
        max_index_bytes,
        in_process: true,
        ..ServerOptions::new(Arc::new(access))
    };
    server::run_on_streams(incoming, receiver, options, end).await
}

/// Standard input and output, as far as they can wait: pipes and sockets.
fn streams() -> Result<(BufReader<pipe::Receiver>, pipe::Sender)> {
    let failed = |e: std::io::Error| {
        Error::io("standard input and output are no pipes", e)
            .with_kind(ErrorKind::Usage)
            .with_hint("a sender starts this by itself: tar-like sync FOLDER HOST:/FOLDER")
    };
    let own = |fd: std::os::fd::BorrowedFd<'_>| -> std::io::Result<OwnedFd> {
        let fd = fd.try_clone_to_owned()?;
        let flags = rustix::fs::fcntl_getfl(&fd)?;
        rustix::fs::fcntl_setfl(&fd, flags | OFlags::NONBLOCK)?;
        Ok(fd)
    };
    // sshd gives sockets, which are read and written as pipes are.
    let input = own(std::io::stdin().as_fd()).and_then(pipe::Receiver::from_owned_fd_unchecked);
    let output = own(std::io::stdout().as_fd()).and_then(pipe::Sender::from_owned_fd_unchecked);
    Ok((BufReader::new(input.map_err(failed)?), output.map_err(failed)?))
}

/// What the sender's folder is here.
struct Base {
    receiver: Arc<Receiver>,
    /// The folder was made for this run.
    new: Option<NewFolder>,
    /// A dry run makes no folder: this one stands for it.
    _scratch: Option<TempDir>,
}

impl Base {
    /// Leaves nothing where nothing came.
    fn close(self) {
        drop(self.receiver);
        if let Some(new) = self.new {
            new.remove_if_unused();
        }
    }
}

async fn open(
    input: &mut BufReader<pipe::Receiver>,
    max_index_bytes: u64,
    output: &Arc<Output>,
) -> Result<Base> {
    let hello = Hello::read(input).await?;
    let (base, output) = (from_home(hello.base()?), output.clone());
    let work = move || -> Result<Base> {
        let (mut new, mut scratch) = (None, None);
        let folder = match hello.dry_run && !crate::sink::is_used(&base) {
            true => {
                let made = tempfile::tempdir().map_err(|e| Error::io("cannot make a temporary folder", e))?;
                scratch.insert(made).path().to_path_buf()
            }
            false => {
                new = NewFolder::make(&base)?;
                base
            }
        };
        let options = ReceiverOptions { max_index_bytes, ..ReceiverOptions::default() };
        let receiver = Receiver::open_when_free(&folder, options, || tell_in_use(&folder, &output))?;
        Ok(Base { receiver, new, _scratch: scratch })
    };
    tokio::task::spawn_blocking(work)
        .await
        .map_err(|e| Error::new(ErrorKind::Internal, "the start crashed").with_source(e))?
}

/// sshd starts a shell in the user's home folder: a relative path is below it, and none is it.
fn from_home(base: PathBuf) -> PathBuf {
    if base.as_os_str().is_empty() { Path::new(".").to_path_buf() } else { base }
}
