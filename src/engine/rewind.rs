//! Taking a receiver back by one generation, together with the index.

use super::blocking;
use super::upload::change_body;
use crate::archive::layout::DEFAULT_BLOCK_SIZE;
use crate::archive::protocol::{DeleteRequest, FinishAnswer, FinishRequest};
use crate::db::generation::Rewound;
use crate::error::{Error, ErrorKind, Result};
use crate::remote::{Client, IndexBody};
use crate::telemetry::{Monitor, Notice};
use std::path::Path;

/// Takes the receiver back from the generation that `rewound` abandons to the one before, if it keeps what it needs for that; what only the
/// abandoned generation had is deleted there. May be repeated after an interruption. `database` is the index as it was, `scratch` a folder for
/// temporary files.
///
/// # Errors
/// The receiver has another generation, does not know how, or has not all of the former content: nothing was changed then.
pub async fn rewind(
    client: &Client,
    rewound: &Rewound,
    database: &Path,
    scratch: &Path,
    monitor: &dyn Monitor,
) -> Result<FinishAnswer> {
    monitor.notice(Notice::Phase("asking"));
    client.patience().start();
    let status = client.status(DEFAULT_BLOCK_SIZE, 0).await?.filter(|status| status.keeps);
    let status = status.ok_or_else(|| {
        Error::new(ErrorKind::Usage, "the receiver does not know how to go back")
            .hint("use the same version of tar-like on all hosts, or take back the index alone: leave out the destination")
    })?;
    let (abandoned, parent) = (&rewound.abandoned, &rewound.parent);
    if status.digest == abandoned.digest.to_string() {
        monitor.notice(Notice::Phase("sending the change of the index"));
        let (database, scratch, step) = (database.to_path_buf(), scratch.to_path_buf(), rewound.step);
        let body = blocking(move || change_body(&database, &scratch, &step)).await?;
        client.put_index(&IndexBody { rewind: true, ..body }).await?;
    } else if status.digest != parent.digest.to_string() {
        let what = format!(
            "the receiver has index {}, which is neither generation {} nor generation {}",
            status.digest, abandoned.number, parent.number
        );
        return Err(Error::new(ErrorKind::WrongIndex, what).hint(
            "give the --tar-id and the index that were used to send, or take back the index alone: leave out the destination",
        ));
    }
    monitor.notice(Notice::Phase("verifying"));
    let delete = DeleteRequest { most: u64::MAX, backup: None, taken_back: true };
    client.finish(&parent.digest, FinishRequest { delete: Some(delete), ..FinishRequest::default() }).await
}
