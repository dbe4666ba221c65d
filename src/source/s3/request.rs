//! One GET, and the checks that its answer is the one that was requested: the range to the byte,
//! its length, the ETag, the version.

use super::bucket::Bucket;
use super::error::S3Error;
use super::keys::{PLACEHOLDER, with_key};
use super::object::{Head, ObjectState, head_of, plain_etag};
use super::object_times::modified_ns;
use aws_sdk_s3::operation::get_object::GetObjectOutput;
use aws_sdk_s3::primitives::ByteStream;
use aws_smithy_runtime_api::client::result::SdkError;
use std::ops::Range;

impl Bucket {
    /// Requests `range` of the object, or all of it, with If-Match.
    pub(super) async fn get(
        &self,
        state: &ObjectState,
        range: Option<&Range<u64>>,
    ) -> Result<GetObjectOutput, S3Error> {
        let request = self
            .client
            .get_object()
            .bucket(&self.name)
            .key(PLACEHOLDER)
            .set_range(range.map(|range| format!("bytes={}-{}", range.start, range.end - 1)))
            .set_if_match(state.etag().map(|etag| format!("\"{etag}\"")));
        let answer = request.customize().mutate_request(with_key(state.key())).send().await;
        answer.map_err(|e| match &e {
            SdkError::ResponseError(_) => S3Error::Transient("an answer that is none".to_string()),
            e => self.classify(e),
        })
    }

    /// Requests all of the object, without a range.
    pub(super) async fn get_whole(&self, state: &ObjectState) -> Result<(Head, ByteStream), S3Error> {
        let answer = self.get(state, None).await?;
        if !is_whole(&answer, state)? {
            return Err(S3Error::unexpected("its length is not that of the object"));
        }
        let head = head_of!(answer, state.size(), state.modified_ns());
        Ok((head, answer.body))
    }

    /// Why a HEAD of `key` was refused. The answer to a HEAD has no body with the reason, that to a
    /// GET has.
    pub(super) async fn why_refused(&self, key: &[u8]) -> Option<S3Error> {
        // An empty object answers this range with 416.
        let outcome = self.get(&ObjectState::any(key), Some(&(0..1))).await;
        outcome.err().filter(|error| *error != S3Error::Changed)
    }
}

/// One answer may round the time of an object, and another may cut it.
const TIME_TOLERANCE_NS: u64 = 1_000_000_000;

/// Checks that the answer is of the requested state of the object. Some stores ignore If-Match;
/// some have no ETags, where the time decides.
fn check_state(answer: &GetObjectOutput, state: &ObjectState) -> Result<(), S3Error> {
    match (answer.e_tag().map(plain_etag).filter(|etag| !etag.is_empty()), state.etag()) {
        (Some(etag), Some(expected)) if etag == expected => {}
        (Some(_), Some(_)) => return Err(S3Error::Changed),
        (None, Some(_)) if answer.last_modified().is_none() => {
            return Err(S3Error::unexpected("it has no ETag"));
        }
        _ => {
            let expected_ns = state.modified_ns();
            let now_ns = modified_ns(answer.last_modified());
            if expected_ns != 0 && now_ns != 0 && expected_ns.abs_diff(now_ns) > TIME_TOLERANCE_NS {
                return Err(S3Error::Changed);
            }
        }
    }
    match (state.version(), answer.version_id()) {
        (Some(version), Some(now)) if version != now => Err(S3Error::Changed),
        _ => Ok(()),
    }
}

/// Whether the answer is all of the requested object.
pub(super) fn is_whole(answer: &GetObjectOutput, state: &ObjectState) -> Result<bool, S3Error> {
    check_state(answer, state)?;
    let length = answer.content_length().and_then(|length| u64::try_from(length).ok());
    Ok(answer.content_range().is_none() && length.is_none_or(|length| length == state.size()))
}

/// Checks that the answer is the requested range of the requested state of the object. Some stores
/// answer a range with the status of the whole object, but with the Content-Range of the part. An
/// answer without Content-Range counts only as the whole object.
pub(super) fn check_range(
    answer: &GetObjectOutput,
    state: &ObjectState,
    range: &Range<u64>,
) -> Result<(), S3Error> {
    check_state(answer, state)?;
    let expected = format!("bytes {}-{}/{}", range.start, range.end - 1, state.size());
    match answer.content_range() {
        Some(actual) if actual == expected => {}
        Some(actual) => {
            return Err(S3Error::unexpected(format!("its range is \"{actual}\", not \"{expected}\"")));
        }
        None if *range == (0..state.size()) => {}
        None => return Err(S3Error::unexpected("a part was asked for, and something else came")),
    }
    let length = range.end - range.start;
    match answer.content_length().and_then(|length| u64::try_from(length).ok()) {
        Some(actual) if actual != length => {
            Err(S3Error::unexpected(format!("its length is {actual}, not {length}")))
        }
        _ => Ok(()),
    }
}
