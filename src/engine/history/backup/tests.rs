use super::*;
use crate::archive::backup::{Kind, Place, RECORDS, SLOTS};
use crate::archive::digest::{IndexDigest, blake3};
use crate::error::{Error, ErrorKind, Result};
use proptest::prelude::*;
use std::io::{Read, Write};
use std::path::Path;

fn record(version: u64) -> Record {
    Record { version, digest: digest(version), created_s: 1_700_000_000 + version }
}

fn digest(version: u64) -> IndexDigest {
    blake3(&version.to_le_bytes())
}

/// What the record of this version holds.
fn content(version: u64) -> Vec<u8> {
    format!("+{version}").into_bytes()
}

fn put(version: u64) -> impl FnOnce(&mut dyn Write) -> Result<()> {
    move |to| to.write_all(&content(version)).map_err(|e| Error::io("write", e))
}

fn append(backup: &mut BackupFile, version: u64, parent: u64) -> Result<()> {
    backup.append(&record(version), (parent, &digest(parent)), put(version))
}

fn text(backup: &BackupFile, chain: &[Place]) -> String {
    let mut text = String::new();
    for place in chain {
        backup.payload(place).read_to_string(&mut text).unwrap();
    }
    text
}

/// What a restore gives: the version and what it consists of.
fn restored(path: &Path) -> Option<(u64, String)> {
    let backup = BackupFile::open(path).ok()?;
    let found = backup.intact().ok()?;
    Some((found.version()?.head.version, text(&backup, &found.chain)))
}

/// Snapshot 1, changes 2 and 3, back to 2, change 4.
fn sample(path: &Path) {
    let mut backup = BackupFile::create(path, &record(1), put(1)).unwrap();
    append(&mut backup, 2, 1).unwrap();
    append(&mut backup, 3, 2).unwrap();
    backup.rewind(&record(2), |_| Ok(())).unwrap();
    append(&mut backup, 4, 2).unwrap();
}

#[test]
fn what_was_abandoned_is_never_restored() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("backup");
    sample(&path);
    assert_eq!(restored(&path), Some((4, "+1+2+4".into())));
    let backup = BackupFile::open(&path).unwrap();
    assert_eq!(backup.damage(), None);
    let error = backup.intact_version(3).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::BadIndex);
    assert!(error.to_string().contains("abandoned"), "{error}");
    assert_eq!(text(&backup, &backup.intact_version(2).unwrap()), "+1+2");
    assert!(backup.intact_version(9).unwrap_err().to_string().contains("has no generation 9"));
}

/// Wherever the damage begins: what a rewind behind it has abandoned is not restored, as far as
/// anything left of the file says so.
#[test]
fn a_damaged_rewind_still_abandons() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("backup");
    let rewind_at = |path: &Path| {
        let backup = BackupFile::open(path).unwrap();
        let is_rewind = |place: &&Place| place.head.kind == Kind::Rewind;
        backup.lineage().records().iter().find(is_rewind).unwrap().start
    };
    // (records behind the rewind, whether the file is cut there, what is restored)
    for (later, cut, expected) in
        [(0, true, "+1+2"), (0, false, "+1+2"), (1, true, "+1+2"), (3, false, "+1+2")]
    {
        let _ = std::fs::remove_file(&path);
        let mut backup = BackupFile::create(&path, &record(1), put(1)).unwrap();
        append(&mut backup, 2, 1).unwrap();
        append(&mut backup, 3, 2).unwrap();
        backup.rewind(&record(2), |_| Ok(())).unwrap();
        for number in 0..later {
            append(&mut backup, 4 + number, if number == 0 { 2 } else { 3 + number }).unwrap();
        }
        drop(backup);
        let at = rewind_at(&path) as usize;
        let mut bytes = std::fs::read(&path).unwrap();
        bytes[at + 20] ^= 1;
        if cut {
            bytes.truncate(at + 50);
        }
        std::fs::write(&path, &bytes).unwrap();
        assert_eq!(restored(&path), Some((2, expected.into())), "{later} {cut}");
        let backup = BackupFile::open(&path).unwrap();
        assert!(matches!(backup.damage(), Some(Damage::Lost { .. })));
        assert!(backup.intact_version(3).unwrap_err().to_string().contains("abandoned"));
        drop(backup);
        // The next run adds once more what was lost.
        let mut backup = BackupFile::open_to_append(&path).unwrap();
        backup.rewind(&record(2), |_| Ok(())).unwrap();
        append(&mut backup, 9, 2).unwrap();
        drop(backup);
        assert_eq!(restored(&path), Some((9, "+1+2+9".into())), "{later} {cut}");
    }
}

