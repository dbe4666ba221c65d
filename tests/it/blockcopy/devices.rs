//! Block devices: loop devices over files. Skipped where the machine has none.

use super::{Copy, NONE, OURS, Who, pair, step};
use crate::support::device::Loop;

#[test]
fn a_device_is_a_destination_and_a_source() {
    let (new, old) = pair(2 << 20, 11);
    for native in [vec![], args!["--native"]] {
        let mut copy = Copy::new(&new, &old);
        let (Some(from), Some(to)) = (Loop::new(&copy.source), Loop::new(&copy.destination)) else { return };
        (copy.source, copy.destination) = (from.0.clone(), to.0.clone());
        let backup = copy.lab.path("backup");
        copy.succeed(OURS, [native, vec![], args!["--backup", backup, "--sparse"]]);
        assert!(copy.result() == new);
        let undone = step(Who::Ours, args!["undo", "--backup", backup, copy.destination], None, None);
        assert_eq!(undone.code, 0, "{}", undone.stderr);
        assert!(copy.result() == old);
    }
}

/// The device keeps its size, and no byte of a source that is too large for it is written.
#[test]
fn nothing_is_written_to_a_device_that_is_too_small() {
    let (new, mut old) = pair(2 << 20, 12);
    old.truncate(1 << 20);
    // With the original's stream, `save` knows only that the blocks behind the end are too many.
    let mut copy = Copy::new(&new, &old);
    let Some(to) = Loop::new(&copy.destination) else { return };
    copy.destination = to.0.clone();
    let ended = copy.run(OURS, [args!["--native"], vec![], vec![]]);
    assert_eq!(ended[2].code, 2, "{ended:#?}");
    assert!(ended[2].stderr.contains("needs 2097152"), "{}", ended[2].stderr);
    assert!(copy.result() == old);
    let ended = copy.run(OURS, NONE);
    assert_eq!(ended[2].code, 2, "{ended:#?}");
    let stderr = &ended[2].stderr;
    assert!(stderr.contains(" at least;") && !stderr.contains("nothing was written"), "{stderr}");
    let result = copy.result();
    assert_eq!(result.len(), 1 << 20);
    // Up to the device's end, either stream can copy.
    for native in [vec![], args!["--native"]] {
        std::fs::write(&copy.destination, &old).unwrap();
        copy.succeed(OURS, [[native, args!["--end", "1M"]].concat(), vec![], vec![]]);
        assert!(copy.result() == new[..1 << 20]);
    }
}
