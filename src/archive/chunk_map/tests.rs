use super::*;
use crate::archive::digest::{blake3, md5};
use proptest::prelude::*;

const MIB: usize = 1 << 20;
const MEAN: u32 = 1 << 16;

/// Bytes that look like chance, another sequence for each seed.
fn noise(length: usize, seed: u64) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut bytes = Vec::with_capacity(length + 8);
    while bytes.len() < length {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend(state.to_le_bytes());
    }
    bytes.truncate(length);
    bytes
}

fn hashed(content: &[u8]) -> Hashed {
    let mut hasher = ChunkMapHasher::new(MEAN, None, true);
    hasher.update(content);
    hasher.finish()
}

fn chunk_map(content: &[u8]) -> ChunkMap {
    hashed(content).chunk_map
}

/// Cuts `content` at places that `cuts` chooses.
fn pieces<'a>(content: &'a [u8], cuts: &[prop::sample::Index]) -> Vec<&'a [u8]> {
    let mut places: Vec<usize> = cuts.iter().map(|cut| cut.index(content.len() + 1)).collect();
    places.sort_unstable();
    let (mut pieces, mut at) = (Vec::new(), 0);
    for place in places {
        pieces.push(&content[at..place]);
        at = place;
    }
    pieces.push(&content[at..]);
    pieces
}

fn assert_right(hashed: &Hashed, content: &[u8]) {
    assert_eq!((hashed.md5, hashed.blake3), (Some(md5(content)), blake3(content)), "{} bytes", content.len());
    let chunk_map = &hashed.chunk_map;
    assert_eq!(chunk_map.size(), content.len() as u64);
    let mut rest = content;
    for chunk in chunk_map.chunks() {
        let (here, behind) = rest.split_at(chunk.length as usize);
        assert!(blake3(here).as_bytes().starts_with(&chunk.hash));
        rest = behind;
    }
    assert_eq!(rest, b"");
}

/// Lengths at which something begins or ends, and others.
fn lengths() -> impl Strategy<Value = usize> {
    let borders = (0..4_usize, -2..3_isize).prop_map(|(groups, by)| (groups * MIB).saturating_add_signed(by));
    prop_oneof![borders, 0..4 * MIB, 0..200_000_usize]
}

#[test]
fn chunks_are_those_of_the_crate() {
    let text: Vec<u8> =
        noise(3 * MIB, 5).iter().map(|byte| b"etaoin shrdlu\n"[usize::from(*byte) % 14]).collect();
    for (content, mean) in [
        (noise(6 * MIB, 1), 1 << 16),
        (noise(6 * MIB, 2), 1 << 18),
        (noise(6 * MIB, 3), 1 << 20),
        (text, 1 << 16),
        (vec![0; 3 * MIB], 1 << 16),
        ([noise(300_000, 4), vec![7; MIB], noise(400_000, 4)].concat(), 1 << 16),
    ] {
        let size = mean as usize;
        let of_crate: Vec<u32> = fastcdc::v2020::FastCDC::new(&content, size / 4, size, size * 4)
            .map(|chunk| chunk.length as u32)
            .collect();
        let (digest, ours) = chunk_map_of(&content, mean);
        let ours: Vec<u32> = ours.chunks().iter().map(|chunk| chunk.length).collect();
        assert_eq!(ours, of_crate);
        assert!(ours.len() > 2);
        assert_eq!(digest, blake3(&content));
    }
}

#[test]
fn golden() {
    let bytes = chunk_map(&noise(3 * MIB + 12_345, 7)).encode();
    // The format and the chunks are a promise to other versions: a change of this value is a new
    // format.
    assert_eq!(bytes.len(), 11 + 16 + 2 * 32 + 37 * 20);
    assert_eq!(
        blake3(&bytes).to_string(),
        "7c03a4aba6840e6cdf76137f75bad549edb631a6360eebcaec6ef2fa0effae08"
    );
    assert!(bytes.len() < 3 * MIB / 1000, "the table is less than 0.1 % of the data");
}

