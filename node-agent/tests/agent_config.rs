//! What the agent's configuration accepts, and what it says when it does not.

use mesh_core::machine::EngineKind;
use mesh_core::units::Bytes;
use node_agent::config::{AgentConfig, RunFlags, read};
use node_agent::engine::{EngineConfig, Program};
use node_agent::probe::GpuOverrides;
use std::path::{Path, PathBuf};

fn read_text(text: &str) -> Result<AgentConfig, mesh_daemon::complaint::Complaint> {
    let data = tempfile::tempdir().expect("a temporary folder");
    std::fs::write(data.path().join("agent.toml"), text).expect("writing");
    read(data.path(), &RunFlags::default()).map(|loaded| loaded.value)
}

#[test]
fn without_a_file_engines_are_looked_for_and_none_is_started() {
    let loaded = read(Path::new("/nonexistent"), &RunFlags::default()).expect("the defaults are valid");
    assert_eq!(loaded.source, "built-in defaults");
    let config = loaded.value;
    assert_eq!(config, AgentConfig::default());
    assert!(config.discover.enabled && config.engine_configs().is_empty());
    assert_eq!(config.model_folder(Path::new("/data")), Path::new("/data/engine/models"));
}

#[test]
fn both_kinds_of_engine_are_read_with_their_defaults() {
    let config = read_text(
        "[engines.big]\nkind = \"vllm\"\nurl = \"http://127.0.0.1:8001/\"\napi_key = \"k\"\n\
         [engines.coder]\nprogram = \"bundled\"\nmodel = \"/srv/tiny-q8_0.gguf\"\n\
         [engines.other]\nprogram = \"/opt/llama-server\"\nmodel = \"m.gguf\"\nalias = \"org/m:Q8\"\ncontext = 8192\nslots = 3\n",
    )
    .expect("valid");
    let [big, coder, other] = config.engine_configs().try_into().expect("three engines");
    let endpoint = EngineConfig::Endpoint {
        name: "big".into(),
        kind: EngineKind::Vllm,
        url: "http://127.0.0.1:8001".into(),
        api_key: Some("k".into()),
    };
    assert_eq!(big, endpoint);
    let child = |name: &str, program, model: &str, alias: &str, context, slots| EngineConfig::Child {
        name: name.into(),
        program,
        model: model.into(),
        alias: alias.parse().expect("a name"),
        context,
        slots,
        embedding: false,
    };
    assert_eq!(coder, child("coder", Program::Bundled, "/srv/tiny-q8_0.gguf", "tiny-q8_0", 4096, 1));
    let path = Program::Path(PathBuf::from("/opt/llama-server"));
    assert_eq!(other, child("other", path, "m.gguf", "org/m:Q8", 8192, 3));
    assert!(!format!("{config:?}").contains("\"k\""), "the key shows in no log");
}

#[test]
fn everything_that_makes_no_sense_is_said_at_once_with_its_line() {
    let complaint = read_text(
        "name = \"Strix 1\"\nrouter = \"router.lan\"\n\
         [engines.a]\nkind = \"ollma\"\nurl = \"https://x:1\"\nslots = 2\n\
         [engines.b]\nurl = \"http://127.0.0.1:1\"\nprogram = \"bundled\"\n\
         [engines.c]\nprogram = \"bundled\"\nmodel = \"a b.gguf\"\nslots = 0\napi_key = \"x\"\n\
         [engines.d]\nkind = \"ollama\"\n\
         [discover]\naddresses = [\"11434\"]\n\
         [metrics]\nlisten = \"7403\"\n",
    )
    .expect_err("a dozen problems");
    assert_eq!(complaint.exit, 78);
    let said = complaint.to_string();
    for part in [
        "12 problems",
        "agent.toml:1: machine name `Strix 1` holds 'S'",
        "agent.toml:2: `router.lan` is no address (write host:port, as in \"router.lan:7401\")",
        "agent.toml:4: engine `a`: `ollma` is no kind of engine (one of llama-server, llama-router,",
        "agent.toml:5: engine `a`: `https://x:1` is no address of an engine",
        "agent.toml:6: engine `a`: `slots` is only for engines that the agent starts",
        "agent.toml:8: engine `b`: has both `url` and `program`",
        "agent.toml:13: engine `c`: 0 slots are not within 1 to 256",
        "agent.toml:14: engine `c`: `api_key` is only for engines that run already",
        "engine `c`: model name `a b` holds ' '",
        "engine `d`: has neither `url` nor `program`",
        "agent.toml:18: `11434` is no address",
        "agent.toml:20: `7403` is no address to listen on",
    ] {
        assert!(said.contains(part), "{part:?} is not in:\n{said}");
    }
}

#[test]
fn a_key_that_does_not_exist_is_named_with_the_one_that_was_meant() {
    let said = read_text("[engines.a]\nulr = \"http://127.0.0.1:1\"\n").expect_err("unknown").to_string();
    assert!(said.contains("unknown key `engines.a.ulr` (did you mean `engines.a.url`?)"), "{said}");
}

#[test]
fn a_flag_beats_the_file() {
    let data = tempfile::tempdir().expect("a temporary folder");
    std::fs::write(data.path().join("agent.toml"), "router = \"one.lan:7401\"\n").expect("writing");
    let flags = RunFlags { router: Some("[fd7a::1]:7401".into()), ..RunFlags::default() };
    assert_eq!(read(data.path(), &flags).expect("valid").value.router.as_deref(), Some("[fd7a::1]:7401"));
}

#[test]
fn what_the_operator_says_of_graphics_is_read_in_the_kernels_writing() {
    let config = read_text(
        "[gpu]\nunified = \"96GiB\"\nintegrated = [\"0000:C5:00.0\"]\ndiscrete = [\"0000:03:00.0\"]\n",
    )
    .expect("valid");
    let said = config.gpu_overrides();
    assert_eq!(said.unified, Some(Bytes(96 << 30)));
    assert_eq!((said.integrated, said.discrete), (vec!["0000:c5:00.0".into()], vec!["0000:03:00.0".into()]));
    assert_eq!(AgentConfig::default().gpu_overrides(), GpuOverrides::default());
}

#[test]
fn graphics_that_make_no_sense_are_refused() {
    let cases = [
        ("unified = \"96\"", "`96` is no size"),
        ("integrated = [\"c5:00.0\"]", "`c5:00.0` is no PCI address"),
        ("discrete = [\"0000.c5:00:0\"]", "is no PCI address"),
        ("discrete = [\"0000:c5:0g.0\"]", "is no PCI address"),
        ("discrete = [\"\"]", "is no PCI address"),
        ("integrated = [\"0000:c5:00.0\"]\ndiscrete = [\"0000:c5:00.0\"]", "is in gpu.integrated too"),
    ];
    for (text, part) in cases {
        let complaint = read_text(&format!("[gpu]\n{text}\n")).expect_err(text).to_string();
        assert!(complaint.contains(part), "{text}: {complaint}");
    }
}
