//! One engine process of our own: started, told apart, heard, stopped.
//!
//! It cannot outlive the agent, not even one killed with -9: the bundled engine ends when its standard input
//! closes, and any other program is started through `setpriv --pdeathsig` where that exists. When to start
//! again is the supervisor's business.

use super::bundled::BundledEngine;
use super::child_log::Reported;
use super::guard::{Enclosure, dies_first, enclose, kills_on_this_machine};
use super::last_words::{LINE_LIMIT, LastWords, tells_of_the_machine};
use super::{Ask, AskError, Program, Sizing, flags};
use crate::engine::llama_server::LlamaServer;
use mesh_core::id::ModelId;
use nix::errno::Errno;
use nix::sys::signal::{Signal, killpg};
use nix::sys::wait::{Id, WaitPidFlag, waitid};
use nix::unistd::Pid;
use rand::RngCore;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::sync::{Arc, Mutex, OnceLock, PoisonError, mpsc};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::process::{ChildStdin, Command};
use tokio::sync::{oneshot, watch};

/// How the reason begins when memory ran out.
pub const OUT_OF_MEMORY: &str = "out of memory";

/// How long a child may take to end by itself after SIGTERM.
pub const STOP_WITHIN: Duration = Duration::from_secs(10);

/// What to start.
#[derive(Debug, Clone)]
pub struct ChildSpec {
    /// The program.
    pub program: Program,
    /// Where the bundled engine lies.
    pub engine_folder: PathBuf,
    /// The GGUF file.
    pub model: PathBuf,
    /// The model's name towards clients.
    pub alias: ModelId,
    /// With how much context, how many slots and which caches.
    pub sizing: Sizing,
    /// A vision projector's file.
    pub projector: Option<PathBuf>,
    /// Whether it makes embeddings.
    pub embedding: bool,
    /// Variables that leave the engine only the card that was chosen.
    pub cards: Vec<(&'static str, String)>,
}

/// Why a child could not be started at all.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The bundled engine is wanted and not there.
    #[error("the bundled engine is not installed in {}; `mesh-agent install-engine` installs it", folder.display())]
    NotInstalled {
        /// Where it was looked for.
        folder: PathBuf,
    },
    /// The model file cannot be opened.
    #[error("cannot open the model file {}: {source}", path.display())]
    Model {
        /// The file.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// The program could not be started.
    #[error("cannot start {program}: {source}")]
    Spawn {
        /// The program.
        program: String,
        /// The cause.
        source: io::Error,
    },
}

/// A running engine process. Dropping it kills the process.
pub struct Child {
    process: tokio::process::Child,
    group: Option<Pid>,
    /// Held open: its end tells the bundled engine that the agent is gone.
    _stdin: Option<ChildStdin>,
    words: Arc<LastWords>,
    said: Arc<Mutex<Reported>>,
    version: Option<String>,
    listening: watch::Receiver<Option<String>>,
    over: watch::Receiver<bool>,
    enclosure: Option<Enclosure>,
    /// How often the kernel had killed for memory when this process began.
    kills_before: u64,
    key: String,
    embedding: bool,
}

impl Child {
    /// Starts the process of `spec`.
    ///
    /// # Errors
    /// [`StartError`] when there is nothing to start or it does not start.
    pub async fn start(spec: &ChildSpec) -> Result<Self, StartError> {
        std::fs::File::open(&spec.model)
            .map_err(|source| StartError::Model { path: spec.model.clone(), source })?;
        let key = random_key();
        let (mut command, version) = command(spec, &key).await?;
        command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            // Its own group: Ctrl-C at a terminal stops the agent, and the agent stops the child.
            .process_group(0)
            .kill_on_drop(true);
        let program = command.as_std().get_program().to_string_lossy().into_owned();
        let kills_before = kills_on_this_machine();
        let mut process = spawn(command).await.map_err(|source| StartError::Spawn { program, source })?;
        let (heard, listening) = watch::channel(None);
        let ear = Ear { words: Arc::default(), said: Arc::default(), listening: Arc::new(heard) };
        if let Some(stdout) = process.stdout.take() {
            tokio::spawn(listen(stdout, ear.clone()));
        }
        if let Some(stderr) = process.stderr.take() {
            tokio::spawn(listen(stderr, ear.clone()));
        }
        let group = process.id().and_then(|id| i32::try_from(id).ok()).map(Pid::from_raw);
        let enclosure = process.id().and_then(|pid| {
            dies_first(pid);
            enclose(&enclosure_name(&spec.alias), pid)
        });
        let Ear { words, said, .. } = ear;
        Ok(Self {
            group,
            _stdin: process.stdin.take(),
            process,
            words,
            said,
            version,
            listening,
            over: watch_the_end(group),
            enclosure,
            kills_before,
            key,
            embedding: spec.embedding,
        })
    }

