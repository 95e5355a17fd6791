//! Everything that can be typed.

mod eval;
mod kept;
mod ladder;
mod steering;
mod stress;
mod validate;

pub(crate) use eval::{BaselineArgs, CompareArgs, EvalCommand, EvalRunArgs, EvalShowArgs};
pub(crate) use kept::KeptCommand;
pub(crate) use ladder::{ImportArgs, LadderCommand, ReportArgs, RunArgs, ShowArgs, Wanted};
pub(crate) use steering::{Condition, ModeCommand, PinArgs, PlanArgs, WaitArgs};
pub(crate) use stress::{Source, StressArgs, StressCommand};
pub(crate) use validate::{ValidateArgs, ValidateCommand};

use clap::{Args, CommandFactory as _, Parser, Subcommand, ValueEnum};
use mesh_core::id::{MachineId, ModelId};
use mesh_core::machine::Digest;
use mesh_core::memory::CacheType;
use reqwest::Url;
use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

/// The longest duration that may be typed.
const LONGEST: Duration = Duration::from_secs(366 * 86_400);

/// See and steer a mesh of machines that serve language models
#[derive(Debug, Parser)]
#[command(name = "meshctl", bin_name = "meshctl", version, max_term_width = 100)]
#[command(
    after_help = "Exit codes: 0 ok, 1 failed, 2 usage, 3 degraded (status --check, validate: poor), 4 not found, 5 router \
                        unreachable, 6 refused (certificate, token, key), 7 does not fit, 8 timeout, 130 interrupted"
)]
pub(crate) struct Cli {
    /// Flags of every command.
    #[command(flatten)]
    pub(crate) globals: Globals,
    /// What to do.
    #[command(subcommand)]
    pub(crate) command: Command,
}

impl Cli {
    /// Reads what was typed.
    ///
    /// # Errors
    /// What makes no sense, also help and version, which were asked for.
    pub(crate) fn typed(words: impl IntoIterator<Item = OsString>) -> Result<Self, clap::Error> {
        let typed = Self::try_parse_from(words)?;
        let is_report = matches!(typed.command, Command::Ladder(LadderCommand::Report(_)));
        let Some(word) = &typed.globals.output else { return Ok(typed) };
        let is_taken = match Format::of(word) {
            Some(Format::Table) => !is_report,
            Some(Format::Json) => true,
            Some(Format::Md | Format::Csv | Format::Html) => is_report,
            None => false,
        };
        if is_taken {
            return Ok(typed);
        }
        let taken = if is_report { "md, csv, json or html" } else { "table or json" };
        let whose = if is_report { "" } else { "; md, csv and html are for `meshctl ladder report`" };
        let said = match Format::of(word) {
            Some(_) => format!("--output {word} is not for this command, which takes {taken}{whose}"),
            None => format!("there is no --output `{word}`; this command takes {taken}{whose}"),
        };
        Err(Self::command().error(clap::error::ErrorKind::InvalidValue, said))
    }
}

/// Flags of every command.
#[derive(Debug, Args)]
#[command(next_help_heading = "Global options")]
pub(crate) struct Globals {
    /// Folder with operator/ (credentials) and api-key [default: $XDG_DATA_HOME/modemesh or ~/.local/share/modemesh]
    #[arg(long, global = true, value_name = "DIR", env = "MODEMESH_DATA", hide_env_values = true)]
    pub(crate) data: Option<PathBuf>,
    /// Ask this router instead of the one in operator/address; the port is 7402 unless given
    #[arg(long, global = true, value_name = "HOST[:PORT]")]
    pub(crate) router: Option<String>,
    /// When to colour
    #[arg(long, global = true, value_enum, default_value_t = ColorChoice::Auto)]
    pub(crate) color: ColorChoice,
    /// How to print results: table or json [default: table]; of ladder report: md, csv, json or html [default: md]
    // As a word: which ones there are depends on the command.
    #[arg(short, long, global = true, value_name = "FORM", alias = "format")]
    pub(crate) output: Option<String>,
    /// Same as --output json
    #[arg(long, global = true)]
    pub(crate) json: bool,
    /// Give up after this long, as in 5s or 2m. It bounds connecting to the router and each call to it [default: 10s;
    /// login: 20s; model fit: 1m]; the whole answer of ask and mode test [10m]; the waiting of wait [5m], of model load,
    /// unload and rm [10m] and of model pull [7d]; and each load and unload of ladder run, eval run, validate and stress
    /// [30m], not what they measure
    #[arg(long, global = true, value_name = "TIME", value_parser = duration)]
    pub(crate) timeout: Option<Duration>,
}

