//! One function for each request of the protocol.

use super::auth::Need;
use super::connection::Peer;
use super::headers::{
    coding_header, digest_header, failed_header, length_header, number_header, range_header, required_digest,
};
use super::route::{Route, route};
use super::{Server, body, metrics};
use crate::archive::block_digest::BlockDigest;
use crate::archive::codec::{self, frame_bound};
use crate::archive::digest::IndexDigest;
use crate::archive::intake::Taken;
use crate::archive::layout::DEFAULT_BLOCK_SIZE;
use crate::archive::log::MAX_BATCH_BYTES;
use crate::archive::protocol::{
    AdoptRequest, ErrorAnswer, FinishAnswer, FinishRequest, HEADER_ADOPT, HEADER_COMPARE, HEADER_DIGEST,
    HEADER_FROM, HEADER_INDEX, HEADER_KEEP, HEADER_REWIND, HEADER_SERVER, HEADER_STREAM, LookRequest,
    VERSION,
};
use crate::archive::zstd;
use crate::engine::index_body;
use crate::engine::receive::{BlockPut, ChangeOptions};
use crate::error::{Error, ErrorKind, Result};
use axum::body::Body;
use axum::extract::{Query, Request, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header, request::Parts};
use axum::response::{IntoResponse, Response};
use axum::{Json, Router};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::task::spawn_blocking;

/// How long a block waits for its turn before the sender is asked to come back.
const TURN_PATIENCE: Duration = Duration::from_secs(10);
/// How long one `finish` request waits for the work; then the sender asks again.
const FINISH_PATIENCE: Duration = Duration::from_secs(10);
/// The largest body of `finish`, `look` and `adopt`, in bytes.
const SHORT_BYTES: u64 = 64 << 10;

pub(super) fn router(server: Arc<Server>) -> Router {
    // One entry: the address of an archive may have any prefix, which no route pattern can say.
    Router::new().fallback(handle).with_state(server)
}

