//! SHA3-512 (FIPS 202) of contents of one length, side by side by the vector instructions of
//! x86-64. The unsafe code is two calls: such a function may be called only where the processor has
//! its instructions, which shows at run time.
#![allow(unsafe_code)]

use std::arch::x86_64::*;

/// Bytes that one permutation takes in.
const RATE: usize = 72;

/// Constants of the 24 rounds.
const ROUNDS: [u64; 24] = [
    0x0000_0000_0000_0001,
    0x0000_0000_0000_8082,
    0x8000_0000_0000_808a,
    0x8000_0000_8000_8000,
    0x0000_0000_0000_808b,
    0x0000_0000_8000_0001,
    0x8000_0000_8000_8081,
    0x8000_0000_0000_8009,
    0x0000_0000_0000_008a,
    0x0000_0000_0000_0088,
    0x0000_0000_8000_8009,
    0x0000_0000_8000_000a,
    0x0000_0000_8000_808b,
    0x8000_0000_0000_008b,
    0x8000_0000_0000_8089,
    0x8000_0000_0000_8003,
    0x8000_0000_0000_8002,
    0x8000_0000_0000_0080,
    0x0000_0000_0000_800a,
    0x8000_0000_8000_000a,
    0x8000_0000_8000_8081,
    0x8000_0000_0000_8080,
    0x0000_0000_8000_0001,
    0x8000_0000_8000_8008,
];

/// The instructions to use. A value exists only where the processor has them.
#[derive(Clone, Copy)]
pub(super) struct Engine(Kind);

#[derive(Clone, Copy)]
enum Kind {
    Avx512,
    Avx2,
}

impl Engine {
    /// The widest; `None` if there is none.
    pub(super) fn detect() -> Option<Self> {
        Self::all().next()
    }

    /// All that the processor has, the widest first.
    pub(super) fn all() -> impl Iterator<Item = Self> {
        // AVX2 is asked for too: the last words leave vectors by its instructions.
        let avx2 = is_x86_feature_detected!("avx2");
        let avx512 = avx2 && is_x86_feature_detected!("avx512f");
        [(avx512, Kind::Avx512), (avx2, Kind::Avx2)]
            .into_iter()
            .filter(|(there, _)| *there)
            .map(|(_, kind)| Self(kind))
    }

    /// How many contents it takes at a time.
    pub(super) fn lanes(self) -> usize {
        match self.0 {
            Kind::Avx512 => 8,
            Kind::Avx2 => 4,
        }
    }

    /// Adds the digests of contents of one length; there are some, and at most as many as there are
    /// lanes.
    pub(super) fn digest(self, contents: &[&[u8]], digests: &mut Vec<[u8; 64]>) {
        // Lanes to spare do again what the last one does.
        let lane = |at: usize| contents[at.min(contents.len() - 1)];
        // SAFETY: only `all` makes `self`, where the processor has the instructions.
        unsafe {
            match self.0 {
                Kind::Avx512 => {
                    let all = avx512::digest(std::array::from_fn(lane));
                    digests.extend(&all[..contents.len()]);
                }
                Kind::Avx2 => {
                    let all = avx2::digest(std::array::from_fn(lane));
                    digests.extend(&all[..contents.len()]);
                }
            }
        }
    }
}

/// The eight bytes from `at` on; the length was looked at by the loops that ask.
#[inline(always)]
fn word(bytes: &[u8], at: usize) -> i64 {
    match bytes.get(at..).and_then(<[u8]>::first_chunk) {
        Some(word) => i64::from_le_bytes(*word),
        None => 0,
    }
}

/// The last bytes of a content, with the padding of SHA-3: bits 01 for its kind, then 1, zeros and
/// 1.
fn padded(tail: &[u8]) -> [u8; RATE] {
    let mut block = [0; RATE];
    block[..tail.len()].copy_from_slice(tail);
    block[tail.len()] ^= 0x06;
    block[RATE - 1] ^= 0x80;
    block
}

