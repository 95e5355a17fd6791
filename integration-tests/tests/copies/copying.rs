//! Copies that nothing disturbs, and those that cannot be.

use crate::{Models, digest, gguf, lent, model, pull, until_done, until_has, until_over, wish};
use integration_tests::soon;
use integration_tests::test_mesh::{TestMesh, machine};
use mesh_core::machine::{Digest, Directive, TransferKind, TransferState};
use mesh_proto::v1::{BlobRequest, response_head};
use modemesh::local_node;
use node_agent::app::{Agent, AgentOptions};
use node_agent::config::AgentConfig;
use prometheus_client::registry::Registry;
use tokio_util::sync::CancellationToken;

#[tokio::test]
async fn a_model_is_copied_from_the_machine_that_has_it_and_is_the_same_file() {
    let file = gguf(200_000, 1);
    let (from, to) = (Models::with("org-x", &file), Models::empty());
    let mesh = TestMesh::automatic().await;
    let agents = mesh.router().agents;
    let holder = mesh.node_with(agents, "holder", &[], &from.settings()).await;
    let _puller = mesh.node_with(agents, "puller", &[], &to.settings()).await;
    until_has(&mesh, "holder", &digest(&file)).await;
    wish(&mesh, "puller", pull("org/x:copy", digest(&file))).await;
    let over = until_over(&mesh, "puller").await;
    assert_eq!(
        (over.state, over.kind, over.source.as_str()),
        (TransferState::Done, TransferKind::Copy, "holder")
    );
    assert!(to.file("org/x%3Acopy") == file, "the same bytes");
    until_has(&mesh, "puller", &digest(&file)).await;
    assert_eq!(lent(&holder.metrics()), file.len() as u64);
}

#[tokio::test]
async fn a_model_is_copied_between_machines_that_no_udp_reaches() {
    let file = gguf(200_000, 6);
    let (from, to) = (Models::with("x", &file), Models::empty());
    let mesh = TestMesh::automatic().await;
    let agents = mesh.router().agents;
    let over_tcp = |models: &Models| format!("data_link = \"h2\"\n{}", models.settings());
    let holder = mesh.node_with(agents, "holder", &[], &over_tcp(&from)).await;
    let _puller = mesh.node_with(agents, "puller", &[], &over_tcp(&to)).await;
    until_has(&mesh, "holder", &digest(&file)).await;
    wish(&mesh, "puller", pull("copy", digest(&file))).await;
    assert_eq!(until_over(&mesh, "puller").await.state, TransferState::Done);
    assert!(to.file("copy") == file, "the same bytes");
    assert_eq!(lent(&holder.metrics()), file.len() as u64);
}

#[tokio::test]
async fn a_file_that_no_other_machine_has_is_a_clear_failure() {
    let (file, nowhere) = (gguf(1000, 2), Digest::new(&"ab".repeat(32)).expect("64 digits"));
    let (own, other) = (Models::with("own", &file), Models::empty());
    let mesh = TestMesh::automatic().await;
    let agents = mesh.router().agents;
    let _alone = mesh.node_with(agents, "alone", &[], &own.settings()).await;
    let _other = mesh.node_with(agents, "other", &[], &other.settings()).await;
    until_has(&mesh, "alone", &digest(&file)).await;
    // Its own file does not count: it wants another copy of it under another name.
    for wanted in [nowhere, digest(&file)] {
        wish(&mesh, "alone", pull(&format!("copy-{}", &wanted.as_str()[..4]), wanted.clone())).await;
        let name = model(&format!("copy-{}", &wanted.as_str()[..4]));
        mesh.until("the failure", |snapshot| {
            let machine = snapshot.view.machine(&machine("alone"));
            machine.is_some_and(|machine| {
                machine.store.transfers.iter().any(|one| {
                    one.model == name
                        && matches!(&one.state, TransferState::Failed(why) if why.contains("no other machine that is up has the file"))
                })
            })
        })
        .await;
    }
}

