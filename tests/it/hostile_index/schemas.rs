//! Schemas that are made to run code, to lie, or to confuse.

use super::Setting;

#[test]
fn schemas() {
    let columns = (0..200).map(|n| format!("c{n}")).collect::<Vec<_>>().join(",");
    let many = format!(
        "ALTER TABLE tarlike_file RENAME TO old; CREATE TABLE tarlike_file({columns}); DROP TABLE old"
    );
    let long_default = format!("ALTER TABLE tar ADD COLUMN x DEFAULT '{}'", "x".repeat(200_000));
    let plain = "id INT64, path TEXT, size INT64, offset INT64, offset_end INT64, hash TEXT";
    let without_rowid = format!(
        "ALTER TABLE tar RENAME TO old; CREATE TABLE tar({plain}, PRIMARY KEY(id)) WITHOUT ROWID; INSERT INTO tar SELECT * FROM old; DROP TABLE old"
    );
    let generated = "ALTER TABLE tar ADD COLUMN g AS (path || 'x')";
    let stored = "ALTER TABLE tar RENAME TO old; CREATE TABLE tar(id INT64, path TEXT AS ('../outside/evil') STORED, size INT64, offset INT64, offset_end INT64, hash TEXT); INSERT INTO tar(id, size, offset, offset_end, hash) SELECT id, size, offset, offset_end, hash FROM old WHERE id=0; DROP TABLE old";
    let schema = "PRAGMA writable_schema=ON; ";
    let virtual_table = |name: &str, module: &str| {
        format!(
            "{schema} DELETE FROM sqlite_schema WHERE tbl_name='{name}'; INSERT INTO sqlite_schema VALUES('table','{name}','{name}',0,'CREATE VIRTUAL TABLE {name} USING {module}')"
        )
    };
    Setting::new(vec![]).all_refused(&[
        ("a view named tar", "ALTER TABLE tar RENAME TO old; CREATE VIEW tar AS SELECT * FROM old"),
        ("a view that never ends", &format!("DROP TABLE tar; CREATE VIEW tar({}) AS WITH RECURSIVE n(i) AS (SELECT 0 UNION ALL SELECT i+1 FROM n) SELECT i, 'f'||i, 0, 0, -1, 'd41d8cd98f00b204e9800998ecf8427e' FROM n", "id,path,size,offset,offset_end,hash")),
        ("a view named tarlike_node", "ALTER TABLE tarlike_node RENAME TO old; CREATE VIEW tarlike_node AS SELECT * FROM old"),
        ("a view named tarlike_meta", "ALTER TABLE tarlike_meta RENAME TO old; CREATE VIEW tarlike_meta AS SELECT * FROM old"),
        ("a view beside", "CREATE VIEW v AS SELECT * FROM tar"),
        ("a table beside", "CREATE TABLE evil(x)"),
        ("a table beside that looks like SQLite's", &format!("{schema} CREATE TABLE evil(x); UPDATE sqlite_schema SET name='sqlite_evil', tbl_name='sqlite_evil', sql='CREATE TABLE sqlite_evil(x)' WHERE name='evil'")),
        ("a trigger on insert", "CREATE TRIGGER t AFTER INSERT ON tar BEGIN DELETE FROM tar; END"),
        ("a trigger on a table of ours", "CREATE TRIGGER t BEFORE UPDATE ON tarlike_meta BEGIN SELECT load_extension('OUTSIDE/evil.so'); END"),
        ("a temporary-looking trigger", "CREATE TRIGGER tarlike_t INSERT ON tar BEGIN SELECT writefile('OUTSIDE/evil', 'x'); END"),
        ("fts5 beside", &virtual_table("v", "fts5(x)")),
        ("rtree beside", &virtual_table("v", "rtree(id, a, b)")),
        ("tar is fts5", &virtual_table("tar", "fts5(id,path,size,offset,offset_end,hash)")),
        ("tar is csv", &virtual_table("tar", "csv(filename=''/etc/passwd'')")),
        ("tar is fsdir", &virtual_table("tar", "fsdir")),
        ("tarlike_file is dbstat", &virtual_table("tarlike_file", "dbstat")),
        ("tarlike_node is sqlite_dbpage", &virtual_table("tarlike_node", "sqlite_dbpage")),
        ("a computed column", generated),
        ("the path is computed", stored),
        ("tar without rowid", &without_rowid),
        ("a column named rowid", &format!("ALTER TABLE tar RENAME TO old; CREATE TABLE tar(rowid, {plain}); INSERT INTO tar SELECT -id, * FROM old; DROP TABLE old")),
        ("two hundred columns", &many),
        ("a schema of 200 kB", &long_default),
        ("no table tar", "DROP TABLE tar"),
        ("no table tarlike_file", "DROP TABLE tarlike_file"),
        ("no table tarlike_node", "DROP TABLE tarlike_node"),
        ("a column of tar is missing", "DROP INDEX idx_tar_hash; ALTER TABLE tar DROP COLUMN hash"),
        ("a column of ours is missing", "ALTER TABLE tarlike_file DROP COLUMN uid"),
        ("a table on the page of another", &format!("{schema} UPDATE sqlite_schema SET rootpage=(SELECT rootpage FROM sqlite_schema WHERE name='tarlike_node') WHERE name='tar'")),
        ("a table on the schema's page", &format!("{schema} UPDATE sqlite_schema SET rootpage=1 WHERE name='tar'")),
        ("a table on no page", &format!("{schema} UPDATE sqlite_schema SET rootpage=0 WHERE name='tar'")),
        ("a table on a page behind the end", &format!("{schema} UPDATE sqlite_schema SET rootpage=1000000 WHERE name='tar'")),
        ("a table on an index", &format!("{schema} UPDATE sqlite_schema SET rootpage=(SELECT rootpage FROM sqlite_schema WHERE name='idx_tar_path') WHERE name='tar'")),
        ("a table that is no SQL", &format!("{schema} UPDATE sqlite_schema SET sql='create table nonsense' WHERE name='tar'")),
        ("a table that is another statement", &format!("{schema} UPDATE sqlite_schema SET sql='ATTACH ''OUTSIDE/evil'' AS tar' WHERE name='tar'")),
        ("a table that selects", &format!("{schema} UPDATE sqlite_schema SET sql='CREATE TABLE tar AS SELECT * FROM tarlike_file' WHERE name='tar'")),
        ("the schema has tar twice", &format!("{schema} INSERT INTO sqlite_schema SELECT * FROM sqlite_schema WHERE name='tar'")),
        ("the schema's type is unknown", &format!("{schema} UPDATE sqlite_schema SET type='evil' WHERE name='idx_tar_hash'")),
        ("the schema has NULLs", &format!("{schema} INSERT INTO sqlite_schema VALUES(NULL, NULL, NULL, NULL, NULL)")),
    ]);
}

