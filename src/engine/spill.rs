//! Records in a file without a name: however many there are, only a buffer of them is in memory.

use crate::archive::entry::NodeKind;
use crate::archive::path::EntryPath;
use crate::error::{Error, ErrorKind, Result};
use parking_lot::Mutex;
use std::fs::File;
use std::io::{BufReader, BufWriter, Read, Seek, SeekFrom, Write};
use std::ops::Range;
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

/// Entries by their paths, each with its kind and a number of bytes.
pub(super) struct PathSpill {
    folder: PathBuf,
    file: Option<BufWriter<File>>,
    count: u64,
    /// The length of the file, in bytes.
    end: u64,
}

/// A list of entries that does not change any more, and that several owners may have.
#[derive(Clone, Default)]
pub struct EntryList(Option<Arc<Mutex<PathSpill>>>);

impl EntryList {
    /// The entries of `spill`.
    pub(super) fn new(spill: PathSpill) -> Self {
        Self(Some(Arc::new(Mutex::new(spill))))
    }

    /// Gives all entries in the order in which they came.
    ///
    /// # Errors
    /// The file cannot be read, or an error of `each`.
    pub(super) fn each(
        &self,
        each: impl FnMut(Option<NodeKind>, u64, &EntryPath) -> Result<()>,
    ) -> Result<()> {
        self.0.as_ref().map_or(Ok(()), |spill| spill.lock().each(each))
    }
}

impl std::fmt::Debug for EntryList {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let count = self.0.as_ref().map_or(0, |spill| spill.lock().count());
        formatter.debug_tuple("EntryList").field(&count).finish()
    }
}

/// Bytes of an entry before its path: a letter, a number of bytes and the length of the path.
const PATH_HEAD_BYTES: usize = 13;

impl PathSpill {
    /// No entries; as [`Spill::new`].
    pub(super) fn new(folder: &Path) -> Self {
        Self { folder: folder.to_path_buf(), file: None, count: 0, end: 0 }
    }

    /// How many there are.
    pub(super) fn count(&self) -> u64 {
        self.count
    }

    /// Where the next entry would be, for [`Self::each_in`].
    pub(super) fn end(&self) -> u64 {
        self.end
    }

    /// Adds an entry; `node` is the kind of a directory or link.
    ///
    /// # Errors
    /// The file cannot be written.
    pub(super) fn push(&mut self, node: Option<NodeKind>, bytes: u64, path: &EntryPath) -> Result<()> {
        let Self { folder, file, count, end } = self;
        let write = || -> std::io::Result<()> {
            let file = match file {
                Some(file) => file,
                None => file.insert(BufWriter::new(tempfile::tempfile_in(folder)?)),
            };
            file.write_all(node.map_or("f", NodeKind::letter).as_bytes())?;
            file.write_all(&bytes.to_le_bytes())?;
            // A path is short.
            file.write_all(&(path.as_bytes().len() as u32).to_le_bytes())?;
            file.write_all(path.as_bytes())
        };
        write().map_err(failed)?;
        *count += 1;
        *end += (PATH_HEAD_BYTES + path.as_bytes().len()) as u64;
        Ok(())
    }

    /// Gives all entries in the order in which they came.
    ///
    /// # Errors
    /// The file cannot be read, or an error of `each`.
    pub(super) fn each(
        &mut self,
        each: impl FnMut(Option<NodeKind>, u64, &EntryPath) -> Result<()>,
    ) -> Result<()> {
        self.each_in(0..self.end, each)
    }

    /// Gives the entries between two positions that [`Self::end`] gave. No entry is added later.
    ///
    /// # Errors
    /// As [`Self::each`].
    pub(super) fn each_in(
        &mut self,
        positions: Range<u64>,
        mut each: impl FnMut(Option<NodeKind>, u64, &EntryPath) -> Result<()>,
    ) -> Result<()> {
        let Some(file) = &mut self.file else { return Ok(()) };
        file.seek(SeekFrom::Start(positions.start)).map_err(failed)?;
        let mut reader = BufReader::new(file.get_ref());
        let mut position = positions.start;
        while position < positions.end {
            let mut head = [0; PATH_HEAD_BYTES];
            reader.read_exact(&mut head).map_err(failed)?;
            let [letter, bytes @ .., a, b, c, d] = head;
            let mut path = vec![0; u32::from_le_bytes([a, b, c, d]) as usize];
            reader.read_exact(&mut path).map_err(failed)?;
            position += (PATH_HEAD_BYTES + path.len()) as u64;
            let path = EntryPath::new(path)
                .map_err(|why| Error::new(ErrorKind::Internal, format!("a path that was checked {why}")))?;
            each(NodeKind::from_letter(&char::from(letter).to_string()), u64::from_le_bytes(bytes), &path)?;
        }
        Ok(())
    }
}
