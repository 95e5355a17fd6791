//! Which models of a machine are climbed, in which order, and which are left out and why. Pure: the machine's report in.

use crate::cli::RunArgs;
use crate::command::names::unknown;
use crate::exit::{Failure, Kind};
use mesh_core::id::{MachineId, ModelId};
use mesh_core::machine::{Report, StoredModel};
use mesh_core::units::Bytes;
use std::collections::BTreeMap;

/// Models of one climb, at most: as many as a record may have.
const RUNGS: usize = 64;
/// Names are round: llama3.2:1b has 1.24 billion parameters, and 70b is 70.6.
const ABOVE: f64 = 1.25;
const BELOW: f64 = 0.9;

/// A model that can be climbed.
#[derive(Debug, Clone, PartialEq)]
pub(in crate::command) struct Candidate {
    pub(in crate::command) model: ModelId,
    pub(in crate::command) parameters: Option<u64>,
    /// Of a sparse model, those that one token uses.
    pub(super) active_parameters: Option<u64>,
    pub(in crate::command) size: Option<Bytes>,
    pub(in crate::command) quantisation: Option<String>,
    pub(in crate::command) digest: Option<String>,
    pub(in crate::command) trained_context: Option<u32>,
    /// The context and slots of its load can be chosen.
    pub(in crate::command) can_size: bool,
    can_chat: Option<bool>,
    can_embed: Option<bool>,
    architecture: Option<String>,
    broken: Option<String>,
}

impl Candidate {
    fn new(model: ModelId) -> Self {
        Self {
            model,
            parameters: None,
            active_parameters: None,
            size: None,
            quantisation: None,
            digest: None,
            trained_context: None,
            can_size: true,
            can_chat: None,
            can_embed: None,
            architecture: None,
            broken: None,
        }
    }

    /// Its size in words: `8b`, `500m`.
    pub(in crate::command) fn label(&self) -> String {
        self.parameters.map_or_else(|| "?".into(), in_words)
    }

    /// What it is made for, by its name, where that is not everything. Only of code names tell.
    pub(in crate::command) fn specialty(&self) -> Option<&'static str> {
        let name = self.model.as_str().to_ascii_lowercase();
        let is_coder = |word: &str| {
            // codellama, codestral, codegemma; audio models have codecs.
            let begins = word.starts_with("code") && !word.starts_with("codec");
            let ends = word.ends_with("coder") && !word.ends_with("encoder") && !word.ends_with("decoder");
            begins || ends || word.starts_with("starcoder") || word == "devstral"
        };
        name.split(|sign: char| !sign.is_ascii_alphanumeric()).any(is_coder).then_some("code")
    }

    /// Why it is no model that answers, where it is none.
    pub(in crate::command) fn unfit(&self) -> Option<String> {
        if let Some(why) = &self.broken {
            return Some(format!("its file is broken: {why}"));
        }
        // The architectures of embedding models have it in their names.
        let is_encoder = self.architecture.as_deref().is_some_and(|name| name.contains("bert"));
        let embeds_only = self.can_embed == Some(true) && self.can_chat != Some(true);
        (is_encoder || embeds_only || self.can_chat == Some(false))
            .then(|| "it makes embeddings and answers nothing".into())
    }

    fn is_within(&self, from: Option<u64>, to: Option<u64>) -> bool {
        let Some(parameters) = self.parameters.map(|count| count as f64) else {
            return from.is_none() && to.is_none();
        };
        from.is_none_or(|least| parameters >= least as f64 * BELOW)
            && to.is_none_or(|most| parameters <= most as f64 * ABOVE)
    }
}

fn in_words(parameters: u64) -> String {
    let (value, unit) = if parameters < 1_000_000_000 {
        (parameters as f64 / 1e6, "m")
    } else {
        (parameters as f64 / 1e9, "b")
    };
    let number = if value < 9.95 { format!("{value:.1}") } else { format!("{value:.0}") };
    format!("{}{unit}", number.strip_suffix(".0").unwrap_or(&number))
}

/// Whether anything can be within the sizes that were typed.
///
/// # Errors
/// `Usage` where the smallest is above the largest.
pub(super) fn within_bounds(args: &RunArgs) -> Result<(), Failure> {
    let (Some(from), Some(to)) = (args.from, args.to) else { return Ok(()) };
    if from <= to {
        return Ok(());
    }
    let (from, to) = (in_words(from), in_words(to));
    let what = format!("--from {from} is above --to {to}: nothing is between");
    Err(Failure::new(Kind::Usage, what).hint(format!("the other way round: --from {to} --to {from}")))
}

/// # Errors
/// `Usage` for more models than a record can hold.
pub(super) fn room_for(models: usize) -> Result<(), Failure> {
    if models <= RUNGS {
        return Ok(());
    }
    let what = format!("{models} models are more than the {RUNGS} of one climb");
    Err(Failure::new(Kind::Usage, what).hint("choose with --from and --to, or with --models"))
}

