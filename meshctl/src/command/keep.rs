//! What measurements left on this machine's disk: one JSON file each, in a folder of their kind in the data folder.

use super::loan::Pledge;
pub(super) use super::wall_clock::now;
use crate::exit::{Failure, Kind};
use crate::output::Screen;
use crate::render::paint::Look;
use mesh_core::id::MachineId;
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::collections::{BTreeMap, BTreeSet};
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

    /// Its id, to be changed.
    fn name(&mut self) -> &mut String;

    /// The machine that it is of, where it has no end yet.
    fn open_on(&self) -> Option<&MachineId>;

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

    /// Whether a measurement of this machine runs.
    fn is_measured(&self, node: &MachineId) -> bool {
        self.folder.parent().is_some_and(|data| Pledge::is_held(data, node))
    }

    /// Whether `record` is on its way, as far as that can be told: it has no end, and its machine is measured.
    pub(super) fn runs(&self, record: &T) -> bool {
        record.open_on().is_some_and(|node| self.is_measured(node))
    }

    /// Where the record `id` is.
    pub(super) fn file(&self, id: &str) -> PathBuf {
        self.folder.join(format!("{id}.json"))
    }

    /// Writes a record that begins, under an id of its own: `unix_ms`, the time, or the next millisecond that no other has.
    ///
    /// # Errors
    /// As for [`Keep::write`]; then nothing is left of it.
    pub(super) fn begin(&self, record: &mut T, unix_ms: u64) -> Result<(), Failure> {
        let mut at = unix_ms;
        let file = loop {
            *record.name() = id_of(at);
            let file = self.file(record.id());
            match self.taken(&file) {
                Ok(()) => break file,
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => at = at.saturating_add(1),
                Err(error) => return Err(cannot("write", &file, error)),
            }
        };
        // An empty file would be listed as a record that cannot be read.
        self.write(record).inspect_err(|_| drop(fs::remove_file(file)))
    }

    /// Takes the place of a file for this process.
    fn taken(&self, file: &Path) -> io::Result<()> {
        self.folder()?;
        fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(file).map(|_| ())
    }

    fn folder(&self) -> io::Result<()> {
        fs::DirBuilder::new().recursive(true).mode(0o700).create(&self.folder)
    }

    /// Writes a record, whole or not at all.
    ///
    /// # Errors
    /// `Failed`, with the file and the system's words; the record as it was before stays.
    pub(super) fn write(&self, record: &T) -> Result<(), Failure> {
        let file = self.file(record.id());
        record.check().map_err(|problem| cannot("write", &file, problem))?;
        let text = record.json();
        if text.len() as u64 > LONGEST {
            let why = format!("it is longer than the {} MiB that are read", LONGEST >> 20);
            return Err(cannot("write", &file, why));
        }
        self.written(&file, &text).map_err(|error| cannot("write", &file, error))
    }

    fn written(&self, file: &Path, text: &str) -> io::Result<()> {
        self.folder()?;
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
        let failed = |error: io::Error| cannot("read", &self.folder, error);
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
        let mut text = String::new();
        let opened = fs::File::open(&file).map_err(|error| cannot("read", &file, error))?;
        let read = opened.take(LONGEST + 1).read_to_string(&mut text);
        let length = read.map_err(|error| cannot("read", &file, error))?;
        if length as u64 > LONGEST {
            return Err(cannot("read", &file, format!("it is longer than {} MiB", LONGEST >> 20)));
        }
        let record: T = serde_json::from_str(&text).map_err(|error| cannot("read", &file, error))?;
        record.check().map_err(|problem| cannot("read", &file, problem))?;
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
            return self.read(newest).map_err(|failure| {
                failure.hint(format!("delete that file, or name another: meshctl {} list", T::FOLDER))
            });
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

/// What a list of records has besides them.
pub(super) struct Heading {
    /// Of the JSON document.
    pub(super) schema: &'static str,
    /// The array in it.
    pub(super) field: &'static str,
    /// What is told where there are none.
    pub(super) none: &'static str,
}

/// Prints all records, newest first, each as `of` sees it; also those that cannot be read. `of` hears which are on their way.
pub(super) fn list<T: Kept, L: Serialize>(
    keep: &Keep<T>,
    screen: &Screen,
    heading: &Heading,
    of: impl Fn(Result<T, Failure>, String, bool) -> L,
    table: impl Fn(&[L], Look) -> String,
) -> Result<(), Failure> {
    let ids = keep.ids()?;
    let mut open: BTreeSet<MachineId> = BTreeSet::new();
    let listed = ids.into_iter().map(|id| {
        let read = keep.read(&id);
        let node = read.as_ref().ok().and_then(T::open_on).cloned();
        // Of those that were cut off the newest may be going on.
        let runs = node.is_some_and(|node| keep.is_measured(&node) && open.insert(node));
        of(read, id, runs)
    });
    let listed: Vec<L> = listed.collect();
    if screen.is_json() {
        let document = BTreeMap::from([(heading.field, &listed)]);
        return screen.result(&crate::render::json(heading.schema, &document, false));
    }
    if listed.is_empty() {
        screen.note(&screen.commands(&format!("{}: {}\n", heading.none, T::MAKE)));
        return Ok(());
    }
    screen.result(&table(&listed, screen.look))
}

fn cannot(do_what: &str, path: &Path, cause: impl ToString) -> Failure {
    Failure::new(Kind::Failed, format!("cannot {do_what} {}", path.display())).cause(cause.to_string())
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

    /// A record of nothing but its id.
    #[derive(Debug, PartialEq, Eq, Serialize, serde::Deserialize)]
    struct Bare {
        id: String,
        #[serde(default)]
        fault: Option<String>,
    }

    impl Kept for Bare {
        const FOLDER: &'static str = "bare";
        const NOUN: &'static str = "bare record";
        const MAKE: &'static str = "nothing makes one";

        fn id(&self) -> &str {
            &self.id
        }

        fn name(&mut self) -> &mut String {
            &mut self.id
        }

        fn open_on(&self) -> Option<&MachineId> {
            None
        }

        fn check(&self) -> Result<(), String> {
            self.fault.clone().map_or(Ok(()), Err)
        }
    }

    #[test]
    fn records_that_begin_at_the_same_time_have_ids_of_their_own() {
        let data = tempfile::tempdir().expect("a folder");
        let keep = Keep::of(data.path());
        let begun = || {
            let mut record = Bare { id: String::new(), fault: None };
            keep.begin(&mut record, 1_795_262_651_999).expect("kept");
            record.id
        };
        let ids = [begun(), begun(), begun()];
        assert_eq!(ids, ["20261121-120411-999", "20261121-120412-000", "20261121-120412-001"]);
        assert_eq!(keep.ids().expect("a folder"), [&*ids[2], &*ids[1], &*ids[0]]);
        assert_eq!(keep.read(&ids[1]).expect("a record").id, ids[1]);
    }

    #[test]
    fn a_record_that_cannot_be_kept_leaves_no_file() {
        let data = tempfile::tempdir().expect("a folder");
        let keep = Keep::of(data.path());
        let mut record = Bare { id: String::new(), fault: Some("out of bounds".into()) };
        let failure = keep.begin(&mut record, 0).expect_err("it is out of bounds");
        assert_eq!(failure.cause.as_deref(), Some("out of bounds"));
        assert_eq!(keep.ids(), Ok(vec![]));
        std::fs::remove_dir(data.path().join("bare")).expect("an empty folder");
    }

    #[test]
    fn ids_sort_by_time() {
        assert_eq!(id_of(1_795_262_651_007), "20261121-120411-007");
        assert!(id_of(1_795_262_651_007) < id_of(1_795_262_651_100));
    }
}
