//! Who asks.

use super::waiting_room::Teller;
use std::sync::Arc;
use std::time::Duration;

/// Who asks.
#[derive(Debug, Clone, Default)]
pub struct Caller {
    /// The id of its API key.
    pub key: Arc<str>,
    /// Its session's name as a number, where it names one.
    pub session: Option<u64>,
    /// How long it is willing to wait for a slot: `x-mesh-deadline-ms`.
    pub deadline: Option<Duration>,
    /// Where to tell how the request stands before its first content.
    pub progress: Teller,
}
