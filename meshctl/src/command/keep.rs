//! What measurements left on this machine's disk: one JSON file each, in a folder of their kind in the data folder.

pub(super) use super::wall_clock::now;
use crate::exit::{Failure, Kind};
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::fs;
use std::io::{self, Read as _, Write as _};
use std::marker::PhantomData;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

/// The longest file that is read, in bytes: a soak of a day with its answers.
const LONGEST: u64 = 256 << 20;

/// What can be kept. Ids begin with the time, so that they sort by it.
pub(super) trait Kept: Serialize + DeserializeOwned {
    /// Its folder, and the verb of `meshctl` that makes, lists and shows it.
    const FOLDER: &'static str;
    /// What one of them is called.
    const NOUN: &'static str;
    /// The command that makes one.
    const MAKE: &'static str;

    fn id(&self) -> &str;

    /// Why it must not be kept.
    ///
    /// # Errors
    /// What is out of its bounds.
    fn check(&self) -> Result<(), String>;

    /// As it is kept, and printed by `--json`.
    fn json(&self) -> String {
        serde_json::to_string_pretty(self).expect("plain data") + "\n"
    }
}

/// The folder of one kind.
#[derive(Debug, Clone)]
pub(super) struct Keep<T> {
    folder: PathBuf,
    kind: PhantomData<T>,
}

impl<T: Kept> Keep<T> {
    /// That of a data folder.
    pub(super) fn of(data: &Path) -> Self {
        Self { folder: data.join(T::FOLDER), kind: PhantomData }
    }

    /// When what begins now begins: now, or so many milliseconds later that this and the next `count` − 1 milliseconds name no
    /// record yet. A clock that was set back would write over what it once named.
    pub(super) fn beginning(&self, count: u64) -> u64 {
        let mut at = now();
        while let Some(taken) = (at..at.saturating_add(count)).rfind(|ms| self.file(&id_of(*ms)).exists()) {
            at = taken + 1;
        }
        at
    }

    /// Where the record `id` is.
    pub(super) fn file(&self, id: &str) -> PathBuf {
        self.folder.join(format!("{id}.json"))
    }

    /// Writes a record, whole or not at all.
    ///
    /// # Errors
    /// `Failed`, with the file and the system's words; the record as it was before stays.
    pub(super) fn write(&self, record: &T) -> Result<(), Failure> {
        let file = self.file(record.id());
        let failed = |cause: String| {
            Failure::new(Kind::Failed, format!("cannot write {}", file.display())).cause(cause)
        };
        record.check().map_err(&failed)?;
        let text = record.json();
        if text.len() as u64 > LONGEST {
            return Err(failed(format!("it is longer than the {} MiB that are read", LONGEST >> 20)));
        }
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
    pub(super) fn read(&self, id: &str) -> Result<T, Failure> {
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
        let record: T = serde_json::from_str(&text).map_err(|error| failed(error.to_string()))?;
        record.check().map_err(failed)?;
        Ok(record)
    }

    /// The record whose id begins with `prefix`, or the newest.
    ///
    /// # Errors
    /// `NotFound` where there is none, `Usage` where there is more than one, and as for [`Keep::read`].
    pub(super) fn named(&self, prefix: Option<&str>) -> Result<T, Failure> {
        let ids = self.ids()?;
        let Some(prefix) = prefix else {
            let newest = ids.first().ok_or_else(|| self.none())?;
            return self.read(newest);
        };
        let begun: Vec<&String> = ids.iter().filter(|id| id.starts_with(prefix)).collect();
        match begun.as_slice() {
            [] if ids.is_empty() => Err(self.none()),
            [] => {
                let what = format!("no {} `{prefix}`", T::NOUN);
                Err(super::names::unknown(prefix, what, ids.iter().map(String::as_str), ""))
            }
            [one] => self.read(one),
            [one, ..] if *one == prefix => self.read(one),
            many => Err(Failure::new(Kind::Usage, format!("`{prefix}` begins {} ids", many.len()))
                .hint(format!("list all: meshctl {} list", T::FOLDER))),
        }
    }

    /// The newest record that `is_it`; those that cannot be read are passed over.
    pub(super) fn newest(&self, is_it: impl Fn(&T) -> bool) -> Result<Option<T>, Failure> {
        let ids = self.ids()?;
        Ok(ids.iter().filter_map(|id| self.read(id).ok()).find(is_it))
    }

    fn none(&self) -> Failure {
        Failure::new(Kind::NotFound, format!("there is no {} in {}", T::NOUN, self.folder.display()))
            .hint(format!("to make one: {}", T::MAKE))
    }
}

/// The id of what begins then: `20261122-021503-128`, so that ids sort by time.
pub(super) fn id_of(unix_ms: u64) -> String {
    let seconds = i64::try_from(unix_ms / 1000).unwrap_or_default();
    let at = time::OffsetDateTime::from_unix_timestamp(seconds).unwrap_or(time::OffsetDateTime::UNIX_EPOCH);
    let (date, (hour, minute, second)) = (at.date(), at.time().as_hms());
    let (year, month, day) = (date.year(), u8::from(date.month()), date.day());
    format!("{year}{month:02}{day:02}-{hour:02}{minute:02}{second:02}-{:03}", unix_ms % 1000)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_sort_by_time() {
        assert_eq!(id_of(1_795_262_651_007), "20261121-120411-007");
        assert!(id_of(1_795_262_651_007) < id_of(1_795_262_651_100));
    }
}
