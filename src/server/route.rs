//! Which request is which. The address of an archive has the prefix `/tar`, or one that ends in it
//! and that a reverse proxy adds; or none, where a reverse proxy removes it. Another path names no
//! folder, and is not served: it would be taken for one.

use super::auth::{Need, Scope};
use crate::engine::receive::SliceRequest;
use crate::error::{Error, ErrorKind, Result};

/// A request that the receiver serves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Route {
    PutIndex { tar_id: u64 },
    GetIndex { tar_id: u64 },
    PutBlock { tar_id: u64, block_size: u64, number: u64 },
    Status { tar_id: u64 },
    Finish { tar_id: u64 },
    Precheck { tar_id: u64 },
    Adopt { tar_id: u64 },
    Verify { tar_id: u64 },
    Candidates { tar_id: u64 },
    Log { tar_id: u64 },
    Health,
    Ready,
    Metrics,
}

impl Route {
    /// The archive that the request is about.
    pub(super) fn tar_id(&self) -> Option<u64> {
        match self.need() {
            Need::Archive(_, tar_id) => Some(tar_id),
            Need::Metrics | Need::Nothing => None,
        }
    }

    /// What a slice must be to serve it, if it is about an archive.
    pub(super) fn slice_request(&self) -> Option<SliceRequest> {
        match self {
            Self::Status { .. } | Self::PutIndex { .. } | Self::Finish { .. } => Some(SliceRequest::OfEach),
            Self::PutBlock { .. } => Some(SliceRequest::Block),
            Self::Log { .. } => Some(SliceRequest::Log),
            Self::GetIndex { .. }
            | Self::Precheck { .. }
            | Self::Adopt { .. }
            | Self::Verify { .. }
            | Self::Candidates { .. } => Some(SliceRequest::OfFirst),
            Self::Health | Self::Ready | Self::Metrics => None,
        }
    }

    /// What a token must be for.
    pub(super) fn need(&self) -> Need {
        match *self {
            Self::PutIndex { tar_id }
            | Self::PutBlock { tar_id, .. }
            | Self::Finish { tar_id }
            | Self::Precheck { tar_id }
            | Self::Adopt { tar_id }
            | Self::Verify { tar_id }
            | Self::Candidates { tar_id }
            | Self::Log { tar_id } => Need::Archive(Scope::Upload, tar_id),
            Self::GetIndex { tar_id } => Need::Archive(Scope::Index, tar_id),
            Self::Status { tar_id } => Need::Archive(Scope::Status, tar_id),
            Self::Metrics => Need::Metrics,
            Self::Health | Self::Ready => Need::Nothing,
        }
    }
}

/// Finds the route of `method` and `path`.
pub(super) fn route(method: &str, path: &str) -> Result<Route> {
    let all: Vec<&str> = path.strip_prefix('/').unwrap_or(path).split('/').collect();
    if !all.iter().all(|name| is_plain(name)) {
        return Err(nothing());
    }
    let prefix = all.iter().rposition(|name| *name == "tar");
    let names = prefix.map_or(&*all, |tar| &all[tar + 1..]);
    let (route, allowed) = match names {
        ["healthz"] if all.len() == 1 => (Route::Health, "GET"),
        ["readyz"] if all.len() == 1 => (Route::Ready, "GET"),
        ["metrics"] if all.len() == 1 => (Route::Metrics, "GET"),
        [first, _, ..] if prefix.is_none() && first.parse::<u64>().is_err() => return Err(nothing()),
        [tar_id, "db"] if method == "GET" => (Route::GetIndex { tar_id: number("tar_id", tar_id)? }, "GET"),
        [tar_id, "db"] => (Route::PutIndex { tar_id: number("tar_id", tar_id)? }, "PUT"),
        [tar_id, "status"] => (Route::Status { tar_id: number("tar_id", tar_id)? }, "GET"),
        [tar_id, "log"] => (Route::Log { tar_id: number("tar_id", tar_id)? }, "POST"),
        [tar_id, "finish"] => (Route::Finish { tar_id: number("tar_id", tar_id)? }, "POST"),
        [tar_id, "look"] => (Route::Precheck { tar_id: number("tar_id", tar_id)? }, "POST"),
        [tar_id, "adopt"] => (Route::Adopt { tar_id: number("tar_id", tar_id)? }, "POST"),
        [tar_id, "candidates"] => (Route::Candidates { tar_id: number("tar_id", tar_id)? }, "POST"),
        [tar_id, "verify"] => (Route::Verify { tar_id: number("tar_id", tar_id)? }, "POST"),
        [tar_id, block_size, block] => (
            Route::PutBlock {
                tar_id: number("tar_id", tar_id)?,
                block_size: match number("block size", block_size)? {
                    0 => {
                        return Err(Error::new(
                            ErrorKind::Malformed,
                            "the block size in the address must not be 0",
                        ));
                    }
                    size => size,
                },
                number: number("block number", block)?,
            },
            "PUT",
        ),
        _ => return Err(nothing()),
    };
    if method != allowed && !(allowed == "GET" && method == "HEAD") {
        return Err(Error::new(ErrorKind::MethodNotAllowed, format!("only {allowed} is served here")));
    }
    Ok(route)
}