    /// Resolves with the adapter once the child says where it listens; never, when it never says.
    ///
    /// # Errors
    /// [`AskError::BadUrl`] when what it says is no address.
    pub fn listening(&self) -> impl Future<Output = Result<LlamaServer, AskError>> + Send + 'static {
        let (mut listening, key, embedding) = (self.listening.clone(), self.key.clone(), self.embedding);
        async move {
            let url = listening.wait_for(Option::is_some).await.ok().and_then(|url| url.clone());
            let Some(url) = url else {
                // Both its outputs closed: it ends, which `ended` tells.
                return std::future::pending().await;
            };
            Ok(LlamaServer::new(Ask::new(&url, Some(key))?, Some(embedding)))
        }
    }

    /// What it has said so far of the memory it takes; complete once it serves.
    #[must_use]
    pub fn said(&self) -> Reported {
        let mut said = self.said.lock().unwrap_or_else(PoisonError::into_inner).clone();
        // What its program's `--version` told.
        said.version = said.version.or_else(|| self.version.clone());
        said
    }

    /// Its process, while it runs.
    #[must_use]
    pub fn pid(&self) -> Option<u32> {
        self.process.id()
    }

    /// From now on the child serves requests, and its words may be about them: only those that tell of a
    /// broken machine are kept.
    pub fn serves(&self) {
        self.words.serving();
    }

    /// Resolves when the process ended by itself, with the reason for a person.
    pub async fn ended(&mut self) -> String {
        self.over().await;
        // What it started goes with it: a script's engine must not stay behind with all its memory. Until it is
        // waited for, its number is nobody else's.
        self.signal(Signal::SIGKILL);
        let status = self.process.wait().await;
        // What it said last may still be in the pipe.
        let closed = async { while self.listening.changed().await.is_ok() {} };
        drop(tokio::time::timeout(Duration::from_millis(500), closed).await);
        let how = match &status {
            Ok(status) => how(*status),
            Err(error) => format!("cannot be waited for: {error}"),
        };
        let words = self.words.reason();
        let why = if words.is_empty() { how } else { format!("{how}: {words}") };
        if self.ran_out_of_memory(status.ok()) {
            return format!(
                "{OUT_OF_MEMORY}: {why}; load it with less context, or unload another model first"
            );
        }
        why
    }

    /// By its own words, or because the kernel killed it while it killed for memory.
    fn ran_out_of_memory(&self, status: Option<ExitStatus>) -> bool {
        use std::os::unix::process::ExitStatusExt as _;
        let killed = status.and_then(|status| status.signal()) == Some(Signal::SIGKILL as i32);
        let in_its_group = self.enclosure.as_ref().map_or(0, Enclosure::kills) > 0;
        self.said().out_of_memory || (killed && (in_its_group || kills_on_this_machine() > self.kills_before))
    }

    /// Ends the process and all it started: SIGTERM, after [`STOP_WITHIN`] SIGKILL. Returns when it is gone.
    pub async fn stop(mut self) {
        self.signal(Signal::SIGTERM);
        if tokio::time::timeout(STOP_WITHIN, self.over()).await.is_err() {
            tracing::warn!(
                pid = self.group.map_or(0, Pid::as_raw),
                "engine ignored SIGTERM for {} s and is killed",
                STOP_WITHIN.as_secs()
            );
            self.signal(Signal::SIGKILL);
            self.over().await;
        }
        self.signal(Signal::SIGKILL);
        drop(self.process.wait().await);
    }

