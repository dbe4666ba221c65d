//! The flags and variables of a source in S3.

use super::output::Output;
use crate::error::{Error, ErrorKind, Result};
use crate::source::s3::{Addressing, Bucket, BucketOptions};
use crate::telemetry::{Monitor, Notice};
use clap::{Args, ValueEnum};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

/// Credentials have no flags, since others can see the command line of a process: AWS_ACCESS_KEY_ID and
/// AWS_SECRET_ACCESS_KEY, a profile, or the role of the host.
#[derive(Args)]
#[command(next_help_heading = "Source in S3")]
pub(super) struct S3Args {
    /// The bucket; an HCP calls it a namespace
    #[arg(long, value_name = "NAME", env = "TARLIKE_S3_BUCKET")]
    s3_bucket: Option<String>,
    /// What lies below this prefix of the bucket is the source [default: all of it]
    #[arg(long, value_name = "PREFIX", env = "TARLIKE_S3_PFX")]
    s3_prefix: Option<String>,
    /// The store's address without the bucket, as https://s3.example.org [default: AWS]
    #[arg(long, value_name = "URL", env = "TARLIKE_S3_ENDPOINT", hide_env_values = true)]
    s3_endpoint: Option<String>,
    /// The region [default: AWS_REGION, the profile's, or us-east-1]
    #[arg(long, value_name = "REGION")]
    s3_region: Option<String>,
    /// The profile whose settings and credentials are used [default: AWS_PROFILE]
    #[arg(long, value_name = "PROFILE")]
    s3_profile: Option<String>,
    /// Where the bucket's name stands: before the host's, or in the path [default: path with an endpoint, else virtual]
    #[arg(long, value_name = "HOW", value_enum, env = "TARLIKE_S3_ADDRESSING")]
    s3_addressing: Option<HowAddressed>,
    /// List by ListObjects, for stores that do not know ListObjectsV2 and do not say so
    #[arg(long)]
    s3_list_v1: bool,
    /// Send no signature: for buckets that everybody may read
    #[arg(long)]
    no_sign_request: bool,
    /// Do not verify the store's certificate [or environment TARLIKE_S3_TLS_VERIFY=no]
    #[arg(long)]
    s3_ignore_ca: bool,
    /// A PEM file with the certificate authorities to trust in place of the system's
    #[arg(long, value_name = "FILE", env = "AWS_CA_BUNDLE")]
    s3_ca_file: Option<PathBuf>,
    /// Make a request again when nothing of its answer came for this many seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 30, value_parser = clap::value_parser!(u64).range(1..))]
    s3_timeout: u64,
    /// Requests to the store that may be under way at once
    #[arg(long, value_name = "NUMBER", default_value_t = 64, value_parser = clap::value_parser!(u16).range(1..=1024))]
    s3_requests: u16,
}

#[derive(Clone, Copy, ValueEnum)]
enum HowAddressed {
    Virtual,
    Path,
}

/// A bucket and a prefix in it.
pub(super) struct Place {
    bucket: String,
    prefix: String,
}

impl Place {
    /// Of `s3://bucket/prefix`; `None` if it is something else.
    pub(super) fn of_url(text: &str) -> Option<Self> {
        let (bucket, prefix) =
            text.strip_prefix("s3://").map(|rest| rest.split_once('/').unwrap_or((rest, "")))?;
        Some(Self { bucket: bucket.to_owned(), prefix: prefix.to_owned() })
    }
}

impl S3Args {
    /// The bucket of the flags and variables.
    pub(super) fn place(&self) -> Result<Place> {
        let bucket = some(&self.s3_bucket).ok_or_else(|| {
            Error::new(ErrorKind::Usage, "which bucket is not said")
                .hint("set TARLIKE_S3_BUCKET, or give --s3-bucket NAME")
        })?;
        Ok(Place { bucket, prefix: some(&self.s3_prefix).unwrap_or_default() })
    }

    /// Prepares to read it.
    pub(super) async fn connect(&self, place: Place, output: &Arc<Output>) -> Result<Arc<Bucket>> {
        let verify_tls = !self.s3_ignore_ca && !is_no(std::env::var("TARLIKE_S3_TLS_VERIFY").ok().as_deref());
        if !verify_tls {
            output.notice(Notice::Warning(
                "the certificate of the S3 endpoint is NOT verified: whoever is on the way can read and change everything, \
                 credentials included"
                    .to_string(),
            ));
        }
        let Place { bucket, mut prefix } = place;
        // The prefix is a folder: "a" must not take in "ab".
        if !prefix.is_empty() && !prefix.ends_with('/') {
            prefix.push('/');
        }
        let options = BucketOptions {
            bucket,
            prefix,
            endpoint: some(&self.s3_endpoint),
            region: some(&self.s3_region),
            profile: some(&self.s3_profile),
            addressing: self.s3_addressing.map(|how| match how {
                HowAddressed::Virtual => Addressing::Virtual,
                HowAddressed::Path => Addressing::Path,
            }),
            list_v1: self.s3_list_v1,
            sign: !self.no_sign_request,
            verify_tls,
            ca_file: self.s3_ca_file.clone().filter(|file| !file.as_os_str().is_empty()),
            timeout: Duration::from_secs(self.s3_timeout),
            requests: usize::from(self.s3_requests),
        };
        Bucket::connect(&options, output.clone()).await.map(Arc::new)
    }
}

/// A variable that is set to nothing is not set.
fn some(text: &Option<String>) -> Option<String> {
    text.clone().filter(|text| !text.is_empty())
}

fn is_no(text: Option<&str>) -> bool {
    text.is_some_and(|text| {
        matches!(&*text.trim().to_ascii_lowercase(), "no" | "n" | "false" | "f" | "0" | "off")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls() {
        let parts = |text| Place::of_url(text).map(|place| (place.bucket, place.prefix));
        let of = |bucket: &str, prefix: &str| Some((bucket.to_string(), prefix.to_string()));
        assert_eq!(parts("s3://b"), of("b", ""));
        assert_eq!(parts("s3://b/"), of("b", ""));
        assert_eq!(parts("s3://b/p/q r/"), of("b", "p/q r/"));
        assert_eq!(parts("s3://b//p"), of("b", "/p"));
        assert_eq!(parts("http://b/p"), None);
    }

    #[test]
    fn the_opt_out_has_to_be_said() {
        assert!(["no", "False", "f", "0", " off "].into_iter().all(|text| is_no(Some(text))));
        assert!(
            !is_no(None) && ["", "yes", "1", "true", "verify"].into_iter().all(|text| !is_no(Some(text)))
        );
    }
}