#[test]
fn what_does_not_follow_is_refused_and_changes_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("backup");
    sample(&path);
    let before = std::fs::read(&path).unwrap();
    let mut backup = BackupFile::open_to_append(&path).unwrap();
    let refused = |result: Result<()>| assert_eq!(result.unwrap_err().kind(), ErrorKind::WrongIndex);
    refused(append(&mut backup, 5, 3));
    refused(append(&mut backup, 5, 2));
    refused(append(&mut backup, 4, 4));
    refused(append(&mut backup, 3, 4));
    refused(backup.append(&record(5), (4, &digest(9)), put(5)));
    refused(backup.append_snapshot(&record(5), (2, &digest(2)), put(5)));
    refused(backup.rewind(&record(3), |_| Ok(())));
    refused(backup.rewind(&record(4), |_| Ok(())));
    refused(backup.rewind(&Record { digest: digest(9), ..record(1) }, |_| Ok(())));
    drop(backup);
    assert_eq!(std::fs::read(&path).unwrap(), before);
    assert_eq!(BackupFile::create(&path, &record(1), put(1)).err().unwrap().kind(), ErrorKind::Usage);
    assert_eq!(std::fs::read(&path).unwrap(), before);
}

#[test]
fn a_source_that_fails_leaves_the_file_as_it_was() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("backup");
    let fail = |to: &mut dyn Write| {
        to.write_all(&[7; 1 << 20]).unwrap();
        Err(Error::new(ErrorKind::Interrupted, "interrupted"))
    };
    assert!(BackupFile::create(&path, &record(1), fail).is_err());
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
    sample(&path);
    let before = std::fs::read(&path).unwrap();
    let mut backup = BackupFile::open_to_append(&path).unwrap();
    let error = backup.append(&record(5), (4, &digest(4)), fail).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Interrupted);
    assert_eq!(std::fs::read(&path).unwrap(), before);
    // And it can be gone on with.
    append(&mut backup, 5, 4).unwrap();
    drop(backup);
    assert_eq!(restored(&path), Some((5, "+1+2+4+5".into())));
}

#[test]
fn one_writes_or_many_read() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("backup");
    sample(&path);
    let in_use = |result: Result<BackupFile>| assert_eq!(result.err().unwrap().kind(), ErrorKind::InUse);
    let readers = [BackupFile::open(&path).unwrap(), BackupFile::open(&path).unwrap()];
    in_use(BackupFile::open_to_append(&path));
    drop(readers);
    let writer = BackupFile::open_to_append(&path).unwrap();
    in_use(BackupFile::open_to_append(&path));
    in_use(BackupFile::open(&path));
    // The file that replaces it is locked as well, before it has its name.
    let (writer, _) = writer.compact(|backup, chain, to| fold(backup, chain, to)).unwrap();
    in_use(BackupFile::open_to_append(&path));
    drop(writer);
    assert!(BackupFile::open_to_append(&path).is_ok());
}

fn fold(backup: &BackupFile, chain: &[Place], to: &mut dyn Write) -> Result<()> {
    to.write_all(text(backup, chain).as_bytes()).map_err(|e| Error::io("write", e))
}

