//! The flags and variables of a source in S3.

use super::address::refuse_address;
use super::output::Output;
use crate::error::{Error, ErrorKind, Result};
use crate::source::s3::{Addressing, Bucket, BucketOptions};
use crate::telemetry::{Monitor, Notice};
use clap::{Args, ValueEnum};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

/// Credentials have no flags, since other users can see the command line of a process. They come
/// from AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, from a profile, or from the role of the host.
#[derive(Args)]
#[command(next_help_heading = "Source in S3")]
pub(super) struct S3Args {
    /// The bucket; an HCP calls it a namespace
    #[arg(long, value_name = "NAME", env = "TARLIKE_S3_BUCKET")]
    s3_bucket: Option<String>,
    /// The prefix of the source in the bucket [default: none, all of the bucket]
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
    /// Where the bucket's name goes: virtual puts it before the host's name, path into the path
    /// [default: path with an endpoint, else virtual]
    #[arg(long, value_name = "HOW", value_enum, env = "TARLIKE_S3_ADDRESSING")]
    s3_addressing: Option<HowAddressed>,
    /// List with ListObjects, for stores that do not know ListObjectsV2 and do not say so
    #[arg(long)]
    s3_list_v1: bool,
    /// Ask for unencoded keys in lists, for stores that encode them wrongly (encoding-type)
    #[arg(long)]
    s3_list_plain: bool,
    /// Do not sign requests, for buckets that everybody may read
    #[arg(long)]
    no_sign_request: bool,
    /// Do not verify the store's certificate [or environment TARLIKE_S3_TLS_VERIFY=no]
    #[arg(long)]
    s3_ignore_ca: bool,
    /// A PEM file with the certificate authorities to trust instead of the system's
    #[arg(long, value_name = "FILE", env = "AWS_CA_BUNDLE")]
    s3_ca_file: Option<PathBuf>,
    /// Repeat a request when nothing of its answer came for this many seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 30, value_parser = clap::value_parser!(u64).range(1..))]
    s3_timeout: u64,
    /// The largest number of requests to the store at the same time
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
    /// Parses `s3://bucket/prefix`; `None` if `text` is something else.
    pub(super) fn of_url(text: &str) -> Option<Self> {
        let (scheme, rest) = text.split_once("://")?;
        let (bucket, prefix) = rest.split_once('/').unwrap_or((rest, ""));
        if !scheme.eq_ignore_ascii_case("s3") {
            return None;
        }
        Some(Self { bucket: bucket.to_owned(), prefix: prefix.to_owned() })
    }
}

impl S3Args {
    /// The bucket that flags and variables name. As in the original program, a `base` that is not
    /// the `default` is the prefix.
    pub(super) fn place(&self, base: &Path, default: &str) -> Result<Place> {
        let bucket = some(&self.s3_bucket).ok_or_else(|| {
            Error::new(ErrorKind::Usage, "no bucket is named")
                .with_hint("set TARLIKE_S3_BUCKET, or give --s3-bucket NAME")
        })?;
        let base = Some(base).filter(|base| *base != Path::new(default));
        let base = base.map(|base| {
            base.to_str().map(str::to_owned).ok_or_else(|| {
                Error::new(ErrorKind::Usage, format!("the prefix {} is not UTF-8", base.display()))
            })
        });
        let prefix = match (base.transpose()?, some(&self.s3_prefix)) {
            (Some(base), Some(prefix)) if base.trim_end_matches('/') != prefix.trim_end_matches('/') => {
                let what =
                    format!("-b gives the prefix {base}, and --s3-prefix (TARLIKE_S3_PFX) gives {prefix}");
                return Err(Error::new(ErrorKind::Usage, what)
                    .with_hint("with --use-s3, -b is the prefix; give only one of them"));
            }
            (base, prefix) => prefix.or(base).unwrap_or_default(),
        };
        Ok(Place { bucket, prefix })
    }

    /// The bucket, if `base` is `s3://bucket/prefix`, or `--use-s3` says that flags and variables
    /// name one as [`Self::place`] says.
    pub(super) async fn bucket(
        &self,
        use_s3: bool,
        base: &Path,
        default: &str,
        output: &Arc<Output>,
    ) -> Result<Option<Arc<Bucket>>> {
        let place = match base.to_str().and_then(Place::of_url) {
            Some(place) => place,
            None if use_s3 => self.place(base, default)?,
            None => return refuse_address(base).map(|()| None),
        };
        self.connect(place, output).await.map(Some)
    }

    /// Connects to the store.
    pub(super) async fn connect(&self, place: Place, output: &Arc<Output>) -> Result<Arc<Bucket>> {
        let verify_tls = !self.s3_ignore_ca && !is_no(std::env::var("TARLIKE_S3_TLS_VERIFY").ok().as_deref());
        if !verify_tls {
            output.notice(Notice::Warning(
                "the certificate of the S3 endpoint is NOT verified: everybody on the way can read and change everything, \
                 credentials included"
                    .to_string(),
            ));
        }
        let Place { bucket, prefix } = place;
        let options = BucketOptions {
            bucket,
            prefix,
            endpoint: some(&self.s3_endpoint).or_else(usual_endpoint),
            region: some(&self.s3_region),
            has_keys: std::env::var_os("AWS_ACCESS_KEY_ID").is_some_and(|key| !key.is_empty()),
            profile: some(&self.s3_profile),
            addressing: self.s3_addressing.map(|how| match how {
                HowAddressed::Virtual => Addressing::Virtual,
                HowAddressed::Path => Addressing::Path,
            }),
            list_v1: self.s3_list_v1,
            list_plain: self.s3_list_plain,
            sign: !self.no_sign_request,
            verify_tls,
            ca_file: self.s3_ca_file.clone().filter(|file| !file.as_os_str().is_empty()),
            timeout: Duration::from_secs(self.s3_timeout),
            requests: usize::from(self.s3_requests),
        };
        Bucket::connect(&options, output.clone()).await.map(Arc::new)
    }
}

/// The endpoint from the variables that other S3 programs use.
fn usual_endpoint() -> Option<String> {
    let variable = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
    let is_ignored =
        variable("AWS_IGNORE_CONFIGURED_ENDPOINT_URLS").is_some_and(|value| !is_no(Some(&value)));
    if is_ignored { None } else { variable("AWS_ENDPOINT_URL_S3").or_else(|| variable("AWS_ENDPOINT_URL")) }
}

/// A variable that is set to an empty text counts as not set.
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
        assert_eq!(parts("S3://B/P"), of("B", "P"));
        assert_eq!((parts("http://b/p"), parts("s3:/b"), parts("xs3://b")), (None, None, None));
    }

    #[test]
    fn the_opt_out_has_to_be_said() {
        assert!(["no", "False", "f", "0", " off "].into_iter().all(|text| is_no(Some(text))));
        assert!(
            !is_no(None) && ["", "yes", "1", "true", "verify"].into_iter().all(|text| !is_no(Some(text)))
        );
    }
}
