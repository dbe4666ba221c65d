//! md5 at the speed of the processor. Each step of md5 has to wait for the one before, so a single
//! message leaves most of a processor idle. [`digest_many`] puts one message into each lane of its
//! vector registers; [`Stream`] is for one message that comes in pieces, and [`update_pair`] takes
//! two of those at little more than the cost of one.
//!
//! `compress` is the function itself, `simd` the same for many lanes, `lanes` says which message is
//! in which lane.

mod compress;
mod lanes;
#[cfg(target_arch = "x86_64")]
mod simd;
mod stream;
#[cfg(test)]
mod tests;

pub use stream::{Stream, update_pair};

/// The instructions by which many messages are hashed side by side.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Instructions {
    /// AVX-512: 32 messages at a time.
    Avx512,
    /// AVX2: 16 messages at a time.
    Avx2,
    /// What every processor has: two messages at a time.
    Base,
}

impl Instructions {
    /// All, the fastest first.
    pub const ALL: [Self; 3] = [Self::Avx512, Self::Avx2, Self::Base];
}

/// md5 of each of `contents`, in their order, by the fastest instructions that this processor has.
#[must_use]
pub fn digest_many(contents: &[&[u8]]) -> Vec<[u8; 16]> {
    let by_speed = Instructions::ALL.into_iter();
    by_speed.filter_map(|instructions| digest_many_with(instructions, contents)).next().unwrap_or_default()
}

/// md5 of each of `contents`, in their order; `None` if the processor does not have these
/// instructions, which cannot be of [`Instructions::Base`].
#[must_use]
pub fn digest_many_with(instructions: Instructions, contents: &[&[u8]]) -> Option<Vec<[u8; 16]>> {
    match instructions {
        #[cfg(target_arch = "x86_64")]
        Instructions::Avx512 => simd::Avx512::detect().map(|engine| lanes::digest(&engine, contents)),
        #[cfg(target_arch = "x86_64")]
        Instructions::Avx2 => simd::Avx2::detect().map(|engine| lanes::digest(&engine, contents)),
        #[cfg(not(target_arch = "x86_64"))]
        Instructions::Avx512 | Instructions::Avx2 => None,
        Instructions::Base => Some(lanes::digest(&lanes::Base, contents)),
    }
}