    /// Resolves when the process has ended; it is not waited for yet.
    async fn over(&mut self) {
        // An error means that whoever watched is gone, and with it any reason to go on waiting here.
        drop(self.over.wait_for(|&over| over).await);
    }

    fn signal(&self, signal: Signal) {
        if let Some(group) = self.group.filter(|_| self.process.id().is_some()) {
            // It may be gone already, which is what is wanted.
            let _gone = killpg(group, signal);
        }
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        // The group too, for programs that are scripts around the engine.
        self.signal(Signal::SIGKILL);
    }
}

/// Becomes true when process `pid` has ended. It stays to be waited for, so that its number and that of its group
/// are not given to another meanwhile.
fn watch_the_end(pid: Option<Pid>) -> watch::Receiver<bool> {
    let (tell, over) = watch::channel(pid.is_none());
    if let Some(pid) = pid {
        tokio::task::spawn_blocking(move || {
            let flags = WaitPidFlag::WEXITED | WaitPidFlag::WNOWAIT;
            while waitid(Id::Pid(pid), flags) == Err(Errno::EINTR) {}
            tell.send_replace(true);
        });
    }
    over
}

/// A cgroup's name: letters, digits, `-`, `_` and `.` of the model's name.
fn enclosure_name(alias: &ModelId) -> String {
    let clean = |c: char| if c.is_ascii_alphanumeric() || matches!(c, '-' | '_') { c } else { '.' };
    alias.as_str().chars().map(clean).take(100).collect()
}

/// The command line and environment of `spec`, and the program's build where it tells.
async fn command(spec: &ChildSpec, key: &str) -> Result<(Command, Option<String>), StartError> {
    let (mut command, version) = match &spec.program {
        Program::Bundled => (bundled_command(spec)?, None),
        Program::Path(path) => server_command(spec, path).await,
    };
    for (name, _) in std::env::vars_os() {
        let text = name.to_string_lossy();
        // LLAMA_ARG_… would silently change what was decided here; our own settings are not its business.
        if text.starts_with("LLAMA_") || text.starts_with("MODEMESH_") {
            command.env_remove(&name);
        }
    }
    command.env("MODEMESH_ENGINE_KEY", key).env("LLAMA_API_KEY", key);
    Ok((command, version))
}

fn bundled_command(spec: &ChildSpec) -> Result<Command, StartError> {
    let engine = BundledEngine::find(&spec.engine_folder)
        .ok_or_else(|| StartError::NotInstalled { folder: spec.engine_folder.clone() })?;
    let sizing = &spec.sizing;
    let mut command = Command::new(engine.python());
    // -I: neither the user's site packages nor the environment change what is loaded.
    command.arg("-I").arg(engine.script()).arg(&spec.model);
    command.args(["--alias", spec.alias.as_str(), "--port", "0"]);
    command.args(["--context", &sizing.context.to_string(), "--slots", &sizing.slots.to_string()]);
    command.args(["--cache-type", sizing.cache.word(), "--ubatch", &sizing.ubatch.to_string()]);
    command.args(["--cache-ram", &(sizing.prompt_cache.0 >> 20).to_string()]);
    command.args(["--checkpoints", &sizing.checkpoints.to_string()]);
    if let Some(layers) = sizing.gpu_layers {
        command.args(["--gpu-layers", &layers.to_string()]);
    }
    if let Some(projector) = &spec.projector {
        command.arg("--mmproj").arg(projector);
    }
    if spec.embedding {
        command.arg("--embedding");
    }
    Ok(command)
}

