//! Indexes: whole ones, their changes, and batches of those that grow.

use super::super::body::{self, Incoming, Saved};
use super::super::call::{Call, TURN_TIMEOUT};
use super::super::headers::{
    backup_header, claim_header, digest_header, length_header, number_header, required_digest,
};
use super::super::permits::busy;
use super::super::state::Server;
use crate::archive::codec::{self, frame_bound};
use crate::archive::digest::IndexDigest;
use crate::archive::log::MAX_BATCH_BYTES;
use crate::archive::protocol::{
    HEADER_ADOPT, HEADER_COMPARE, HEADER_FROM, HEADER_INDEX, HEADER_KEEP, HEADER_REWIND, HEADER_STREAM,
    IndexAnswer,
};
use crate::archive::source::SourceClaim;
use crate::engine::index_body::{self, Kind};
use crate::engine::receive::{ChangeOptions, Receiver, WholeOptions};
use crate::engine::tasks::blocking;
use crate::error::{Error, ErrorKind, Result};
use axum::Json;
use axum::body::Body;
use axum::http::{HeaderMap, header};
use axum::response::{IntoResponse, Response};
use std::time::Duration;

/// How long the answer to an original sender's index waits for empty files and folders to be made.
const LEGACY_TIMEOUT: Duration = Duration::from_secs(20);

/// The active index, as a sender could have put it.
pub(super) async fn get_index(call: &Call<'_>, tar_id: u64) -> Result<Response> {
    let server = call.server;
    server.check_running()?;
    let index = required_digest(call.headers, HEADER_INDEX)?;
    let permit = server.indexes.acquire(call.requester.clone(), TURN_TIMEOUT).await;
    let permit = permit.ok_or_else(|| busy("indexes"))?;
    let receiver = server.receiver.clone();
    let (file, length) = blocking(move || {
        let packed = receiver.pack_index(tar_id, &index);
        drop(permit);
        packed
    })
    .await?;
    Ok(([(header::CONTENT_LENGTH, length)], body::of_file(file)).into_response())
}

