//! A real D-Bus daemon of the test's own, and on it a logind that announces sleep when the test says so. It has
//! what the agent uses: `Inhibit`, whose file's end releases the inhibitor, and the signal `PrepareForSleep`, as
//! systemd's org.freedesktop.login1(5) describes them.

use crate::soon;
use std::io::{BufRead as _, BufReader, Read as _};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;
use tempfile::TempDir;
use tokio::sync::mpsc;
use zbus::object_server::SignalEmitter;
use zbus::zvariant::OwnedFd;

/// One process may own every name, everybody may talk to everybody.
const CONFIGURATION: &str =
    "<!DOCTYPE busconfig PUBLIC \"-//freedesktop//DTD D-Bus Bus Configuration 1.0//EN\"
 \"http://www.freedesktop.org/standards/dbus/1.0/busconfig.dtd\">
<busconfig>
  <type>session</type>
  <listen>unix:dir=FOLDER</listen>
  <auth>EXTERNAL</auth>
  <policy context=\"default\">
    <allow send_destination=\"*\" eavesdrop=\"true\"/>
    <allow eavesdrop=\"true\"/>
    <allow own=\"*\"/>
  </policy>
</busconfig>
";

/// The daemon. It ends with its owner.
pub(crate) struct Bus {
    daemon: Child,
    pub(crate) address: String,
    _folder: TempDir,
}

impl Bus {
    /// Starts one; `None`, said aloud, where the program is not installed.
    pub(crate) fn start() -> Option<Self> {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let file = folder.path().join("bus.conf");
        let text = CONFIGURATION.replace("FOLDER", &folder.path().display().to_string());
        std::fs::write(&file, text).expect("written");
        let mut daemon = match spawn(&file) {
            Ok(daemon) => daemon,
            Err(error) => {
                skip(&format!("dbus-daemon: {error}. hint: apt-get install dbus-daemon"));
                return None;
            }
        };
        let stdout = daemon.stdout.take().expect("it is piped");
        let mut address = String::new();
        BufReader::new(stdout).read_line(&mut address).expect("the daemon tells its address");
        assert!(address.starts_with("unix:"), "the daemon did not start: {address:?}");
        Some(Self { daemon, address: address.trim().to_owned(), _folder: folder })
    }

    /// Dies at once with all its connections.
    pub(crate) fn die(&mut self) {
        self.daemon.kill().expect("it runs");
        self.daemon.wait().expect("it is ours");
    }
}

impl Drop for Bus {
    fn drop(&mut self) {
        drop(self.daemon.kill());
        drop(self.daemon.wait());
    }
}

fn spawn(configuration: &Path) -> std::io::Result<Child> {
    let mut command = Command::new("dbus-daemon");
    command.arg(format!("--config-file={}", configuration.display())).args(["--nofork", "--print-address"]);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn()
}

/// Fails where `CI=true`, else says loudly that the test was skipped.
#[expect(clippy::print_stderr, reason = "a test that skips must say so")]
fn skip(missing: &str) {
    assert!(std::env::var("CI").as_deref() != Ok("true"), "missing: {missing}");
    eprintln!("SKIPPED: {missing}");
}

/// An inhibitor as logind sees it.
#[derive(Debug)]
pub(crate) struct Inhibited {
    pub(crate) what: String,
    pub(crate) who: String,
    pub(crate) mode: String,
    released: mpsc::Receiver<()>,
}

impl Inhibited {
    /// Completes when its holder has let go.
    pub(crate) async fn released(&mut self) {
        soon("the release of an inhibitor", self.released.recv()).await;
    }

    pub(crate) fn is_held(&mut self) -> bool {
        self.released.try_recv() == Err(mpsc::error::TryRecvError::Empty)
    }
}

struct Manager {
    taken: mpsc::Sender<Inhibited>,
}

#[zbus::interface(name = "org.freedesktop.login1.Manager")]
impl Manager {
    async fn inhibit(
        &self,
        what: String,
        who: String,
        why: String,
        mode: String,
    ) -> zbus::fdo::Result<OwnedFd> {
        assert!(!why.is_empty());
        let (mut reader, writer) =
            std::io::pipe().map_err(|error| zbus::fdo::Error::IOError(error.to_string()))?;
        let (gone, released) = mpsc::channel(1);
        std::thread::spawn(move || {
            // Nothing is ever written: this waits for the end.
            drop(reader.read_to_end(&mut Vec::new()));
            gone.blocking_send(()).ok();
        });
        drop(self.taken.send(Inhibited { what, who, mode, released }).await);
        Ok(OwnedFd::from(std::os::fd::OwnedFd::from(writer)))
    }

    #[zbus(signal)]
    async fn prepare_for_sleep(emitter: &SignalEmitter<'_>, start: bool) -> zbus::Result<()>;
}

/// logind as the test plays it.
pub(crate) struct ScriptedLogind {
    connection: zbus::Connection,
    taken: mpsc::Receiver<Inhibited>,
}

const PATH: &str = "/org/freedesktop/login1";

impl ScriptedLogind {
    pub(crate) async fn start(bus: &Bus) -> Self {
        let (sender, taken) = mpsc::channel(8);
        let builder = zbus::connection::Builder::address(bus.address.as_str()).expect("an address");
        let builder = builder.name("org.freedesktop.login1").expect("a name");
        let builder = builder.serve_at(PATH, Manager { taken: sender }).expect("a path");
        let connection = soon("the bus lets logind in", builder.build()).await.expect("it does");
        Self { connection, taken }
    }

    pub(crate) async fn inhibited(&mut self) -> Inhibited {
        soon("an inhibitor is taken", self.taken.recv()).await.expect("logind runs")
    }

    pub(crate) async fn none_taken_for(&mut self, time: Duration) -> bool {
        tokio::time::timeout(time, self.taken.recv()).await.is_err()
    }

    pub(crate) async fn announce(&self, asleep: bool) {
        let emitter = SignalEmitter::new(&self.connection, PATH).expect("a path");
        Manager::prepare_for_sleep(&emitter, asleep).await.expect("the bus carries it");
    }
}
