//! The operator's eyes on a modemesh.
//!
//! [`run`] is the whole program: `meshctl` and `modemesh meshctl` both call it.
//!
//! `cli`: what can be typed. `command`: what it does, one file per verb. `connect`: the way to the
//! router's operator plane. `render`: data to text, pure. `exit`: how a command may end. `output`: what
//! the terminal can show.

use std::ffi::OsString;
use std::process::ExitCode;

mod address;
mod cli;
mod command;
mod connect;
mod exit;
mod near;
mod output;
mod render;
mod sse;

/// Parses `args` (the first is the program's name: `… meshctl` where it is part of another one), does what they say and tells how it ended.
/// Makes its own tokio runtime, so it must not be called inside one.
pub fn run(args: impl Iterator<Item = OsString>) -> ExitCode {
    let args: Vec<OsString> = args.collect();
    let program = args.first().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    let typed = match cli::Cli::typed(args) {
        Ok(typed) => typed,
        Err(refused) => {
            // Help and version come this way too, on stdout and with code 0. A closed pipe is no news.
            let _ = refused.print();
            return ExitCode::from(u8::try_from(refused.exit_code()).unwrap_or(exit::Kind::Usage.code()));
        }
    };
    let screen = output::Screen::detect(&program, &typed.globals);
    match command::conclude(typed, &screen) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            if let Some(text) = failure.text(screen.paints_notes()) {
                screen.note(&screen.commands(&text));
            }
            ExitCode::from(failure.kind.code())
        }
    }
}
