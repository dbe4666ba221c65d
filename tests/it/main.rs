//! Integration tests: the built program from outside, one module for each subject. What they share is in `support`.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stdout, clippy::print_stderr)]

#[macro_use]
mod support;

mod architecture;
mod check;
mod cli;
mod defects;
mod harness;
mod http;
mod index;
mod legacy;
mod options;
mod proxy;
mod ranges;
mod roundtrip;
mod sync;
mod unprivileged;