/// The models to climb, smallest first, and a line for each that is left out.
///
/// # Errors
/// `NotFound` for a named model that is not there, or when nothing is left; `Usage` for more than a record can hold.
pub(super) fn candidates(report: &Report, args: &RunArgs) -> Result<(Vec<Candidate>, Vec<String>), Failure> {
    let known = known(report);
    if let Some(missing) = args.models.iter().find(|model| !known.contains_key(*model)) {
        return Err(missing_on(&args.node, missing, &known));
    }
    let (mut climbed, mut left_out, mut outside) = (Vec::new(), Vec::new(), 0);
    for (model, candidate) in known {
        if !args.models.is_empty() && !args.models.contains(&model) {
            continue;
        }
        if let Some(why) = candidate.unfit() {
            left_out.push(format!("{model} is left out: {why}"));
        } else if candidate.is_within(args.from, args.to) {
            climbed.push(candidate);
        } else if candidate.parameters.is_some() {
            outside += 1;
        } else {
            left_out
                .push(format!("{model} is left out: its parameters are not known; name it with --models"));
        }
    }
    if climbed.is_empty() {
        let what = format!("{} has no model to climb", args.node);
        let failure = Failure::new(Kind::NotFound, what);
        let failure = match outside {
            0 => failure,
            count => failure.cause(format!("{count} of its models are outside of --from and --to")),
        };
        return Err(left_out.into_iter().fold(failure, Failure::hint));
    }
    room_for(climbed.len())?;
    climbed.sort_by(|a, b| {
        let of =
            |one: &Candidate| (one.parameters.unwrap_or_else(|| by_size(one)), one.size.map(|size| size.0));
        of(a).cmp(&of(b)).then_with(|| a.model.cmp(&b.model))
    });
    Ok((climbed, left_out))
}

/// One model of a machine, that answers.
///
/// # Errors
/// `NotFound` where it is not there, `Usage` where it is no model that answers.
pub(in crate::command) fn one(
    report: &Report,
    node: &MachineId,
    model: &ModelId,
) -> Result<Candidate, Failure> {
    let known = known(report);
    let candidate = known.get(model).ok_or_else(|| missing_on(node, model, &known))?;
    match candidate.unfit() {
        Some(why) => Err(Failure::new(Kind::Usage, format!("{model} cannot be measured")).cause(why)),
        None => Ok(candidate.clone()),
    }
}

fn missing_on(node: &MachineId, model: &ModelId, known: &BTreeMap<ModelId, Candidate>) -> Failure {
    let what = format!("{node} has no model `{model}`");
    let failure = unknown(model.as_str(), what, known.keys().map(ModelId::as_str), "it has no models at all");
    failure.hint(format!("fetch it: meshctl model pull {model} --node {node}"))
}

/// Roughly the parameters of a file of this size: five bits each.
fn by_size(candidate: &Candidate) -> u64 {
    candidate.size.map_or(0, |size| size.0 / 5 * 8)
}

