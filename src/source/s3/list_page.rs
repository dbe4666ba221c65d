//! One page of a list, by ListObjectsV2 or by ListObjects.

use super::bucket::Bucket;
use super::error::S3Error;
use super::keys::url_decode;
use super::object::{Listed, plain_etag};
use super::object_times::modified_ns;
use super::retry::Attempts;
use crate::archive::path::printable;
use crate::error::{Error, ErrorKind, Result};
use aws_sdk_s3::types::{EncodingType, Object};

/// A page of either kind of list.
pub(super) struct Page {
    /// In the order of the store, each with its decoded key.
    pub(super) objects: Vec<(Vec<u8>, Object)>,
    /// More follows.
    pub(super) truncated: bool,
    /// The store has said whether more follows.
    pub(super) says_truncated: bool,
    /// The store's token or marker for the next request, as it came.
    pub(super) token: Option<String>,
}

/// Where a page begins.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) enum Start {
    /// With the first key.
    First,
    /// At a token of ListObjectsV2.
    Token(String),
    /// Behind a key, or at a marker of the store, by ListObjects.
    Marker(String),
}

/// The request of a page.
pub(super) struct PageRequest<'a> {
    pub(super) prefix: &'a str,
    pub(super) start: &'a Start,
    /// By ListObjects.
    pub(super) v1: bool,
    /// The most keys; `None` takes as many as the store gives.
    pub(super) limit: Option<i32>,
    /// Earlier pages have said whether more follows.
    pub(super) says_truncated: bool,
}

impl PageRequest<'_> {
    /// Makes a page of an answer; `is_named` tells whether the answer has the bucket's name.
    ///
    /// A store that says of one page whether more follows says it of each, and no store that goes
    /// on ends with an answer that says nothing at all.
    fn page(
        &self,
        truncated: Option<bool>,
        token: Option<String>,
        objects: Vec<(Vec<u8>, Object)>,
        is_named: bool,
    ) -> std::result::Result<Page, S3Error> {
        let token = token.filter(|token| !token.is_empty());
        let says_nothing = truncated.is_none() && token.is_none();
        let must_say = self.says_truncated || objects.is_empty() && !is_named;
        if says_nothing && must_say && *self.start != Start::First {
            return Err(S3Error::unexpected("a page of the list does not say whether more follows"));
        }
        // A place to go on implies that more follows.
        let is_truncated = truncated.unwrap_or(token.is_some());
        Ok(Page { objects, truncated: is_truncated, says_truncated: truncated.is_some(), token })
    }
}

impl Bucket {
    /// Requests a page, again and again as the retry budget allows.
    pub(super) async fn page(&self, request: &PageRequest<'_>) -> std::result::Result<Page, S3Error> {
        let mut attempts = Attempts::new(&self.budget);
        loop {
            let page =
                async { if request.v1 { self.page_v1(request).await } else { self.page_v2(request).await } };
            let error = match self.unless_cancelled(page).await {
                Ok(page) => {
                    self.budget.record_success();
                    return Ok(page);
                }
                Err(error) => error,
            };
            tracing::debug!("listing {}: {error:?}", self.address());
            if self.monitor.is_cancelled() || !attempts.again(&error).await {
                return Err(error);
            }
            self.monitor.counters().retries.add(1);
        }
    }

    async fn page_v2(&self, request: &PageRequest<'_>) -> std::result::Result<Page, S3Error> {
        let token = if let Start::Token(token) = request.start { Some(token.clone()) } else { None };
        let ask = self.client.list_objects_v2().bucket(&self.name).set_prefix(unless_empty(request.prefix));
        let ask = ask.set_encoding_type(self.encoding()).set_max_keys(request.limit);
        let answer = ask.set_continuation_token(token).send().await.map_err(|e| self.classify(&e))?;
        let is_encoded = answer.encoding_type() == Some(&EncodingType::Url);
        let (truncated, is_named) = (answer.is_truncated, answer.name.is_some());
        let objects = with_keys(answer.contents, is_encoded);
        request.page(truncated, answer.next_continuation_token, objects, is_named)
    }

    async fn page_v1(&self, request: &PageRequest<'_>) -> std::result::Result<Page, S3Error> {
        let marker = if let Start::Marker(marker) = request.start { Some(marker.clone()) } else { None };
        let ask = self.client.list_objects().bucket(&self.name).set_prefix(unless_empty(request.prefix));
        let ask = ask.set_encoding_type(self.encoding()).set_max_keys(request.limit);
        let answer = ask.set_marker(marker).send().await.map_err(|e| self.classify(&e))?;
        let is_encoded = answer.encoding_type() == Some(&EncodingType::Url);
        let (truncated, is_named) = (answer.is_truncated, answer.name.is_some());
        // Without a delimiter, most stores give no marker.
        request.page(truncated, answer.next_marker, with_keys(answer.contents, is_encoded), is_named)
    }

    fn encoding(&self) -> Option<EncodingType> {
        (!self.list_plain).then_some(EncodingType::Url)
    }

    /// An object of a list, with `path` as its path.
    pub(super) fn listed(&self, object: &Object, key: &[u8], path: &[u8]) -> Result<Listed> {
        let size = object.size().and_then(|size| u64::try_from(size).ok());
        let Some(size) = size else {
            return Err(self.wrong_list(&format!("\"{}\" has no size", printable(path))));
        };
        let etag = plain_etag(object.e_tag().unwrap_or_default()).to_owned();
        let encoded_key = object.key().filter(|encoded| encoded.as_bytes() != key).map(str::to_owned);
        let modified_ns = modified_ns(object.last_modified());
        Ok(Listed { path: path.to_vec(), size, etag, modified_ns, encoded_key })
    }

    /// The store's list breaks a rule of lists.
    pub(super) fn wrong_list(&self, why: &str) -> Error {
        let error = Error::new(ErrorKind::Source, format!("the list of {} is wrong: {why}", self.address()));
        if self.list_v1 {
            error
        } else {
            error.with_hint("--s3-list-v1 asks for it by the older of the two requests")
        }
    }

    /// The store gives no list.
    pub(super) fn cannot_list(&self, error: S3Error) -> Error {
        if self.monitor.is_cancelled() {
            return Error::new(ErrorKind::Interrupted, "interrupted");
        }
        let hint = self.hint_for(&error);
        let what = format!("cannot list {}: {}", self.place(), error.message());
        Error::new(ErrorKind::Source, what).with_hint(hint)
    }
}

/// A request without a prefix must not name one.
fn unless_empty(prefix: &str) -> Option<String> {
    (!prefix.is_empty()).then(|| prefix.to_owned())
}

/// Whether a store that does not know ListObjectsV2 refuses it with this error.
pub(super) fn is_unknown_request(error: &S3Error) -> bool {
    matches!(error, S3Error::Rejected(400 | 404 | 405 | 501, _))
}

fn with_keys(objects: Option<Vec<Object>>, is_encoded: bool) -> Vec<(Vec<u8>, Object)> {
    let key = |object: &Object| {
        let key = object.key().unwrap_or_default();
        if is_encoded { url_decode(key) } else { key.as_bytes().to_vec() }
    };
    objects.unwrap_or_default().into_iter().map(|object| (key(&object), object)).collect()
}
