//! What can be typed about plans, modes, pins and waiting.

use clap::{Args, Subcommand};
use mesh_core::id::{MachineId, ModeName, ModelId};
use std::fmt;
use std::str::FromStr;

/// `meshctl plan`
#[derive(Debug, Args)]
pub(crate) struct PlanArgs {
    /// Plan by this strategy [default: what is wished now]
    #[arg(long, value_name = "NAME")]
    pub(crate) strategy: Option<String>,
    /// Plan as if: +node=KIND, -node=NAME, +files (all can be fetched) or model=NAME=SIZE; may be repeated. KIND:
    /// strix-128, rtx-16, cpu-32, or a node for another like it, under a new name
    #[arg(long, value_name = "CHANGE", allow_hyphen_values = true, value_parser = what_if, conflicts_with = "apply")]
    pub(crate) what_if: Vec<String>,
    /// Make it the mesh's plan: models are loaded and unloaded until it is so
    #[arg(long)]
    pub(crate) apply: bool,
    /// Apply without asking
    #[arg(long, requires = "apply")]
    pub(crate) yes: bool,
    /// Tell every reason and every change
    #[arg(long, short)]
    pub(crate) verbose: bool,
}

/// The form only: what the names mean is the router's to say.
fn what_if(text: &str) -> Result<String, String> {
    if text == "+files" {
        return Ok(text.to_owned());
    }
    let named = |name: &str| MachineId::new(name).map(|_| ()).map_err(|error| error.to_string());
    if let Some(name) = text.strip_prefix("+node=").or_else(|| text.strip_prefix("-node=")) {
        named(name)?;
    } else if let Some((model, size)) = text.strip_prefix("model=").and_then(|rest| rest.rsplit_once('=')) {
        ModelId::new(model).map_err(|error| error.to_string())?;
        if size.is_empty() {
            return Err(format!("`{text}` names no size: write it as in model={model}=20GiB"));
        }
    } else {
        let shown: String = text.chars().take(64).collect();
        return Err(format!(
            "`{shown}` is nothing to suppose: write +node=KIND, -node=NAME, +files or model=NAME=SIZE, as in \
             model=qwen3:32b=20GiB"
        ));
    }
    Ok(text.to_owned())
}

/// The form only: which settings there are is the router's to say.
fn setting(text: &str) -> Result<(String, String), String> {
    let shown: String = text.chars().take(64).collect();
    match text.split_once('=') {
        Some((name, value)) if !name.trim().is_empty() => {
            Ok((name.trim().to_owned(), value.trim().to_owned()))
        }
        _ => Err(format!("`{shown}` is no SETTING=VALUE, as in context=32K or models=qwen3:32b,qwen3:14b")),
    }
}

/// `meshctl mode …`
#[derive(Debug, Subcommand)]
pub(crate) enum ModeCommand {
    /// List the modes: their models, what they want, where they are served
    List,
    /// Show all of one mode
    Show {
        /// Its name or another of its names: code, mesh/code
        mode: String,
    },
    /// Change settings of a mode: context=32K models=a,b
    Set {
        /// Its name or another of its names: code, mesh/code
        mode: String,
        /// As in [modes.NAME], lists with commas; nothing after `=` is the usual value
        #[arg(required = true, value_name = "SETTING=VALUE", value_parser = setting)]
        settings: Vec<(String, String)>,
        /// Make the mode where there is none of this name
        #[arg(long)]
        new: bool,
    },
    /// Take changes of a mode back: it is again as it was written
    Reset {
        /// Its name or another of its names: code, mesh/code
        mode: String,
        /// Which settings [default: all]
        #[arg(value_name = "SETTING")]
        settings: Vec<String>,
    },
    /// Send one small request through a mode and tell who answered, and how fast
    Test {
        /// Its name or another of its names: code, mesh/code
        mode: String,
        /// Client API key [default: the file api-key in the data folder]
        #[arg(long, value_name = "KEY", env = "MODEMESH_API_KEY", hide_env_values = true)]
        key: Option<String>,
        /// Where clients connect [default: as the router tells its operators]
        #[arg(long, value_name = "URL", env = "MODEMESH_URL")]
        url: Option<String>,
    },
}