/// Each model once, by its name towards clients: what the store knows of it, and what engines say.
pub(in crate::command) fn known(report: &Report) -> BTreeMap<ModelId, Candidate> {
    let mut known: BTreeMap<ModelId, Candidate> = BTreeMap::new();
    for stored in report.store.iter().flat_map(|store| &store.models) {
        let name = stored.served_as.as_ref().unwrap_or(&stored.model);
        let one = known.entry(name.clone()).or_insert_with(|| Candidate::new(name.clone()));
        let StoredModel { size, quantisation, parameters, trained_context, digest, .. } = stored.clone();
        (one.size, one.quantisation, one.parameters) = (Some(size), quantisation, parameters);
        one.active_parameters = stored.active_parameters;
        (one.trained_context, one.digest) = (trained_context, digest.map(|digest| digest.to_string()));
        (one.architecture, one.broken) = (stored.architecture.clone(), stored.broken.clone());
    }
    for engine in report.engines.iter().flatten() {
        for replica in &engine.replicas {
            let one =
                known.entry(replica.model.clone()).or_insert_with(|| Candidate::new(replica.model.clone()));
            one.parameters = one.parameters.or(replica.parameters);
            one.size = one.size.or(replica.size);
            one.digest = one.digest.take().or_else(|| replica.digest.as_ref().map(ToString::to_string));
            one.trained_context = one.trained_context.or(replica.trained_context);
            one.can_chat = one.can_chat.or(replica.abilities.chat);
            one.can_embed = one.can_embed.or(replica.abilities.embed);
            one.can_size = engine.capabilities.can_size;
        }
    }
    known
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::{Cli, Command, LadderCommand};
    use crate::command::hands::loaded;
    use mesh_core::machine::{Abilities, Engine, EngineKind, Replica, ReplicaState, Store};

    fn args(line: &str) -> RunArgs {
        let cli = <Cli as clap::Parser>::try_parse_from(line.split(' ')).expect("a valid line");
        let Command::Ladder(LadderCommand::Run(args)) = cli.command else { panic!("a climb was typed") };
        args
    }

    fn id(name: &str) -> ModelId {
        ModelId::new(name).expect("a good name")
    }

    fn stored(name: &str, parameters: Option<u64>, size: u64) -> StoredModel {
        StoredModel { parameters, ..StoredModel::new(id(name), Bytes(size)) }
    }

    fn report() -> Report {
        let mut engine = Engine::new("llama-server", EngineKind::LlamaServer, true);
        let mut embed = Replica::new(id("nomic-embed"), ReplicaState::Available);
        embed.abilities = Abilities { embed: Some(true), ..Abilities::default() };
        engine.replicas = vec![embed, Replica::new(id("llama3:8b"), ReplicaState::Loaded)];
        engine.replicas[1].context = Some(4096);
        let models = vec![
            stored("llama3:8b", Some(8_030_000_000), 4_700_000_000),
            stored("llama3.2:1b", Some(1_240_000_000), 1_300_000_000),
            stored("strange", None, 2_000_000_000),
            stored("llama3.1:70b", Some(70_600_000_000), 42_000_000_000),
            StoredModel { architecture: Some("nomic-bert".into()), ..stored("bge", Some(100_000_000), 1) },
        ];
        let store = Store { models, ..Store::default() };
        Report { engines: Some(vec![engine]), store: Some(store), ..Report::default() }
    }

    fn names(line: &str) -> (Vec<String>, Vec<String>) {
        let (climbed, left_out) = candidates(&report(), &args(line)).expect("some");
        (climbed.iter().map(|one| one.model.to_string()).collect(), left_out)
    }

    #[test]
    fn models_come_from_the_smallest_to_the_largest_and_embeddings_are_left_out() {
        let (climbed, left_out) = names("meshctl ladder run --node a");
        assert_eq!(climbed, ["llama3.2:1b", "strange", "llama3:8b", "llama3.1:70b"]);
        assert_eq!(
            left_out,
            [
                "bge is left out: it makes embeddings and answers nothing",
                "nomic-embed is left out: it makes embeddings and answers nothing"
            ]
        );
    }

    #[test]
    fn bounds_are_as_round_as_names_and_names_need_no_bounds() {
        let (climbed, left_out) = names("meshctl ladder run --node a --from 1b --to 70b");
        assert_eq!(climbed, ["llama3.2:1b", "llama3:8b", "llama3.1:70b"]);
        assert!(
            left_out.iter().any(|line| line.contains("strange is left out: its parameters")),
            "{left_out:?}"
        );
        assert_eq!(names("meshctl ladder run --node a --to 1b").0, ["llama3.2:1b"]);
        assert_eq!(
            names("meshctl ladder run --node a --models strange,llama3:8b").0,
            ["strange", "llama3:8b"]
        );
    }

    #[test]
    fn what_is_not_there_is_told_with_names_like_it() {
        let wrong = candidates(&report(), &args("meshctl ladder run --node a --models llama3:8c"));
        let failure = wrong.expect_err("not there");
        assert_eq!(failure.kind, Kind::NotFound);
        assert!(failure.hints[0].starts_with("did you mean llama3:8b"), "{:?}", failure.hints);
        let none = candidates(&report(), &args("meshctl ladder run --node a --from 200b"));
        assert_eq!(none.expect_err("none").kind, Kind::NotFound);
    }

    #[test]
    fn a_smallest_model_above_the_largest_is_told() {
        for line in ["--from 8b", "--to 1b", "--from 500m --to 1b", "--from 8b --to 8b"] {
            assert_eq!(
                within_bounds(&args(&format!("meshctl ladder run --node a {line}"))),
                Ok(()),
                "{line}"
            );
        }
        let wrong = within_bounds(&args("meshctl ladder run --node a --from 8b --to 500m"));
        let failure = wrong.expect_err("nothing is between");
        assert_eq!(
            (failure.kind, failure.what.as_str(), failure.hints[0].as_str()),
            (
                Kind::Usage,
                "--from 8b is above --to 500m: nothing is between",
                "the other way round: --from 500m --to 8b"
            )
        );
    }

    #[test]
    fn names_tell_what_is_made_for_code() {
        let of = |name: &str| Candidate::new(id(name)).specialty();
        for name in
            ["qwen2.5-coder:7b", "codellama:13b", "DeepSeek-Coder-V2", "starcoder2:3b", "granite-code:8b"]
        {
            assert_eq!(of(name), Some("code"), "{name}");
        }
        for name in ["llama3:8b", "gpt-oss:20b", "text-encoder", "snac-decoder", "codec-24k", "decoder"] {
            assert_eq!(of(name), None, "{name}");
        }
    }

    #[test]
    fn labels_are_as_people_say_them() {
        let label = |parameters| Candidate { parameters, ..Candidate::new(id("m")) }.label();
        let counts = [Some(1_240_000_000), Some(8_030_000_000), Some(70_600_000_000), Some(1_400_000), None];
        assert_eq!(counts.map(label), ["1.2b", "8b", "71b", "1.4m", "?"]);
    }

    #[test]
    fn what_is_loaded_is_known_with_its_size() {
        let there = loaded(&report());
        assert_eq!(there.len(), 1);
        assert_eq!((there[0].model.as_str(), there[0].context), ("llama3:8b", Some(4096)));
    }
}
