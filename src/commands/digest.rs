//! `--digest` of `index`, `sync` and `check`.

use clap::{Args, ValueEnum};

#[derive(Args)]
pub(super) struct DigestArgs {
    /// The digests of contents. The original program needs md5. It is computed in order, so that a
    /// large file takes as long as one core takes for it; blake3 alone takes all cores. A file that
    /// is not read again keeps those that it has. check compares with what the index has of them.
    /// The index of a bucket, or of a list, has the md5 that is given there
    #[arg(long, value_name = "DIGESTS", value_enum, default_value_t = Digests::Both)]
    digest: Digests,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Digests {
    #[value(name = "md5,blake3", alias = "blake3,md5")]
    Both,
    #[value(name = "blake3")]
    Blake3,
}

impl DigestArgs {
    /// Whether md5 is one of them.
    pub(super) fn has_md5(&self) -> bool {
        self.digest == Digests::Both
    }
}
