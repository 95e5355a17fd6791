//! `meshctl node drain`, `cordon` and `resume`.

use crate::command::names::{no_node, node};
use crate::command::status::fetch;
use crate::connect::Way;
use crate::exit::{Failure, Kind};
use crate::output::Screen;
use crate::render;
use mesh_core::id::MachineId;
use mesh_proto::v1::SetNodeRequest;
use serde::Serialize;

/// What a person wishes of a machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Wish {
    /// Its models go elsewhere.
    Drain,
    /// What it holds stays, nothing new comes.
    Cordon,
    /// Neither.
    Resume,
}

impl Wish {
    /// The word of the wire.
    fn word(self) -> &'static str {
        match self {
            Self::Drain => "drain",
            Self::Cordon => "cordon",
            Self::Resume => "resume",
        }
    }

    /// What the machine is then.
    fn state(self) -> &'static str {
        match self {
            Self::Drain => "drained",
            Self::Cordon => "cordoned",
            Self::Resume => "open",
        }
    }

    /// What becomes of it.
    fn effect(self) -> &'static str {
        match self {
            Self::Drain => "its models go elsewhere once their requests are answered, nothing new comes",
            Self::Cordon => "what it holds stays, nothing new comes",
            Self::Resume => "the plan may use it",
        }
    }
}

/// What `node drain --json` prints.
#[derive(Serialize)]
struct Outcome<'a> {
    node: &'a str,
    /// open, drained, cordoned
    state: &'a str,
    before: &'a str,
}

/// # Errors
/// `NotFound` for an unknown machine.
pub(super) async fn run(name: &MachineId, wish: Wish, way: &Way, screen: &Screen) -> Result<(), Failure> {
    let mut operators = way.dial().await?;
    let status = fetch(&mut operators).await?;
    if wish != Wish::Resume {
        // A machine that is gone may still be drained, and resumed.
        node(&status, name.as_str())?;
    }
    let request = SetNodeRequest { node: name.to_string(), wish: wish.word().into() };
    let reply = operators.call(|mut client| async move { client.set_node(request).await }).await;
    let known = |failure: Failure| {
        if failure.kind == Kind::NotFound { no_node(&status, name.as_str()) } else { failure }
    };
    let before = reply.map_err(known)?.before;
    if before == wish.state() {
        // Nothing was to be ended there: the name may be mistyped.
        node(&status, name.as_str())?;
    }
    if screen.is_json() {
        let outcome = Outcome { node: name.as_str(), state: wish.state(), before: &before };
        return screen.result(&render::json("mesh.standing/v1", &outcome, false));
    }
    screen.result(&words(name, wish, &screen.look.text(&before)))?;
    if wish == Wish::Drain {
        screen
            .note(&screen.commands(&format!("until it is empty: meshctl wait --for node={name},drained\n")));
    }
    Ok(())
}

fn words(name: &MachineId, wish: Wish, before: &str) -> String {
    let (state, effect) = (wish.state(), wish.effect());
    if before == state {
        return format!("{name} was {state} already: {effect}\n");
    }
    format!("{name} is {state}, it was {before}: {effect}\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_it_was_before_is_told() {
        let name = MachineId::new("strix-1").expect("valid");
        assert_eq!(
            words(&name, Wish::Cordon, "open"),
            "strix-1 is cordoned, it was open: what it holds stays, nothing new comes\n"
        );
        assert_eq!(words(&name, Wish::Resume, "open"), "strix-1 was open already: the plan may use it\n");
    }
}