fn nothing() -> Error {
    Error::new(ErrorKind::NotFound, "nothing is served here")
        .with_hint("the address of a receiver ends in /tar, as in http://host:8000/tar")
}

/// Whether a name in a path leads nowhere else. A prefix means nothing here, so it may be whatever
/// leads to a receiver (`%20`, `;`, `//`); but no step upwards, however it is written, and no slash
/// or NUL in disguise.
fn is_plain(name: &str) -> bool {
    let name = name.to_ascii_lowercase();
    let hidden = ["%2f", "%5c", "%00", "\\"].iter().any(|hidden| name.contains(hidden));
    !hidden && !matches!(&*name.replace("%2e", "."), "." | "..")
}

/// Digits only: `+1`, ` 1` and signs are no numbers here. The journal keeps 63 bits.
fn number(what: &str, text: &str) -> Result<u64> {
    let digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    text.parse().ok().filter(|&n| digits && i64::try_from(n).is_ok()).ok_or_else(|| {
        Error::new(ErrorKind::Malformed, format!("the {what} in the address is no number from 0 to 2^63-1"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_prefix_and_the_original_paths() {
        let block = Route::PutBlock { tar_id: 0, block_size: 30_000_000, number: 7 };
        for path in ["/tar/0/30000000/7", "/0/30000000/7", "/a/b/tar/0/30000000/7", "/tar/tar/0/30000000/7"] {
            assert_eq!(route("PUT", path).unwrap(), block);
        }
        assert_eq!(route("PUT", "/tar/3/db").unwrap(), Route::PutIndex { tar_id: 3 });
        assert_eq!(route("GET", "/tar/3/db").unwrap(), Route::GetIndex { tar_id: 3 });
        assert_eq!(route("GET", "/tar/3/status").unwrap(), Route::Status { tar_id: 3 });
        assert_eq!(route("HEAD", "/healthz").unwrap(), Route::Health);
    }

    #[test]
    fn everything_else_is_refused() {
        let kind = |method, path| route(method, path).unwrap_err().kind();
        assert_eq!(kind("GET", "/"), ErrorKind::NotFound);
        assert_eq!(kind("GET", "/etc/passwd"), ErrorKind::NotFound);
        // Neither a folder nor a number of an archive is named by the path before it.
        for path in ["/web1/0/status", "/tar/web1/0/status", "/tar/3/0/status", "/tar/metrics", "/tar/web/db"]
        {
            assert!(matches!(kind("GET", path), ErrorKind::NotFound | ErrorKind::Malformed), "{path}");
        }
        assert_eq!(kind("POST", "/tar/0/db"), ErrorKind::MethodNotAllowed);
        assert_eq!(kind("GET", "/tar/0/1/2"), ErrorKind::MethodNotAllowed);
        assert_eq!(kind("DELETE", "/tar/0/finish"), ErrorKind::MethodNotAllowed);
        for path in [
            "/tar/x/1/2",
            "/tar/-1/1/2",
            "/tar/+1/1/2",
            "/tar/0/1/18446744073709551616",
            "/tar/0/1/9223372036854775808",
            "/tar//1/2",
        ] {
            assert_eq!(kind("PUT", path), ErrorKind::Malformed, "{path}");
        }
        for path in
            ["/../tar/0/db", "/%2e%2e/tar/0/db", "/.%2E/0/db", "/a%2F..%2Fb/0/db", "/a\\b/0/db", "/./0/db"]
        {
            assert_eq!(kind("PUT", path), ErrorKind::NotFound, "{path}");
        }
    }

    #[test]
    fn any_prefix_leads_here() {
        for prefix in
            ["", "/tar", "//tar", "/my%20files/tar", "/a;v=1/tar", "/caf%C3%A9//x/tar", "/a,b/c+d/~e/tar"]
        {
            assert_eq!(route("PUT", &format!("{prefix}/3/db")).unwrap(), Route::PutIndex { tar_id: 3 });
        }
    }
}
