//! Making a client of options: credentials, region, address, and what the SDK must not do by
//! itself.

use super::bucket::Bucket;
use super::clock::Clock;
use super::http::Http;
use super::options::{Addressing, BucketOptions};
use super::outage::Refusals;
use super::reader::SHARED_AHEAD;
use super::retry::StoreBudget;
use super::whole_objects::WholeObjects;
use crate::error::{Error, ErrorKind, Result};
use crate::telemetry::Monitor;
use aws_config::environment::EnvironmentVariableRegionProvider;
use aws_config::imds::region::ImdsRegionProvider;
use aws_config::meta::region::RegionProviderChain;
use aws_config::profile::{ProfileFileCredentialsProvider, ProfileFileRegionProvider};
use aws_config::provider_config::ProviderConfig;
use aws_config::{BehaviorVersion, Region, SdkConfig};
use aws_sdk_s3::Client;
use aws_sdk_s3::config::{
    RequestChecksumCalculation, ResponseChecksumValidation, StalledStreamProtectionConfig,
};
use aws_smithy_types::retry::{ReconnectMode, RetryConfig};
use aws_smithy_types::timeout::TimeoutConfig;
use std::sync::{Arc, OnceLock};
use tokio::runtime::Handle;
use tokio::sync::Semaphore;

/// Where neither the user nor AWS names a region: the one that stores other than AWS accept.
const DEFAULT_REGION: &str = "us-east-1";

/// The name of the application in requests.
const APP_NAME: &str = "tar-like";

impl Bucket {
    /// Prepares to read a bucket. It makes no request, unless a prefix without a `/` at its end may
    /// be a single object.
    ///
    /// # Errors
    /// An option is not valid, the CA file cannot be read, or the store does not answer that
    /// request.
    pub async fn connect(options: &BucketOptions, monitor: Arc<dyn Monitor>) -> Result<Self> {
        check(options)?;
        let (http, clock) = (Http::new(options)?, Clock::default());
        let config = sdk_config(options, &http).await;
        let requests = options.requests.max(1);
        let mut bucket = Self {
            store: store_of(options, &config),
            client: client(options, &config, &http, clock.clone()),
            name: options.bucket.clone(),
            prefix: options.prefix.clone(),
            only: None,
            list_v1: options.list_v1,
            list_plain: options.list_plain,
            region: options.region.clone(),
            timeout: options.timeout,
            clock,
            permits: Arc::new(Semaphore::new(requests)),
            requests,
            ahead: Arc::new(Semaphore::new(SHARED_AHEAD)),
            whole_objects: WholeObjects::default(),
            budget: StoreBudget::new(options.timeout * 2),
            refusals: Refusals::default(),
            outage: OnceLock::new(),
            runtime: Handle::current(),
            monitor,
        };
        if !bucket.prefix.is_empty() && !bucket.prefix.ends_with('/') {
            if let Some(key) = bucket.find_only(&options.prefix).await? {
                bucket.prefix.truncate(key.rfind('/').map_or(0, |at| at + 1));
                bucket.only = Some(key);
            } else {
                // The prefix is a folder: "a" must not include "ab".
                bucket.prefix.push('/');
            }
        }
        Ok(bucket)
    }
}

/// Loads profile, region and credentials.
async fn sdk_config(options: &BucketOptions, http: &Http) -> SdkConfig {
    let mut loader = aws_config::defaults(BehaviorVersion::v2026_01_12())
        .http_client(http.clone())
        // The SDK does not notice a body that hangs; its retries would multiply ours. Connections
        // are not the SDK's either: it would log with each 503 that it cannot close one.
        .retry_config(RetryConfig::disabled().with_reconnect_mode(ReconnectMode::ReuseAllConnections))
        .timeout_config(TimeoutConfig::builder().operation_attempt_timeout(options.timeout * 2).build())
        .stalled_stream_protection(StalledStreamProtectionConfig::disabled())
        // Older stores do not know the newer checksums, and refuse requests with them.
        .request_checksum_calculation(RequestChecksumCalculation::WhenRequired)
        .response_checksum_validation(ResponseChecksumValidation::WhenRequired);
    if let Ok(name) = aws_config::AppName::new(APP_NAME) {
        loader = loader.app_name(name);
    }
    let mut profile_region = ProfileFileRegionProvider::builder();
    if let Some(profile) = &options.profile {
        // By itself the SDK prefers keys of the environment, even to a profile that was named.
        let provider = ProfileFileCredentialsProvider::builder()
            .configure(&ProviderConfig::default().with_http_client(http.clone()))
            .profile_name(profile)
            .build();
        loader = loader.profile_name(profile).credentials_provider(provider);
        profile_region = profile_region.profile_name(profile);
    }
    let mut region = RegionProviderChain::first_try(options.region.clone().map(Region::new))
        .or_else(EnvironmentVariableRegionProvider::new())
        .or_else(profile_region.build());
    // Outside of AWS, a host's role says nothing of the region. Asking for it takes seconds where
    // there is none.
    if options.endpoint.is_none() && options.profile.is_none() && !options.has_keys {
        let provider = ProviderConfig::default().with_http_client(http.clone());
        region = region.or_else(ImdsRegionProvider::builder().configure(&provider).build());
    }
    loader = loader.region(region.or_else(Region::from_static(DEFAULT_REGION)));
    if let Some(endpoint) = &options.endpoint {
        loader = loader.endpoint_url(endpoint);
    }
    if !options.sign {
        loader = loader.no_credentials();
    }
    loader.load().await
}

/// The store, as messages name it.
fn store_of(options: &BucketOptions, config: &SdkConfig) -> String {
    match (config.endpoint_url(), config.region()) {
        (Some(endpoint), _) => endpoint.to_owned(),
        (None, Some(region)) => format!("AWS, region {region}"),
        (None, None) => format!("AWS, region {}", options.region.as_deref().unwrap_or(DEFAULT_REGION)),
    }
}

fn client(options: &BucketOptions, config: &SdkConfig, http: &Http, clock: Clock) -> Client {
    let mut s3 = aws_sdk_s3::config::Builder::from(config)
        .force_path_style(match options.addressing {
            Some(addressing) => addressing == Addressing::Path,
            // Most stores other than AWS want that.
            None => config.endpoint_url().is_some(),
        })
        .http_client(http.for_store())
        .time_source(clock)
        .disable_s3_express_session_auth(true);
    if let Some(endpoint) = config.endpoint_url() {
        s3 = s3.endpoint_url(as_folder(endpoint));
    }
    if !options.sign {
        s3 = s3.allow_no_auth();
    }
    Client::from_conf(s3.build())
}

/// The SDK appends the bucket's name to the path of an endpoint as it is.
fn as_folder(endpoint: &str) -> String {
    if endpoint.ends_with('/') { endpoint.to_owned() } else { format!("{endpoint}/") }
}

fn check(options: &BucketOptions) -> Result<()> {
    let usage = |why: String| Err(Error::new(ErrorKind::Usage, why));
    if options.bucket.trim().is_empty() || options.bucket.contains('/') {
        return usage(format!("\"{}\" is no name of a bucket", options.bucket));
    }
    if options.prefix.split('/').any(|name| name == "." || name == "..") {
        // Every HTTP client on the way would resolve these components of an address.
        return usage(format!("the prefix \"{}\" has a '.' or '..' component", options.prefix));
    }
    let Some(endpoint) = &options.endpoint else { return Ok(()) };
    // The messages do not repeat the endpoint: it may hold a password.
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
            .with_hint("for example https://s3.example.org, without the bucket")),
    }
}