#[test]
fn an_index_describes_itself() {
    Setting::new(vec![]).all_refused(&[
        ("never completed", "UPDATE tarlike_meta SET value=0 WHERE key='complete'"),
        ("no word of completion", "DELETE FROM tarlike_meta WHERE key='complete'"),
        ("completion is text", "UPDATE tarlike_meta SET value='yes' WHERE key='complete'"),
        ("an unknown format", "UPDATE tarlike_meta SET value=999 WHERE key='format'"),
        ("a negative format", "UPDATE tarlike_meta SET value=-1 WHERE key='format'"),
        ("no format", "DELETE FROM tarlike_meta WHERE key='format'"),
        ("nothing at all", "DELETE FROM tarlike_meta"),
    ]);
}

/// The receiver computes the digest from the rows: neither the index's own value nor the sender's
/// counts.
#[test]
fn a_digest_that_lies() {
    let setting = Setting::new(vec![]);
    let good = crate::support::index::digest(&setting.good);
    let body = |sql: &str| crate::support::index::frame_of(&setting.changed(sql));
    let changes = [
        "UPDATE tar SET path='other' WHERE path='empty'",
        "UPDATE tarlike_file SET mode=511 WHERE id=0",
        "UPDATE tarlike_node SET target='/etc' WHERE kind='l'",
        "DELETE FROM tarlike_node WHERE path='e'",
        "UPDATE tar SET hash='00000000000000000000000000000000' WHERE id=0",
        "UPDATE tarlike_file SET blake3=zeroblob(32) WHERE id=0",
        "DELETE FROM tarlike_file WHERE id=0",
    ];
    for sql in changes {
        let headers = [("x-tar-like-index", &*good)];
        let answer = setting.proxy.request("PUT", "/tar/9/db", &headers, &body(sql));
        setting.refused(sql, (9, answer), 422);
    }
    let lie = "UPDATE tarlike_meta SET value='0000000000000000000000000000000000000000000000000000000000000000' WHERE key='digest'";
    let headers = [("x-tar-like-index", &*"0".repeat(64))];
    setting.refused(lie, (9, setting.proxy.request("PUT", "/tar/9/db", &headers, &body(lie))), 422);
    setting.still_good();
}

/// Indexes on expressions and parts of a table are refused, or never used.
#[test]
fn strange_indexes_do_not_matter() {
    let setting = Setting::new(vec![]);
    let good = crate::support::index::digest(&setting.good);
    for sql in [
        "CREATE INDEX strange ON tar(upper(path))",
        "CREATE INDEX strange ON tar(abs(size - 9223372036854775807))",
        "CREATE INDEX strange ON tar(path) WHERE size > 10",
        "CREATE UNIQUE INDEX strange ON tarlike_file(id DESC, blake3)",
        "CREATE INDEX strange ON tarlike_node(kind, substr(path, 1, 2))",
        "PRAGMA writable_schema=ON; UPDATE sqlite_schema SET sql='CREATE INDEX idx_tar_hash ON tar(load_extension(hash))' WHERE name='idx_tar_hash'",
        "PRAGMA writable_schema=ON; UPDATE sqlite_schema SET rootpage=(SELECT rootpage FROM sqlite_schema WHERE name='idx_tar_hash') WHERE name='idx_tar_path'",
    ] {
        let bad = setting.changed(sql);
        let headers = [("x-tar-like-index", &*good)];
        let answer =
            setting.proxy.request("PUT", "/tar/0/db", &headers, &crate::support::index::frame_of(&bad));
        match answer.status {
            422 => {}
            200 => assert_eq!(answer.json()["digest"], good, "{sql}"),
            other => panic!("{sql}: {other} {}", answer.text()),
        }
    }
    setting.still_good();
}
