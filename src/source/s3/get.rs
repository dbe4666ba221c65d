//! Ranges of objects: asked for with If-Match, believed only if the answer is exactly the range that was asked for, and taken up
//! again where a body ended too early.

use super::Bucket;
use super::connect::{key_of, with_key};
use super::head::{Head, head_of, plain_etag};
use super::list::Listed;
use super::retry::{Attempts, Trouble, trouble};
use crate::archive::entry::{FileEntry, ObjectId};
use crate::archive::path::printable;
use aws_sdk_s3::operation::get_object::GetObjectOutput;
use aws_smithy_runtime_api::client::result::SdkError;
use std::ops::Range;

/// One state of one object, and nothing else that its key may have by now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wanted {
    key: Vec<u8>,
    size: u64,
    object: ObjectId,
}

impl Wanted {
    /// What the index says of a file.
    pub(super) fn of(file: &FileEntry, key: Vec<u8>) -> Result<Self, String> {
        let object = file.object.as_deref().cloned();
        let object =
            object.ok_or("the index does not say which object it was: it is no index of a bucket")?;
        Ok(Self { key, size: file.size, object })
    }

    pub(super) fn size(&self) -> u64 {
        self.size
    }
}

impl Bucket {
    /// What a list says.
    #[must_use]
    pub fn wanted(&self, listed: &Listed) -> Wanted {
        let object = ObjectId { etag: listed.etag.clone(), version: None, modified_ns: None };
        Wanted { key: self.key(&listed.path), size: listed.size, object }
    }

    /// What the store said when it was asked.
    #[must_use]
    pub fn wanted_head(&self, path: &[u8], head: &Head) -> Wanted {
        Wanted { key: self.key(path), size: head.size, object: head.object.clone() }
    }

    /// Reads each of these objects into its buffer, which is as long as the object; many at once.
    pub fn read_whole(&self, jobs: Vec<(Wanted, &mut [u8])>) -> Vec<Result<Head, String>> {
        self.each(jobs, async |(wanted, buffer)| match self.get_into(&wanted, 0, buffer).await {
            Ok(Some(head)) => Ok(head),
            Ok(None) => self.head(&wanted.key).await,
            Err(trouble) => Err(trouble.reason()),
        })
    }

    /// Fills `buffer` with the bytes of the object from `offset` on. Gives what was said of the object with them, if anything was
    /// asked for.
    pub(super) async fn get_into(
        &self,
        wanted: &Wanted,
        offset: u64,
        buffer: &mut [u8],
    ) -> Result<Option<Head>, Trouble> {
        let Ok(_permit) = self.permits.acquire().await else {
            return Err(Trouble::Refused(0, "interrupted".to_string()));
        };
        let mut attempts = Attempts::new(&self.patience);
        let (mut filled, mut head) = (0, None);
        while filled < buffer.len() {
            let range = offset + filled as u64..offset + buffer.len() as u64;
            let before = filled;
            let (rest, got) = (&mut buffer[filled..], &mut filled);
            let outcome = self.unless_cancelled(self.get_once(wanted, range, rest, got)).await;
            if filled > before {
                attempts.progressed();
            }
            let trouble = match outcome {
                Ok(said) => {
                    head = Some(said);
                    continue;
                }
                Err(trouble) => trouble,
            };
            tracing::debug!("GET \"{}\" from {filled}: {trouble:?}", printable(&wanted.key));
            // Those who wait for permits must not fail for somebody else's object: it is kept, which makes us slower where the
            // store asks for that.
            let passing = matches!(trouble, Trouble::Passing(_)) && !self.monitor.is_cancelled();
            if !passing || !attempts.again().await {
                return Err(trouble);
            }
            self.monitor.counters().retries.add(1);
        }
        self.patience.succeeded();
        Ok(head)
    }

    /// One request for `range`, which is as long as `buffer`; adds what came to `filled`.
    async fn get_once(
        &self,
        wanted: &Wanted,
        range: Range<u64>,
        buffer: &mut [u8],
        filled: &mut usize,
    ) -> Result<Head, Trouble> {
        let (name, raw) = key_of(&wanted.key);
        let request = self
            .client
            .get_object()
            .bucket(&self.name)
            .key(name)
            .range(format!("bytes={}-{}", range.start, range.end - 1))
            .if_match(format!("\"{}\"", wanted.object.etag));
        let answer = request.customize().mutate_request(with_key(raw)).send().await;
        let mut answer = answer.map_err(|e| match &e {
            SdkError::ResponseError(_) => Trouble::Passing("an answer that is none".to_string()),
            e => trouble(e),
        })?;
        check(&answer, wanted, &range)?;
        let head = head_of!(answer, wanted.size);
        let mut at = 0;
        loop {
            match answer.body.next().await {
                Some(Ok(bytes)) => {
                    let Some(room) = buffer.get_mut(at..at + bytes.len()) else {
                        *filled -= at;
                        return Err(Trouble::Passing("more came than the range has".to_string()));
                    };
                    room.copy_from_slice(&bytes);
                    at += bytes.len();
                    *filled += bytes.len();
                }
                None if at == buffer.len() => return Ok(head),
                None => return Err(Trouble::Passing("the answer ended too early".to_string())),
                Some(Err(_)) => {
                    return Err(Trouble::Passing("the answer was cut, or stood still".to_string()));
                }
            }
        }
    }
}

/// Whether the answer is the range that was asked for, of the state of the object that was asked for. Some stores ignore If-Match;
/// some answer a range with the status of the whole, but say which range it is. Without that, only the whole is believed.
fn check(answer: &GetObjectOutput, wanted: &Wanted, range: &Range<u64>) -> Result<(), Trouble> {
    let strange = |why: String| Err(Trouble::Passing(format!("a wrong answer: {why}")));
    match answer.e_tag().map(plain_etag) {
        Some(etag) if etag == wanted.object.etag => {}
        Some(_) => return Err(Trouble::Changed),
        None => return strange("it has no ETag".to_string()),
    }
    if let (Some(version), Some(now)) = (&wanted.object.version, answer.version_id())
        && version != now
    {
        return Err(Trouble::Changed);
    }
    let expected = format!("bytes {}-{}/{}", range.start, range.end - 1, wanted.size);
    match answer.content_range() {
        Some(said) if said == expected => {}
        Some(said) => return strange(format!("its range is \"{said}\", not \"{expected}\"")),
        None if *range == (0..wanted.size) => {}
        None => return strange("a part was asked for, and the whole came".to_string()),
    }
    let length = range.end - range.start;
    match answer.content_length().and_then(|length| u64::try_from(length).ok()) {
        Some(said) if said != length => strange(format!("its length is {said}, not {length}")),
        _ => Ok(()),
    }
}
