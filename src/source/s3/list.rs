//! Listing a prefix, page by page.

use super::Bucket;
use super::head::plain_etag;
use super::retry::{Attempts, Trouble, trouble};
use super::when::modified_ns;
use crate::archive::path::printable;
use crate::error::{Error, ErrorKind, Result};
use aws_sdk_s3::types::{EncodingType, Object};

/// An object as a list says it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listed {
    /// Its key without the prefix.
    pub path: Vec<u8>,
    /// In bytes.
    pub size: u64,
    /// Without quotes.
    pub etag: String,
    /// When it was written, in nanoseconds since 1970.
    pub modified_ns: i64,
}

/// A page of either kind of list.
struct Page {
    objects: Vec<Object>,
    /// Its names are encoded as in a URL.
    encoded: bool,
    truncated: bool,
    /// What the next request has to say.
    token: Option<String>,
}

/// Stores may say that there are more, and then there are none; but not for ever.
const MOST_EMPTY_PAGES: u32 = 100;

/// Where the next page begins.
enum Next {
    First,
    Token(String),
    /// By the older request: behind this key.
    Marker(Vec<u8>),
}

impl Bucket {
    /// Gives every object below the prefix, in the order of the bytes of their keys, until `each` returns false.
    ///
    /// # Errors
    /// The store refuses, or does not answer for too long; or `each` fails.
    pub fn list(&self, mut each: impl FnMut(Listed) -> Result<bool>) -> Result<()> {
        let (mut next, mut v1) = (Next::First, self.list_v1);
        let mut last: Option<Vec<u8>> = None;
        let mut empty_pages = 0;
        loop {
            if self.monitor.is_cancelled() {
                return Err(Error::new(ErrorKind::Interrupted, "interrupted"));
            }
            let page = match self.runtime.block_on(self.page(&next, v1)) {
                // A store that does not know the newer request says so in one of these ways.
                Err(Trouble::Refused(400 | 404 | 405 | 501, why)) if !v1 && last.is_none() => {
                    tracing::info!("ListObjectsV2 is refused ({why}); listing by ListObjects");
                    v1 = true;
                    continue;
                }
                page => page.map_err(|trouble| self.cannot_list(trouble))?,
            };
            let before = last.clone();
            empty_pages = if page.objects.is_empty() { empty_pages + 1 } else { 0 };
            if empty_pages > MOST_EMPTY_PAGES {
                return Err(self.strange("it goes on with empty pages only"));
            }
            for object in page.objects {
                let key = object.key().unwrap_or_default();
                let key = if page.encoded { url_decode(key) } else { key.as_bytes().to_vec() };
                if before.as_ref().is_some_and(|before| key <= *before) {
                    // A store that ignores where it should go on would be listed for ever.
                    return Err(self.strange(&format!("\"{}\" comes again", printable(&key))));
                }
                let listed = self.listed(&object, &key)?;
                last = last.max(Some(key));
                if let Some(listed) = listed
                    && !each(listed)?
                {
                    return Ok(());
                }
            }
            next = match (page.truncated, page.token, &last) {
                (false, ..) => return Ok(()),
                (true, Some(token), _) => Next::Token(token),
                (true, None, Some(last)) => {
                    // The answer of a store that took the newer request for the older one.
                    v1 = true;
                    Next::Marker(last.clone())
                }
                (true, None, None) => return Err(self.strange("an empty page says that more follows")),
            };
        }
    }

    /// An object's path below the prefix. The prefix itself may be a key, too: the folder that it stands for.
    fn listed(&self, object: &Object, key: &[u8]) -> Result<Option<Listed>> {
        let Some(path) = key.strip_prefix(self.prefix.as_bytes()) else {
            return Err(self.strange(&format!("\"{}\" does not begin with the prefix", printable(key))));
        };
        if path.is_empty() && !self.prefix.is_empty() {
            return Ok(None);
        }
        let size = object.size().and_then(|size| u64::try_from(size).ok());
        let Some(size) = size else {
            return Err(self.strange(&format!("\"{}\" has no size", printable(key))));
        };
        let etag = plain_etag(object.e_tag().unwrap_or_default()).to_owned();
        Ok(Some(Listed { path: path.to_vec(), size, etag, modified_ns: modified_ns(object.last_modified()) }))
    }

    async fn page(&self, next: &Next, v1: bool) -> std::result::Result<Page, Trouble> {
        let mut attempts = Attempts::new(&self.patience);
        loop {
            let page = async { if v1 { self.page_v1(next).await } else { self.page_v2(next).await } };
            let outcome = self.unless_cancelled(page).await;
            match outcome {
                Err(passing @ Trouble::Passing(_)) => {
                    tracing::debug!("listing {}: {passing:?}", self.address());
                    if self.monitor.is_cancelled() || !attempts.again().await {
                        return Err(passing);
                    }
                    self.monitor.counters().retries.add(1);
                }
                outcome => {
                    self.patience.succeeded();
                    return outcome;
                }
            }
        }
    }

