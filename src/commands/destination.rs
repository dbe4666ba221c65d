//! The destination that `sync` and `rewind` are given.

use super::connect::Connection;
use super::local_receiver::LocalReceiver;
use crate::engine::destination::Destination;
use crate::error::{Error, ErrorKind, Result};
use std::path::Path;
use std::sync::Arc;

/// A receiver where `given` is an http(s) address, otherwise a folder of this host.
///
/// # Errors
/// The address is of another kind, or the client cannot be made.
pub(super) fn destination(given: &Path, connection: Connection) -> Result<Destination> {
    let address = given.to_str().filter(|text| text.contains("://"));
    match address {
        Some(url) if url.starts_with("http://") || url.starts_with("https://") => {
            let token = connection.token()?;
            Ok(Destination::Receiver(connection.client(url.to_owned(), token)?))
        }
        Some(other) => {
            Err(Error::new(ErrorKind::Usage, format!("{other} is neither an http(s) address nor a folder")))
        }
        None => Ok(Destination::Folder {
            path: given.to_path_buf(),
            starter: Arc::new(LocalReceiver(connection)),
        }),
    }
}
