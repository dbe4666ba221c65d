//! The same at the receiver: its copy of the first generation is changed before the second
//! generation arrives, and while it arrives. The receiver asks again for a file whose `stat` shows
//! a change, and for no other, and the run ends with the right tree. Files outside the base folder
//! are not touched (P2, P5, P10).

use super::generations::{Second, first, second};
use super::{Change, Change::*};
use crate::support::stress::fingerprint;
use crate::support::tree_diff;
use std::path::Path;

/// Files by their names in the first generation; two at a time that are unrelated.
const PLACES: [&str; 8] = [
    "changed/small",
    "renamed/old",
    "edited/large",
    "removed/file",
    "grown/log",
    "touched/file",
    "origin/file",
    "unchanged/file",
];

/// Makes the change to the copy. A link that it makes leads to the folder `outside`.
fn alter(second: &Second, change: Change, dst: &Path, place: &str) {
    let aside = second.setting.lab.dir(&format!("outside/{}", place.replace('/', "-")));
    change.apply(dst, Path::new(place), &aside);
}

/// Whether size, type and time are unchanged.
fn is_hidden(change: Change) -> bool {
    matches!(change, ReplacedInSecret | RewrittenInSecret | Unreadable)
}

/// Whether a changed file has its previous size and time, and no process reads it: then only
/// `check` finds the change. The receiver sets its permissions again. `late`: the second generation
/// had replaced the first file already.
fn goes_unnoticed(change: Change, place: &str, late: bool) -> bool {
    match place {
        "origin/file" | "unchanged/file" | "touched/file" => is_hidden(change) && change != Unreadable,
        "changed/small" => is_hidden(change) && change != Unreadable && late,
        _ => false,
    }
}

/// Fails unless the copy is the second generation, except for changes that no `stat` shows, and
/// foreign entries in the place of entries to delete.
#[track_caller]
fn right(second: &Second, change: Change, places: &[&str], late: bool, dst: &Path) {
    let what = format!("{change:?} {places:?}");
    let mut diff = tree_diff(&second.setting.twin, dst);
    let mut unnoticed: Vec<&str> =
        places.iter().copied().filter(|place| goes_unnoticed(change, place, late)).collect();
    unnoticed.sort();
    for place in &unnoticed {
        let found = diff.extract_if(.., |line| line.starts_with(&format!("{place}: content "))).count();
        assert_eq!(found, 1, "{what}: {place}: {diff:?}");
    }
    for gone in ["removed/file", "renamed/old"] {
        let folder = gone.split_once('/').unwrap().0;
        let of_it = |line: &String| {
            line.starts_with(&format!("extra: {gone} ")) || line.starts_with(&format!("extra: {folder} "))
        };
        // A link in the place of a folder is replaced if the folder is needed.
        let is_deleted = is_hidden(change)
            || matches!(change, Vanishes | ParentVanishes)
            || (change == ParentBecomesLink && folder == "renamed");
        let stays = diff.extract_if(.., |line| of_it(line)).count() > 0;
        assert_eq!(stays, places.contains(&gone) && !is_deleted, "{what}: {gone}");
    }
    assert_eq!(diff, [""; 0], "{what}");
    let checked = second.setting.lab.check(dst, &second.setting.db, vec![]);
    let mut found: Vec<&str> = checked.stdout.lines().filter_map(|line| line.split('\t').nth(1)).collect();
    // `check` lists them in the order of the archive.
    found.sort();
    let code = i32::from(!unnoticed.is_empty());
    assert_eq!((found, checked.code), (unnoticed, code), "{what}");
}

/// Missing parts that lie closer than this, in bytes, are sent as one.
const CLOSE: u64 = 128 << 10;

/// The change of each file, two to a receiver.
fn everywhere(change: Change) {
    let mut second = Second::new(first, second);
    let tail_bytes = second.tail_bytes();
    let outside = second.setting.lab.path("outside");
    for places in PLACES.chunks(2) {
        let what = format!("{places:?} {change:?}");
        let (dst, proxy) = second.receiver();
        places.iter().for_each(|place| alter(&second, change, &dst, place));
        let before = fingerprint(&outside);
        let summary = second.upload(Vanishes, &proxy.url, &[]).run().code(0).summary();
        assert_eq!(fingerprint(&outside), before, "{what}");
        right(&second, change, places, false, &dst);
        // The file itself, by any name that the second generation gives it, and no other.
        let size = |path: &Path| path.metadata().map_or(0, |meta| meta.len());
        let again: u64 = places.iter().map(|place| size(&second.setting.twin.join(place))).sum();
        let renamed = size(&second.setting.twin.join("renamed/new"));
        let sent = summary["sent_bytes"].as_u64().unwrap();
        assert!(sent <= tail_bytes + again + renamed + 2 * CLOSE, "{what}: {tail_bytes} {again} {summary}");
        std::fs::remove_dir_all(&outside).unwrap();
    }
}

/// All changes while the second generation arrives: content that it shares with the first is copied
/// already, unchanged files are confirmed by `stat`, and the first file has its name.
fn while_it_comes(change: Change) {
    let mut second = Second::new(first, second);
    let (dst, proxy) = second.receiver();
    let (twin, outside) = (&second.setting.twin, second.setting.lab.path("outside"));
    let is_there = || {
        let content = |root: &Path| std::fs::read(root.join(PLACES[0])).unwrap();
        content(twin) == content(&dst)
    };
    let mut before = Vec::new();
    let damage = || {
        PLACES.iter().for_each(|place| alter(&second, change, &dst, place));
        before = fingerprint(&outside);
    };
    second.while_sending(Vanishes, &proxy, 10_000, is_there, damage).code(0);
    assert_eq!(fingerprint(&outside), before);
    right(&second, change, &PLACES, true, &dst);
}

/// The receiver reads a folder without an index, so it notices every change, and may delete all
/// files of that folder.
fn before_an_adoption(change: Change) {
    let second = Second::new(first, second);
    let setting = &second.setting;
    let (dst, db) = (setting.lab.path("adopted"), setting.lab.path("adopted.sqlite"));
    super::copy(&second.first, &dst);
    let proxy = setting.lab.proxy(&dst);
    for place in PLACES {
        alter(&second, change, &dst, place);
    }
    let outside = setting.lab.path("outside");
    let before = fingerprint(&outside);
    let flags = args!["-db", db, "--adopt", "--delete"];
    setting.lab.sync(&setting.src, &proxy.url, flags).code(0);
    assert_eq!(fingerprint(&outside), before);
    // The walk leaves out entries that are no file, folder or link: they are no part of the copy.
    let mut diff = tree_diff(&setting.twin, &dst);
    let strange =
        ["extra: removed (directory)", "extra: removed/file (special)", "extra: renamed/old (special)"];
    diff.retain(|line| change != BecomesFifo || !strange.contains(&line.as_str()));
    assert_eq!(diff, [""; 0], "{change:?}");
}

each_change!(before: super::everywhere);
each_change!(during: super::while_it_comes);
each_change!(adopted: super::before_an_adoption);
