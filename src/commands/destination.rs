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
    refuse_mistyped(given)?;
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
    refuse_mistyped(given)?;
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

/// Refuses what looks like an address with a colon or a slash too few: it would be a path.
///
/// # Errors
/// [`ErrorKind::Usage`], with the address that may be meant.
fn refuse_mistyped(given: &Path) -> Result<()> {
    let text = given.to_string_lossy();
    let meant = ["http", "https", "s3"].into_iter().find_map(|scheme| {
        let (first, rest) = text.split_at_checked(scheme.len())?;
        let host = rest.trim_start_matches([':', '/']);
        let between = &rest[..rest.len() - host.len()];
        let is_address = matches!(between, ":" | ":/" | "//" | ":///");
        (first.eq_ignore_ascii_case(scheme) && is_address).then(|| format!("{scheme}://{host}"))
    });
    match meant {
        None => Ok(()),
        Some(meant) => Err(Error::new(ErrorKind::Usage, format!("{text} is no address"))
            .with_hint(format!("type {meant}; for a path of this host, ./{text}"))),
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
        for (wrong, meant) in [
            ("http:/127.0.0.1:8000/tar", "http://127.0.0.1:8000/tar"),
            ("https//host/tar", "https://host/tar"),
            ("http:host:8000/tar", "http://host:8000/tar"),
            ("HTTP:///host", "http://host"),
            ("s3:/bucket/x", "s3://bucket/x"),
        ] {
            let hint = refuse_mistyped(Path::new(wrong)).unwrap_err().hint().map(str::to_owned);
            assert!(hint.unwrap().contains(&format!("type {meant};")), "{wrong}");
        }
        for right in ["http://h/tar", "https://h", "s3://b", "http", "https/x", "s3x", "./http:/x", "httpd/x"]
        {
            assert!(refuse_mistyped(Path::new(right)).is_ok(), "{right}");
        }
        let hint = refuse_remote(Path::new("root@web:9000/tar")).unwrap_err().hint().map(str::to_owned);
        assert!(hint.unwrap().contains("http://web:9000/tar"));
    }
}
