//! Indexes: whole ones, their changes, and batches of those that grow.

use super::super::Server;
use super::super::body::{self, Incoming, Saved};
use super::super::headers::{digest_header, length_header, number_header, required_digest};
use super::super::permits::busy;
use super::{Call, TURN_TIMEOUT, check_running};
use crate::archive::codec::{self, frame_bound};
use crate::archive::digest::IndexDigest;
use crate::archive::log::MAX_BATCH_BYTES;
use crate::archive::protocol::{
    HEADER_ADOPT, HEADER_COMPARE, HEADER_FROM, HEADER_INDEX, HEADER_KEEP, HEADER_REWIND, HEADER_STREAM,
};
use crate::engine::index_body::{self, Kind};
use crate::engine::receive::ChangeOptions;
use crate::engine::tasks::blocking;
use crate::error::{Error, ErrorKind, Result};
use axum::Json;
use axum::body::Body;
use axum::http::HeaderMap;
use axum::response::{IntoResponse, Response};
use std::time::Duration;

/// How long the answer to an original sender's index waits for empty files and folders to be made.
const LEGACY_PATIENCE: Duration = Duration::from_secs(20);

/// A batch of an index that grows.
pub(super) async fn append_log(call: &Call<'_>, tar_id: u64, body: Body) -> Result<Response> {
    let (server, headers) = (call.server, call.headers);
    let length = body::declared_length(headers)?;
    let mut body = Incoming::new(body, length);
    let admitted = async {
        check_running(server)?;
        let content_bytes = length_header(headers)?;
        if content_bytes > MAX_BATCH_BYTES || length > frame_bound(MAX_BATCH_BYTES) {
            let what = format!("a batch of the index is longer than {MAX_BATCH_BYTES} bytes");
            return Err(Error::new(ErrorKind::TooLarge, what));
        }
        let stream = required_digest(headers, HEADER_STREAM)?;
        let before = required_digest(headers, HEADER_INDEX)?;
        let receiver = server.receiver.clone();
        blocking(move || receiver.check_space(MAX_BATCH_BYTES)).await?;
        Ok((content_bytes, stream, before, call.permit(&server.saved, &mut body, "indexes").await?))
    };
    let (content_bytes, stream, before, permit) = match admitted.await {
        Ok(admitted) => admitted,
        Err(e) => {
            call.drain(body, server.largest_body()).await;
            return Err(e);
        }
    };
    let saved = call.save(body, permit).await?;
    let permit = server.logs.acquire(call.requester.clone(), TURN_TIMEOUT).await;
    let permit = permit.ok_or_else(|| busy("indexes"))?;
    let receiver = server.receiver.clone();
    let answer = blocking(move || {
        let whole = saved.with(Saved::read)?;
        let mut batch = Vec::new();
        codec::decode(&whole, content_bytes as usize, &mut batch).map_err(|e| {
            Error::new(ErrorKind::BadBlock, "a batch of the index was changed on the way").with_source(e)
        })?;
        drop(whole);
        let outcome = receiver.append_log(tar_id, &stream, &before, &batch);
        drop(permit);
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
    /// What is retained goes first.
    lets_go: bool,
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
        lets_go: keep == Some(0) && compare.is_none(),
        options: ChangeOptions { keep: keep == Some(1), rewind: rewind == Some(1) },
    })
}

pub(super) async fn put_index(call: &Call<'_>, tar_id: u64, body: Body) -> Result<Response> {
    let server = call.server;
    let length = body::declared_length(call.headers)?;
    let limit_bytes = server.options.max_index_bytes;
    let mut body = Incoming::new(body, length);
    let admitted = async {
        let put = index_headers(call.headers)?;
        let known = put.expected.filter(|_| put.compare.is_none());
        let (theirs, expected, adopt) = (server.clone(), put.expected, put.adopt);
        let (from, lets_go) = (put.from, put.lets_go);
        let answer = blocking(move || {
            if lets_go {
                // Not what another change, which is being put in place, has just begun to keep.
                let _working = theirs.index_work.enter(tar_id)?;
                theirs.receiver.let_go(tar_id, from.as_ref())?;
            }
            admit_index(&theirs, expected.as_ref(), from.is_some(), length)?;
            Ok(known.and_then(|digest| theirs.receiver.has_index(tar_id, &digest, adopt)))
        })
        .await?;
        if let Some(answer) = answer {
            return Ok((put, Err(answer)));
        }
        // Neither who waits nor whose answer was lost comes sooner to its turn by a second request.
        server.index_work.check(tar_id)?;
        Ok((put, Ok(call.permit(&server.saved, &mut body, "indexes").await?)))
    };
    let (put, permit) = match admitted.await {
        Ok((put, Ok(permit))) => (put, permit),
        Ok((_, Err(answer))) => {
            call.drain(body, frame_bound(limit_bytes)).await;
            return Ok(Json(answer).into_response());
        }
        Err(e) => {
            call.drain(body, server.largest_body()).await;
            return Err(e);
        }
    };
    let IndexPut { expected, from, adopt, compare, options, .. } = put;
    let is_legacy = expected.is_none() && from.is_none();
    let saved = call.save(body, permit).await?;
    let working = server.index_work.enter(tar_id)?;
    // Each takes memory, processor time and disk.
    let permit = server.indexes.acquire(call.requester.clone(), TURN_TIMEOUT).await;
    let permit = permit.ok_or_else(|| busy("indexes"))?;
    let receiver = server.receiver.clone();
    let put = move |saved: &Saved| {
        let unpacked = saved.beside("index");
        // However much it claims to be, others find room.
        let room_bytes = receiver.free_bytes()? / 2;
        let kind = if from.is_some() { Kind::Change } else { Kind::Index };
        index_body::unpack(&saved.path(), &unpacked, kind, limit_bytes, room_bytes)?;
        match (&from, &expected) {
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
        }
    };
    let answer = blocking(move || {
        let outcome = saved.with(put);
        drop((working, permit));
        outcome
    })
    .await?;
    if is_legacy {
        // It runs on if it takes longer; such a sender waits for no answer but that it has one.
        let receiver = server.receiver.clone();
        blocking(move || receiver.finish_legacy(tar_id)).await?.wait(LEGACY_PATIENCE).await?;
    }
    Ok(answer)
}

fn admit_index(server: &Server, expected: Option<&IndexDigest>, is_change: bool, length: u64) -> Result<()> {
    let limit_bytes = server.options.max_index_bytes;
    if length > frame_bound(limit_bytes) {
        return Err(Error::new(ErrorKind::TooLarge, format!("the index is larger than {limit_bytes} bytes"))
            .with_hint("start the proxy with a larger --max-index-size"));
    }
    check_running(server)?;
    server.receiver.check_index(expected)?;
    match is_change {
        true => server.receiver.check_space_for_change(length),
        false => server.receiver.check_space(length),
    }
}
