//! Which SIMD this processor has. The only place with unsafe code: functions that are compiled for an instruction set may only be
//! called where it is there, and that is found out at run time.
#![allow(unsafe_code)]

use super::compress::{Block, State, run};

/// A way to hash `N` messages side by side.
pub(super) struct Lanes<const N: usize>(Set);

#[derive(Clone, Copy)]
enum Set {
    /// What every processor of this architecture has.
    Base,
    #[cfg(target_arch = "x86_64")]
    Avx2,
    #[cfg(target_arch = "x86_64")]
    Avx512,
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
fn run_avx2<const N: usize>(state: &mut State<N>, messages: &[&[Block]; N], count: usize) {
    run(state, messages, count);
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512vl,avx512bw")]
fn run_avx512<const N: usize>(state: &mut State<N>, messages: &[&[Block]; N], count: usize) {
    run(state, messages, count);
}

impl<const N: usize> Lanes<N> {
    /// For every processor.
    pub(super) fn base() -> Self {
        Self(Set::Base)
    }

    /// For processors with AVX2; `None` if this is none.
    #[cfg(target_arch = "x86_64")]
    pub(super) fn avx2() -> Option<Self> {
        is_x86_feature_detected!("avx2").then_some(Self(Set::Avx2))
    }

    /// For processors with AVX-512; `None` if this is none.
    #[cfg(target_arch = "x86_64")]
    pub(super) fn avx512() -> Option<Self> {
        let has = is_x86_feature_detected!("avx512f")
            && is_x86_feature_detected!("avx512vl")
            && is_x86_feature_detected!("avx512bw");
        has.then_some(Self(Set::Avx512))
    }

    /// Takes the first `count` blocks of each message, which must have as many.
    pub(super) fn run(&self, state: &mut State<N>, messages: &[&[Block]; N], count: usize) {
        match self.0 {
            Set::Base => run(state, messages, count),
            // SAFETY: only `avx2` makes this value, and only where the processor has AVX2.
            #[cfg(target_arch = "x86_64")]
            Set::Avx2 => unsafe { run_avx2(state, messages, count) },
            // SAFETY: only `avx512` makes this value, and only where the processor has all that the function was compiled for.
            #[cfg(target_arch = "x86_64")]
            Set::Avx512 => unsafe { run_avx512(state, messages, count) },
        }
    }
}
