//! Who may do what at the receiver.

mod limiter;
mod token;
mod tokens;

pub use token::MIN_TOKEN_BYTES;
pub use tokens::{Expiry, Scope, TOKENS_HEADER, TarIds, TokenEntry, parse_tokens};

use super::reload::{Reloads, Watched};
use crate::error::{Error, ErrorKind, Result};
use crate::telemetry::Counter;
use axum::http::HeaderMap;
use ipnet::IpNet;
pub(super) use limiter::network;
use limiter::{Limiter, Verdict, WINDOW};
use parking_lot::{Mutex, RwLock};
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Instant;
use token::TokenHash;

/// What a request needs a token for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Need {
    /// To do something with an archive.
    Archive(Scope, u64),
    /// To read the counters.
    Metrics,
    /// To be told that there is nothing: any token will do.
    Nothing,
}

/// The address of a proxy, or of all in a network.
#[derive(Debug, Clone, Copy)]
pub struct Network(IpNet);

impl FromStr for Network {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let address = text.parse::<IpAddr>().map(|address| IpNet::from(address.to_canonical()));
        address.or_else(|_| text.parse()).map(Self).map_err(|_| {
            Error::new(ErrorKind::Usage, format!("\"{text}\" is no address such as 10.1.2.3 or 10.1.2.0/24"))
        })
    }
}

/// Where the tokens are.
#[derive(Default)]
pub struct AccessOptions {
    /// A token for everything.
    pub token: Option<String>,
    /// A file with such a one.
    pub token_file: Option<PathBuf>,
    /// A file with tokens and what each one is for.
    pub tokens: Option<PathBuf>,
    /// Who is believed what they say of where a request came from.
    pub trusted_proxies: Vec<Network>,
}

/// How a file is read.
#[derive(Debug, Clone, Copy)]
enum Form {
    /// One secret, for everything.
    Secret,
    /// Hashes, and what each one is for.
    Entries,
}

struct TokenFile {
    form: Form,
    file: Watched,
    /// As it was read last without an error.
    entries: Vec<TokenEntry>,
}

impl TokenFile {
    fn parse(&self, content: &[u8]) -> Result<Vec<TokenEntry>> {
        let text = std::str::from_utf8(content)
            .map_err(|e| Error::new(ErrorKind::Usage, "it is no text").with_source(e))?;
        match self.form {
            Form::Secret if text.trim().is_empty() => Err(Error::new(ErrorKind::Usage, "it is empty")),
            Form::Secret => Ok(vec![TokenEntry::all("token-file", text)?]),
            // So an editor leaves it for a moment.
            Form::Entries if text.is_empty() => Err(Error::new(ErrorKind::Usage, "it is empty")
                .with_hint("make a token with tar-like token new; a file with a comment alone has none")),
            Form::Entries => parse_tokens(text),
        }
    }

    /// Whether it was read again.
    fn refresh(&mut self, wanted: bool) -> Result<bool> {
        let Some(content) = self.file.read_if_changed(wanted)? else { return Ok(false) };
        self.entries = self.parse(&content).map_err(|e| self.file.error(e))?;
        Ok(true)
    }
}

/// Why requests were refused.
#[derive(Debug, Default)]
pub(super) struct Refusals {
    pub(super) missing: Counter,
    pub(super) wrong: Counter,
    pub(super) expired: Counter,
    pub(super) forbidden: Counter,
    /// Those of the above that were answered by 429.
    pub(super) limited: Counter,
}

/// The tokens, and who has failed to give one.
pub struct Access {
    fixed: Option<TokenEntry>,
    files: Mutex<Vec<TokenFile>>,
    /// Of `fixed` and all files; `None` serves everybody.
    entries: RwLock<Option<Arc<[TokenEntry]>>>,
    trusted_proxies: Vec<Network>,
    limiter: Mutex<Limiter>,
    pub(super) refusals: Refusals,
    pub(super) reloads: Reloads,
}

