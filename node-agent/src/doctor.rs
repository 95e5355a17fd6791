//! `mesh-agent doctor`: what limits this machine, and how to change it.
//!
//! [`Snapshot::take`] reads; [`examine`] judges and is pure, so each finding is tested on machines that the test
//! machine is not. A finding names the figure, its cause, and what to type or to set in the firmware.

mod graphics;
mod host;
mod snapshot;

pub use snapshot::{DeviceFile, Raw, Snapshot};

use crate::config::{self, RunFlags};
use crate::probe::Probe;
use mesh_daemon::complaint::Complaint;
use serde::Serialize;
use std::io::Write as _;
use std::path::{Path, PathBuf};

/// Exit code when something keeps the machine from serving: degraded, as for `meshctl status --check`.
const DEGRADED: u8 = 3;

/// How bad it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Level {
    /// As it should be.
    Ok,
    /// Worth knowing.
    Info,
    /// It costs memory, speed or safety.
    Warning,
    /// It keeps a part of the machine from serving.
    Error,
}

impl Level {
    fn mark(self) -> &'static str {
        match self {
            Self::Ok => "✓",
            Self::Info => "·",
            Self::Warning => "!",
            Self::Error => "✕",
        }
    }
}

/// One thing that was looked at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// How bad it is.
    pub level: Level,
    /// What it is about: `gpu 0000:c5:00.0`, `swap`.
    pub about: String,
    /// What was found, with its figure.
    pub found: String,
    /// Why that is so or matters; empty where the figure says it.
    pub cause: String,
    /// What to type, or to set in the firmware, in this order; empty where there is nothing to do.
    pub fix: Vec<String>,
}

impl Finding {
    fn new(level: Level, about: impl Into<String>, found: impl Into<String>) -> Self {
        Self { level, about: about.into(), found: found.into(), cause: String::new(), fix: Vec::new() }
    }

    fn because(self, cause: impl Into<String>) -> Self {
        Self { cause: cause.into(), ..self }
    }

    fn fixed_by(mut self, fix: impl Into<String>) -> Self {
        self.fix.push(fix.into());
        self
    }
}

/// Everything there is to say of a machine, the worst first.
#[must_use]
pub fn examine(snapshot: &Snapshot) -> Vec<Finding> {
    let mut findings = graphics::findings(snapshot);
    findings.extend(host::findings(snapshot));
    findings.sort_by_key(|finding| std::cmp::Reverse(finding.level));
    findings
}

/// The findings for people.
#[must_use]
pub fn render(findings: &[Finding]) -> String {
    let mut out = String::new();
    for Finding { level, about, found, cause, fix } in findings {
        out.push_str(&format!("{} {about}: {found}\n", level.mark()));
        if !cause.is_empty() {
            out.push_str(&format!("    {cause}\n"));
        }
        for step in fix {
            out.push_str(&format!("    → {step}\n"));
        }
    }
    out.push_str(&format!("\n{}\n", summary(findings)));
    out
}

fn summary(findings: &[Finding]) -> String {
    let count = |level| findings.iter().filter(|finding| finding.level == level).count();
    let say = |count: usize, one: &str| match count {
        0 => format!("no {one}s"),
        1 => format!("1 {one}"),
        _ => format!("{count} {one}s"),
    };
    format!("{}, {}", say(count(Level::Error), "error"), say(count(Level::Warning), "warning"))
}

/// What `mesh-agent doctor` was told on the command line.
#[derive(Debug, Clone, Default, clap::Args)]
pub struct DoctorFlags {
    /// Print JSON
    #[arg(long)]
    pub json: bool,
    /// A configuration file [default: agent.toml in the data folder, where there is one]
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Where /proc and /sys are [default: /]
    #[arg(long, value_name = "DIR")]
    pub root: Option<PathBuf>,
}

/// `mesh-agent doctor`: the findings as text, or as a JSON list.
///
/// # Errors
/// A complaint when the configuration is invalid, and with exit code 3 when one of the findings is an error; they
/// are on stdout then already.
pub fn describe(data: &Path, flags: &DoctorFlags) -> Result<String, Complaint> {
    let run_flags = RunFlags { config: flags.config.clone(), ..RunFlags::default() };
    let config = config::read(data, &run_flags)?.value;
    let root = flags.root.clone().unwrap_or_else(|| "/".into());
    let folder = config.model_folder(data);
    let probe = Probe::new(&root, &folder).with_overrides(config.gpu_overrides());
    let findings = examine(&Snapshot::take(&probe, &root, folder));
    let text = if flags.json {
        let failed = |error| Complaint::new("cannot write the findings as JSON").cause(error);
        serde_json::to_string_pretty(&findings).map_err(failed)? + "\n"
    } else {
        render(&findings)
    };
    if findings.iter().all(|finding| finding.level < Level::Error) {
        return Ok(text);
    }
    // The findings are the result, whatever the exit code: a closed pipe changes nothing about it.
    drop(std::io::stdout().write_all(text.as_bytes()));
    Err(Complaint::new("a part of this machine cannot serve").cause(summary(&findings)).exit(DEGRADED))
}

#[cfg(test)]
mod tests;