#[test]
fn compact_keeps_the_last_change_and_nothing_abandoned() {
    use std::os::unix::fs::PermissionsExt;
    let folder = tempfile::tempdir().unwrap();
    let (path, link) = (folder.path().join("backup"), folder.path().join("link"));
    sample(&path);
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o640)).unwrap();
    std::os::unix::fs::symlink("backup", &link).unwrap();
    let (_, [before, after]) = BackupFile::open_to_append(&link).unwrap().compact(fold).unwrap();
    assert!(after < before, "{after} {before}");
    // Through the link: it stays one.
    assert!(std::fs::symlink_metadata(&link).unwrap().is_symlink());
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o640);
    assert_eq!(restored(&path), Some((4, "+1+2+4".into())));
    let mut backup = BackupFile::open_to_append(&path).unwrap();
    let versions: Vec<u64> = backup.lineage().records().iter().map(|place| place.head.version).collect();
    assert_eq!(versions, [2, 4]);
    assert_eq!(text(&backup, &backup.intact_version(2).unwrap()), "+1+2");
    append(&mut backup, 5, 4).unwrap();
    // Back to what is a snapshot: of no change is anything left.
    backup.rewind(&record(2), |_| Ok(())).unwrap();
    let (backup, _) = backup.compact(fold).unwrap();
    drop(backup);
    assert_eq!(restored(&path), Some((2, "+1+2".into())));
    assert_eq!(BackupFile::open(&path).unwrap().lineage().records().len(), 1);
    // A snapshot that cannot be made leaves the file as it is.
    let mut backup = BackupFile::open_to_append(&path).unwrap();
    append(&mut backup, 6, 2).unwrap();
    let before = std::fs::read(&path).unwrap();
    assert!(backup.compact(|_, _, _| Err(Error::new(ErrorKind::NoSpace, "full"))).is_err());
    assert_eq!(std::fs::read(&path).unwrap(), before);
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 2);
}

/// Adds generation 7 as `history backup` does: the index knows what it went back behind.
fn go_on(backup: &mut BackupFile) {
    let live = backup.lineage().live().unwrap().head.version;
    let newest = backup.newest().unwrap().head.version;
    if newest != live {
        backup.rewind(&record(newest), |_| Ok(())).unwrap();
    }
    append(backup, 7, newest).unwrap();
}

/// Whatever is cut off: only records that are not whole any more are lost, and the file can be gone
/// on with.
#[test]
fn every_cut() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("backup");
    sample(&path);
    let whole = std::fs::read(&path).unwrap();
    let ends: Vec<u64> = BackupFile::open(&path)
        .unwrap()
        .lineage()
        .records()
        .iter()
        .map(|place| place.payload().end)
        .collect();
    // What is newest with that many whole records. That 3 was abandoned, the slots still know.
    let states = [None, Some("+1"), Some("+1+2"), Some("+1+2"), Some("+1+2"), Some("+1+2+4")];
    for cut in (0..64).chain(RECORDS as usize - 2..whole.len()) {
        std::fs::write(&path, &whole[..cut]).unwrap();
        let count = ends.iter().filter(|&&end| end <= cut as u64).count();
        assert_eq!(restored(&path).map(|(_, text)| text).as_deref(), states[count], "cut at {cut}");
        let Ok(mut backup) = BackupFile::open_to_append(&path) else {
            assert_eq!(count, 0);
            continue;
        };
        assert_eq!(backup.damage(), Some(Damage::Lost { at: ends[count - 1], newest: 4 }), "cut at {cut}");
        go_on(&mut backup);
        assert_eq!(backup.damage(), None);
        drop(backup);
        assert_eq!(restored(&path).unwrap().1, format!("{}+7", states[count].unwrap()));
        assert_eq!(BackupFile::open(&path).unwrap().damage(), None);
    }
}

/// Whatever is altered: what is restored is a version that was there, and as new as can be.
#[test]
fn every_flip() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("backup");
    sample(&path);
    let whole = std::fs::read(&path).unwrap();
    let records = BackupFile::open(&path).unwrap().lineage().records().to_vec();
    for at in (0..96).chain(4096..4096 + 96).chain(RECORDS as usize..whole.len()) {
        for flip in [1, 0x80] {
            let mut bytes = whole.clone();
            bytes[at] ^= flip;
            std::fs::write(&path, &bytes).unwrap();
            let hit =
                records.iter().position(|place| place.payload().end > at as u64 && place.start <= at as u64);
            let in_payload = hit.is_some_and(|hit| records[hit].payload().contains(&(at as u64)));
            let expected = match (hit, in_payload) {
                // A slot, or something that no version needs.
                (None, _) | (Some(2), true) => Some("+1+2+4"),
                (Some(0), _) => None,
                (Some(1), _) => Some("+1"),
                // Heads lead from one record to the next: behind a damaged one nothing is found.
                (Some(_), _) => Some("+1+2"),
            };
            let found = restored(&path);
            assert_eq!(found.as_ref().map(|(_, text)| &text[..]), expected, "byte {at}, record {hit:?}");
            if let (Some((version, _)), Ok(mut backup)) = (found, BackupFile::open_to_append(&path)) {
                go_on(&mut backup);
                drop(backup);
                // A change in the midst of a version is noticed by who reads it.
                let after = restored(&path).unwrap();
                assert!(
                    after.0 == 7 || (hit == Some(1) && in_payload && after.0 == version),
                    "byte {at}: {after:?}"
                );
            }
        }
    }
}

