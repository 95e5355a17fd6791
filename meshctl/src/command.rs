//! The verbs, one file each, and what is common to running them: the runtime and Ctrl-C.

mod ask;
mod eval;
mod explain;
mod hands;
mod keep;
mod key;
mod ladder;
mod loan;
mod login;
mod mode;
mod model;
mod names;
mod node;
mod plan;
mod status;
mod stress;
mod token;
mod tried;
mod validate;
mod wait;
mod wall_clock;

use crate::cli::{Cli, Command, EvalCommand, LadderCommand, usual_data};
use crate::connect::Way;
use crate::exit::{Failure, Kind};
use crate::output::Screen;
pub(crate) use eval::{Judged, JudgedSuite, Side};
pub(crate) use ladder::MOST_TOKENS;
use tokio::signal::unix::{SignalKind, signal};

/// Runs what was typed to its end, or until Ctrl-C drops it: every pending call and answer is cancelled.
///
/// # Errors
/// The failure that decides the exit code.
pub(crate) fn conclude(typed: Cli, screen: &Screen) -> Result<(), Failure> {
    // Two libraries may have chosen differently; whoever is first in this process has chosen for all.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let globals = typed.globals;
    let data = globals.data.or_else(|| usual_data(|name| std::env::var_os(name))).ok_or_else(|| {
        Failure::new(Kind::Usage, "there is no data folder: HOME is not set").hint("name one: --data DIR")
    })?;
    let way = Way { data, router: globals.router, timeout: globals.timeout };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::new(Kind::Failed, "cannot start").cause(error.to_string()))?;
    // What was lent a machine has to put it back first.
    let minds_itself = matches!(
        typed.command,
        Command::Ladder(LadderCommand::Run(_))
            | Command::Eval(EvalCommand::Run(_))
            | Command::Validate(_)
            | Command::Stress(_)
    );
    let ended = runtime.block_on(async {
        tokio::select! {
            ended = perform(typed.command, &way, screen) => ended,
            () = interrupted(), if !minds_itself => Err(Failure::interrupted()),
        }
    });
    // Not by dropping: that waits for a thread that may still read stdin.
    runtime.shutdown_background();
    ended
}

async fn perform(command: Command, way: &Way, screen: &Screen) -> Result<(), Failure> {
    match command {
        Command::Status(args) => status::run(&args, way, screen).await,
        Command::Explain(args) => explain::run(args, way, screen).await,
        Command::Plan(args) => plan::run(args, way, screen).await,
        Command::Mode(command) => mode::run(command, way, screen).await,
        Command::Wait(args) => wait::run(args, way, screen).await,
        Command::Ask(args) => ask::run(args, way, screen).await,
        Command::Token(command) => token::run(command, way, screen).await,
        Command::Key(command) => key::run(command, way, screen).await,
        Command::Model(command) => model::run(command, way, screen).await,
        Command::Node(command) => node::run(command, way, screen).await,
        Command::Ladder(command) => ladder::run(command, way, screen, interrupted).await,
        Command::Eval(command) => eval::run(command, way, screen, interrupted).await,
        Command::Validate(command) => validate::run(command, way, screen, interrupted).await,
        Command::Stress(command) => stress::run(command, way, screen, interrupted).await,
        Command::Login(args) => login::run(args, way, screen).await,
    }
}

/// Ctrl-C, a terminal that is closed, or a polite kill; never, where the system cannot tell.
async fn interrupted() {
    let of = |kind: SignalKind| async move {
        match signal(kind) {
            Ok(mut told) => drop(told.recv().await),
            Err(_) => std::future::pending::<()>().await,
        }
    };
    tokio::select! {
        () = of(SignalKind::interrupt()) => {}
        () = of(SignalKind::hangup()) => {}
        () = of(SignalKind::terminate()) => {}
    }
}

/// What failed and why, in one line.
fn in_words(failure: &Failure) -> String {
    match &failure.cause {
        Some(cause) => format!("{}: {cause}", failure.what),
        None => failure.what.clone(),
    }
}

#[cfg(test)]
mod tests;
