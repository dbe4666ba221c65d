//! md5 of many contents side by side, one in each lane of the processor's SIMD registers: several times faster than one after the
//! other, since each step of md5 has to wait for the one before. A single content takes as long as with any other program.

mod compress;
mod lanes;
mod stream;

pub use stream::{Stream, update_pair};

use compress::{Block, START, State};
use lanes::Lanes;
use std::cmp::Reverse;

/// md5 of each of `contents`, in their order.
#[must_use]
pub fn digest_many(contents: &[&[u8]]) -> Vec<[u8; 16]> {
    #[cfg(target_arch = "x86_64")]
    {
        if let Some(lanes) = Lanes::<16>::avx512() {
            return digest_with(&lanes, contents);
        }
        // Two registers for each word: while one waits for its result, the other works.
        if let Some(lanes) = Lanes::<16>::avx2() {
            return digest_with(&lanes, contents);
        }
    }
    digest_with(&Lanes::<4>::base(), contents)
}

/// The end of a message: what is left of its last block, the mark, and its length.
struct Tail([Block; 2], usize);

impl Tail {
    fn of(content: &[u8]) -> Self {
        let rest = content.as_chunks::<64>().1;
        let mut blocks = [[0; 64]; 2];
        let bytes = blocks.as_flattened_mut();
        bytes[..rest.len()].copy_from_slice(rest);
        bytes[rest.len()] = 0x80;
        let count = if rest.len() < 56 { 1 } else { 2 };
        let bits = (content.len() as u64).wrapping_mul(8);
        bytes[count * 64 - 8..count * 64].copy_from_slice(&bits.to_le_bytes());
        Self(blocks, count)
    }
}

/// What a lane works on.
#[derive(Clone, Copy)]
struct Lane<'a> {
    /// Blocks of the content, then of the tail.
    blocks: &'a [Block],
    in_tail: bool,
    /// Which content.
    number: usize,
}

fn digest_with<const N: usize>(lanes: &Lanes<N>, contents: &[&[u8]]) -> Vec<[u8; 16]> {
    let mut digests = vec![[0; 16]; contents.len()];
    let tails: Vec<Tail> = contents.iter().map(|content| Tail::of(content)).collect();
    // The longest first, so that all lanes end at about the same time.
    let mut waiting: Vec<usize> = (0..contents.len()).collect();
    waiting.sort_by_key(|&number| Reverse(contents[number].len()));
    let mut waiting = waiting.into_iter();
    let mut work: [Option<Lane<'_>>; N] = [None; N];
    let mut state: State<N> = START.map(|word| [word; N]);
    loop {
        for (at, lane) in work.iter_mut().enumerate() {
            // Ends what has no block left, and begins what is next; a content may have no whole block.
            while lane.is_none_or(|lane| lane.blocks.is_empty()) {
                match *lane {
                    Some(Lane { in_tail: false, number, .. }) => {
                        let Tail(blocks, count) = &tails[number];
                        *lane = Some(Lane { blocks: &blocks[..*count], in_tail: true, number });
                    }
                    ended => {
                        if let Some(ended) = ended {
                            digests[ended.number] = digest_of(&state, at);
                        }
                        let Some(number) = waiting.next() else {
                            *lane = None;
                            break;
                        };
                        state.iter_mut().zip(START).for_each(|(words, start)| words[at] = start);
                        let blocks = contents[number].as_chunks::<64>().0;
                        *lane = Some(Lane { blocks, in_tail: false, number });
                    }
                }
            }
        }
        let busy = work.iter().flatten();
        let Some(count) = busy.clone().map(|lane| lane.blocks.len()).min() else { return digests };
        if busy.count() <= N / 8 {
            // One alone is faster without the others.
            for (at, lane) in work.iter_mut().enumerate() {
                if let Some(lane) = lane {
                    let mut one = state.map(|words| [words[at]]);
                    Lanes::<1>::base().run(&mut one, &[lane.blocks], lane.blocks.len());
                    state.iter_mut().zip(one).for_each(|(words, [word])| words[at] = word);
                    lane.blocks = &[];
                }
            }
            continue;
        }
        // A lane without work repeats another one's.
        let any = work.iter().flatten().map(|lane| lane.blocks).next().unwrap_or_default();
        let messages = work.map(|lane| lane.map_or(any, |lane| lane.blocks));
        // The busy one with the fewest blocks limits all; `any` has as many at least.
        lanes.run(&mut state, &messages, count);
        for lane in work.iter_mut().flatten() {
            lane.blocks = &lane.blocks[count..];
        }
    }
}

fn digest_of<const N: usize>(state: &State<N>, at: usize) -> [u8; 16] {
    let mut digest = [0; 16];
    for (bytes, words) in digest.as_chunks_mut::<4>().0.iter_mut().zip(state) {
        *bytes = words[at].to_le_bytes();
    }
    digest
}

#[cfg(test)]
mod tests {
    use super::*;
    use ::md5::Digest;
    use proptest::prelude::*;

    fn every_way(contents: &[&[u8]]) -> Vec<(&'static str, Vec<[u8; 16]>)> {
        let mut ways = vec![
            ("detected", digest_many(contents)),
            ("base 1", digest_with(&Lanes::<1>::base(), contents)),
            ("base 4", digest_with(&Lanes::<4>::base(), contents)),
            ("base 16", digest_with(&Lanes::<16>::base(), contents)),
        ];
        #[cfg(target_arch = "x86_64")]
        {
            ways.extend(Lanes::<16>::avx2().map(|lanes| ("avx2", digest_with(&lanes, contents))));
            ways.extend(Lanes::<16>::avx512().map(|lanes| ("avx512", digest_with(&lanes, contents))));
        }
        ways
    }

    fn check(contents: &[&[u8]]) {
        let expected: Vec<[u8; 16]> =
            contents.iter().map(|content| ::md5::Md5::digest(content).into()).collect();
        for (way, digests) in every_way(contents) {
            assert!(digests == expected, "{way}: {:?}", contents.iter().map(|c| c.len()).collect::<Vec<_>>());
        }
    }

    #[test]
    fn known_answers_of_rfc_1321() {
        let hex = |digest: &[u8; 16]| digest.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
        let contents: [&[u8]; 4] = [b"", b"a", b"message digest", &b"1234567890".repeat(8)];
        for (way, digests) in every_way(&contents) {
            assert_eq!(
                digests.iter().map(hex).collect::<Vec<_>>(),
                [
                    "d41d8cd98f00b204e9800998ecf8427e",
                    "0cc175b9c0f1b6a831c399e269772661",
                    "f96b697d7cb7938d525a2f31aaf161d0",
                    "57edf4a22be3c955ac49da2e2107b67a"
                ],
                "{way}"
            );
        }
    }

    #[test]
    fn every_length_around_a_block_in_every_company() {
        let bytes: Vec<u8> = (0..400).map(|i| (i * 7) as u8).collect();
        let contents: Vec<&[u8]> = (0..=260).map(|length| &bytes[length / 3..length / 3 + length]).collect();
        check(&contents);
        for content in &contents {
            check(&[content]);
        }
        check(&[]);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(60))]
        #[test]
        fn the_same_as_one_after_the_other(
            lengths in proptest::collection::vec(prop_oneof![0usize..200, 0usize..20_000, Just(100_000usize)], 0..60),
            seed in any::<u8>(),
        ) {
            let bytes: Vec<u8> = (0..110_000u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 13) as u8 ^ seed).collect();
            let contents: Vec<&[u8]> = (0..).zip(&lengths).map(|(i, &length)| &bytes[i * 31..i * 31 + length]).collect();
            check(&contents);
        }
    }
}