/// An interrupted run leaves something behind the end; that of a record which is whole counts,
/// whatever the slots say.
#[test]
fn what_lies_behind_the_end() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("backup");
    sample(&path);
    let previous = std::fs::read(&path).unwrap();
    append(&mut BackupFile::open_to_append(&path).unwrap(), 5, 4).unwrap();
    let mut bytes = std::fs::read(&path).unwrap();
    // The slots were not written.
    bytes[..RECORDS as usize].copy_from_slice(&previous[..RECORDS as usize]);
    for cut in previous.len()..=bytes.len() {
        std::fs::write(&path, &bytes[..cut]).unwrap();
        let backup = BackupFile::open(&path).unwrap();
        let (at, is_whole) = (previous.len() as u64, cut == bytes.len());
        let unfinished = (cut > previous.len() && !is_whole).then_some(Damage::Unfinished { at });
        assert_eq!(backup.damage(), unfinished, "cut at {cut}");
        drop(backup);
        let expected = if is_whole { "+1+2+4+5" } else { "+1+2+4" };
        assert_eq!(restored(&path).unwrap().1, expected);
    }
    // A record of another file, whole in itself, is none of this one.
    let other = folder.path().join("other");
    BackupFile::create(&other, &record(1), |to| put(9)(to)).unwrap();
    append(&mut BackupFile::open_to_append(&other).unwrap(), 5, 1).unwrap();
    let other = std::fs::read(&other).unwrap();
    let stray = &other[other.len() - crate::archive::backup::HEAD_LEN - 2..];
    std::fs::write(&path, [&previous, stray].concat()).unwrap();
    assert_eq!(restored(&path).unwrap().1, "+1+2+4");
    // Both slots are gone.
    bytes[..RECORDS as usize].fill(0);
    std::fs::write(&path, &bytes).unwrap();
    assert_eq!(restored(&path).unwrap().1, "+1+2+4+5");
    append(&mut BackupFile::open_to_append(&path).unwrap(), 6, 5).unwrap();
    assert_eq!(restored(&path).unwrap().1, "+1+2+4+5+6");
}

#[test]
fn what_is_no_backup_is_refused_and_left_alone() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("file");
    let noise: Vec<u8> = (0..20_000_u32).map(|i| ((i * i) >> 7) as u8).collect();
    for foreign in [&b""[..], b"x", b"SQLite format 3\0", &noise, &[0; 30_000]] {
        std::fs::write(&path, foreign).unwrap();
        for error in
            [BackupFile::open(&path).err().unwrap(), BackupFile::open_to_append(&path).err().unwrap()]
        {
            assert_eq!(error.kind(), ErrorKind::BadIndex);
            assert!(error.to_string().ends_with("it is no backup of an index"), "{error}");
        }
        assert_eq!(std::fs::read(&path).unwrap(), foreign);
    }
    assert_eq!(BackupFile::open(folder.path()).err().unwrap().kind(), ErrorKind::BadIndex);
    let absent = BackupFile::open(&folder.path().join("absent")).err().unwrap();
    assert_eq!((absent.kind(), absent.hint().is_some()), (ErrorKind::Io, true));
    let pipe = folder.path().join("pipe");
    // Not by a program: whatever is started here holds our locks for a moment.
    rustix::fs::mknodat(rustix::fs::CWD, &pipe, rustix::fs::FileType::Fifo, 0o600.into(), 0).unwrap();
    assert_eq!(BackupFile::open(&pipe).err().unwrap().kind(), ErrorKind::BadIndex);
    // A head that promises more than there is.
    sample(&folder.path().join("backup"));
    let mut bytes = std::fs::read(folder.path().join("backup")).unwrap();
    let head: [u8; crate::archive::backup::HEAD_LEN] =
        bytes[RECORDS as usize..][..crate::archive::backup::HEAD_LEN].try_into().unwrap();
    let liar = crate::archive::backup::RecordHead {
        length: u64::MAX - 5,
        ..crate::archive::backup::RecordHead::parse(&head).unwrap()
    };
    bytes[RECORDS as usize..][..head.len()].copy_from_slice(&liar.to_bytes());
    std::fs::write(&path, bytes).unwrap();
    assert!(BackupFile::open(&path).err().unwrap().to_string().contains("no whole snapshot"));
}

