//! `meshctl mode`: what modes want and what they get.

use super::names::mode;
use super::plan::wishes;
use super::{ask, status};
use crate::cli::ModeCommand;
use crate::connect::Way;
use crate::exit::{Failure, Kind};
use crate::output::Screen;
use crate::render;
use crate::render::mode::View;
use mesh_core::strategy::Wishes;
use mesh_proto::v1::StatusReply;
use serde::Serialize;

/// What `mode list --json` prints.
#[derive(Serialize)]
struct Document<'a> {
    modes: Vec<View<'a>>,
    /// Whose wishes these are; empty = no strategy's.
    strategy: &'a str,
    /// off, following
    state: &'a str,
}

/// # Errors
/// `NotFound` for an unknown mode; as `ask` for a test.
pub(super) async fn run(command: ModeCommand, way: &Way, screen: &Screen) -> Result<(), Failure> {
    let mut operators = way.dial().await?;
    let status = status::fetch(&mut operators).await?;
    let (wishes, reply) = wishes(&mut operators).await?;
    match command {
        ModeCommand::List => {
            let modes = views(&status, &wishes);
            if screen.is_json() {
                let document = Document { modes, strategy: &wishes.strategy, state: &reply.state };
                return screen.result(&render::json("mesh.modes/v1", &document, false));
            }
            screen.result(&screen.commands(&render::mode::list(&modes, screen.look)))
        }
        ModeCommand::Show { mode: name } => {
            let view = view(&status, &wishes, &name)?;
            if screen.is_json() {
                return screen.result(&render::json("mesh.mode/v1", &view, false));
            }
            screen.result(&screen.commands(&render::mode::page(view, &status.models, screen.look)))
        }
        ModeCommand::Test { mode: name, key, url } => {
            let view = view(&status, &wishes, &name)?;
            if view.wish.is_some_and(|wish| wish.embeds) {
                let what = format!("mode {} makes embeddings: a question cannot test it", view.name());
                return Err(Failure::new(Kind::Usage, what).hint("look at it: meshctl status"));
            }
            ask::trial(view.name(), key.as_deref(), url.as_deref(), way, screen).await
        }
    }
}

/// All modes: those that are served in the router's order, then those that are only wished.
pub(super) fn views<'a>(status: &'a StatusReply, wishes: &'a Wishes) -> Vec<View<'a>> {
    let wish = |name: &str| wishes.modes.iter().find(|wish| wish.mode.as_str() == name);
    let known = status.modes.iter().map(|mode| View { status: Some(mode), wish: wish(&mode.name) });
    let is_new = |name: &str| status.modes.iter().all(|mode| mode.name != name);
    let only_wished = wishes.modes.iter().filter(|wish| is_new(wish.mode.as_str()));
    known.chain(only_wished.map(|wish| View { status: None, wish: Some(wish) })).collect()
}

/// The mode of this name or alias.
///
/// # Errors
/// `NotFound` with names that look like it.
pub(super) fn view<'a>(status: &'a StatusReply, wishes: &'a Wishes, name: &str) -> Result<View<'a>, Failure> {
    let bare = name.strip_prefix("mesh/").unwrap_or(name);
    let found = mode(status, name);
    let name = found.as_ref().map_or(bare, |mode| mode.name.as_str());
    let wish = wishes.modes.iter().find(|wish| wish.mode.as_str() == name);
    match found {
        Ok(mode) => Ok(View { status: Some(mode), wish }),
        Err(_) if wish.is_some() => Ok(View { status: None, wish }),
        Err(failure) => Err(failure),
    }
}
