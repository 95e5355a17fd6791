//! `modemesh up` and `modemesh demo` as a person runs them: the real program, the real bundled engine.

use super::program::{Program, data_with_engine, json_of};
use serde_json::json;

#[test]
fn up_answers_by_mode_and_ctrl_c_leaves_nothing_behind() {
    let Some(data) = data_with_engine() else { return };
    let mut up = Program::start(data.path(), &["up", "--yes"]);
    let said = up.until("Ctrl-C stops everything");
    let url = said.value("base URL");
    let key = said.value("API key");
    assert!(
        said.text.contains("all automatic: each uses the best model found, tiny-trained"),
        "{}",
        said.text
    );
    assert!(said.text.contains(&format!("curl {url}/chat/completions")), "{}", said.text);

    for mode in ["ask", "code", "architect", "debug", "autocomplete"] {
        let messages = json!([{"role": "user", "content": "hi"}]);
        let body = json!({"model": format!("mesh/{mode}"), "max_tokens": 4, "messages": messages});
        let reply = super::program::post(&format!("{url}/chat/completions"), &key, &body);
        assert_eq!(reply.status, 200, "{mode}: {}", reply.body);
        assert_eq!(reply.header("x-mesh-mode"), mode);
        assert_eq!(reply.header("x-mesh-model"), "tiny-trained");
    }

    let status = json_of(&Program::run(data.path(), &["meshctl", "status", "--json"]));
    assert_eq!(status["nodes"][0]["state"], "ready");
    assert_eq!(status["nodes"][0]["data_path"], "in-process");
    assert_eq!(status["modes"][0]["ok"], 1, "{status}");

    let engines = up.engines();
    assert_eq!(engines.len(), 1, "one bundled engine runs");
    assert_eq!(up.interrupt(), Some(0));
    assert!(engines.iter().all(|pid| super::program::is_gone(*pid)), "the engine outlived modemesh");
}

#[test]
fn the_tiny_model_is_listed_once_and_the_name_of_its_file_leads_to_its_own() {
    let Some(data) = data_with_engine() else { return };
    let mut up = Program::start(data.path(), &["up", "--yes"]);
    up.until("Ctrl-C stops everything");
    let said = |arguments: &[&str]| {
        let output = Program::run(data.path(), &[&["meshctl"], arguments].concat());
        (
            output.status.code(),
            [output.stdout, output.stderr].map(|text| String::from_utf8(text).expect("text")),
        )
    };
    let status = json_of(&Program::run(data.path(), &["meshctl", "status", "--json"]));
    let node = status["nodes"][0]["name"].as_str().expect("a node").to_owned();
    let file = "tiny-trained-1.4M-q8_0";
    super::program::wait_until(
        || said(&["node", "show", &node]).1[0].contains(&format!("{file} (as tiny-trained)")),
        "the store has told of its file",
    );
    let (_, [list, _]) = said(&["model", "list"]);
    assert!(list.contains("tiny-trained ") && !list.contains(file), "{list}");
    for wish in ["load", "unload"] {
        let (code, [_, error]) = said(&["model", wish, file, "--node", &node]);
        assert_eq!(code, Some(2), "{error}");
        assert!(error.contains(&format!("`{file}` is `tiny-trained` on node `{node}`")), "{error}");
    }
    // The folder is none that meshctl would find by itself.
    let (code, [_, error]) = said(&["ask", "--mode", "nope", "hi"]);
    assert_eq!(code, Some(4), "{error}");
    assert!(error.contains(&format!("meshctl --data {} ", data.path().display())), "{error}");
    assert_eq!(up.interrupt(), Some(0));
}

#[test]
fn a_second_start_keeps_the_key_and_asks_nothing() {
    let Some(data) = data_with_engine() else { return };
    let key = |up: &mut Program| up.until("Ctrl-C stops everything").value("API key");
    let mut first = Program::start(data.path(), &["up", "--yes"]);
    let first_key = key(&mut first);
    assert_eq!(first.interrupt(), Some(0));
    // Without --yes, and without a terminal to answer on: the engine is there, so nothing is asked.
    let mut second = Program::start(data.path(), &["up"]);
    assert_eq!(key(&mut second), first_key);
    assert_eq!(second.interrupt(), Some(0));
}

#[test]
fn killing_modemesh_with_minus_nine_leaves_no_engine_behind() {
    let Some(data) = data_with_engine() else { return };
    let mut up = Program::start(data.path(), &["up", "--yes"]);
    up.until("Ctrl-C stops everything");
    let engines = up.engines();
    up.kill();
    for pid in engines {
        super::program::wait_until(|| super::program::is_gone(pid), "the engine ended with its parent");
    }
}

#[test]
fn the_demonstration_shows_each_mode_on_its_node_and_a_failover() {
    let Some(data) = data_with_engine() else { return };
    let output = Program::run(data.path(), &["demo", "--yes", "--exit"]);
    let said = String::from_utf8_lossy(&output.stdout);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}\n{errors}");
    let node_of = |mode: &str, part: &str| {
        part.lines()
            .map(|line| line.split_whitespace().collect::<Vec<_>>())
            .find(|words| words.first() == Some(&mode))
            .and_then(|words| words.get(1).map(ToString::to_string))
            .unwrap_or_default()
    };
    let (before, after) = said.split_once("Killed msi").expect("the kill is told");
    assert_eq!(node_of("ask", before), "msi", "{said}");
    assert_eq!(node_of("architect", before), "beelink", "{said}");
    assert_eq!(node_of("embed", before), "strix-1", "{said}");
    assert_eq!(node_of("ask", after), "beelink", "{said}");
    // By what the router knew of the kill when the request came: nothing yet, or all.
    let told = ["fallback to mode debug", "next after msi: unreachable"];
    assert!(told.iter().any(|reason| after.contains(reason)), "{said}");
}
