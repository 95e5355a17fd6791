//! `meshctl status`: once, as a check, or again and again.

use crate::cli::StatusArgs;
use crate::connect::{Operators, Way};
use crate::exit::{Failure, Kind};
use crate::output::Screen;
use crate::render;
use mesh_core::units::human_duration;
use mesh_proto::v1::{StatusReply, StatusRequest};
use std::time::{Duration, SystemTime};
use tokio::time::Instant;

/// The JSON that `status --json` prints.
const SCHEMA: &str = "mesh.status/v1";

/// Cursor home; what follows overwrites the last picture without a flicker.
const HOME: &str = "\u{1b}[H";
/// The rest of the line, and the rest of the screen, go blank.
const CLEAR_LINE: &str = "\u{1b}[K\n";
const CLEAR_BELOW: &str = "\u{1b}[J";

/// # Errors
/// `Degraded` for `--check`; anything that keeps the router from answering, except while watching.
pub(super) async fn run(args: &StatusArgs, way: &Way, screen: &Screen) -> Result<(), Failure> {
    if let Some(seconds) = args.watch {
        return watch(Duration::from_secs(seconds), args.all, way, screen).await;
    }
    let mut operators = way.dial().await?;
    let reply = fetch(&mut operators).await?;
    let printed = if screen.is_json() {
        screen.result(&render::json(SCHEMA, &reply, false))
    } else {
        let text = render::status::screen(&reply, &operators.address, args.all, None, screen.look);
        screen.result(&screen.commands(&text))
    };
    if args.check {
        // The verdict counts even when nobody reads the picture.
        verdict(&reply)?;
    }
    printed
}

/// Asks for the whole status.
pub(super) async fn fetch(operators: &mut Operators) -> Result<StatusReply, Failure> {
    operators.call(|mut client| async move { client.status(StatusRequest {}).await }).await
}

fn verdict(reply: &StatusReply) -> Result<(), Failure> {
    let faults = render::status::not_ready(reply);
    if faults.is_empty() {
        return Ok(());
    }
    Err(Failure::new(Kind::Degraded, "the mesh is degraded").cause(faults.join(", ")))
}

/// Since when the router does not answer.
struct Silence {
    since: Instant,
    clock: String,
}

async fn watch(pause: Duration, all: bool, way: &Way, screen: &Screen) -> Result<(), Failure> {
    let mut operators: Option<Operators> = None;
    let mut last = StatusReply::default();
    let mut silence: Option<Silence> = None;
    let mut is_first = true;
    loop {
        let fresh = match &mut operators {
            Some(operators) => fetch(operators).await,
            None => match way.dial().await {
                Ok(mut dialled) => {
                    let reply = fetch(&mut dialled).await;
                    operators = Some(dialled);
                    reply
                }
                Err(failure) => Err(failure),
            },
        };
        let notice = match fresh {
            Ok(reply) => {
                (last, silence) = (reply, None);
                None
            }
            // A mistake or missing credentials do not heal by waiting; what was seen once may come back.
            Err(failure) if is_first && failure.kind != Kind::Unreachable => return Err(failure),
            Err(failure) => {
                // A new connection also reads renewed credentials.
                operators = None;
                let quiet = silence.get_or_insert_with(|| Silence { since: Instant::now(), clock: now() });
                Some(notice(quiet, &failure))
            }
        };
        is_first = false;
        let address = way.operators_address()?;
        picture(&last, &address, all, notice.as_deref(), &screen.again())?;
        tokio::time::sleep(pause).await;
    }
}

fn notice(silence: &Silence, failure: &Failure) -> String {
    let cause = failure.cause.as_deref().unwrap_or(&failure.what);
    let ago = human_duration(silence.since.elapsed());
    format!("router unreachable since {} ({ago}): {cause}", silence.clock)
}

fn now() -> String {
    let since_1970 = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    render::quantity::moment(u64::try_from(since_1970.as_millis()).unwrap_or(u64::MAX))
}

/// One picture of the watch: over the last one on a terminal, after it anywhere else.
fn picture(
    reply: &StatusReply,
    address: &str,
    all: bool,
    notice: Option<&str>,
    screen: &Screen,
) -> Result<(), Failure> {
    if screen.is_json() {
        // A router that is away has no status; the note says so and the stream of documents goes on later.
        return match notice {
            Some(notice) => {
                screen.note(&format!("{notice}\n"));
                Ok(())
            }
            None => screen.result(&render::json(SCHEMA, reply, true)),
        };
    }
    let text = render::status::screen(reply, address, all, notice, screen.look);
    let text = screen.commands(&text);
    if screen.is_terminal {
        screen.result(&format!("{HOME}{}{CLEAR_BELOW}", text.replace('\n', CLEAR_LINE)))
    } else {
        screen.result(&format!("{text}\n"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use mesh_proto::v1::{ModeStatus, NodeStatus};

    #[test]
    fn a_check_fails_for_every_node_and_mode_that_is_not_ready() {
        let node =
            |state: &str| NodeStatus { name: "msi".into(), state: state.into(), ..NodeStatus::default() };
        let mode =
            |state: &str| ModeStatus { name: "code".into(), state: state.into(), ..ModeStatus::default() };
        let mesh =
            |node, mode| StatusReply { nodes: vec![node], modes: vec![mode], ..StatusReply::default() };
        assert_eq!(verdict(&mesh(node("ready"), mode("ready"))), Ok(()));
        for degraded in [
            mesh(node("offline"), mode("ready")),
            mesh(node("ready"), mode("unserved")),
            mesh(node("suspect"), mode("loading")),
            StatusReply::default(),
        ] {
            assert_eq!(verdict(&degraded).map_err(|failure| failure.kind), Err(Kind::Degraded));
        }
        let both = verdict(&mesh(node("offline"), mode("unserved"))).expect_err("nothing is ready");
        assert_eq!(both.cause.as_deref(), Some("node msi is offline, mode code is unserved"));
    }
}
