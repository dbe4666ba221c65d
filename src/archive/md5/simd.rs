//! Blocks of many messages side by side by the vector instructions of x86-64. The only place with
//! unsafe code: such a function may be called only where the processor has its instructions, which
//! shows at run time; and vectors are read through pointers.
#![allow(unsafe_code)]

use super::compress::{Block, round, sines, step, take_block};
use super::lanes::{Engine, State};
use std::arch::x86_64::*;

/// Exists only where the processor has AVX-512 and AVX2.
pub(super) struct Avx512(());

impl Avx512 {
    /// `None` if it has not.
    pub(super) fn detect() -> Option<Self> {
        (is_x86_feature_detected!("avx512f") && is_x86_feature_detected!("avx2")).then_some(Self(()))
    }
}

impl Engine<32> for Avx512 {
    fn take(&self, state: &mut State<32>, messages: &[&[Block]; 32], busy: usize) -> usize {
        // SAFETY: only `detect` makes `self`.
        unsafe {
            match busy {
                // Half-empty vectors of 16 would be slower than full ones of 8.
                0..=8 => avx2::take::<1, 32>(state, messages),
                9..=16 => avx512::take::<1, 32>(state, messages),
                _ => avx512::take::<2, 32>(state, messages),
            }
        }
    }
}

/// Exists only where the processor has AVX2.
pub(super) struct Avx2(());

impl Avx2 {
    /// `None` if it has not.
    pub(super) fn detect() -> Option<Self> {
        is_x86_feature_detected!("avx2").then_some(Self(()))
    }
}

impl Engine<16> for Avx2 {
    fn take(&self, state: &mut State<16>, messages: &[&[Block]; 16], busy: usize) -> usize {
        // SAFETY: only `detect` makes `self`.
        unsafe {
            if busy <= 8 {
                avx2::take::<1, 16>(state, messages)
            } else {
                avx2::take::<2, 16>(state, messages)
            }
        }
    }
}

/// What is the same for vectors of any width: `$lanes` words in a `$vector`. Needs `words` and the
/// operations beside it.
macro_rules! take_blocks {
    ($features:literal, $vector:ty, $lanes:literal, $zero:ident, $load:ident, $store:ident) => {
        /// Takes blocks into the first `G` vectors of lanes, as many as the shortest of `messages`
        /// has; says how many. Two vectors take less time than one and one: the steps of one fit
        /// into the waits of the other.
        #[target_feature(enable = $features)]
        pub(super) fn take<const G: usize, const N: usize>(
            state: &mut State<N>,
            messages: &[&[Block]; N],
        ) -> usize {
            const { assert!(G * $lanes <= N) };
            let sines = sines();
            let count = messages.iter().map(|message| message.len()).min().unwrap_or(0);
            let mut vectors = [[$zero(); G]; 4];
            for (vectors, words) in vectors.iter_mut().zip(&*state) {
                for (vector, words) in vectors.iter_mut().zip(words.as_chunks::<$lanes>().0) {
                    // SAFETY: `words` has the size of a vector; the instruction needs no alignment.
                    *vector = unsafe { $load(words.as_ptr().cast()) };
                }
            }
            for at in 0..count {
                let mut message_words = [[$zero(); G]; 16];
                for (j, messages) in messages.as_chunks::<$lanes>().0.iter().take(G).enumerate() {
                    // SAFETY: `at` is less than the number of blocks of any message.
                    let words = words(|lane| unsafe { messages[lane].get_unchecked(at) });
                    for (to, word) in message_words.iter_mut().zip(words) {
                        to[j] = word;
                    }
                }
                take_block!(ops, vectors, message_words, sines);
            }
            for (vectors, words) in vectors.iter().zip(state) {
                for (vector, words) in vectors.iter().zip(words.as_chunks_mut::<$lanes>().0) {
                    // SAFETY: `words` has the size of a vector; the instruction needs no alignment.
                    unsafe { $store(words.as_mut_ptr().cast(), *vector) };
                }
            }
            count
        }
    };
}

/// 16 lanes to a vector.
mod avx512 {
    use super::*;

