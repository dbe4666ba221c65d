//! What an answer means: of our receiver, of the original's, or of something that stands between or
//! in the place of one.

use super::retry::Failed;
use crate::archive::protocol::ErrorAnswer;
use crate::archive::shown::{clean, shown};
use crate::error::{Error, ErrorKind};
use reqwest::{Response, StatusCode, Url, header};
use serde::de::DeserializeOwned;
use std::time::Duration;

/// The longest answer that is read, in bytes: ranges by the ten thousand, and the names of a
/// thousand files. In memory, JSON takes twenty times as much.
const MAX_BYTES: usize = 8 << 20;
/// The same for an answer that only explains an error.
const MAX_ERROR_BYTES: usize = 1 << 20;

/// Who has answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Who {
    /// A receiver of ours.
    Ours,
    /// Something else, where one of ours has answered before: it stands between.
    Between,
    /// Something else; it may be the original's receiver.
    Unknown,
}

impl Who {
    /// `base` is the address that the user gave.
    fn said(self, response: &Response, base: &Url) -> String {
        let server = response.headers().get(header::SERVER).and_then(|value| value.to_str().ok());
        let server = server.map(|name| format!(" ({})", shown(name))).unwrap_or_default();
        let reason = response.status().canonical_reason().unwrap_or_default();
        let status = format!("{} {reason}", response.status().as_u16());
        match self {
            Self::Ours => format!("the receiver answered {}", response.status().as_u16()),
            Self::Between => {
                format!("something between here and the receiver{server} answered {}", status.trim())
            }
            Self::Unknown => {
                let place = base.as_str().trim_end_matches('/');
                format!(
                    "what answers at {place}{server} does not say that it is a receiver: {}",
                    status.trim()
                )
            }
        }
    }
}

/// All of a body that is not longer than `limit` bytes.
pub(super) async fn body(mut response: Response, limit: usize) -> reqwest::Result<Option<Vec<u8>>> {
    let mut body = Vec::new();
    while let Some(chunk) = response.chunk().await? {
        if body.len() + chunk.len() > limit {
            return Ok(None);
        }
        body.extend_from_slice(&chunk);
    }
    Ok(Some(body))
}

/// The only place where text of a peer comes in: it is made fit to be shown.
pub(super) fn parse<T: DeserializeOwned>(body: &[u8]) -> serde_json::Result<T> {
    let mut value = serde_json::from_slice(body)?;
    clean(&mut value);
    serde_json::from_value(value)
}

/// The error that an answer which is no success means.
pub(super) async fn refusal(response: Response, who: Who, base: &Url) -> Failed {
    let status = response.status().as_u16();
    let retry_after = response
        .headers()
        .get(header::RETRY_AFTER)
        .and_then(|value| value.to_str().ok()?.parse().ok())
        .map(Duration::from_secs);
    let (said, own_hint) = (who.said(&response, base), hint_of(&response, who, base));
    // A body that cannot be read says nothing; the status does.
    let answer: Option<ErrorAnswer> = match who {
        Who::Ours => body(response, MAX_ERROR_BYTES).await.ok().flatten().and_then(|body| parse(&body).ok()),
        _ => None,
    };
    // A name that does not fit its status is none of a receiver.
    let named = answer.as_ref().and_then(|answer| answer.kind).filter(|kind| kind.http_status() == status);
    let kind = named.map_or_else(|| kind_of(status, who), ErrorKind::as_answered);
    let text = match (&answer, who) {
        (Some(answer), _) => format!("{said}: {}", answer.error),
        (None, Who::Ours) => format!("{said}: no explanation"),
        (None, _) => said,
    };
    let error = Error::new(kind, text);
    let error = match answer.and_then(|answer| answer.hint).or(own_hint) {
        Some(hint) => error.with_hint(hint),
        None => error,
    };
    Failed { retry_after, answered: who == Who::Ours && status != 408, ..error.into() }
}

