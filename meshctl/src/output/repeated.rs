//! Commands in hints work as they are printed: what was typed to reach this mesh is repeated in them.

use crate::cli::{Globals, usual_data};
use std::borrow::Cow;
use std::ffi::OsString;
use std::path::Path;

const VERBS: [&str; 15] = [
    "status", "explain", "ask", "token", "key", "model", "node", "login", "plan", "mode", "wait", "ladder",
    "eval", "validate", "stress",
];
/// Words of hints whose commands are for another machine, or for another mesh.
const ELSEWHERE: [&str; 3] = ["on the router", "on any other", "` there"];

/// The usual name of this program.
const USUAL: &str = "meshctl";

/// What a command has to repeat.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Repeated {
    /// How this program was called: `meshctl`, or `modemesh meshctl`.
    program: String,
    /// ` --data /srv/mesh --router strix-1`.
    flags: String,
}

impl Default for Repeated {
    fn default() -> Self {
        Self { program: USUAL.into(), flags: String::new() }
    }
}

impl Repeated {
    /// The flags that are not what a command would use by itself, by the environment that `env` reads.
    pub(crate) fn of(program: &str, globals: &Globals, env: impl Fn(&str) -> Option<OsString>) -> Self {
        // By whatever path: only another program's name has to be said.
        let program = if program.ends_with(" meshctl") { program } else { USUAL };
        let mut flags = String::new();
        let by_itself = env("MODEMESH_DATA").map(Into::into).or_else(|| usual_data(env));
        if let Some(data) = globals.data.as_ref().filter(|data| Some(*data) != by_itself.as_ref()) {
            flags.push_str(&format!(" --data {}", quoted(data)));
        }
        if let Some(router) = &globals.router {
            flags.push_str(&format!(" --router {}", quoted(Path::new(router))));
        }
        Self { program: program.to_owned(), flags }
    }

    /// `text` with the program and the flags in each command that is for this mesh.
    pub(crate) fn within<'a>(&self, text: &'a str) -> Cow<'a, str> {
        if *self == Self::default() || !text.contains("meshctl ") {
            return text.into();
        }
        text.split_inclusive('\n').map(|line| self.within_line(line)).collect::<String>().into()
    }

    fn within_line(&self, line: &str) -> String {
        if ELSEWHERE.iter().any(|words| line.contains(words)) {
            return line.to_owned();
        }
        let mut parts = line.split("meshctl ");
        let mut out = parts.next().unwrap_or_default().to_owned();
        for part in parts {
            let verb = part.split(|c: char| !c.is_ascii_lowercase()).next().unwrap_or_default();
            let is_command = VERBS.contains(&verb);
            // A router may have said it with its own program's name.
            let program = if is_command && !out.ends_with("modemesh ") { &self.program } else { USUAL };
            let flags = if is_command { self.flags.as_str() } else { "" };
            out.push_str(&format!("{program}{flags} {part}"));
        }
        out
    }
}

/// As a shell reads it.
pub(crate) fn quoted(path: &Path) -> String {
    let text = path.display().to_string();
    let plain = |c: char| c.is_ascii_alphanumeric() || "/._-:[]~@+".contains(c);
    if !text.is_empty() && !text.starts_with('~') && text.chars().all(plain) {
        return text;
    }
    format!("'{}'", text.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::Cli;
    use clap::Parser;

    fn repeated(typed: &[&str], environment: &[(&str, &str)]) -> Repeated {
        let typed = [&["meshctl"], typed, &["status"]].concat();
        let globals = Cli::try_parse_from(typed).expect("it can be typed").globals;
        let find = |name: &str| {
            environment.iter().find(|(known, _)| *known == name).map(|(_, value)| OsString::from(value))
        };
        Repeated::of("/usr/bin/meshctl", &globals, find)
    }

    #[test]
    fn every_verb_is_known() {
        let command = <crate::cli::Cli as clap::CommandFactory>::command();
        for verb in command.get_subcommands().map(clap::Command::get_name) {
            assert!(VERBS.contains(&verb), "{verb}");
        }
    }

    #[test]
    fn what_was_typed_is_repeated_where_it_is_needed_and_only_there() {
        const HOME: (&str, &str) = ("HOME", "/home/ann");
        let usual = "/home/ann/.local/share/modemesh";
        assert_eq!(repeated(&["--data", usual], &[HOME]), Repeated::default());
        assert_eq!(repeated(&["--data", "/srv"], &[HOME, ("MODEMESH_DATA", "/srv")]), Repeated::default());
        assert_eq!(repeated(&["--data", "/srv"], &[HOME]).flags, " --data /srv");
        assert_eq!(
            repeated(&["--data", usual], &[HOME, ("MODEMESH_DATA", "/srv")]).flags,
            format!(" --data {usual}")
        );
        let both = repeated(&["--data", "a b's", "--router", "strix-1:7402"], &[HOME]);
        assert_eq!(both.flags, r" --data 'a b'\''s' --router strix-1:7402");
    }

    #[test]
    fn commands_for_this_mesh_get_the_flags_and_words_about_the_program_do_not() {
        let flags = Repeated { flags: " --data /srv".into(), ..Repeated::default() };
        for (text, wanted) in [
            ("meshctl explain r1", "meshctl --data /srv explain r1"),
            (
                "make one: meshctl key create NAME; then `meshctl ask`\nmore",
                "make one: meshctl --data /srv key create NAME; then `meshctl --data /srv ask`\nmore",
            ),
            ("bring meshctl and the router to one version", "bring meshctl and the router to one version"),
            (
                "make one on the router: meshctl token create --role operator",
                "make one on the router: meshctl token create --role operator",
            ),
            (
                "\u{1b}[36mmeshctl status --all\u{1b}[0m",
                "\u{1b}[36mmeshctl --data /srv status --all\u{1b}[0m",
            ),
        ] {
            assert_eq!(flags.within(text), wanted);
        }
        let within = Repeated { program: "./modemesh meshctl".into(), ..flags };
        for (text, wanted) in [
            ("next: meshctl status", "next: ./modemesh meshctl --data /srv status"),
            ("`modemesh meshctl key create NAME`", "`modemesh meshctl --data /srv key create NAME`"),
            ("bring meshctl and the router to one version", "bring meshctl and the router to one version"),
        ] {
            assert_eq!(within.within(text), wanted);
        }
        assert!(matches!(Repeated::default().within("meshctl status"), Cow::Borrowed("meshctl status")));
    }
}
