//! The identity of the source of an index. It is computed when an index is first made, and comes
//! with the index from then on, wherever that is moved: the folder may get another name, and the
//! host, too.

use crate::archive::source::{SourceIdentity, id_of_bucket, id_of_path};
use crate::db::index_read::IndexReader;
use crate::db::top::set_source;
use crate::error::Result;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// The identity of the source that an index records as `base`: that of the index at `database`, if
/// the run goes on with it (`reuse`), or replaces it by a fresh one of the same source.
///
/// # Errors
/// The index cannot be read.
pub(super) fn identity_of(base: &[u8], database: &Path, reuse: bool) -> Result<SourceIdentity> {
    let computed = compute(base);
    // A damaged index is replaced as if there were none.
    let Ok(reader) = IndexReader::open(database) else { return Ok(computed) };
    let known = reader.base()?;
    let is_of_base = known.is_some_and(|known| known.as_os_str().as_bytes() == base);
    let id = reader.source_id()?.filter(|_| reuse || is_of_base);
    Ok(SourceIdentity { id: id.unwrap_or(computed.id), ..computed })
}

/// The identity that the index at `database` has; `None` if it has none. With `computed`, one of an
/// earlier version gets what the next run will give it; that is another one on another host.
///
/// # Errors
/// It is no index, or SQLite fails.
pub fn identity_of_index(database: &Path, computed: bool) -> Result<Option<SourceIdentity>> {
    let reader = IndexReader::open(database)?;
    let Some(base) = reader.base()? else { return Ok(None) };
    let identity = compute(base.as_os_str().as_bytes());
    Ok(match reader.source_id()? {
        Some(id) => Some(SourceIdentity { id, ..identity }),
        None => computed.then_some(identity),
    })
}

/// The identity of a source that has no index yet, from what an index will record as its base.
pub(super) fn identity_of_base(base: &[u8]) -> SourceIdentity {
    compute(base)
}

/// Notes in an index of ours of which source it is, if an earlier version made it.
///
/// # Errors
/// SQLite fails.
pub(super) fn record_identity(database: &Path, identity: &SourceIdentity) -> Result<()> {
    set_source(database, &identity.id)
}

/// The identity of what an index records as its base, on this host.
fn compute(base: &[u8]) -> SourceIdentity {
    if base.starts_with(b"s3://") {
        return SourceIdentity { id: id_of_bucket(base), name: String::from_utf8_lossy(base).into_owned() };
    }
    // Containers may have none; the name of the host tells them apart then.
    let machine_id = std::fs::read("/etc/machine-id").unwrap_or_default();
    let system = rustix::system::uname();
    let host = system.nodename();
    let id = id_of_path(machine_id.trim_ascii(), host.to_bytes(), base);
    SourceIdentity { id, name: format!("{}:{}", host.to_string_lossy(), String::from_utf8_lossy(base)) }
}
