//! What to index, and how.

use super::append::Append;
use crate::archive::source::SourceIdentity;
use crate::engine::identity::identity_of;
use crate::error::Result;
use crate::source::base::resolved;
use crate::source::filter::Filter;
use crate::source::s3::Bucket;
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;
use std::sync::Arc;

/// What to index.
#[derive(Debug, Clone)]
pub struct IndexOptions {
    /// The folder, or the single file or block device; ignored if there is a bucket.
    pub base: PathBuf,
    /// The bucket, if that is the source.
    pub bucket: Option<Arc<Bucket>>,
    /// Read the objects of a bucket whose ETag is no md5; otherwise their rows have no md5.
    pub read_contents: bool,
    /// Where the index goes.
    pub database: PathBuf,
    /// What of the source is left out.
    pub filter: Filter,
    /// Other files of this program that may lie in the folder and are left out.
    pub own_files: Vec<PathBuf>,
    /// Make the next generation of the index at `database`, if there is one: unmodified files are
    /// not read, and that index stays if nothing changed at all. Otherwise a new index replaces it.
    pub reuse: bool,
    /// Read also the files that seem unmodified.
    pub checksum: bool,
    /// How grown files are read; with `checksum` they are read whole. Ignored for a bucket.
    pub append: Append,
    /// Compute the md5 of contents beside their BLAKE3. Objects of a bucket always have one.
    pub md5: bool,
    /// Hashing threads.
    pub threads: usize,
}

impl IndexOptions {
    /// The name of the source as an index records it: the folder with all symbolic links resolved,
    /// or a single file in such a folder, or the address of the bucket; and which part it is
    /// ([`Shard::name_of`](crate::archive::shard::Shard::name_of)).
    #[must_use]
    pub fn source_name(&self) -> PathBuf {
        PathBuf::from(std::ffi::OsString::from_vec(self.source_bytes()))
    }

    /// Which source that is, as receivers know it.
    ///
    /// # Errors
    /// There is an index, and it cannot be read.
    pub fn identity(&self) -> Result<SourceIdentity> {
        identity_of(&self.source_bytes(), &self.database, self.reuse)
    }

    /// [`IndexOptions::source_name`] as bytes.
    pub(in crate::engine) fn source_bytes(&self) -> Vec<u8> {
        let name = match &self.bucket {
            Some(bucket) => bucket.address().into_bytes(),
            None => resolved(&self.base).unwrap_or_else(|_| self.base.clone()).into_os_string().into_vec(),
        };
        match self.filter.options().shard {
            Some(shard) => shard.name_of(name),
            None => name,
        }
    }
}

#[cfg(test)]
impl IndexOptions {
    /// The options of a unit test: the next generation of the index at `database` of all that is in
    /// the folder `base`.
    pub(crate) fn of_folder(base: PathBuf, database: PathBuf) -> Self {
        Self {
            base,
            bucket: None,
            read_contents: true,
            database,
            filter: Filter::default(),
            own_files: Vec::new(),
            reuse: true,
            checksum: false,
            append: Append::default(),
            md5: true,
            threads: 2,
        }
    }
}
