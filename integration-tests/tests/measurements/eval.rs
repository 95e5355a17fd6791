//! Evaluations with real engines, begun as a person begins them.

use integration_tests::desk::{Desk, NOISE, TRAINED};
use mesh_core::exam::{Metric, Record, Suite};
use mesh_core::placement::Plan;
use mesh_core::profile::Profile;
use mesh_proto::v1::PlanRequest;
use serde_json::json;
use std::path::{Path, PathBuf};

/// Of the kind that the tiny model was trained on, and not among it.
const PROSE: [&str; 4] = [
    "Return a new list with the values of this mapping. If the key is not found, the default value is returned.",
    "The first argument must be a string that names the file. It is opened for reading and closed at the end.",
    "This function raises an error if the number of arguments is not the same as the length of the list.",
    "The object is created with the given name, and the method returns the value of the attribute.",
];

/// All records of the data folder, oldest first.
fn kept(data: &Path) -> Vec<Record> {
    let files = std::fs::read_dir(data.join("eval")).expect("it was made");
    let mut paths: Vec<PathBuf> = files.map(|file| file.expect("an entry").path()).collect();
    paths.sort();
    let read = |path| std::fs::read(path).expect("a file");
    paths.into_iter().map(|path| serde_json::from_slice(&read(path)).expect("a record")).collect()
}

fn jsonl(folder: &Path, suite: Suite, lines: impl Iterator<Item = serde_json::Value>) {
    let text: String = lines.map(|line| format!("{line}\n")).collect();
    std::fs::write(folder.join(format!("{}.jsonl", suite.word())), text).expect("a folder of ours");
}

#[tokio::test]
async fn a_trained_model_foresees_prose_a_random_one_does_not_and_the_gate_says_so() {
    let Some(machine) = Desk::start().await else { return };
    let folder = tempfile::tempdir().expect("a temporary folder");
    jsonl(folder.path(), Suite::Perplexity, PROSE.iter().map(|text| json!({"text": text})));
    let run = format!("eval run --node a --suite perplexity --items {} --yes", folder.path().display());
    assert_eq!(machine.typed(&format!("{run} --models {TRAINED}")).await, 0);
    assert_eq!(machine.typed("eval baseline").await, 0);
    let baseline = kept(machine.mesh.data()).remove(0).id;
    let against = format!("{run} --models {NOISE} --gate 0.05 --against {baseline}");
    assert_eq!(machine.typed(&against).await, 3, "a random model is worse, and that is not chance");
    assert_eq!(
        machine.typed(&format!("{run} --models {TRAINED} --gate 0.05")).await,
        0,
        "the same is not worse"
    );
    let per_byte = |record: &Record| {
        let report = record.sitting(Suite::Perplexity).expect("it was sat").run.report();
        assert_eq!((report.scored, report.failed), (4, 0), "{report:?}");
        report.scores.iter().find(|score| score.metric == Metric::BitsPerByte).expect("it is measured").value
    };
    let records = kept(machine.mesh.data());
    let [trained, noise, again] = records.as_slice() else { panic!("three, not {}", records.len()) };
    let (trained, noise, again) = (per_byte(trained), per_byte(noise), per_byte(again));
    assert!(trained < 2.0 && noise > 2.5, "{trained} and {noise} bits per byte");
    assert!((trained - again).abs() < 1e-6, "the same twice: {trained} and {again}");
    // Nothing was loaded before.
    assert_eq!((machine.loaded(), machine.is_cordoned().await), (vec![], false));
    machine.mesh.stop().await;
}

#[tokio::test]
async fn what_was_found_is_in_the_machine_s_profile_and_orders_the_models_of_a_plan() {
    let Some(machine) = Desk::start().await else { return };
    // As `auto`, for models with as little context as these have.
    let strategies = machine.mesh.data().join("router/strategies");
    std::fs::create_dir_all(&strategies).expect("a folder of ours");
    let strategy = "about = \"the best for ask\"\n[modes.ask]\ncontext = \"1K\"\nslots = 1\n";
    std::fs::write(strategies.join("best.toml"), strategy).expect("a file");
    let planned = async || {
        let request = PlanRequest { strategy: "best".into(), what_if: vec![] };
        let reply = machine.mesh.operator().await.plan(request).await.expect("a plan").into_inner();
        let plan: Plan = serde_json::from_str(&reply.plan_json).expect("a plan");
        let of_ask =
            plan.placed.into_iter().find(|one| one.serves.iter().any(|serves| serves.mode.as_str() == "ask"));
        of_ask.map(|one| one.model.to_string())
    };
    assert_eq!(planned().await.as_deref(), Some(NOISE), "it is the larger one");

    // An exam that only a model with words can pass.
    let folder = tempfile::tempdir().expect("a temporary folder");
    let items = (0..60).map(|number| {
        let checks = json!([{"contains": "method"}]);
        json!({"prompt": format!("What does function {number} do?"), "checks": checks, "most_tokens": 24})
    });
    jsonl(folder.path(), Suite::Generation, items);
    let before = machine.load_one().await;
    let line = format!(
        "eval run --node a --suite generation --items {} --at-once 2 --yes --models {TRAINED},{NOISE}",
        folder.path().display()
    );
    assert_eq!(machine.typed(&line).await, 0);

    let found =
        kept(machine.mesh.data()).iter().map(|record| record.findings().remove(0)).collect::<Vec<_>>();
    let [trained, noise] = found.as_slice() else { panic!("{found:?}") };
    assert!((trained.tried, noise.tried) == (60, 60) && trained.passed > noise.passed + 10, "{found:?}");
    integration_tests::eventually("they are in the profile", async || {
        let profile = machine.node.agent().reports.profile.borrow().clone();
        let profile: Profile = serde_json::from_str(&profile).ok()?;
        let told = |model: &str, passed: u32| {
            profile
                .trials
                .iter()
                .any(|one| one.model.as_str() == model && one.passed == passed && one.tried == 60)
        };
        (told(TRAINED, trained.passed) && told(NOISE, noise.passed)).then_some(())
    })
    .await;
    integration_tests::eventually("the plan goes by them", async || {
        (planned().await.as_deref() == Some(TRAINED)).then_some(())
    })
    .await;
    assert_eq!(machine.loaded(), before, "as it was");
    machine.mesh.stop().await;
}
