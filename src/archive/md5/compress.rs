//! The compression function of md5 (RFC 1321), over `N` messages side by side: plain arrays, which the compiler turns into SIMD.

/// Constants of the steps: the integer part of 2^32 × |sin(i)|, i counted from 1.
#[rustfmt::skip]
const SINES: [u32; 64] = [
    0xd76a_a478, 0xe8c7_b756, 0x2420_70db, 0xc1bd_ceee, 0xf57c_0faf, 0x4787_c62a, 0xa830_4613, 0xfd46_9501,
    0x6980_98d8, 0x8b44_f7af, 0xffff_5bb1, 0x895c_d7be, 0x6b90_1122, 0xfd98_7193, 0xa679_438e, 0x49b4_0821,
    0xf61e_2562, 0xc040_b340, 0x265e_5a51, 0xe9b6_c7aa, 0xd62f_105d, 0x0244_1453, 0xd8a1_e681, 0xe7d3_fbc8,
    0x21e1_cde6, 0xc337_07d6, 0xf4d5_0d87, 0x455a_14ed, 0xa9e3_e905, 0xfcef_a3f8, 0x676f_02d9, 0x8d2a_4c8a,
    0xfffa_3942, 0x8771_f681, 0x6d9d_6122, 0xfde5_380c, 0xa4be_ea44, 0x4bde_cfa9, 0xf6bb_4b60, 0xbebf_bc70,
    0x289b_7ec6, 0xeaa1_27fa, 0xd4ef_3085, 0x0488_1d05, 0xd9d4_d039, 0xe6db_99e5, 0x1fa2_7cf8, 0xc4ac_5665,
    0xf429_2244, 0x432a_ff97, 0xab94_23a7, 0xfc93_a039, 0x655b_59c3, 0x8f0c_cc92, 0xffef_f47d, 0x8584_5dd1,
    0x6fa8_7e4f, 0xfe2c_e6e0, 0xa301_4314, 0x4e08_11a1, 0xf753_7e82, 0xbd3a_f235, 0x2ad7_d2bb, 0xeb86_d391,
];

/// The state before the first block.
pub(super) const START: [u32; 4] = [0x6745_2301, 0xefcd_ab89, 0x98ba_dcfe, 0x1032_5476];

/// The four words of the state, each for all messages.
pub(super) type State<const N: usize> = [[u32; N]; 4];

/// A message block.
pub(super) type Block = [u8; 64];

/// One step for all messages. What does not depend on `b`, which the step before has just made, is added first.
macro_rules! step {
    ($mix:expr, $a:ident $b:ident $c:ident $d:ident, $word:expr, $sine:expr, $shift:expr) => {
        for i in 0..N {
            let sum = $a[i].wrapping_add($sine).wrapping_add($word[i]);
            $a[i] = ($mix)(sum, $b[i], $c[i], $d[i]).rotate_left($shift).wrapping_add($b[i]);
        }
    };
}

/// Sixteen steps, four at a time: the state's words change places after each.
macro_rules! round {
    ($mix:expr, [$a:ident $b:ident $c:ident $d:ident], $words:ident, $at:expr, $shifts:expr, []) => {};
    ($mix:expr, [$a:ident $b:ident $c:ident $d:ident], $words:ident, $at:expr, $shifts:expr,
     [$w0:literal $w1:literal $w2:literal $w3:literal $($rest:literal)*]) => {
        step!($mix, $a $b $c $d, $words[$w0], SINES[$at], $shifts[0]);
        step!($mix, $d $a $b $c, $words[$w1], SINES[$at + 1], $shifts[1]);
        step!($mix, $c $d $a $b, $words[$w2], SINES[$at + 2], $shifts[2]);
        step!($mix, $b $c $d $a, $words[$w3], SINES[$at + 3], $shifts[3]);
        round!($mix, [$a $b $c $d], $words, $at + 4, $shifts, [$($rest)*]);
    };
}

/// Takes one block of each message; `words` is the blocks' words, each for all messages.
#[inline(always)]
fn compress<const N: usize>(state: &mut State<N>, words: &[[u32; N]; 16]) {
    let [mut a, mut b, mut c, mut d] = *state;
    let f = |sum: u32, b: u32, c: u32, d: u32| sum.wrapping_add(d ^ (b & (c ^ d)));
    // The two halves of G have no bit in common: they can be added one after the other.
    let g = |sum: u32, b: u32, c: u32, d: u32| sum.wrapping_add(c & !d).wrapping_add(b & d);
    let h = |sum: u32, b: u32, c: u32, d: u32| sum.wrapping_add((c ^ d) ^ b);
    let i = |sum: u32, b: u32, c: u32, d: u32| sum.wrapping_add(c ^ (b | !d));
    round!(f, [a b c d], words, 0, [7, 12, 17, 22], [0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15]);
    round!(g, [a b c d], words, 16, [5, 9, 14, 20], [1 6 11 0 5 10 15 4 9 14 3 8 13 2 7 12]);
    round!(h, [a b c d], words, 32, [4, 11, 16, 23], [5 8 11 14 1 4 7 10 13 0 3 6 9 12 15 2]);
    round!(i, [a b c d], words, 48, [6, 10, 15, 21], [0 7 14 5 12 3 10 1 8 15 6 13 4 11 2 9]);
    for (sum, word) in state.iter_mut().zip([a, b, c, d]) {
        for (sum, word) in sum.iter_mut().zip(word) {
            *sum = sum.wrapping_add(word);
        }
    }
}

/// Takes the first `count` blocks of each message, which must have as many.
#[inline(always)]
pub(super) fn run<const N: usize>(state: &mut State<N>, messages: &[&[Block]; N], count: usize) {
    for at in 0..count {
        let mut words = [[0; N]; 16];
        for (lane, message) in messages.iter().enumerate() {
            for (word, bytes) in words.iter_mut().zip(message[at].as_chunks::<4>().0) {
                word[lane] = u32::from_le_bytes(*bytes);
            }
        }
        compress(state, &words);
    }
}
