//! Records in a file without a name: however many there are, only a buffer of them is in memory.

use crate::error::{Error, Result};
use parking_lot::Mutex;
use std::fs::File;
use std::io::{BufReader, BufWriter, Read, Seek, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Records of `N` bytes.
pub(super) struct Spill<const N: usize> {
    /// Where the file is made, if there is any record.
    folder: PathBuf,
    file: Option<BufWriter<File>>,
}

impl<const N: usize> Spill<N> {
    /// No records; the file will be in `folder`.
    pub(super) fn new(folder: &Path) -> Self {
        Self { folder: folder.to_path_buf(), file: None }
    }

    /// Adds a record.
    ///
    /// # Errors
    /// The file cannot be written.
    pub(super) fn push(&mut self, record: [u8; N]) -> Result<()> {
        let Self { folder, file } = self;
        let write = || -> std::io::Result<()> {
            let file = match file {
                Some(file) => file,
                None => file.insert(BufWriter::new(tempfile::tempfile_in(folder)?)),
            };
            file.write_all(&record)
        };
        write().map_err(failed)
    }

    /// Gives all records in the order in which they came.
    ///
    /// # Errors
    /// The file cannot be read, or an error of `each`.
    pub(super) fn each(&mut self, mut each: impl FnMut([u8; N]) -> Result<()>) -> Result<()> {
        let Some(file) = &mut self.file else { return Ok(()) };
        file.rewind().map_err(failed)?;
        let mut reader = BufReader::new(file.get_ref());
        let mut record = [0; N];
        loop {
            match reader.read_exact(&mut record) {
                Err(e) if e.kind() == std::io::ErrorKind::UnexpectedEof => return Ok(()),
                other => other.map_err(failed)?,
            }
            each(record)?;
        }
    }
}

fn failed(error: std::io::Error) -> Error {
    Error::io("cannot use a temporary file", error)
}

/// Ids that one thread finds and another one takes.
#[derive(Clone)]
pub(super) struct IdSpill(Arc<Mutex<Spill<8>>>);

impl IdSpill {
    /// No ids; as [`Spill::new`].
    pub(super) fn new(folder: &Path) -> Self {
        Self(Arc::new(Mutex::new(Spill::new(folder))))
    }

    /// Adds an id.
    ///
    /// # Errors
    /// The file cannot be written.
    pub(super) fn push(&self, id: u64) -> Result<()> {
        self.0.lock().push(id.to_le_bytes())
    }

    /// Gives all ids in the order in which they came.
    ///
    /// # Errors
    /// The file cannot be read, or an error of `each`.
    pub(super) fn each(&self, mut each: impl FnMut(u64) -> Result<()>) -> Result<()> {
        self.0.lock().each(|record| each(u64::from_le_bytes(record)))
    }
}
