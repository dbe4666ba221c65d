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
        None => {
            refuse_remote(given)?;
            Ok(Destination::Folder {
                path: given.to_path_buf(),
                starter: Arc::new(LocalReceiver(connection)),
            })
        }
    }
}

/// Refuses a source that is an address.
///
/// # Errors
/// [`ErrorKind::Usage`], with what to type.
pub(super) fn refuse_remote_source(given: &Path) -> Result<()> {
    match given.to_str().filter(|text| text.contains("://")) {
        Some(url) => {
            let error = Error::new(ErrorKind::Usage, format!("{url} is no source that can be read"));
            Err(error.with_hint(
                "a source is a folder, a file, a block device or s3://bucket/prefix. To copy back what a \
                 receiver has, run sync on its host, from the receiver's folder",
            ))
        }
        None => refuse_remote(given),
    }
}

/// Refuses a path with a colon before the first slash, which is a place on another host to rsync,
/// scp and rclone. As a path it would make a folder that the user did not want.
///
/// # Errors
/// [`ErrorKind::Usage`], with what to type for a path of that name, and for a receiver.
fn refuse_remote(given: &Path) -> Result<()> {
    let text = given.to_string_lossy();
    let first = text.split('/').next().unwrap_or_default();
    let Some((host, rest)) = first.rsplit_once(':') else { return Ok(()) };
    let host = host.rsplit('@').next().unwrap_or(host).trim_end_matches(':');
    let port = if !rest.is_empty() && rest.bytes().all(|b| b.is_ascii_digit()) { rest } else { "8000" };
    let error = Error::new(ErrorKind::Usage, format!("{text} looks like a place on another host"));
    Err(error.with_hint(format!(
        "ssh is not spoken yet. For a receiver (tar-like proxy) give its address, \
         http://{host}:{port}/tar; for a path of this host, ./{text}"
    )))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_colon_before_the_first_slash_is_another_host() {
        for remote in ["h:", "h:/x", "u@h:x/y", "h:8000/tar", "[::1]:/x", "h::module/x", ":x"] {
            let error = refuse_remote(Path::new(remote)).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Usage, "{remote}");
            assert!(error.hint().is_some_and(|hint| hint.contains(&format!("./{remote}"))), "{remote}");
        }
        for local in ["", "x", "./h:x", "/h:x", "x/h:y", "../h:", "u@h"] {
            assert!(refuse_remote(Path::new(local)).is_ok(), "{local}");
        }
        let hint = refuse_remote(Path::new("root@web:9000/tar")).unwrap_err().hint().map(str::to_owned);
        assert!(hint.unwrap().contains("http://web:9000/tar"));
    }
}