#[test]
fn means_grow_with_the_size_and_are_reused() {
    let gib = |count: u64| count << 30;
    for (size, mean) in
        [(0, 16), (gib(4), 16), (gib(4) + 1, 17), (gib(8), 17), (gib(256), 22), (u64::MAX, 22)]
    {
        assert_eq!(mean_chunk_for(size, None), 1 << mean, "{size}");
    }
    assert_eq!(mean_chunk_for(gib(30), Some(1 << 16)), 1 << 16);
    assert_eq!(mean_chunk_for(gib(300), Some(1 << 16)), 1 << 22, "too many chunks");
    assert_eq!(mean_chunk_for(1 << 20, Some(1 << 22)), 1 << 16, "too few");
    assert_eq!(mean_chunk_for(1 << 20, Some(100_000)), 1 << 16, "no mean");
}

#[test]
fn refuses_bytes_that_are_no_chunk_map() {
    let good = chunk_map(&noise(2 * MIB + 5, 9));
    let bytes = good.encode();
    assert_eq!(ChunkMap::decode(&bytes), Ok(good.clone()));
    for cut in 0..bytes.len() {
        assert!(ChunkMap::decode(&bytes[..cut]).is_err(), "cut at {cut}");
    }
    assert!(
        ChunkMap::decode(&[&bytes[..], &bytes[bytes.len() - 20..]].concat()).is_err(),
        "a chunk too many"
    );
    let with = |at: usize, byte: u8| {
        let mut bytes = bytes.clone();
        bytes[at] = byte;
        ChunkMap::decode(&bytes)
    };
    assert_eq!(with(0, 2), Err(ChunkMapError::Version(2)));
    let damaged = |result| matches!(result, Err(ChunkMapError::Damaged(_)));
    assert!(damaged(with(1, 15)) && damaged(with(1, 23)) && damaged(with(1, 200)), "means");
    assert!(damaged(with(2, 2)), "neither a state nor none");
    assert!(damaged(with(10, 0x80)), "larger than any file");
    assert!((3..11).all(|at| damaged(with(at, bytes[at] ^ 1))), "another size");
    // Lengths: of a chunk in the middle, and the last one.
    let chunks = bytes.len() - 20 * good.chunks().len();
    assert!(damaged(with(chunks + 2, 0)) && damaged(with(chunks + 2, 0xff)));
    let last =
        ChunkMap { size: 1, subtrees: Vec::new(), chunks: vec![Chunk { length: 1, hash: [0; 16] }], ..good };
    assert_eq!(ChunkMap::decode(&last.encode()), Ok(last.clone()));
    let nothing = ChunkMap { size: 0, chunks: Vec::new(), ..last.clone() };
    assert!(damaged(ChunkMap::decode(&nothing.encode())));
    let empty_chunk = ChunkMap { chunks: vec![Chunk { length: 0, hash: [0; 16] }], ..last };
    assert!(damaged(ChunkMap::decode(&empty_chunk.encode())));
}

/// How many bytes of the new content the old one does not have; checks the runs.
fn new_bytes(old: &[u8], new: &[u8]) -> u64 {
    let runs = diff(&chunk_map(old), &chunk_map(new));
    let (mut at, mut fresh) = (0, 0);
    for run in &runs {
        match *run {
            Run::Same { old_offset, length } => {
                let (from, length) = (old_offset as usize, length as usize);
                assert!(old[from..from + length] == new[at..at + length], "{run:?} at {at}");
                at += length;
            }
            Run::New { length } => {
                at += length as usize;
                fresh += length;
            }
        }
    }
    assert_eq!(at, new.len());
    let mergeable = |pair: &[Run]| match *pair {
        [Run::New { .. }, Run::New { .. }] => true,
        [Run::Same { old_offset, length }, Run::Same { old_offset: next, .. }] => old_offset + length == next,
        _ => false,
    };
    assert!(!runs.windows(2).any(mergeable), "{runs:?}");
    fresh
}

