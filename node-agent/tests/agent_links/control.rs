//! The control link against a scripted router.

use crate::scripted_router::{Mesh, ScriptedRouter, any, is_private};
use crate::soon;
use mesh_core::id::ModelId;
use mesh_core::machine::{Directive, Engine, EngineKind, EngineState, Hardware, Reading, Report, Vitals};
use mesh_proto::fleet_wire::directive_to_wire;
use mesh_proto::v1::{Goodbye, agent_message, router_message};
use node_agent::app::{JoinFlags, join_router};
use node_agent::metrics::Metrics;
use node_agent::router_link::control::{ControlLink, Pacing};
use node_agent::router_link::{Identity, Reports};
use prometheus_client::registry::Registry;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

const LONG: Duration = Duration::from_secs(3600);

/// A control link whose reports the test writes.
struct Link {
    vitals: watch::Sender<Arc<Vitals>>,
    engines: watch::Sender<Arc<Vec<Engine>>>,
    draining: watch::Sender<bool>,
    told_draining: watch::Receiver<bool>,
    displaced: watch::Sender<u64>,
    directives: mpsc::Receiver<Directive>,
    identity: Identity,
    stop: CancellationToken,
    task: JoinHandle<()>,
}

fn quick() -> Pacing {
    Pacing { heartbeat: Duration::from_millis(20), ..Pacing::default() }
}

fn link(mesh: &Mesh, router: SocketAddr, pacing: Pacing) -> Link {
    let identity = Identity::open(&mesh.agent_folder()).expect("credentials");
    let (vitals, vitals_seen) = watch::channel(Arc::new(vitals(0.1)));
    let (engines, engines_seen) = watch::channel(Arc::default());
    let (draining, draining_seen) = watch::channel(false);
    let (told, told_draining) = watch::channel(false);
    let displaced = watch::Sender::new(0);
    let (directed, directives) = mpsc::channel(16);
    let hardware = Hardware {
        hostname: "test".into(),
        cpu: Reading::unknown("test"),
        cpu_threads: 2,
        system: Reading::unknown("test"),
        agent_version: "0".into(),
        launch: None,
    };
    let control = ControlLink {
        router: router.to_string(),
        identity: identity.clone(),
        reports: Reports {
            hardware: Arc::new(hardware),
            vitals: vitals_seen,
            engines: engines_seen,
            store: watch::channel(Arc::default()).1,
            profile: watch::channel(Arc::from("{}")).1,
            draining: draining_seen,
        },
        direct: Arc::new(move |directive| directed.try_send(directive).expect("the test reads")),
        boot_id: "boot-1".into(),
        metrics: Metrics::new(&mut Registry::default()),
        up: watch::Sender::new(false),
        displaced: displaced.clone(),
        told_draining: told,
        pacing,
    };
    let stop = CancellationToken::new();
    let task = tokio::spawn(control.run(stop.clone()));
    Link { vitals, engines, draining, told_draining, displaced, directives, identity, stop, task }
}

fn vitals(load: f32) -> Vitals {
    Vitals {
        gpus: Reading::Known(vec![]),
        load: Reading::Known(load),
        uptime_s: Reading::Known(60),
        ..Vitals::unknown("test")
    }
}

#[tokio::test]
async fn a_session_begins_with_everything_and_goes_on_with_what_changes() {
    let mesh = Mesh::new();
    mesh.certify(LONG);
    let mut router = ScriptedRouter::start(&mesh, any());
    let link = link(&mesh, router.address, quick());
    let mut agent = router.attached().await;
    assert_eq!(agent.boot_id, "boot-1");
    let full = agent.report().await;
    assert!(full.is_full());
    assert_eq!(full.vitals, Some(vitals(0.1)));
    // Nothing but heartbeats while nothing changes.
    for sequence in 0..5 {
        assert_eq!(agent.heartbeat().await, sequence);
    }
    link.vitals.send_replace(Arc::new(vitals(0.2)));
    let delta = agent.report().await;
    assert_eq!(delta, Report { vitals: Some(vitals(0.2)), ..Report::default() });
    // The same value again is no change: the next report is about the engines alone.
    link.vitals.send_replace(Arc::new(vitals(0.2)));
    agent.heartbeat().await;
    let engine =
        Engine { state: EngineState::Up, ..Engine::new("llama-server-1", EngineKind::LlamaServer, false) };
    link.engines.send_replace(Arc::new(vec![engine.clone()]));
    assert_eq!(agent.report().await, Report { engines: Some(vec![engine]), ..Report::default() });
}

