//! Other names of models, as the configuration gives them.

use crate::fixture::{Mesh, caller, engine, error_of, replica};
use http_body_util::BodyExt;
use mesh_core::machine::Replica;
use mesh_core::machine::ReplicaState::Loaded;
use router::config::ModelConfig;
use router::http::reply::Reply;
use router::http::{ollama, openai};
use serde_json::Value;

fn mesh() -> Mesh {
    Mesh::start(|config| {
        for (model, aliases) in [("m", ["gpt-x", "m"].as_slice()), ("nowhere", &["gpt-y"])] {
            let aliases = aliases.iter().map(|alias| (*alias).to_owned()).collect();
            config.models.insert(model.into(), ModelConfig { aliases, ..ModelConfig::default() });
        }
    })
}

async fn json(reply: Reply) -> Value {
    let body = reply.into_body().collect().await.expect("whole").to_bytes();
    serde_json::from_slice(&body).expect("JSON")
}

#[tokio::test(start_paused = true)]
async fn a_client_is_answered_by_another_name_of_a_model_and_finds_it_in_every_list() {
    let mesh = mesh();
    let (node, _control) = mesh.node("a", engine(vec![replica("m", Loaded, Some(1))])).await;
    assert_eq!(mesh.send("gpt-x", caller("k")).await.status().as_u16(), 200);
    assert_eq!(node.requests(), 1);

    let snapshot = mesh.fleet.snapshot();
    let listed = json(openai::models(&snapshot)).await;
    let ids = listed["data"].as_array().expect("a list").iter().map(|model| model["id"].as_str());
    let ids: Vec<&str> = ids.flatten().filter(|id| !id.starts_with("mesh")).collect();
    assert_eq!(ids, ["m", "gpt-x"], "each once, and nothing that no machine has");
    let one = json(openai::model(&snapshot, "gpt-x").expect("there")).await;
    assert_eq!((one["id"].as_str(), one["status"]["value"].as_str()), (Some("gpt-x"), Some("loaded")));
    ollama::show(&snapshot, br#"{"model":"gpt-x"}"#).expect("there, too");
}

#[tokio::test(start_paused = true)]
async fn another_name_of_a_model_that_no_machine_has_is_refused_as_its_own_name_is_everywhere() {
    let mesh = mesh();
    let (_node, _control) = mesh.node("a", engine(vec![replica("m", Loaded, Some(1))])).await;
    let (status, code, error) = error_of(mesh.send("gpt-y", caller("k")).await).await;
    assert_eq!((status, code.as_str()), (404, "model_not_found"), "{error}");
    let why = "`gpt-y` is another name of `nowhere`, which no machine has";
    assert_eq!(error["message"], why);
    let error = openai::model(&mesh.fleet.snapshot(), "gpt-y").expect_err("no machine has it");
    assert_eq!((error.status.as_u16(), error.message.as_str()), (404, why));
}

#[tokio::test(start_paused = true)]
async fn what_is_listed_under_a_name_is_what_a_request_for_it_gets() {
    let mesh = Mesh::start(|config| {
        let model = ModelConfig { aliases: vec!["m".into()], ..ModelConfig::default() };
        config.models.insert("large".into(), model);
    });
    let small = Replica { context: Some(1_000), ..replica("m", Loaded, Some(1)) };
    let large = Replica { context: Some(9_000), ..replica("large", Loaded, Some(1)) };
    let (_node, _control) = mesh.node("a", engine(vec![small, large])).await;
    let answered = mesh.send("m", caller("k")).await;
    assert_eq!(answered.headers()["x-mesh-model"], "large");
    let listed = json(openai::models(&mesh.fleet.snapshot())).await;
    let of_m = |model: &&Value| model["id"] == "m";
    let contexts: Vec<&Value> = listed["data"].as_array().expect("a list").iter().filter(of_m).collect();
    assert_eq!(contexts.iter().map(|m| m["context_length"].as_u64()).collect::<Vec<_>>(), [Some(9_000)]);
}
