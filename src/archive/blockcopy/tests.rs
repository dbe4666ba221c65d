//! Whatever comes, a record is refused or within its limits; what was written is read again.

use super::backup::{BackupRecord, START_LEN, Start};
use super::data::{self, Block, Coding, DataRecord};
use super::hasher::{Algorithm, Hasher, is_zero};
use super::hashes::{self, HashRecord};
use super::head::{Head, Identity, Stream};
use super::{BadRecord, MAX_BLOCK, MAX_POSITION, Tag, backup, xz};
use crate::archive::digest::{Blake3, blake3};
use proptest::prelude::*;

fn split(record: &[u8]) -> (Tag, &[u8]) {
    let (tag, head) = record.split_first_chunk().unwrap();
    (*tag, head)
}

fn hash_record(record: &[u8]) -> Result<HashRecord, BadRecord> {
    let (tag, head) = split(record);
    assert_eq!(HashRecord::length(tag), Ok(head.len()));
    HashRecord::parse(tag, head)
}

fn data_record(record: &[u8]) -> Result<DataRecord, BadRecord> {
    let (tag, head) = split(record);
    assert_eq!(DataRecord::length(tag), Ok(head.len()));
    DataRecord::parse(tag, head)
}

fn made(push: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    let mut record = Vec::new();
    push(&mut record);
    record
}

fn head() -> Head {
    let destination = Identity { is_device: false, size: 7, device: 8, inode: 9, modified_ns: -10 };
    Head {
        stream: Stream::Hashes,
        block: 4096,
        start: 5,
        end: None,
        destination: Some(destination),
        source_size: 0,
    }
}

#[test]
fn what_was_written_is_read() {
    for head in [
        head(),
        Head { destination: None, end: Some(99), ..head() },
        Head { stream: Stream::Data, source_size: MAX_POSITION, ..head() },
    ] {
        let record = made(|to| head.push(to));
        assert_eq!(hash_record(&record), Ok(HashRecord::Head(head)));
        assert_eq!(data_record(&record), Ok(DataRecord::Head(head)));
    }
    let hash = [3; 64];
    let block = HashRecord::Block { position: Some(1), length: 2, hash };
    assert_eq!(hash_record(&made(|to| hashes::push_block(to, 1, 2, &hash))), Ok(block));
    assert_eq!(hash_record(&made(|to| hashes::push_rest(to, 77))), Ok(HashRecord::Rest(77)));
    let zeros = HashRecord::Zeros { position: 1, length: 1 << 40 };
    assert_eq!(hash_record(&made(|to| hashes::push_zeros(to, 1, 1 << 40))), Ok(zeros));
    let span = made(|to| hashes::push_span(to, 9, 5000, &[1; 64]));
    assert_eq!(hash_record(&span[..16]), Ok(HashRecord::Span { position: 9, length: 5000 }));
    assert_eq!(span.len(), 16 + hashes::span_tail(5000, 4096));
    assert_eq!(hashes::span_hashes(9, 5000, &span[16..]), Ok(&[1; 64][..]));
    assert_eq!(hashes::span_hashes(8, 5000, &span[16..]), Err(BadRecord::Damaged));
    for coding in [Coding::Plain, Coding::Zstd] {
        let coded_length = if coding == Coding::Plain { 10 } else { 9 };
        let block = Block { position: 4, length: 10, coding, coded_length, hash: blake3(b"x") };
        assert_eq!(data_record(&made(|to| data::push_block(to, &block))), Ok(DataRecord::Block(block)));
    }
    let root = DataRecord::Root { end: 6, root: blake3(b"y") };
    assert_eq!(data_record(&made(|to| data::push_root(to, 6, &blake3(b"y")))), Ok(root));
    let start = Start { size: 12, is_device: true, device: 3, inode: 4 };
    assert_eq!(Start::parse(&<[u8; START_LEN]>::try_from(start.to_bytes()).unwrap()), Ok(start));
}

#[test]
fn numbers_beyond_their_limits_are_refused() {
    let data = |position, length| data_record(&made(|to| data::push_data(to, position, length)));
    assert!(data(MAX_POSITION - 5, 5).is_ok());
    assert_eq!(data(MAX_POSITION - 5, 6), Err(BadRecord::TooLarge));
    assert_eq!(data(u64::MAX, 0), Err(BadRecord::TooLarge));
    assert!(data(0, MAX_BLOCK).is_ok());
    assert_eq!(data(0, MAX_BLOCK + 1), Err(BadRecord::TooLarge));
    let run = |position, length| data_record(&made(|to| data::push_equal(to, position, length)));
    assert_eq!(run(5, MAX_POSITION - 4), Err(BadRecord::TooLarge));
    for block in [0, 1, 4095, MAX_BLOCK + 1] {
        let record = made(|to| Head { block, ..head() }.push(to));
        assert_eq!(hash_record(&record), Err(BadRecord::TooLarge));
    }
    let mut later = made(|to| head().push(to));
    later[4] = 2;
    assert_eq!(hash_record(&later), Err(BadRecord::Newer));
}

