//! The operators' calls about placement, over their own door, with a router as it is started and scripted agents.

#[expect(dead_code, reason = "this test needs one manner of the agent's")]
#[path = "steward/scripted_agent.rs"]
mod scripted_agent;

use mesh_core::id::ModelId;
use mesh_core::machine::ReplicaState;
use mesh_core::placement::Plan;
use mesh_core::strategy::Wishes;
use mesh_daemon::config_layers::KeyLines;
use mesh_proto::identity::{Credentials, connect};
use mesh_proto::v1::operator_client::OperatorClient;
use mesh_proto::v1::{
    ModeSetting, PinModelRequest, PlanReply, PlanRequest, SetModeReply, SetModeRequest, SetNodeRequest,
    StatusReply, StatusRequest, WishesRequest,
};
use router::app::{Router, operator_folder};
use router::config::{Listen, RouterConfig, check};
use scripted_agent::{Agent, GIB, Manner};
use std::path::Path;
use std::time::Duration;
use tokio_util::sync::CancellationToken;
use tonic::transport::Channel;
use tonic::{Code, Status};

const PATIENCE: Duration = Duration::from_secs(60);

struct Mesh {
    router: Router,
    operator: OperatorClient<Channel>,
    stop: CancellationToken,
}

impl Mesh {
    async fn start(data: &Path) -> Self {
        let any = || "127.0.0.1:0".to_owned();
        let listen = Listen { clients: any(), agents: any(), operators: any() };
        let config = RouterConfig { listen, ..RouterConfig::default() };
        let settings = check(config, "a test".into(), &KeyLines::default()).expect("it makes sense");
        let stop = CancellationToken::new();
        let router = Router::start(data, settings, stop.clone()).await.expect("it starts");
        let credentials = Credentials::load(&operator_folder(data)).expect("made at the start");
        let address = router.operators.to_string();
        let channel = connect::channel(&address, &credentials).await.expect("it listens");
        Self { router, operator: OperatorClient::new(channel), stop }
    }

    async fn end(self) {
        drop(self.operator);
        self.stop.cancel();
        self.router.stopped().await;
    }

    async fn plan(&mut self, strategy: &str, what_if: &[&str]) -> Result<PlanReply, Status> {
        let what_if = what_if.iter().map(|text| (*text).to_owned()).collect();
        let request = PlanRequest { strategy: strategy.into(), what_if };
        self.operator.plan(request).await.map(tonic::Response::into_inner)
    }

    async fn apply(&mut self, strategy: &str) -> Result<PlanReply, Status> {
        let request = PlanRequest { strategy: strategy.into(), what_if: vec![] };
        self.operator.apply_plan(request).await.map(tonic::Response::into_inner)
    }

    async fn node(&mut self, node: &str, wish: &str) -> Result<String, Status> {
        let request = SetNodeRequest { node: node.into(), wish: wish.into() };
        self.operator.set_node(request).await.map(|reply| reply.into_inner().before)
    }

    async fn pin(&mut self, model: &str, node: &str, pinned: bool) -> Result<bool, Status> {
        let request = PinModelRequest { model: model.into(), node: node.into(), pinned };
        self.operator.pin_model(request).await.map(|reply| reply.into_inner().was_so)
    }

    /// `set` as they are typed; a word without `=` is a setting that is reset.
    async fn mode(&mut self, mode: &str, words: &[&str]) -> Result<SetModeReply, Status> {
        let mut request = SetModeRequest { mode: mode.into(), ..SetModeRequest::default() };
        for word in words {
            match word.split_once('=') {
                Some((name, value)) => request.settings.push(ModeSetting {
                    name: name.into(),
                    value: value.into(),
                    ..ModeSetting::default()
                }),
                None => request.reset.push((*word).into()),
            }
        }
        request.reset_all = words.is_empty();
        self.operator.set_mode(request).await.map(tonic::Response::into_inner)
    }

    async fn wishes(&mut self) -> (Wishes, String, Vec<String>) {
        let reply = self.operator.wishes(WishesRequest {}).await.expect("it answers").into_inner();
        let applied = reply.strategies.iter().filter(|line| line.applied).map(|line| line.name.clone());
        let wishes = serde_json::from_str(&reply.wishes_json).expect("the wishes");
        (wishes, reply.state, applied.collect())
    }

