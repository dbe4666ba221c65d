//! A bucket in S3, or in a store with the same protocol, as a source. The only place for the AWS
//! SDK.
//!
//! The SDK signs, and knows credentials, addresses and XML. Deadlines, retries and the check that
//! an answer belongs to its request are our own (`retry`, `request`): the SDK does not notice a
//! body that is cut or stands still.

mod bucket;
mod clock;
mod connect;
mod error;
mod get;
mod hcp;
mod head;
mod http;
mod keys;
mod list;
mod list_page;
mod object;
mod object_times;
mod options;
mod outage;
mod reader;
mod request;
mod retry;
mod single_object;
mod source;
mod tolerant;
mod whole_objects;

pub use bucket::Bucket;
pub use hcp::{Credentials, hcp_credentials};
pub use object::{Head, Listed, ObjectState, Taken};
pub use options::{Addressing, BucketOptions};
pub use reader::ObjectReader;
