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
        "How files that grew, such as logs, are read here and by the receiver. full: all of the file. spot: {SAMPLES} samples of the previous content, \
         and the new end. trust: the new end alone. Files that changed in another way, and all files with --checksum, are read whole. With spot and \
         trust, files may grow while they are read"
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
