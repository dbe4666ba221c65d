//! An index on the wire: its SQLite file as one LZ4 frame, of any size, through files.

use crate::archive::codec::{FrameError, frame_info, walk_frame};
use crate::error::{Error, ErrorKind, Result};
use lz4_flex::frame::{FrameDecoder, FrameEncoder};
use std::cmp::Ordering;
use std::fs::File;
use std::io::{BufReader, Read, Seek, Write};
use std::os::unix::fs::FileExt;
use std::path::Path;

/// Compresses the index at `path` into a file without a name in the folder `scratch`, positioned at
/// its start; gives its length in bytes, too.
///
/// # Errors
/// The index cannot be read, or the temporary folder cannot be written to.
pub fn pack(path: &Path, scratch: &Path) -> Result<(File, u64)> {
    let source =
        File::open(path).map_err(|e| Error::io(format!("cannot open the index {}", path.display()), e))?;
    let pack = || -> std::io::Result<(File, u64)> {
        let mut encoder = FrameEncoder::with_frame_info(frame_info(), tempfile::tempfile_in(scratch)?);
        std::io::copy(&mut BufReader::with_capacity(1 << 20, source), &mut encoder)?;
        let mut body = encoder.finish().map_err(std::io::Error::other)?;
        let length = body.stream_position()?;
        body.rewind()?;
        Ok((body, length))
    };
    pack().map_err(|e| {
        Error::io(format!("cannot compress the index into the temporary folder {}", scratch.display()), e)
            .with_hint("set TMPDIR to a folder with as much free space as the index has")
    })
}

/// Compresses the batches of a change, each behind its length, into such a file; gives its length
/// in bytes, too.
///
/// # Errors
/// The temporary folder cannot be written to, or `batches` fails.
pub fn pack_change(
    scratch: &Path,
    batches: impl FnOnce(&mut dyn FnMut(Vec<u8>) -> Result<()>) -> Result<()>,
) -> Result<(File, u64)> {
    let failed = |e: std::io::Error| {
        let what = format!(
            "cannot compress the change of the index into the temporary folder {}",
            scratch.display()
        );
        Error::io(what, e).with_hint("set TMPDIR to a folder with more free space")
    };
    let target = tempfile::tempfile_in(scratch).map_err(failed)?;
    let mut encoder = FrameEncoder::with_frame_info(frame_info(), target);
    batches(&mut |batch| {
        // A batch is at most a few MiB.
        let length = (batch.len() as u32).to_le_bytes();
        encoder.write_all(&length).and_then(|()| encoder.write_all(&batch)).map_err(failed)
    })?;
    let mut body = encoder.finish().map_err(|e| failed(std::io::Error::other(e)))?;
    let length = body.stream_position().map_err(failed)?;
    body.rewind().map_err(failed)?;
    Ok((body, length))
}

/// What a body is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A whole index.
    Index,
    /// A change of one.
    Change,
}

/// How an SQLite database begins ([the database
/// header](https://www.sqlite.org/fileformat.html#the_database_header)).
const MAGIC: &[u8] = b"SQLite format 3\0";

/// Decompresses `body` into a new file at `target`, at most `limit_bytes` and not more than
/// `room_bytes`, which is the disk's share.
///
/// # Errors
/// The body is no whole LZ4 frame of what it should be ([`ErrorKind::BadIndex`]), its content is
/// over the limit ([`ErrorKind::TooLarge`]), or the disk is full ([`ErrorKind::NoSpace`]).
pub fn unpack(body: &Path, target: &Path, kind: Kind, limit_bytes: u64, room_bytes: u64) -> Result<()> {
    let io = |e: std::io::Error| Error::io("cannot unpack the uploaded index", e).limited();
    let bad = |why: &dyn std::fmt::Display| {
        Error::new(ErrorKind::BadIndex, format!("the uploaded index is no LZ4 frame: {why}"))
    };
    let body = File::open(body).map_err(io)?;
    let end = walk_frame(|at, bytes| body.read_exact_at(bytes, at).ok()).map_err(|e| bad(&e))?;
    match body.metadata().map_err(io)?.len().cmp(&end) {
        Ordering::Less => return Err(bad(&FrameError::Cut)),
        Ordering::Greater => return Err(bad(&FrameError::Trailing)),
        Ordering::Equal => {}
    }
    let mut decoder = FrameDecoder::new(BufReader::with_capacity(1 << 20, body));
    let mut target = File::create_new(target).map_err(io)?;
    let mut buffer = vec![0; 1 << 18];
    let mut written = 0;
    loop {
        let n = decoder.read(&mut buffer).map_err(|e| bad(&e))?;
        if n == 0 {
            break;
        }
        // What is none would be written at its whole length first: LZ4 makes gigabytes of
        // megabytes.
        if written == 0 && kind == Kind::Index && !buffer[..n].starts_with(MAGIC) {
            return Err(Error::new(ErrorKind::BadIndex, "the uploaded index is no SQLite database"));
        }
        written += n as u64;
        if written > limit_bytes {
            return Err(Error::new(
                ErrorKind::TooLarge,
                format!("the uploaded index is larger than {limit_bytes} bytes"),
            )
            .with_hint("start the proxy with a larger --max-index-size"));
        }
        if written > room_bytes {
            let what = format!(
                "no space: the uploaded index has more than {room_bytes} bytes, half of what is free"
            );
            return Err(Error::new(ErrorKind::NoSpace, what).with_hint("free space on the receiver's disk"));
        }
        target.write_all(&buffer[..n]).map_err(io)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn round_trip_limit_and_garbage() {
        let folder = tempfile::tempdir().unwrap();
        let (index, body) = (folder.path().join("index"), folder.path().join("body"));
        std::fs::write(&index, b"SQLite format 3\0 ".repeat(100_000)).unwrap();
        let (mut packed, length) = pack(&index, folder.path()).unwrap();
        let mut bytes = Vec::new();
        packed.read_to_end(&mut bytes).unwrap();
        assert_eq!(bytes.len() as u64, length);
        std::fs::write(&body, &bytes).unwrap();
        unpack(&body, &folder.path().join("a"), Kind::Index, 1_700_000, u64::MAX).unwrap();
        assert_eq!(std::fs::read(folder.path().join("a")).unwrap(), std::fs::read(&index).unwrap());
        assert_eq!(
            unpack(&body, &folder.path().join("b"), Kind::Index, 1_699_999, u64::MAX).unwrap_err().kind(),
            ErrorKind::TooLarge
        );
        std::fs::write(&body, &bytes[..bytes.len() - 4]).unwrap();
        assert_eq!(
            unpack(&body, &folder.path().join("e"), Kind::Index, 1 << 30, u64::MAX).unwrap_err().kind(),
            ErrorKind::BadIndex
        );
        bytes.push(0);
        std::fs::write(&body, &bytes).unwrap();
        assert_eq!(
            unpack(&body, &folder.path().join("c"), Kind::Index, 1 << 30, u64::MAX).unwrap_err().kind(),
            ErrorKind::BadIndex
        );
        std::fs::write(&body, b"GET /").unwrap();
        assert_eq!(
            unpack(&body, &folder.path().join("d"), Kind::Index, 1 << 30, u64::MAX).unwrap_err().kind(),
            ErrorKind::BadIndex
        );
    }
}
