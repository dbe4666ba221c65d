//! Which request is which. The address of an archive may have any prefix (`/tar` by default, or what a reverse proxy adds).

use super::auth::{Need, Scope};
use crate::error::{Error, ErrorKind, Result};

/// A request that the receiver serves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Route {
    PutIndex { tar_id: u64 },
    PutBlock { tar_id: u64, block_size: u64, number: u64 },
    Status { tar_id: u64 },
    Finish { tar_id: u64 },
    Look { tar_id: u64 },
    Adopt { tar_id: u64 },
    Log { tar_id: u64 },
    Health,
    Ready,
    Metrics,
}

impl Route {
    /// What a token must be for.
    pub(super) fn need(&self) -> Need {
        match *self {
            Self::PutIndex { tar_id }
            | Self::PutBlock { tar_id, .. }
            | Self::Finish { tar_id }
            | Self::Look { tar_id }
            | Self::Adopt { tar_id }
            | Self::Log { tar_id } => Need::Archive(Scope::Upload, tar_id),
            Self::Status { tar_id } => Need::Archive(Scope::Status, tar_id),
            Self::Metrics => Need::Metrics,
            Self::Health | Self::Ready => Need::Nothing,
        }
    }
}

/// Finds the route of `method` and `path`.
pub(super) fn route(method: &str, path: &str) -> Result<Route> {
    let names: Vec<&str> = path.strip_prefix('/').unwrap_or(path).split('/').collect();
    let (route, allowed) = match &*names {
        ["healthz"] => (Route::Health, "GET"),
        ["readyz"] => (Route::Ready, "GET"),
        ["metrics"] => (Route::Metrics, "GET"),
        [prefix @ .., tar_id, "db"] if plain(prefix) => {
            (Route::PutIndex { tar_id: number("tar_id", tar_id)? }, "PUT")
        }
        [prefix @ .., tar_id, "status"] if plain(prefix) => {
            (Route::Status { tar_id: number("tar_id", tar_id)? }, "GET")
        }
        [prefix @ .., tar_id, "log"] if plain(prefix) => {
            (Route::Log { tar_id: number("tar_id", tar_id)? }, "POST")
        }
        [prefix @ .., tar_id, "finish"] if plain(prefix) => {
            (Route::Finish { tar_id: number("tar_id", tar_id)? }, "POST")
        }
        [prefix @ .., tar_id, "look"] if plain(prefix) => {
            (Route::Look { tar_id: number("tar_id", tar_id)? }, "POST")
        }
        [prefix @ .., tar_id, "adopt"] if plain(prefix) => {
            (Route::Adopt { tar_id: number("tar_id", tar_id)? }, "POST")
        }
        [prefix @ .., tar_id, block_size, block] if plain(prefix) => (
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
        _ => return Err(Error::new(ErrorKind::NotFound, "nothing is served here")),
    };
    if method != allowed && !(allowed == "GET" && method == "HEAD") {
        return Err(Error::new(ErrorKind::MethodNotAllowed, format!("only {allowed} is served here")));
    }
    Ok(route)
}

fn plain(prefix: &[&str]) -> bool {
    prefix.iter().all(|name| {
        !name.is_empty()
            && *name != "."
            && *name != ".."
            && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"-._~".contains(&b))
    })
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
        for path in ["/tar/0/30000000/7", "/0/30000000/7", "/a/b/tar/0/30000000/7"] {
            assert_eq!(route("PUT", path).unwrap(), block);
        }
        assert_eq!(route("PUT", "/tar/3/db").unwrap(), Route::PutIndex { tar_id: 3 });
        assert_eq!(route("GET", "/tar/3/status").unwrap(), Route::Status { tar_id: 3 });
        assert_eq!(route("HEAD", "/healthz").unwrap(), Route::Health);
    }

    #[test]
    fn everything_else_is_refused() {
        let kind = |method, path| route(method, path).unwrap_err().kind();
        assert_eq!(kind("GET", "/"), ErrorKind::NotFound);
        assert_eq!(kind("GET", "/etc/passwd"), ErrorKind::NotFound);
        assert_eq!(kind("GET", "/tar/0/db"), ErrorKind::MethodNotAllowed);
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
        for path in ["/../tar/0/db", "//tar/0/db", "/%2e%2e/tar/0/db"] {
            assert_eq!(kind("PUT", path), ErrorKind::NotFound, "{path}");
        }
    }
}
