//! What a receiver says while another one has its base folder.

use crate::archive::protocol::{ErrorAnswer, HEADER_SERVER, VERSION};
use axum::extract::Request;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::{Json, Router};

/// When the sender may ask again, in seconds: taking over is a matter of moments.
const RETRY_AFTER: &str = "1";

pub(super) fn router() -> Router {
    Router::new().fallback(answer)
}

async fn answer(request: Request) -> Response {
    let mut response = match request.uri().path() {
        "/healthz" => "ok\n".into_response(),
        "/readyz" => (StatusCode::SERVICE_UNAVAILABLE, "standby\n").into_response(),
        _ => refusal(),
    };
    let headers = response.headers_mut();
    headers.insert(HEADER_SERVER, HeaderValue::from_static(VERSION));
    // The next request may be for the receiver itself, which takes new connections only; and no body is waited for.
    headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
    response
}

fn refusal() -> Response {
    let answer = ErrorAnswer {
        error: "this receiver is a standby: another one uses the base folder".to_string(),
        hint: Some("send to the other one, or wait until this one has taken over".to_string()),
        bad_index: false,
        degraded: false,
    };
    let mut response = (StatusCode::SERVICE_UNAVAILABLE, Json(answer)).into_response();
    response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from_static(RETRY_AFTER));
    response
}
