//! A mesh of one machine with two real models on its disk, and a person who types at it.

use crate::engine_fixture::{random_model, real_engine, trained_model};
use crate::test_mesh::TestMesh;
use crate::test_node::TestNode;
use mesh_core::machine::{Replica, ReplicaState};
use mesh_proto::v1::{DirectRequest, WishesRequest};
use nix::unistd::Pid;
use std::ffi::OsString;
use std::fs;

/// The models of this repository by the names that they have here. Both have 1.4 M parameters.
pub const TRAINED: &str = "trained";
/// Random weights.
pub const NOISE: &str = "untrained";

/// The mesh, and its machine `a`.
pub struct Desk {
    /// The mesh.
    pub mesh: TestMesh,
    /// The machine.
    pub node: TestNode,
    disk: tempfile::TempDir,
}

impl Desk {
    /// `None` where there is no real engine; the test must then return.
    ///
    /// # Panics
    /// When the mesh does not come up.
    pub async fn start() -> Option<Self> {
        if !real_engine().await {
            return None;
        }
        let mesh = TestMesh::automatic().await;
        let disk = tempfile::tempdir().expect("a temporary folder");
        for (file, name) in [(trained_model(), TRAINED), (random_model(), NOISE)] {
            fs::copy(file, disk.path().join(format!("{name}.gguf"))).expect("a folder of ours");
        }
        let settings = format!("model_folder = {:?}\n", disk.path().display().to_string());
        let node = mesh.node_with(mesh.router().agents, "a", &[], &settings).await;
        mesh.until("the models are on the disk", |snapshot| {
            snapshot.view.machines.iter().any(|machine| machine.store.models.len() == 2)
        })
        .await;
        Some(Self { mesh, node, disk })
    }

    /// Types a line at `meshctl`, and gives the program's exit code.
    ///
    /// # Panics
    /// When the program does.
    pub async fn typed(&self, line: &str) -> u8 {
        let data = self.mesh.data().display().to_string();
        let words = ["meshctl", "--data", &data].into_iter().chain(line.split_whitespace());
        let words: Vec<OsString> = words.map(OsString::from).collect();
        // It makes a runtime of its own.
        let ended = tokio::task::spawn_blocking(move || meshctl::run(words.into_iter()));
        let code = ended.await.expect("no panic");
        (0..=u8::MAX).find(|number| std::process::ExitCode::from(*number) == code).expect("a code")
    }

    /// The models in memory, with context and slots.
    ///
    /// # Panics
    /// When the machine has not joined.
    #[must_use]
    pub fn loaded(&self) -> Vec<(String, Option<u32>, Option<u32>)> {
        let loaded = self.replicas().into_iter().filter(|replica| replica.state == ReplicaState::Loaded);
        loaded.map(|replica| (replica.model.to_string(), replica.context, replica.slots)).collect()
    }

    /// Whether the model rests on the disk: nobody has it in memory, nor will start it by himself.
    ///
    /// # Panics
    /// When the machine has not joined.
    #[must_use]
    pub fn rests(&self, name: &str) -> bool {
        let here = self.replicas().into_iter().filter(|replica| replica.model.as_str() == name);
        let states: Vec<ReplicaState> = here.map(|replica| replica.state).collect();
        !states.is_empty() && states.iter().all(|state| *state == ReplicaState::Available)
    }

    fn replicas(&self) -> Vec<Replica> {
        let snapshot = self.mesh.router().fleet.snapshot();
        let machine = snapshot.view.machine(&self.node.name).expect("it has joined");
        machine.engines.iter().flat_map(|engine| &engine.replicas).cloned().collect()
    }

    /// The engine process that serves this model here: a child of ours, with the model's file among its words. Other tests of
    /// this program have desks of their own.
    ///
    /// # Panics
    /// When there is no `/proc`.
    #[must_use]
    pub fn engine_of(&self, name: &str) -> Option<Pid> {
        let file = self.disk.path().join(format!("{name}.gguf")).display().to_string();
        let is_served = |pid: &str| {
            let words = fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            words.split('\0').any(|word| word == file)
        };
        let parent = |pid: &str| {
            let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
            stat.rsplit_once(") ")?.1.split(' ').nth(1)?.parse::<u32>().ok()
        };
        let processes = fs::read_dir("/proc").expect("processes").flatten();
        let mut pids = processes.filter_map(|entry| entry.file_name().into_string().ok());
        let found = pids.find(|pid| is_served(pid) && parent(pid) == Some(std::process::id()));
        found?.parse().ok().map(Pid::from_raw)
    }

    /// Loads the trained model with a context of 512 and one slot, and gives what is then in memory.
    ///
    /// # Panics
    /// When it does not load.
    pub async fn load_one(&self) -> Vec<(String, Option<u32>, Option<u32>)> {
        let load = DirectRequest {
            node: "a".into(),
            action: "load".into(),
            model: TRAINED.into(),
            context: Some(512),
            slots: Some(1),
            ..DirectRequest::default()
        };
        self.mesh.operator().await.direct(load).await.expect("a wish that can be");
        let there = vec![(TRAINED.to_owned(), Some(512), Some(1))];
        crate::eventually("it is loaded", async || (self.loaded() == there).then_some(())).await;
        there
    }

    /// The files on the machine's disk for models, those that are on their way too.
    ///
    /// # Panics
    /// When the folder cannot be read.
    #[must_use]
    pub fn files(&self) -> Vec<String> {
        let (mut folders, mut files) = (vec![self.disk.path().to_owned()], Vec::new());
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(folder).expect("a folder of ours") {
                let path = entry.expect("an entry").path();
                if path.is_dir() {
                    folders.push(path);
                } else {
                    files.push(path.display().to_string());
                }
            }
        }
        files.sort_unstable();
        files
    }

    /// Whether the machine gets no new models.
    ///
    /// # Panics
    /// When the router does not answer.
    pub async fn is_cordoned(&self) -> bool {
        let reply =
            self.mesh.operator().await.wishes(WishesRequest {}).await.expect("it answers").into_inner();
        let wishes: mesh_core::strategy::Wishes = serde_json::from_str(&reply.wishes_json).expect("wishes");
        wishes.machines.get(&self.node.name).is_some_and(|limits| limits.cordoned)
    }

    /// The text of the one record in this folder of the data folder.
    ///
    /// # Panics
    /// When there is none, more than one, or a half-written one.
    #[must_use]
    pub fn kept(&self, folder: &str) -> String {
        let files = fs::read_dir(self.mesh.data().join(folder)).expect("it was made");
        let mut files: Vec<_> = files.collect();
        assert_eq!(files.len(), 1, "one record and no half-written one: {files:?}");
        let file = files.remove(0).expect("an entry").path();
        fs::read_to_string(file).expect("a file")
    }
}