/// What a status means where no kind is named.
fn kind_of(status: u16, who: Who) -> ErrorKind {
    match status {
        // The receiver is away for a moment, and whatever stands before it knows of nothing here.
        300..=399 | 402 | 404 | 405 | 421 | 501 if who == Who::Between => ErrorKind::Unreachable,
        // Only the receiver knows what these would say of an archive; of something between they
        // pass, as it does.
        400 | 409 | 410 | 412 | 418 | 422 | 423 | 440 | 444 | 460 | 494 | 499 if who == Who::Between => {
            ErrorKind::Unreachable
        }
        300..=399 => ErrorKind::NotAReceiver,
        401 | 407 => ErrorKind::Unauthorized,
        403 => ErrorKind::Forbidden,
        404 => ErrorKind::NotFound,
        405 | 501 => ErrorKind::MethodNotAllowed,
        409 => ErrorKind::WrongIndex,
        411 => ErrorKind::LengthRequired,
        412 => ErrorKind::NoIndexNamed,
        413 => ErrorKind::TooLarge,
        421 => ErrorKind::WrongSlice,
        422 => ErrorKind::BadBlock,
        429 | 503 => ErrorKind::Busy,
        507 => ErrorKind::NoSpace,
        // It came too slowly while others waited, or was cut.
        408 if who == Who::Ours => ErrorKind::TooSlow,
        // Whatever else a server says of itself leaves the outcome open.
        408 | 425 | 500.. => ErrorKind::Unreachable,
        _ => ErrorKind::Malformed,
    }
}

/// What to do about an answer of something that is no receiver of ours.
fn hint_of(response: &Response, who: Who, base: &Url) -> Option<String> {
    if who == Who::Ours {
        return None;
    }
    let path = response.url().path();
    let status = response.status();
    if status.is_redirection() {
        let location = response.headers().get(header::LOCATION)?.to_str().ok()?;
        let mut target = response.url().join(location).ok()?;
        target.set_query(None);
        let target = shown(target.as_str());
        // Less what this request was about: the number of the archive and what follows.
        let tail = path.strip_prefix(base.path()).unwrap_or_default();
        let target = target.strip_suffix(tail).unwrap_or(&target).trim_end_matches('/');
        if target == base.as_str().trim_end_matches('/') {
            return Some("it leads to the address that was asked: look at what stands there".to_string());
        }
        return Some(format!("it leads to {target}: give that address"));
    }
    match status {
        StatusCode::PROXY_AUTHENTICATION_REQUIRED => Some(PROXY_PASSWORD.to_string()),
        StatusCode::PAYLOAD_TOO_LARGE if path.ends_with("/db") || path.ends_with("/log") => Some(
            "the index is too large for it: let it take larger bodies (nginx: client_max_body_size)"
                .to_string(),
        ),
        StatusCode::PAYLOAD_TOO_LARGE => Some(
            "send smaller blocks with -s, or let it take larger bodies (nginx: client_max_body_size)"
                .to_string(),
        ),
        _ if who == Who::Unknown => Some(IS_IT_ONE.to_string()),
        _ => None,
    }
}

const IS_IT_ONE: &str = "is this the address of a tar-like proxy, http://host:8000/tar for example?";

/// What to do where an HTTP proxy wants to know who asks.
pub(super) const PROXY_PASSWORD: &str = "give name and password in the proxy's address, http://name:password@proxy:port, in the environment (http_proxy, https_proxy)";

/// Something on the way has answered for the receiver, and with a success.
pub(super) fn stand_in(response: &Response, base: &Url) -> Failed {
    Error::new(ErrorKind::Unreachable, Who::Between.said(response, base)).into()
}

/// What a success says.
pub(super) async fn json<T: DeserializeOwned>(response: Response, who: Who, base: &Url) -> Result<T, Failed> {
    let said = who.said(&response, base);
    let body = body(response, MAX_BYTES).await.map_err(|e| {
        Error::new(ErrorKind::Unreachable, "the receiver's answer was cut").with_source(e.without_url())
    })?;
    let body = body.ok_or_else(|| {
        Error::new(
            ErrorKind::Malformed,
            format!("the answer is longer than {MAX_BYTES} bytes: it is none of a receiver"),
        )
    })?;
    parse(&body).map_err(|e| match who {
        // A web server that takes whatever it is given would be asked for ever.
        Who::Unknown => Error::new(ErrorKind::NotAReceiver, said).with_hint(IS_IT_ONE).into(),
        // Damaged on the way, perhaps: what it was about may have happened or not, and does no harm
        // twice.
        _ => Error::new(ErrorKind::Unreachable, "the receiver's answer is not what this program expects")
            .with_source(shown(&e.to_string()))
            .with_hint("use the same version of tar-like on all hosts")
            .into(),
    })
}
