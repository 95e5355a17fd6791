//! `meshctl model pull`: fetches a model onto a machine's disk and shows how far it is.

use super::change::refusal_in;
use super::{LOOK_EVERY, STALE_FAILURE};
use crate::cli::PullArgs;
use crate::command::node::{machines, read};
use crate::connect::{Operators, Way};
use crate::exit::{Failure, Kind};
use crate::output::Screen;
use crate::render::models::{done, left};
use crate::render::quantity::bytes;
use mesh_core::machine::{Report, StoreRefusal, Transfer, TransferState};
use mesh_core::units::human_duration;
use mesh_proto::v1::{DirectReply, DirectRequest};
use std::io::IsTerminal as _;
use std::time::Duration;
use tokio::time::Instant;

/// How long to wait when `--timeout` says nothing: a hundred gigabytes over a slow line take a day.
const USUAL_WAIT: Duration = Duration::from_secs(7 * 86_400);
/// How long a wish may take to show up in the machine's report.
const BEGUN_WITHIN: Duration = Duration::from_secs(15);
/// Between two lines of progress where stderr is no terminal.
const LINE_EVERY: Duration = Duration::from_secs(10);

/// How a refusal to fetch begins.
const FETCHED: [&str; 1] = ["not fetched"];

/// # Errors
/// `NotFound` for an unknown machine or a model that nobody has, `Failed` with the machine's words, `TimedOut`.
pub(super) async fn run(args: PullArgs, way: &Way, screen: &Screen) -> Result<(), Failure> {
    let which = &args.which;
    let mut operators = Way { timeout: None, ..way.clone() }.dial().await?;
    let before = report(&mut operators, &args).await?;
    if !args.cancel && is_stored(&before, &args) {
        return super::report(which, "on disk", "is on its disk already", screen);
    }
    let request = DirectRequest {
        node: which.node.to_string(),
        action: if args.cancel { "cancel" } else { "pull" }.into(),
        model: which.model.to_string(),
        url: args.url.clone().unwrap_or_default(),
        digest: args.sha256.as_ref().map(ToString::to_string).unwrap_or_default(),
        ..DirectRequest::default()
    };
    let _: DirectReply = operators.call(|mut client| async move { client.direct(request).await }).await?;
    if args.cancel {
        return super::report(which, "cancelled", "is no longer fetched", screen);
    }
    if which.no_wait {
        return super::report(which, "sent", "passed on; `meshctl model list` shows how far it is", screen);
    }
    let old = (transfer(&before, &args).cloned(), refusal_in(&before, which, &FETCHED));
    follow(&mut operators, &args, old, way.timeout.unwrap_or(USUAL_WAIT), screen).await
}

async fn follow(
    operators: &mut Operators,
    args: &PullArgs,
    (old, old_refusal): (Option<Transfer>, Option<StoreRefusal>),
    limit: Duration,
    screen: &Screen,
) -> Result<(), Failure> {
    let which = &args.which;
    let start = Instant::now();
    let mut progress = Progress::new();
    loop {
        tokio::time::sleep(LOOK_EVERY).await;
        let report = report(operators, args).await?;
        let now = transfer(&report, args);
        let refused = refusal_in(&report, which, &FETCHED);
        if let Some(StoreRefusal { reason: why, .. }) =
            refused.filter(|refused| old_refusal.as_ref() != Some(refused))
        {
            progress.end(screen);
            let what = format!("{} does not fetch {}", which.node, which.model);
            return Err(Failure::new(Kind::Failed, what).cause(why));
        }
        let is_old = now.is_some() && now == old.as_ref() && start.elapsed() < STALE_FAILURE;
        match now.map(|transfer| (transfer, &transfer.state)).filter(|_| !is_old) {
            Some((transfer, TransferState::Failed(why))) => {
                progress.end(screen);
                let what = format!("{} did not get {}", which.node, which.model);
                let failure = Failure::new(Kind::Failed, what).cause(why.clone());
                // The machine says so where what came was wrong.
                let kept = transfer.done.0 > 0 && !why.contains("is deleted");
                let again = "what has come is kept: the same command goes on from there";
                return Err(if kept { failure.hint(again) } else { failure });
            }
            Some((_, TransferState::Cancelled)) => {
                progress.end(screen);
                return Err(Failure::new(Kind::Failed, format!("fetching {} was cancelled", which.model)));
            }
            Some((transfer, TransferState::Done)) => {
                progress.end(screen);
                return finished(args, transfer.done.0, start.elapsed(), screen);
            }
            Some((transfer, TransferState::Waiting | TransferState::Running | TransferState::Verifying)) => {
                progress.show(transfer, screen);
            }
            None if is_stored(&report, args) => return finished(args, 0, start.elapsed(), screen),
            None if start.elapsed() > BEGUN_WITHIN && !is_old => {
                return Err(Failure::new(
                    Kind::Failed,
                    format!("{} did not begin to fetch {}", which.node, which.model),
                )
                .cause("its report says nothing of it")
                .hint(format!("the agent's log on {} says why", which.node)));
            }
            None => {}
        }
        if start.elapsed() >= limit {
            progress.end(screen);
            return Err(late(args, now, limit));
        }
    }
}