#[test]
fn a_diff_finds_what_stayed_and_what_moved() {
    let longest = 4 * u64::from(MEAN);
    let old = noise(8 * MIB, 1);
    assert_eq!(diff(&chunk_map(&old), &chunk_map(&old)), [Run::Same { old_offset: 0, length: 8 << 20 }]);
    let front = [b"x", &old[..]].concat();
    assert!((1..2 * longest).contains(&new_bytes(&old, &front)));
    let mut middle = old.clone();
    middle[4 * MIB] ^= 1;
    assert!((1..3 * longest).contains(&new_bytes(&old, &middle)));
    let grown = [&old[..], &noise(MIB, 2)].concat();
    assert!((1 << 20..(1 << 20) + longest).contains(&new_bytes(&old, &grown)));
    assert!(new_bytes(&old, &old[..5 * MIB]) < longest);
    let swapped = [&old[4 * MIB..], &old[..4 * MIB]].concat();
    assert!(new_bytes(&old, &swapped) < 4 * longest);
    assert_eq!(new_bytes(&old, &noise(2 * MIB, 3)), 2 << 20);
    assert_eq!(new_bytes(&[], &old), 8 << 20);
}

#[test]
fn of_equal_chunks_the_next_one_is_taken_then_the_one_at_the_same_place() {
    let chunk = |number: u8| Chunk { length: MEAN, hash: [number; 16] };
    let of = |numbers: &[u8]| ChunkMap {
        mean: MEAN,
        size: numbers.len() as u64 * u64::from(MEAN),
        md5_state: None,
        subtrees: Vec::new(),
        chunks: numbers.iter().map(|&number| chunk(number)).collect(),
    };
    let same = |from: u64, count: u64| Run::Same {
        old_offset: from * u64::from(MEAN),
        length: count * u64::from(MEAN),
    };
    let new = |count: u64| Run::New { length: count * u64::from(MEAN) };
    // 1 again, after what follows its second place: that second place goes on.
    assert_eq!(diff(&of(&[1, 2, 3, 1, 4]), &of(&[9, 3, 1, 4])), [new(1), same(2, 3)]);
    // After something new: the one at the same place, not the first.
    assert_eq!(diff(&of(&[1, 2, 1, 4]), &of(&[1, 9, 1, 4])), [same(0, 1), new(1), same(2, 2)]);
    assert_eq!(diff(&of(&[1, 1, 1]), &of(&[1, 1, 1, 1, 1])), [same(0, 3), same(0, 2)]);
}

#[test]
fn samples_show_what_changed() {
    let content = noise(8 * MIB, 1);
    let chunk_map = chunk_map(&content);
    let total = chunk_map.chunks().len();
    for (count, seed) in [(0, 1), (1, 1), (2, 5), (10, 6), (10, 7), (total, 8), (total + 9, 9)] {
        let samples = chunk_map.samples(count, seed);
        assert_eq!(samples.len(), count.min(total));
        assert!(samples.is_sorted_by(|a, b| a.offset + u64::from(a.length) <= b.offset));
        for sample in &samples {
            let start = sample.offset as usize;
            let mut part = content[start..start + sample.length as usize].to_vec();
            assert!(sample.matches(&part));
            assert!(!sample.matches(&part[1..]));
            part[0] ^= 1;
            assert!(!sample.matches(&part));
        }
        if count > 1 {
            let last = samples.last().unwrap();
            assert_eq!((samples[0].offset, last.offset + u64::from(last.length)), (0, chunk_map.size()));
        }
    }
    assert_ne!(chunk_map.samples(10, 6), chunk_map.samples(10, 7));
}

