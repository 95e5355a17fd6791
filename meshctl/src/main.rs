//! The `meshctl` program; everything is in the library, because `modemesh meshctl` is the same program.

use std::process::ExitCode;

fn main() -> ExitCode {
    meshctl::run(std::env::args_os())
}
