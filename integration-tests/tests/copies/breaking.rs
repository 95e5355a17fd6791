//! Copies that something breaks in the middle. Each goes on where it was and ends as the same file.

use crate::{FLOATS, Models, digest, gguf, lent, pull, until_done, until_has, until_in_the_middle, wish};
use integration_tests::relay::Relay;
use integration_tests::test_mesh::{TestMesh, machine};

/// What one more window, twice over, may cost when something breaks: far less than the file.
fn resumed(lent: u64, file: &[u8]) {
    let length = file.len() as u64;
    assert!((length..length + length / 2).contains(&lent), "{lent} bytes were lent of a file of {length}");
}

#[tokio::test]
async fn a_copy_goes_on_after_its_link_was_cut() {
    let file = gguf(FLOATS, 1);
    let (from, to) = (Models::with("x", &file), Models::empty());
    let mesh = TestMesh::automatic().await;
    let relay = Relay::start(mesh.router().agents).await;
    let holder = mesh.node_with(mesh.router().agents, "holder", &[], &from.settings()).await;
    let settings = format!("data_link = \"quic\"\n{}", to.settings());
    let _puller = mesh.node_with(relay.address, "puller", &[], &settings).await;
    until_has(&mesh, "holder", &digest(&file)).await;
    wish(&mesh, "puller", pull("x", digest(&file))).await;
    until_in_the_middle(&mesh, "puller").await;
    relay.let_udp_pass(false);
    mesh.until("the link is lost", |snapshot| {
        snapshot.view.machine(&machine("puller")).is_some_and(|machine| machine.path.is_none())
    })
    .await;
    relay.let_udp_pass(true);
    until_done(&mesh, "puller").await;
    assert!(to.file("x") == file, "the same bytes");
    resumed(lent(&holder.metrics()), &file);
}

#[tokio::test]
async fn a_copy_goes_on_after_kill_9_of_the_machine_that_fetches() {
    let file = gguf(FLOATS, 2);
    let (from, to) = (Models::with("x", &file), Models::empty());
    let mesh = TestMesh::automatic().await;
    let holder = mesh.node_with(mesh.router().agents, "holder", &[], &from.settings()).await;
    let mut puller = mesh.node_process_with("puller", &[], &to.settings()).await;
    until_has(&mesh, "holder", &digest(&file)).await;
    mesh.until("it is there", |snapshot| {
        snapshot.view.machine(&puller.name).is_some_and(|one| one.path.is_some())
    })
    .await;
    wish(&mesh, "puller", pull("x", digest(&file))).await;
    until_in_the_middle(&mesh, "puller").await;
    puller.kill();
    assert_eq!(to.file("x"), b"", "nothing that looks whole");
    // Nobody repeats the wish.
    puller.start_again();
    until_has(&mesh, "puller", &digest(&file)).await;
    assert!(to.file("x") == file, "the same bytes");
    resumed(lent(&holder.metrics()), &file);
}

#[tokio::test]
async fn a_copy_goes_on_after_kill_9_of_the_machine_that_lends() {
    let file = gguf(FLOATS, 3);
    let (from, to) = (Models::with("x", &file), Models::empty());
    let mesh = TestMesh::automatic().await;
    let mut holder = mesh.node_process_with("holder", &[], &from.settings()).await;
    let _puller = mesh.node_with(mesh.router().agents, "puller", &[], &to.settings()).await;
    until_has(&mesh, "holder", &digest(&file)).await;
    wish(&mesh, "puller", pull("x", digest(&file))).await;
    assert_eq!(until_in_the_middle(&mesh, "puller").await, machine("holder"));
    holder.kill();
    holder.start_again();
    until_done(&mesh, "puller").await;
    assert!(to.file("x") == file, "the same bytes");
}

#[tokio::test]
async fn a_copy_goes_on_from_another_machine_when_its_own_is_gone() {
    let file = gguf(FLOATS, 4);
    let holders = [Models::with("x", &file), Models::with("renamed", &file)];
    let to = Models::empty();
    let mesh = TestMesh::automatic().await;
    let agents = mesh.router().agents;
    let a = mesh.node_with(agents, "a", &[], &holders[0].settings()).await;
    let b = mesh.node_with(agents, "b", &[], &holders[1].settings()).await;
    let _puller = mesh.node_with(agents, "puller", &[], &to.settings()).await;
    until_has(&mesh, "a", &digest(&file)).await;
    until_has(&mesh, "b", &digest(&file)).await;
    wish(&mesh, "puller", pull("x", digest(&file))).await;
    let first = until_in_the_middle(&mesh, "puller").await;
    let (gone, other) = if first == machine("a") { (a, b) } else { (b, a) };
    let before = lent(&gone.metrics());
    gone.kill();
    until_done(&mesh, "puller").await;
    assert!(to.file("x") == file, "the same bytes");
    let rest = lent(&other.metrics());
    assert!(rest > 0 && rest < file.len() as u64, "{before} from the first, {rest} from the other");
}