async fn server_command(spec: &ChildSpec, path: &Path) -> (Command, Option<String>) {
    let flags = flags::of_program(&on_the_search_path(path)).await;
    let mut sizing = spec.sizing.clone();
    if spec.embedding {
        // An input longer than the physical batch is refused.
        sizing.ubatch = sizing.ubatch.max(sizing.context);
    }
    let mut command = tied_to_the_agent(path);
    command.arg("-m").arg(&spec.model);
    command.args(["--alias", spec.alias.as_str(), "--host", "127.0.0.1", "--port", "0"]);
    if flags.is_known() {
        let arguments = flags.arguments(&sizing);
        if !arguments.left_out.is_empty() {
            tracing::warn!(
                program = %path.display(), model = %spec.alias,
                "this build has no flags for: {}", arguments.left_out.join(", ")
            );
        }
        command.args(arguments.words).args(flags.house_rules());
    } else {
        // Words that every build of the last years has.
        command.args(["-c", &sizing.total_context().to_string(), "-np", &sizing.slots.to_string()]);
        command.args(["-ub", &sizing.ubatch.to_string(), "--metrics"]);
    }
    if let Some(projector) = &spec.projector {
        command.arg("--mmproj").arg(projector);
        // It is counted on the processor's side unless the whole model is on the card.
        if sizing.gpu_layers.is_some() && flags.has("--no-mmproj-offload") {
            command.arg("--no-mmproj-offload");
        }
    }
    if !spec.cards.is_empty() {
        command.envs(spec.cards.iter().map(|(name, value)| (name, value)));
    }
    if spec.embedding {
        command.args(["--embedding", "-b", &sizing.ubatch.to_string()]);
    }
    (command, flags.version)
}

/// The file behind a bare name, so that a changed program is noticed.
fn on_the_search_path(program: &Path) -> PathBuf {
    if program.components().count() > 1 {
        return program.to_owned();
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&path).map(|folder| folder.join(program)).find(|file| file.is_file());
    found.unwrap_or_else(|| program.to_owned())
}

/// `program`, started so that the kernel ends it with the agent, where this system has `setpriv`.
fn tied_to_the_agent(program: &Path) -> Command {
    static SETPRIV: OnceLock<Option<PathBuf>> = OnceLock::new();
    let setpriv = SETPRIV.get_or_init(|| {
        let path = std::env::var_os("PATH").unwrap_or_default();
        let found = std::env::split_paths(&path).map(|dir| dir.join("setpriv")).find(|file| file.is_file());
        if found.is_none() || !cfg!(target_os = "linux") {
            tracing::warn!("no `setpriv` here: a llama-server outlives an agent that is killed with -9");
            return None;
        }
        found
    });
    match setpriv {
        Some(setpriv) => {
            let mut command = Command::new(setpriv);
            command.args(["--pdeathsig", "TERM", "--"]).arg(program);
            command
        }
        None => Command::new(program),
    }
}

struct Order {
    command: Command,
    runtime: tokio::runtime::Handle,
    reply: oneshot::Sender<io::Result<tokio::process::Child>>,
}

/// Starts `command` from one thread that lives as long as the agent: the kernel sends the parent-death signal
/// when the *thread* that started a child ends, and tokio's threads come and go.
async fn spawn(command: Command) -> io::Result<tokio::process::Child> {
    static SPAWNER: OnceLock<mpsc::Sender<Order>> = OnceLock::new();
    let spawner = SPAWNER.get_or_init(|| {
        let (orders, inbox) = mpsc::channel::<Order>();
        let thread = std::thread::Builder::new().name("engine-spawner".into());
        // Without the thread the channel closes, and every start says so.
        drop(thread.spawn(move || {
            for mut order in inbox {
                let _inside = order.runtime.enter();
                drop(order.reply.send(order.command.spawn()));
            }
        }));
        orders
    });
    let (reply, answer) = oneshot::channel();
    let gone = || io::Error::other("the thread that starts engines is gone");
    let order = Order { command, runtime: tokio::runtime::Handle::current(), reply };
    spawner.send(order).map_err(|_| gone())?;
    answer.await.map_err(|_| gone())?
}

/// 256 random bits as text.
fn random_key() -> String {
    let mut bytes = [0_u8; 32];
    rand::rng().fill_bytes(&mut bytes);
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn how(status: ExitStatus) -> String {
    use std::os::unix::process::ExitStatusExt as _;
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("exited with code {code}"),
        (None, Some(signal)) => match Signal::try_from(signal) {
            Ok(name) => format!("was killed by {name}"),
            Err(_) => format!("was killed by signal {signal}"),
        },
        (None, None) => "ended".to_owned(),
    }
}

