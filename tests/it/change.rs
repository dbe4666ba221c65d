//! A source that changes between index and upload, and while the upload runs.
