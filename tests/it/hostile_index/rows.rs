//! Rows that no index may have.

use super::Setting;

#[test]
fn paths() {
    let long = format!("UPDATE tar SET path='{}' WHERE path='empty'", "x/".repeat(2048) + "yy");
    let long_name = format!("UPDATE tar SET path='d/{}' WHERE path='empty'", "x".repeat(256));
    Setting::new(vec![]).all_refused(&[
        ("traversal", "UPDATE tar SET path='../outside/evil' WHERE path='empty'"),
        ("traversal within", "UPDATE tar SET path='d/../../outside/evil' WHERE path='empty'"),
        ("traversal at the end", "UPDATE tar SET path='d/..' WHERE path='empty'"),
        ("traversal as a blob", "UPDATE tar SET path=CAST('../outside/evil' AS BLOB) WHERE path='empty'"),
        ("just up", "UPDATE tar SET path='..' WHERE path='empty'"),
        ("dot", "UPDATE tar SET path='.' WHERE path='empty'"),
        ("leading dot", "UPDATE tar SET path='./empty' WHERE path='empty'"),
        ("absolute", "UPDATE tar SET path='OUTSIDE/evil' WHERE path='empty'"),
        ("root", "UPDATE tar SET path='/' WHERE path='empty'"),
        ("double slash", "UPDATE tar SET path='d//x' WHERE path='empty'"),
        ("trailing slash", "UPDATE tar SET path='d/x/' WHERE path='empty'"),
        ("no path", "UPDATE tar SET path='' WHERE path='empty'"),
        ("empty blob", "UPDATE tar SET path=x'' WHERE path='empty'"),
        ("NUL in text", "UPDATE tar SET path=CAST(x'6100622e2e' AS TEXT) WHERE path='empty'"),
        ("NUL in a blob", "UPDATE tar SET path=x'610062' WHERE path='empty'"),
        ("trailing NUL", "UPDATE tar SET path=x'6100' WHERE path='empty'"),
        ("the receiver's folder", "UPDATE tar SET path='.tar-like' WHERE path='empty'"),
        ("the journal", "UPDATE tar SET path='.tar-like/journal.sqlite' WHERE path='empty'"),
        ("the journal as a blob", "UPDATE tar SET path=CAST('.tar-like/x' AS BLOB) WHERE path='empty'"),
        ("over-long path", &long),
        ("over-long name", &long_name),
        ("path is NULL", "UPDATE tar SET path=NULL WHERE path='empty'"),
        ("path is a number in a blob column", "DROP INDEX idx_tar_path; ALTER TABLE tar RENAME COLUMN path TO p; ALTER TABLE tar ADD COLUMN path; UPDATE tar SET path=p; UPDATE tar SET path=7 WHERE p='empty'"),
        ("the same path twice", "UPDATE tar SET path='a' WHERE path='empty'"),
        ("the same path as text and blob", "UPDATE tar SET path=CAST('a' AS BLOB) WHERE path='empty'"),
        ("a file as the folder of another", "UPDATE tar SET path='a/x' WHERE path='empty'"),
        ("a file deep below another", "UPDATE tar SET path='a/x/y/z' WHERE path='empty'"),
        ("a symbolic link as the folder of a file", "UPDATE tar SET path='link/x' WHERE path='empty'"),
        ("a symbolic link outside as the folder of a file", "UPDATE tarlike_node SET target='OUTSIDE' WHERE kind='l'; UPDATE tar SET path='link/evil' WHERE path='empty'"),
        ("a hard link as the folder of a file", "UPDATE tar SET path='hard/x' WHERE path='empty'"),
        ("a file that is a directory", "UPDATE tar SET path='e' WHERE path='empty'"),
        ("a file that is a link", "UPDATE tar SET path='link' WHERE path='empty'"),
    ]);
}

