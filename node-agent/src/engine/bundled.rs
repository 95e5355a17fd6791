//! The engine modemesh brings along: llama.cpp's server in a Python environment of its own, with a tiny model.
//!
//! ```text
//! FOLDER/venv/           Python with the pinned xllamacpp wheel
//! FOLDER/bundled_engine.py
//! FOLDER/models/         the tiny model
//! FOLDER/installed       written last: what is complete, and in which version
//! FOLDER/lock            held by the one process that installs
//! ```
//! An installation that was cut short has no `installed` and is begun anew.

use nix::fcntl::{Flock, FlockArg};
use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// The pinned wheel: llama.cpp b11549.
const WHEEL: &str = "xllamacpp==2026.10.11549";
/// The build of the wheel's engine, which its `/props` does not tell.
pub const BUILD: &str = "b11549";
const SCRIPT: &[u8] = include_bytes!("../../assets/bundled_engine.py");
const TINY_MODEL: &[u8] = include_bytes!("../../assets/models/tiny-trained-1.4M-q8_0.gguf");
const TINY_MODEL_FILE: &str = "tiny-trained-1.4M-q8_0.gguf";
/// The wheel is 34 MB and unpacks to 102 MB; the environment and the model take 20 MB.
const DISK_NEEDED: u64 = 200 << 20;

/// An installed bundled engine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BundledEngine {
    folder: PathBuf,
}

/// Why the bundled engine could not be installed.
#[derive(Debug, thiserror::Error)]
pub enum InstallError {
    /// There is no Python.
    #[error("there is no `python3` on the search path")]
    NoPython,
    /// Python is too old for the wheel.
    #[error("`python3` is {found}, the bundled engine needs 3.10 or newer")]
    OldPython {
        /// Its version.
        found: String,
    },
    /// Python cannot make environments.
    #[error("`python3` lacks the module `{module}`, so it cannot make an environment")]
    NoVenv {
        /// The module.
        module: String,
    },
    /// The packages cannot be fetched.
    #[error("cannot fetch {WHEEL}: {detail}")]
    NoNetwork {
        /// What stands in the way.
        detail: &'static str,
    },
    /// There is no package for this kind of machine.
    #[error("there is no {WHEEL} for this machine ({} {})", std::env::consts::OS, std::env::consts::ARCH)]
    NoWheel,
    /// The disk is full.
    #[error("not enough space in {}: {} MiB are free, {} MiB are needed", folder.display(), free >> 20, DISK_NEEDED >> 20)]
    DiskFull {
        /// Where.
        folder: PathBuf,
        /// Bytes free.
        free: u64,
    },
    /// A file could not be written or read.
    #[error("cannot {what} {}: {source}", path.display())]
    File {
        /// What was tried.
        what: &'static str,
        /// With which file.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// A step failed for another reason.
    #[error("cannot {step}: {detail}")]
    Step {
        /// Which step.
        step: &'static str,
        /// What the program said last.
        detail: String,
    },
}

impl InstallError {
    /// What a person can do about it.
    #[must_use]
    pub fn hint(&self) -> &'static str {
        match self {
            Self::NoPython => "install it, for example: sudo apt install python3 python3-venv",
            Self::OldPython { .. } => "put a newer python3 first on the search path",
            Self::NoVenv { .. } => "install it, for example: sudo apt install python3-venv",
            Self::NoNetwork { .. } => {
                "check the network and pip's settings (pip config list), then try again"
            }
            Self::NoWheel => "configure a llama-server or an Ollama of your own instead",
            Self::DiskFull { .. } => "free some space or choose another data folder with --data",
            Self::File { .. } => "check the owner and the permissions of the data folder",
            Self::Step { .. } => "remove the engine folder and try again, or configure an engine of your own",
        }
    }
}

impl BundledEngine {
    /// The engine in `folder`, when all of it is there in this version.
    #[must_use]
    pub fn find(folder: &Path) -> Option<Self> {
        let engine = Self { folder: folder.to_owned() };
        let complete = fs::read_to_string(engine.marker()).is_ok_and(|text| text == marker_text())
            && [engine.python(), engine.script(), engine.model()].iter().all(|file| file.exists());
        complete.then_some(engine)
    }

