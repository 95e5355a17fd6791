//! Which words a build of llama-server understands. Its flags are renamed from month to month, so the program is
//! asked: `--help` once for each version of the file.
//!
//! Each wish has its spellings, the newest first; the first one that the help names is used, and a wish that no
//! spelling fits is left out, which the caller is told.

use super::sizing::Sizing;
use mesh_core::memory::CacheType;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::{Duration, SystemTime};
use tokio::io::AsyncReadExt as _;
use tokio::process::Command;

/// How long a program may take to print its help; a large binary comes from a slow disk.
const HELP_WITHIN: Duration = Duration::from_secs(20);
/// The longest help: llama-server's has some 60 KB.
const HELP_LIMIT: u64 = 1 << 20;
/// Programs whose help is remembered.
const REMEMBERED: usize = 32;

/// The flags that a program's help names.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Flags {
    /// Every word of the help that begins with a dash, with the rest of its line.
    named: BTreeMap<String, String>,
    /// The build, where it tells: `b11549`.
    pub version: Option<String>,
}

/// What a program is started with, and what it does not understand.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Arguments {
    /// The words of the command line.
    pub words: Vec<String>,
    /// Wishes that this build has no flag for.
    pub left_out: Vec<&'static str>,
}

impl Flags {
    /// From the text of `--help`.
    #[must_use]
    pub fn of_help(help: &str) -> Self {
        let mut named = BTreeMap::new();
        for line in help.lines() {
            let mut rest = line.trim_start();
            // `-c,    --ctx-size N   size of the prompt context`
            while rest.starts_with('-') {
                let end = rest.find([',', ' ', '=']).unwrap_or(rest.len());
                let (flag, after) = rest.split_at(end);
                named.entry(flag.to_owned()).or_insert_with(|| line.trim().to_owned());
                rest = after.trim_start_matches([',', ' ']);
            }
        }
        Self { named, version: None }
    }

    /// Whether the help names `flag`.
    #[must_use]
    pub fn has(&self, flag: &str) -> bool {
        self.named.contains_key(flag)
    }

    /// Whether the help was understood at all: every build has `--model`.
    #[must_use]
    pub fn is_known(&self) -> bool {
        self.has("--model") && self.has("--ctx-size")
    }

    /// The first spelling that this build has.
    fn first<'a>(&self, spellings: &[&'a str]) -> Option<&'a str> {
        spellings.iter().find(|flag| self.has(flag)).copied()
    }

    /// The words for `sizing`.
    #[must_use]
    pub fn arguments(&self, sizing: &Sizing) -> Arguments {
        let mut arguments = Arguments::default();
        let mut say =
            |wish: &'static str, spellings: &[&str], value: Option<String>| match self.first(spellings) {
                Some(flag) => {
                    arguments.words.push(flag.to_owned());
                    arguments.words.extend(value);
                }
                None => arguments.left_out.push(wish),
            };
        let some = |value: &dyn std::fmt::Display| Some(value.to_string());
        say("context", &["--ctx-size", "-c"], some(&sizing.total_context()));
        say("slots", &["--parallel", "-np"], some(&sizing.slots));
        // A request may use its own share of the cache, never a neighbour's.
        say("a cache for each slot", &["--no-kv-unified", "-no-kvu"], None);
        say("batch", &["--batch-size", "-b"], some(&sizing.ubatch.max(2048)));
        say("physical batch", &["--ubatch-size", "-ub"], some(&sizing.ubatch));
        let layers = sizing.gpu_layers.map_or_else(|| "999".to_owned(), |count| count.to_string());
        say("layers on the GPU", &["--n-gpu-layers", "--gpu-layers", "-ngl"], Some(layers));
        if sizing.gpu_layers == Some(0) && self.has("--device") {
            // Without layers a graphics processor would still be used for long prompts, and its memory taken.
            say("no graphics processor", &["--device"], Some("none".to_owned()));
        }
        if let Some(count) = sizing.cpu_moe {
            say("experts in RAM", &["--n-cpu-moe", "-ncmoe"], some(&count));
        }
        if sizing.cache != CacheType::F16 {
            say("type of the keys", &["--cache-type-k", "-ctk"], some(&sizing.cache.word()));
            say("type of the values", &["--cache-type-v", "-ctv"], some(&sizing.cache.word()));
        }
        say("saved prompts", &["--cache-ram", "-cram"], some(&(sizing.prompt_cache.0 >> 20)));
        let states = ["--ctx-checkpoints", "--swa-checkpoints"];
        say("saved states", &states, some(&sizing.checkpoints));
        // What fits was decided before: the engine shall not shrink it.
        say("no fitting", &["--fit", "-fit"], Some("off".to_owned()));
        if sizing.direct_io {
            match self.first(&["--load-mode"]) {
                Some(flag) => arguments.words.extend([flag.to_owned(), "dio".to_owned()]),
                // Older builds read the file into memory of their own without mapping it.
                None if self.has("--no-mmap") => arguments.words.push("--no-mmap".to_owned()),
                None => arguments.left_out.push("reading past the page cache"),
            }
        }
        arguments
    }

    /// The words that every engine of ours is started with.
    #[must_use]
    pub fn house_rules(&self) -> Vec<String> {
        let mut words = Vec::new();
        for spellings in [&["--metrics"][..], &["--no-ui", "--no-webui"], &["--offline"], &["--no-slots"]] {
            words.extend(self.first(spellings).map(str::to_owned));
        }
        // Level 4 is where buffers are said; what is said later about requests is never kept.
        if let Some(flag) = self.first(&["--log-verbosity", "--verbosity", "-lv"]) {
            words.extend([flag.to_owned(), "4".to_owned()]);
        }
        words
    }
}