#[test]
fn numbers() {
    Setting::new(vec![]).all_refused(&[
        ("overlap", "UPDATE tar SET offset=offset-1, offset_end=offset_end-1 WHERE path='z'"),
        ("gap", "UPDATE tar SET offset=offset+1, offset_end=offset_end+1 WHERE path='z'"),
        ("all at the start", "UPDATE tar SET offset=0, offset_end=size-1"),
        ("starts behind 0", "UPDATE tar SET offset=offset+10, offset_end=offset_end+10"),
        ("negative size", "UPDATE tar SET size=-5 WHERE path='z'"),
        ("negative size that fits its end", "UPDATE tar SET size=-5, offset_end=offset-6 WHERE path='z'"),
        ("negative offset", "UPDATE tar SET offset=-1, offset_end=size-2 WHERE path='a'"),
        ("all negative", "UPDATE tar SET offset=-offset, offset_end=-offset_end, size=-size"),
        ("largest size", "UPDATE tar SET size=9223372036854775807 WHERE path='z'"),
        ("largest size with an end that wraps", "UPDATE tar SET size=9223372036854775807, offset_end=offset+9223372036854775807-1 WHERE path='z'"),
        ("largest offset", "UPDATE tar SET offset=9223372036854775807 WHERE path='z'"),
        ("largest of all", "UPDATE tar SET offset=9223372036854775807, size=9223372036854775807, offset_end=9223372036854775807"),
        ("size that does not fit", "UPDATE tar SET size=size+1 WHERE path='d/b'"),
        ("end that does not fit", "UPDATE tar SET offset_end=offset_end+1 WHERE path='d/b'"),
        ("exclusive end", "UPDATE tar SET offset_end=offset_end+1"),
        ("size is NULL", "UPDATE tar SET size=NULL WHERE path='z'"),
        ("offset is NULL", "UPDATE tar SET offset=NULL WHERE path='z'"),
        ("end is NULL", "UPDATE tar SET offset_end=NULL WHERE path='z'"),
        ("size is a fraction", "UPDATE tar SET size=300.5 WHERE path='z'"),
        ("size is infinite", "UPDATE tar SET size=9e999 WHERE path='z'"),
        ("size is a blob", "UPDATE tar SET size=x'333030' WHERE path='z'"),
        ("size is text", "UPDATE tar SET size='300 bytes' WHERE path='z'"),
        ("id twice", "UPDATE tar SET id=0"),
        ("ids with a hole", "UPDATE tar SET id=id+1 WHERE id>1"),
        ("ids from 1", "UPDATE tar SET id=id+1"),
        ("ids backwards", "UPDATE tar SET id=(SELECT count(*) FROM tar)-1-id"),
        ("negative id", "UPDATE tar SET id=-1 WHERE id=0"),
        ("largest id", "UPDATE tar SET id=9223372036854775807 WHERE id=3"),
        ("id is NULL", "UPDATE tar SET id=NULL WHERE id=0"),
        ("id is text", "UPDATE tar SET id='zero' WHERE id=0"),
        ("rows out of order", "UPDATE tar SET rowid=-rowid"),
    ]);
}

#[test]
fn hashes_and_metadata() {
    let long = "UPDATE tarlike_file SET blake3=zeroblob(1000000) WHERE id=0";
    Setting::new(vec![]).all_refused(&[
        ("md5 in upper case", "UPDATE tar SET hash=upper(hash)"),
        ("md5 is short", "UPDATE tar SET hash=substr(hash, 2) WHERE id=0"),
        ("md5 is long", "UPDATE tar SET hash=hash||'0' WHERE id=0"),
        ("md5 is no hex", "UPDATE tar SET hash='zz'||substr(hash, 3) WHERE id=0"),
        ("md5 with white space", "UPDATE tar SET hash=' '||substr(hash, 2) WHERE id=0"),
        ("md5 is NULL", "UPDATE tar SET hash=NULL WHERE id=0"),
        ("md5 is empty", "UPDATE tar SET hash='' WHERE id=0"),
        ("md5 is binary", "UPDATE tar SET hash=zeroblob(16) WHERE id=0"),
        ("md5 is not ASCII", "UPDATE tar SET hash='\u{e9}'||substr(hash, 3) WHERE id=0"),
        ("BLAKE3 is short", "UPDATE tarlike_file SET blake3=x'00' WHERE id=0"),
        ("BLAKE3 is text", "UPDATE tarlike_file SET blake3=hex(blake3) WHERE id=0"),
        ("BLAKE3 is a number", "UPDATE tarlike_file SET blake3=7 WHERE id=0"),
        ("BLAKE3 is a megabyte", long),
        ("mode with a file type", "UPDATE tarlike_file SET mode=33188 WHERE id=0"),
        ("negative mode", "UPDATE tarlike_file SET mode=-1 WHERE id=0"),
        ("mode is text", "UPDATE tarlike_file SET mode='rwx' WHERE id=0"),
        ("negative uid", "UPDATE tarlike_file SET uid=-1 WHERE id=0"),
        ("uid over 32 bits", "UPDATE tarlike_file SET uid=4294967296 WHERE id=0"),
        ("gid over 32 bits", "UPDATE tarlike_node SET gid=9223372036854775807 WHERE kind='d'"),
        ("gid is NULL", "UPDATE tarlike_file SET gid=NULL WHERE id=0"),
        ("mtime is text", "UPDATE tarlike_file SET mtime_ns='now' WHERE id=0"),
        ("mtime is a fraction", "UPDATE tarlike_file SET mtime_ns=1.5e300 WHERE id=0"),
    ]);
}

