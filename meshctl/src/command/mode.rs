//! `meshctl mode`: what modes want and what they get.

use super::names::mode;
use super::plan::wishes;
use super::{ask, status};
use crate::cli::ModeCommand;
use crate::connect::{Operators, Way};
use crate::exit::{Failure, Kind};
use crate::output::Screen;
use crate::render;
use crate::render::mode::View;
use mesh_core::strategy::Wishes;
use mesh_proto::v1::{ModeChange, ModeSetting, SetModeReply, SetModeRequest, StatusReply, WishesReply};
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

/// What `mode show --json` prints.
#[derive(Serialize)]
struct Page<'a> {
    #[serde(flatten)]
    view: View<'a>,
    /// Settings that were changed by hand.
    by_hand: Vec<&'a ModeSetting>,
}

/// What `mode set --json` prints.
#[derive(Serialize)]
struct Changed<'a> {
    mode: &'a str,
    /// Whose modes these are; empty = the configuration's.
    strategy: &'a str,
    changes: &'a [ModeChange],
    /// What is wrong with the mode although it can be wished so.
    warnings: &'a [String],
    /// It was made by hand, and there is no such mode any more.
    gone: bool,
    /// off, following
    state: &'a str,
}

/// # Errors
/// `NotFound` for an unknown mode, `Usage` for settings that make no sense; as `ask` for a test.
pub(super) async fn run(command: ModeCommand, way: &Way, screen: &Screen) -> Result<(), Failure> {
    let mut operators = way.dial().await?;
    match command {
        ModeCommand::List => {
            let (status, wishes, reply) = seen(&mut operators).await?;
            let modes = views(&status, &wishes);
            if screen.is_json() {
                let document = Document { modes, strategy: &wishes.strategy, state: &reply.state };
                return screen.result(&render::json("mesh.modes/v1", &document, false));
            }
            screen.result(&screen.commands(&render::mode::list(&modes, screen.look)))
        }
        ModeCommand::Show { mode: name } => {
            let (status, wishes, reply) = seen(&mut operators).await?;
            let view = view(&status, &wishes, &name)?;
            let by_hand: Vec<&ModeSetting> =
                reply.settings.iter().filter(|setting| setting.mode == view.name()).collect();
            if screen.is_json() {
                let page = Page { view, by_hand };
                return screen.result(&render::json("mesh.mode/v1", &page, false));
            }
            let page = render::mode::page(view, &status.models, &by_hand, screen.look);
            screen.result(&screen.commands(&page))
        }
        ModeCommand::Set { mode, settings, new } => {
            let setting = |(name, value)| ModeSetting { name, value, ..ModeSetting::default() };
            let settings = settings.into_iter().map(setting).collect();
            let request = SetModeRequest { mode, settings, new_mode: new, ..SetModeRequest::default() };
            change(request, &mut operators, screen).await
        }
        ModeCommand::Reset { mode, settings } => {
            let reset_all = settings.is_empty();
            let request = SetModeRequest { mode, reset: settings, reset_all, ..SetModeRequest::default() };
            change(request, &mut operators, screen).await
        }
        ModeCommand::Test { mode: name, key, url } => {
            let (status, wishes, _) = seen(&mut operators).await?;
            let view = view(&status, &wishes, &name)?;
            if view.wish.is_some_and(|wish| wish.embeds) {
                let what = format!("mode {} makes embeddings: a question cannot test it", view.name());
                return Err(Failure::new(Kind::Usage, what).hint("look at it: meshctl status"));
            }
            ask::trial(view.name(), key.as_deref(), url.as_deref(), way, screen).await
        }
    }
}

async fn seen(operators: &mut Operators) -> Result<(StatusReply, Wishes, WishesReply), Failure> {
    let status = status::fetch(operators).await?;
    let (wishes, reply) = wishes(operators).await?;
    Ok((status, wishes, reply))
}

/// Changes settings of a mode, or takes changes back.
async fn change(request: SetModeRequest, operators: &mut Operators, screen: &Screen) -> Result<(), Failure> {
    let asked = request.clone();
    let reply = operators.call(|mut client| async move { client.set_mode(request).await }).await;
    let reply = match reply {
        Ok(reply) => reply,
        Err(failure) if failure.kind == Kind::NotFound => {
            let (status, wishes, _) = seen(operators).await?;
            let near = view(&status, &wishes, &asked.mode).err().map(|near| near.hints).unwrap_or_default();
            let near = near.into_iter().find(|hint| hint.starts_with("did you mean"));
            let failure = near.into_iter().fold(failure, Failure::hint);
            return Err(match asked.settings.is_empty() {
                true => failure,
                false => failure.hint(format!("for a new mode: meshctl mode set {} --new …", asked.mode)),
            });
        }
        Err(failure) => return Err(failure),
    };
    let gone = asked.settings.is_empty() && is_gone(&reply.mode, operators).await;
    if screen.is_json() {
        let SetModeReply { mode, strategy, changes, state, warnings } = &reply;
        let document = Changed { mode, strategy, changes, warnings, gone, state };
        return screen.result(&render::json("mesh.mode-change/v1", &document, false));
    }
    screen.result(&render::mode::changed(&reply, gone, screen.look))?;
    for warning in &reply.warnings {
        screen.note(&screen.commands(&format!("# {}\n", screen.look.text(warning))));
    }
    if reply.changes.iter().all(|change| change.before == change.after) {
        return Ok(());
    }
    let next = match reply.state.as_str() {
        "following" => "the mesh plans anew: meshctl plan",
        _ => "what that would change: meshctl plan",
    };
    screen.note(&screen.commands(&format!("{next}\n")));
    Ok(())
}

/// Whether nobody has a mode of this name any more.
async fn is_gone(name: &str, operators: &mut Operators) -> bool {
    let seen = seen(operators).await;
    seen.is_ok_and(|(status, wishes, _)| view(&status, &wishes, name).is_err())
}

/// All modes: those that are served in the router's order, then those that are only wished.
pub(super) fn views<'a>(status: &'a StatusReply, wishes: &'a Wishes) -> Vec<View<'a>> {
    let wish = |name: &str| wishes.modes.iter().find(|wish| wish.mode.as_str() == name);
    let known = status.modes.iter().map(|mode| View::new(Some(mode), wish(&mode.name), &status.models));
    let is_new = |name: &str| status.modes.iter().all(|mode| mode.name != name);
    let only_wished = wishes.modes.iter().filter(|wish| is_new(wish.mode.as_str()));
    known.chain(only_wished.map(|wish| View::new(None, Some(wish), &status.models))).collect()
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
        Ok(mode) => Ok(View::new(Some(mode), wish, &status.models)),
        Err(_) if wish.is_some() => Ok(View::new(None, wish, &status.models)),
        Err(failure) => Err(failure),
    }
}
