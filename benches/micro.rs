//! Micro-benchmarks of what the program spends its time on: `cargo bench --bench micro`, or with a
//! word to choose.

#![allow(clippy::unwrap_used, missing_docs)]

use divan::counter::{BytesCount, ItemsCount};
use divan::{Bencher, black_box};
use md5::Digest;
use std::ops::ControlFlow;
use tar_like::archive::codec::{self, Compression};
use tar_like::archive::digest::{blake3, md5_of_each};
use tar_like::archive::entry::{FileEntry, Meta};
use tar_like::archive::intake::Intake;
use tar_like::archive::md5::{Instructions, Stream, digest_many_with, update_pair};
use tar_like::archive::path::EntryPath;
use tar_like::db::index_read::IndexReader;
use tar_like::db::index_write::IndexWriter;
use tar_like::sink::disk::{DiskSink, FolderCache};
use tar_like::sink::{Sink, Storage};

fn main() {
    divan::main();
}

/// Bytes with the statistics of text: compressible to about a half.
fn text(length: usize) -> Vec<u8> {
    let mut state = 1_u32;
    (0..length)
        .map(|_| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            b"etaoin shrdlu \n.,"[(state >> 24) as usize * 17 / 256 % 17]
        })
        .collect()
}

const MIB: usize = 1 << 20;

mod md5_of {
    use super::*;

    #[divan::bench]
    fn one_content_by_the_md5_crate(bencher: Bencher) {
        let content = text(MIB);
        bencher.counter(BytesCount::new(MIB)).bench_local(|| md5::Md5::digest(black_box(&content)));
    }

    #[divan::bench]
    fn one_content(bencher: Bencher) {
        let content = text(MIB);
        bencher.counter(BytesCount::new(MIB)).bench_local(|| {
            let mut stream = Stream::default();
            stream.update(black_box(&content));
            stream.finish()
        });
    }

    #[divan::bench]
    fn two_contents_side_by_side(bencher: Bencher) {
        let content = text(MIB);
        bencher.counter(BytesCount::new(2 * MIB)).bench_local(|| {
            let (mut a, mut b) = (Stream::default(), Stream::default());
            update_pair((&mut a, black_box(&content)), (&mut b, black_box(&content)));
            (a.finish(), b.finish())
        });
    }

    #[divan::bench(args = [300, 4_096, 13_000], consts = [0, 1, 2])]
    fn many_contents_by_avx512_avx2_base<const I: usize>(bencher: Bencher, length: usize) {
        let content = text(256 * length);
        let contents: Vec<&[u8]> = content.chunks(length).collect();
        bencher
            .counter(BytesCount::new(content.len()))
            .bench_local(|| digest_many_with(Instructions::ALL[I], black_box(&contents)));
    }

    #[divan::bench]
    fn contents_of_very_different_lengths(bencher: Bencher) {
        let content = text(4 * MIB);
        let mut contents: Vec<&[u8]> = Vec::new();
        let mut rest = &content[..];
        for number in 0.. {
            let length = (200 << (number * 7 % 12)).min(rest.len());
            let (head, tail) = rest.split_at(length);
            contents.push(head);
            rest = tail;
            if rest.is_empty() {
                break;
            }
        }
        bencher.counter(BytesCount::new(content.len())).bench_local(|| md5_of_each(black_box(&contents)));
    }

    #[divan::bench]
    fn blake3_for_comparison(bencher: Bencher) {
        let content = text(MIB);
        bencher.counter(BytesCount::new(MIB)).bench_local(|| blake3(black_box(&content)));
    }
}

mod frames {
    use super::*;

    const BLOCK: usize = 30_000_000;

    #[divan::bench(args = ["lz4", "stored"], sample_count = 10)]
    fn encode(bencher: Bencher, how: &str) {
        let (content, mut frame) = (text(BLOCK), Vec::new());
        let how = if how == "lz4" { Compression::Lz4 } else { Compression::None };
        bencher
            .counter(BytesCount::new(BLOCK))
            .bench_local(|| codec::encode(black_box(&content), how, &mut frame));
    }