async fn handle(State(server): State<Arc<Server>>, request: Request) -> Response {
    let (parts, body) = request.into_parts();
    let peer = parts.extensions.get::<Peer>().map_or(Ipv4Addr::UNSPECIFIED.into(), |peer| peer.0);
    let method = parts.method.clone();
    let path = parts.uri.path().to_owned();
    let chunked = parts.headers.contains_key(header::TRANSFER_ENCODING);
    let outcome = if chunked { Err(body::refuse_chunks()) } else { serve(&server, peer, parts, body).await };
    let mut response = match outcome {
        Ok(response) => response,
        Err(e) => failure(&e),
    };
    let status = response.status();
    server.requests.count(status.as_u16());
    tracing::debug!("{method} {path} {status}");
    let headers = response.headers_mut();
    headers.insert(HEADER_SERVER, HeaderValue::from_static(VERSION));
    headers.insert(header::ACCEPT_ENCODING, HeaderValue::from_static(zstd::CODING));
    // Where chunks end is what two servers in a row may disagree on: nothing behind them is read.
    if chunked || server.stopping.load(Ordering::SeqCst) {
        headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    response
}

fn failure(error: &Error) -> Response {
    let kind = error.kind();
    match kind {
        ErrorKind::Internal | ErrorKind::Io | ErrorKind::Database | ErrorKind::Degraded => {
            tracing::error!("{error}")
        }
        ErrorKind::NotFound | ErrorKind::MethodNotAllowed => tracing::debug!("{error}"),
        // Who checks tokens has said so, and whose request it was.
        ErrorKind::Unauthorized | ErrorKind::Forbidden | ErrorKind::Limited => {}
        _ => tracing::warn!("refused: {error}"),
    }
    let answer = ErrorAnswer {
        error: error.to_string(),
        hint: error.hint_text().map(str::to_owned),
        degraded: kind == ErrorKind::Degraded,
    };
    let status = StatusCode::from_u16(kind.http_status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let mut response = (status, Json(answer)).into_response();
    let retry_after = match kind {
        ErrorKind::Busy => Some("1"),
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
    if matches!(kind, ErrorKind::Unauthorized | ErrorKind::Forbidden | ErrorKind::Limited) {
        response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    response
}

async fn serve(server: &Arc<Server>, peer: IpAddr, parts: Parts, body: Body) -> Result<Response> {
    let route = route(parts.method.as_str(), parts.uri.path());
    match &route {
        Ok(Route::Health) => return Ok("ok\n".into_response()),
        Ok(Route::Ready) => return Ok(ready(server)),
        _ => {}
    }
    // Before anything else is said: who has no token learns nothing, not even which paths there are.
    let need = route.as_ref().map_or(Need::Nothing, Route::need);
    server.options.access.check(peer, &parts.headers, need)?;
    match route? {
        Route::Health | Route::Ready => Err(Error::new(ErrorKind::Internal, "answered above")),
        Route::Metrics => {
            let text = metrics::render(server);
            Ok(([(header::CONTENT_TYPE, "text/plain; version=0.0.4")], text).into_response())
        }
        Route::Status { tar_id } => status(server, tar_id, &parts).await,
        Route::Finish { tar_id } => finish(server, tar_id, &parts.headers, body).await,
        Route::Look { tar_id } => look(server, tar_id, &parts.headers, body).await,
        Route::Adopt { tar_id } => adopt(server, tar_id, &parts.headers, body).await,
        Route::Log { tar_id } => append_log(server, tar_id, &parts.headers, body).await,
        Route::PutIndex { tar_id } => put_index(server, tar_id, &parts.headers, body).await,
        Route::PutBlock { tar_id, block_size, number } => {
            let put = || {
                Ok(BlockPut {
                    tar_id,
                    block_size,
                    number,
                    body: server.receiver.buffers.take(),
                    taken: coding_header(&parts.headers)?,
                    wire_bytes: 0,
                    index: digest_header(&parts.headers, HEADER_INDEX)?,
                    digest: digest_header::<BlockDigest>(&parts.headers, HEADER_DIGEST)?,
                    part: range_header(&parts.headers)?,
                    failed: failed_header(&parts.headers)?,
                })
            };
            match put() {
                Ok(put) => put_block(server, put, &parts.headers, body).await,
                Err(e) => {
                    body::drain(body, server.largest_body()).await;
                    Err(e)
                }
            }
        }
    }
}

fn ready(server: &Server) -> Response {
    let state = if server.receiver.is_degraded() {
        "degraded\n"
    } else if server.stopping.load(Ordering::SeqCst) {
        "stopping\n"
    } else {
        return "ready\n".into_response();
    };
    (StatusCode::SERVICE_UNAVAILABLE, state).into_response()
}

#[derive(Deserialize)]
struct StatusQuery {
    blk_size: Option<u64>,
    #[serde(default)]
    from: u64,
}

async fn status(server: &Arc<Server>, tar_id: u64, parts: &Parts) -> Result<Response> {
    let Query(query) = Query::<StatusQuery>::try_from_uri(&parts.uri)
        .map_err(|e| Error::new(ErrorKind::Malformed, "the query is malformed").because(e))?;
    let receiver = server.receiver.clone();
    blocking(move || receiver.status(tar_id, query.blk_size.unwrap_or(DEFAULT_BLOCK_SIZE), query.from))
        .await
        .map(|status| Json(status).into_response())
}

/// The JSON in a short body.
async fn short_json<T: DeserializeOwned>(headers: &HeaderMap, body: Body) -> Result<Option<T>> {
    let length =
        if headers.contains_key(header::CONTENT_LENGTH) { body::declared_length(headers)? } else { 0 };
    if length > SHORT_BYTES {
        return Err(Error::new(ErrorKind::TooLarge, format!("the body is longer than {SHORT_BYTES} bytes")));
    }
    let (pieces, mut body) = (body, Vec::new());
    body::read(pieces, length, &mut body).await?;
    if body.is_empty() {
        return Ok(None);
    }
    serde_json::from_slice(&body)
        .map(Some)
        .map_err(|e| Error::new(ErrorKind::Malformed, "the body is not the JSON of this request").because(e))
}

async fn finish(server: &Arc<Server>, tar_id: u64, headers: &HeaderMap, body: Body) -> Result<Response> {
    let request: FinishRequest = short_json(headers, body).await?.unwrap_or_default();
    check_running(server)?;
    let index = digest_header::<IndexDigest>(headers, HEADER_INDEX)?;
    let receiver = server.receiver.clone();
    let outcome = blocking(move || receiver.finish(tar_id, index, request)?.wait(FINISH_PATIENCE)).await?;
    Ok(match outcome {
        Some(answer) => Json(answer).into_response(),
        None => (StatusCode::ACCEPTED, Json(FinishAnswer::default())).into_response(),
    })
}

async fn look(server: &Arc<Server>, tar_id: u64, headers: &HeaderMap, body: Body) -> Result<Response> {
    let request: Option<LookRequest> = short_json(headers, body).await?;
    let LookRequest { name } =
        request.ok_or_else(|| Error::new(ErrorKind::Malformed, "the look has no name"))?;
    check_running(server)?;
    let index = required_digest(headers, HEADER_INDEX)?;
    let (receiver, server) = (server.receiver.clone(), server.clone());
    let wanted = move || !server.stopping.load(Ordering::SeqCst);
    blocking(move || receiver.look(tar_id, &index, name, &wanted)).await?;
    Ok(StatusCode::NO_CONTENT.into_response())
}

async fn adopt(server: &Arc<Server>, tar_id: u64, headers: &HeaderMap, body: Body) -> Result<Response> {
    let request: Option<AdoptRequest> = short_json(headers, body).await?;
    let request = request.ok_or_else(|| Error::new(ErrorKind::Malformed, "the adoption has no name"))?;
    check_running(server)?;
    let receiver = server.receiver.clone();
    let (ready, answer) = blocking(move || receiver.adopt(tar_id, request)?.wait(FINISH_PATIENCE)).await?;
    let status = if ready { StatusCode::OK } else { StatusCode::ACCEPTED };
    Ok((status, Json(answer)).into_response())
}

/// A batch of an index that grows.
async fn append_log(server: &Arc<Server>, tar_id: u64, headers: &HeaderMap, body: Body) -> Result<Response> {
    let length = body::declared_length(headers)?;
    let admitted =
        async {
            check_running(server)?;
            let content_bytes = length_header(headers)?;
            if content_bytes > MAX_BATCH_BYTES || length > frame_bound(MAX_BATCH_BYTES) {
                let what = format!("a batch of the index is longer than {MAX_BATCH_BYTES} bytes");
                return Err(Error::new(ErrorKind::TooLarge, what));
            }
            let stream = required_digest(headers, HEADER_STREAM)?;
            let before = required_digest(headers, HEADER_INDEX)?;
            server.receiver.check_space(MAX_BATCH_BYTES)?;
            match tokio::time::timeout(TURN_PATIENCE, server.logs.clone().acquire_owned()).await {
                Ok(Ok(turn)) => Ok((content_bytes, stream, before, turn)),
                _ => Err(Error::new(ErrorKind::Busy, "too many indexes at once")
                    .hint("send it again a little later")),
            }
        };
    let (content_bytes, stream, before, turn) = match admitted.await {
        Ok(admitted) => admitted,
        Err(e) => {
            body::drain(body, server.largest_body()).await;
            return Err(e);
        }
    };
    let (pieces, mut body) = (body, Vec::new());
    body::read(pieces, length, &mut body).await?;
    let receiver = server.receiver.clone();
    let answer = blocking(move || {
        let mut batch = Vec::new();
        codec::decode(&body, content_bytes as usize, &mut batch).map_err(|e| {
            Error::new(ErrorKind::BadBlock, "a batch of the index was changed on the way").because(e)
        })?;
        let outcome = receiver.append_log(tar_id, &stream, &before, &batch);
        drop(turn);
        outcome
    })
    .await?;
    Ok(Json(answer).into_response())
}

/// What the headers of an index say.
struct IndexPut {
    expected: Option<IndexDigest>,
    from: Option<IndexDigest>,
    adopt: Option<u64>,
    compare: Option<u64>,
    options: ChangeOptions,
}

fn index_headers(headers: &HeaderMap) -> Result<IndexPut> {
    let (expected, from) = (digest_header(headers, HEADER_INDEX)?, digest_header(headers, HEADER_FROM)?);
    let (adopt, compare) = (number_header(headers, HEADER_ADOPT)?, number_header(headers, HEADER_COMPARE)?);
    let (keep, rewind) = (number_header(headers, HEADER_KEEP)?, number_header(headers, HEADER_REWIND)?);
    if compare.is_some() && (expected.is_none() || from.is_some()) {
        return Err(Error::new(ErrorKind::Malformed, "only a whole index with its digest can be compared"));
    }
    Ok(IndexPut {
        expected,
        from,
        adopt,
        compare,
        options: ChangeOptions { keep: keep == Some(1), rewind: rewind == Some(1) },
    })
}

async fn put_index(server: &Arc<Server>, tar_id: u64, headers: &HeaderMap, body: Body) -> Result<Response> {
    let length = body::declared_length(headers)?;
    let limit_bytes = server.options.max_index_bytes;
    let admit = |put: IndexPut| admit_index(server, put.expected.as_ref(), length).map(|()| put);
    let IndexPut { expected, from, adopt, compare, options } = match index_headers(headers).and_then(admit) {
        Ok(put) => put,
        Err(e) => {
            body::drain(body, server.largest_body()).await;
            return Err(e);
        }
    };
    let known = expected.as_ref().filter(|_| compare.is_none());
    if let Some(answer) = known.and_then(|digest| server.receiver.has_index(tar_id, digest)) {
        body::drain(body, frame_bound(limit_bytes)).await;
        return Ok(Json(answer).into_response());
    }
    // Each takes memory, processor time and disk: they come one after another.
    let Ok(Ok(turn)) = tokio::time::timeout(TURN_PATIENCE, server.indexes.clone().acquire_owned()).await
    else {
        body::drain(body, server.largest_body()).await;
        return Err(
            Error::new(ErrorKind::Busy, "too many indexes at once").hint("send it again a little later")
        );
    };
    let receiver = server.receiver.clone();
    let (folder, file) = blocking(move || {
        let io = |e: std::io::Error| Error::io("cannot keep the uploaded index", e);
        let folder = tempfile::tempdir_in(receiver.incoming_path()).map_err(io)?;
        let file = std::fs::File::create_new(folder.path().join("body")).map_err(io)?;
        Ok((folder, file))
    })
    .await?;
    body::save(body, length, file).await?;
    let receiver = server.receiver.clone();
    let answer = blocking(move || {
        let (body, unpacked) = (folder.path().join("body"), folder.path().join("index"));
        index_body::unpack(&body, &unpacked, limit_bytes)?;
        let outcome = match (&from, &expected) {
            (None, Some(expected)) if let Some(name) = compare => receiver
                .compare(tar_id, &unpacked, expected, name)
                .map(|similarity| Json(similarity).into_response()),
            (Some(from), Some(expected)) => receiver
                .put_change(tar_id, &unpacked, from, expected, options)
                .map(|a| Json(a).into_response()),
            (Some(_), None) => {
                Err(Error::new(ErrorKind::Malformed, "a change of an index comes without its digest"))
            }
            (None, _) => receiver
                .put_index(tar_id, &unpacked, expected.as_ref(), adopt)
                .map(|answer| Json(answer).into_response()),
        };
        drop(turn);
        outcome
    })
    .await?;
    Ok(answer)
}

fn admit_index(server: &Server, expected: Option<&IndexDigest>, length: u64) -> Result<()> {
    let limit_bytes = server.options.max_index_bytes;
    if length > frame_bound(limit_bytes) {
        return Err(Error::new(ErrorKind::TooLarge, format!("the index is larger than {limit_bytes} bytes"))
            .hint("start the proxy with a larger --max-index-size"));
    }
    check_running(server)?;
    server.receiver.check_index(expected)?;
    server.receiver.check_space(length)
}

async fn put_block(
    server: &Arc<Server>,
    mut put: BlockPut,
    headers: &HeaderMap,
    body: Body,
) -> Result<Response> {
    let length = body::declared_length(headers)?;
    let turn = match admit(server, &put, length).await {
        Ok(turn) => turn,
        Err(e) => {
            body::drain(body, server.largest_body()).await;
            return Err(e);
        }
    };
    put.wire_bytes = length;
    if put.taken == Taken::Zstd {
        body::read(body, length, &mut put.body).await?;
    } else {
        put.taken = body::take_in(body, length, &mut put.body).await?.map_err(|e| {
            Error::new(ErrorKind::BadBlock, format!("block {} of {} bytes: {e}", put.number, put.block_size))
        })?;
    }
    let receiver = server.receiver.clone();
    let answer = blocking(move || {
        let outcome = receiver.put_block(put);
        drop(turn);
        outcome
    })
    .await?;
    Ok(Json(answer).into_response())
}

/// What can be known before the body is read: refuses early, and reserves memory.
async fn admit(
    server: &Arc<Server>,
    put: &BlockPut,
    length: u64,
) -> Result<tokio::sync::OwnedSemaphorePermit> {
    check_running(server)?;
    let limit_bytes = server.options.max_block_bytes;
    if put.block_size > limit_bytes || length > frame_bound(put.block_size) {
        return Err(Error::new(
            ErrorKind::TooLarge,
            format!(
                "a block of {} bytes in a body of {length} bytes is over the limit of {limit_bytes} bytes",
                put.block_size
            ),
        )
        .hint(format!(
            "upload with --block-size {limit_bytes} or less, or start the proxy with a larger --max-block-size"
        )));
    }
    server.receiver.check_block(put)?;
    match tokio::time::timeout(TURN_PATIENCE, server.inflight.clone().acquire_owned()).await {
        Ok(Ok(turn)) => Ok(turn),
        _ => Err(Error::new(ErrorKind::Busy, "too many blocks at once").hint("send it again a little later")),
    }
}

fn check_running(server: &Server) -> Result<()> {
    if server.stopping.load(Ordering::SeqCst) {
        return Err(Error::new(ErrorKind::Busy, "the receiver is stopping")
            .hint("it takes up where it was when it is back"));
    }
    Ok(())
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    spawn_blocking(work).await.map_err(|e| {
        Error::new(ErrorKind::Internal, "the request crashed; this is a bug of tar-like").because(e)
    })?
}
