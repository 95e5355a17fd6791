//! Attached agents: greeting, reports, directives, and how sessions end.

use crate::plane::{Attached, Plane, hello, within};
use mesh_core::id::ModelId;
use mesh_core::machine::{Directive, Report};
use mesh_proto::fleet_wire::report_to_wire;
use mesh_proto::v1::agent_message::Kind;
use mesh_proto::v1::fleet_client::FleetClient;
use mesh_proto::v1::router_message::Kind as Down;
use mesh_proto::v1::{self, Heartbeat};
use tonic::Code;
use tonic::transport::Channel;

async fn node(plane: &Plane, name: &str) -> FleetClient<Channel> {
    let credentials = plane.node(name).await.credentials();
    plane.known(&credentials).await.expect("TLS")
}

/// What the router says when these are the first words.
async fn answer(client: &mut FleetClient<Channel>, first: Kind) -> (Code, String) {
    let mut attached = Attached::open(client).await.expect("a node");
    attached.say(first).await;
    match attached.next().await {
        Err(status) => (status.code(), status.message().to_owned()),
        Ok(message) => panic!("no refusal but {message:?}"),
    }
}

async fn until_seen(plane: &Plane, name: &str, wanted: impl Fn(&mesh_core::fleet::MachineView) -> bool) {
    let name = name.parse().expect("a name");
    let mut snapshots = plane.fleet.snapshots();
    let seen = within(snapshots.wait_for(|snapshot| snapshot.view.machine(&name).is_some_and(&wanted))).await;
    assert!(seen.is_ok(), "the keeper lives");
}

#[tokio::test]
async fn a_report_goes_up_and_a_directive_comes_down() {
    let plane = Plane::start().await;
    let mut client = node(&plane, "strix").await;
    let mut attached = Attached::greet(&mut client, "boot").await.expect("a welcome");
    attached.say(Kind::Heartbeat(Heartbeat { sequence: 1 })).await;
    let draining = Report { draining: Some(true), ..Report::default() };
    attached.say(Kind::Report(report_to_wire(&draining))).await;
    until_seen(&plane, "strix", |machine| machine.draining).await;

    let wish = Directive::Load(ModelId::new("qwen3:8b").expect("a name").into());
    plane.fleet.direct(&"strix".parse().expect("a name"), wish).await.expect("it is attached");
    let Some(Down::Directive(v1::Directive { wish: Some(v1::directive::Wish::Load(wish)), .. })) =
        attached.next().await.expect("a message")
    else {
        panic!("a directive was due");
    };
    assert_eq!(wish.model, "qwen3:8b");
}

#[tokio::test]
async fn an_agent_of_another_protocol_is_told_both_versions() {
    let plane = Plane::start().await;
    let mut client = node(&plane, "strix").await;
    let (code, why) = answer(&mut client, hello(99, "boot")).await;
    assert_eq!(code, Code::FailedPrecondition);
    let both = format!("agent speaks protocol 99, router needs {}", mesh_proto::PROTOCOL);
    assert!(why.contains(&both), "{why}");
}

#[tokio::test]
async fn the_first_word_must_be_a_hello_and_a_sane_one() {
    let plane = Plane::start().await;
    let mut client = node(&plane, "strix").await;
    let (code, why) = answer(&mut client, Kind::Heartbeat(Heartbeat { sequence: 1 })).await;
    assert_eq!((code, why.as_str()), (Code::FailedPrecondition, "the first message must be a hello"));
    for boot_id in ["x".repeat(257), "two\nlines".into()] {
        let (code, why) = answer(&mut client, hello(mesh_proto::PROTOCOL, &boot_id)).await;
        assert_eq!(code, Code::InvalidArgument, "{why}");
        assert!(why.contains("hello.boot_id"), "{why}");
    }
}

#[tokio::test]
async fn an_invalid_report_ends_the_session_and_names_the_field() {
    let plane = Plane::start().await;
    let mut client = node(&plane, "strix").await;
    let mut attached = Attached::greet(&mut client, "boot").await.expect("a welcome");
    let engine = v1::Engine {
        name: "e".into(),
        kind: "ollama".into(),
        state: "dreaming".into(),
        ..v1::Engine::default()
    };
    let engines = v1::Engines { engines: vec![engine] };
    attached.say(Kind::Report(v1::Report { engines: Some(engines), ..v1::Report::default() })).await;
    let status = attached.next().await.expect_err("no such engine");
    assert_eq!(status.code(), Code::InvalidArgument, "{status}");
    assert!(status.message().contains("engine.state holds unknown word `dreaming`"), "{status}");
}

#[tokio::test]
async fn a_second_hello_and_an_empty_message_end_the_session() {
    let plane = Plane::start().await;
    let mut client = node(&plane, "strix").await;
    let mut attached = Attached::greet(&mut client, "one").await.expect("a welcome");
    attached.say(hello(mesh_proto::PROTOCOL, "two")).await;
    assert_eq!(attached.next().await.expect_err("once is enough").code(), Code::InvalidArgument);
    let mut attached = Attached::greet(&mut client, "one").await.expect("a welcome");
    within(attached.up.send(v1::AgentMessage { kind: None })).await.expect("open");
    assert_eq!(attached.next().await.expect_err("nothing said").code(), Code::InvalidArgument);
}

#[tokio::test]
async fn a_newer_session_of_the_same_machine_says_goodbye_to_the_older_one() {
    let plane = Plane::start().await;
    let mut client = node(&plane, "strix").await;
    let mut older = Attached::greet(&mut client, "one").await.expect("a welcome");
    let mut newer = Attached::greet(&mut client, "two").await.expect("a welcome");
    let Some(Down::Goodbye(goodbye)) = older.next().await.expect("a message") else {
        panic!("a goodbye was due");
    };
    assert!(goodbye.reason.contains("another agent"), "{}", goodbye.reason);
    assert!(matches!(older.next().await, Ok(None)), "then the stream ends");

    let wish = Directive::Unload(ModelId::new("m").expect("a name"));
    plane.fleet.direct(&"strix".parse().expect("a name"), wish).await.expect("the newer one is attached");
    assert!(matches!(newer.next().await, Ok(Some(Down::Directive(_)))));
}

#[tokio::test]
async fn an_agent_that_leaves_is_detached() {
    let plane = Plane::start().await;
    let mut client = node(&plane, "strix").await;
    let attached = Attached::greet(&mut client, "boot").await.expect("a welcome");
    until_seen(&plane, "strix", |machine| machine.liveness == mesh_core::health::Liveness::Alive).await;
    drop(attached);
    until_seen(&plane, "strix", |machine| machine.liveness != mesh_core::health::Liveness::Alive).await;
}

#[tokio::test]
async fn a_router_that_stops_says_goodbye_and_ends_without_waiting_for_agents() {
    let mut plane = Plane::start().await;
    let mut client = node(&plane, "strix").await;
    let mut attached = Attached::greet(&mut client, "boot").await.expect("a welcome");
    plane.stop.cancel();
    let Some(Down::Goodbye(goodbye)) = attached.next().await.expect("a message") else {
        panic!("a goodbye was due");
    };
    assert_eq!(goodbye.reason, "the router is stopping");
    drop((attached, client));
    within(&mut plane.serving).await.expect("no panic").expect("a clean end");
}