impl Globals {
    /// What `--output` and `--json` mean together.
    pub(crate) fn format(&self) -> Format {
        let typed = self.output.as_deref().and_then(Format::of);
        if self.json { Format::Json } else { typed.unwrap_or(Format::Table) }
    }
}

/// When to colour.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum ColorChoice {
    /// On terminals, unless NO_COLOR is set or TERM is dumb.
    Auto,
    /// Also into pipes and files.
    Always,
    /// Never.
    Never,
}

/// How results are printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Format {
    /// For people; may change.
    Table,
    /// For programs; fields are only ever added.
    Json,
    /// A report to paste.
    Md,
    /// A report for spreadsheets.
    Csv,
    /// A report as one file for browsers.
    Html,
}

impl Format {
    /// The form that `word` names.
    fn of(word: &str) -> Option<Self> {
        match word {
            "table" => Some(Self::Table),
            "json" => Some(Self::Json),
            "md" => Some(Self::Md),
            "csv" => Some(Self::Csv),
            "html" => Some(Self::Html),
            _ => None,
        }
    }
}

/// The verbs.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Show machines, modes and models on one screen
    Status(StatusArgs),
    /// Tell why a request went where it went, or why a mode, a model or a node is as it is
    Explain(ExplainArgs),
    /// Show which models would be where, what that takes, and what is in the way
    Plan(PlanArgs),
    /// List modes, show one, try one
    #[command(subcommand)]
    Mode(ModeCommand),
    /// Wait until something is so
    Wait(WaitArgs),
    /// Ask a model; the answer goes to stdout as it arrives, one line of numbers to stderr
    Ask(AskArgs),
    /// Make, list and revoke join tokens
    #[command(subcommand)]
    Token(TokenCommand),
    /// Make, list and revoke client API keys
    #[command(subcommand)]
    Key(KeyCommand),
    /// List, fetch, load, unload, pin and delete models, and say where they fit
    #[command(subcommand)]
    Model(ModelCommand),
    /// Show one machine with everything that it says of itself; drain it, cordon it, or resume
    #[command(subcommand)]
    Node(NodeCommand),
    /// Measure a machine's models from the smallest to the largest, and say which to use
    #[command(subcommand)]
    Ladder(LadderCommand),
    /// Let models sit exams, compare two evaluations, keep baselines
    #[command(subcommand)]
    Eval(EvalCommand),
    /// Try one model on one machine beside the one that does the work, and say whether to promote, keep or skip it
    Validate(ValidateCommand),
    /// Let several models of a machine work at once, with downloads beside them, and say which can live together
    Stress(StressCommand),
    /// Trade an operator token for credentials on this machine
    Login(LoginArgs),
}

/// `meshctl status`
#[derive(Debug, Args)]
pub(crate) struct StatusArgs {
    /// Draw again every SECONDS until Ctrl-C
    #[arg(long, value_name = "SECONDS", num_args = 0..=1, require_equals = true, default_missing_value = "2",
          value_parser = clap::value_parser!(u64).range(1..=3600))]
    pub(crate) watch: Option<u64>,
    /// Exit with 3 when a node or a mode is not ready
    #[arg(long, conflicts_with = "watch")]
    pub(crate) check: bool,
    /// Also list models that are only on disk and in no mode
    #[arg(long)]
    pub(crate) all: bool,
}

/// `meshctl explain`
#[derive(Debug, Args)]
pub(crate) struct ExplainArgs {
    /// A request's id (x-mesh-request-id) or a unique prefix of it, a mode, a node or a model; also as in node=NAME; the
    /// latest request when left out
    #[arg(value_name = "REQUEST-ID|MODE|NODE|MODEL")]
    pub(crate) what: Option<String>,
}

/// `meshctl ask`
#[derive(Debug, Args)]
pub(crate) struct AskArgs {
    /// The mode that chooses the model
    #[arg(long, short, default_value = "ask", conflicts_with = "model", value_name = "MODE")]
    pub(crate) mode: String,
    /// This model, wherever it runs
    #[arg(long, value_name = "MODEL")]
    pub(crate) model: Option<ModelId>,
    /// Instructions that stand before the prompt
    #[arg(long, value_name = "TEXT")]
    pub(crate) system: Option<String>,
    /// The most tokens to answer
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) max_tokens: Option<u32>,
    /// Show the model's thinking too, on stderr
    #[arg(long)]
    pub(crate) thinking: bool,
    /// Client API key [default: the file api-key in the data folder]
    #[arg(long, value_name = "KEY", env = "MODEMESH_API_KEY", hide_env_values = true)]
    pub(crate) key: Option<String>,
    /// Where clients connect [default: as the router tells its operators]
    #[arg(long, value_name = "URL", env = "MODEMESH_URL")]
    pub(crate) url: Option<String>,
    /// The prompt; `-` or nothing reads it from stdin
    #[arg(value_name = "PROMPT")]
    pub(crate) prompt: Vec<String>,
}