#[test]
fn nodes() {
    let long = format!("UPDATE tarlike_node SET target='{}' WHERE kind='l'", "x".repeat(4096));
    let loose = "ALTER TABLE tarlike_node RENAME TO old; CREATE TABLE tarlike_node(id INTEGER PRIMARY KEY, kind, path, target,
        mode, mtime_ns, uid, gid); INSERT INTO tarlike_node SELECT * FROM old; DROP TABLE old; UPDATE tarlike_node SET ";
    let longest = "UPDATE tarlike_node SET target=zeroblob(10000000) WHERE kind='l'";
    Setting::new(vec![]).all_refused(&[
        ("hard link to nothing", "UPDATE tarlike_node SET target='nowhere' WHERE kind='h'"),
        ("hard link outside", "UPDATE tarlike_node SET target='../outside/victim' WHERE kind='h'"),
        ("absolute hard link", "UPDATE tarlike_node SET target='OUTSIDE/victim' WHERE kind='h'"),
        ("hard link to a directory", "UPDATE tarlike_node SET target='e' WHERE kind='h'"),
        ("hard link to a symbolic link", "UPDATE tarlike_node SET target='link' WHERE kind='h'"),
        ("hard link to itself", "UPDATE tarlike_node SET target='hard' WHERE kind='h'"),
        (
            "hard link to the journal",
            "UPDATE tarlike_node SET target='.tar-like/journal.sqlite' WHERE kind='h'",
        ),
        ("hard link without target", "UPDATE tarlike_node SET target='' WHERE kind='h'"),
        ("hard link that is a file", "UPDATE tarlike_node SET path='z' WHERE kind='h'"),
        ("symbolic link without target", "UPDATE tarlike_node SET target='' WHERE kind='l'"),
        ("symbolic link's target has NUL", "UPDATE tarlike_node SET target=x'610062' WHERE kind='l'"),
        ("symbolic link's target is NULL", &format!("{loose}target=NULL WHERE kind='l'")),
        ("symbolic link's target is a number", &format!("{loose}target=7 WHERE kind='l'")),
        ("kind is NULL", &format!("{loose}kind=NULL WHERE kind='l'")),
        ("path is a number", &format!("{loose}path=7 WHERE kind='l'")),
        ("symbolic link's target is too long", &long),
        ("symbolic link's target is huge", longest),
        ("symbolic link that is a file", "UPDATE tarlike_node SET path='a' WHERE kind='l'"),
        ("symbolic link that is a folder", "UPDATE tarlike_node SET path='d' WHERE kind='l'"),
        ("symbolic link outside", "UPDATE tarlike_node SET path='../outside/link' WHERE kind='l'"),
        ("absolute symbolic link", "UPDATE tarlike_node SET path='OUTSIDE/link' WHERE kind='l'"),
        ("the receiver's folder as a link", "UPDATE tarlike_node SET path='.tar-like' WHERE kind='l'"),
        ("directory outside", "UPDATE tarlike_node SET path='../outside/new' WHERE path='e'"),
        ("directory above", "UPDATE tarlike_node SET path='..' WHERE path='e'"),
        ("the base itself", "UPDATE tarlike_node SET path='' WHERE path='e'"),
        ("the base as a dot", "UPDATE tarlike_node SET path='.' WHERE path='e'"),
        ("the receiver's folder", "UPDATE tarlike_node SET path='.tar-like/staging/x' WHERE path='e'"),
        ("directory with a target", "UPDATE tarlike_node SET target='/' WHERE path='e'"),
        ("directory that is a file", "UPDATE tarlike_node SET path='a' WHERE path='e'"),
        ("directory below a file", "UPDATE tarlike_node SET path='a/e' WHERE path='e'"),
        ("directory below a link", "UPDATE tarlike_node SET path='link/e' WHERE path='e'"),
        ("unknown kind", "UPDATE tarlike_node SET kind='b' WHERE path='e'"),
        ("empty kind", "UPDATE tarlike_node SET kind='' WHERE path='e'"),
        ("kind in upper case", "UPDATE tarlike_node SET kind='D' WHERE path='e'"),
        ("mode with a file type", "UPDATE tarlike_node SET mode=16877 WHERE path='e'"),
    ]);
}
