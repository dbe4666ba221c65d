//! One function for each request of the protocol.

mod index;

use super::auth::Need;
use super::body::Incoming;
use super::call::Call;
use super::connection::Peer;
use super::failure::{failure, refusal};
use super::headers::{
    claim_header, coding_header, digest_header, failed_header, range_header, required_digest, slice_header,
};
use super::permits::Requester;
use super::route::{Route, route};
use super::slots::Doing;
use super::state::Server;
use super::{body, metrics};
use crate::archive::block_digest::BlockDigest;
use crate::archive::codec::frame_bound;
use crate::archive::digest::IndexDigest;
use crate::archive::intake::Taken;
use crate::archive::layout::DEFAULT_BLOCK_SIZE;
use crate::archive::path_rules::MAX_RULE_BYTES;
use crate::archive::protocol::{
    AdoptRequest, CandidatesAnswer, CandidatesRequest, FinishRequest, HEADER_DIGEST, HEADER_FREE,
    HEADER_INDEX, HEADER_SERVER, HEADER_SLICE, PrecheckRequest, Status, VERSION, VerifyRequest,
};
use crate::archive::ranges::RangeSet;
use crate::archive::skipped::MAX_SPARED_BYTES;
use crate::archive::zstd;
use crate::engine::buffers::Buffers;
use crate::engine::receive::{BlockContent, BlockPut};
use crate::engine::tasks::blocking;
use crate::error::{Error, ErrorKind, Result};
use axum::body::Body;
use axum::extract::{Query, Request, State};
use axum::http::{HeaderValue, StatusCode, header, request::Parts};
use axum::response::{IntoResponse, Response};
use axum::{Json, Router};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;

/// A short body is there within this time, and longer ones come at this rate, in bytes a second.
const SHORT_TIMEOUT: Duration = Duration::from_secs(15);
const MIN_SHORT_BYTES_PER_S: u64 = 4 << 10;
/// How long one request waits for work whose progress the sender shows; then it asks again.
const PROGRESS_TIMEOUT: Duration = Duration::from_secs(2);
/// The same of other work.
const WORK_TIMEOUT: Duration = Duration::from_secs(10);
/// The largest body of `candidates`, in bytes.
const MAX_SHORT_BYTES: u64 = 64 << 10;
/// The largest body of `adopt`, in bytes: it may have rules.
const MAX_ADOPT_BYTES: u64 = MAX_SHORT_BYTES + MAX_RULE_BYTES as u64;
/// The largest body of `finish`, `verify` and `look`, in bytes: it may say what is not to be
/// deleted, what is to be read, or what is to come.
const MAX_FINISH_BYTES: u64 = MAX_ADOPT_BYTES + 2 * MAX_SPARED_BYTES as u64;

pub(super) fn router(server: Arc<Server>) -> Router {
    // One entry: the address of an archive may have any prefix, which no route pattern can say.
    Router::new().fallback(handle).with_state(server)
}

