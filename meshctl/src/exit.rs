//! How a command can end badly: the kind (which is the exit code) and the words for the person.
//!
//! ```text
//! error: what failed, with the user's own values
//! cause: one line, only where it is known
//!
//! hint: a command to paste or one thing to change
//! ```

use crate::render::paint::{self, printable};

/// What kind of end it was. Each kind has one exit code, listed in `docs/meshctl.md`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// The operation was tried and failed.
    Failed,
    /// The command line makes no sense.
    Usage,
    /// `status --check` found a node or mode that is not ready.
    Degraded,
    /// No such request, node, model, mode, token or key.
    NotFound,
    /// The router does not answer.
    Unreachable,
    /// Certificate, token or key missing, expired or refused.
    Refused,
    /// The model does not fit.
    DoesNotFit,
    /// It took longer than `--timeout`.
    TimedOut,
    /// Ctrl-C.
    Interrupted,
    /// The reader of our output has left: `meshctl status | head -1`. Silent, and no failure.
    PipeClosed,
}

impl Kind {
    /// Every kind that a script can see as a code of its own.
    #[cfg(test)]
    pub(crate) const ALL: [Self; 9] = [
        Self::Failed,
        Self::Usage,
        Self::Degraded,
        Self::NotFound,
        Self::Unreachable,
        Self::Refused,
        Self::DoesNotFit,
        Self::TimedOut,
        Self::Interrupted,
    ];

    /// The exit code.
    pub(crate) fn code(self) -> u8 {
        match self {
            Self::PipeClosed => 0,
            Self::Failed => 1,
            Self::Usage => 2,
            Self::Degraded => 3,
            Self::NotFound => 4,
            Self::Unreachable => 5,
            Self::Refused => 6,
            Self::DoesNotFit => 7,
            Self::TimedOut => 8,
            Self::Interrupted => 130,
        }
    }
}

/// A command that did not do what was asked.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{what}")]
pub(crate) struct Failure {
    /// What kind of end this is.
    pub(crate) kind: Kind,
    /// What failed, with the values of the user.
    pub(crate) what: String,
    /// Why, where it is known.
    pub(crate) cause: Option<String>,
    /// What to do about it, one line each.
    pub(crate) hints: Vec<String>,
}

impl Failure {
    /// A failure of `kind`: `what` is a lower-case fragment without a full stop.
    pub(crate) fn new(kind: Kind, what: impl Into<String>) -> Self {
        Self { kind, what: what.into(), cause: None, hints: Vec::new() }
    }

    /// Ctrl-C.
    pub(crate) fn interrupted() -> Self {
        Self::new(Kind::Interrupted, "interrupted")
    }

    /// Adds why it failed.
    #[must_use]
    pub(crate) fn cause(mut self, cause: impl Into<String>) -> Self {
        self.cause = Some(cause.into()).filter(|cause| !cause.is_empty());
        self
    }

    /// Adds something to do about it.
    #[must_use]
    pub(crate) fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hints.push(hint.into());
        self
    }

    /// What stands on stderr; `None` for the silent kinds.
    pub(crate) fn text(&self, color: bool) -> Option<String> {
        if matches!(self.kind, Kind::PipeClosed | Kind::Interrupted) {
            return None;
        }
        let mut text = format!("{} {}\n", paint::red("error:", color), printable(&self.what));
        if let Some(cause) = &self.cause {
            text += &format!("{} {}\n", paint::bold("cause:", color), printable(cause));
        }
        if !self.hints.is_empty() {
            text.push('\n');
        }
        for hint in &self.hints {
            text += &format!("{} {}\n", paint::cyan("hint:", color), printable(hint));
        }
        Some(text)
    }
}

/// The chain of causes under `error` as one line, each said once.
pub(crate) fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let mut line = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let said = cause.to_string();
        if !line.contains(&said) {
            line = format!("{line}: {said}");
        }
        next = cause.source();
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_codes_are_the_documented_ones() {
        let codes: Vec<u8> = Kind::ALL.iter().map(|kind| kind.code()).collect();
        assert_eq!(codes, [1, 2, 3, 4, 5, 6, 7, 8, 130]);
        assert_eq!(Kind::PipeClosed.code(), 0);
    }

    #[test]
    fn every_code_is_in_the_manual() {
        let manual = include_str!("../../docs/meshctl.md");
        for code in Kind::ALL.iter().map(|kind| kind.code()).chain([0]) {
            assert!(manual.contains(&format!("\n| {code} | ")), "docs/meshctl.md lacks exit code {code}");
        }
    }

    #[test]
    fn a_failure_reads_error_cause_blank_hint() {
        let failure = Failure::new(Kind::Unreachable, "cannot reach the router at 10.0.0.2:7402")
            .cause("connection refused")
            .hint("is it running? start it with `modemesh up`")
            .hint("elsewhere? --router HOST:7402");
        assert_eq!(
            failure.text(false).as_deref(),
            Some(
                "error: cannot reach the router at 10.0.0.2:7402\ncause: connection refused\n\n\
                 hint: is it running? start it with `modemesh up`\nhint: elsewhere? --router HOST:7402\n"
            )
        );
    }

    #[test]
    fn the_words_of_others_cannot_move_the_cursor() {
        let failure = Failure::new(Kind::Failed, "engine said \u{1b}[2Jboo\nerror: fake");
        assert_eq!(failure.text(false).as_deref(), Some("error: engine said  [2Jboo error: fake\n"));
    }

    #[test]
    fn leaving_by_ctrl_c_or_a_closed_pipe_is_silent() {
        assert_eq!(Failure::interrupted().text(true), None);
        assert_eq!(Failure::new(Kind::PipeClosed, "stdout is closed").text(true), None);
    }
}
