//! What a typed name means in the mesh, and which names look like it where it means nothing.

use crate::exit::{Failure, Kind};
use crate::near::did_you_mean;
use mesh_proto::v1::{ModeStatus, ModelStatus, NodeStatus, StatusReply};

/// Names that are listed of one kind.
const LISTED: usize = 20;

/// The machine of this name.
///
/// # Errors
/// `NotFound` with names that look like it.
pub(super) fn node<'a>(status: &'a StatusReply, name: &str) -> Result<&'a NodeStatus, Failure> {
    status.nodes.iter().find(|node| node.name == name).ok_or_else(|| no_node(status, name))
}

/// That there is no machine of this name.
pub(super) fn no_node(status: &StatusReply, name: &str) -> Failure {
    let names = status.nodes.iter().map(|node| node.name.as_str());
    unknown(name, format!("no node named `{name}`"), names, "no machine has joined yet")
}

/// The mode of this name or alias, with or without `mesh/`.
///
/// # Errors
/// `NotFound` with names that look like it.
pub(super) fn mode<'a>(status: &'a StatusReply, name: &str) -> Result<&'a ModeStatus, Failure> {
    let bare = name.strip_prefix("mesh/").unwrap_or(name);
    let named = |mode: &&ModeStatus| mode.name == bare || mode.aliases.iter().any(|alias| alias == bare);
    let dashed = name.strip_prefix("mesh-");
    let found = status.modes.iter().find(named);
    found.or_else(|| status.modes.iter().find(|mode| Some(mode.name.as_str()) == dashed)).ok_or_else(|| {
        let names = status.modes.iter().map(|mode| mode.name.as_str());
        unknown(bare, format!("no mode named `{bare}`"), names, "there are no modes")
    })
}

/// The model of this name.
///
/// # Errors
/// `NotFound` with names that look like it.
pub(super) fn model<'a>(status: &'a StatusReply, name: &str) -> Result<&'a ModelStatus, Failure> {
    status.models.iter().find(|model| model.name == name).ok_or_else(|| {
        let names = status.models.iter().map(|model| model.name.as_str());
        unknown(name, format!("no model named `{name}`"), names, "no machine has a model")
    })
}

/// `what`, with the names of `known` that look like `typed` and all that there are.
pub(super) fn unknown<'a>(
    typed: &str,
    what: String,
    known: impl Iterator<Item = &'a str> + Clone,
    none: &str,
) -> Failure {
    let failure = Failure::new(Kind::NotFound, what);
    let failure = match did_you_mean(typed, known.clone()) {
        Some(hint) => failure.hint(hint),
        None => failure,
    };
    let (names, rest): (Vec<&str>, usize) =
        (known.clone().take(LISTED).collect(), known.skip(LISTED).count());
    match (names.is_empty(), rest) {
        (true, _) => failure.hint(none),
        (false, 0) => failure.hint(format!("there are: {}", names.join(", "))),
        (false, rest) => failure.hint(format!("there are: {}, and {rest} more", names.join(", "))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status() -> StatusReply {
        let node = |name: &str| NodeStatus { name: name.into(), ..NodeStatus::default() };
        let code = ModeStatus { name: "code".into(), aliases: vec!["build".into()], ..ModeStatus::default() };
        StatusReply { nodes: vec![node("msi"), node("strix-1")], modes: vec![code], ..StatusReply::default() }
    }

    #[test]
    fn an_unknown_node_names_those_like_it_and_the_known_ones() {
        let failure = node(&status(), "msj").expect_err("not there");
        assert_eq!(failure.kind, Kind::NotFound);
        assert_eq!(failure.hints, ["did you mean msi?", "there are: msi, strix-1"]);
        let failure = node(&StatusReply::default(), "msj").expect_err("not there");
        assert_eq!(failure.hints, ["no machine has joined yet"]);
    }

    #[test]
    fn a_mode_is_known_by_its_names_in_each_spelling() {
        for name in ["code", "mesh/code", "mesh-code", "build", "mesh/build"] {
            assert_eq!(mode(&status(), name).map(|mode| mode.name.as_str()), Ok("code"), "{name}");
        }
        let failure = mode(&status(), "mesh/coed").expect_err("not there");
        assert_eq!(failure.what, "no mode named `coed`");
        assert_eq!(failure.hints[0], "did you mean code?");
    }

    #[test]
    fn a_long_list_is_cut_and_counted() {
        let names: Vec<String> = (10..40).map(|number| format!("n{number}")).collect();
        let failure = unknown("zzz", "x".into(), names.iter().map(String::as_str), "none");
        assert_eq!(failure.hints.len(), 1);
        assert!(failure.hints[0].ends_with("n29, and 10 more"), "{:?}", failure.hints);
    }
}
