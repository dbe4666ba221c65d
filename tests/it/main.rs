//! Integration tests: the built program from outside, one module for each subject. `support` has
//! the shared code.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stdout, clippy::print_stderr)]

#[macro_use]
mod support;

mod adopt;
mod append;
mod architecture;
mod beside;
mod between;
mod blockcopy;
mod change;
mod chaos;
mod check;
mod chunk_map;
mod citations;
mod cli;
mod containers;
mod contents;
mod damaged;
mod defects;
mod deleting;
mod documents;
mod filter;
mod full;
mod generated;
mod generations;
mod haproxy;
mod harness;
mod history;
mod hostile_block;
mod hostile_frames;
mod hostile_index;
mod hostile_log;
mod http;
mod index;
mod index_files;
mod inject;
mod keep;
mod kill;
mod legacy;
mod model;
mod names;
mod operations;
mod options;
mod originals;
mod placed;
mod placing;
mod plan;
mod power;
mod progress;
mod proxy;
mod ranges;
mod release;
mod roundtrip;
mod s3;
mod s3_servers;
mod scale;
mod scripts;
mod settings;
mod single;
mod skipped;
mod sources;
mod standby;
mod stream;
mod symlinks;
mod sync;
mod tls;
mod tokens;
mod typed;
mod unprivileged;
