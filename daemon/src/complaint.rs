//! Errors for people: what failed, why, what helps, and the exit code.

use std::fmt;
use std::io::Write;
use std::process::ExitCode;

/// Exit codes, the same for all programs of modemesh.
pub mod exit {
    /// The operation failed.
    pub const FAILED: u8 = 1;
    /// A node, model or mode does not exist.
    pub const NOT_FOUND: u8 = 4;
    /// The router cannot be reached.
    pub const UNREACHABLE: u8 = 5;
    /// A certificate, token or key was refused.
    pub const IDENTITY: u8 = 6;
    /// It does not fit.
    pub const DOES_NOT_FIT: u8 = 7;
    /// It took too long.
    pub const TIMEOUT: u8 = 8;
    /// The configuration is invalid.
    pub const CONFIG: u8 = 78;
    /// Stopped by Ctrl-C.
    pub const INTERRUPTED: u8 = 130;
}

/// An error with what a person needs to go on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Complaint {
    /// What failed, with the person's own values.
    pub what: String,
    /// Why, where it is known.
    pub cause: Option<String>,
    /// A command or a change that helps.
    pub hint: Option<String>,
    /// The process's exit code.
    pub exit: u8,
}

impl Complaint {
    /// A complaint with exit code 1 and nothing but `what`.
    #[must_use]
    pub fn new(what: impl Into<String>) -> Self {
        Self { what: what.into(), cause: None, hint: None, exit: exit::FAILED }
    }

    /// Adds why.
    #[must_use]
    pub fn cause(mut self, cause: impl fmt::Display) -> Self {
        self.cause = Some(cause.to_string());
        self
    }

    /// Adds what helps.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// Sets the exit code.
    #[must_use]
    pub fn exit(mut self, code: u8) -> Self {
        self.exit = code;
        self
    }
}

impl fmt::Display for Complaint {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}", self.what)?;
        if let Some(cause) = &self.cause {
            write!(out, "\ncause: {cause}")?;
        }
        if let Some(hint) = &self.hint {
            write!(out, "\n\nhint: {hint}")?;
        }
        Ok(())
    }
}

impl std::error::Error for Complaint {}

/// Turns the result of a program into its exit code, after printing the error on stderr.
#[must_use]
pub fn conclude(result: anyhow::Result<()>) -> ExitCode {
    let Err(error) = result else { return ExitCode::SUCCESS };
    let (text, code) = match error.downcast_ref::<Complaint>() {
        Some(complaint) => (complaint.to_string(), complaint.exit),
        None => (format!("{error:#}"), exit::FAILED),
    };
    // Nothing is left to do when stderr itself is gone.
    drop(writeln!(std::io::stderr(), "error: {text}"));
    ExitCode::from(code)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_complaint_reads_top_down() {
        let text =
            Complaint::new("port 7400 is in use").cause("held by nginx").hint("use --clients").to_string();
        assert_eq!(text, "port 7400 is in use\ncause: held by nginx\n\nhint: use --clients");
    }
}
