//! How people write a folder of another host: as rsync and scp take it, or as an address.

use crate::error::{Error, ErrorKind, Result};
use std::fmt;

/// A folder of a host that is reached by ssh.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SshPlace {
    /// The host, with the user before an `@` if one was given.
    pub login: String,
    /// The port, if one was given.
    pub port: Option<u16>,
    /// The folder; a relative one is below the user's home folder, and an empty one is that.
    pub path: String,
}

impl SshPlace {
    /// The place that `[USER@]HOST:[PATH]` or `ssh://[USER@]HOST[:PORT][/PATH]` says; `None` if it is
    /// neither.
    ///
    /// # Errors
    /// [`ErrorKind::Usage`]: it is meant to be one, and is wrong.
    pub fn parse(text: &str) -> Result<Option<Self>> {
        if let Some(rest) = strip_scheme(text) {
            let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
            let (login, port) = with_port(authority, text)?;
            // As git reads it: `/~/x` is below the home folder.
            let path = path.strip_prefix("/~/").map_or(path, |below| below);
            return Self { login, port, path: path.to_owned() }.checked(text).map(Some);
        }
        if text.contains("://") {
            return Ok(None);
        }
        let first = text.split('/').next().unwrap_or_default();
        let Some(end) = end_of_login(first) else { return Ok(None) };
        let (login, path) = (&text[..end], &text[end + 1..]);
        if path.starts_with(':') {
            return Err(wrong(text, "modules of an rsync daemon are not served")
                .with_hint("give a folder: HOST:/FOLDER"));
        }
        if let Some(port) = port_of_receiver(path) {
            let host = login.rsplit('@').next().unwrap_or(login);
            return Err(wrong(text, "it looks like the address of a receiver").with_hint(format!(
                "type http://{host}:{port}/tar; for a folder over ssh, {login}:./{path}"
            )));
        }
        let path = path.strip_prefix("~/").unwrap_or(if path == "~" { "" } else { path });
        let place = Self { login: login.to_owned(), port: None, path: path.to_owned() };
        place.checked(text).map(Some)
    }

    fn checked(self, text: &str) -> Result<Self> {
        let host = self.login.rsplit('@').next().unwrap_or_default();
        // What begins with a dash would be an option of ssh.
        let is_name = |name: &str| !name.is_empty() && !name.starts_with('-');
        if !is_name(host) || !is_name(&self.login) {
            return Err(wrong(text, "it names no host"));
        }
        if self.login.contains(|c: char| c.is_control() || c.is_whitespace()) || self.path.contains('\0') {
            return Err(wrong(text, "it has characters that no host's name has"));
        }
        Ok(self)
    }

    /// The host without the user.
    #[must_use]
    pub fn host(&self) -> &str {
        self.login.rsplit('@').next().unwrap_or_default()
    }
}

impl fmt::Display for SshPlace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.port {
            None => write!(f, "{}:{}", self.login, self.path),
            Some(port) if self.path.starts_with('/') => write!(f, "ssh://{}:{port}{}", self.login, self.path),
            Some(port) => write!(f, "ssh://{}:{port}/~/{}", self.login, self.path),
        }
    }
}

fn strip_scheme(text: &str) -> Option<&str> {
    let (scheme, rest) = text.split_once("://")?;
    scheme.eq_ignore_ascii_case("ssh").then_some(rest)
}

/// Where the colon is that ends the host. One in brackets is of an IPv6 address.
fn end_of_login(first: &str) -> Option<usize> {
    let host = first.rfind('@').map_or(0, |at| at + 1);
    let from = match first[host..].starts_with('[') {
        true => host + first[host..].find(']')?,
        false => host,
    };
    first[from..].find(':').map(|colon| from + colon)
}

fn with_port(authority: &str, text: &str) -> Result<(String, Option<u16>)> {
    let Some(end) = end_of_login(authority) else { return Ok((authority.to_owned(), None)) };
    let port = authority[end + 1..].parse().map_err(|_| wrong(text, "its port is no number"))?;
    Ok((authority[..end].to_owned(), Some(port)))
}

/// The port in `PORT/tar`, which people type behind a host's name where an address is wanted.
fn port_of_receiver(path: &str) -> Option<u16> {
    let (port, rest) = path.split_once('/').unwrap_or((path, ""));
    matches!(rest, "" | "tar" | "tar/").then(|| port.parse().ok()).flatten()
}

fn wrong(text: &str, why: &str) -> Error {
    Error::new(ErrorKind::Usage, format!("\"{text}\" is no place on another host: {why}"))
        .with_hint("for example user@host:/folder, or ssh://user@host:2222/folder; a folder here is ./NAME")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_read_as_rsync_and_scp_read_them() {
        for (text, login, port, path) in [
            ("host:/srv/x", "host", None, "/srv/x"),
            ("me@host:x/y", "me@host", None, "x/y"),
            ("host:", "host", None, ""),
            ("host:~/x:y", "host", None, "x:y"),
            ("host:~", "host", None, ""),
            ("host:2024/x", "host", None, "2024/x"),
            ("host:./2024", "host", None, "./2024"),
            ("me@[::1]:/x", "me@[::1]", None, "/x"),
            ("ssh://host", "host", None, ""),
            ("SSH://me@host:2222/srv/x", "me@host", Some(2222), "/srv/x"),
            ("ssh://[::1]:22/~/x", "[::1]", Some(22), "x"),
            ("host:/with space/and'quotes\"", "host", None, "/with space/and'quotes\""),
        ] {
            let place = SshPlace::parse(text).unwrap().unwrap();
            assert_eq!((&*place.login, place.port, &*place.path), (login, port, path), "{text}");
            assert_eq!(SshPlace::parse(&place.to_string()).unwrap(), Some(place), "{text}");
        }
        for text in ["", "/x", "./host:x", "a/b:c", "host", "me@host", "http://host:8000/tar", "[::1]"] {
            assert!(SshPlace::parse(text).unwrap_or(None).is_none(), "{text}");
        }
        for text in [
            "h:8000/tar",
            "h:8000",
            ":/x",
            "@:/x",
            "me@:/x",
            "-oProxyCommand=x:/y",
            "host::module",
            "ssh://h:x/",
            "a b:/x",
        ] {
            assert_eq!(SshPlace::parse(text).unwrap_err().kind(), ErrorKind::Usage, "{text}");
        }
    }
}