#[tokio::test]
async fn the_late_word_of_a_router_that_was_replaced_changes_nothing() {
    let mesh = Mesh::new();
    mesh.certify(LONG);
    let mut router = ScriptedRouter::start(&mesh, any());
    let mut link = link(&mesh, router.address, quick());
    let agent = router.attached().await;
    let load = |model: &str| Directive::Load(ModelId::new(model).expect("a name").into());
    let wish = |model: &str, term| router_message::Kind::Directive(directive_to_wire(&load(model), term));
    for (model, term) in [("first", 2), ("late", 1), ("same", 2), ("unfenced", 0), ("late-again", 1)] {
        agent.say(wish(model, term)).await;
    }
    for model in ["first", "same", "unfenced"] {
        assert_eq!(soon("a directive", link.directives.recv()).await, Some(load(model)));
    }
    // The term is kept over sessions.
    drop(agent);
    let agent = router.attached().await;
    for (model, term) in [("late", 1), ("newer", 3), ("now-late", 2), ("last", 3)] {
        agent.say(wish(model, term)).await;
    }
    for model in ["newer", "last"] {
        assert_eq!(soon("a directive", link.directives.recv()).await, Some(load(model)));
    }
    link.stop.cancel();
    soon("the end", link.task).await.expect("no panic");
}

#[tokio::test]
async fn directives_reach_the_supervisor() {
    let mesh = Mesh::new();
    mesh.certify(LONG);
    let mut router = ScriptedRouter::start(&mesh, any());
    let mut link = link(&mesh, router.address, quick());
    let agent = router.attached().await;
    let load = Directive::Load(ModelId::new("tiny").expect("a name").into());
    // One that this agent does not know must not end the session.
    let unknown = mesh_proto::v1::Directive { wish: None, term: 0 };
    agent.say(router_message::Kind::Directive(unknown)).await;
    agent.say(router_message::Kind::Directive(directive_to_wire(&load, 0))).await;
    assert_eq!(soon("the directive", link.directives.recv()).await, Some(load));
}

#[tokio::test]
async fn a_router_that_died_and_came_back_hears_everything_again() {
    let mesh = Mesh::new();
    mesh.certify(LONG);
    let mut router = ScriptedRouter::start(&mesh, any());
    let link = link(&mesh, router.address, quick());
    let mut agent = router.attached().await;
    assert!(agent.report().await.is_full());
    let address = router.die();
    link.vitals.send_replace(Arc::new(vitals(0.9)));
    let mut again = ScriptedRouter::start(&mesh, address);
    let full = again.attached().await.report().await;
    assert!(full.is_full());
    assert_eq!(full.vitals, Some(vitals(0.9)));
}

#[tokio::test]
async fn a_replaced_session_stays_away_for_a_while() {
    let mesh = Mesh::new();
    mesh.certify(LONG);
    let mut router = ScriptedRouter::start(&mesh, any());
    let away = Duration::from_millis(400);
    let link = link(&mesh, router.address, Pacing { after_goodbye: away, ..quick() });
    let agent = router.attached().await;
    let before = Instant::now();
    let reason = "another agent has attached under this name, with the same key".into();
    agent.say(router_message::Kind::Goodbye(Goodbye { reason, come_back: false })).await;
    drop(router.attached().await);
    assert!(before.elapsed() >= away, "it came back after {:?}", before.elapsed());
    assert_eq!(*link.displaced.borrow(), 1, "the data link is told");
}

#[tokio::test]
async fn a_router_that_stops_on_purpose_is_dialled_again_soon() {
    let mesh = Mesh::new();
    mesh.certify(LONG);
    let mut router = ScriptedRouter::start(&mesh, any());
    let link = link(&mesh, router.address, Pacing { after_goodbye: LONG, ..quick() });
    let agent = router.attached().await;
    let reason = "the router is stopping".into();
    agent.say(router_message::Kind::Goodbye(Goodbye { reason, come_back: true })).await;
    assert!(router.attached().await.report().await.is_full());
    assert_eq!(*link.displaced.borrow(), 0);
}

#[tokio::test]
async fn an_old_certificate_is_renewed_once_and_kept() {
    let mesh = Mesh::new();
    // Valid from a minute ago for half a minute more: past two thirds of its life.
    mesh.certify(Duration::from_secs(25));
    let old = std::fs::read(mesh.agent_folder().join("chain.pem")).expect("a chain");
    let mut router = ScriptedRouter::start(&mesh, any());
    let link = link(&mesh, router.address, quick());
    let mut agent = router.attached().await;
    assert!(agent.report().await.is_full());
    router.renewed().await;
    let hour_ahead = SystemTime::now() + LONG;
    soon("the new certificate is in use", async {
        while link.identity.current().expires_at() < hour_ahead {
            agent.heartbeat().await;
        }
    })
    .await;
    let chain = mesh.agent_folder().join("chain.pem");
    assert_ne!(std::fs::read(&chain).expect("a chain"), old);
    assert!(is_private(&chain) && is_private(&mesh.agent_folder().join("key.pem")));
    for _ in 0..5 {
        agent.heartbeat().await;
    }
    assert!(!router.renewed_meanwhile() && !router.attached_meanwhile(), "the session goes on, once renewed");
}