/// A batch of an index that grows.
pub(super) async fn append_log(call: &Call<'_>, tar_id: u64, body: Body) -> Result<Response> {
    let (server, headers) = (call.server, call.headers);
    let length = body::declared_length(headers)?;
    let mut body = Incoming::new(body, length);
    let admitted = async {
        server.check_running()?;
        let content_bytes = length_header(headers)?;
        if content_bytes > MAX_BATCH_BYTES || length > frame_bound(MAX_BATCH_BYTES) {
            let what = format!("a batch of the index is longer than {MAX_BATCH_BYTES} bytes");
            return Err(Error::new(ErrorKind::TooLarge, what));
        }
        let stream = required_digest(headers, HEADER_STREAM)?;
        let before = required_digest(headers, HEADER_INDEX)?;
        let claim = claim_header(headers)?;
        server.receiver.check_source(tar_id, &claim)?;
        let receiver = server.receiver.clone();
        blocking(move || receiver.check_space(MAX_BATCH_BYTES)).await?;
        Ok((content_bytes, (stream, before), claim, call.permit(&server.saved, &mut body, "indexes").await?))
    };
    let (content_bytes, (stream, before), claim, permit) = match admitted.await {
        Ok(admitted) => admitted,
        Err(e) => {
            call.drain(body, server.max_body_bytes()).await;
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
        let outcome = receiver.append_log(tar_id, &stream, &before, &batch, &claim);
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
    claim: SourceClaim,
}

impl IndexPut {
    fn of(headers: &HeaderMap) -> Result<Self> {
        let (expected, from) = (digest_header(headers, HEADER_INDEX)?, digest_header(headers, HEADER_FROM)?);
        let (adopt, compare) =
            (number_header(headers, HEADER_ADOPT)?, number_header(headers, HEADER_COMPARE)?);
        let (keep, rewind) = (number_header(headers, HEADER_KEEP)?, number_header(headers, HEADER_REWIND)?);
        if compare.is_some() && (expected.is_none() || from.is_some()) {
            return Err(Error::new(
                ErrorKind::Malformed,
                "only a whole index with its digest can be compared",
            ));
        }
        let prune = keep == Some(0) && compare.is_none();
        let backup = backup_header(headers)?;
        let options = ChangeOptions { keep: keep == Some(1), prune, rewind: rewind == Some(1), backup };
        Ok(Self { expected, from, adopt, compare, options, claim: claim_header(headers)? })
    }

    /// Refuses what can be refused before the body is read; gives the answer to an index that the
    /// archive has.
    fn admit(&self, server: &Server, tar_id: u64, length: u64) -> Result<Option<IndexAnswer>> {
        let limit_bytes = server.options.max_index_bytes;
        if length > frame_bound(limit_bytes) {
            let what = format!("the index is larger than {limit_bytes} bytes");
            return Err(Error::new(ErrorKind::TooLarge, what)
                .with_hint("start the proxy with a larger --max-index-size"));
        }
        server.check_running()?;
        let receiver = &server.receiver;
        receiver.check_index(self.expected.as_ref())?;
        receiver.check_source(tar_id, &self.claim)?;
        match self.from {
            Some(_) => receiver.check_space_for_change(length)?,
            None => receiver.check_space(length)?,
        }
        let expected = self.expected.filter(|_| self.compare.is_none());
        let answer = expected.and_then(|digest| receiver.has_index(tar_id, &digest, self.adopt));
        if answer.is_none() {
            // Neither who waits nor whose answer was lost comes sooner to its turn by a second
            // request.
            server.index_work.check(tar_id)?;
        }
        Ok(answer)
    }

    /// Has the receiver take in the body, all of which is there.
    fn take_in(
        &self,
        receiver: &std::sync::Arc<Receiver>,
        tar_id: u64,
        saved: &Saved,
        limit_bytes: u64,
    ) -> Result<Response> {
        let unpacked = saved.beside("index");
        // However much it claims to be, others find room.
        let room_bytes = receiver.free_bytes()? / 2;
        let kind = if self.from.is_some() { Kind::Change } else { Kind::Index };
        index_body::unpack(&saved.path(), &unpacked, kind, limit_bytes, room_bytes)?;
        let answer = match (&self.from, &self.expected) {
            (None, Some(expected)) if let Some(name) = self.compare => {
                return Ok(Json(receiver.compare(tar_id, &unpacked, expected, name)?).into_response());
            }
            (Some(from), Some(expected)) => {
                receiver.put_change(tar_id, &unpacked, from, expected, &self.options, &self.claim)?
            }
            (Some(_), None) => {
                let what = "a change of an index comes without its digest";
                return Err(Error::new(ErrorKind::Malformed, what));
            }
            (None, expected) => {
                let options = WholeOptions { adopt: self.adopt, backup: self.options.backup.clone() };
                receiver.put_index(tar_id, &unpacked, expected.as_ref(), &options, &self.claim)?
            }
        };
        Ok(Json(answer).into_response())
    }
}

pub(super) async fn put_index(call: &Call<'_>, tar_id: u64, body: Body) -> Result<Response> {
    let outcome = take_index(call, tar_id, body).await;
    if let Err(e) = &outcome
        && e.kind() == ErrorKind::NoSpace
        && let Ok(put) = IndexPut::of(call.headers)
        && put.options.prune
    {
        // The sender puts it again when there is space.
        let receiver = call.server.receiver.clone();
        blocking(move || {
            receiver.make_room(tar_id, put.from.as_ref());
            Ok(())
        })
        .await?;
    }
    outcome
}

async fn take_index(call: &Call<'_>, tar_id: u64, body: Body) -> Result<Response> {
    let server = call.server;
    let length = body::declared_length(call.headers)?;
    let limit_bytes = server.options.max_index_bytes;
    let mut body = Incoming::new(body, length);
    let admitted = async {
        let (put, theirs) = (IndexPut::of(call.headers)?, server.clone());
        let (put, answer) = blocking(move || put.admit(&theirs, tar_id, length).map(|a| (put, a))).await?;
        match answer {
            Some(answer) => Ok(Err(answer)),
            None => Ok(Ok((put, call.permit(&server.saved, &mut body, "indexes").await?))),
        }
    };
    let (put, permit) = match admitted.await {
        Ok(Ok(admitted)) => admitted,
        Ok(Err(answer)) => {
            call.drain(body, frame_bound(limit_bytes)).await;
            return Ok(Json(answer).into_response());
        }
        Err(e) => {
            call.drain(body, server.max_body_bytes()).await;
            return Err(e);
        }
    };
    let is_legacy = put.expected.is_none() && put.from.is_none();
    let saved = call.save(body, permit).await?;
    let working = server.index_work.enter(tar_id)?;
    // Each takes memory, processor time and disk.
    let permit = server.indexes.acquire(call.requester.clone(), TURN_TIMEOUT).await;
    let permit = permit.ok_or_else(|| busy("indexes"))?;
    let receiver = server.receiver.clone();
    let answer = blocking(move || {
        let outcome = saved.with(|saved| put.take_in(&receiver, tar_id, saved, limit_bytes));
        drop((working, permit));
        outcome
    })
    .await?;
    if is_legacy {
        // It runs on if it takes longer; such a sender waits for no answer but that it has one.
        let receiver = server.receiver.clone();
        blocking(move || receiver.finish_legacy(tar_id)).await?.wait(LEGACY_TIMEOUT).await?;
    }
    Ok(answer)
}