type Known = Mutex<BTreeMap<PathBuf, (Option<SystemTime>, Flags)>>;

/// The flags of `program`, asked once for each version of its file. Empty when it does not tell.
pub async fn of_program(program: &Path) -> Flags {
    static KNOWN: OnceLock<Known> = OnceLock::new();
    let known = KNOWN.get_or_init(Mutex::default);
    let changed = std::fs::metadata(program).and_then(|file| file.modified()).ok();
    let lock = || known.lock().unwrap_or_else(PoisonError::into_inner);
    let remembered = lock().get(program).filter(|(when, _)| *when == changed && when.is_some()).cloned();
    if let Some((_, flags)) = remembered {
        return flags;
    }
    let help = ask(program, "--help").await.unwrap_or_default();
    let version = ask(program, "--version").await.unwrap_or_default();
    let flags = Flags { version: version_in(&version), ..Flags::of_help(&help) };
    if !flags.is_known() {
        // A slow disk or a machine that starts: the next load asks again.
        tracing::warn!(program = %program.display(), "its --help is not understood: sizes of caches and layers stay its own");
        return flags;
    }
    let mut memory = lock();
    if memory.len() >= REMEMBERED {
        memory.clear();
    }
    memory.insert(program.to_owned(), (changed, flags.clone()));
    flags
}

/// What `program` prints when asked with `flag`: help goes to stdout, versions to stderr.
async fn ask(program: &Path, flag: &str) -> Option<String> {
    let mut child = Command::new(program)
        .arg(flag)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .ok()?;
    let (mut out, mut err) = (child.stdout.take()?.take(HELP_LIMIT), child.stderr.take()?.take(HELP_LIMIT));
    let (mut text, mut more) = (Vec::new(), Vec::new());
    let reading = async {
        let (read, read_more) = tokio::join!(out.read_to_end(&mut text), err.read_to_end(&mut more));
        read.and(read_more).ok()
    };
    tokio::time::timeout(HELP_WITHIN, reading).await.ok()??;
    text.push(b'\n');
    text.extend_from_slice(&more);
    Some(String::from_utf8_lossy(&text).into_owned())
}