#[test]
fn what_has_become_shorter_is_noticed() {
    let content = noise(3 * MIB + 10, 1);
    let resumed = |size: usize| {
        let resume = Resume::new(&chunk_map(&content), true).unwrap();
        let start = resume.start() as usize;
        let mut hasher = resume.into_hasher();
        hasher.update(&content[start..size]);
        Some(hasher.finish()).filter(|hashed| hashed.prefix.is_some() && hashed.prefix_md5.is_some())
    };
    assert!(resumed(3 * MIB + 9).is_none() && resumed(3 * MIB).is_none());
    assert_right(&resumed(3 * MIB + 10).unwrap(), &content);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    #[test]
    fn pieces_do_not_matter(
        length in lengths(),
        seed in any::<u64>(),
        cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..12),
        prefix in any::<prop::sample::Index>(),
        beyond in any::<bool>(),
    ) {
        let content = noise(length, seed);
        let whole = hashed(&content);
        assert_right(&whole, &content);
        let prefix = if beyond { length + 1 } else { prefix.index(length + 1) };
        let mut hasher = ChunkMapHasher::new(MEAN, Some(prefix as u64), true);
        pieces(&content, &cuts).into_iter().for_each(|piece| hasher.update(piece));
        let again = hasher.finish();
        prop_assert_eq!((again.md5, again.blake3), (whole.md5, whole.blake3));
        prop_assert_eq!(&again.chunk_map, &whole.chunk_map);
        prop_assert_eq!(again.prefix, content.get(..prefix).map(blake3));
        prop_assert_eq!(again.prefix_md5, content.get(..prefix).map(md5));
        if length > 0 {
            prop_assert_eq!(ChunkMap::decode(&again.chunk_map.encode()), Ok(again.chunk_map));
        }
        let mut hasher = ChunkMapHasher::new(MEAN, Some(prefix as u64), false);
        hasher.update(&content);
        let of_blake3 = hasher.finish();
        prop_assert_eq!((of_blake3.md5, of_blake3.prefix_md5, of_blake3.prefix), (None, None, again.prefix));
        let (digest, without) = chunk_map_of(&content, MEAN);
        prop_assert_eq!(&of_blake3.chunk_map, &without);
        prop_assert_eq!((digest, without), (whole.blake3, ChunkMap { md5_state: None, ..whole.chunk_map }));
    }

    #[test]
    fn two_at_once_are_as_each_alone(
        lengths in (lengths(), lengths()),
        seed in any::<u64>(),
        cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..6),
    ) {
        let contents = [noise(lengths.0, seed), noise(lengths.1, !seed)];
        let [mut a, mut b] = [(); 2].map(|()| ChunkMapHasher::new(MEAN, None, true));
        for (a_piece, b_piece) in pieces(&contents[0], &cuts).into_iter().zip(pieces(&contents[1], &cuts)) {
            let (((a_md5, a), (b_md5, b)), pieces) = ((a.parts(), b.parts()), (a_piece, b_piece));
            Md5Part::update_pair((a_md5.unwrap(), pieces.0), (b_md5.unwrap(), pieces.1));
            a.update(a_piece);
            b.update(b_piece);
        }
        for (hashed_one, content) in [a, b].map(ChunkMapHasher::finish).into_iter().zip(&contents) {
            assert_right(&hashed_one, content);
            prop_assert_eq!(hashed_one.chunk_map, chunk_map(content));
        }
    }

    #[test]
    fn what_grew_is_resumed(
        previous in lengths(),
        more in lengths(),
        seed in any::<u64>(),
        cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..8),
    ) {
        prop_assume!(previous > 0);
        let content = noise(previous + more, seed);
        let resume = Resume::new(&chunk_map(&content[..previous]), true).unwrap();
        let start = resume.start() as usize;
        prop_assert!(start < previous);
        prop_assert!(previous - start <= MIB + 4 * MEAN as usize);
        let mut hasher = resume.into_hasher();
        pieces(&content[start..], &cuts).into_iter().for_each(|piece| hasher.update(piece));
        let resumed = hasher.finish();
        let whole = hashed(&content);
        prop_assert_eq!((resumed.md5, resumed.blake3), (whole.md5, whole.blake3));
        prop_assert_eq!(resumed.prefix, Some(blake3(&content[..previous])));
        prop_assert_eq!(resumed.prefix_md5, Some(md5(&content[..previous])));
        prop_assert_eq!(resumed.chunk_map, whole.chunk_map);
    }

    #[test]
    fn any_bytes_are_an_error_or_a_chunk_map(
        mean in 14..25_u8,
        has_state in 0..3_u8,
        size in prop_oneof![any::<u64>(), 0..3_u64 << 20],
        rest in prop::collection::vec(any::<u8>(), 0..200),
    ) {
        let bytes = [&[1, mean, has_state][..], &size.to_le_bytes(), &rest].concat();
        if let Ok(chunk_map) = ChunkMap::decode(&bytes) {
            prop_assert_eq!(chunk_map.encode(), bytes);
        }
        if let Ok(chunk_map) = ChunkMap::decode(&rest) {
            prop_assert_eq!(chunk_map.encode(), rest);
        }
    }

    #[test]
    fn a_diff_makes_up_the_new_content(
        old in lengths(),
        parts in prop::collection::vec((any::<prop::sample::Index>(), any::<prop::sample::Index>(), any::<bool>()), 0..5),
    ) {
        let old = noise(old, 1);
        let mut new = Vec::new();
        for (start, end, fresh) in parts {
            let (start, end) = (start.index(old.len() + 1), end.index(old.len() + 1));
            let part = &old[start.min(end)..start.max(end)];
            if fresh { new.extend(noise(part.len() / 8, new.len() as u64 + 2)) } else { new.extend(part) }
        }
        new_bytes(&old, &new);
    }
}

