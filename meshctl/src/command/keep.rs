//! The records of climbs on this machine's disk: one JSON file each, in `ladder/` of the data folder.

use crate::exit::{Failure, Kind};
use mesh_core::ladder::Record;
use std::fs;
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

/// The longest file that is read, in bytes: a soak of a day with its answers.
const LONGEST: u64 = 256 << 20;

/// The folder.
#[derive(Debug, Clone)]
pub(super) struct Keep {
    folder: PathBuf,
}

impl Keep {
    /// That of a data folder.
    pub(super) fn of(data: &Path) -> Self {
        Self { folder: data.join("ladder") }
    }

    /// Where the record `id` is.
    pub(super) fn file(&self, id: &str) -> PathBuf {
        self.folder.join(format!("{id}.json"))
    }

    /// Writes a record, whole or not at all.
    ///
    /// # Errors
    /// `Failed`, with the file and the system's words; the record as it was before stays.
    pub(super) fn write(&self, record: &Record) -> Result<(), Failure> {
        let file = self.file(&record.id);
        let failed = |cause: String| {
            Failure::new(Kind::Failed, format!("cannot write {}", file.display())).cause(cause)
        };
        record.check().map_err(|problem| failed(problem.to_string()))?;
        let text = super::json(record);
        self.written(&file, &text).map_err(|error| failed(error.to_string()))
    }

    fn written(&self, file: &Path, text: &str) -> io::Result<()> {
        fs::DirBuilder::new().recursive(true).mode(0o700).create(&self.folder)?;
        let part = file.with_extension("json.part");
        let mut out =
            fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&part)?;
        let done = out
            .write_all(text.as_bytes())
            .and_then(|()| out.sync_all())
            .and_then(|()| fs::rename(&part, file));
        if done.is_err() {
            // What is half written takes the place that is missing.
            let _ = fs::remove_file(&part);
        }
        done
    }

    /// The ids of all records, newest first.
    ///
    /// # Errors
    /// `Failed` when the folder cannot be read; one that is not there is empty.
    pub(super) fn ids(&self) -> Result<Vec<String>, Failure> {
        let failed = |error: io::Error| {
            Failure::new(Kind::Failed, format!("cannot read {}", self.folder.display()))
                .cause(error.to_string())
        };
        let entries = match fs::read_dir(&self.folder) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(failed(error)),
        };
        let mut ids = Vec::new();
        for entry in entries {
            let name = entry.map_err(failed)?.file_name();
            ids.extend(name.to_str().and_then(|name| name.strip_suffix(".json")).map(str::to_owned));
        }
        // Ids begin with the time.
        ids.sort_unstable_by(|a, b| b.cmp(a));
        Ok(ids)
    }

    /// The record `id`.
    ///
    /// # Errors
    /// `Failed` when it cannot be read, or is none.
    pub(super) fn read(&self, id: &str) -> Result<Record, Failure> {
        let file = self.file(id);
        let failed = |cause: String| {
            Failure::new(Kind::Failed, format!("cannot read {}", file.display())).cause(cause)
        };
        let mut text = String::new();
        let opened = fs::File::open(&file).map_err(|error| failed(error.to_string()))?;
        let read = opened.take(LONGEST + 1).read_to_string(&mut text);
        let length = read.map_err(|error| failed(error.to_string()))?;
        if length as u64 > LONGEST {
            return Err(failed(format!("it is longer than {} MiB", LONGEST >> 20)));
        }
        serde_json::from_str(&text).map_err(|error| failed(error.to_string()))
    }

    /// The record whose id begins with `prefix`, or the newest.
    ///
    /// # Errors
    /// `NotFound` where there is none, `Usage` where there is more than one, and as for [`Keep::read`].
    pub(super) fn named(&self, prefix: Option<&str>) -> Result<Record, Failure> {
        let ids = self.ids()?;
        let Some(prefix) = prefix else {
            let newest = ids.first().ok_or_else(|| self.none())?;
            return self.read(newest);
        };
        let begun: Vec<&String> = ids.iter().filter(|id| id.starts_with(prefix)).collect();
        match begun.as_slice() {
            [] if ids.is_empty() => Err(self.none()),
            [] => {
                let what = format!("no climb `{prefix}`");
                Err(crate::command::names::unknown(prefix, what, ids.iter().map(String::as_str), ""))
            }
            [one] => self.read(one),
            [one, ..] if *one == prefix => self.read(one),
            many => Err(Failure::new(Kind::Usage, format!("`{prefix}` begins {} ids", many.len()))
                .hint("list all: meshctl ladder list")),
        }
    }

    /// The newest record that `is_it`; those that cannot be read are passed over.
    pub(super) fn newest(&self, is_it: impl Fn(&Record) -> bool) -> Result<Option<Record>, Failure> {
        let ids = self.ids()?;
        Ok(ids.iter().filter_map(|id| self.read(id).ok()).find(is_it))
    }

    fn none(&self) -> Failure {
        Failure::new(Kind::NotFound, format!("there is no climb in {}", self.folder.display()))
            .hint("climb a machine: meshctl ladder run --node NODE")
    }
}