    take_blocks!("avx512f", __m512i, 16, _mm512_setzero_si512, _mm512_loadu_si512, _mm512_storeu_si512);

    /// The sixteen words of a block for all lanes: a matrix of words is turned around its diagonal.
    #[inline]
    #[target_feature(enable = "avx512f")]
    fn words<'a>(block_of: impl Fn(usize) -> &'a Block) -> [__m512i; 16] {
        let mut rows = [_mm512_setzero_si512(); 16];
        for (lane, row) in rows.iter_mut().enumerate() {
            // SAFETY: a block has the size of a vector; the instruction needs no alignment.
            *row = unsafe { _mm512_loadu_si512(block_of(lane).as_ptr().cast()) };
        }
        // First among four lanes: words 0, 4, 8, 12 of all four come into one vector, 1, 5, 9, 13
        // into the next ...
        for four in rows.as_chunks_mut::<4>().0 {
            let [a, b, c, d] = *four;
            let (ab_low, ab_high) = (_mm512_unpacklo_epi32(a, b), _mm512_unpackhi_epi32(a, b));
            let (cd_low, cd_high) = (_mm512_unpacklo_epi32(c, d), _mm512_unpackhi_epi32(c, d));
            *four = [
                _mm512_unpacklo_epi64(ab_low, cd_low),
                _mm512_unpackhi_epi64(ab_low, cd_low),
                _mm512_unpacklo_epi64(ab_high, cd_high),
                _mm512_unpackhi_epi64(ab_high, cd_high),
            ];
        }
        // ... then among the four groups of four lanes, whole quarters of vectors.
        let mut words = rows;
        for at in 0..4 {
            let [a, b, c, d] = [rows[at], rows[4 + at], rows[8 + at], rows[12 + at]];
            let (ab_even, ab_odd) = (_mm512_shuffle_i32x4::<0x88>(a, b), _mm512_shuffle_i32x4::<0xdd>(a, b));
            let (cd_even, cd_odd) = (_mm512_shuffle_i32x4::<0x88>(c, d), _mm512_shuffle_i32x4::<0xdd>(c, d));
            words[at] = _mm512_shuffle_i32x4::<0x88>(ab_even, cd_even);
            words[4 + at] = _mm512_shuffle_i32x4::<0x88>(ab_odd, cd_odd);
            words[8 + at] = _mm512_shuffle_i32x4::<0xdd>(ab_even, cd_even);
            words[12 + at] = _mm512_shuffle_i32x4::<0xdd>(ab_odd, cd_odd);
        }
        words
    }

    /// Any function of three bits is one instruction, named by the eight bits of its table.
    mod ops {
        use super::*;

        #[inline]
        #[target_feature(enable = "avx512f")]
        pub(super) fn same(sine: u32) -> __m512i {
            _mm512_set1_epi32(sine.cast_signed())
        }
        #[inline]
        #[target_feature(enable = "avx512f")]
        pub(super) fn add(a: __m512i, b: __m512i) -> __m512i {
            _mm512_add_epi32(a, b)
        }
        #[inline]
        #[target_feature(enable = "avx512f")]
        pub(super) fn rotate<const LEFT: i32, const RIGHT: i32>(a: __m512i) -> __m512i {
            _mm512_rol_epi32::<LEFT>(a)
        }
        #[inline]
        #[target_feature(enable = "avx512f")]
        pub(super) fn f(sum: __m512i, b: __m512i, c: __m512i, d: __m512i) -> __m512i {
            add(sum, _mm512_ternarylogic_epi32::<0xca>(b, c, d))
        }
        #[inline]
        #[target_feature(enable = "avx512f")]
        pub(super) fn g(sum: __m512i, b: __m512i, c: __m512i, d: __m512i) -> __m512i {
            add(sum, _mm512_ternarylogic_epi32::<0xca>(d, b, c))
        }
        #[inline]
        #[target_feature(enable = "avx512f")]
        pub(super) fn h(sum: __m512i, b: __m512i, c: __m512i, d: __m512i) -> __m512i {
            add(sum, _mm512_ternarylogic_epi32::<0x96>(b, c, d))
        }
        #[inline]
        #[target_feature(enable = "avx512f")]
        pub(super) fn i(sum: __m512i, b: __m512i, c: __m512i, d: __m512i) -> __m512i {
            add(sum, _mm512_ternarylogic_epi32::<0x39>(b, c, d))
        }
    }
}

