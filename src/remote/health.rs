//! Whether a receiver is ready.

use super::answer;
use super::connect::{self, TlsOptions};
use crate::archive::protocol::ErrorAnswer;
use crate::archive::shown::shown;
use crate::error::{Error, ErrorKind, Result};
use reqwest::{StatusCode, Url};
use std::time::Duration;

/// What is asked for where the address has no path.
const READY: &str = "/readyz";
/// How often a connection may be closed at once.
const ATTEMPTS: u32 = 3;
/// An answer says one word or explains an error, or is none of a receiver.
const MAX_WORD_CHARS: usize = 80;
const MAX_ANSWER_BYTES: usize = 64 << 10;
const NO_PATH: &str = "give the receiver's address, http://host:8000 or http://host:8000/tar for example";

/// What a receiver says that is ready, and has no room.
const FULL: &str = "full";

/// Asks, again only where a connection was closed before it could be used; anything but 200 within
/// `timeout` is an error. Gives whether the receiver is full.
///
/// # Errors
/// There is no answer, or another one.
pub async fn health(url: &str, tls: &TlsOptions, timeout: Duration) -> Result<bool> {
    let url = with_path(connect::address(url)?);
    let http = connect::build(connect::builder(&url, tls)?.timeout(timeout))?;
    let mut left = ATTEMPTS;
    let response = loop {
        left -= 1;
        match http.get(url.clone()).send().await {
            Ok(response) => break response,
            // It was closed before it could be used; with TLS 1.3, what the other side has to say
            // of our certificate may come too late for the same request, and tells the next one.
            Err(e) if left > 0 && !e.is_connect() && !e.is_timeout() => {}
            Err(e) => return Err(connect::failure(e, false, connect::proxy_of(&url).as_deref()).error),
        }
    };
    let status = response.status();
    let body = answer::body(response, MAX_ANSWER_BYTES).await.ok().flatten().unwrap_or_default();
    if status == StatusCode::OK {
        return Ok(String::from_utf8_lossy(&body).trim() == FULL);
    }
    let own_hint = (status == StatusCode::NOT_FOUND).then_some(NO_PATH);
    Err(refusal(&format!("{url} answered {}", status.as_u16()), &body, own_hint))
}

/// The address that is asked. A receiver's address as senders have it ends in `/tar`.
fn with_path(mut url: Url) -> Url {
    let prefix = url.path().trim_end_matches('/');
    if let Some(prefix) = prefix.strip_suffix("/tar").or_else(|| prefix.is_empty().then_some("")) {
        url.set_path(&format!("{prefix}{READY}"));
    }
    url
}

/// The error for an answer that is not 200: what a receiver's own answer explains, or its first
/// word.
fn refusal(said: &str, body: &[u8], own_hint: Option<&str>) -> Error {
    let (text, hint) = match answer::parse::<ErrorAnswer>(body) {
        Ok(answer) => (answer.error, answer.hint),
        Err(_) => {
            let word = String::from_utf8_lossy(body);
            (shown(word.trim()).chars().take(MAX_WORD_CHARS).collect(), None)
        }
    };
    let error = Error::new(ErrorKind::Unreachable, format!("{said}: {text}"));
    match hint.as_deref().or(own_hint) {
        Some(hint) => error.with_hint(hint),
        None => error,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_address_of_senders_is_accepted() {
        for (given, asked) in [
            ("http://h:8000", "http://h:8000/readyz"),
            ("http://h:8000/", "http://h:8000/readyz"),
            ("http://h:8000/tar", "http://h:8000/readyz"),
            ("http://h:8000/tar/", "http://h:8000/readyz"),
            ("https://h/backup/tar", "https://h/backup/readyz"),
            ("https://h/healthz", "https://h/healthz"),
            ("https://h/guitar", "https://h/guitar"),
        ] {
            assert_eq!(with_path(given.parse().unwrap()).as_str(), asked);
        }
    }

    #[test]
    fn an_answer_is_shown_as_text() {
        let error = refusal("x answered 401", br#"{"error": "no token", "hint": "give one"}"#, Some("other"));
        assert_eq!(
            (error.to_string().as_str(), error.hint()),
            ("x answered 401: no token", Some("give one"))
        );
        let error = refusal("x answered 503", b"standby\n", None);
        assert_eq!((error.to_string().as_str(), error.hint()), ("x answered 503: standby", None));
        let error = refusal("x answered 404", &[b'a'; 5000], Some("other"));
        assert_eq!((error.to_string().len(), error.hint()), (96, Some("other")));
    }
}