/// `meshctl token …`
#[derive(Debug, Subcommand)]
pub(crate) enum TokenCommand {
    /// Print a new one-use join token
    Create {
        /// What the holder becomes
        #[arg(long, value_enum)]
        role: TokenRole,
        /// How long it can be used, as in 30m, 1h or 7d
        #[arg(long, default_value = "1h", value_name = "TIME", value_parser = duration)]
        ttl: Duration,
        /// The name the holder gets [default: it proposes its own]
        #[arg(long, value_name = "NAME")]
        name: Option<MachineId>,
    },
    /// List tokens and what became of them
    List,
    /// Make a token unusable
    Revoke {
        /// Its id or a unique prefix
        id: String,
    },
}

/// What a token can make of its holder.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum TokenRole {
    /// A machine with engines.
    Node,
    /// A person with meshctl.
    Operator,
}

/// `meshctl key …`
#[derive(Debug, Subcommand)]
pub(crate) enum KeyCommand {
    /// Print a new key; it is shown this once
    Create {
        /// Whose key it is: an editor, a person, a script
        name: String,
    },
    /// List keys and when they were last used
    List,
    /// Refuse a key from now on
    Revoke {
        /// Its id or a unique prefix
        id: String,
    },
}

/// `meshctl model …`
#[derive(Debug, Subcommand)]
pub(crate) enum ModelCommand {
    /// List the models of all machines, and what is on its way
    List {
        /// Of this machine only
        #[arg(long, value_name = "NODE")]
        node: Option<MachineId>,
    },
    /// Fetch a model onto a machine's disk
    Pull(PullArgs),
    /// Bring a model into a machine's memory
    Load(LoadArgs),
    /// Take a model out of a machine's memory
    Unload(ModelArgs),
    /// Delete a model from a machine's disk; it is unloaded first
    Rm(ModelArgs),
    /// Keep a model on a machine whatever is planned
    Pin(PinArgs),
    /// Leave a model's place to the plan again
    Unpin(PinArgs),
    /// Tell which machines can hold a model now, and why others cannot
    Fit(FitArgs),
}

/// `meshctl model pull`
#[derive(Debug, Args)]
pub(crate) struct PullArgs {
    #[command(flatten)]
    pub(crate) which: ModelArgs,
    /// Fetch this GGUF file [default: copy it from a machine of the mesh that has it, else let the engine fetch it]
    #[arg(long, value_name = "URL")]
    pub(crate) url: Option<String>,
    /// What the file must be; without it the server is trusted
    #[arg(long, value_name = "HEX", value_parser = digest)]
    pub(crate) sha256: Option<Digest>,
    /// Stop fetching it; what has come is deleted
    #[arg(long, conflicts_with_all = ["url", "sha256"])]
    pub(crate) cancel: bool,
}

/// `meshctl model load`
#[derive(Debug, Args)]
pub(crate) struct LoadArgs {
    #[command(flatten)]
    pub(crate) which: ModelArgs,
    /// Tokens one request may hold [default: the machine decides]
    #[arg(long, value_name = "TOKENS", value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) context: Option<u32>,
    /// Requests at once [default: the machine decides]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=256))]
    pub(crate) slots: Option<u32>,
    /// Type of the KV cache: f16, q8_0, q4_0 [default: f16]
    #[arg(long, value_name = "TYPE")]
    pub(crate) cache_type: Option<String>,
}

/// `meshctl model fit`
#[derive(Debug, Args)]
pub(crate) struct FitArgs {
    /// A model on a disk of the mesh, a GGUF file here, or the URL of one: only its header is read
    #[arg(value_name = "MODEL|FILE.gguf|URL")]
    pub(crate) model: FitSource,
    /// On this machine only
    #[arg(long, value_name = "NODE")]
    pub(crate) node: Option<MachineId>,
    /// Tokens one request may hold [default: what the machine would give it, or fewer]
    #[arg(long, value_name = "TOKENS", value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) context: Option<u32>,
    /// Requests at once [default: what the machine would give it]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=256))]
    pub(crate) slots: Option<u32>,
    /// Type of the KV cache: f16, q8_0, q4_0
    #[arg(long, value_name = "TYPE", default_value = "f16", value_parser = cache_type)]
    pub(crate) cache_type: CacheType,
}