    /// Installs the engine into `folder` unless it is there, telling each step through `progress`.
    ///
    /// Blocks for seconds to minutes: call it where blocking is allowed. May be called at once from several
    /// processes, and again after it was cut short at any point.
    ///
    /// # Errors
    /// [`InstallError`] says what is missing, [`InstallError::hint`] what to do.
    pub fn install(folder: &Path, progress: impl Fn(&str)) -> Result<Self, InstallError> {
        let engine = Self { folder: folder.to_owned() };
        make_folder(folder)?;
        let lock = lock(&folder.join("lock"), &progress)?;
        if let Some(found) = Self::find(folder) {
            return Ok(found);
        }
        let wheel_is_there = engine.has_wheel();
        if let Err(source) = fs::remove_file(engine.marker())
            && source.kind() != io::ErrorKind::NotFound
        {
            return Err(InstallError::File { what: "remove", path: engine.marker(), source });
        }
        if !wheel_is_there {
            check_space(folder)?;
            check_python()?;
            progress("making a Python environment");
            engine.make_environment(&lock)?;
            progress("fetching the engine (34 MB)");
            engine.fetch_wheel(&lock, &progress)?;
        }
        progress("checking the engine");
        let mut check = Command::new(engine.python());
        run("load the engine", check.args(["-I", "-c", "import xllamacpp"]), &lock, |_| ())
            .map_err(|error| engine.explained(error))?;
        make_folder(&folder.join("models"))?;
        write_whole(&engine.model(), TINY_MODEL)?;
        write_whole(&engine.script(), SCRIPT)?;
        write_whole(&engine.marker(), marker_text().as_bytes())?;
        progress("the engine is installed");
        Ok(engine)
    }

    /// The environment's Python.
    #[must_use]
    pub fn python(&self) -> PathBuf {
        self.folder.join("venv/bin/python")
    }

    /// The script that serves one model.
    #[must_use]
    pub fn script(&self) -> PathBuf {
        self.folder.join("bundled_engine.py")
    }

    /// The tiny model.
    #[must_use]
    pub fn model(&self) -> PathBuf {
        self.folder.join("models").join(TINY_MODEL_FILE)
    }

    fn marker(&self) -> PathBuf {
        self.folder.join("installed")
    }

    /// Whether the environment is complete and only script or model are of another version.
    fn has_wheel(&self) -> bool {
        let marker = fs::read_to_string(self.marker()).unwrap_or_default();
        marker.lines().next() == Some(WHEEL) && self.python().exists()
    }

    fn make_environment(&self, lock: &File) -> Result<(), InstallError> {
        let mut venv = Command::new("python3");
        venv.args(["-I", "-m", "venv", "--clear"]).arg(self.folder.join("venv"));
        run("make a Python environment", &mut venv, lock, |_| ()).map_err(|error| self.explained(error))
    }

    fn fetch_wheel(&self, lock: &File, progress: &impl Fn(&str)) -> Result<(), InstallError> {
        let mut pip = Command::new(self.python());
        pip.args(["-I", "-m", "pip", "install", "--no-input", "--disable-pip-version-check"]);
        pip.args(["--no-deps", "--only-binary", ":all:", "--progress-bar", "off", "--retries", "2"]);
        pip.arg(WHEEL);
        run("fetch the engine", &mut pip, lock, progress).map_err(|error| self.explained(error))
    }

    /// A failed step by what the program said of it.
    fn explained(&self, error: InstallError) -> InstallError {
        let InstallError::Step { step, detail } = error else { return error };
        match cause_in(&detail) {
            Cause::DiskFull => InstallError::DiskFull {
                folder: self.folder.clone(),
                free: free_space(&self.folder).unwrap_or(0),
            },
            Cause::NoVenv => InstallError::NoVenv { module: "ensurepip".into() },
            Cause::NoNetwork(detail) => InstallError::NoNetwork { detail },
            Cause::NoWheel => InstallError::NoWheel,
            Cause::Other => InstallError::Step { step, detail: last_line(&detail) },
        }
    }
}

/// What a complete installation of this version says: any change of wheel, script or model is another.
fn marker_text() -> String {
    let sum = |bytes: &[u8]| {
        // FNV-1a, 64 bits: tells versions apart, guards against nothing.
        bytes.iter().fold(0xcbf2_9ce4_8422_2325_u64, |hash, &byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
        })
    };
    format!("{WHEEL}\nscript {:016x}\nmodel {:016x}\n", sum(SCRIPT), sum(TINY_MODEL))
}

fn make_folder(folder: &Path) -> Result<(), InstallError> {
    fs::create_dir_all(folder).map_err(|source| file_error("create", folder, source))
}

