//! What the terminal can show, and the only places that write to it: results to stdout, notes to stderr.

mod repeated;

use crate::cli::{ColorChoice, Format, Globals};
use crate::exit::{Failure, Kind};
use crate::render::paint::Look;
use repeated::Repeated;
pub(crate) use repeated::quoted;
use std::borrow::Cow;
use std::io::{self, BufRead, IsTerminal, Write};

/// Width assumed for a terminal that does not tell.
const USUAL_WIDTH: usize = 80;

/// What decides how output looks; read once, so that the rules themselves are plain functions.
#[derive(Debug, Default, Clone)]
struct Surroundings {
    stdout_is_terminal: bool,
    /// Somebody reads stderr and can answer on stdin.
    can_ask: bool,
    terminal_width: Option<usize>,
    no_color: bool,
    color_forced: bool,
    term: Option<String>,
    columns: Option<String>,
    /// The first of LC_ALL, LC_CTYPE and LANG that is set.
    locale: Option<String>,
}

impl Surroundings {
    fn read() -> Self {
        let set = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
        Self {
            stdout_is_terminal: io::stdout().is_terminal(),
            can_ask: io::stdin().is_terminal() && io::stderr().is_terminal(),
            terminal_width: comfy_table::Table::new().width().map(usize::from),
            no_color: set("NO_COLOR").is_some(),
            color_forced: set("CLICOLOR_FORCE").is_some_and(|value| value != "0"),
            term: set("TERM"),
            columns: set("COLUMNS"),
            locale: ["LC_ALL", "LC_CTYPE", "LANG"].into_iter().find_map(set),
        }
    }

    /// Nothing is dropped for a reader that is no terminal.
    fn width(&self) -> Option<usize> {
        if !self.stdout_is_terminal {
            return None;
        }
        let typed =
            self.columns.as_deref().and_then(|columns| columns.parse().ok()).filter(|&width| width > 0);
        Some(typed.or(self.terminal_width).unwrap_or(USUAL_WIDTH))
    }

    fn color(&self, choice: ColorChoice, is_terminal: bool) -> bool {
        match choice {
            ColorChoice::Always => true,
            ColorChoice::Never => false,
            ColorChoice::Auto if self.no_color || self.term.as_deref() == Some("dumb") => false,
            ColorChoice::Auto => is_terminal || self.color_forced,
        }
    }

    fn unicode(&self) -> bool {
        let locale = self.locale.as_deref().unwrap_or_default().to_ascii_lowercase();
        locale.contains("utf-8") || locale.contains("utf8")
    }

    fn look(&self, choice: ColorChoice) -> Look {
        Look {
            width: self.width(),
            color: self.color(choice, self.stdout_is_terminal),
            unicode: self.unicode(),
        }
    }
}

/// Where a command writes to.
#[derive(Debug, Clone)]
pub(crate) struct Screen {
    /// How results look.
    pub(crate) look: Look,
    /// Table or JSON, or what a report is written in.
    pub(crate) format: Format,
    /// Whether a person reads stdout.
    pub(crate) is_terminal: bool,
    can_ask: bool,
    notes_color: bool,
    choice: ColorChoice,
    repeated: Repeated,
}

impl Screen {
    /// Looks at the environment, at stdout and at what was typed, `program` first.
    pub(crate) fn detect(program: &str, globals: &Globals) -> Self {
        let repeated = Repeated::of(program, globals, |name| std::env::var_os(name));
        Self::of(globals.color, globals.format(), repeated)
    }

    #[cfg(test)]
    pub(crate) fn plain(format: Format) -> Self {
        // Tests may be started from a terminal: nobody there waits for a question.
        Self { can_ask: false, ..Self::of(ColorChoice::Never, format, Repeated::default()) }
    }

    fn of(choice: ColorChoice, format: Format, repeated: Repeated) -> Self {
        let around = Surroundings::read();
        Self {
            look: around.look(choice),
            format,
            is_terminal: around.stdout_is_terminal,
            can_ask: around.can_ask,
            notes_color: around.color(choice, io::stderr().is_terminal()),
            choice,
            repeated,
        }
    }

    /// What is done now, on stderr: one line that the next takes the place of, where a terminal shows it.
    pub(crate) fn doing(&self, what: &str) {
        let text = self.look.text(what);
        let in_place = io::stderr().is_terminal();
        self.note(&if in_place { format!("\r\u{1b}[K{text}") } else { text + "\n" });
    }

    /// Takes that line away.
    pub(crate) fn done_doing(&self) {
        if io::stderr().is_terminal() {
            self.note("\r\u{1b}[K");
        }
    }

