//! Ctrl-C and SIGTERM become one cancellation that every task watches.

use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

/// A token that is cancelled by the first SIGINT, SIGTERM or SIGHUP of a closing terminal. A second SIGINT
/// ends the process at once with exit code 130.
///
/// # Errors
/// When the system refuses to install a handler.
pub fn on_ctrl_c_or_term() -> std::io::Result<CancellationToken> {
    let stop = CancellationToken::new();
    let (mut interrupt, mut terminate) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
    let mut hang_up = signal(SignalKind::hangup())?;
    let token = stop.clone();
    tokio::spawn(async move {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
            _ = hang_up.recv() => {}
        }
        tracing::info!("stopping");
        token.cancel();
        interrupt.recv().await;
        std::process::exit(crate::complaint::exit::INTERRUPTED.into());
    });
    Ok(stop)
}
