//! Power loss: a file system that is shut down beneath the receiver keeps every block that was answered 200.
