//! Room for the bodies that arrive: together they hold no more memory than is allowed, however many clients send at once
//! and however slowly.

use super::reply::ApiError;
use futures_util::FutureExt;
use http::StatusCode;
use mesh_core::units::human_bytes;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Semaphore;
use tokio::time::error::Elapsed;

/// A client has this long for its whole body: 8 MiB at 140 KB/s.
pub(super) const BODY_TIME: Duration = Duration::from_secs(60);
/// A body waits this long for room. Others arrive within moments as a rule, and a client that waits sends nothing anew.
const ROOM_TIME: Duration = Duration::from_secs(5);
/// A body of so many bytes at most is a small one.
const SMALL: u64 = 64 << 10;
/// Small bodies have this part of the room to themselves: large ones that come slowly keep nobody's question out.
const SMALL_SHARE: u64 = 8;

/// The room. Clones share it.
#[derive(Clone)]
pub(super) struct Arrivals {
    rooms: Arc<Rooms>,
}

/// A permit for each byte.
struct Rooms {
    small: Semaphore,
    large: Semaphore,
    total: u64,
}

impl Arrivals {
    /// Room for so many bytes together.
    pub(super) fn new(total: u64) -> Self {
        let room =
            |bytes| Semaphore::new(usize::try_from(bytes).unwrap_or(usize::MAX).min(Semaphore::MAX_PERMITS));
        let share = total / SMALL_SHARE;
        let rooms = Rooms { small: room(share), large: room(total - share), total };
        Self { rooms: Arc::new(rooms) }
    }

    /// Lets `reading` go on once there is room for the `length` of its body, or for `limit` where that is not known.
    ///
    /// # Errors
    /// 503 when no room becomes free. A body that is too slow is the inner error.
    pub(super) async fn read<T>(
        &self,
        length: Option<u64>,
        limit: usize,
        reading: impl Future<Output = T>,
    ) -> Result<Result<T, Elapsed>, ApiError> {
        let bytes = length.unwrap_or(limit as u64);
        let permits = u32::try_from(bytes).unwrap_or(u32::MAX);
        let room = if bytes <= SMALL { &self.rooms.small } else { &self.rooms.large };
        let _taken = match room.try_acquire_many(permits) {
            Ok(taken) => taken,
            Err(_) => match tokio::time::timeout(ROOM_TIME, room.acquire_many(permits)).await {
                Ok(Ok(taken)) => taken,
                // It is never closed.
                Ok(Err(_)) | Err(_) => return Err(self.full(bytes)),
            },
        };
        let mut reading = pin!(reading);
        // Most bodies are short and come with their heads: no clock is asked for those.
        if let Some(read) = (&mut reading).now_or_never() {
            return Ok(Ok(read));
        }
        Ok(tokio::time::timeout(BODY_TIME, reading).await)
    }

    fn full(&self, bytes: u64) -> ApiError {
        let message = format!(
            "the bodies that arrive now hold the {} that they may (`limits.arriving_bytes` in the router's configuration), and within {} s there was no room for {} more",
            human_bytes(self.rooms.total),
            ROOM_TIME.as_secs(),
            human_bytes(bytes),
        );
        ApiError::mesh(StatusCode::SERVICE_UNAVAILABLE, "bodies_full", message).retry_after(5)
    }
}
