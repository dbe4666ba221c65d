//! Whether content is what the index says.

use crate::archive::entry::FileEntry;
use crate::archive::verify::Verifier;
use crate::error::{Error, Result};
use std::fs::File;
use std::io::Read;

/// Why a file fails whose content is another one.
pub(crate) const NOT_AS_INDEXED: &str =
    "its content is not what the index says: it changed after it was indexed";

const READ_BYTES: usize = 1 << 20;

/// Whether an open file has the content that the index says.
///
/// # Errors
/// It cannot be read.
pub(crate) fn is_as_indexed(content: &File, file: &FileEntry) -> Result<bool> {
    is_as_indexed_while(content, file, |_| Ok(()))
}

/// The same; `each` is told of the bytes that were read, and may end it.
///
/// # Errors
/// It cannot be read, or the error of `each`.
pub(crate) fn is_as_indexed_while(
    content: &File,
    file: &FileEntry,
    mut each: impl FnMut(u64) -> Result<()>,
) -> Result<bool> {
    let failed = |e: std::io::Error| Error::io(format!("cannot read back \"{}\"", file.path), e);
    let meta = content.metadata().map_err(failed)?;
    if !meta.is_file() || meta.len() != file.size {
        return Ok(false);
    }
    let mut verifier = Verifier::of(file);
    let mut buffer = vec![0; READ_BYTES.min(file.size as usize + 1)];
    let mut reader = content;
    loop {
        match reader.read(&mut buffer).map_err(failed)? {
            0 => return Ok(verifier.is_verified()),
            n => {
                verifier.update(&buffer[..n]);
                each(n as u64)?;
            }
        }
    }
}
