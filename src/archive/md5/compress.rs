//! The compression function of md5 (RFC 1321), its padding, and its steps as macros, so that
//! vectors take the same ones.
//!
//! A step makes one word of the state out of the word that the step before has just made. How long
//! a block takes is the sum of what lies between the two; anything else fits beside it. So
//! everything that does not need the newest word is added before.

/// A message is taken in pieces of this size.
pub(super) type Block = [u8; 64];

/// The state before the first block.
pub(super) const START: [u32; 4] = [0x6745_2301, 0xefcd_ab89, 0x98ba_dcfe, 0x1032_5476];

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

/// The constants, without the compiler knowing what they are. Where it does, it moves their
/// addition to the end of the sum, after the newest word, which makes each step a cycle longer: a
/// fifth of the time.
#[inline(always)]
pub(super) fn sines() -> &'static [u32; 64] {
    std::hint::black_box(&SINES)
}

/// One step, for each of several states. `$ops` is a module of the operations on a word, `$mix` the
/// one of this round, which adds its result to a sum.
macro_rules! step {
    ($ops:ident $mix:ident [$a:ident $b:ident $c:ident $d:ident] $word:expr, $sine:expr, $shift:literal) => {
        for j in 0..$a.len() {
            let sum = $ops::add($a[j], $ops::add($word[j], $ops::same($sine)));
            let sum = $ops::$mix(sum, $b[j], $c[j], $d[j]);
            $a[j] = $ops::add($ops::rotate::<$shift, { 32 - $shift }>(sum), $b[j]);
        }
    };
}

/// The steps of a round, four at a time: the state's words change places after each.
macro_rules! round {
    ($ops:ident $mix:ident [$($state:ident)*] $words:ident $sines:ident $at:expr, [$($shift:literal)*], []) => {};
    ($ops:ident $mix:ident [$a:ident $b:ident $c:ident $d:ident] $words:ident $sines:ident $at:expr,
     [$s0:literal $s1:literal $s2:literal $s3:literal],
     [$w0:literal $w1:literal $w2:literal $w3:literal $($rest:literal)*]) => {
        step!($ops $mix [$a $b $c $d] $words[$w0], $sines[$at], $s0);
        step!($ops $mix [$d $a $b $c] $words[$w1], $sines[$at + 1], $s1);
        step!($ops $mix [$c $d $a $b] $words[$w2], $sines[$at + 2], $s2);
        step!($ops $mix [$b $c $d $a] $words[$w3], $sines[$at + 3], $s3);
        round!($ops $mix [$a $b $c $d] $words $sines $at + 4, [$s0 $s1 $s2 $s3], [$($rest)*]);
    };
}

/// Takes one block into each of several states: `$state` is an array of four words, each an array
/// with one element for each state; `$words` are the sixteen words of the blocks, likewise.
macro_rules! take_block {
    ($ops:ident, $state:ident, $words:ident, $sines:ident) => {
        let [mut a, mut b, mut c, mut d] = $state;
        round!($ops f [a b c d] $words $sines 0, [7 12 17 22], [0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15]);
        round!($ops g [a b c d] $words $sines 16, [5 9 14 20], [1 6 11 0 5 10 15 4 9 14 3 8 13 2 7 12]);
        round!($ops h [a b c d] $words $sines 32, [4 11 16 23], [5 8 11 14 1 4 7 10 13 0 3 6 9 12 15 2]);
        round!($ops i [a b c d] $words $sines 48, [6 10 15 21], [0 7 14 5 12 3 10 1 8 15 6 13 4 11 2 9]);
        for (sums, words) in $state.iter_mut().zip([a, b, c, d]) {
            for (sum, word) in sums.iter_mut().zip(words) {
                *sum = $ops::add(*sum, word);
            }
        }
    };
}

#[cfg(target_arch = "x86_64")]
pub(super) use {round, step, take_block};

