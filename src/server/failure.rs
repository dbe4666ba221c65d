//! How an error is answered, and whether it is logged.

use crate::archive::protocol::ErrorAnswer;
use crate::error::{Error, ErrorKind};
use axum::Json;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};

pub(super) fn failure(error: &Error) -> Response {
    let kind = error.kind();
    match kind {
        ErrorKind::Internal | ErrorKind::Io | ErrorKind::Database | ErrorKind::Degraded => {
            tracing::error!("{error}")
        }
        ErrorKind::NotFound | ErrorKind::MethodNotAllowed => tracing::debug!("{error}"),
        // Who checks tokens has said so, and whose request it was.
        ErrorKind::Unauthorized | ErrorKind::Forbidden | ErrorKind::Limited => {}
        _ => match error.hint() {
            Some(hint) => tracing::warn!("refused: {error} ({hint})"),
            None => tracing::warn!("refused: {error}"),
        },
    }
    refusal(error)
}

/// The answer that says so, without a word in the log.
pub(super) fn refusal(error: &Error) -> Response {
    let kind = error.kind();
    let answer = ErrorAnswer {
        error: error.to_string(),
        hint: error.hint().map(str::to_owned),
        bad_index: kind == ErrorKind::BadIndex,
        degraded: kind == ErrorKind::Degraded,
    };
    let status = StatusCode::from_u16(kind.http_status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let mut response = (status, Json(answer)).into_response();
    let retry_after = match kind {
        ErrorKind::Busy | ErrorKind::Exhausted => Some("1"),
        ErrorKind::NoSpace => Some("5"),
        ErrorKind::Degraded | ErrorKind::Limited => Some("60"),
        _ => None,
    };
    if let Some(seconds) = retry_after {
        response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from_static(seconds));
    }
    if kind == ErrorKind::Unauthorized {
        response.headers_mut().insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
    }
    if matches!(
        kind,
        ErrorKind::Unauthorized | ErrorKind::Forbidden | ErrorKind::Limited | ErrorKind::TooSlow
    ) {
        response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    response
}
