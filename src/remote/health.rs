//! Whether a receiver is ready.

use super::connect::{self, TlsOptions};
use crate::error::{Error, ErrorKind, Result};
use reqwest::StatusCode;
use std::time::Duration;

/// What is asked for where the address has no path.
const READY: &str = "/readyz";
/// An answer says one word, or has come from somebody else.
const MAX_WORD_BYTES: usize = 80;

/// Asks once; anything but 200 within `patience` is an error.
///
/// # Errors
/// There is no answer, or another one.
pub async fn health(url: &str, tls: &TlsOptions, patience: Duration) -> Result<()> {
    let mut url = connect::address(url)?;
    if url.path() == "/" {
        url.set_path(READY);
    }
    let http = connect::build(connect::builder(&url, tls)?.timeout(patience))?;
    let response = http.get(url.clone()).send().await.map_err(|e| connect::failure(e, false).error)?;
    let status = response.status();
    if status == StatusCode::OK {
        return Ok(());
    }
    let word = response.text().await.unwrap_or_default();
    let word: String = word.trim().chars().filter(|c| !c.is_control()).take(MAX_WORD_BYTES).collect();
    Err(Error::new(ErrorKind::Unreachable, format!("{url} answered {}: {word}", status.as_u16())))
}