    #[divan::bench(sample_count = 10)]
    fn decode(bencher: Bencher) {
        let (content, mut frame, mut back) = (text(BLOCK), Vec::new(), Vec::new());
        codec::encode(&content, Compression::Lz4, &mut frame);
        bencher
            .counter(BytesCount::new(BLOCK))
            .bench_local(|| codec::decode(black_box(&frame), BLOCK, &mut back));
    }

    #[divan::bench(sample_count = 10)]
    fn take_in_stored_pieces_of_64_kib(bencher: Bencher) {
        let (content, mut frame, mut out) = (text(BLOCK), Vec::new(), Vec::with_capacity(BLOCK));
        codec::encode(&content, Compression::None, &mut frame);
        bencher.counter(BytesCount::new(BLOCK)).bench_local(|| {
            out.clear();
            let mut intake = Intake::default();
            frame.chunks(65_536).for_each(|piece| intake.feed(piece, &mut out));
            intake.finish(&mut out)
        });
    }
}

fn entry(id: u64, size: u64, content: &[u8]) -> FileEntry {
    FileEntry {
        id,
        path: EntryPath::new(format!("folder-{:05}/file-{id:08}", id / 100).into_bytes()).unwrap(),
        size,
        offset: id * size,
        fragmented: false,
        md5: Some([7; 16].into()),
        blake3: Some(blake3(content)),
        meta: Some(Meta { mode: 0o644, mtime_ns: 1_700_000_000_123_456_789, uid: 0, gid: 0 }),
        origin: None,
        object: None,
    }
}

mod index {
    use super::*;

    /// What a block of 30 MB asks for: some 10 files somewhere in a million.
    #[divan::bench]
    fn look_up_a_block_among_a_million_rows(bencher: Bencher) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("index");
        let mut writer = IndexWriter::create(&path).unwrap();
        for id in 0..1_000_000 {
            writer.file(&entry(id, 3_000_000, b"")).unwrap();
        }
        writer.finish(b"", 1, 0).unwrap();
        let (reader, mut at) = (IndexReader::open(&path).unwrap(), 0);
        bencher.bench_local(|| {
            at = (at + 7_777_777_777_777) % 2_999_000_000_000;
            let mut files = 0;
            reader
                .files_in(at..at + 30_000_000, |_| {
                    files += 1;
                    Ok(ControlFlow::Continue(()))
                })
                .unwrap();
            files
        });
    }

    #[divan::bench(sample_count = 5)]
    fn write_100_000_rows(bencher: Bencher) {
        let rows: Vec<FileEntry> = (0..100_000).map(|id| entry(id, 100, b"")).collect();
        bencher.counter(ItemsCount::new(rows.len())).bench_local(|| {
            let folder = tempfile::tempdir().unwrap();
            let mut writer = IndexWriter::create(&folder.path().join("index")).unwrap();
            rows.iter().for_each(|row| writer.file(row).unwrap());
            writer.finish(b"", 1, 0).unwrap()
        });
    }
}

mod receive {
    use super::*;

    #[divan::bench(sample_count = 20)]
    fn stage_and_publish_1000_files_of_4_kib(bencher: Bencher) {
        let content = text(4096);
        let files: Vec<FileEntry> = (0..1000).map(|id| entry(id, 4096, &content)).collect();
        bencher
            .counter(ItemsCount::new(files.len()))
            .with_inputs(|| tempfile::tempdir().unwrap())
            .bench_local_values(|base| {
                let sink = DiskSink::open(base.path()).unwrap();
                let (staging, mut cache) = (sink.staging("0.1").unwrap(), FolderCache::default());
                for file in &files {
                    staging.write_whole(file, [&content[..]]).unwrap();
                }
                sink.sync().unwrap();
                for file in &files {
                    sink.publish(&staging, file.id, &file.path, &mut cache).unwrap();
                }
                base
            });
    }
}