fn file_error(what: &'static str, path: &Path, source: io::Error) -> InstallError {
    if source.kind() == io::ErrorKind::StorageFull {
        let folder = path.parent().unwrap_or(path);
        return InstallError::DiskFull { folder: folder.to_owned(), free: free_space(folder).unwrap_or(0) };
    }
    InstallError::File { what, path: path.to_owned(), source }
}

/// Held until dropped; the kernel lets go of it when its process dies.
fn lock(path: &Path, progress: &impl Fn(&str)) -> Result<Flock<File>, InstallError> {
    let open = || File::create(path).map_err(|source| file_error("create", path, source));
    match Flock::lock(open()?, FlockArg::LockExclusiveNonblock) {
        Ok(lock) => Ok(lock),
        Err((file, _)) => {
            progress("waiting for another process that installs the engine");
            Flock::lock(file, FlockArg::LockExclusive)
                .map_err(|(_, errno)| file_error("lock", path, errno.into()))
        }
    }
}

fn free_space(folder: &Path) -> Option<u64> {
    let found = nix::sys::statvfs::statvfs(folder).ok()?;
    Some(found.blocks_available().saturating_mul(found.fragment_size()))
}

fn check_space(folder: &Path) -> Result<(), InstallError> {
    match free_space(folder) {
        Some(free) if free < DISK_NEEDED => Err(InstallError::DiskFull { folder: folder.to_owned(), free }),
        Some(_) | None => Ok(()),
    }
}

fn check_python() -> Result<(), InstallError> {
    const QUESTION: &str = "import sys, importlib.util as u\n\
        print('%d.%d' % sys.version_info[:2])\n\
        print(next((m for m in ('venv', 'ensurepip') if u.find_spec(m) is None), ''))";
    let output = Command::new("python3").args(["-I", "-c", QUESTION]).stdin(Stdio::null()).output();
    let output = match output {
        Ok(output) => output,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(InstallError::NoPython),
        Err(error) => {
            return Err(InstallError::Step { step: "start `python3`", detail: error.to_string() });
        }
    };
    let text = String::from_utf8_lossy(&output.stdout);
    let mut lines = text.lines();
    let (version, missing) = (lines.next().unwrap_or_default(), lines.next().unwrap_or_default());
    let parsed = version.split_once('.').and_then(|(a, b)| Some((a.parse().ok()?, b.parse().ok()?)));
    match parsed {
        None => Err(InstallError::Step {
            step: "ask `python3` for its version",
            detail: last_line(&String::from_utf8_lossy(&output.stderr)),
        }),
        Some(number) if number < (3_u32, 10_u32) => {
            Err(InstallError::OldPython { found: version.to_owned() })
        }
        Some(_) if !missing.is_empty() => Err(InstallError::NoVenv { module: missing.to_owned() }),
        Some(_) => Ok(()),
    }
}

/// Runs a command to its end, passing what it prints to `progress`. Its words are the error's detail.
///
/// The command inherits the lock as its standard input: should this process be killed, the lock is held until
/// the command is gone too, and nobody begins anew beside it.
fn run(
    step: &'static str,
    command: &mut Command,
    lock: &File,
    progress: impl Fn(&str),
) -> Result<(), InstallError> {
    let broken = |error: io::Error| InstallError::Step { step, detail: error.to_string() };
    let lock = lock.try_clone().map_err(broken)?;
    let mut child = command
        .stdin(lock)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .env("PYTHONUNBUFFERED", "1")
        .spawn()
        .map_err(broken)?;
    let errors = child.stderr.take();
    let reader = std::thread::spawn(move || {
        let mut text = String::new();
        if let Some(pipe) = errors {
            // A mebibyte of words is more than any installer has; the rest is read and dropped.
            let mut pipe = BufReader::new(pipe);
            drop(pipe.by_ref().take(1 << 20).read_to_string(&mut text));
            drop(io::copy(&mut pipe, &mut io::sink()));
        }
        text
    });
    let mut said = String::new();
    if let Some(pipe) = child.stdout.take() {
        for line in BufReader::new(pipe).lines().map_while(Result::ok) {
            progress(line.trim());
            if said.len() + line.len() < 1 << 20 {
                said.push_str(&line);
                said.push('\n');
            }
        }
    }
    let status = child.wait().map_err(broken)?;
    let errors = reader.join().unwrap_or_default();
    if status.success() {
        return Ok(());
    }
    said.push_str(&errors);
    Err(InstallError::Step { step, detail: said })
}

