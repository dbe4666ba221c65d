//! Symbolic links planted in the base folder of a receiver.