/// 8 lanes to a vector.
mod avx2 {
    use super::*;

    take_blocks!("avx2", __m256i, 8, _mm256_setzero_si256, _mm256_loadu_si256, _mm256_storeu_si256);

    /// The sixteen words of a block for all lanes: a matrix of words is turned around its diagonal.
    #[inline]
    #[target_feature(enable = "avx2")]
    fn words<'a>(block_of: impl Fn(usize) -> &'a Block) -> [__m256i; 16] {
        let mut words = [_mm256_setzero_si256(); 16];
        for (quarter, words) in words.as_chunks_mut::<4>().0.iter_mut().enumerate() {
            let mut rows = [_mm256_setzero_si256(); 4];
            for (lane, row) in rows.iter_mut().enumerate() {
                let [low, high] = [block_of(lane), block_of(lane + 4)].map(|block| {
                    // SAFETY: a quarter of a block has the size of half a vector; the instruction
                    // needs no alignment.
                    unsafe { _mm_loadu_si128(block.as_chunks::<16>().0[quarter].as_ptr().cast()) }
                });
                *row = _mm256_set_m128i(high, low);
            }
            let [a, b, c, d] = rows;
            let (ab_low, ab_high) = (_mm256_unpacklo_epi32(a, b), _mm256_unpackhi_epi32(a, b));
            let (cd_low, cd_high) = (_mm256_unpacklo_epi32(c, d), _mm256_unpackhi_epi32(c, d));
            *words = [
                _mm256_unpacklo_epi64(ab_low, cd_low),
                _mm256_unpackhi_epi64(ab_low, cd_low),
                _mm256_unpacklo_epi64(ab_high, cd_high),
                _mm256_unpackhi_epi64(ab_high, cd_high),
            ];
        }
        words
    }

    mod ops {
        use super::*;

        #[inline]
        #[target_feature(enable = "avx2")]
        pub(super) fn same(sine: u32) -> __m256i {
            _mm256_set1_epi32(sine.cast_signed())
        }
        #[inline]
        #[target_feature(enable = "avx2")]
        pub(super) fn add(a: __m256i, b: __m256i) -> __m256i {
            _mm256_add_epi32(a, b)
        }
        #[inline]
        #[target_feature(enable = "avx2")]
        pub(super) fn rotate<const LEFT: i32, const RIGHT: i32>(a: __m256i) -> __m256i {
            _mm256_or_si256(_mm256_slli_epi32::<LEFT>(a), _mm256_srli_epi32::<RIGHT>(a))
        }
        #[inline]
        #[target_feature(enable = "avx2")]
        pub(super) fn f(sum: __m256i, b: __m256i, c: __m256i, d: __m256i) -> __m256i {
            add(sum, _mm256_xor_si256(d, _mm256_and_si256(b, _mm256_xor_si256(c, d))))
        }
        /// The two halves have no bit in common; see the same for one word.
        #[inline]
        #[target_feature(enable = "avx2")]
        pub(super) fn g(sum: __m256i, b: __m256i, c: __m256i, d: __m256i) -> __m256i {
            add(add(sum, _mm256_andnot_si256(d, c)), _mm256_and_si256(b, d))
        }
        #[inline]
        #[target_feature(enable = "avx2")]
        pub(super) fn h(sum: __m256i, b: __m256i, c: __m256i, d: __m256i) -> __m256i {
            add(sum, _mm256_xor_si256(_mm256_xor_si256(c, d), b))
        }
        #[inline]
        #[target_feature(enable = "avx2")]
        pub(super) fn i(sum: __m256i, b: __m256i, c: __m256i, d: __m256i) -> __m256i {
            let not_d = _mm256_xor_si256(d, _mm256_set1_epi32(-1));
            add(sum, _mm256_xor_si256(c, _mm256_or_si256(b, not_d)))
        }
    }
}
