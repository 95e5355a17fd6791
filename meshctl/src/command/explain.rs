//! `meshctl explain`: why a request went where it went, and why a mode, a model or a machine is as it is.

use super::names::{self, unknown};
use super::plan::{fetch as plan, wishes};
use super::{mode, status};
use crate::cli::ExplainArgs;
use crate::connect::{Operators, Way};
use crate::exit::{Failure, Kind};
use crate::output::Screen;
use crate::render;
use crate::render::reasons::Mesh;
use mesh_core::id::RequestId;
use mesh_core::strategy::Wishes;
use mesh_proto::v1::{ExplainRequest, PlanRequest, StatusReply};

/// The JSON that `explain --json` prints of a request.
const SCHEMA: &str = "mesh.explain/v1";
/// How the ids of requests begin.
const REQUESTS: &str = "req-";
/// A shorter word of hexadecimal digits is no id that anybody copied.
const LEAST_DIGITS: usize = 4;

/// What a typed word is taken for.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Subject {
    Request(String),
    Mode(String),
    Node(String),
    Model(String),
}

/// # Errors
/// `Usage` for an id that can be none, `NotFound` for what neither the router's journal nor the mesh has.
pub(super) async fn run(args: ExplainArgs, way: &Way, screen: &Screen) -> Result<(), Failure> {
    // Without a word the router tells of its latest request.
    let typed = args.what.unwrap_or_default();
    let said = said(&typed);
    let mut operators = way.dial().await?;
    if let Some(Subject::Request(id)) = said {
        return request(id, &mut operators, screen).await;
    }
    let status = status::fetch(&mut operators).await?;
    let (wishes, _) = wishes(&mut operators).await?;
    let subject = match said {
        Some(subject) => subject,
        None => meant(&typed, &status, &wishes)?,
    };
    if let Subject::Request(id) = subject {
        return request(id, &mut operators, screen).await;
    }
    let planned = plan(&mut operators, PlanRequest::default()).await?;
    let mesh = Mesh { status: &status, wishes: &wishes, plan: &planned.plan, state: &planned.state };
    let text = match subject {
        Subject::Request(_) => return Ok(()),
        Subject::Mode(name) => {
            let view = mode::view(&status, &wishes, &name)?;
            match screen.is_json() {
                true => render::json("mesh.explain-mode/v1", &mesh.mode(view), false),
                false => mesh.mode_page(view, screen.look),
            }
        }
        Subject::Node(name) => {
            let node = names::node(&status, &name)?;
            match screen.is_json() {
                true => render::json("mesh.explain-node/v1", &mesh.node(node), false),
                false => mesh.node_page(node, screen.look),
            }
        }
        Subject::Model(name) => {
            if !is_model(&name, &status, &wishes) {
                names::model(&status, &name)?;
            }
            match screen.is_json() {
                true => render::json("mesh.explain-model/v1", &mesh.model(&name), false),
                false => mesh.model_page(&name, screen.look),
            }
        }
    };
    if screen.is_json() { screen.result(&text) } else { screen.result(&screen.commands(&text)) }
}

async fn request(request_id: String, operators: &mut Operators, screen: &Screen) -> Result<(), Failure> {
    if !request_id.is_empty() {
        RequestId::new(request_id.as_str()).map_err(|error| Failure::new(Kind::Usage, error.to_string()))?;
    }
    let request = ExplainRequest { request_id };
    let reply = operators.call(|mut client| async move { client.explain(request).await }).await?;
    if screen.is_json() {
        screen.result(&render::json(SCHEMA, &reply, false))
    } else {
        screen.result(&screen.commands(&render::explain::story(&reply, screen.look)))
    }
}

/// What the word itself says that it is.
fn said(typed: &str) -> Option<Subject> {
    if typed.is_empty() || typed.starts_with(REQUESTS) {
        return Some(Subject::Request(typed.to_owned()));
    }
    if typed.starts_with("mesh/") {
        return Some(Subject::Mode(typed.to_owned()));
    }
    let (kind, name) = typed.split_once('=')?;
    let name = name.to_owned();
    match kind {
        "request" => Some(Subject::Request(name)),
        "mode" => Some(Subject::Mode(name)),
        "node" => Some(Subject::Node(name)),
        "model" => Some(Subject::Model(name)),
        _ => None,
    }
}

