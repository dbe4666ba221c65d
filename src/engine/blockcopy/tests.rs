//! Any source, any destination, any cut and any damage of any stream: equal at the end, or an error
//! and a destination that `undo` brings back. The streams are files here, one process after the
//! other; real pipes are in tests/it/blockcopy.

use super::backup::undo;
use super::checksum::{ChecksumInput, ChecksumOptions, checksum};
use super::retrieve::{Compress, RetrieveOptions, retrieve};
use super::save::{SaveOptions, save};
use crate::archive::blockcopy::backup::{BackupRecord, START_LEN, Start, push_batch, push_old};
use crate::archive::blockcopy::head::{Head, Stream};
use crate::archive::blockcopy::{DONE, data, hashes};
use crate::archive::digest::blake3;
use crate::error::Result;
use crate::telemetry::Silent;
use proptest::prelude::*;
use std::fs::File;
use std::path::PathBuf;

/// A piece of content: how long, and what.
#[derive(Debug, Clone)]
enum Piece {
    Zeros(usize),
    Noise(usize, u8),
    Text(usize),
}

fn content(pieces: &[Piece]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for piece in pieces {
        let start = bytes.len();
        match *piece {
            Piece::Zeros(length) => bytes.resize(start + length, 0),
            Piece::Noise(length, seed) => {
                let mut state = 0x9e37_79b9_7f4a_7c15 ^ u64::from(seed);
                bytes.extend(
                    std::iter::repeat_with(|| {
                        state ^= state << 13;
                        state ^= state >> 7;
                        state ^= state << 17;
                        state as u8
                    })
                    .take(length),
                );
            }
            Piece::Text(length) => bytes.extend(b"all work and no play ".iter().cycle().take(length)),
        }
    }
    bytes
}

/// Lengths around what matters: blocks of either sort, and nothing.
fn length() -> impl Strategy<Value = usize> {
    prop_oneof![Just(0), Just(1), 1..5000usize, Just(4096), Just(8192), Just(131_072), 100_000..200_000usize]
}

fn pieces() -> impl Strategy<Value = Vec<Piece>> {
    let piece = prop_oneof![
        length().prop_map(Piece::Zeros),
        (length(), 0..4u8).prop_map(|(length, seed)| Piece::Noise(length, seed)),
        length().prop_map(Piece::Text),
    ];
    proptest::collection::vec(piece, 0..6)
}

/// A source and a destination that often have something in common.
fn pair() -> impl Strategy<Value = (Vec<u8>, Vec<u8>)> {
    let edit = (any::<prop::sample::Index>(), 0..9000usize);
    (pieces(), proptest::option::of(pieces()), proptest::collection::vec(edit, 0..4), 0..3u8, length())
        .prop_map(|(source, other, edits, tail, length)| {
            let source = content(&source);
            let mut old = other.map_or_else(|| source.clone(), |other| content(&other));
            for (at, length) in edits {
                let at = at.index(old.len() + 1);
                let end = (at + length).min(old.len());
                old[at..end].iter_mut().for_each(|byte| *byte = byte.wrapping_add(1));
            }
            match tail {
                0 => old.truncate(old.len().saturating_sub(length)),
                1 => old.resize(old.len() + length, 7),
                _ => {}
            }
            (source, old)
        })
}

#[derive(Debug, Clone)]
struct Way {
    native: Option<u32>,
    xz: bool,
    compress: bool,
    sparse: bool,
    backup: bool,
}

fn way() -> impl Strategy<Value = Way> {
    let native = prop_oneof![Just(None), Just(Some(4096)), Just(Some(16_384)), Just(Some(262_144))];
    // xz takes long.
    let xz = prop_oneof![9 => Just(false), 1 => Just(true)];
    (native, xz, any::<bool>(), any::<bool>(), any::<bool>())
        .prop_map(|(native, xz, compress, sparse, backup)| Way { native, xz, compress, sparse, backup })
}

