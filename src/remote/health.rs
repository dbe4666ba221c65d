//! Whether a receiver is ready.

use super::answer;
use super::connect::{self, TlsOptions};
use crate::archive::shown::shown;
use crate::error::{Error, ErrorKind, Result};
use reqwest::StatusCode;
use std::time::Duration;

/// What is asked for where the address has no path.
const READY: &str = "/readyz";
/// How often a connection may be closed at once.
const ATTEMPTS: u32 = 3;
/// An answer says one word, or is none of a receiver.
const MAX_WORD_BYTES: usize = 80;
const MAX_ANSWER_BYTES: usize = 64 << 10;

/// Asks, again only where a connection was closed before it could be used; anything but 200 within
/// `timeout` is an error.
///
/// # Errors
/// There is no answer, or another one.
pub async fn health(url: &str, tls: &TlsOptions, timeout: Duration) -> Result<()> {
    let mut url = connect::address(url)?;
    if url.path() == "/" {
        url.set_path(READY);
    }
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
    if status == StatusCode::OK {
        return Ok(());
    }
    let word = answer::body(response, MAX_ANSWER_BYTES).await.ok().flatten().unwrap_or_default();
    let word = String::from_utf8_lossy(&word);
    let word: String = shown(word.trim()).chars().take(MAX_WORD_BYTES).collect();
    let error = Error::new(ErrorKind::Unreachable, format!("{url} answered {}: {word}", status.as_u16()));
    Err(match status {
        StatusCode::NOT_FOUND => {
            error.with_hint("give the receiver's address without a path, http://host:8000 for example")
        }
        _ => error,
    })
}
