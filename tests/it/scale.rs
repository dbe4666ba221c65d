//! A million rows and tens of thousands of files, with bounded memory.