#[derive(Debug, PartialEq, Eq)]
enum Cause {
    DiskFull,
    NoVenv,
    NoNetwork(&'static str),
    NoWheel,
    Other,
}

/// What pip says when it cannot reach a package, and what it means. In this order: pip tells the reason inside
/// of a more general one.
const NETWORK_WORDS: [(&str, &str); 9] = [
    ("ProxyError", "the proxy does not let it through"),
    ("SSLError", "the package index shows a certificate that is not trusted here"),
    ("Temporary failure in name resolution", "the package index's name cannot be resolved"),
    ("Network is unreachable", "the network is unreachable"),
    ("ConnectTimeoutError", "the package index does not answer"),
    ("ReadTimeoutError", "the package index answers too slowly"),
    ("NewConnectionError", "the package index cannot be reached"),
    ("Connection reset", "the connection to the package index breaks off"),
    ("HTTP error", "the package index refuses"),
];

/// What went wrong by the words of venv and pip.
fn cause_in(words: &str) -> Cause {
    let says = |parts: &[&str]| parts.iter().any(|part| words.contains(part));
    if says(&["No space left on device", "Errno 28", "Disk quota exceeded"]) {
        return Cause::DiskFull;
    }
    if says(&["ensurepip is not", "No module named ensurepip", "python3-venv"]) {
        return Cause::NoVenv;
    }
    // Before "no matching": pip says that too when it could not ask anybody.
    if let Some((_, meaning)) = NETWORK_WORDS.iter().find(|(word, _)| words.contains(word)) {
        return Cause::NoNetwork(meaning);
    }
    if says(&["No matching distribution", "Could not find a version"]) {
        return Cause::NoWheel;
    }
    Cause::Other
}

fn last_line(words: &str) -> String {
    let line = words.lines().rfind(|line| !line.trim().is_empty()).unwrap_or("it said nothing");
    line.trim().chars().filter(|c| !c.is_control()).take(300).collect()
}

/// Writes a file so that it is there whole or not at all, even after a power cut.
fn write_whole(path: &Path, bytes: &[u8]) -> Result<(), InstallError> {
    let partial = path.with_extension("partial");
    let written = File::create(&partial).and_then(|mut file| {
        file.write_all(bytes)?;
        file.sync_all()
    });
    written.map_err(|source| file_error("write", &partial, source))?;
    fs::rename(&partial, path).map_err(|source| file_error("write", path, source))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_build_is_the_wheel_s() {
        assert!(WHEEL.ends_with(BUILD.trim_start_matches('b')));
    }

    #[test]
    fn words_of_pip_are_told_apart() {
        for (words, cause) in [
            ("OSError: [Errno 28] No space left on device", Cause::DiskFull),
            ("The virtual environment was not created because ensurepip is not\navailable", Cause::NoVenv),
            (
                "WARNING: Retrying after NewConnectionError\nERROR: No matching distribution found",
                Cause::NoNetwork("the package index cannot be reached"),
            ),
            ("ERROR: No matching distribution found for x", Cause::NoWheel),
            ("ERROR: something else", Cause::Other),
        ] {
            assert_eq!(cause_in(words), cause, "{words}");
        }
    }

    #[test]
    fn a_folder_without_the_marker_or_with_an_old_one_is_not_installed() {
        let folder = tempfile::tempdir().expect("a folder");
        assert_eq!(BundledEngine::find(folder.path()), None);
        for file in ["venv/bin/python", "bundled_engine.py", "models/tiny-trained-1.4M-q8_0.gguf"] {
            let file = folder.path().join(file);
            fs::create_dir_all(file.parent().expect("inside")).expect("a folder");
            fs::write(file, "").expect("a file");
        }
        assert_eq!(BundledEngine::find(folder.path()), None);
        fs::write(folder.path().join("installed"), "xllamacpp==2025.1.1").expect("a file");
        assert_eq!(BundledEngine::find(folder.path()), None);
        fs::write(folder.path().join("installed"), marker_text()).expect("a file");
        assert!(BundledEngine::find(folder.path()).is_some());
    }

    #[test]
    fn a_folder_that_cannot_be_made_is_named() {
        let error = BundledEngine::install(Path::new("/proc/nowhere"), |_| ()).expect_err("not writable");
        assert!(error.to_string().contains("/proc/nowhere"), "{error}");
        assert!(!error.hint().is_empty());
    }
}