    /// Whose modes hold by the status, and whether the mesh follows its plan.
    async fn told(&mut self) -> (String, String) {
        let status = self.operator.status(StatusRequest {}).await.expect("it answers").into_inner();
        let router = status.router.expect("there");
        (router.strategy, router.plan)
    }

    /// The first status of which `wanted` is true.
    async fn until_status(&mut self, wanted: impl Fn(&StatusReply) -> bool) {
        // The operator's door has no news of its own: each answer is a look.
        let looking = async {
            loop {
                let status = self.operator.status(StatusRequest {}).await.expect("it answers").into_inner();
                if wanted(&status) {
                    return;
                }
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(PATIENCE, looking).await.expect("in time")
    }

    async fn until_loaded(&self, name: &str, wanted: bool) {
        let model = ModelId::new(name).expect("valid");
        let mut snapshots = self.router.fleet.snapshots();
        let found = snapshots.wait_for(|snapshot| {
            let replicas = snapshot.view.machines.iter().filter_map(|machine| machine.replica(&model));
            replicas.filter(|(_, one)| one.state == ReplicaState::Loaded).count() == usize::from(wanted)
        });
        drop(tokio::time::timeout(PATIENCE, found).await.expect("in time").expect("the keeper lives"));
    }
}

fn document(reply: &PlanReply) -> Plan {
    serde_json::from_str(&reply.plan_json).expect("a plan")
}

#[track_caller]
fn refused<T: std::fmt::Debug>(result: Result<T, Status>, code: Code, said: &str) {
    let status = result.expect_err("it is refused");
    assert_eq!(status.code(), code, "{}", status.message());
    assert!(status.message().contains(said), "{said:?} is not in {:?}", status.message());
}

#[tokio::test]
async fn a_strategy_is_shown_applied_kept_over_a_restart_and_left() {
    let data = tempfile::tempdir().expect("a temporary folder");
    let mut mesh = Mesh::start(data.path()).await;
    let agent = Agent::start(&mesh.router.fleet, "a", 64 * GIB, &["m"], Manner::Obeys).await;
    let nothing = mesh.plan("", &[]).await.expect("a plan");
    assert!(nothing.next[0].starts_with("nothing is wished"), "{:?}", nothing.next);
    refused(mesh.apply("").await, Code::FailedPrecondition, "nothing is wished: name a strategy");

    let shown = mesh.plan("auto", &[]).await.expect("a plan");
    assert_eq!((shown.state.as_str(), document(&shown).strategy.as_str()), ("off", "auto"));
    assert_eq!(shown.next, ["meshctl plan --apply --strategy auto has the mesh do this"]);
    assert_eq!(document(&shown).placed[0].model.as_str(), "m");
    assert_eq!(mesh.wishes().await.1, "off", "to look changes nothing");

    let applied = mesh.apply("auto").await.expect("it is applied");
    assert_eq!(applied.state, "following");
    mesh.until_loaded("m", true).await;
    assert_eq!(agent.directives(), ["load m"]);
    let (wishes, state, applied) = mesh.wishes().await;
    assert_eq!(
        (wishes.strategy.as_str(), state.as_str(), applied.as_slice()),
        ("auto", "following", &["auto".to_owned()][..])
    );
    mesh.end().await;

    let mut mesh = Mesh::start(data.path()).await;
    agent.attach(&mesh.router.fleet).await;
    assert_eq!(mesh.wishes().await.1, "following");
    assert_eq!(mesh.told().await, ("auto".into(), "following".into()));
    let off = mesh.apply("off").await.expect("it stops");
    assert_eq!(mesh.told().await, ("auto".into(), "off".into()), "at once");
    assert_eq!((off.state.as_str(), document(&off).strategy.as_str()), ("off", "auto"));
    let none = mesh.apply("none").await.expect("the strategy is left");
    assert_eq!((none.state.as_str(), document(&none).strategy.as_str()), ("off", ""));
    assert_eq!(agent.directives(), ["load m"], "it was there after the restart");
    mesh.end().await;
}

#[tokio::test]
async fn what_is_not_there_is_refused_with_what_there_is() {
    let data = tempfile::tempdir().expect("a temporary folder");
    let mut mesh = Mesh::start(data.path()).await;
    let _agent = Agent::start(&mesh.router.fleet, "a", 64 * GIB, &["m"], Manner::Obeys).await;
    refused(mesh.plan("fastest", &[]).await, Code::NotFound, "there are auto, balanced-triple, distributed");
    refused(mesh.plan("off", &[]).await, Code::InvalidArgument, "`off` is for meshctl plan --apply");
    refused(
        mesh.plan("auto", &["+node=vax"]).await,
        Code::InvalidArgument,
        "the kinds are strix-128, rtx-16, cpu-32, the nodes a",
    );
    refused(mesh.plan("auto", &["a bigger one"]).await, Code::InvalidArgument, "write +node=KIND");
    refused(
        mesh.plan("auto", &["+node=cpu-32"; 65]).await,
        Code::InvalidArgument,
        "65 suppositions are more than 64",
    );
    let request = PlanRequest { strategy: "auto".into(), what_if: vec!["+node=cpu-32".into()] };
    let applied = mesh.operator.apply_plan(request).await;
    refused(applied, Code::InvalidArgument, "a supposition cannot be applied");
    refused(mesh.node("b", "drain").await, Code::NotFound, "there is no node `b`; there are a");
    refused(mesh.node("a", "sleep").await, Code::InvalidArgument, "there are drain, cordon and resume");
    refused(mesh.pin("other", "a", true).await, Code::NotFound, "node `a` has no model `other`");
    refused(mesh.pin("m", "b", true).await, Code::NotFound, "there is no node `b`");
    mesh.end().await;
}

#[tokio::test]
async fn nodes_and_pins_say_what_they_were_before_and_do_not_contradict_each_other() {
    let data = tempfile::tempdir().expect("a temporary folder");
    let mut mesh = Mesh::start(data.path()).await;
    let _agent = Agent::start(&mesh.router.fleet, "a", 64 * GIB, &["m"], Manner::Obeys).await;
    for (wish, before) in
        [("cordon", "open"), ("cordon", "cordoned"), ("drain", "cordoned"), ("resume", "drained")]
    {
        assert_eq!(mesh.node("a", wish).await.expect("kept"), before, "{wish}");
    }
    assert!(!mesh.pin("m", "a", true).await.expect("kept"));
    assert!(mesh.pin("m", "a", true).await.expect("kept"), "it was pinned before");
    refused(mesh.node("a", "drain").await, Code::FailedPrecondition, "meshctl model unpin m --node a");
    assert_eq!(mesh.wishes().await.0.pins.len(), 1);
    assert!(!mesh.pin("m", "a", false).await.expect("kept"));
    mesh.node("a", "drain").await.expect("kept");
    refused(mesh.pin("m", "a", true).await, Code::FailedPrecondition, "meshctl node resume a");
    mesh.end().await;
}

#[tokio::test]
async fn a_mode_that_is_set_by_hand_is_planned_so_outlives_a_restart_and_goes_back() {
    let data = tempfile::tempdir().expect("a temporary folder");
    let mut mesh = Mesh::start(data.path()).await;
    let agent = Agent::start(&mesh.router.fleet, "a", 64 * GIB, &["m", "n"], Manner::Obeys).await;
    mesh.apply("auto").await.expect("it is applied");
    let told = |reply: &SetModeReply| -> Vec<String> {
        reply.changes.iter().map(|one| format!("{}: {} -> {}", one.name, one.before, one.after)).collect()
    };
    let set = mesh.mode("mesh/build", &["context=8K", "models=n,m", "least_context=4K"]).await.expect("kept");
    assert_eq!((set.mode.as_str(), set.strategy.as_str(), set.state.as_str()), ("code", "auto", "following"));
    assert_eq!(told(&set), ["context: 32K -> 8K", "least_context: 16K -> 4K", "models:  -> n,m"]);
    let code = |wishes: &Wishes| {
        let wish = wishes.modes.iter().find(|wish| wish.mode.as_str() == "code").expect("wished");
        (wish.context, wish.models.iter().map(|model| model.as_str().to_owned()).collect::<Vec<_>>())
    };
    assert_eq!(code(&mesh.wishes().await.0), (8192, vec!["n".to_owned(), "m".into()]));
    let table = mesh.router.fleet.snapshot().modes.clone();
    assert_eq!(table.find("build").map(|mode| mode.models[0].as_str().to_owned()), Some("n".into()));
    let shown = mesh.plan("balanced-triple", &[]).await.expect("a plan");
    let other = document(&shown);
    assert!(
        other.placed.iter().all(|one| one.model.as_str() != "n"),
        "another strategy's modes are as written"
    );
    mesh.end().await;

    let mut mesh = Mesh::start(data.path()).await;
    agent.attach(&mesh.router.fleet).await;
    assert_eq!(code(&mesh.wishes().await.0).0, 8192, "it outlives a restart");
    let settings = mesh.operator.wishes(WishesRequest {}).await.expect("it answers").into_inner().settings;
    let settings: Vec<String> =
        settings.iter().map(|one| format!("{}.{}={}", one.mode, one.name, one.value)).collect();
    assert_eq!(settings, ["code.context=8K", "code.least_context=4K", "code.models=n,m"]);
    assert_eq!(told(&mesh.mode("code", &["models"]).await.expect("kept")), ["models: n,m -> "]);
    assert_eq!(code(&mesh.wishes().await.0), (8192, vec![]));
    mesh.apply("none").await.expect("the strategy is left");
    assert_eq!(mesh.wishes().await.0.modes.len(), 0, "what was set belongs to its strategy");
    mesh.apply("auto").await.expect("it is applied");
    assert_eq!(code(&mesh.wishes().await.0).0, 8192);
    let reset = mesh.mode("code", &[]).await.expect("kept");
    assert_eq!(told(&reset), ["context: 8K -> 32K", "least_context: 4K -> 16K"]);
    assert_eq!(code(&mesh.wishes().await.0).0, 32_768);
    mesh.end().await;
}

#[tokio::test]
async fn a_mode_that_is_set_to_what_cannot_be_stays_as_it_was() {
    let data = tempfile::tempdir().expect("a temporary folder");
    let mut mesh = Mesh::start(data.path()).await;
    let _agent = Agent::start(&mesh.router.fleet, "a", 64 * GIB, &["m"], Manner::Obeys).await;
    let all = mesh.mode("code", &["slots=0", "context=much", "color=red"]).await;
    refused(all.clone(), Code::InvalidArgument, "modes.code.slots: must be at least 1");
    refused(all.clone(), Code::InvalidArgument, "modes.code.context: `much`");
    refused(all, Code::InvalidArgument, "`color` is no setting of a mode; there are models, aliases");
    refused(
        mesh.mode("coed", &["slots=2"]).await,
        Code::NotFound,
        "there is no mode `coed`; there are architect, ask, autocomplete, code",
    );
    refused(mesh.mode("Co de", &["slots=2"]).await, Code::InvalidArgument, "Co de");
    refused(mesh.mode("code", &["nosuch"]).await, Code::InvalidArgument, "`nosuch` is no setting of a mode");
    refused(mesh.mode("code", &["slots=2", "slots"]).await, Code::InvalidArgument, "set and reset at once");
    let long = format!("models={}", "m,".repeat(5000));
    refused(mesh.mode("code", &[&long]).await, Code::InvalidArgument, "more than 8192");
    refused(
        mesh.mode("ask", &["aliases=code"]).await,
        Code::InvalidArgument,
        "the name `code` is given twice",
    );
    assert_eq!(mesh.wishes().await.0.modes.len(), 0);

    // On a mesh that nobody configured the automatic modes stay beside the one that was set.
    let set = mesh.mode("code", &["slots=2"]).await.expect("kept");
    assert_eq!((set.strategy.as_str(), set.state.as_str()), ("", "off"));
    assert_eq!(mesh.wishes().await.0.modes.len(), 7);
    let names = |mesh: &Mesh| mesh.router.fleet.snapshot().modes.modes().len();
    assert_eq!(names(&mesh), 6, "nothing makes embeddings");
    mesh.mode("code", &[]).await.expect("kept");
    assert_eq!((mesh.wishes().await.0.modes.len(), names(&mesh)), (0, 6));
    mesh.end().await;
}

#[tokio::test]
async fn a_plan_that_serves_nobody_or_whose_strategy_is_broken_is_not_applied() {
    let data = tempfile::tempdir().expect("a temporary folder");
    let folder = data.path().join("router/strategies");
    std::fs::create_dir_all(&folder).expect("ours");
    let write = |text: &str| std::fs::write(folder.join("evening.toml"), text).expect("ours");
    write("about = \"after work\"\n[modes.ask]\nmodels = [\"m\"]\n");
    let mut mesh = Mesh::start(data.path()).await;
    let _agent = Agent::start(&mesh.router.fleet, "a", 64 * GIB, &["m"], Manner::Obeys).await;
    let nobody = mesh.apply("speed-quality").await;
    refused(nobody, Code::FailedPrecondition, "no machine could serve any of its modes (ask, code)");
    assert_eq!(mesh.wishes().await.1, "off");
    mesh.apply("evening").await.expect("it is applied");

    write("about = \"after work\"\n[modes.ask]\nmodles = [\"m\"]\n");
    let set = mesh.mode("ask", &["context=1K"]).await;
    refused(set, Code::InvalidArgument, "unknown key `modes.ask.modles`");
    let again = mesh.apply("").await;
    refused(again, Code::FailedPrecondition, "nothing is applied: the strategy `evening` cannot be used");
    let shown = mesh.plan("", &[]).await.expect("a plan");
    assert!(shown.stopped[0].starts_with("the strategy `evening` cannot be used"), "{:?}", shown.stopped);
    mesh.until_status(|status| {
        let router = status.router.as_ref().expect("there");
        let why = router.plan_stopped.first();
        router.plan == "following" && why.is_some_and(|why| why.starts_with("the strategy `evening`"))
    })
    .await;

    write("about = \"after work\"\n[modes.ask]\nmodels = [\"m\"]\n");
    let set = mesh.mode("ask", &["models=m,nobody"]).await.expect("kept");
    assert_eq!(set.warnings, ["modes.ask.models: no machine has `nobody`, and nothing is known of its size"]);
    assert_eq!(mesh.plan("", &[]).await.expect("a plan").stopped, Vec::<String>::new());
    mesh.end().await;
}

#[tokio::test]
async fn what_was_set_can_be_taken_back_one_mode_after_another_when_a_file_no_longer_goes_with_it() {
    let data = tempfile::tempdir().expect("a temporary folder");
    let folder = data.path().join("router/strategies");
    std::fs::create_dir_all(&folder).expect("ours");
    let write = |context: &str| {
        let modes = ["ask", "code"]
            .map(|mode| format!("[modes.{mode}]\nmodels = [\"m\"]\ncontext = \"{context}\"\n"))
            .concat();
        std::fs::write(folder.join("evening.toml"), format!("about = \"x\"\n{modes}")).expect("ours");
    };
    write("8K");
    let mut mesh = Mesh::start(data.path()).await;
    let _agent = Agent::start(&mesh.router.fleet, "a", 64 * GIB, &["m"], Manner::Obeys).await;
    mesh.apply("evening").await.expect("it is applied");
    for mode in ["ask", "code"] {
        mesh.mode(mode, &["least_context=8K", "slots=2"]).await.expect("kept");
    }
    write("4K");
    refused(mesh.mode("ask", &["slots=3"]).await, Code::InvalidArgument, "more than the context of 4096");
    let half = mesh.mode("ask", &[]).await.expect("taking back is always possible");
    assert!(half.warnings.iter().any(|why| why.contains("modes.code.least_context")), "{:?}", half.warnings);
    let whole = mesh.mode("code", &["least_context"]).await.expect("kept");
    assert_eq!(whole.warnings, Vec::<String>::new());
    assert_eq!(mesh.plan("", &[]).await.expect("a plan").stopped, Vec::<String>::new());
    // What still goes with the file cannot be made to contradict it by taking back a half.
    mesh.mode("code", &["context=16K", "least_context=16K"]).await.expect("kept");
    refused(mesh.mode("code", &["context"]).await, Code::InvalidArgument, "more than the context of 4096");
    // To leave a strategy is no plan to be refused, whatever the modes that come back can be served by.
    mesh.apply("none").await.expect("it is left");
    mesh.end().await;
}
