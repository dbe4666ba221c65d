//! Extents of a later generation that are not allowed.

use super::Setting;
use std::fs::{read, rename, write};

/// The tables that stay at the sender.
const PRIVATE: &str = "DROP TABLE tarlike_generation; DROP TABLE tarlike_change;";

#[test]
fn extents() {
    let setting = Setting::new(vec![]);
    // A file under another name, which makes another file with the same content: both lie in
    // extents of previous content.
    rename(setting.src.join("a"), setting.src.join("y")).unwrap();
    write(setting.src.join("x"), read(setting.src.join("d/b")).unwrap()).unwrap();
    write(setting.src.join("new"), "appended").unwrap();
    setting.lab.run(args!["index", "-b", setting.src, "-db", setting.good]).code(0);
    let x = "(SELECT id FROM tar WHERE path='x')";
    let set = |what: &str| format!("UPDATE tarlike_extent SET {what} WHERE file={x}");
    let add = |values: &str| format!("INSERT INTO tarlike_extent VALUES({values})");
    let cases = [
        ("at the end of all numbers", set("offset = 9223372036854775807")),
        ("empty", set("length = 0")),
        ("of negative length", set("length = -200")),
        ("too short", set("length = length - 1")),
        ("too long", set("length = length + 1")),
        ("as long as numbers go", set("length = 9223372036854775807")),
        ("a text as the offset", set("offset = 'x'")),
        ("not from the start of the file", set("file_offset = 1")),
        ("none", format!("DELETE FROM tarlike_extent WHERE file={x}")),
        ("one that is too much", add(&format!("{x}, 200, 1, 0"))),
        ("twice the same bytes of the file", add(&format!("{x}, 100, 50, 0"))),
        ("no table of them", "DROP TABLE tarlike_extent".into()),
        ("a file over another one", "UPDATE tar SET offset = 0 WHERE path='new'".into()),
    ];
    for (what, sql) in &cases {
        let bad = setting.changed(&format!("{PRIVATE} {sql}"));
        setting.refused(what, setting.put(&bad), 422);
    }
    // These rows are read as another kind, or not at all: bytes without an extent are missing, and
    // nothing else happens.
    let harmless = [
        ("beyond the archive", set("offset = 1000000"), 1_000_200),
        ("before the archive", set("offset = -1"), 0),
        ("before the start of the file", set("file_offset = -1"), 0),
        ("of a file that is not in extents", add("(SELECT id FROM tar WHERE path='z'), 0, 300, 0"), 0),
        ("of no file", add("4711, 0, 10, 0"), 0),
        ("of a negative file", add("-1, 0, 10, 0"), 0),
    ];
    for (what, sql, total_bytes) in &harmless {
        let (tar_id, answer) = setting.put(&setting.changed(&format!("{PRIVATE} {sql}")));
        assert_eq!(answer.status, 200, "{what}: {}", answer.text());
        let status = setting.proxy.status(tar_id);
        assert_eq!(status["complete"], false, "{what}");
        assert!(*total_bytes == 0 || status["total_bytes"] == *total_bytes, "{what}: {status}");
        assert_eq!(std::fs::read_dir(&setting.outside).unwrap().count(), 1, "{what}");
    }
    let (_, answer) = setting.put(&setting.changed(PRIVATE));
    assert_eq!(answer.status, 200, "the index that all variants were made of: {}", answer.text());
    setting.still_good();
}
