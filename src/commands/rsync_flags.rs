//! Flags of rsync that ask for what `sync` does without them.

use clap::{ArgAction, Args};

/// They are accepted, since users of rsync type them, and hidden, since they change nothing.
#[derive(Args)]
pub(super) struct RsyncFlags {
    #[arg(short, long, hide = true, action = ArgAction::Count)]
    archive: u8,
    #[arg(short, long, hide = true, action = ArgAction::Count)]
    recursive: u8,
    #[arg(short, long, hide = true, action = ArgAction::Count)]
    links: u8,
    #[arg(long, hide = true, action = ArgAction::Count)]
    perms: u8,
    #[arg(short, long, hide = true, action = ArgAction::Count)]
    times: u8,
    #[arg(short, long, hide = true, action = ArgAction::Count)]
    owner: u8,
    #[arg(short, long, hide = true, action = ArgAction::Count)]
    group: u8,
    #[arg(short = 'H', long, hide = true, action = ArgAction::Count)]
    hard_links: u8,
    #[arg(short = 'z', hide = true, action = ArgAction::Count)]
    compressed: u8,
    #[arg(short = 'P', long, visible_alias = "partial", hide = true, action = ArgAction::Count)]
    progress: u8,
    #[arg(long, hide = true, action = ArgAction::Count)]
    human_readable: u8,
    #[arg(long, hide = true, action = ArgAction::Count)]
    numeric_ids: u8,
    #[arg(short = 'D', long, hide = true, action = ArgAction::Count)]
    devices: u8,
    #[arg(short = 'A', long, hide = true, action = ArgAction::Count)]
    acls: u8,
    #[arg(short = 'X', long, hide = true, action = ArgAction::Count)]
    xattrs: u8,
    #[arg(short = 'S', long, hide = true, action = ArgAction::Count)]
    sparse: u8,
}

impl RsyncFlags {
    /// One sentence for each kind of entry or metadata that a flag asks for and `sync` does not
    /// copy.
    pub(super) fn warnings(&self) -> impl Iterator<Item = &'static str> {
        [
            (self.devices, "-D: FIFOs, sockets and devices are not copied; they are listed as skipped"),
            (self.acls, "-A: ACLs are not copied; modes and owners are"),
            (self.xattrs, "-X: extended attributes are not copied"),
            (self.sparse, "-S: holes of sparse files arrive as zeros"),
        ]
        .into_iter()
        .filter(|(times, _)| *times > 0)
        .map(|(_, warning)| warning)
    }
}
