//! A source that is a single object of a bucket.

use super::bucket::Bucket;
use super::error::S3Error;
use super::list_page::{Page, PageRequest, Start, is_unknown_request};
use super::object::{Listed, ObjectState};
use crate::error::{Error, ErrorKind, Result};

impl Bucket {
    /// The key at `path`, which has no `/` at its end, if that is one object and no folder.
    pub(super) async fn find_only(&self, path: &str) -> Result<Option<String>> {
        match self.first_page(&format!("{path}/"), Some(1)).await {
            Ok(page) if page.objects.is_empty() => {}
            // A user who may not list learns that from the list itself.
            Ok(_) | Err(S3Error::Rejected(..) | S3Error::NotFound(_)) => return Ok(None),
            Err(error) => return Err(self.cannot_list(error)),
        }
        Ok(self.find_object(path).await?.map(|_| path.to_owned()))
    }

    /// The single object that is the source.
    pub(super) async fn only_object(&self, key: &str) -> Result<Listed> {
        let gone = || Error::new(ErrorKind::Source, format!("{} is not there any more", self.address()));
        self.find_object(key).await?.ok_or_else(gone)
    }

    /// The object with this key, if there is one.
    async fn find_object(&self, key: &str) -> Result<Option<Listed>> {
        let page = self.first_page(key, None).await.map_err(|error| self.cannot_list(error))?;
        let path = key.as_bytes().rsplit(|byte| *byte == b'/').next().unwrap_or_default();
        if let Some((_, object)) = page.objects.iter().find(|(found, _)| found == key.as_bytes()) {
            return self.listed(object, key.as_bytes(), path).map(Some);
        }
        // It would be the first one, if the list is in byte order.
        if !page.truncated {
            return Ok(None);
        }
        let unknown =
            Listed { path: path.to_vec(), size: 0, etag: String::new(), modified_ns: 0, encoded_key: None };
        let head = self.head(&ObjectState::of_listed(&unknown, key.as_bytes().to_vec())).await.ok();
        Ok(head.map(|head| Listed {
            size: head.size,
            modified_ns: head.modified_ns,
            etag: head.object.etag,
            ..unknown
        }))
    }

    /// The first page of the keys that begin with `prefix`.
    async fn first_page(&self, prefix: &str, limit: Option<i32>) -> std::result::Result<Page, S3Error> {
        let request =
            PageRequest { prefix, start: &Start::First, v1: self.list_v1, limit, says_truncated: false };
        match self.page(&request).await {
            Err(error) if !self.list_v1 && is_unknown_request(&error) => {
                self.page(&PageRequest { v1: true, ..request }).await
            }
            page => page,
        }
    }
}