async fn handle(State(server): State<Arc<Server>>, request: Request) -> Response {
    let (parts, body) = request.into_parts();
    let caller = parts.extensions.get::<Peer>().cloned();
    let method = parts.method.clone();
    let path = parts.uri.path().to_owned();
    let chunked = parts.headers.contains_key(header::TRANSFER_ENCODING);
    let outcome =
        if chunked { Err(body::refuse_chunks()) } else { serve(&server, caller.as_ref(), parts, body).await };
    if let Some(slot) = caller.map(|caller| caller.slot).filter(|slot| slot.doing() != Doing::Unknown) {
        slot.set(Doing::Idle);
    }
    let mut response = match outcome {
        Ok(response) => response,
        Err(e) => match (server.receiver.suspect(e), server.options.in_process) {
            (e, true) => refusal(&e),
            (e, false) => failure(&e),
        },
    };
    let status = response.status();
    server.responses.count(status.as_u16());
    tracing::debug!("{method} {path} {status}");
    let headers = response.headers_mut();
    headers.insert(HEADER_SERVER, HeaderValue::from_static(VERSION));
    headers.insert(header::ACCEPT_ENCODING, HeaderValue::from_static(zstd::CODING));
    if let Some(slice) = server.receiver.slice().and_then(|slice| slice.to_string().try_into().ok()) {
        headers.insert(HEADER_SLICE, slice);
    }
    // Where chunks end is what two servers in a row may disagree on: nothing behind them is read.
    if chunked || server.is_stopping() {
        headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    response
}

async fn serve(server: &Arc<Server>, caller: Option<&Peer>, parts: Parts, body: Body) -> Result<Response> {
    let route = route(parts.method.as_str(), parts.uri.path());
    match &route {
        Ok(Route::Health) => return Ok("ok\n".into_response()),
        Ok(Route::Ready) => return Ok(ready(server)),
        _ => {}
    }
    // Before anything else is said: who has no token learns nothing, not even which paths there
    // are.
    let need = route.as_ref().map_or(Need::Nothing, Route::need);
    let peer = caller.map_or(Ipv4Addr::UNSPECIFIED.into(), |caller| caller.address);
    let token = server.options.access.check(peer, &parts.headers, need)?;
    let address = server.options.access.origin(peer, &parts.headers);
    let route = route?;
    let network = super::auth::network(address);
    let requester = Requester { token, network, tar_id: route.tar_id().unwrap_or_default() };
    let slot = caller.map(|caller| caller.slot.clone());
    let call = Call { server, slot, requester, headers: &parts.headers };
    call.set(Doing::Serving);
    let (asked, request) = (slice_header(&parts.headers)?, route.slice_request());
    let refused = request.and_then(|request| server.receiver.check_slice(asked, request).err());
    if let Some(e) = refused {
        let length = body::declared_length(&parts.headers).unwrap_or_default();
        call.drain(Incoming::new(body, length), server.max_body_bytes()).await;
        // The first one itself refuses for other reasons.
        let is_further = server.receiver.slice().is_some_and(|slice| !slice.is_first());
        return Err(match server.options.peers.first().filter(|_| asked.is_none() && is_further) {
            Some(first) => e.with_hint(format!("give the address of the first slice: {first}")),
            None => e,
        });
    }
    answer(&call, route, &parts, body, asked.is_some()).await
}

/// Does what an admitted request asks for.
async fn answer(
    call: &Call<'_>,
    route: Route,
    parts: &Parts,
    body: Body,
    as_slice: bool,
) -> Result<Response> {
    let server = call.server;
    match route {
        Route::Health | Route::Ready => Err(Error::new(ErrorKind::Internal, "answered above")),
        Route::Metrics => {
            let server = server.clone();
            let text = blocking(move || Ok(metrics::render(&server))).await?;
            Ok(([(header::CONTENT_TYPE, "text/plain; version=0.0.4")], text).into_response())
        }
        Route::Status { tar_id } => status(server, tar_id, parts, as_slice).await,
        Route::Finish { tar_id } => finish(call, tar_id, body).await,
        Route::Precheck { tar_id } => precheck(call, tar_id, body).await,
        Route::Adopt { tar_id } => adopt(call, tar_id, body).await,
        Route::Verify { tar_id } => verify(call, tar_id, body).await,
        Route::Candidates { tar_id } => candidates(call, tar_id, body).await,
        Route::Log { tar_id } => index::append_log(call, tar_id, body).await,
        Route::GetIndex { tar_id } => index::get_index(call, tar_id).await,
        Route::PutIndex { tar_id } => index::put_index(call, tar_id, body).await,
        Route::PutBlock { tar_id, block_size, number } => {
            let put = || {
                Ok(BlockPut {
                    tar_id,
                    block_size,
                    number,
                    content: BlockContent::Body(Buffers::new(0).take(), coding_header(&parts.headers)?),
                    wire_bytes: 0,
                    index: digest_header(&parts.headers, HEADER_INDEX)?,
                    digest: digest_header::<BlockDigest>(&parts.headers, HEADER_DIGEST)?,
                    part: range_header(&parts.headers)?,
                    failed: failed_header(&parts.headers)?,
                    staged: RangeSet::default(),
                })
            };
            let length = body::declared_length(&parts.headers)?;
            put_block(call, put(), Incoming::new(body, length)).await
        }
    }
}

fn ready(server: &Server) -> Response {
    let state = if server.receiver.is_degraded() {
        "degraded\n"
    } else if server.is_stopping() {
        "stopping\n"
    } else if server.receiver.is_full() {
        // It is served: some requests make room, and the others hear what is full.
        return "full\n".into_response();
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
    #[serde(default)]
    space: u8,
}

async fn status(server: &Arc<Server>, tar_id: u64, parts: &Parts, as_slice: bool) -> Result<Response> {
    let Query(query) = Query::<StatusQuery>::try_from_uri(&parts.uri)
        .map_err(|e| Error::new(ErrorKind::Malformed, "the query is malformed").with_source(e))?;
    let (receiver, server) = (server.receiver.clone(), server.clone());
    let block_size = query.blk_size.unwrap_or(DEFAULT_BLOCK_SIZE);
    let answer = |mut status: Status| {
        if let Some(slice) = &mut status.slice {
            slice.peers.clone_from(&server.options.peers);
        }
        Json(status).into_response()
    };
    let outcome = blocking(move || match query.space {
        0 => receiver.status(tar_id, block_size, query.from, as_slice).map(Ok),
        _ => match receiver.status_with_space(tar_id, block_size, query.from, as_slice) {
            Err(e) if e.kind() == ErrorKind::NotFound => Ok(Err((receiver.free_for_content()?, e))),
            other => other.map(Ok),
        },
    });
    Ok(match outcome.await? {
        Ok(status) => answer(status),
        Err((free_bytes, e)) => ([(HEADER_FREE, free_bytes.to_string())], failure(&e)).into_response(),
    })
}

/// The JSON in a short body.
async fn short_json<T: DeserializeOwned>(call: &Call<'_>, body: Body, limit: u64) -> Result<Option<T>> {
    let length = if call.headers.contains_key(header::CONTENT_LENGTH) {
        body::declared_length(call.headers)?
    } else {
        0
    };
    if length > limit {
        return Err(Error::new(ErrorKind::TooLarge, format!("the body is longer than {limit} bytes")));
    }
    let (mut pieces, mut body) = (Incoming::new(body, length), Vec::new());
    // A list of many: only some at once are in memory.
    let permit = match length > MAX_SHORT_BYTES {
        true => Some(call.permit(&call.server.lists, &mut pieces, "lists").await?),
        false => None,
    };
    call.set(Doing::Receiving);
    let timeout = SHORT_TIMEOUT + Duration::from_secs(length / MIN_SHORT_BYTES_PER_S);
    tokio::time::timeout(timeout, pieces.read(permit.as_ref(), &mut body))
        .await
        .map_err(|_| body::too_slow())??;
    call.set(Doing::Serving);
    if body.is_empty() {
        return Ok(None);
    }
    serde_json::from_slice(&body).map(Some).map_err(|e| {
        Error::new(ErrorKind::Malformed, "the body is not the JSON of this request").with_source(e)
    })
}

async fn finish(call: &Call<'_>, tar_id: u64, body: Body) -> Result<Response> {
    let server = call.server;
    let request: FinishRequest = short_json(call, body, MAX_FINISH_BYTES).await?.unwrap_or_default();
    server.check_running()?;
    let index = digest_header::<IndexDigest>(call.headers, HEADER_INDEX)?;
    let (receiver, claim) = (server.receiver.clone(), claim_header(call.headers)?);
    let start = move || {
        if let (Some(index), Some(_)) = (&index, &claim.source) {
            receiver.bind_source(tar_id, index, &claim)?;
        }
        receiver.finish(tar_id, index, request)
    };
    let job = blocking(start).await?;
    Ok(match job.wait(PROGRESS_TIMEOUT).await? {
        Some(answer) => Json(answer).into_response(),
        None => (StatusCode::ACCEPTED, Json(server.receiver.finish_progress(tar_id, &job))).into_response(),
    })
}

async fn precheck(call: &Call<'_>, tar_id: u64, body: Body) -> Result<Response> {
    let server = call.server;
    let request: Option<PrecheckRequest> = short_json(call, body, MAX_FINISH_BYTES).await?;
    let PrecheckRequest { name, entries } =
        request.ok_or_else(|| Error::new(ErrorKind::Malformed, "the precheck has no name"))?;
    server.check_running()?;
    let index = required_digest(call.headers, HEADER_INDEX)?;
    let (receiver, server) = (server.receiver.clone(), server.clone());
    if let Some(entries) = entries {
        let answer = blocking(move || receiver.conflicts(tar_id, &index, &entries)).await?;
        return Ok(Json(answer).into_response());
    }
    let wanted = move || !server.is_stopping();
    match blocking(move || receiver.precheck(tar_id, &index, name, &wanted)).await {
        // Its sender has changed the index since, or sends to several receivers: neither is a
        // fault.
        Err(e) if e.kind() == ErrorKind::WrongIndex => {
            tracing::debug!("{e}");
            Ok(refusal(&e))
        }
        outcome => outcome.map(|answer| Json(answer).into_response()),
    }
}

async fn adopt(call: &Call<'_>, tar_id: u64, body: Body) -> Result<Response> {
    let server = call.server;
    let request: Option<AdoptRequest> = short_json(call, body, MAX_ADOPT_BYTES).await?;
    let request = request.ok_or_else(|| Error::new(ErrorKind::Malformed, "the adoption has no name"))?;
    server.check_running()?;
    server.receiver.check_source(tar_id, &claim_header(call.headers)?)?;
    let receiver = server.receiver.clone();
    let job = blocking(move || receiver.adopt(tar_id, request)).await?;
    let (ready, answer) = job.wait(WORK_TIMEOUT).await?;
    let status = if ready { StatusCode::OK } else { StatusCode::ACCEPTED };
    Ok((status, Json(answer)).into_response())
}

async fn verify(call: &Call<'_>, tar_id: u64, body: Body) -> Result<Response> {
    let server = call.server;
    let request: Option<VerifyRequest> = short_json(call, body, MAX_FINISH_BYTES).await?;
    let request = request.ok_or_else(|| Error::new(ErrorKind::Malformed, "the check has no name"))?;
    server.check_running()?;
    let index = required_digest(call.headers, HEADER_INDEX)?;
    let receiver = server.receiver.clone();
    let check = blocking(move || receiver.verify(tar_id, &index, request)).await?;
    let (ready, answer) = check.wait(PROGRESS_TIMEOUT).await?;
    let status = if ready { StatusCode::OK } else { StatusCode::ACCEPTED };
    Ok((status, Json(answer)).into_response())
}

async fn candidates(call: &Call<'_>, tar_id: u64, body: Body) -> Result<Response> {
    let server = call.server;
    let request: Option<CandidatesRequest> = short_json(call, body, MAX_SHORT_BYTES).await?;
    let request = request.ok_or_else(|| Error::new(ErrorKind::Malformed, "the list has no name"))?;
    server.check_running()?;
    let index = required_digest(call.headers, HEADER_INDEX)?;
    let receiver = server.receiver.clone();
    let list = blocking(move || receiver.candidates(tar_id, &index, request)).await?;
    Ok(match list.wait(WORK_TIMEOUT).await? {
        true => Json(blocking(move || list.page(request.page)).await?).into_response(),
        false => (StatusCode::ACCEPTED, Json(CandidatesAnswer::default())).into_response(),
    })
}

async fn put_block(call: &Call<'_>, put: Result<BlockPut>, mut body: Incoming) -> Result<Response> {
    let (server, length) = (call.server, body.declared());
    let admitted = async {
        let put = admit_block(server, put?, length).await?;
        Ok((put, call.permit(&server.inflight, &mut body, "blocks").await?))
    };
    let (mut put, permit) = match admitted.await {
        Ok(admitted) => admitted,
        Err(e) => {
            call.drain(body, server.max_body_bytes()).await;
            return Err(e);
        }
    };
    put.wire_bytes = length;
    let mut whole = server.receiver.buffers.take();
    let taken = match put.content {
        BlockContent::Body(_, Taken::Zstd) => {
            body.read(Some(&permit), &mut whole).await?;
            Taken::Zstd
        }
        _ => body.take_in(&permit, &mut whole).await?.map_err(|e| {
            Error::new(ErrorKind::BadBlock, format!("block {} of {} bytes: {e}", put.number, put.block_size))
        })?,
    };
    put.content = BlockContent::Body(whole, taken);
    let receiver = server.receiver.clone();
    let answer = blocking(move || {
        let outcome = receiver.put_block(put);
        drop(permit);
        outcome
    })
    .await?;
    Ok(Json(answer).into_response())
}

/// Refuses what can be refused before the body is read.
async fn admit_block(server: &Arc<Server>, put: BlockPut, length: u64) -> Result<BlockPut> {
    server.check_running()?;
    let limit_bytes = server.options.max_block_bytes;
    if put.block_size > limit_bytes || length > frame_bound(put.block_size) {
        return Err(Error::new(
            ErrorKind::TooLarge,
            format!(
                "a block of {} bytes in a body of {length} bytes is over the limit of {limit_bytes} bytes",
                put.block_size
            ),
        )
        .with_hint(format!(
            "upload with --block-size {limit_bytes} or less, or start the proxy with a larger --max-block-size"
        )));
    }
    let receiver = server.receiver.clone();
    blocking(move || receiver.check_block(&put).map(|()| put)).await
}