#[tokio::test]
async fn the_router_reads_the_header_of_a_model_that_lies_elsewhere_and_no_other_file() {
    let file = gguf(500_000, 3);
    let from = Models::with("x", &file);
    std::fs::write(from.path().join("secret.txt"), b"secret").expect("a file");
    let mesh = TestMesh::automatic().await;
    let _holder = mesh.node_with(mesh.router().agents, "holder", &[], &from.settings()).await;
    until_has(&mesh, "holder", &digest(&file)).await;
    let blobs = &mesh.router().blobs;
    for from in [None, Some(machine("holder"))] {
        let header = blobs.model_header(from.as_ref(), &model("x")).await.expect("readable");
        assert_eq!((header.architecture(), header.parameters()), (Some("llama"), 500_000));
    }
    let (first, size, parts) =
        blobs.first_bytes(&machine("holder"), &model("x"), 0, 4, 100).await.expect("readable");
    assert_eq!((&first[..], size, parts), (&file[4..104], file.len() as u64, 1));
    for name in ["secret.txt", "nowhere", "x.gguf"] {
        let refused = blobs.first_bytes(&machine("holder"), &model(name), 0, 0, 100).await;
        assert!(refused.is_err_and(|error| error.to_string().contains("no model")), "{name}");
    }
    let refused = blobs.model_header(None, &model("nowhere")).await.expect_err("nobody has it");
    assert!(refused.to_string().contains("no machine that is up"), "{refused}");

    // Nothing but a digest or a model's name names a file.
    let link = mesh.router().links.get(&machine("holder")).expect("linked");
    for digest in ["../secret.txt", "/etc/passwd", "x", "%2e%2e", ""] {
        let request = BlobRequest { digest: digest.into(), length: 10, ..BlobRequest::default() };
        let answer = link.blob(request).await.expect("an answer");
        let Some(response_head::Outcome::Refused(refused)) = answer.head.outcome else { panic!("{digest}") };
        assert_eq!(refused.kind, "bad_request", "{digest}");
    }
}

#[tokio::test]
async fn a_machine_lends_two_files_at_once_and_headers_beside_them() {
    let file = gguf(2_000_000, 4);
    let from = Models::with("x", &file);
    let mesh = TestMesh::automatic().await;
    let _holder = mesh.node_with(mesh.router().agents, "holder", &[], &from.settings()).await;
    until_has(&mesh, "holder", &digest(&file)).await;
    let link = mesh.router().links.get(&machine("holder")).expect("linked");
    let whole = BlobRequest { digest: digest(&file).to_string(), ..BlobRequest::default() };
    let mut held = Vec::new();
    for _ in 0..2 {
        let answer = link.blob(whole.clone()).await.expect("an answer");
        assert!(matches!(answer.head.outcome, Some(response_head::Outcome::Blob(_))));
        held.push(answer);
    }
    let third = link.blob(whole.clone()).await.expect("an answer");
    let Some(response_head::Outcome::Refused(refused)) = third.head.outcome else { panic!("a third") };
    assert_eq!(refused.kind, "busy");
    let header = mesh.router().blobs.model_header(None, &model("x")).await;
    assert!(header.is_ok(), "{header:?}");
    // Dropped, they are free again.
    held.clear();
    integration_tests::eventually("it lends again", async || {
        let answer = link.blob(whole.clone()).await.expect("an answer");
        matches!(answer.head.outcome, Some(response_head::Outcome::Blob(_))).then_some(())
    })
    .await;
}

#[tokio::test]
async fn the_machine_in_the_routers_own_process_copies_and_lends_like_others() {
    let (theirs, ours) = (gguf(100_000, 5), gguf(100_000, 6));
    let (far, near) = (Models::with("theirs", &theirs), Models::with("ours", &ours));
    let mesh = TestMesh::automatic().await;
    let _far = mesh.node_with(mesh.router().agents, "far", &[], &far.settings()).await;
    let (data, stop) = (tempfile::tempdir().expect("a temporary folder"), CancellationToken::new());
    let mut config = AgentConfig { model_folder: Some(near.path().into()), ..AgentConfig::default() };
    config.discover.enabled = false;
    let name = machine("near");
    let options =
        AgentOptions { data: data.path().into(), name: name.clone(), root: "/".into(), uplink: None };
    let agent =
        Agent::start(options, &config, &mut Registry::default(), stop.clone()).await.expect("it starts");
    local_node::attach(
        mesh.router(),
        name,
        agent.serve.clone(),
        agent.direct.clone(),
        agent.reports.clone(),
        stop.clone(),
    )
    .await;
    until_has(&mesh, "far", &digest(&theirs)).await;
    until_has(&mesh, "near", &digest(&ours)).await;
    (agent.direct)(Directive::Pull(pull("copy", digest(&theirs))));
    wish(&mesh, "far", pull("copy", digest(&ours))).await;
    until_done(&mesh, "near").await;
    until_done(&mesh, "far").await;
    assert!(near.file("copy") == theirs && far.file("copy") == ours, "the same bytes");
    stop.cancel();
    soon("the agent's end", agent.stopped()).await;
}
