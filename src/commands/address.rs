//! What people type where a path of this host is wanted, and an address is given: what is refused, and
//! what to type instead.

use crate::archive::path::STATE_DIR;
use crate::error::{Error, ErrorKind, Result};
use std::path::Path;

/// The address in `given`, if it is one.
pub(super) fn address(given: &Path) -> Option<&str> {
    given.to_str().filter(|text| text.contains("://"))
}

/// The error for an address to which `sync` cannot copy, with what is possible instead.
pub(super) fn no_destination(address: &str) -> Error {
    let (scheme, rest) = address.split_once("://").unwrap_or(("", address));
    let place = rest.split('/').next().unwrap_or_default();
    let host = place.rsplit('@').next().unwrap_or_default().split(':').next().unwrap_or_default();
    let hint = match &*scheme.to_ascii_lowercase() {
        "s3" | "gs" | "b2" | "az" | "swift" => {
            "buckets are not written to yet, they are sources only. Copy into a \
            folder, of this host or of a receiver (tar-like proxy) near the store, and from there with the \
            store's own program"
                .to_string()
        }
        "file" => format!("for a folder of this host, type its path: {}", &rest[place.len()..]),
        "rsync" | "sftp" | "ftp" | "ftps" | "scp" | "webdav" | "dav" | "davs" => format!(
            "{scheme} is not spoken. Over ssh, type {host}:/FOLDER; or start `tar-like proxy -b FOLDER` on {host}, \
             and give its address, http://{host}:8000/tar"
        ),
        _ => "a destination is a folder of this host, or the address of a receiver, http://HOST:8000/tar"
            .to_string(),
    };
    Error::new(ErrorKind::Usage, format!("{address} is neither an http(s) address nor a folder"))
        .with_hint(hint)
}

/// Refuses an address where `-b` names a folder, a file or a device of this host.
///
/// # Errors
/// [`ErrorKind::Usage`], with what to do.
pub(super) fn refuse_address(base: &Path) -> Result<()> {
    refuse_mistyped(base)?;
    let Some(url) = address(base) else { return Ok(()) };
    Err(Error::new(ErrorKind::Usage, format!("{url} is no folder of this host")).with_hint(
        "give a folder, a file, a block device or s3://bucket/prefix. A receiver's folder is compared by \
         tar-like check on its host, and copied back by sync there",
    ))
}

/// Refuses a source that is an address.
///
/// # Errors
/// [`ErrorKind::Usage`], with what to type.
pub(super) fn refuse_remote_source(given: &Path) -> Result<()> {
    refuse_mistyped(given)?;
    match address(given) {
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

/// Whether `folder` has entries, and no receiver has ever written into it.
pub(super) fn is_filled_by_others(folder: &Path) -> bool {
    let has_entries = || std::fs::read_dir(folder).is_ok_and(|mut entries| entries.next().is_some());
    !folder.join(STATE_DIR).exists() && has_entries()
}

/// Refuses what looks like an address with a colon or a slash too few: it would be a path.
///
/// # Errors
/// [`ErrorKind::Usage`], with the address that may be meant.
pub(super) fn refuse_mistyped(given: &Path) -> Result<()> {
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
/// scp and rclone, where one of this host is wanted.
///
/// # Errors
/// [`ErrorKind::Usage`], with what to type for a path of that name.
pub(super) fn refuse_remote(given: &Path) -> Result<()> {
    let text = given.to_string_lossy();
    let first = text.split('/').next().unwrap_or_default();
    let Some((host, _)) = first.rsplit_once(':') else { return Ok(()) };
    let host = host.trim_end_matches(':');
    let error = Error::new(ErrorKind::Usage, format!("{text} looks like a place on another host"));
    Err(error.with_hint(format!(
        "only a destination may be on another host: run tar-like sync on {host}, to a folder here by ssh or to a \
         receiver. For a path of this host, type ./{text}"
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
        for (given, hint) in [
            ("s3://bucket/x", "near the store"),
            ("rsync://me@host:873/mod/x", "http://host:8000/tar"),
            ("sftp://host/x", "proxy -b FOLDER` on host,"),
            ("file:///srv/x", "its path: /srv/x"),
            ("x://y", "a folder of this host"),
        ] {
            let error = no_destination(given);
            assert!(error.hint().is_some_and(|text| text.contains(hint)), "{given}: {:?}", error.hint());
            assert!(refuse_address(Path::new(given)).is_err());
        }
        assert!(refuse_address(Path::new("a:b/c")).is_ok());
        for right in ["http://h/tar", "https://h", "s3://b", "http", "https/x", "s3x", "./http:/x", "httpd/x"]
        {
            assert!(refuse_mistyped(Path::new(right)).is_ok(), "{right}");
        }
        let hint = refuse_remote(Path::new("root@web:/srv")).unwrap_err().hint().map(str::to_owned);
        assert!(hint.unwrap().contains("on root@web, to"));
    }
}