#[test]
fn a_prefix_leads_to_the_whole_and_only_if_it_is_the_known_one() {
    for size in [1, MIB - 1, MIB, MIB + 1, 3 * MIB, 7 * MIB + 5] {
        let content = noise(size + 2 * MIB + 77, size as u64);
        let (known, prefix) = (blake3(&content[..size]), KnownPrefix::of(&chunk_map(&content[..size]), 9, 1));
        let finish = |prefix: &KnownPrefix, known, end: usize| {
            let mut resumed = ResumedBlake3::new(prefix, size as u64, known)?;
            assert!(resumed.start() < size as u64 && size as u64 - resumed.start() <= MIB as u64);
            resumed.update(&content[resumed.start() as usize..end]);
            resumed.finish()
        };
        for end in [size, size + 1, content.len()] {
            assert_eq!(finish(&prefix, known, end), Some(blake3(&content[..end])), "{size} {end}");
        }
        assert_eq!(finish(&prefix, known, size - 1), None, "{size}: not all of the known one");
        assert_eq!(finish(&prefix, blake3(b"other"), content.len()), None, "{size}");
        let proves = |sample: &Sample| {
            let start = sample.offset as usize;
            sample.matches(&content[start..start + sample.length as usize])
        };
        assert!(!prefix.samples().is_empty() && prefix.samples().iter().all(proves));
        let mut longer = prefix.clone();
        longer.subtrees.push([0; 32]);
        assert_eq!(finish(&longer, known, content.len()), None, "{size}");
        let mut other = prefix.clone();
        if let Some(first) = other.subtrees.first_mut() {
            first[0] ^= 1;
            assert_eq!(finish(&other, known, content.len()), None, "{size}: of another content");
        }
    }
    assert!(KnownPrefix::of(&chunk_map(b"x"), 0, 1).samples().is_empty());
    assert!(ResumedBlake3::new(&KnownPrefix::of(&chunk_map(b"x"), 0, 1), 0, blake3(b"")).is_none());
}