/// The operations on one word.
mod word {
    #[inline(always)]
    pub(super) fn same(sine: u32) -> u32 {
        sine
    }
    #[inline(always)]
    pub(super) fn add(a: u32, b: u32) -> u32 {
        a.wrapping_add(b)
    }
    #[inline(always)]
    pub(super) fn rotate<const LEFT: u32, const RIGHT: u32>(a: u32) -> u32 {
        a.rotate_left(LEFT)
    }
    #[inline(always)]
    pub(super) fn f(sum: u32, b: u32, c: u32, d: u32) -> u32 {
        add(sum, d ^ (b & (c ^ d)))
    }
    /// The two halves have no bit in common, so they can be added one after the other: that with
    /// `b`, the newest, last.
    #[inline(always)]
    pub(super) fn g(sum: u32, b: u32, c: u32, d: u32) -> u32 {
        add(add(sum, c & !d), b & d)
    }
    #[inline(always)]
    pub(super) fn h(sum: u32, b: u32, c: u32, d: u32) -> u32 {
        add(sum, (c ^ d) ^ b)
    }
    #[inline(always)]
    pub(super) fn i(sum: u32, b: u32, c: u32, d: u32) -> u32 {
        add(sum, c ^ (b | !d))
    }
}

/// Takes blocks into `N` states side by side, as many as the shortest of `messages` has; says how
/// many.
#[inline(always)]
fn take<const N: usize>(states: [&mut [u32; 4]; N], messages: [&[Block]; N]) -> usize {
    let sines = sines();
    let count = messages.iter().map(|message| message.len()).min().unwrap_or(0);
    let messages = messages.map(|message| &message[..count]);
    let mut state: [[u32; N]; 4] = std::array::from_fn(|word| std::array::from_fn(|j| states[j][word]));
    for at in 0..count {
        let blocks = messages.map(|message| message[at].as_chunks::<4>().0);
        let words: [[u32; N]; 16] =
            std::array::from_fn(|word| std::array::from_fn(|j| u32::from_le_bytes(blocks[j][word])));
        take_block!(word, state, words, sines);
    }
    for (j, to) in states.into_iter().enumerate() {
        *to = std::array::from_fn(|word| state[word][j]);
    }
    count
}

/// Takes all blocks of a message.
pub(super) fn take_one(state: &mut [u32; 4], message: &[Block]) {
    take([state], [message]);
}

/// Takes blocks of two messages, as many as the shorter has; says how many. Little slower than one:
/// the steps of one message fit into the waits of the other.
pub(super) fn take_two(states: [&mut [u32; 4]; 2], messages: [&[Block]; 2]) -> usize {
    take(states, messages)
}

/// The end of a message: what is left after its whole blocks, the mark, zeros, and its length in
/// bits.
#[derive(Clone, Copy)]
pub(super) struct Tail {
    blocks: [Block; 2],
    count: usize,
}

impl Tail {
    /// Of a message of `length` bytes that ends in `rest`.
    pub(super) fn new(rest: &[u8], length: u64) -> Self {
        let mut blocks = [[0; 64]; 2];
        let bytes = blocks.as_flattened_mut();
        bytes[..rest.len()].copy_from_slice(rest);
        bytes[rest.len()] = 0x80;
        let count = if rest.len() < 56 { 1 } else { 2 };
        bytes[count * 64 - 8..count * 64].copy_from_slice(&length.wrapping_mul(8).to_le_bytes());
        Self { blocks, count }
    }

    /// The one or two blocks.
    pub(super) fn blocks(&self) -> &[Block] {
        &self.blocks[..self.count]
    }
}

/// The digest of a final state.
pub(super) fn digest_of(state: [u32; 4]) -> [u8; 16] {
    let mut digest = [0; 16];
    for (bytes, word) in digest.as_chunks_mut::<4>().0.iter_mut().zip(state) {
        *bytes = word.to_le_bytes();
    }
    digest
}
