//! `--append` of `index` and `sync`.

use crate::engine::index::{Append, SAMPLES};
use clap::{Args, ValueEnum};

#[derive(Args)]
pub(super) struct AppendArgs {
    #[arg(long, value_name = "HOW", value_enum, default_value_t = How::Full, help = help())]
    append: How,
}

#[derive(Clone, Copy, ValueEnum)]
enum How {
    Full,
    Spot,
    Trust,
}

fn help() -> String {
    format!(
        "What is read of a file of 4 MiB or more that grew, as logs do: all of it; {SAMPLES} samples of what it had, and its end; its end alone, \
         the rest is believed. Another inode, a shorter file, a sample or an end that differs, and --checksum mean all of it. With spot and \
         trust, a file may grow while it is read"
    )
}

impl AppendArgs {
    pub(super) fn append(&self) -> Append {
        match self.append {
            How::Full => Append::Full,
            How::Spot => Append::Spot,
            How::Trust => Append::Trust,
        }
    }
}