struct Lab {
    dir: tempfile::TempDir,
    way: Way,
}

impl Lab {
    fn new(way: &Way, source: &[u8], old: &[u8]) -> Self {
        // In memory, if there is such a folder: every run waits for the disk otherwise.
        let dir = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap();
        let lab = Self { dir, way: way.clone() };
        // With holes where there are zeros, as sparse files have them.
        write_sparse(&lab.path("source"), source);
        write_sparse(&lab.path("old"), old);
        lab
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn make(&self, name: &str) -> File {
        File::create(self.path(name)).unwrap()
    }

    fn checksum(&self) -> Result<()> {
        let options = ChecksumOptions {
            input: ChecksumInput::Path(self.path("old")),
            start: 0,
            end: None,
            native: self.way.native,
            threads: 2,
        };
        checksum(options, self.make("hashes"), &Silent::default()).map(drop)
    }

    fn retrieve(&self) -> Result<()> {
        let compress = if self.way.compress { Compress::Zstd } else { Compress::Auto };
        let options = RetrieveOptions { source: self.path("source"), xz: self.way.xz, compress, threads: 2 };
        let hashes = File::open(self.path("hashes")).unwrap();
        retrieve(&options, hashes, self.make("data"), &Silent::default()).map(drop)
    }

    fn save(&self) -> Result<()> {
        let options = SaveOptions {
            destination: self.path("old"),
            backup: self.way.backup.then(|| self.path("backup")),
            sparse: self.way.sparse,
            dry_run: false,
            verify: self.way.native.is_some(),
            threads: 2,
        };
        save(&options, File::open(self.path("data")).unwrap(), &Silent::default()).map(drop)
    }

    fn undo(&self) -> Result<()> {
        undo(&self.path("backup"), &self.path("old"), false, &Silent::default()).map(drop)
    }

    fn read(&self, name: &str) -> Vec<u8> {
        std::fs::read(self.path(name)).unwrap()
    }

    /// Changes what a file has.
    fn change(&self, name: &str, change: impl FnOnce(&mut Vec<u8>)) {
        let mut bytes = self.read(name);
        change(&mut bytes);
        std::fs::write(self.path(name), bytes).unwrap();
    }
}

fn write_sparse(path: &std::path::Path, content: &[u8]) {
    use std::os::unix::fs::FileExt;
    let file = File::create(path).unwrap();
    file.set_len(content.len() as u64).unwrap();
    for (number, piece) in content.chunks(4096).enumerate() {
        if piece.iter().any(|&byte| byte != 0) {
            file.write_all_at(piece, number as u64 * 4096).unwrap();
        }
    }
}

/// What the destination has to be: the original knows nothing of a tail.
fn wanted(way: &Way, source: &[u8], old: &[u8]) -> Vec<u8> {
    let mut wanted = source.to_vec();
    if way.native.is_none() {
        wanted.extend(old.get(source.len()..).unwrap_or_default());
    }
    wanted
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn any_source_over_any_destination((source, old) in pair(), way in way()) {
        let lab = Lab::new(&way, &source, &old);
        lab.checksum().unwrap();
        lab.retrieve().unwrap();
        lab.save().unwrap();
        prop_assert!(lab.read("old") == wanted(&way, &source, &old));
        if way.backup {
            for _ in 0..2 {
                lab.undo().unwrap();
                prop_assert!(lab.read("old") == old);
            }
        }
    }

    #[test]
    fn any_cut_of_any_stream_is_an_error_and_can_be_undone(
        (source, old) in pair(), way in way(), which in any::<bool>(), at in any::<prop::sample::Index>(),
    ) {
        let way = Way { backup: true, ..way };
        let lab = Lab::new(&way, &source, &old);
        lab.checksum().unwrap();
        if which {
            lab.change("hashes", |bytes| bytes.truncate(at.index(bytes.len())));
            prop_assert!(lab.retrieve().is_err());
        } else {
            lab.retrieve().unwrap();
            lab.change("data", |bytes| bytes.truncate(at.index(bytes.len())));
        }
        let error = lab.save().unwrap_err();
        prop_assert!(error.to_string().contains("retrieve"), "{}", error);
        lab.undo().unwrap();
        prop_assert!(lab.read("old") == old);
    }

    /// Of our own streams, no changed bit passes: it is an error, or (in a hash) more is sent.
    #[test]
    fn any_flipped_bit_of_our_streams_is_an_error_or_means_nothing(
        (source, old) in pair(), way in way(), block in prop_oneof![Just(4096), Just(262_144)],
        which in any::<bool>(), at in any::<prop::sample::Index>(), bit in 0..8u8,
    ) {
        let way = Way { native: Some(block), backup: true, ..way };
        let lab = Lab::new(&way, &source, &old);
        let flip = |bytes: &mut Vec<u8>| { let at = at.index(bytes.len()); bytes[at] ^= 1 << bit; };
        lab.checksum().unwrap();
        if which {
            lab.change("hashes", flip);
        }
        let mut ended = lab.retrieve();
        if !which {
            lab.change("data", flip);
        }
        ended = ended.and(lab.save());
        match ended {
            Ok(()) => prop_assert!(lab.read("old") == source),
            Err(_) if lab.path("backup").exists() => {
                lab.undo().unwrap();
                prop_assert!(lab.read("old") == old);
            }
            Err(_) => prop_assert!(lab.read("old") == old),
        }
    }

    /// A backup that was torn in its last batch had not been followed by writes there: what is
    /// whole of it is put back.
    #[test]
    fn a_torn_backup_is_taken_as_far_as_it_goes_and_a_damaged_one_refused(
        (source, old) in pair(), at in any::<prop::sample::Index>(), cut in any::<bool>(),
    ) {
        let way = Way { native: Some(4096), xz: false, compress: false, sparse: false, backup: true };
        let lab = Lab::new(&way, &source, &old);
        lab.checksum().unwrap();
        lab.retrieve().unwrap();
        lab.save().unwrap();
        let whole = lab.read("backup");
        let at = START_LEN + at.index(whole.len() - START_LEN);
        // The end's mark makes damage before it certain; a file that is cut before its batch was
        // followed by nothing.
        lab.change("backup", |bytes| if cut { bytes.truncate(at) } else { bytes[at] ^= 1 });
        let mark = whole.len() - 20;
        if cut {
            std::fs::write(lab.path("old"), &old).unwrap();
            lab.undo().unwrap();
            prop_assert!(lab.read("old") == old);
        } else if at < mark {
            prop_assert!(lab.undo().is_err());
            prop_assert!(lab.read("old") == source, "something was written");
        }
    }

    #[test]
    fn a_part_of_it((source, old) in pair(), way in way(), start in 0..9000u64, length in 0..200_000u64) {
        let way = Way { backup: false, ..way };
        let lab = Lab::new(&way, &source, &old);
        let options = ChecksumOptions {
            input: ChecksumInput::Path(lab.path("old")), start, end: Some(start + length), native: way.native, threads: 2,
        };
        checksum(options, lab.make("hashes"), &Silent::default()).unwrap();
        lab.retrieve().unwrap();
        lab.save().unwrap();
        let (new, start) = (lab.read("old"), start as usize);
        let end = (start + length as usize).min(source.len());
        if start < end {
            prop_assert!(new.get(start..end) == source.get(start..end));
        }
        let before = start.min(old.len());
        prop_assert!(new.get(..before) == old.get(..before));
        // A part ends where it was said; the original's stream has no word for an end that lies
        // behind the destination's.
        if way.native.is_some() || start + (length as usize) < old.len() {
            prop_assert!(new.get(end.max(start)..) == old.get(end.max(start)..) || new.len() <= end.max(start));
        }
    }

    #[test]
    fn a_pipe_hashes_as_a_file_does((_, old) in pair(), way in way(), start in 0..9000u64, part in any::<bool>()) {
        let lab = Lab::new(&way, b"", &old);
        let end = part.then_some(start + 50_000);
        let run = |input, name| {
            let options = ChecksumOptions { input, start, end, native: way.native, threads: 2 };
            checksum(options, lab.make(name), &Silent::default()).unwrap();
            lab.read(name)
        };
        let file = run(ChecksumInput::Path(lab.path("old")), "a");
        let pipe = run(ChecksumInput::Pipe(File::open(lab.path("old")).unwrap()), "b");
        if way.native.is_none() && start <= old.len() as u64 {
            prop_assert!(file == pipe);
        }
    }
}

const ORIGINAL: Way = Way { native: None, xz: false, compress: false, sparse: false, backup: true };

#[test]
fn an_undo_of_another_file_is_refused() {
    let lab = Lab::new(&ORIGINAL, b"new content", b"old content");
    lab.checksum().unwrap();
    lab.retrieve().unwrap();
    lab.save().unwrap();
    std::fs::write(lab.path("other"), b"something else, which is longer").unwrap();
    let undo_other = |moved| undo(&lab.path("backup"), &lab.path("other"), moved, &Silent::default());
    let error = undo_other(false).unwrap_err();
    assert!(error.to_string().contains("another file") && error.hint().unwrap().contains("--moved"));
    assert_eq!(lab.read("other"), b"something else, which is longer");
    undo_other(true).unwrap();
    assert_eq!(lab.read("other"), b"old content");
}

/// The system may have brought everything of the last batch to the disk but its mark.
#[test]
fn a_batch_without_its_mark_is_left_out() {
    use std::os::unix::fs::{FileExt, MetadataExt};
    let lab = Lab::new(&ORIGINAL, b"", &[]);
    let old = std::fs::OpenOptions::new().write(true).open(lab.path("old")).unwrap();
    old.set_len(48 << 20).unwrap();
    let stat = old.metadata().unwrap();
    let start = Start { size: 48 << 20, is_device: false, device: stat.dev(), inode: stat.ino() };
    let file = lab.make("backup");
    let mut head = start.to_bytes();
    push_batch(&mut head, START_LEN as u64);
    let (mut at, piece) = (0, vec![0; 16 << 20]);
    for number in 0..3 {
        push_old(&mut head, number << 24, 16 << 20, &blake3(&piece));
        file.write_all_at(&head, at).unwrap();
        at += head.len() as u64 + (16 << 20);
        head.clear();
    }
    file.set_len(at + (17 << 20)).unwrap();
    let report = undo(&lab.path("backup"), &lab.path("old"), false, &Silent::default()).unwrap();
    assert_eq!((report.restored_bytes, report.torn_bytes), (48 << 20, 17 << 20));
}

/// Records of the original that are as small as can be: their heads count, too.
#[test]
fn batches_of_tiny_records_are_bounded() {
    let lab = Lab::new(&ORIGINAL, b"", &[7; 10_000]);
    let mut stream = Vec::new();
    for number in (0..10_000).rev() {
        data::push_data(&mut stream, number, 0);
        data::push_data(&mut stream, number, 1);
        stream.push(8);
    }
    stream.extend(DONE);
    std::fs::write(lab.path("data"), stream).unwrap();
    lab.save().unwrap();
    assert!(lab.read("old") == [8; 10_000]);
    let backup = lab.read("backup");
    let mut marks = Vec::new();
    for (at, window) in backup.windows(BackupRecord::MARK_LEN).enumerate() {
        let (tag, head) = window.split_first_chunk().unwrap();
        if BackupRecord::is_mark(*tag) && BackupRecord::parse(*tag, head).is_ok() {
            marks.push(at);
        }
    }
    assert!(marks.windows(2).all(|pair| pair[1] - pair[0] <= 64 << 10), "{marks:?}");
    lab.undo().unwrap();
    assert!(lab.read("old") == [7; 10_000]);
}

/// In the original's stream, blocks of zeros are not told from others, and small records are
/// written together.
#[test]
fn zeros_between_blocks_of_the_original_become_holes() {
    use std::os::unix::fs::MetadataExt;
    let mut source = vec![0; 1 << 20];
    source[..131_072].fill(1);
    source[(1 << 20) - 131_072..].fill(2);
    for backup in [false, true] {
        let way = Way { sparse: true, backup, ..ORIGINAL };
        let lab = Lab::new(&way, &source, &vec![7; 1 << 20]);
        lab.checksum().unwrap();
        lab.retrieve().unwrap();
        lab.save().unwrap();
        assert!(lab.read("old") == source);
        let blocks = std::fs::metadata(lab.path("old")).unwrap().blocks();
        assert!(blocks * 512 <= 3 * 131_072, "{blocks} blocks of 512 bytes");
    }
}

#[test]
fn a_span_that_is_longer_than_checksum_makes_is_refused() {
    let way = Way { native: Some(4096), ..ORIGINAL };
    let lab = Lab::new(&way, &[1; 5000], b"");
    for (blocks, is_fine) in [(256, true), (257, false)] {
        let mut stream = Vec::new();
        let head = Head {
            stream: Stream::Hashes,
            block: 4096,
            start: 0,
            end: None,
            destination: None,
            source_size: 0,
        };
        head.push(&mut stream);
        hashes::push_span(&mut stream, 0, blocks * 4096, &vec![0; blocks as usize * 32]);
        hashes::push_rest(&mut stream, u64::from(blocks) * 4096);
        stream.extend(DONE);
        std::fs::write(lab.path("hashes"), stream).unwrap();
        let ended = lab.retrieve();
        assert_eq!(ended.is_ok(), is_fine, "{blocks}: {ended:?}");
        assert!(is_fine || ended.unwrap_err().to_string().contains("beyond the limit"));
    }
}

/// A hole that was found before is not asked for again: the end has to be.
#[test]
fn a_hole_that_is_cut_off_meanwhile_is_an_error() {
    use std::io::{Read, Write};
    use std::os::fd::OwnedFd;
    let lab = Lab::new(&ORIGINAL, b"", b"");
    let size = 302 << 20;
    let source = lab.make("source");
    source.set_len(size).unwrap();
    let (hashes, mut to_retrieve) = std::io::pipe().unwrap();
    let (mut from_retrieve, data) = std::io::pipe().unwrap();
    let file = |pipe: OwnedFd| File::from(pipe);
    let options =
        RetrieveOptions { source: lab.path("source"), xz: false, compress: Compress::None, threads: 2 };
    let mut stream = Vec::new();
    let stream_of = Stream::Hashes;
    Head { stream: stream_of, block: 1 << 18, start: 0, end: None, destination: None, source_size: 0 }
        .push(&mut stream);
    hashes::push_span(&mut stream, 0, 1 << 20, &[0; 4 * 32]);
    hashes::push_zeros(&mut stream, 1 << 20, 300 << 20);
    let mut last = Vec::new();
    hashes::push_span(&mut last, 301 << 20, 1 << 20, &[0; 4 * 32]);
    last.extend(DONE);
    std::thread::scope(|scope| {
        let retrieved = scope
            .spawn(move || retrieve(&options, file(hashes.into()), file(data.into()), &Silent::default()));
        to_retrieve.write_all(&stream).unwrap();
        // Its head, and a run that is long enough to be told: it has seen the hole by then.
        from_retrieve.read_exact(&mut [0; 100]).unwrap();
        source.set_len(1 << 20).unwrap();
        to_retrieve.write_all(&last).unwrap();
        let _ = from_retrieve.read_to_end(&mut Vec::new());
        let error = retrieved.join().unwrap().unwrap_err();
        assert!(error.to_string().contains("became shorter"), "{error}");
    });
}