    /// Our own words with commands that work as they are printed. Not for what models say.
    pub(crate) fn commands<'a>(&self, text: &'a str) -> Cow<'a, str> {
        self.repeated.within(text)
    }

    /// The same screen after its window may have changed.
    #[must_use]
    pub(crate) fn again(&self) -> Self {
        Self::of(self.choice, self.format, self.repeated.clone())
    }

    /// Whether the output is JSON.
    pub(crate) fn is_json(&self) -> bool {
        self.format == Format::Json
    }

    /// Whether notes on stderr are coloured.
    pub(crate) fn paints_notes(&self) -> bool {
        self.notes_color
    }

    /// Writes a result to stdout, at once.
    ///
    /// # Errors
    /// [`Kind::PipeClosed`] when the reader has left, [`Kind::Failed`] otherwise (a full disk).
    #[expect(clippy::unused_self, reason = "whoever writes shows that it was given a screen")]
    pub(crate) fn result(&self, text: &str) -> Result<(), Failure> {
        let mut out = io::stdout().lock();
        out.write_all(text.as_bytes()).and_then(|()| out.flush()).map_err(|error| {
            if error.kind() == io::ErrorKind::BrokenPipe {
                Failure::new(Kind::PipeClosed, "stdout is closed")
            } else {
                Failure::new(Kind::Failed, "cannot write to stdout").cause(error.to_string())
            }
        })
    }

    /// Asks `question` and waits for a yes. Without somebody to ask, `flag` has to say it.
    ///
    /// # Errors
    /// `Usage` where nobody can be asked, `Failed` for any answer but a yes.
    pub(crate) async fn agreed(&self, question: &str, flag: &str) -> Result<(), Failure> {
        if !self.can_ask {
            return Err(Failure::new(Kind::Usage, "this needs a yes, and there is no terminal to ask on")
                .hint(format!("say it with the command: {flag}")));
        }
        self.note(&format!("{question} [y/N] "));
        // On a thread of its own, so that Ctrl-C still ends the command.
        let read = tokio::task::spawn_blocking(|| {
            let mut line = String::new();
            io::stdin().lock().read_line(&mut line).map(|_| line)
        });
        let line = read.await.map_err(io::Error::other).and_then(|line| line).map_err(|error| {
            Failure::new(Kind::Failed, "the answer could not be read").cause(error.to_string())
        })?;
        match line.trim().to_lowercase().as_str() {
            "y" | "yes" => Ok(()),
            _ => Err(Failure::new(Kind::Failed, "nothing was changed").cause("the answer was not yes")),
        }
    }

    /// Writes a note to stderr; where even that fails there is nobody to tell.
    #[expect(clippy::unused_self, reason = "whoever writes shows that it was given a screen")]
    pub(crate) fn note(&self, text: &str) {
        let _ = io::stderr().lock().write_all(text.as_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn terminal() -> Surroundings {
        Surroundings {
            stdout_is_terminal: true,
            terminal_width: Some(120),
            locale: Some("en_US.UTF-8".into()),
            ..Surroundings::default()
        }
    }

    #[test]
    fn a_pipe_gets_every_column_and_no_colour() {
        let pipe = Surroundings { columns: Some("40".into()), ..Surroundings::default() };
        assert_eq!(pipe.look(ColorChoice::Auto), Look { width: None, color: false, unicode: false });
    }

    #[test]
    fn columns_wins_over_the_terminal_and_both_over_eighty() {
        assert_eq!(terminal().width(), Some(120));
        assert_eq!(Surroundings { columns: Some("100".into()), ..terminal() }.width(), Some(100));
        assert_eq!(Surroundings { columns: Some("zero".into()), ..terminal() }.width(), Some(120));
        assert_eq!(Surroundings { terminal_width: None, ..terminal() }.width(), Some(80));
    }

    #[test]
    fn the_flag_wins_over_no_color_and_dumb_terminals() {
        let colored = |around: Surroundings, choice| around.look(choice).color;
        assert!(colored(terminal(), ColorChoice::Auto));
        assert!(!colored(terminal(), ColorChoice::Never));
        for dull in [
            Surroundings { no_color: true, ..terminal() },
            Surroundings { term: Some("dumb".into()), ..terminal() },
        ] {
            assert!(!colored(dull.clone(), ColorChoice::Auto));
            assert!(colored(dull, ColorChoice::Always));
        }
        let forced = Surroundings { color_forced: true, ..Surroundings::default() };
        assert!(colored(forced, ColorChoice::Auto));
    }

    #[test]
    fn only_a_utf8_locale_gets_symbols() {
        for (locale, unicode) in
            [(Some("C.UTF-8"), true), (Some("de_DE.utf8"), true), (Some("C"), false), (None, false)]
        {
            let around = Surroundings { locale: locale.map(str::to_owned), ..terminal() };
            assert_eq!(around.unicode(), unicode, "{locale:?}");
        }
    }
}