/// The format is a promise to other versions: what one of them wrote is read for ever, and the same
/// calls give the same bytes.
#[test]
fn golden_file() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("backup");
    sample(&path);
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/history/golden/backup-1.bin");
    assert!(std::fs::read(&path).unwrap() == std::fs::read(&golden).unwrap());
    std::fs::copy(&golden, &path).unwrap();
    assert_eq!(restored(&path), Some((4, "+1+2+4".into())));
    assert_eq!(SLOTS, [0, 4096]);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]
    /// Any steps, with the file opened again before each: always what a list of the live versions
    /// says.
    #[test]
    fn as_the_model_says(steps in proptest::collection::vec((0u8..6, 0u64..9, 0usize..250), 1..25)) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("backup");
        drop(BackupFile::create(&path, &record(1), put(1)).unwrap());
        let (mut live, mut next) = (vec![1], 2);
        // Live versions after each record, to know what a cut leaves.
        let mut states = vec![live.clone()];
        let mut lost: Vec<u64> = Vec::new();
        for (what, version, cut) in steps {
            let newest = *live.last().unwrap();
            let mut backup = BackupFile::open_to_append(&path).unwrap();
            match what {
                0..=2 => {
                    append(&mut backup, next, newest).unwrap();
                    live.push(next);
                    states.push(live.clone());
                    next += 1;
                }
                3 => {
                    let at = live.iter().position(|&other| other == version).filter(|at| at + 1 < live.len());
                    prop_assert_eq!(backup.rewind(&record(version), |_| Ok(())).is_ok(), at.is_some());
                    if let Some(at) = at {
                        live.truncate(at + 1);
                        states.push(live.clone());
                    }
                }
                4 => {
                    let ends: Vec<u64> = backup.lineage().records().iter().map(|place| place.payload().end).collect();
                    let keep = ends[ends.len() - 1].saturating_sub(cut as u64).max(ends[0]);
                    backup.file.set_len(keep).unwrap();
                    let gone = states.split_off(ends.iter().filter(|&&end| end <= keep).count());
                    // A second cut brings nothing back that the first one took.
                    lost.extend(gone.iter().filter_map(|state| state.last().copied()));
                    live = states.last().unwrap().clone();
                }
                // What was lost is not there to be folded: as `history backup` does, something is
                // added first.
                _ if backup.damage().is_some() => {
                    prop_assert!(backup.compact(fold).is_err());
                    continue;
                }
                _ => {
                    // A snapshot stays alone, and of what comes before a last change only the
                    // version before is left.
                    let was_rewound = backup.lineage().records().last().unwrap().head.kind == Kind::Rewind;
                    let is_change = backup.lineage().live().unwrap().head.kind == Kind::Change;
                    let keep = if is_change && !was_rewound { 2 } else { 1 };
                    live.drain(..live.len() - keep);
                    states = (1..=keep).map(|count| live[..count].to_vec()).collect();
                    drop(backup.compact(fold).unwrap());
                    continue;
                }
            }
            drop(backup);
            let backup = BackupFile::open(&path).unwrap();
            let found: Vec<u64> = backup.lineage().live_line().map(|place| place.head.version).collect();
            prop_assert_eq!(found.into_iter().rev().collect::<Vec<_>>(), live.clone());
            let found = backup.intact().unwrap();
            let text = text(&backup, &found.chain);
            // What a lost rewind has abandoned is in the records, but not given, if the slots know
            // of it.
            let highest = backup.rewound_to.unwrap_or(u64::MAX);
            prop_assert!(backup.rewound_to.is_none_or(|to| lost.contains(&to) && to < *live.last().unwrap()));
            let ends = live.iter().filter(|&&version| version <= highest);
            let ends = ends.map(|version| format!("+{version}")).collect::<String>();
            prop_assert!(text.ends_with(&ends), "{} {}", text, ends);
            prop_assert!(found.lost.is_empty());
        }
    }
}