/// The time is over: how far it is, and what became of it before.
fn late(args: &PullArgs, now: Option<&Transfer>, limit: Duration) -> Failure {
    let which = &args.which;
    let what = format!("{} is not on {} after {}", which.model, which.node, human_duration(limit));
    let cause = match now.map(|transfer| (transfer, &transfer.state)) {
        None => "its report says nothing of it yet".to_owned(),
        Some((_, TransferState::Failed(why))) => why.clone(),
        Some((transfer, state)) => format!("{} from {}: {}", state.word(), transfer.source, done(transfer)),
    };
    Failure::new(Kind::TimedOut, what).cause(cause).hint("the machine goes on; look: meshctl model list")
}

fn finished(args: &PullArgs, fetched: u64, took: Duration, screen: &Screen) -> Result<(), Failure> {
    let which = &args.which;
    let size = if fetched > 0 { format!(" ({})", bytes(fetched)) } else { String::new() };
    let text = format!("is on its disk{size} after {}", human_duration(took));
    super::report(which, "on disk", &text, screen)
}

async fn report(operators: &mut Operators, args: &PullArgs) -> Result<Report, Failure> {
    match machines(operators, args.which.node.as_str()).await?.first() {
        Some(machine) => read(machine),
        None => Err(Failure::new(Kind::NotFound, format!("no node named `{}`", args.which.node))),
    }
}

fn transfer<'a>(report: &'a Report, args: &PullArgs) -> Option<&'a Transfer> {
    report.store.as_ref()?.transfers.iter().find(|transfer| transfer.model == args.which.model)
}

/// Whether the model is there, as the file that was asked for.
fn is_stored(report: &Report, args: &PullArgs) -> bool {
    let mut stored = report.store.iter().flat_map(|store| &store.models);
    let is_it = stored.any(|stored| {
        stored.model == args.which.model && (args.sha256.is_none() || stored.digest == args.sha256)
    });
    let running = transfer(report, args).is_some_and(|transfer| !transfer.state.is_over());
    is_it && !running
}

/// How far it is, on stderr: one line that changes on a terminal, a line now and then elsewhere.
struct Progress {
    in_place: bool,
    last: Option<Instant>,
}

impl Progress {
    fn new() -> Self {
        Self { in_place: std::io::stderr().is_terminal(), last: None }
    }

    fn show(&mut self, transfer: &Transfer, screen: &Screen) {
        let now = Instant::now();
        if !self.in_place && self.last.is_some_and(|last| now - last < LINE_EVERY) {
            return;
        }
        self.last = Some(now);
        let rate = transfer.rate.map_or_else(String::new, |rate| format!(", {}/s", bytes(rate.0)));
        let left = left(transfer).map_or_else(String::new, |left| format!(", {} left", human_duration(left)));
        let text =
            format!("{} from {}: {}{rate}{left}", transfer.state.word(), transfer.source, done(transfer));
        let text = screen.look.text(&text);
        screen.note(&if self.in_place { format!("\r\u{1b}[K{text}") } else { text + "\n" });
    }

    /// The line is over.
    fn end(&mut self, screen: &Screen) {
        if self.in_place && self.last.take().is_some() {
            screen.note("\n");
        }
    }
}