/// Where the header of a model is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum FitSource {
    /// On a machine of the mesh.
    Model(ModelId),
    /// On this machine.
    File(PathBuf),
    /// On a web server.
    Url(Url),
}

impl std::str::FromStr for FitSource {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text.contains("://") {
            let url = Url::parse(text).map_err(|error| format!("`{text}` is no URL: {error}"))?;
            return match url.scheme() {
                "http" | "https" => Ok(Self::Url(url)),
                other => Err(format!("a URL begins with http or https, not with {other}")),
            };
        }
        // Names of models may end so too; a file is then meant only where there is one or a path is written.
        let is_path = text.starts_with(['/', '.', '~']) || std::path::Path::new(text).is_file();
        if is_path || text.to_ascii_lowercase().ends_with(".gguf") {
            return Ok(Self::File(text.into()));
        }
        ModelId::new(text).map(Self::Model).map_err(|error| error.to_string())
    }
}

fn cache_type(word: &str) -> Result<CacheType, String> {
    CacheType::from_word(word)
        .ok_or_else(|| format!("`{word}` is no type of KV cache; f16 and q8_0 are some"))
}

/// `meshctl node …`
#[derive(Debug, Subcommand)]
pub(crate) enum NodeCommand {
    /// Show a machine: memory pools, sensors, engines, models, what is on its way
    Show {
        /// The machine
        node: MachineId,
        /// Print its profile instead: what was measured there, as JSON
        #[arg(long)]
        profile: bool,
    },
    /// Have its models leave, elsewhere where the plan has room, and give it nothing new
    Drain {
        /// The machine
        node: MachineId,
    },
    /// Leave what it holds and give it nothing new
    Cordon {
        /// The machine
        node: MachineId,
    },
    /// End drain and cordon
    Resume {
        /// The machine
        node: MachineId,
    },
}

fn digest(text: &str) -> Result<Digest, String> {
    Digest::new(text).map_err(|error| error.to_string())
}

/// Which model where.
#[derive(Debug, Args)]
pub(crate) struct ModelArgs {
    /// The model's name, as in `meshctl status --all`
    pub(crate) model: ModelId,
    /// The machine
    #[arg(long, value_name = "NODE")]
    pub(crate) node: MachineId,
    /// Return as soon as the router has passed the wish on
    #[arg(long)]
    pub(crate) no_wait: bool,
}

/// `meshctl login`
#[derive(Debug, Args)]
pub(crate) struct LoginArgs {
    /// Where tokens are redeemed: the router's agent address; the port is 7401 unless given
    #[arg(value_name = "ROUTER")]
    pub(crate) redeem_at: String,
    /// An operator token: meshctl token create --role operator
    pub(crate) token: String,
    /// Where operators connect [default: port 7402 of ROUTER]
    #[arg(long, value_name = "HOST[:PORT]")]
    pub(crate) operators: Option<String>,
    /// The name to propose [default: this machine's host name]
    #[arg(long, value_name = "NAME")]
    pub(crate) name: Option<MachineId>,
}

/// Reads `90`, `90s`, `5m` or `5min`, `1h`, `7d`; a bare number is seconds.
fn duration(text: &str) -> Result<Duration, String> {
    let bad = || format!("`{text}` is no duration: write a whole number with s, m, h or d, as in 30m");
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let factor = match unit {
        "" | "s" => 1,
        "m" | "min" => 60,
        "h" => 3600,
        "d" => 86_400,
        _ => return Err(bad()),
    };
    let seconds: u64 = number.parse().map_err(|_| bad())?;
    let duration = seconds.checked_mul(factor).map(Duration::from_secs).unwrap_or(Duration::MAX);
    match duration {
        Duration::ZERO => Err("a duration must be at least 1s".into()),
        long if long > LONGEST => Err(format!("`{text}` is longer than the limit of 366d")),
        fine => Ok(fine),
    }
}

/// The data folder that is used when `--data` and `MODEMESH_DATA` say nothing; `None` without a home.
pub(crate) fn usual_data(env: impl Fn(&str) -> Option<OsString>) -> Option<PathBuf> {
    let folder = |name: &str| env(name).map(PathBuf::from).filter(|path| path.is_absolute());
    let shared = folder("XDG_DATA_HOME").or_else(|| Some(folder("HOME")?.join(".local/share")));
    shared.map(|shared| shared.join("modemesh"))
}

#[cfg(test)]
mod tests;
