//! The values of `tarlike_meta`, each with its type. FORMAT.md 3.3 says what they mean.

use super::{from_sql_int, sql_int, text_or_blob};
use crate::archive::digest::{Blake3, Digest, IndexDigest};
use crate::archive::entry::Meta;
use crate::archive::log::LogDigest;
use crate::archive::skipped::SkippedList;
use crate::archive::source::SourceId;
use rusqlite::types::{ToSqlOutput, Value, ValueRef};
use rusqlite::{Connection, OptionalExtension, params};
use std::borrow::Cow;
use std::marker::PhantomData;

/// The name of a value, and its type.
pub(super) struct Key<T> {
    name: Cow<'static, str>,
    value: PhantomData<T>,
}

pub(super) const FORMAT: Key<u64> = Key::new("format");
pub(super) const GENERATION: Key<u64> = Key::new("generation");
pub(super) const DIGEST: Key<IndexDigest> = Key::new("digest");
pub(super) const HASH: Key<Md5s> = Key::new("hash");
pub(super) const CREATED: Key<u64> = Key::new("created");
pub(super) const BASE: Key<Vec<u8>> = Key::new("base");
pub(super) const COMPLETE: Key<u64> = Key::new("complete");
pub(super) const TOTAL: Key<u64> = Key::new("total");
pub(super) const COUNTS: Key<Counts> = Key::new("counts");
pub(super) const ROWS: Key<Blake3> = Key::new("rows");
pub(super) const COUNTER: Key<u64> = Key::new("counter");
pub(super) const TOP: Key<Meta> = Key::new("top");
/// Which source the index is of.
pub(super) const SOURCE: Key<SourceId> = Key::new("source");
/// Earlier versions read this one; it counts the entries of the newest list.
pub(super) const SKIPPED: Key<u64> = Key::new("skipped");
pub(super) const LOG_END: Key<u64> = Key::new("log_end");
pub(super) const NEXT_ID: Key<u64> = Key::new("next_id");
pub(super) const LAST_GENERATION: Key<u64> = Key::new("last_generation");
/// The generation that a rewind abandons which has not ended.
pub(super) const REWINDING: Key<u64> = Key::new("rewinding");
pub(super) const IN_ORDER: Key<u64> = Key::new("in_order");
pub(super) const STREAM: Key<LogDigest> = Key::new("stream");
pub(super) const REVERTED: Key<u64> = Key::new("taken_back");
/// Earlier versions made tombstones of all that an index had, placed or not.
pub(super) const TOMBSTONES_ARE_PLACED: Key<u64> = Key::new("gone_placed");

/// How the top folder was in the generation that the present one was made of.
pub(super) fn top_of(generation: u64) -> Key<Meta> {
    Key { name: format!("{TOP_PREFIX}{generation}").into(), value: PhantomData }
}

const TOP_PREFIX: &str = "top.";

/// Another generation follows: what is noted of the top folder was that of the present one.
pub(super) fn end_top(connection: &Connection) -> rusqlite::Result<()> {
    let (top, generation) = (TOP.get(connection)?, GENERATION.get(connection)?.unwrap_or(1));
    connection.execute("DELETE FROM tarlike_meta WHERE key GLOB ?1 || '*'", [TOP_PREFIX])?;
    if let Some(top) = top {
        top_of(generation).set(connection, &top)?;
    }
    TOP.remove(connection)
}

/// What the run that made a generation left out. A generation without it was not seen whole.
pub(super) fn skipped_of(generation: u64) -> Key<SkippedList> {
    Key { name: format!("{SKIPPED_PREFIX}{generation}").into(), value: PhantomData }
}

const SKIPPED_PREFIX: &str = "skipped.";

/// Sets what was left out of `generation`.
pub(super) fn set_skipped(
    connection: &Connection,
    generation: u64,
    list: &SkippedList,
) -> rusqlite::Result<()> {
    skipped_of(generation).set(connection, list)?;
    SKIPPED.set(connection, &list.total())
}

/// Removes the skipped lists of all generations but `parent`.
pub(super) fn prune_skipped(connection: &Connection, parent: Option<u64>) -> rusqlite::Result<()> {
    let retained = parent.map(|parent| skipped_of(parent).name);
    let query = "DELETE FROM tarlike_meta WHERE key GLOB ?1 || '*' AND key IS NOT ?2";
    connection.execute(query, params![SKIPPED_PREFIX, retained]).map(drop)
}

impl<T> Key<T> {
    const fn new(name: &'static str) -> Self {
        Self { name: Cow::Borrowed(name), value: PhantomData }
    }

    pub(super) fn remove(&self, connection: &Connection) -> rusqlite::Result<()> {
        connection.execute("DELETE FROM tarlike_meta WHERE key=?", [&self.name]).map(drop)
    }