#[tokio::test]
async fn an_ended_certificate_waits_until_the_machine_has_joined_again() {
    let mesh = Mesh::new();
    mesh.certify(Duration::ZERO);
    let mut router = ScriptedRouter::start(&mesh, any());
    let check = Duration::from_millis(20);
    let link = link(&mesh, router.address, Pacing { rejoined_check: check, ..quick() });
    assert!(link.identity.current().expires_at() <= SystemTime::now());
    mesh.certify(LONG);
    assert!(router.attached().await.report().await.is_full());
}

#[tokio::test]
async fn the_last_word_is_that_the_machine_drains() {
    let mesh = Mesh::new();
    mesh.certify(LONG);
    let mut router = ScriptedRouter::start(&mesh, any());
    let link = link(&mesh, router.address, Pacing { heartbeat: LONG, ..Pacing::default() });
    let mut agent = router.attached().await;
    assert!(agent.report().await.is_full());
    assert!(matches!(agent.message().await, Some(agent_message::Kind::Heartbeat(_))));
    link.draining.send_replace(true);
    link.stop.cancel();
    assert_eq!(agent.report().await, Report { draining: Some(true), ..Report::default() });
    assert!(agent.message().await.is_none(), "and then it leaves");
    drop(agent);
    soon("the link's end", link.task).await.expect("no panic");
}

/// A token of this authority, with the given secret.
fn token(mesh: &Mesh, secret: char) -> String {
    let pin = mesh.authority.pin().expect("a pin");
    format!("mesh1.{pin}.k3f9x2ab.{}", secret.to_string().repeat(43))
}

#[tokio::test]
async fn joining_saves_what_running_needs() {
    let mesh = Mesh::new();
    let router = ScriptedRouter::start(&mesh, any());
    let data = tempfile::tempdir().expect("a temporary folder");
    let flags = JoinFlags {
        router: router.address.to_string(),
        token: token(&mesh, 'E'),
        name: Some("node-7".into()),
    };
    let said = join_router(data.path(), &flags).await.expect("a good token");
    assert!(said.contains("as node-7"), "{said}");
    let folder = data.path().join("agent");
    let read = |file: &str| std::fs::read_to_string(folder.join(file)).expect("written").trim().to_owned();
    assert_eq!((read("router"), read("name")), (router.address.to_string(), "node-7".into()));
    let identity = Identity::open(&folder).expect("credentials");
    assert_eq!(identity.current().peer().name.as_str(), "node-7");
    assert!(is_private(&folder.join("key.pem")));
}

#[tokio::test]
async fn each_way_of_not_joining_has_its_own_words_and_exit_code() {
    let (mesh, other) = (Mesh::new(), Mesh::new());
    let router = ScriptedRouter::start(&mesh, any());
    let data = tempfile::tempdir().expect("a temporary folder");
    let at = router.address.to_string();
    let gone = ScriptedRouter::start(&mesh, any()).die().to_string();
    for (router, token, code, part) in [
        (&at, "mesh1.cut".to_owned(), 6, "was it cut when copied"),
        (&at, token(&other, 'E'), 6, "its CA has another key"),
        (&at, token(&mesh, 'A'), 6, "this token was used by `node-9`"),
        (&gone, token(&mesh, 'E'), 5, "cannot reach the router"),
    ] {
        let flags = JoinFlags { router: router.clone(), token, name: Some("node-7".into()) };
        let complaint = join_router(data.path(), &flags).await.expect_err("refused");
        assert_eq!(complaint.exit, code, "{complaint}");
        assert!(complaint.to_string().contains(part), "{part:?} is not in: {complaint}");
        assert!(!complaint.to_string().contains(&"E".repeat(12)), "no secret in errors");
    }
}

#[tokio::test]
async fn the_link_says_when_the_news_that_we_drain_has_left_and_takes_it_back() {
    let mesh = Mesh::new();
    mesh.certify(LONG);
    let mut router = ScriptedRouter::start(&mesh, any());
    let mut link = link(&mesh, router.address, quick());
    let mut agent = router.attached().await;
    assert!(agent.report().await.is_full() && !*link.told_draining.borrow());
    link.draining.send_replace(true);
    soon("the report leaves", link.told_draining.wait_for(|&told| told)).await.expect("the link runs");
    assert_eq!(agent.report().await.draining, Some(true));
    link.draining.send_replace(false);
    soon("it is taken back", link.told_draining.wait_for(|&told| !told)).await.expect("the link runs");
    assert_eq!(agent.report().await.draining, Some(false));
    // A router that is gone has heard nothing, whatever the last one heard.
    link.draining.send_replace(true);
    soon("the report leaves", link.told_draining.wait_for(|&told| told)).await.expect("the link runs");
    router.die();
    soon("the link is down", link.told_draining.wait_for(|&told| !told)).await.expect("the link runs");
    link.stop.cancel();
    soon("the end", link.task).await.expect("it ends");
}
