//! systemd-logind over D-Bus: `org.freedesktop.login1.Manager`, of which we use `Inhibit` and `PrepareForSleep`.
//! Needs no privileges: everyone may delay a sleep; only blocking asks polkit.

use super::{BusError, Connect, Inhibitor, SleepBus};
use futures_util::StreamExt;
use futures_util::future::BoxFuture;
use zbus::zvariant::OwnedFd;

/// Who holds the inhibitor, as `systemd-inhibit --list` shows it.
const WHO: &str = "modemesh agent";

#[zbus::proxy(
    interface = "org.freedesktop.login1.Manager",
    default_service = "org.freedesktop.login1",
    default_path = "/org/freedesktop/login1",
    gen_blocking = false
)]
trait Manager {
    fn inhibit(&self, what: &str, who: &str, why: &str, mode: &str) -> zbus::Result<OwnedFd>;

    #[zbus(signal)]
    fn prepare_for_sleep(&self, start: bool) -> zbus::Result<()>;
}

/// A connection to logind.
pub struct Logind {
    manager: ManagerProxy<'static>,
    announcements: PrepareForSleepStream,
}

impl Logind {
    /// Finds logind on the system's bus, or on the one at `address`.
    #[must_use]
    pub fn connect(address: Option<String>) -> Connect {
        Box::new(move || {
            let address = address.clone();
            Box::pin(async move {
                let found =
                    Self::open(address).await.map_err(|error| BusError::Connect(error.to_string()))?;
                Ok(Box::new(found) as Box<dyn SleepBus>)
            })
        })
    }

    async fn open(address: Option<String>) -> zbus::Result<Self> {
        let connection = match &address {
            Some(address) => zbus::connection::Builder::address(address.as_str())?,
            None => zbus::connection::Builder::system()?,
        };
        let manager = ManagerProxy::new(&connection.build().await?).await?;
        // Before the first inhibitor, or a sleep between the two would go unheard.
        let announcements = manager.receive_prepare_for_sleep().await?;
        Ok(Self { manager, announcements })
    }

    async fn inhibit(
        &self,
        what: &'static str,
        why: &'static str,
        mode: &'static str,
    ) -> Result<Inhibitor, BusError> {
        let held = self.manager.inhibit(what, WHO, why, mode).await;
        let held = held.map_err(|error| BusError::Inhibit { what, mode, cause: error.to_string() })?;
        // logind's rule: the inhibitor ends when its file is closed.
        Ok(Box::new(held))
    }
}

impl SleepBus for Logind {
    fn delay_sleep(&mut self) -> BoxFuture<'_, Result<Inhibitor, BusError>> {
        Box::pin(self.inhibit("sleep", "tells the router that this machine leaves", "delay"))
    }

    fn block_lid(&mut self) -> BoxFuture<'_, Result<Inhibitor, BusError>> {
        Box::pin(self.inhibit("handle-lid-switch", "serves models with a closed lid", "block"))
    }

    fn announced(&mut self) -> BoxFuture<'_, Result<bool, BusError>> {
        Box::pin(async {
            loop {
                let Some(signal) = self.announcements.next().await else { return Err(BusError::Closed) };
                // A signal without its argument is not logind's.
                if let Ok(arguments) = signal.args() {
                    return Ok(*arguments.start());
                }
            }
        })
    }
}