impl Access {
    /// Reads all tokens. Without any source of them everybody is served.
    ///
    /// # Errors
    /// A file cannot be read, or a token is not valid.
    pub fn load(options: AccessOptions) -> Result<Self> {
        let file = |form, what, path: Option<PathBuf>| {
            path.map(|path| TokenFile { form, file: Watched::new(what, path), entries: Vec::new() })
        };
        let single = file(Form::Secret, "the token file", options.token_file);
        let several = file(Form::Entries, "the tokens file", options.tokens);
        let access = Self {
            fixed: options.token.map(|secret| TokenEntry::all("TARLIKE_TOKEN", &secret)).transpose()?,
            files: Mutex::new(single.into_iter().chain(several).collect()),
            entries: RwLock::new(None),
            trusted_proxies: options.trusted_proxies,
            limiter: Mutex::default(),
            refusals: Refusals::default(),
            reloads: Reloads::default(),
        };
        access.refresh(true)?;
        Ok(access)
    }

    /// Whether a token is needed.
    #[must_use]
    pub fn needs_token(&self) -> bool {
        self.current().is_some()
    }

    /// How many tokens there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.current().map_or(0, |entries| entries.len())
    }

    /// Whether no token is good.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn current(&self) -> Option<Arc<[TokenEntry]>> {
        self.entries.read().clone()
    }

    /// Reads the files again: if they have changed, or, where that is `wanted`, anyway. Says
    /// whether something was read. A file that is wrong changes nothing: the tokens that it had
    /// before stay good.
    ///
    /// # Errors
    /// A file cannot be read, or is wrong. Each error is told once, unless it is `wanted` again.
    pub fn reload(&self, wanted: bool) -> Result<bool> {
        let outcome = self.refresh(wanted);
        if !matches!(outcome, Ok(false)) {
            self.reloads.count(&outcome);
        }
        outcome
    }

    fn refresh(&self, wanted: bool) -> Result<bool> {
        let mut files = self.files.lock();
        let mut outcome = Ok(false);
        for file in files.iter_mut() {
            match (file.refresh(wanted), &mut outcome) {
                (Ok(read), Ok(any)) => *any |= read,
                (Err(e), Ok(_)) => outcome = Err(e),
                (_, Err(_)) => {}
            }
        }
        let entries: Arc<[TokenEntry]> =
            self.fixed.iter().chain(files.iter().flat_map(|file| &file.entries)).cloned().collect();
        let closed = self.fixed.is_some() || !files.is_empty();
        *self.entries.write() = closed.then_some(entries);
        outcome
    }

    /// Whether a request from `peer` with these headers may do what it needs. Gives the name of its
    /// token, where tokens are needed.
    pub(super) fn check(&self, peer: IpAddr, headers: &HeaderMap, need: Need) -> Result<Option<String>> {
        let Some(entries) = self.current() else { return Ok(None) };
        let hint = "give the receiver's token by --token-file or TARLIKE_TOKEN";
        let unauthorized = |why: &str| Error::new(ErrorKind::Unauthorized, why.to_owned()).with_hint(hint);
        let Some(given) = TokenHash::in_request(headers) else {
            self.refusals.missing.add(1);
            return Err(self.failed(peer, headers, unauthorized("no token")));
        };
        // All of them, whichever it is: the time tells nothing.
        let found =
            entries.iter().fold(None, |found, entry| if entry.hash.is(&given) { Some(entry) } else { found });
        let Some(entry) = found else {
            self.refusals.wrong.add(1);
            return Err(self.failed(peer, headers, unauthorized("a wrong token")));
        };
        if entry.is_over() {
            self.refusals.expired.add(1);
            let why = format!("the token {} has expired", entry.name);
            return Err(self.failed(
                peer,
                headers,
                unauthorized(&why).with_hint("ask the receiver's operator for a new one"),
            ));
        }
        let missing = match need {
            Need::Nothing => return Ok(Some(entry.name.clone())),
            Need::Metrics if entry.has(Scope::Metrics) => return Ok(Some(entry.name.clone())),
            Need::Metrics => "is not for metrics".to_string(),
            Need::Archive(_, tar_id) if !entry.is_for(tar_id) => format!("is not for archive {tar_id}"),
            Need::Archive(scope, _) if entry.has(scope) => return Ok(Some(entry.name.clone())),
            Need::Archive(Scope::Upload, _) => "is not for uploads".to_string(),
            Need::Archive(Scope::Index, _) => "is not for indexes".to_string(),
            Need::Archive(..) => "is not for the status".to_string(),
        };
        self.refusals.forbidden.add(1);
        let error = Error::new(ErrorKind::Forbidden, format!("the token {} {missing}", entry.name))
            .with_hint("its scope and tar-id in the receiver's tokens file say what it is for");
        tracing::warn!("refused {}: {error}", self.origin(peer, headers));
        Err(error)
    }

    /// Counts a failure, and says what it is answered by. A good token never comes here: it is far
    /// too long to be guessed, and honest senders may share their address with the one that
    /// guesses.
    fn failed(&self, peer: IpAddr, headers: &HeaderMap, error: Error) -> Error {
        let origin = self.origin(peer, headers);
        let verdict = self.limiter.lock().failed(origin, Instant::now());
        match verdict {
            Verdict::Failed => {
                tracing::warn!("refused {origin}: {error}");
                return error;
            }
            Verdict::Limited => tracing::warn!(
                "refused {origin}: too often without a good token; more of it is not logged for {} s",
                WINDOW.as_secs()
            ),
            Verdict::StillLimited => {}
        }
        self.refusals.limited.add(1);
        Error::new(ErrorKind::Limited, "too many requests without a good token from this address").with_hint(
            "give the receiver's token by --token-file or TARLIKE_TOKEN, and try again in a minute",
        )
    }

    /// Whether `peer` is a proxy of ours.
    pub(super) fn is_trusted_proxy(&self, peer: IpAddr) -> bool {
        let peer = peer.to_canonical();
        self.trusted_proxies.iter().any(|network| network.0.contains(&peer))
    }

    /// Where a request came from. Only a proxy of ours is believed, and of what it passes on only
    /// what it has added itself, at the end.
    pub(super) fn origin(&self, peer: IpAddr, headers: &HeaderMap) -> IpAddr {
        let peer = peer.to_canonical();
        if !self.is_trusted_proxy(peer) {
            return peer;
        }
        let last = headers.get_all("x-forwarded-for").iter().next_back();
        let last = last.and_then(|value| value.to_str().ok()?.rsplit(',').next()).map(str::trim);
        last.and_then(|text| {
            text.parse().ok().or_else(|| text.parse().ok().map(|address: SocketAddr| address.ip()))
        })
        .map_or(peer, |address: IpAddr| address.to_canonical())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::http::HeaderValue;

    #[test]
    fn only_a_trusted_proxy_says_where_a_request_came_from() {
        let trusted_proxies = vec!["10.0.0.0/8".parse().unwrap(), "::ffff:192.0.2.1".parse().unwrap()];
        let access = Access::load(AccessOptions { trusted_proxies, ..AccessOptions::default() }).unwrap();
        let origin = |peer: &str, values: &[&'static str]| {
            let mut headers = HeaderMap::new();
            for value in values {
                headers.append("x-forwarded-for", HeaderValue::from_static(value));
            }
            access.origin(peer.parse().unwrap(), &headers).to_string()
        };
        assert_eq!(origin("11.0.0.1", &["198.51.100.7"]), "11.0.0.1");
        assert_eq!(origin("10.0.0.1", &["198.51.100.7"]), "198.51.100.7");
        assert_eq!(origin("::ffff:10.0.0.1", &["1.1.1.1, 198.51.100.7"]), "198.51.100.7");
        assert_eq!(origin("192.0.2.1", &["1.1.1.1", "2.2.2.2,2001:db8::1"]), "2001:db8::1");
        assert_eq!(origin("10.0.0.1", &["198.51.100.7:1234"]), "198.51.100.7");
        for nonsense in [&[][..], &[""], &["1.1.1.1, unknown"], &["1.1.1.1,"]] {
            assert_eq!(origin("10.0.0.1", nonsense), "10.0.0.1");
        }
        for wrong in ["", "10.0.0.0/33", "haproxy", "10.0.0", "::/200"] {
            assert!(wrong.parse::<Network>().is_err(), "{wrong}");
        }
    }
}