/// What a plain word means in this mesh: a mode, a request, a machine, a model, the first that there is. A name that
/// happens to consist of hexadecimal digits is that name.
fn meant(typed: &str, status: &StatusReply, wishes: &Wishes) -> Result<Subject, Failure> {
    let name = typed.to_owned();
    if mode::view(status, wishes, typed).is_ok() {
        return Ok(Subject::Mode(name));
    }
    let is_node = status.nodes.iter().any(|node| node.name == typed);
    let is_model = is_model(typed, status, wishes);
    let is_digit = |c: char| matches!(c, '0'..='9' | 'a'..='f');
    match (is_node, is_model) {
        (true, _) => Ok(Subject::Node(name)),
        (false, true) => Ok(Subject::Model(name)),
        (false, false) if typed.len() >= LEAST_DIGITS && typed.chars().all(is_digit) => {
            Ok(Subject::Request(format!("{REQUESTS}{typed}")))
        }
        (false, false) => {
            let modes = status.modes.iter().map(|mode| mode.name.as_str());
            let nodes = status.nodes.iter().map(|node| node.name.as_str());
            let models = status.models.iter().map(|model| model.name.as_str());
            let what = format!("no mode, node or model is named `{typed}`, and no request id begins so");
            let names = modes.chain(nodes).chain(models);
            Err(unknown(typed, what, names, "no machine has joined yet"))
        }
    }
}

/// Whether a machine has it or a mode wants it.
fn is_model(name: &str, status: &StatusReply, wishes: &Wishes) -> bool {
    let wanted = wishes.modes.iter().flat_map(|wish| &wish.models);
    status.models.iter().any(|model| model.name == name)
        || wanted.into_iter().any(|model| model.as_str() == name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use mesh_core::id::{ModeName, ModelId};
    use mesh_core::strategy::Wish;
    use mesh_proto::v1::{ModeStatus, ModelStatus, NodeStatus};

    #[test]
    fn a_word_is_taken_for_the_first_that_it_can_be() {
        let node = |name: &str| NodeStatus { name: name.into(), ..NodeStatus::default() };
        let status = StatusReply {
            nodes: vec![node("msi"), node("beef"), node("code")],
            modes: vec![ModeStatus {
                name: "code".into(),
                aliases: vec!["build".into()],
                ..ModeStatus::default()
            }],
            models: vec![ModelStatus { name: "msi".into(), ..ModelStatus::default() }],
            ..StatusReply::default()
        };
        let wanted = ModelId::new("qwen3:32b").expect("valid");
        let wish = Wish::new(ModeName::new("debug").expect("valid"), vec![wanted]);
        let wishes = Wishes { modes: vec![wish], ..Wishes::default() };
        let taken = |typed: &str| match said(typed) {
            Some(subject) => Ok(subject),
            None => meant(typed, &status, &wishes),
        };
        let (request, mode) =
            (|id: &str| Subject::Request(id.into()), |name: &str| Subject::Mode(name.into()));
        for (typed, subject) in [
            ("", request("")),
            ("req-0196", request("req-0196")),
            ("0196af", request("req-0196af")),
            ("request=r1", request("r1")),
            ("mesh/nope", mode("mesh/nope")),
            ("code", mode("code")),
            ("build", mode("build")),
            ("debug", mode("debug")),
            ("beef", Subject::Node("beef".into())),
            ("msi", Subject::Node("msi".into())),
            ("model=msi", Subject::Model("msi".into())),
            ("node=code", Subject::Node("code".into())),
            ("qwen3:32b", Subject::Model("qwen3:32b".into())),
        ] {
            assert_eq!(taken(typed), Ok(subject), "{typed}");
        }
        let failure = taken("mis").expect_err("nothing is called so");
        assert_eq!((failure.kind, failure.hints[0].as_str()), (Kind::NotFound, "did you mean msi?"));
    }
}