/// What is the same for vectors of any width. Needs the operations beside it.
macro_rules! keccak {
    ($features:literal, $vector:ty, $lanes:literal, $zero:ident, $xor:ident, $same:ident) => {
        /// Digests of contents of one length.
        #[target_feature(enable = $features)]
        pub(super) fn digest(contents: [&[u8]; $lanes]) -> [[u8; 64]; $lanes] {
            let length = contents[0].len();
            let full = length / RATE;
            let mut state = [$zero(); 25];
            for block in 0..full {
                absorb(&mut state, &contents, block * RATE);
            }
            let tails = contents.map(|content| padded(&content[full * RATE..]));
            absorb(&mut state, &std::array::from_fn(|lane| &tails[lane][..]), 0);
            let mut digests = [[0; 64]; $lanes];
            for (at, vector) in state[..8].iter().enumerate() {
                for (digest, word) in digests.iter_mut().zip(words(*vector)) {
                    digest[at * 8..][..8].copy_from_slice(&word.to_le_bytes());
                }
            }
            digests
        }

        /// Takes in the bytes of each content from `at` on. The state is row after row: word x of
        /// row y is 5 * y + x.
        #[inline]
        #[target_feature(enable = $features)]
        fn absorb(state: &mut [$vector; 25], contents: &[&[u8]; $lanes], at: usize) {
            let mut a = *state;
            for (word, vector) in a[..RATE / 8].iter_mut().enumerate() {
                *vector = $xor(*vector, gather(contents, at + word * 8));
            }
            for constant in ROUNDS {
                // Theta: each column gets the parity of its two neighbours.
                let parity = |x: usize| xor3(xor3(a[x], a[x + 5], a[x + 10]), a[x + 15], a[x + 20]);
                let c = [parity(0), parity(1), parity(2), parity(3), parity(4)];
                let turned = c.map(|column| rotate::<1, 63>(column));
                // Rho and pi: every word is turned by its own number of bits, and goes to another
                // place.
                macro_rules! moved {
                    ($from:literal, $left:literal) => {
                        rotate::<$left, { (64 - $left) % 64 }>(xor3(
                            a[$from],
                            c[($from + 4) % 5],
                            turned[($from + 1) % 5],
                        ))
                    };
                }
                #[rustfmt::skip]
                        let b = [
                            moved!(0, 0), moved!(6, 44), moved!(12, 43), moved!(18, 21), moved!(24, 14),
                            moved!(3, 28), moved!(9, 20), moved!(10, 3), moved!(16, 45), moved!(22, 61),
                            moved!(1, 1), moved!(7, 6), moved!(13, 25), moved!(19, 8), moved!(20, 18),
                            moved!(4, 27), moved!(5, 36), moved!(11, 10), moved!(17, 15), moved!(23, 56),
                            moved!(2, 62), moved!(8, 55), moved!(14, 39), moved!(15, 41), moved!(21, 2),
                        ];
                // Chi: the only step that is not linear. Iota: the constant.
                for y in [0, 5, 10, 15, 20] {
                    for x in 0..5 {
                        a[y + x] = chi(b[y + x], b[y + (x + 1) % 5], b[y + (x + 2) % 5]);
                    }
                }
                a[0] = $xor(a[0], $same(constant.cast_signed()));
            }
            *state = a;
        }
    };
}

/// 8 lanes to a vector.
mod avx512 {
    use super::*;

    keccak!("avx512f,avx2", __m512i, 8, _mm512_setzero_si512, _mm512_xor_si512, _mm512_set1_epi64);

    #[inline]
    #[target_feature(enable = "avx512f")]
    fn gather(c: &[&[u8]; 8], at: usize) -> __m512i {
        let [a, b, c, d, e, f, g, h] = c.map(|content| word(content, at));
        _mm512_set_epi64(h, g, f, e, d, c, b, a)
    }

    // Any function of three bits is one instruction, named by the eight bits of its table.
    #[inline]
    #[target_feature(enable = "avx512f")]
    fn xor3(a: __m512i, b: __m512i, c: __m512i) -> __m512i {
        _mm512_ternarylogic_epi64::<0x96>(a, b, c)
    }

    #[inline]
    #[target_feature(enable = "avx512f")]
    fn chi(a: __m512i, b: __m512i, c: __m512i) -> __m512i {
        _mm512_ternarylogic_epi64::<0xd2>(a, b, c)
    }

    #[inline]
    #[target_feature(enable = "avx512f")]
    fn rotate<const LEFT: i32, const RIGHT: i32>(a: __m512i) -> __m512i {
        _mm512_rol_epi64::<LEFT>(a)
    }

    #[inline]
    #[target_feature(enable = "avx512f,avx2")]
    fn words(vector: __m512i) -> [i64; 8] {
        let [a, b, c, d] = super::avx2::words(_mm512_extracti64x4_epi64::<0>(vector));
        let [e, f, g, h] = super::avx2::words(_mm512_extracti64x4_epi64::<1>(vector));
        [a, b, c, d, e, f, g, h]
    }
}

/// 4 lanes to a vector.
mod avx2 {
    use super::*;

    keccak!("avx2", __m256i, 4, _mm256_setzero_si256, _mm256_xor_si256, _mm256_set1_epi64x);

    #[inline]
    #[target_feature(enable = "avx2")]
    fn gather(c: &[&[u8]; 4], at: usize) -> __m256i {
        let [a, b, c, d] = c.map(|content| word(content, at));
        _mm256_set_epi64x(d, c, b, a)
    }

    #[inline]
    #[target_feature(enable = "avx2")]
    fn xor3(a: __m256i, b: __m256i, c: __m256i) -> __m256i {
        _mm256_xor_si256(_mm256_xor_si256(a, b), c)
    }

    #[inline]
    #[target_feature(enable = "avx2")]
    fn chi(a: __m256i, b: __m256i, c: __m256i) -> __m256i {
        _mm256_xor_si256(a, _mm256_andnot_si256(b, c))
    }

    #[inline]
    #[target_feature(enable = "avx2")]
    fn rotate<const LEFT: i32, const RIGHT: i32>(a: __m256i) -> __m256i {
        // A shift by all 64 bits gives zeros, so that a turn by none would be right, too.
        _mm256_or_si256(_mm256_slli_epi64::<LEFT>(a), _mm256_srli_epi64::<RIGHT>(a))
    }

    #[inline]
    #[target_feature(enable = "avx2")]
    pub(super) fn words(vector: __m256i) -> [i64; 4] {
        [
            _mm256_extract_epi64::<0>(vector),
            _mm256_extract_epi64::<1>(vector),
            _mm256_extract_epi64::<2>(vector),
            _mm256_extract_epi64::<3>(vector),
        ]
    }
}
