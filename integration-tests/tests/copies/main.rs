//! Model files that go from one machine of the mesh to another over the real links, and what happens when a
//! machine, a link or a process goes away in the middle.

mod breaking;
mod copying;

use integration_tests::test_mesh::{TestMesh, machine};
use integration_tests::test_node::be_an_agent_if_asked;
use mesh_core::fleet::MachineView;
use mesh_core::id::{MachineId, ModelId};
use mesh_core::machine::{Digest, Directive, PullSource, PullWish, Transfer, TransferState};
use router::fleet_keeper::Snapshot;
use sha2::{Digest as _, Sha256};
use std::path::Path;
use std::time::{Duration, SystemTime};
use tempfile::TempDir;

/// Big enough to be in the middle of for seconds at [`SLOW`].
const FLOATS: usize = 2_000_000;

/// A machine that fetches at this speed is in the middle of it when a test breaks something.
const SLOW: &str = "2MiB";

/// A GGUF file with one tensor.
fn gguf(floats: usize, seed: u64) -> Vec<u8> {
    let mut out = b"GGUF\x03\0\0\0".to_vec();
    let text = |out: &mut Vec<u8>, text: &str| {
        out.extend((text.len() as u64).to_le_bytes());
        out.extend(text.as_bytes());
    };
    out.extend(1_u64.to_le_bytes());
    out.extend(1_u64.to_le_bytes());
    text(&mut out, "general.architecture");
    out.extend(8_u32.to_le_bytes());
    text(&mut out, "llama");
    text(&mut out, "output.weight");
    out.extend(1_u32.to_le_bytes());
    out.extend((floats as u64).to_le_bytes());
    out.extend(0_u32.to_le_bytes());
    out.extend(0_u64.to_le_bytes());
    out.resize(out.len().next_multiple_of(32), 0);
    let mut state = seed | 1;
    for _ in 0..floats {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        out.extend(((state >> 32) as u32).to_le_bytes());
    }
    out
}

fn digest(bytes: &[u8]) -> Digest {
    let digits: String = Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect();
    Digest::new(&digits).expect("64 digits")
}

fn model(name: &str) -> ModelId {
    ModelId::new(name).expect("a good name")
}

/// A model folder of its own, and the settings that name it.
struct Models {
    folder: TempDir,
    bandwidth: &'static str,
}

impl Models {
    fn empty() -> Self {
        Self { folder: tempfile::tempdir().expect("a temporary folder"), bandwidth: SLOW }
    }

    fn with(name: &str, file: &[u8]) -> Self {
        let models = Self::empty();
        let path = models.folder.path().join(format!("{name}.gguf"));
        std::fs::write(&path, file).expect("a file");
        // A file that has just been written is not hashed yet: somebody may still be copying it.
        let file = std::fs::File::options().write(true).open(&path).expect("just written");
        file.set_modified(SystemTime::now() - Duration::from_secs(60)).expect("our file");
        models
    }

    fn settings(&self) -> String {
        let folder = self.folder.path().display().to_string();
        format!("model_folder = {folder:?}\n[store]\nbandwidth = {:?}\n", self.bandwidth)
    }

    fn path(&self) -> &Path {
        self.folder.path()
    }

    fn file(&self, name: &str) -> Vec<u8> {
        std::fs::read(self.path().join(format!("{name}.gguf"))).unwrap_or_default()
    }
}

fn pull(name: &str, digest: Digest) -> PullWish {
    PullWish { model: model(name), source: PullSource::Mesh, digest: Some(digest), size: None }
}

async fn wish(mesh: &TestMesh, node: &str, wish: PullWish) {
    let sent = mesh.router().fleet.direct(&machine(node), Directive::Pull(wish)).await;
    sent.expect("it is connected");
}

fn on<'a>(snapshot: &'a Snapshot, node: &str) -> Option<&'a MachineView> {
    snapshot.view.machine(&machine(node))
}

/// Resolves when the router knows that `node` has a file with this digest.
async fn until_has(mesh: &TestMesh, node: &str, wanted: &Digest) {
    mesh.until(&format!("{node} has {wanted}"), |snapshot| {
        on(snapshot, node).is_some_and(|node| {
            node.path.is_some() && node.store.models.iter().any(|one| one.digest.as_ref() == Some(wanted))
        })
    })
    .await;
}

fn transfer(snapshot: &Snapshot, node: &str) -> Option<Transfer> {
    on(snapshot, node)?.store.transfers.first().cloned()
}

/// Resolves when `node` is in the middle of its transfer; who sends.
async fn until_in_the_middle(mesh: &TestMesh, node: &str) -> MachineId {
    let mut holder = None;
    mesh.until(&format!("{node} is in the middle"), |snapshot| {
        let seen = transfer(snapshot, node).filter(|seen| seen.done.0 > 500_000);
        holder = seen.as_ref().and_then(|seen| MachineId::new(seen.source.clone()).ok());
        seen.is_some_and(|seen| !seen.state.is_over())
    })
    .await;
    holder.expect("the source is a machine")
}

/// Resolves when the transfer of `node` is over.
async fn until_over(mesh: &TestMesh, node: &str) -> Transfer {
    let mut over = None;
    mesh.until(&format!("the end of the transfer to {node}"), |snapshot| {
        over = transfer(snapshot, node).filter(|seen| seen.state.is_over());
        over.is_some()
    })
    .await;
    over.expect("just seen")
}

async fn until_done(mesh: &TestMesh, node: &str) {
    assert_eq!(until_over(mesh, node).await.state, TransferState::Done);
}

/// Bytes that a node has lent, from its metrics.
fn lent(metrics: &str) -> u64 {
    let line = metrics.lines().find_map(|line| line.strip_prefix("modemesh_agent_lent_bytes_total "));
    line.expect("counted").parse().expect("a number")
}

/// Not a test: what a node in a process of its own runs.
#[test]
#[ignore = "started by other tests"]
fn agent_process() {
    be_an_agent_if_asked();
}
