//! The agent's program between a router and a logind on a real D-Bus daemon, through a machine's sleep.

use crate::scripted_logind::{Bus, ScriptedLogind};
use crate::scripted_router::{Attached, Mesh, ScriptedRouter, any};
use mesh_core::machine::Report;
use std::process::{Child, Command, Stdio};
use std::time::Duration;
use tokio::time::Instant;

struct Program(Child);

impl Program {
    fn start(mesh: &Mesh, router: &ScriptedRouter, bus: &str, more: &str) -> Self {
        let agent = mesh.agent_folder();
        let data = agent.parent().expect("the agent's folder is in the data folder");
        let text = format!("[discover]\nenabled = false\n[metrics]\nlisten = \"\"\n{more}");
        std::fs::write(data.join("agent.toml"), text).expect("written");
        let mut command = Command::new(env!("CARGO_BIN_EXE_mesh-agent"));
        command.args(["run", "--router", &router.address.to_string()]);
        command.env("MODEMESH_DATA", data).env("DBUS_SYSTEM_BUS_ADDRESS", bus).env("RUST_LOG", "info");
        let child = command.stdin(Stdio::null()).spawn().expect("the program starts");
        Self(child)
    }

    fn runs(&mut self) -> bool {
        self.0.try_wait().expect("it is ours").is_none()
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

async fn until_draining(attached: &mut Attached, seen: &mut Report, draining: bool) {
    while seen.draining != Some(draining) {
        seen.absorb(attached.report().await);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn logind_lets_the_machine_sleep_when_the_router_knows_and_the_agent_comes_back_after_it() {
    let Some(mut bus) = Bus::start() else { return };
    let mut logind = ScriptedLogind::start(&bus).await;
    let mesh = Mesh::new();
    mesh.certify(Duration::from_secs(3600));
    let mut router = ScriptedRouter::start(&mesh, any());
    let mut program = Program::start(&mesh, &router, &bus.address, "");
    let mut attached = router.attached().await;
    let mut seen = attached.report().await;
    assert_eq!(seen.draining, Some(false));
    let mut delay = logind.inhibited().await;
    assert_eq!((delay.what.as_str(), delay.mode.as_str()), ("sleep", "delay"));
    assert_eq!(delay.who, "modemesh agent");

    for round in 0..2 {
        assert!(delay.is_held(), "round {round}");
        let announced = Instant::now();
        logind.announce(true).await;
        until_draining(&mut attached, &mut seen, true).await;
        delay.released().await;
        let took = announced.elapsed();
        assert!(
            took < Duration::from_millis(1500),
            "the router knew, but the sleep was held up for {took:?}"
        );
        let quiet = Duration::from_millis(1200);
        assert!(logind.none_taken_for(quiet).await, "none is taken while the machine is about to sleep");

        logind.announce(false).await;
        until_draining(&mut attached, &mut seen, false).await;
        delay = logind.inhibited().await;
    }

    // Without the bus the agent works on.
    bus.die();
    delay.released().await;
    for _ in 0..3 {
        assert!(attached.message().await.is_some());
    }
    assert!(program.runs());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_closed_lid_is_blocked_where_the_owner_wants_it() {
    let Some(bus) = Bus::start() else { return };
    let mut logind = ScriptedLogind::start(&bus).await;
    let mesh = Mesh::new();
    mesh.certify(Duration::from_secs(3600));
    let mut router = ScriptedRouter::start(&mesh, any());
    let mut program = Program::start(&mesh, &router, &bus.address, "[sleep]\ninhibit_lid = true\n");
    drop(router.attached().await);
    let delay = logind.inhibited().await;
    let mut lid = logind.inhibited().await;
    assert_eq!((delay.what.as_str(), lid.what.as_str()), ("sleep", "handle-lid-switch"));
    assert!(lid.mode == "block" && lid.is_held() && program.runs());
    drop(program);
    lid.released().await;
}