    /// Whether the database `schema` (`main`, or one that is attached) has the value.
    pub(super) fn is_in(&self, connection: &Connection, schema: &str) -> rusqlite::Result<bool> {
        let query = format!("SELECT EXISTS(SELECT 1 FROM {schema}.tarlike_meta WHERE key=?)");
        connection.query_row(&query, [&self.name], |row| row.get(0))
    }
}

impl<T: Stored> Key<T> {
    /// The value; `None` where there is none, or one that no version of ours has written.
    pub(super) fn get(&self, connection: &Connection) -> rusqlite::Result<Option<T>> {
        let query = "SELECT value FROM tarlike_meta WHERE key=?";
        let value = connection.query_row(query, [&self.name], |row| Ok(T::from_value(row.get_ref(0)?)));
        value.optional().map(Option::flatten)
    }

    pub(super) fn set(&self, connection: &Connection, value: &T) -> rusqlite::Result<()> {
        let query = "INSERT OR REPLACE INTO tarlike_meta VALUES(?,?)";
        connection.execute(query, params![self.name, value.to_value()]).map(drop)
    }
}

/// A type of which `tarlike_meta` has values.
pub(super) trait Stored: Sized {
    fn to_value(&self) -> ToSqlOutput<'_>;
    fn from_value(value: ValueRef<'_>) -> Option<Self>;
}

impl Stored for u64 {
    fn to_value(&self) -> ToSqlOutput<'_> {
        ToSqlOutput::Borrowed(ValueRef::Integer(sql_int(*self)))
    }

    fn from_value(value: ValueRef<'_>) -> Option<Self> {
        value.as_i64().ok().map(from_sql_int)
    }
}

impl Stored for Vec<u8> {
    fn to_value(&self) -> ToSqlOutput<'_> {
        text_or_blob(self)
    }

    fn from_value(value: ValueRef<'_>) -> Option<Self> {
        value.as_bytes().ok().map(<[u8]>::to_vec)
    }
}

impl Stored for SkippedList {
    fn to_value(&self) -> ToSqlOutput<'_> {
        ToSqlOutput::Owned(Value::Blob(self.to_bytes()))
    }

    fn from_value(value: ValueRef<'_>) -> Option<Self> {
        Self::parse(value.as_bytes().ok()?)
    }
}

/// A type whose values are text.
trait Text: Sized {
    fn to_text(&self) -> String;
    fn parse(text: &str) -> Option<Self>;
}

impl<T: Text> Stored for T {
    fn to_value(&self) -> ToSqlOutput<'_> {
        ToSqlOutput::Owned(Value::Text(self.to_text()))
    }

    fn from_value(value: ValueRef<'_>) -> Option<Self> {
        Self::parse(std::str::from_utf8(value.as_bytes().ok()?).ok()?)
    }
}

impl<const N: usize> Text for Digest<N> {
    fn to_text(&self) -> String {
        self.to_string()
    }

    fn parse(text: &str) -> Option<Self> {
        text.parse().ok()
    }
}

/// Which files have an md5.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Md5s {
    All,
    /// The user left out some.
    Optional,
}

impl Text for Md5s {
    fn to_text(&self) -> String {
        if *self == Self::All { "md5" } else { "md5, optional" }.to_string()
    }

    fn parse(text: &str) -> Option<Self> {
        Some(if text == "md5, optional" { Self::Optional } else { Self::All })
    }
}

/// What the rows come to. It counts only while the index has this digest: earlier versions change
/// rows and leave it as it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Counts {
    pub(super) digest: IndexDigest,
    pub(super) files: u64,
    pub(super) nodes: u64,
    /// The bytes of all files together.
    pub(super) content_bytes: u64,
}

impl Text for Counts {
    fn to_text(&self) -> String {
        let Self { digest, files, nodes, content_bytes } = self;
        format!("{digest} {files} {nodes} {content_bytes}")
    }

    fn parse(text: &str) -> Option<Self> {
        let [digest, files, nodes, content_bytes] = words(text)?;
        let (files, nodes) = (files.parse().ok()?, nodes.parse().ok()?);
        Some(Self { digest: digest.parse().ok()?, files, nodes, content_bytes: content_bytes.parse().ok()? })
    }
}

/// Four numbers: mode, owner, group, and time.
impl Text for Meta {
    fn to_text(&self) -> String {
        let Self { mode, mtime_ns, uid, gid } = self;
        format!("{mode} {uid} {gid} {mtime_ns}")
    }

    fn parse(text: &str) -> Option<Self> {
        let [mode, uid, gid, mtime_ns] = words(text)?;
        let mode = mode.parse::<u32>().ok().filter(|&mode| mode <= 0o7777)?;
        let (uid, gid, mtime_ns) = (uid.parse().ok()?, gid.parse().ok()?, mtime_ns.parse().ok()?);
        Some(Self { mode, mtime_ns, uid, gid })
    }
}

fn words(text: &str) -> Option<[&str; 4]> {
    text.split(' ').collect::<Vec<_>>().try_into().ok()
}
