use super::{Instructions, Stream, digest_many, digest_many_with, update_pair};
use ::md5::Digest as _;
use proptest::prelude::*;

fn expected(content: &[u8]) -> [u8; 16] {
    ::md5::Md5::digest(content).into()
}

fn hex(digest: [u8; 16]) -> String {
    digest.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn streamed(content: &[u8]) -> [u8; 16] {
    let mut stream = Stream::default();
    stream.update(content);
    stream.finish()
}

/// Without a pattern that repeats with any block.
fn bytes(length: usize, seed: u32) -> Vec<u8> {
    (0..length as u32).map(|at| (at.wrapping_mul(2_654_435_761).wrapping_add(seed) >> 13) as u8).collect()
}

/// By every way that this processor has.
fn check_many(contents: &[&[u8]]) {
    let expected: Vec<_> = contents.iter().map(|content| expected(content)).collect();
    let lengths = || contents.iter().map(|content| content.len()).collect::<Vec<_>>();
    assert!(digest_many(contents) == expected, "{:?}", lengths());
    for instructions in Instructions::ALL {
        if let Some(digests) = digest_many_with(instructions, contents) {
            assert!(digests == expected, "{instructions:?}: {:?}", lengths());
        }
    }
}

#[test]
fn known_answers_of_rfc_1321() {
    let answers: [(&[u8], &str); 7] = [
        (b"", "d41d8cd98f00b204e9800998ecf8427e"),
        (b"a", "0cc175b9c0f1b6a831c399e269772661"),
        (b"abc", "900150983cd24fb0d6963f7d28e17f72"),
        (b"message digest", "f96b697d7cb7938d525a2f31aaf161d0"),
        (b"abcdefghijklmnopqrstuvwxyz", "c3fcd3d76192e4007dfb496cca67e13b"),
        (
            b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789",
            "d174ab98d277d9f5a5611c2c9f419d9f",
        ),
        (&b"1234567890".repeat(8), "57edf4a22be3c955ac49da2e2107b67a"),
    ];
    let contents = answers.map(|(content, _)| content);
    for (content, answer) in answers {
        assert_eq!(hex(streamed(content)), answer);
    }
    assert_eq!(
        digest_many(&contents).into_iter().map(hex).collect::<Vec<_>>(),
        answers.map(|(_, answer)| answer)
    );
    check_many(&contents);
}

/// So that a machine that has them does not pass without them.
#[cfg(target_arch = "x86_64")]
#[test]
fn the_instructions_are_found() {
    let found = |instructions| digest_many_with(instructions, &[]).is_some();
    let avx2 = is_x86_feature_detected!("avx2");
    assert_eq!(found(Instructions::Avx512), avx2 && is_x86_feature_detected!("avx512f"));
    assert_eq!(found(Instructions::Avx2), avx2);
    assert!(found(Instructions::Base));
}

#[test]
fn every_length_around_a_block_and_every_number_of_lanes() {
    let bytes = bytes(700, 0);
    let contents: Vec<&[u8]> = (0..=260).map(|length| &bytes[length / 3..length / 3 + length]).collect();
    check_many(&contents);
    for number in 0..=67 {
        check_many(&contents[..number]);
        check_many(&contents[200 - number..200]);
        check_many(&vec![&bytes[number..number + 192]; number]);
    }
    for content in contents {
        assert_eq!(streamed(content), expected(content));
    }
}

#[test]
fn a_long_one_outlives_the_others() {
    let bytes = bytes(70_000, 1);
    let mut contents: Vec<&[u8]> = (0..50).map(|at| &bytes[at..100 + 64 * at]).collect();
    contents.insert(20, &bytes);
    contents.insert(40, &bytes[1..50_000]);
    check_many(&contents);
}

fn length() -> impl Strategy<Value = usize> {
    prop_oneof![
        8 => proptest::sample::select(vec![0usize, 1, 55, 56, 63, 64, 65, 119, 120, 127, 128, 129]),
        8 => 0usize..300,
        3 => 0usize..5_000,
        1 => Just(30_003usize),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn many_are_as_one_after_the_other(lengths in proptest::collection::vec(length(), 0..150), seed: u32) {
        let bytes = bytes(40_000, seed);
        let contents: Vec<&[u8]> =
            lengths.iter().enumerate().map(|(at, length)| &bytes[at * 31..at * 31 + length]).collect();
        check_many(&contents);
    }

    #[test]
    fn pieces_are_as_the_whole(pieces in proptest::collection::vec(length(), 0..20), seed: u32) {
        let bytes = bytes(pieces.iter().sum(), seed);
        let mut rest = &bytes[..];
        let mut stream = Stream::default();
        for piece in pieces {
            let (now, later) = rest.split_at(piece);
            // What was taken so far has its digest too.
            prop_assert_eq!(stream.clone().finish(), expected(&bytes[..bytes.len() - rest.len()]));
            stream.update(now);
            rest = later;
        }
        prop_assert_eq!(stream.finish(), expected(&bytes));
    }

    #[test]
    fn a_pair_is_as_two(pieces in proptest::collection::vec((length(), length()), 0..12), seed: u32) {
        let a_bytes = bytes(pieces.iter().map(|piece| piece.0).sum(), seed);
        let b_bytes = bytes(pieces.iter().map(|piece| piece.1).sum(), !seed);
        let (mut a, mut b) = (Stream::default(), Stream::default());
        let (mut a_rest, mut b_rest) = (&a_bytes[..], &b_bytes[..]);
        for (a_piece, b_piece) in pieces {
            let ((a_now, a_later), (b_now, b_later)) = (a_rest.split_at(a_piece), b_rest.split_at(b_piece));
            update_pair((&mut a, a_now), (&mut b, b_now));
            (a_rest, b_rest) = (a_later, b_later);
        }
        prop_assert_eq!([a.finish(), b.finish()], [expected(&a_bytes), expected(&b_bytes)]);
    }
}
