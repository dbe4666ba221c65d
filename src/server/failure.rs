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
        // The sender was interrupted, or the link: no other sender learns anything from it.
        ErrorKind::TooSlow if error.cause::<axum::Error>().is_some() => {
            tracing::info!("refused: {error}");
        }
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
    let status = StatusCode::from_u16(kind.http_status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let mut response = (status, Json(ErrorAnswer::from(error))).into_response();
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::archive::block_digest::BlockDigest;
    use crate::archive::digest::Digest;
    use crate::archive::protocol::{HEADER_SERVER, VERSION};
    use crate::remote::{BlockBody, Client, ClientOptions, ReceiverClient, TlsOptions};
    use crate::telemetry::{InFlight, Silent};
    use http_body_util::BodyExt;
    use std::sync::Arc;
    use std::time::Duration;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    /// Every kind there is: serde lists their names where it is given another one.
    fn all_kinds() -> Vec<ErrorKind> {
        let names = serde_json::from_str::<ErrorKind>("\"\"").unwrap_err().to_string();
        let kinds = names.split('`').skip(3).step_by(2);
        kinds.map(|name| serde_json::from_value(name.into()).unwrap()).collect()
    }

    fn options(url: String) -> ClientOptions {
        ClientOptions {
            receiver: None,
            ends_when_full: false,
            url,
            socket: None,
            token: None,
            tls: TlsOptions::default(),
            connections: 1,
            block_deadline: Duration::from_secs(60),
            bandwidth: None,
        }
    }

    /// The error at a sender whose request is answered by `answer`.
    async fn at_sender(answer: Response) -> Error {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let options = options(format!("http://{}/tar", listener.local_addr().unwrap()));
        let client = Client::new(options, Duration::ZERO, Arc::<Silent>::default()).unwrap();
        let serve = async {
            let (mut stream, _) = listener.accept().await.unwrap();
            assert_ne!(stream.read(&mut [0; 4096]).await.unwrap(), 0);
            let (status, body) = (answer.status(), answer.into_body().collect().await.unwrap().to_bytes());
            let length = body.len();
            let head = format!("HTTP/1.1 {status}\r\n{HEADER_SERVER}: {VERSION}\r\nContent-Length: {length}");
            stream.write_all(&[head.as_bytes(), b"\r\n\r\n", &body].concat()).await.unwrap();
        };
        tokio::join!(client.status(1, 0), serve).0.unwrap_err()
    }

    #[tokio::test]
    async fn every_kind_reaches_the_sender() {
        let kinds = all_kinds();
        assert!(kinds.contains(&ErrorKind::Usage) && kinds.contains(&ErrorKind::Internal), "{kinds:?}");
        for kind in kinds {
            let error = Error::new(kind, "the reason").with_hint("the hint");
            let json = serde_json::to_value(ErrorAnswer::from(&error)).unwrap();
            assert_eq!(serde_json::from_value::<ErrorAnswer>(json).unwrap().kind, Some(kind));
            let heard = at_sender(refusal(&error)).await;
            assert_eq!(heard.kind(), kind.as_answered(), "{kind:?}");
            assert!(heard.to_string().ends_with("the reason"), "{heard}");
        }
    }

    /// A run to a folder of this host does not wait for space, whatever it sends.
    #[tokio::test]
    async fn a_block_for_a_full_receiver_of_this_process_is_sent_once() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/tar", listener.local_addr().unwrap());
        let options = ClientOptions { ends_when_full: true, ..options(url) };
        let client = Client::new(options, Duration::from_secs(60), Arc::<Silent>::default()).unwrap();
        let content = bytes::Bytes::from_static(b"content");
        let block = BlockBody {
            number: 0,
            block_size: 7,
            body: content.clone().into(),
            zstd: false,
            part: None,
            digest: Some(BlockDigest::of(std::slice::from_ref(&content))),
            failed: Vec::new(),
            staged: Vec::new(),
            in_flight: InFlight::new(Arc::<Silent>::default(), 7),
        };
        let claim = client.window().claim(7, false).await;
        let serve = async {
            let (mut stream, _) = listener.accept().await.unwrap();
            assert_ne!(stream.read(&mut [0; 4096]).await.unwrap(), 0);
            let head =
                format!("HTTP/1.1 507 Full\r\n{HEADER_SERVER}: {VERSION}\r\nContent-Length: 0\r\n\r\n");
            stream.write_all(head.as_bytes()).await.unwrap();
        };
        let start = std::time::Instant::now();
        let digest = Digest::from([1; 32]);
        let error = tokio::join!(client.put_block(&block, &digest, &claim), serve).0.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NoSpace, "{error}");
        assert!(start.elapsed() < Duration::from_secs(20), "{:?}", start.elapsed());
    }

    #[tokio::test]
    async fn an_answer_without_a_known_kind_goes_by_its_status() {
        for kind in [r#""kind":"of a later version""#, r#""kind":"no_space""#, r#""hint":"none""#] {
            let body = format!(r#"{{"error":"x",{kind}}}"#);
            let heard = at_sender((StatusCode::UNPROCESSABLE_ENTITY, body).into_response()).await;
            assert_eq!(heard.kind(), ErrorKind::BadBlock, "{kind}");
        }
    }
}
