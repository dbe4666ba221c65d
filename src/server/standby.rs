//! What a receiver says while another one has its base folder.

use super::failure::refusal;
use crate::archive::protocol::{HEADER_SERVER, VERSION};
use crate::error::{Error, ErrorKind};
use axum::Router;
use axum::extract::Request;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};

pub(super) fn router() -> Router {
    Router::new().fallback(answer)
}

async fn answer(request: Request) -> Response {
    let mut response = match request.uri().path() {
        "/healthz" => "ok\n".into_response(),
        "/readyz" => (StatusCode::SERVICE_UNAVAILABLE, "standby\n").into_response(),
        _ => {
            let what = "this receiver is a standby: another one uses the base folder";
            let hint = "send to the other one, or wait until this one has taken over";
            refusal(&Error::new(ErrorKind::Busy, what).with_hint(hint))
        }
    };
    let headers = response.headers_mut();
    headers.insert(HEADER_SERVER, HeaderValue::from_static(VERSION));
    // The next request may be for the receiver itself, which takes new connections only; and no
    // body is waited for.
    headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
    response
}
