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
        "How files that grew are read, as logs are, here and by the receiver: whole; {SAMPLES} samples of what they had, and the end; the end \
         alone, which believes that nothing else changed. What is no mere growth, and everything with --checksum, is read whole. With spot and trust they may grow while \
         they are read"
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
