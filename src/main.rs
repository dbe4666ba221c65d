//! The `tar-like` program: parse, run, exit code.

use std::process::ExitCode;

fn main() -> ExitCode {
    tar_like::commands::main(std::env::args_os())
}