/// Who hears what a child says.
#[derive(Clone)]
struct Ear {
    words: Arc<LastWords>,
    said: Arc<Mutex<Reported>>,
    listening: Arc<watch::Sender<Option<String>>>,
}

impl Ear {
    fn hear(&self, line: &[u8]) {
        let line = String::from_utf8_lossy(line);
        // A request may quote anything; what a serving engine says of the machine is sorted out by its last words.
        if !self.words.serves() || tells_of_the_machine(line.trim()) {
            self.said.lock().unwrap_or_else(PoisonError::into_inner).hear(&line);
        }
        if let Some(url) = listening_at(&line)
            && self.listening.borrow().is_none()
        {
            self.listening.send_replace(Some(url));
            return;
        }
        self.words.hear(&line);
    }
}

/// Reads lines of any length in bounded memory until the pipe closes.
async fn listen(mut pipe: impl AsyncRead + Unpin, ear: Ear) {
    let mut chunk = [0_u8; 4096];
    let mut line = Vec::with_capacity(512);
    loop {
        let read = match pipe.read(&mut chunk).await {
            Ok(0) | Err(_) => break,
            Ok(read) => &chunk[..read],
        };
        for &byte in read {
            if byte == b'\n' {
                ear.hear(&line);
                line.clear();
            } else if line.len() < 4 * LINE_LIMIT {
                line.push(byte);
            }
        }
    }
    ear.hear(&line);
}

/// The loopback address in `LISTENING http://127.0.0.1:PORT` or llama-server's `server is listening on …`.
fn listening_at(line: &str) -> Option<String> {
    const HOST: &str = "http://127.0.0.1:";
    let start = line.find(HOST)?;
    if !line[..start].to_ascii_lowercase().contains("listening") {
        return None;
    }
    let port: String = line[start + HOST.len()..].chars().take_while(char::is_ascii_digit).collect();
    let port: u16 = port.parse().ok().filter(|&port| port != 0)?;
    Some(format!("{HOST}{port}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_ways_of_saying_where_are_understood_and_others_are_not() {
        let at = Some("http://127.0.0.1:4321".to_owned());
        assert_eq!(listening_at("LISTENING http://127.0.0.1:4321"), at);
        assert_eq!(listening_at("main: server is listening on http://127.0.0.1:4321 - starting"), at);
        assert_eq!(listening_at("LISTENING http://10.0.0.1:4321"), None);
        assert_eq!(listening_at("LISTENING http://127.0.0.1:0"), None);
        assert_eq!(listening_at("see http://127.0.0.1:4321"), None);
    }

    #[test]
    fn keys_are_long_and_never_the_same() {
        assert_eq!(random_key().len(), 64);
        assert_ne!(random_key(), random_key());
    }

    #[test]
    fn a_request_that_quotes_the_engine_s_words_changes_nothing() {
        let ear = Ear {
            words: Arc::default(),
            said: Arc::default(),
            listening: Arc::new(watch::Sender::new(None)),
        };
        ear.hear(b"0.00.014.831 I llama_kv_cache:        CPU KV buffer size =     0.75 MiB");
        ear.words.serving();
        let before = ear.said.lock().expect("no panic holds it").clone();
        ear.hear(b"llama_kv_cache: CPU KV buffer size = 9000.00 MiB");
        ear.hear(b"why does it say out of memory?");
        assert_eq!(*ear.said.lock().expect("no panic holds it"), before);
        ear.hear(
            b"0.09.014.831 E ggml_backend_cuda_buffer_type_alloc_buffer: cudaMalloc failed: out of memory",
        );
        assert!(ear.said.lock().expect("no panic holds it").out_of_memory);
    }

    #[tokio::test]
    async fn an_endless_line_is_read_in_bounded_memory() {
        let listening = Arc::new(watch::Sender::new(None));
        let ear = Ear { words: Arc::default(), said: Arc::default(), listening };
        listen(tokio::io::repeat(b'x').take(8 << 20), ear.clone()).await;
        assert_eq!(ear.words.reason().len(), LINE_LIMIT);
    }
}