/// `version: 11549 (0c1e570)` as `b11549`.
fn version_in(text: &str) -> Option<String> {
    let after = text.lines().find_map(|line| line.trim().strip_prefix("version:"))?;
    let number: String = after.trim().chars().take_while(char::is_ascii_digit).collect();
    (!number.is_empty() && number != "0").then(|| format!("b{number}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use mesh_core::units::Bytes;

    /// Lines as a build of autumn 2026 prints them.
    const NEW: &str = "----- common params -----\n\n\
        -m,    --model FNAME                    model path\n\
        -c,    --ctx-size N                     size of the prompt context (default: 0)\n\
        -np,   --parallel N                     number of server slots (default: -1, -1 = auto)\n\
        -kvu,  --kv-unified, -no-kvu, --no-kv-unified\n\
        -b,    --batch-size N                   logical maximum batch size\n\
        -ub,   --ubatch-size N                  physical maximum batch size\n\
        -ngl,  --gpu-layers, --n-gpu-layers N   max. number of layers to store in VRAM\n\
        -ncmoe, --n-cpu-moe N                   keep the experts of the first N layers in the CPU\n\
        -ctk,  --cache-type-k TYPE              KV cache data type for K\n\
        -ctv,  --cache-type-v TYPE              KV cache data type for V\n\
        -cram, --cache-ram N                    set the maximum cache size in MiB\n\
        --ctx-checkpoints, --swa-checkpoints N  max number of context checkpoints\n\
        -fit,  --fit [on|off]                   whether to adjust unset arguments to fit in device memory\n\
        --load-mode MODE                        auto, none, mmap, mlock, mmap+mlock, dio\n\
        --metrics                               enable prometheus compatible metrics endpoint\n\
        --slots, --no-slots                     expose slots monitoring endpoint\n\
        --ui, --webui, --no-ui, --no-webui      whether to enable the UI\n\
        --offline                               offline mode\n\
        -lv,   --verbosity, --log-verbosity N   set the verbosity threshold\n";

    /// Lines as a build of spring 2025 prints them.
    const OLD: &str = "-m,    --model FNAME            model path\n\
        -c,    --ctx-size N             size of the prompt context\n\
        -np,   --parallel N             number of parallel sequences to decode\n\
        -b,    --batch-size N           logical maximum batch size\n\
        -ub,   --ubatch-size N          physical maximum batch size\n\
        -ngl,  --gpu-layers, --n-gpu-layers N\n\
        -ctk,  --cache-type-k TYPE      KV cache data type for K\n\
        -ctv,  --cache-type-v TYPE      KV cache data type for V\n\
        --no-mmap                       do not memory-map model\n\
        --metrics                       enable prometheus compatible metrics endpoint\n\
        --slots                         enable slots monitoring endpoint\n\
        --no-webui                      disable the Web UI\n\
        -lv,   --verbosity, --log-verbosity N\n";

    fn sizing() -> Sizing {
        Sizing {
            cache: CacheType::Q8_0,
            cpu_moe: Some(7),
            gpu_layers: Some(20),
            prompt_cache: Bytes(256 << 20),
            direct_io: true,
            ..Sizing::default_for(4096, 2)
        }
    }

    #[test]
    fn a_new_build_gets_every_wish() {
        let arguments = Flags::of_help(NEW).arguments(&sizing());
        assert_eq!(arguments.left_out, Vec::<&str>::new());
        assert_eq!(
            arguments.words.join(" "),
            "--ctx-size 8192 --parallel 2 --no-kv-unified --batch-size 2048 --ubatch-size 512 \
             --n-gpu-layers 20 --n-cpu-moe 7 --cache-type-k q8_0 --cache-type-v q8_0 --cache-ram 256 \
             --ctx-checkpoints 4 --fit off --load-mode dio"
        );
        let rules = Flags::of_help(NEW).house_rules().join(" ");
        assert_eq!(rules, "--metrics --no-ui --offline --no-slots --log-verbosity 4");
    }

    #[test]
    fn an_old_build_gets_what_it_understands_and_the_rest_is_told() {
        let arguments = Flags::of_help(OLD).arguments(&sizing());
        assert_eq!(
            arguments.left_out,
            ["a cache for each slot", "experts in RAM", "saved prompts", "saved states", "no fitting"]
        );
        assert_eq!(arguments.words.last().map(String::as_str), Some("--no-mmap"));
        assert_eq!(Flags::of_help(OLD).house_rules().join(" "), "--metrics --no-webui --log-verbosity 4");
    }

    #[test]
    fn what_is_no_help_has_no_flags() {
        for text in ["", "Segmentation fault", "usage: cat [file]", "---", "- - -"] {
            assert!(!Flags::of_help(text).is_known(), "{text}");
        }
        assert!(Flags::of_help(NEW).is_known() && Flags::of_help(OLD).is_known());
    }

    #[test]
    fn the_build_number_is_the_version() {
        assert_eq!(version_in("version: 11549 (0c1e570)\nbuilt with cc"), Some("b11549".into()));
        assert_eq!(version_in("version: 0 (unknown)"), None);
        assert_eq!(version_in("garbage"), None);
    }

    #[tokio::test]
    async fn a_program_is_asked_once_for_each_version_of_its_file() {
        use std::os::unix::fs::PermissionsExt as _;
        let folder = tempfile::tempdir().expect("a folder");
        let (program, asked) = (folder.path().join("llama-server"), folder.path().join("asked"));
        // A simulator: a script that prints a help and counts.
        let script = |help: &str| {
            let text = format!(
                "#!/bin/sh\necho x >> '{}'\n[ \"$1\" = --version ] && {{ echo 'version: 9 (x)' >&2; exit; }}\n\
                 cat <<'EOF'\n{help}EOF\n",
                asked.display()
            );
            std::fs::write(&program, text).expect("a file");
            std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).expect("executable");
        };
        script(OLD);
        let first = of_program(&program).await;
        assert_eq!((first.has("--no-webui"), first.version.as_deref()), (true, Some("b9")));
        assert_eq!(of_program(&program).await, first);
        assert_eq!(std::fs::read_to_string(&asked).expect("counted").lines().count(), 2, "help and version");
        script(NEW);
        let later = SystemTime::now() + Duration::from_secs(5);
        std::fs::File::options()
            .write(true)
            .open(&program)
            .and_then(|file| file.set_modified(later))
            .expect("set");
        assert!(of_program(&program).await.has("--no-ui"));
        assert!(!of_program(Path::new("/nonexistent/llama-server")).await.is_known());
    }
}