#[test]
fn xz_streams_are_whole_single_and_bounded() {
    let content = b"all work and no play ".repeat(5000);
    let (mut stream, mut found) = (Vec::new(), Vec::new());
    assert!(xz::encode(&content, &mut stream));
    xz::decode(&stream, content.len(), &mut found).unwrap();
    assert!(found == content);
    assert_eq!(xz::decode(&stream, content.len() - 1, &mut found), Err(xz::XzError::TooLarge));
    assert!(xz::decode(&stream[..stream.len() - 1], content.len(), &mut found).is_err());
    assert_eq!(
        xz::decode(&[&stream[..], b"x"].concat(), content.len(), &mut found),
        Err(xz::XzError::NotWhole)
    );
    assert!(xz::decode(b"", 10, &mut found).is_err());
    let mut noise = Vec::new();
    for number in 0..1000_u32 {
        noise.extend(blake3(&number.to_be_bytes()).as_bytes());
    }
    assert!(!xz::encode(&noise, &mut stream), "it became larger");
    assert!(!xz::encode(b"", &mut stream));
    let mut bomb = Vec::new();
    assert!(xz::encode(&vec![0; 100 << 20], &mut bomb));
    let mut found = Vec::new();
    assert_eq!(xz::decode(&bomb, 1 << 20, &mut found), Err(xz::XzError::TooLarge));
    assert!(found.capacity() <= (1 << 20) + 1);
    // A buffer that was used before may have room for more than is allowed.
    let mut found = Vec::with_capacity(20 << 20);
    assert_eq!(xz::decode(&bomb, 16 << 20, &mut found), Err(xz::XzError::TooLarge));
}

#[test]
fn hashes_of_zeros_are_those_of_zeros() {
    for (algorithm, block) in [(Algorithm::Sha3, 1000), (Algorithm::Blake3, 1000)] {
        let hasher = Hasher::new(algorithm, block);
        let (zeros, mut almost) = (vec![0; 1000], vec![0; 1000]);
        almost[999] = 1;
        let all = hasher.each(&[&zeros, &almost, &zeros[..999], &zeros]);
        let hashes: Vec<&[u8]> = all.chunks(hasher.width()).collect();
        assert_eq!((hashes[0], hashes[3]), (hasher.zero(), hasher.zero()));
        assert!(hashes[1] != hasher.zero() && hashes[2] != hasher.zero() && hashes[1] != hashes[2]);
        assert_eq!(hasher.each(&[&almost]), hashes[1]);
    }
    assert!(is_zero(&[]) && is_zero(&[0]) && is_zero(&[0; 65]) && !is_zero(&[1]));
    for at in [0, 63, 64, 65, 199] {
        let mut bytes = [0; 200];
        bytes[at] = 1;
        assert!(!is_zero(&bytes), "{at}");
    }
}

proptest! {
    #[test]
    fn any_bytes_are_refused_or_within_the_limits(tag in 0..12usize, bytes in proptest::collection::vec(any::<u8>(), 0..100)) {
        let tags = [b"Hash", b"hash", b"rest", b"done", b"tlbc", b"tlhs", b"tlzr", b"data", b"dlzm", b"tleq", b"tlbl", b"tlrt"];
        let tag = *tags[tag];
        if let Ok(HashRecord::Block { length, .. }) = HashRecord::parse(tag, &bytes) {
            prop_assert!(length <= MAX_BLOCK);
        }
        if let Ok(DataRecord::Data { position, length } | DataRecord::Xz { position, length }) = DataRecord::parse(tag, &bytes) {
            prop_assert!(length <= MAX_BLOCK && position + u64::from(length) <= MAX_POSITION);
        }
        let mut content = Vec::new();
        let _ = xz::decode(&bytes, 1000, &mut content);
    }

    #[test]
    fn a_flipped_bit_of_ours_is_damage(at in any::<prop::sample::Index>(), bit in 0..8u8, which in 0..5usize) {
        let hash: Blake3 = blake3(b"z");
        let block = Block { position: 4, length: 10, coding: Coding::Plain, coded_length: 10, hash };
        let mut record = made(|to| match which {
            0 => data::push_equal(to, 4, 5),
            1 => data::push_block(to, &block),
            2 => data::push_root(to, 4, &hash),
            3 => head().push(to),
            _ => backup::push_old(to, 4, 5, &hash),
        });
        let at = 4 + at.index(record.len() - 4);
        record[at] ^= 1 << bit;
        let (tag, bytes) = split(&record);
        prop_assert!(DataRecord::parse(tag, bytes).is_err());
        prop_assert!(BackupRecord::parse(tag, bytes).is_err());
    }
}
