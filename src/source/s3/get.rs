//! Reading ranges of objects. A body that ends too early is resumed where it ended.

use super::bucket::Bucket;
use super::error::S3Error;
use super::object::{Head, ObjectState, head_of};
use super::request::{check_range, is_whole};
use super::retry::Attempts;
use crate::archive::path::printable;
use bytes::Buf;
use std::ops::Range;

impl Bucket {
    /// Reads each of these objects whole into its buffer, which is as long as the object; several
    /// at once.
    pub fn read_whole(&self, jobs: Vec<(ObjectState, &mut [u8])>) -> Vec<Result<Head, String>> {
        self.each(jobs, async |(state, buffer)| match self.get_into(&state, 0, buffer).await {
            Ok(Some(head)) => Ok(head),
            Ok(None) => self.head(&state).await,
            Err(error) => Err(error.reason()),
        })
    }

    /// Fills `buffer` with the bytes of the object from `offset` on. Gives the head of the answer;
    /// `None` for an empty buffer, which needs no request.
    pub(super) async fn get_into(
        &self,
        state: &ObjectState,
        offset: u64,
        buffer: &mut [u8],
    ) -> Result<Option<Head>, S3Error> {
        let Ok(permit) = self.permits.acquire().await else {
            return Err(S3Error::interrupted());
        };
        let mut permit = Some(permit);
        let mut attempts = Attempts::new(&self.budget);
        let (mut filled, mut head) = (0, None);
        while filled < buffer.len() {
            let range = offset + filled as u64..offset + buffer.len() as u64;
            let before = filled;
            let (rest, count) = (&mut buffer[filled..], &mut filled);
            let outcome = if self.whole_objects.serves(state, &(offset..offset + rest.len() as u64)) {
                // The wait for another reader's request needs no permit.
                drop(permit.take());
                self.unless_cancelled(self.read_of_stream(state, range.start, rest, count)).await.map(Some)
            } else {
                self.unless_cancelled(self.get_once(state, range, rest, count)).await
            };
            if filled > before {
                attempts.record_progress();
            }
            let error = match outcome {
                Ok(answered) => {
                    head = answered;
                    continue;
                }
                Err(error) => error,
            };
            tracing::debug!("GET \"{}\" from {filled}: {error:?}", printable(state.key()));
            // The permit is kept while this request waits for its next attempt: that slows this
            // sender down where the store asks for it, and the requests that wait for permits do
            // not fail because of this object.
            if self.monitor.is_cancelled() || !attempts.again(&error).await {
                return Err(error);
            }
            self.monitor.counters().retries.add(1);
        }
        self.budget.record_success();
        self.refusals.record_answer();
        Ok(head)
    }

    /// Makes one request for `range`, which is as long as `buffer`; adds the bytes that came to
    /// `filled`. `None` if the store answers with the whole object, whose stream has to be read.
    async fn get_once(
        &self,
        state: &ObjectState,
        range: Range<u64>,
        buffer: &mut [u8],
        filled: &mut usize,
    ) -> Result<Option<Head>, S3Error> {
        let mut answer = self.get(state, Some(&range)).await?;
        let is_part = range != (0..state.size());
        if is_part && answer.content_range().is_none() && is_whole(&answer, state)? {
            let head = head_of!(answer, state.size(), state.modified_ns());
            self.whole_objects.offer(state, head, answer.body);
            return Ok(None);
        }
        check_range(&answer, state, &range)?;
        if is_part {
            self.whole_objects.record_range();
        }
        let head = head_of!(answer, state.size(), state.modified_ns());
        let mut at = 0;
        loop {
            match answer.body.next().await {
                Some(Ok(bytes)) => {
                    let Some(place) = buffer.get_mut(at..at + bytes.len()) else {
                        *filled -= at;
                        return Err(S3Error::Transient("more came than the range has".to_string()));
                    };
                    place.copy_from_slice(&bytes);
                    at += bytes.len();
                    *filled += bytes.len();
                }
                None if at == buffer.len() => return Ok(Some(head)),
                None => return Err(S3Error::ended_early()),
                Some(Err(_)) => return Err(S3Error::cut()),
            }
        }
    }

    /// Fills `buffer` from the stream of the whole object; adds the bytes that came to `filled`.
    async fn read_of_stream(
        &self,
        state: &ObjectState,
        offset: u64,
        buffer: &mut [u8],
        filled: &mut usize,
    ) -> Result<Head, S3Error> {
        let object = self.whole_objects.object(state);
        let _turn = object.wait_for(offset);
        let mut stream = object.stream_at(offset).await;
        if !stream.reaches(offset) {
            stream.close();
            stream.open(self.get_whole(state).await?);
        }
        while stream.position() < offset {
            let gap = offset - stream.position();
            stream.next(gap).await?;
        }
        let mut rest = buffer;
        while !rest.is_empty() {
            let mut bytes = stream.next(rest.len() as u64).await?;
            let (place, behind) = rest.split_at_mut(bytes.len());
            bytes.copy_to_slice(place);
            (*filled, rest) = (*filled + place.len(), behind);
        }
        let head = stream.head();
        if stream.position() == state.size() {
            stream.close();
        }
        head.ok_or_else(S3Error::ended_early)
    }
}