    async fn page_v2(&self, next: &Next) -> std::result::Result<Page, Trouble> {
        let mut request = self.client.list_objects_v2().bucket(&self.name).encoding_type(EncodingType::Url);
        if !self.prefix.is_empty() {
            request = request.prefix(&self.prefix);
        }
        if let Next::Token(token) = next {
            request = request.continuation_token(token);
        }
        let answer = request.send().await.map_err(|e| trouble(&e))?;
        Ok(Page {
            encoded: answer.encoding_type() == Some(&EncodingType::Url),
            truncated: answer.is_truncated() == Some(true),
            token: answer.next_continuation_token().map(str::to_owned),
            objects: answer.contents.unwrap_or_default(),
        })
    }

    async fn page_v1(&self, next: &Next) -> std::result::Result<Page, Trouble> {
        let mut request = self.client.list_objects().bucket(&self.name).encoding_type(EncodingType::Url);
        if !self.prefix.is_empty() {
            request = request.prefix(&self.prefix);
        }
        let marker = match next {
            Next::First => None,
            Next::Token(token) => Some(token.clone()),
            Next::Marker(key) => Some(String::from_utf8(key.clone()).map_err(|_| {
                let why = format!("a page ends with \"{}\", which no request can name", printable(key));
                Trouble::Refused(400, why)
            })?),
        };
        let answer = request.set_marker(marker).send().await.map_err(|e| trouble(&e))?;
        let encoded = answer.encoding_type() == Some(&EncodingType::Url);
        // Most stores say none without a delimiter: the last key is the marker then.
        let token = answer.next_marker().filter(|marker| !marker.is_empty()).and_then(|marker| {
            String::from_utf8(if encoded { url_decode(marker) } else { marker.as_bytes().to_vec() }).ok()
        });
        Ok(Page {
            encoded,
            truncated: answer.is_truncated() == Some(true),
            token,
            objects: answer.contents.unwrap_or_default(),
        })
    }

    fn strange(&self, why: &str) -> Error {
        Error::new(ErrorKind::Source, format!("the list of {} is wrong: {why}", self.address()))
            .hint("--s3-list-v1 asks for it by the older of the two requests")
    }

    fn cannot_list(&self, trouble: Trouble) -> Error {
        let hint = match &trouble {
            _ if self.monitor.is_cancelled() => return Error::new(ErrorKind::Interrupted, "interrupted"),
            Trouble::Gone(_) => {
                "is the bucket's name right? A store that wants it before the host's name: --s3-addressing virtual"
            }
            Trouble::Refused(301 | 307, _) => "the bucket lies in another region: give --s3-region",
            Trouble::Refused(401 | 403, _) => {
                "are the credentials right (AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or a profile), and may they list this \
                 bucket? A public bucket needs none: --no-sign-request. An HCP: --s3-addressing virtual"
            }
            Trouble::Refused(_, why) | Trouble::Passing(why) if why.contains("certificate") => {
                "name the authority that has signed the store's certificate: AWS_CA_BUNDLE=FILE"
            }
            Trouble::Refused(0, _) => {
                "credentials come from AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, a profile or the host's role; a public \
                 bucket needs none: --no-sign-request"
            }
            _ => "is the endpoint right (TARLIKE_S3_ENDPOINT or --s3-endpoint)?",
        };
        let why = match trouble {
            Trouble::Changed => "it changed".to_string(),
            Trouble::Gone(why) | Trouble::Refused(_, why) | Trouble::Passing(why) => why,
        };
        Error::new(ErrorKind::Source, format!("cannot list {}: {why}", self.address())).hint(hint)
    }
}

/// What `encoding-type=url` does to a key, undone. A space comes as `+` or as `%20`.
fn url_decode(text: &str) -> Vec<u8> {
    let mut decoded = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [byte, tail @ ..] = rest {
        rest = tail;
        let hex = |digit: u8| char::from(digit).to_digit(16);
        match (byte, tail) {
            (b'+', _) => decoded.push(b' '),
            (b'%', [high, low, tail @ ..]) => match hex(*high).zip(hex(*low)) {
                Some((high, low)) => {
                    decoded.push((high * 16 + low) as u8);
                    rest = tail;
                }
                None => decoded.push(b'%'),
            },
            _ => decoded.push(*byte),
        }
    }
    decoded
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_decoded_once() {
        assert_eq!(url_decode("a+b%20c%2Bd%2520%ff%0A"), b"a b c+d%20\xff\n");
        assert_eq!(url_decode("100%+%4%zz"), b"100% %4%zz");
    }
}
