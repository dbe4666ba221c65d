//! The features of the program. A feature that is off is not tested, and [`the_switches_are_right`]
//! fails if it exists.

use crate::support::Lab;

/// `sync` sends the changes inside files, and nothing of a content that the receiver has.
pub(super) const DELTA: bool = true;
/// `sync --delete`.
pub(super) const DELETE: bool = true;
/// `rewind`, and `sync --keep`.
pub(super) const REWIND: bool = true;
/// `compact`.
pub(super) const COMPACT: bool = true;
/// `history backup` and `history restore`.
pub(super) const BACKUP: bool = true;

#[test]
fn the_switches_are_right() {
    let lab = Lab::new();
    let help = |of: &str| lab.run(args![of, "--help"]);
    let sync = help("sync").code(0).stdout;
    for (name, on, can) in [
        // Both appeared together.
        ("DELTA", DELTA, sync.contains("--checksum")),
        ("DELETE", DELETE, sync.contains("--delete")),
        ("REWIND", REWIND, help("rewind").code == 0 && sync.contains("--keep")),
        ("COMPACT", COMPACT, help("compact").code == 0),
        ("BACKUP", BACKUP, help("history").stdout.contains("restore")),
    ] {
        assert_eq!(on, can, "{name} in tests/it/model/switches.rs is {on}, but the program says {can}");
    }
}
