//! How to reach a bucket.

use std::path::PathBuf;
use std::time::Duration;

/// How an address names the bucket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Addressing {
    /// `https://bucket.host/key`
    Virtual,
    /// `https://host/bucket/key`
    Path,
}

/// Which bucket to read, and how to reach it. Credentials are not in here: the SDK looks for them
/// in the environment, in profiles, and in the answer of the host's role.
#[derive(Debug, Clone)]
pub struct BucketOptions {
    /// The bucket's name; an HCP calls it a namespace.
    pub bucket: String,
    /// The source is everything below this prefix; empty for the whole bucket. Without a `/` at its
    /// end it may be a single object.
    pub prefix: String,
    /// The address of the service, where it is not AWS itself.
    pub endpoint: Option<String>,
    /// The region; `None` takes that of the environment, a profile or the host's role.
    pub region: Option<String>,
    /// The environment has keys, so the role of the host does not matter.
    pub has_keys: bool,
    /// The profile; `None` takes that of the environment.
    pub profile: Option<String>,
    /// How an address names the bucket; `None` takes the usual way of the endpoint.
    pub addressing: Option<Addressing>,
    /// List by ListObjects, the older of the two requests.
    pub list_v1: bool,
    /// Ask for keys in lists as they are, not encoded as in URLs.
    pub list_plain: bool,
    /// Sign requests; a public bucket needs no signature.
    pub sign: bool,
    /// Verify the service's certificate.
    pub verify_tls: bool,
    /// A PEM file with the certificate authorities to trust in place of the system's.
    pub ca_file: Option<PathBuf>,
    /// A request is given up, and made again, when no byte of its answer comes for this long.
    pub timeout: Duration,
    /// Requests that may be in flight at once.
    pub requests: usize,
}
