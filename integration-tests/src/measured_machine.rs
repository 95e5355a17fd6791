//! A machine with two models on its disk and a real engine, and a person who types at its mesh: the program's own entry, its own
//! runtime, its own records.

use crate::engine_fixture::{random_model, real_engine, trained_model};
use crate::test_mesh::TestMesh;
use crate::test_node::TestNode;
use mesh_core::machine::ReplicaState;
use mesh_proto::v1::{DirectRequest, WishesRequest};
use std::ffi::OsString;

// The models of this repository by the names that they have here. Both have 1.4 M parameters.

/// It knows English-like technical sentences.
pub const TRAINED: &str = "trained";
/// It knows nothing.
pub const NOISE: &str = "untrained";

/// The machine.
pub struct MeasuredMachine {
    /// The mesh that it is in.
    pub mesh: TestMesh,
    /// The machine.
    pub node: TestNode,
    _disk: tempfile::TempDir,
}

impl MeasuredMachine {
    /// Starts it; `None` = no engine can be had here, which was said.
    ///
    /// # Panics
    /// When it cannot be started.
    pub async fn start() -> Option<Self> {
        if !real_engine().await {
            return None;
        }
        let mesh = TestMesh::automatic().await;
        let disk = tempfile::tempdir().expect("a temporary folder");
        for (file, name) in [(trained_model(), TRAINED), (random_model(), NOISE)] {
            std::fs::copy(file, disk.path().join(format!("{name}.gguf"))).expect("a folder of ours");
        }
        let settings = format!("model_folder = {:?}\n", disk.path().display().to_string());
        let node = mesh.node_with(mesh.router().agents, "a", &[], &settings).await;
        mesh.until("the models are on the disk", |snapshot| {
            snapshot.view.machines.iter().any(|machine| machine.store.models.len() == 2)
        })
        .await;
        Some(Self { mesh, node, _disk: disk })
    }

    /// Types a line, and gives the program's exit code.
    ///
    /// # Panics
    /// When the program does.
    pub async fn typed(&self, line: &str) -> u8 {
        let data = self.mesh.data().display().to_string();
        let words = ["meshctl", "--data", &data].into_iter().chain(line.split(' '));
        let words: Vec<OsString> = words.map(OsString::from).collect();
        // It makes a runtime of its own.
        let ended = tokio::task::spawn_blocking(move || meshctl::run(words.into_iter()));
        let code = ended.await.expect("no panic");
        (0..=u8::MAX).find(|number| std::process::ExitCode::from(*number) == code).expect("a code")
    }

    /// Loads a model in this size, and waits until it is there.
    ///
    /// # Panics
    /// When it cannot be.
    pub async fn load(&self, model: &str, context: u32, slots: u32) {
        let load = DirectRequest {
            node: self.node.name.to_string(),
            action: "load".into(),
            model: model.into(),
            context: Some(context),
            slots: Some(slots),
            ..DirectRequest::default()
        };
        self.mesh.operator().await.direct(load).await.expect("a wish that can be");
        let wanted = (model.to_owned(), Some(context), Some(slots));
        crate::eventually("it is loaded", async || self.loaded().contains(&wanted).then_some(())).await;
    }

    /// The models in memory, with context and slots.
    ///
    /// # Panics
    /// When the machine has left.
    pub fn loaded(&self) -> Vec<(String, Option<u32>, Option<u32>)> {
        let snapshot = self.mesh.router().fleet.snapshot();
        let machine = snapshot.view.machine(&self.node.name).expect("it has joined");
        let replicas = machine.engines.iter().flat_map(|engine| &engine.replicas);
        let loaded = replicas.filter(|replica| replica.state == ReplicaState::Loaded);
        loaded.map(|replica| (replica.model.to_string(), replica.context, replica.slots)).collect()
    }

    /// Whether it gets no new models.
    ///
    /// # Panics
    /// When the router does not answer.
    pub async fn is_cordoned(&self) -> bool {
        let reply =
            self.mesh.operator().await.wishes(WishesRequest {}).await.expect("it answers").into_inner();
        let wishes: mesh_core::strategy::Wishes = serde_json::from_str(&reply.wishes_json).expect("wishes");
        wishes.machines.get(&self.node.name).is_some_and(|limits| limits.cordoned)
    }
}
