//! From options to a client: credentials, region, address, and what the SDK must not do by itself.

use super::http::Http;
use super::retry::Patience;
use super::stream::SHARED_AHEAD;
use super::{Addressing, Bucket, BucketOptions};
use crate::error::{Error, ErrorKind, Result};
use crate::telemetry::Monitor;
use aws_config::environment::EnvironmentVariableRegionProvider;
use aws_config::meta::region::RegionProviderChain;
use aws_config::profile::{ProfileFileCredentialsProvider, ProfileFileRegionProvider};
use aws_config::provider_config::ProviderConfig;
use aws_config::{BehaviorVersion, Region};
use aws_sdk_s3::config::{
    RequestChecksumCalculation, ResponseChecksumValidation, StalledStreamProtectionConfig,
};
use aws_smithy_runtime_api::client::orchestrator::HttpRequest;
use aws_smithy_types::retry::RetryConfig;
use aws_smithy_types::timeout::TimeoutConfig;
use std::sync::Arc;
use tokio::runtime::Handle;
use tokio::sync::Semaphore;

/// Where neither the user nor AWS says one: what stores other than AWS's take.
const USUAL_REGION: &str = "us-east-1";

/// The name of the application in requests.
const APP_NAME: &str = "tar-like";

impl Bucket {
    /// Prepares to read a bucket; nothing is asked of it yet. Credentials are looked for when they are needed.
    ///
    /// # Errors
    /// An option is not valid, or the CA file cannot be read.
    pub async fn connect(options: &BucketOptions, monitor: Arc<dyn Monitor>) -> Result<Self> {
        check(options)?;
        let http = Http::new(options)?;
        let mut loader = aws_config::defaults(BehaviorVersion::v2026_01_12())
            .http_client(http.clone())
            // A body that hangs is nothing that the SDK sees, and so retries would be its and ours, multiplied.
            .retry_config(RetryConfig::disabled())
            .timeout_config(TimeoutConfig::builder().operation_attempt_timeout(options.timeout * 2).build())
            .stalled_stream_protection(StalledStreamProtectionConfig::disabled())
            // Older stores know nothing of the newer checksums, and refuse what has them.
            .request_checksum_calculation(RequestChecksumCalculation::WhenRequired)
            .response_checksum_validation(ResponseChecksumValidation::WhenRequired);
        if let Ok(name) = aws_config::AppName::new(APP_NAME) {
            loader = loader.app_name(name);
        }
        let mut profile_region = ProfileFileRegionProvider::builder();
        if let Some(profile) = &options.profile {
            // By itself the SDK prefers keys of the environment, even to a profile that was asked for.
            let provider = ProfileFileCredentialsProvider::builder()
                .configure(&ProviderConfig::default().with_http_client(http))
                .profile_name(profile)
                .build();
            loader = loader.profile_name(profile).credentials_provider(provider);
            profile_region = profile_region.profile_name(profile);
        }
        let region = RegionProviderChain::first_try(options.region.clone().map(Region::new));
        loader = loader.region(match &options.endpoint {
            None => region.or_default_provider().or_else(Region::from_static(USUAL_REGION)),
            // Elsewhere than in AWS nobody need be asked, and a host's role says nothing.
            Some(_) => region
                .or_else(EnvironmentVariableRegionProvider::new())
                .or_else(profile_region.build())
                .or_else(Region::from_static(USUAL_REGION)),
        });
        if let Some(endpoint) = &options.endpoint {
            loader = loader.endpoint_url(endpoint);
        }
        if !options.sign {
            loader = loader.no_credentials();
        }
        let config = loader.load().await;
        let mut s3 = aws_sdk_s3::config::Builder::from(&config)
            .force_path_style(match options.addressing {
                Some(addressing) => addressing == Addressing::Path,
                // What most stores other than AWS want.
                None => config.endpoint_url().is_some(),
            })
            .disable_s3_express_session_auth(true);
        if !options.sign {
            s3 = s3.allow_no_auth();
        }
        Ok(Self {
            client: aws_sdk_s3::Client::from_conf(s3.build()),
            name: options.bucket.clone(),
            prefix: options.prefix.clone(),
            list_v1: options.list_v1,
            permits: Arc::new(Semaphore::new(options.requests.max(1))),
            requests: options.requests.max(1),
            ahead: Arc::new(Semaphore::new(SHARED_AHEAD)),
            patience: Patience::new(options.timeout * 2),
            runtime: Handle::current(),
            monitor,
        })
    }
}

fn check(options: &BucketOptions) -> Result<()> {
    let usage = |why: String| Err(Error::new(ErrorKind::Usage, why));
    if options.bucket.is_empty() || options.bucket.contains('/') {
        return usage(format!("\"{}\" is no name of a bucket", options.bucket));
    }
    if options.prefix.split('/').any(|name| name == "." || name == "..") {
        // Addresses on the web cannot have them: every client on the way would resolve them.
        return usage(format!("the prefix \"{}\" has a '.' or '..' component", options.prefix));
    }
    let Some(endpoint) = &options.endpoint else { return Ok(()) };
    // Not said again: it may hold a password.
    match reqwest::Url::parse(endpoint) {
        Ok(url) if !url.username().is_empty() || url.password().is_some() => {
            usage("the endpoint must have no user and no password".to_string())
        }
        Ok(url)
            if matches!(url.scheme(), "http" | "https")
                && url.has_host()
                && url.query().is_none()
                && url.fragment().is_none() =>
        {
            Ok(())
        }
        _ => Err(Error::new(ErrorKind::Usage, "the endpoint of the bucket is no http or https address")
            .hint("for example https://s3.example.org, without the bucket")),
    }
}

/// Stands for a key that is no text.
const PLACEHOLDER: &str = "tar-like-key-that-is-no-text";

/// A key as the SDK takes it, and the key itself where that is not possible: S3 wants UTF-8, and yet there are stores with others.
pub(super) fn key_of(key: &[u8]) -> (String, Option<Vec<u8>>) {
    match std::str::from_utf8(key) {
        Ok(text) => (text.to_owned(), None),
        Err(_) => (PLACEHOLDER.to_owned(), Some(key.to_vec())),
    }
}

/// Puts the key into the address, before that is signed.
pub(super) fn with_key(key: Option<Vec<u8>>) -> impl Fn(&mut HttpRequest) + Send + Sync + 'static {
    move |request| {
        let Some(key) = &key else { return };
        let address = request.uri().replacen(PLACEHOLDER, &percent_encode(key), 1);
        // Made of an address that was valid, and of characters that are.
        let _ = request.set_uri(address);
    }
}

/// All but the unreserved characters and `/` as `%XX`, which is how a key is signed.
fn percent_encode(key: &[u8]) -> String {
    use std::fmt::Write;
    let mut encoded = String::with_capacity(key.len() * 3);
    for &byte in key {
        if byte.is_ascii_alphanumeric() || b"-._~/".contains(&byte) {
            encoded.push(char::from(byte));
        } else {
            let _ = write!(encoded, "%{byte:02X}");
        }
    }
    encoded
}
