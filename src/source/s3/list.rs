//! Listing a prefix, page by page.

use super::bucket::Bucket;
use super::error::S3Error;
use super::keys::url_decode;
use super::list_page::{Page, PageRequest, Start, is_unknown_request};
use super::object::{Listed, Taken};
use crate::archive::path::printable;
use crate::error::{Error, ErrorKind, Result};
use aws_sdk_s3::types::Object;
use std::collections::HashSet;
use std::hash::{BuildHasher, RandomState};

/// A list is given up after so many pages in a row without a new object, each from another start. A
/// store with many deleted objects may answer with many empty pages.
const MAX_STALE_PAGES: u32 = 100_000;

/// A list is given up after so many empty pages in a row from the same start.
const MAX_EMPTY_REPEATS: u32 = 100;

/// How far a list is.
struct Listing {
    start: Start,
    v1: bool,
    /// Hashes of the starts so far: a page of a thousand short names may have a long token.
    visited: HashSet<u64>,
    hasher: RandomState,
    stale_pages: u32,
    empty_repeats: u32,
    /// The other place where the page may begin, if it brings nothing new from `start`.
    other: Option<Start>,
    /// The other place was the right one before.
    prefers_other: bool,
    says_truncated: bool,
}

impl Listing {
    /// Goes to the other place where the page may begin; false if there is none.
    fn take_other(&mut self) -> bool {
        let Some(other) = self.other.take() else { return false };
        (self.start, self.prefers_other) = (other, !self.prefers_other);
        true
    }

    /// Goes on to the first of `starts` that is preferred; false if there is none.
    fn go_on(&mut self, mut starts: Vec<Start>) -> bool {
        if self.prefers_other {
            starts.reverse();
        }
        let mut starts = starts.into_iter();
        // An empty page without a place to go on is asked for again.
        let again = Some(&self.start).filter(|start| **start != Start::First).cloned();
        let Some(next) = starts.next().or(again) else { return false };
        (self.start, self.other) = (next, starts.next());
        true
    }

    /// Counts a page whose list goes on at `self.start`; false if the list has to be given up. A
    /// store that ignores where it should go on would be listed for ever.
    fn count(&mut self, has_new: bool, may_have_new: bool, is_empty: bool) -> bool {
        self.stale_pages = if may_have_new { 0 } else { self.stale_pages + 1 };
        // An empty page may be so for a moment only.
        self.empty_repeats = match self.visited.insert(self.hasher.hash_one(&self.start)) || has_new {
            true => 0,
            false if is_empty => self.empty_repeats + 1,
            false => MAX_EMPTY_REPEATS + 1,
        };
        self.empty_repeats <= MAX_EMPTY_REPEATS && self.stale_pages <= MAX_STALE_PAGES
    }
}

impl Bucket {
    /// Gives every object below the prefix to `each`, in the order of the store. An object may come
    /// more than once.
    ///
    /// # Errors
    /// The store refuses, or does not answer for too long; or `each` fails.
    pub fn list(&self, mut each: impl FnMut(Listed) -> Result<Taken>) -> Result<()> {
        if let Some(key) = &self.only {
            return each(self.runtime.block_on(self.only_object(key))?).map(drop);
        }
        let mut listing = Listing {
            start: Start::First,
            v1: self.list_v1,
            visited: HashSet::new(),
            hasher: RandomState::new(),
            stale_pages: 0,
            empty_repeats: 0,
            other: None,
            prefers_other: false,
            says_truncated: false,
        };
        loop {
            let page = self.next_page(&mut listing)?;
            listing.says_truncated |= page.says_truncated;
            let (mut has_new, mut may_have_new) = (false, false);
            for (key, object) in &page.objects {
                let taken = self.below_prefix(object, key)?.map_or(Ok(Taken::LeftOut), &mut each)?;
                has_new |= taken == Taken::New;
                may_have_new |= taken != Taken::Known;
            }
            if !may_have_new && listing.take_other() {
                continue;
            }
            listing.other = None;
            if !page.truncated {
                return Ok(());
            }
            listing.v1 = listing.v1 || page.token.is_none();
            let is_empty = page.objects.is_empty();
            if !listing.go_on(self.next_starts(page, listing.v1)?) {
                return Err(self.wrong_list("an empty page says that more follows"));
            }
            if !listing.count(has_new, may_have_new, is_empty) {
                return Err(self.wrong_list("it goes on, and nothing new comes"));
            }
        }
    }

    /// Requests the page at the start of `listing`, by the other of the two requests or from the
    /// other place if the store refuses that.
    fn next_page(&self, listing: &mut Listing) -> Result<Page> {
        loop {
            if self.monitor.is_cancelled() {
                return Err(Error::new(ErrorKind::Interrupted, "interrupted"));
            }
            let &mut Listing { ref start, v1, says_truncated, .. } = listing;
            let request = PageRequest { prefix: &self.prefix, start, v1, limit: None, says_truncated };
            match self.runtime.block_on(self.page(&request)) {
                Err(error) if !v1 && *start == Start::First && is_unknown_request(&error) => {
                    tracing::info!("ListObjectsV2 is refused ({}); listing by ListObjects", error.why());
                    listing.v1 = true;
                }
                Err(S3Error::Rejected(400..=499, _)) if listing.take_other() => {}
                page => return page.map_err(|error| self.cannot_list(error)),
            }
        }
    }

    /// Where the list may go on behind `page`, the most reliable place first. The last key is right
    /// by the rules of ListObjects without a delimiter. The store's own marker may be that key,
    /// encoded or not, or a token that has a meaning only to the store.
    fn next_starts(&self, page: Page, v1: bool) -> Result<Vec<Start>> {
        if !v1 {
            return Ok(page.token.map(Start::Token).into_iter().collect());
        }
        let mut starts = Vec::new();
        if let Some((last, _)) = page.objects.last() {
            match std::str::from_utf8(last) {
                Ok(last) => starts.push(Start::Marker(last.to_owned())),
                Err(_) if page.token.is_none() => {
                    let why = format!("a page ends with \"{}\", which no request can name", printable(last));
                    return Err(self.cannot_list(S3Error::Rejected(400, why)));
                }
                Err(_) => {}
            }
        }
        if let Some(token) = page.token {
            let last = page.objects.last().map(|(last, _)| last);
            if last.is_none_or(|last| *last != token.as_bytes() && *last != url_decode(&token)) {
                starts.push(Start::Marker(token));
            }
        }
        Ok(starts)
    }

    /// An object with its path below the prefix. `None` if its key is the prefix itself: the folder
    /// that the source is.
    fn below_prefix(&self, object: &Object, key: &[u8]) -> Result<Option<Listed>> {
        let Some(path) = key.strip_prefix(self.prefix.as_bytes()) else {
            let why = format!("\"{}\" does not begin with the prefix", printable(key));
            return Err(self.wrong_list(&why));
        };
        if path.is_empty() && !self.prefix.is_empty() {
            return Ok(None);
        }
        self.listed(object, key, path).map(Some)
    }
}
