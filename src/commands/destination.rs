//! The destination that `sync` and `rewind` are given.

use super::address::{address, no_destination, refuse_mistyped};
use super::connect::Connection;
use super::local_receiver::LocalReceiver;
use super::ssh::{RemoteReceiver, SshArgs};
use crate::engine::destination::Destination;
use crate::error::Result;
use crate::remote::ssh::SshPlace;
use std::path::Path;
use std::sync::Arc;

const IN_USE_HINT: &str = "if a proxy receives into this folder, give its address, http://HOST:8000/tar, in place of the folder; or stop it";

/// A receiver where `given` is an http(s) address, a folder of another host where it is such a
/// place, otherwise a folder of this host. A `dry_run` changes nothing on that host.
///
/// # Errors
/// The address is of another kind, or the client cannot be made.
pub(super) fn destination(
    given: &Path,
    connection: Connection,
    ssh: &SshArgs,
    dry_run: bool,
) -> Result<Destination> {
    refuse_mistyped(given)?;
    if let Some(place) = given.to_str().map(SshPlace::parse).transpose()?.flatten() {
        let path = place.path.clone().into();
        let shell = ssh.shell(place, dry_run)?;
        return Ok(Destination::Remote { path, starter: Arc::new(RemoteReceiver { shell, connection }) });
    }
    match address(given) {
        Some(url) if url.starts_with("http://") || url.starts_with("https://") => {
            let token = connection.token()?;
            Ok(Destination::Receiver(connection.client(url.to_owned(), token)?))
        }
        Some(other) => Err(no_destination(other)),
        None => Ok(Destination::Folder {
            path: given.to_path_buf(),
            starter: Arc::new(LocalReceiver { connection, state: None, in_use_hint: IN_USE_HINT }),
        }),
    }
}