/// `meshctl model pin`, `meshctl model unpin`
#[derive(Debug, Args)]
pub(crate) struct PinArgs {
    /// The model's name, as in `meshctl model list`
    pub(crate) model: ModelId,
    /// The machine
    #[arg(long, value_name = "NODE")]
    pub(crate) node: MachineId,
}

/// `meshctl wait`
#[derive(Debug, Args)]
pub(crate) struct WaitArgs {
    /// model=MODEL[@NODE],loaded · node=NODE,ready · node=NODE,drained · mode=MODE,ready · plan,complete; repeated: all of
    /// them
    #[arg(long = "for", required = true, value_name = "CONDITION")]
    pub(crate) conditions: Vec<Condition>,
}

/// What can be waited for. Prints as it is typed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Condition {
    /// The model is in memory: on this machine, or on any.
    Loaded(ModelId, Option<MachineId>),
    /// The machine is ready.
    NodeReady(MachineId),
    /// The machine is drained, and nothing of the mesh is in its memory any more.
    Drained(MachineId),
    /// The mode is ready.
    ModeReady(ModeName),
    /// Every mode gets what it wants, and nothing is left to change.
    PlanComplete,
}

impl FromStr for Condition {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let forms = || {
            let shown: String = text.chars().take(64).collect();
            format!(
                "`{shown}` cannot be waited for: write model=MODEL[@NODE],loaded, node=NODE,ready, node=NODE,drained, \
                 mode=MODE,ready or plan,complete"
            )
        };
        let (subject, state) = text.rsplit_once(',').ok_or_else(forms)?;
        let node = |name: &str| MachineId::new(name).map_err(|error| error.to_string());
        match (subject.split_once('=').unwrap_or((subject, "")), state) {
            (("model", name), "loaded") => {
                // Names of models may hold an @, too: what follows the last one is a machine where it can be one.
                let at =
                    name.rsplit_once('@').and_then(|(model, at)| Some((model, MachineId::new(at).ok()?)));
                let (model, at) = at.map_or((name, None), |(model, at)| (model, Some(at)));
                let model = ModelId::new(model).map_err(|error| error.to_string())?;
                Ok(Self::Loaded(model, at))
            }
            (("node", name), "ready") => node(name).map(Self::NodeReady),
            (("node", name), "drained") => node(name).map(Self::Drained),
            (("mode", name), "ready") => {
                let name = name.strip_prefix("mesh/").unwrap_or(name);
                ModeName::new(name).map(Self::ModeReady).map_err(|error| error.to_string())
            }
            (("plan", ""), "complete") => Ok(Self::PlanComplete),
            _ => Err(forms()),
        }
    }
}

impl fmt::Display for Condition {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Loaded(model, None) => write!(out, "model={model},loaded"),
            Self::Loaded(model, Some(node)) => write!(out, "model={model}@{node},loaded"),
            Self::NodeReady(node) => write!(out, "node={node},ready"),
            Self::Drained(node) => write!(out, "node={node},drained"),
            Self::ModeReady(mode) => write!(out, "mode={mode},ready"),
            Self::PlanComplete => out.write_str("plan,complete"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn conditions_print_as_they_are_typed() {
        for text in [
            "model=qwen3:8b,loaded",
            "model=qwen3:8b@strix-1,loaded",
            "model=a,b,loaded",
            "node=strix-1,ready",
            "node=strix-1,drained",
            "mode=code,ready",
            "plan,complete",
        ] {
            assert_eq!(text.parse::<Condition>().map(|condition| condition.to_string()), Ok(text.to_owned()));
        }
        assert_eq!(
            "model=m@V1,loaded".parse(),
            Ok(Condition::Loaded(ModelId::new("m@V1").expect("valid"), None)),
            "no machine is called V1"
        );
        for text in
            ["", "plan", "plan=x,complete", "model=,loaded", "model=m,ready", "node=UP,ready", "mode=x"]
        {
            assert!(text.parse::<Condition>().is_err(), "{text}");
        }
    }

    #[test]
    fn what_if_takes_machines_and_models_with_sizes() {
        for text in ["+node=strix-128", "-node=msi", "model=qwen3:32b=20GiB"] {
            assert_eq!(what_if(text), Ok(text.to_owned()));
        }
        for text in ["node=msi", "+node=", "+node=UP", "model=qwen3:32b", "model=m=", "model==1GiB"] {
            assert!(what_if(text).is_err(), "{text}");
        }
    }
}
