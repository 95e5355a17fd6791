//! The mesh on one screen: a head line, machines, modes, models, and what is wrong as `#` lines.

use super::paint::{self, Look, Paint};
use super::quantity::{
    UNKNOWN, bytes, celsius, context, known, milliseconds, named, parameters, rate, seconds, used_of,
};
use super::table::{Cell, Rank, Table};
use mesh_core::units::human_duration;
use mesh_proto::v1::{GpuStatus, HealthLine, ModeStatus, ModelStatus, NodeStatus, RouterStatus, StatusReply};
use std::time::Duration;

/// States that are as they should be: what a person closed, and what waits to be asked for, too.
const SOUND_NODES: [&str; 4] = ["ready", "idle", "drained", "cordoned"];
const SOUND_MODES: [&str; 2] = ["ready", "on-demand"];

/// The whole screen. `address` is where the router was asked; `all_models` also lists models that are only
/// on disk and in no mode; `notice` is a first health line of our own.
pub(crate) fn screen(
    status: &StatusReply,
    address: &str,
    all_models: bool,
    notice: Option<&str>,
    look: Look,
) -> String {
    let mut lines = vec![head(status.router.as_ref(), address, look)];
    if status.nodes.is_empty() {
        lines.extend([
            String::new(),
            "no machine has joined yet".to_owned(),
            format!("next: {}", Paint::Cyan.on("meshctl token create --role node", look.color)),
        ]);
    } else {
        lines.push(String::new());
        lines.extend(nodes(&status.nodes, look));
    }
    if !status.modes.is_empty() {
        lines.push(String::new());
        lines.extend(modes(&status.modes, look));
    }
    lines.extend(models(&status.models, all_models, look));
    lines.extend(health(status, notice, look));
    lines.join("\n") + "\n"
}

/// Why a script should not call this mesh healthy; empty when everything is ready.
pub(crate) fn not_ready(status: &StatusReply) -> Vec<String> {
    let said = |kind: &str, name: &str, state: &str, reason: &str| {
        let reason = if reason.is_empty() { String::new() } else { format!(" ({reason})") };
        format!("{kind} {name} is {}{reason}", named(state))
    };
    let nodes = status.nodes.iter().filter(|node| !SOUND_NODES.contains(&node.state.as_str()));
    let modes = status.modes.iter().filter(|mode| !SOUND_MODES.contains(&mode.state.as_str()));
    let stopped = status.router.iter().filter(|router| router.plan == "following");
    let stopped = stopped.flat_map(|router| &router.plan_stopped);
    let empty = status.nodes.is_empty().then(|| "no machine has joined".to_owned());
    empty
        .into_iter()
        .chain(nodes.map(|node| said("node", &node.name, &node.state, &node.reason)))
        .chain(modes.map(|mode| said("mode", &mode.name, &mode.state, &mode.reason)))
        .chain(stopped.map(|why| format!("the plan is not followed ({why})")))
        .collect()
}

/// Everything after the name goes, from the right, when it does not fit.
fn head(router: Option<&RouterStatus>, address: &str, look: Look) -> String {
    let mut parts = Vec::new();
    if let Some(router) = router {
        parts.push(format!("Mesh {}", look.text(&named(&router.name))));
        parts.push(format!("router {}", look.text(address)));
        parts.push(format!("up {}", human_duration(Duration::from_secs(router.uptime_s))));
        parts.push(format!("v{}", look.text(&router.version)));
        let waiting =
            if router.waiting > 0 { format!(", {} waiting", router.waiting) } else { String::new() };
        parts.push(format!("{} in flight{waiting}", router.in_flight));
        let modes = match router.strategy.as_str() {
            "" => look.text(&named(&router.config_source)),
            strategy => look.text(&format!("of strategy {strategy}")),
        };
        parts.push(format!("modes {modes}"));
        if !router.plan.is_empty() {
            let stopped = router.plan == "following" && !router.plan_stopped.is_empty();
            let plan = if stopped { "followed, but nothing moves" } else { look_of(&router.plan) };
            parts.push(format!("plan {plan}"));
        }
    } else {
        parts.push(format!("router {}", look.text(address)));
    }
    let fits = |parts: &[String]| look.width.is_none_or(|width| parts.join("   ").chars().count() <= width);
    while parts.len() > 1 && !fits(&parts) {
        parts.pop();
    }
    parts[0] = paint::bold(&parts[0], look.color);
    parts.join("   ")
}

/// A plan's state in a word of the head line.
fn look_of(plan: &str) -> &'static str {
    if plan == "following" { "followed" } else { "off" }
}

fn state_cell(word: &str, look: Look) -> Cell {
    let (text, paint) = paint::state(word, look);
    Cell::Text(text, paint)
}

fn nodes(nodes: &[NodeStatus], look: Look) -> Vec<String> {
    let mut table = Table::default()
        .left("NODE", Rank::Essential)
        .left("STATE", Rank::Essential)
        .left("GPU", Rank::Extra)
        .right("VRAM", Rank::Useful)
        .right("RAM", Rank::Useful)
        .right("TEMP", Rank::Extra)
        .right("BUSY", Rank::Important)
        .left("PATH", Rank::Extra)
        .left("MODELS", Rank::Important);
    for node in nodes {
        let (total, available) = video_memory(&node.gpus);
        table.row([
            Cell::text(look.text(&node.name)),
            state_cell(&node.state, look),
            Cell::text(look.text(&gpu_names(&node.gpus))),
            Cell::text(used_of(total, available)),
            Cell::text(used_of(node.ram_total, node.ram_available)),
            Cell::text(known(node.hottest_celsius, |value| celsius(value, look))),
            Cell::text(busy(node)),
            Cell::text(look.text(&path(node))),
            node_models(node, look),
        ]);
    }
    table.lines(look)
}

/// Requests of this router against slots: `2/4`.
fn busy(node: &NodeStatus) -> String {
    if node.state == "offline" {
        return UNKNOWN.to_owned();
    }
    format!("{}/{}", node.in_flight, known(node.slots, |slots| slots.to_string()))
}

fn path(node: &NodeStatus) -> String {
    if node.data_path == "none" { UNKNOWN.to_owned() } else { named(&node.data_path) }
}

/// Known memory of all GPUs together; unknown when no GPU tells.
fn video_memory(gpus: &[GpuStatus]) -> (Option<u64>, Option<u64>) {
    let sum = |of: fn(&GpuStatus) -> Option<u64>| {
        let values: Vec<u64> = gpus.iter().filter_map(of).collect();
        (!values.is_empty()).then(|| values.into_iter().fold(0, u64::saturating_add))
    };
    (sum(|gpu| gpu.memory_total), sum(|gpu| gpu.memory_available))
}

/// `2x RTX 4090`, `RTX 4070 + Radeon 780M`
fn gpu_names(gpus: &[GpuStatus]) -> String {
    let mut counted: Vec<(&str, usize)> = Vec::new();
    for gpu in gpus {
        match counted.iter_mut().find(|(name, _)| *name == gpu.name) {
            Some((_, count)) => *count += 1,
            None => counted.push((&gpu.name, 1)),
        }
    }
    let names: Vec<String> = counted
        .into_iter()
        .map(|(name, count)| if count == 1 { name.to_owned() } else { format!("{count}x {name}") })
        .collect();
    named(&names.join(" + "))
}

fn node_models(node: &NodeStatus, look: Look) -> Cell {
    if matches!(node.state.as_str(), "offline" | "suspect") {
        return Cell::Text(format!("last heard {} ago", milliseconds(node.last_heard_ms)), Paint::Dim);
    }
    let replicas =
        node.engines.iter().flat_map(|engine| engine.replicas.iter().map(move |replica| (engine, replica)));
    let held = replicas.filter_map(|(engine, replica)| match replica.state.as_str() {
        "loaded" if engine.state == "down" => Some(look.text(&format!("{} silent", replica.model))),
        "loaded" => Some(look.text(&replica.model)),
        "loading" | "failed" => Some(look.text(&format!("{} {}", replica.model, replica.state))),
        _ => None,
    });
    Cell::List(held.collect())
}

fn modes(modes: &[ModeStatus], look: Look) -> Vec<String> {
    let mut table = Table::default()
        .left("MODE", Rank::Essential)
        .left("MODEL", Rank::Important)
        .left("NODE", Rank::Important)
        .left("STATE", Rank::Essential)
        .right("TTFT p50", Rank::Useful)
        .right("RATE", Rank::Useful)
        .left("REQUESTS", Rank::Extra);
    for mode in modes {
        table.row([
            Cell::text(look.text(&mode.name)),
            Cell::text(look.text(&named(&mode.model))),
            Cell::List(mode.nodes.iter().map(|node| look.text(node)).collect()),
            state_cell(&mode.state, look),
            Cell::text(known(mode.ttft_s, seconds)),
            Cell::text(known(mode.tokens_per_second, rate)),
            Cell::text(requests(mode)),
        ]);
    }
    table.lines(look)
}

fn requests(mode: &ModeStatus) -> String {
    let ended = format!("{} ok, {} failed", mode.ok, mode.failed);
    if mode.waiting > 0 { format!("{ended}, {} waiting", mode.waiting) } else { ended }
}

fn models(models: &[ModelStatus], all: bool, look: Look) -> Vec<String> {
    let in_use = |model: &&ModelStatus| {
        all || !model.modes.is_empty() || model.replicas.iter().any(|replica| replica.state != "available")
    };
    let shown: Vec<&ModelStatus> = models.iter().filter(in_use).collect();
    let hidden = models.len() - shown.len();
    let mut lines = Vec::new();
    if !shown.is_empty() {
        lines.push(String::new());
        lines.extend(model_table(&shown, look));
    }
    if hidden > 0 {
        lines.extend([String::new(), format!("{hidden} more on disk: meshctl status --all")]);
    }
    lines
}

fn model_table(models: &[&ModelStatus], look: Look) -> Vec<String> {
    let mut table = Table::default()
        .left("MODEL", Rank::Essential)
        .left("LOADED", Rank::Essential)
        .left("ON DISK", Rank::Useful)
        .right("SIZE", Rank::Extra)
        .right("PARAMS", Rank::Extra)
        .right("CONTEXT", Rank::Useful)
        .right("BUSY", Rank::Useful)
        .left("MODES", Rank::Important);
    for model in models {
        let loaded: Vec<_> = model.replicas.iter().filter(|replica| replica.state == "loaded").collect();
        let held = model.replicas.iter().filter_map(|replica| match replica.state.as_str() {
            "available" => None,
            "loaded" => Some(look.text(&replica.node)),
            word => Some(look.text(&format!("{} {word}", replica.node))),
        });
        let on_disk = model.replicas.iter().filter(|replica| replica.state == "available");
        let slots: Option<u32> = sum(loaded.iter().map(|replica| replica.slots));
        let busy: Option<u32> = sum(loaded.iter().map(|replica| replica.busy));
        table.row([
            Cell::text(look.text(&model.name)),
            Cell::List(held.collect()),
            Cell::List(on_disk.map(|replica| look.text(&replica.node)).collect()),
            Cell::text(known(model.size, bytes)),
            Cell::text(known(model.parameters, parameters)),
            Cell::text(known(loaded.iter().filter_map(|replica| replica.context).max(), context)),
            Cell::text(match (busy, slots) {
                (None, None) => UNKNOWN.to_owned(),
                (busy, slots) => {
                    format!("{}/{}", known(busy, |n| n.to_string()), known(slots, |n| n.to_string()))
                }
            }),
            Cell::List(model.modes.iter().map(|mode| look.text(mode)).collect()),
        ]);
    }
    table.lines(look)
}

/// The sum of what is known; unknown when nothing is.
fn sum(values: impl Iterator<Item = Option<u32>>) -> Option<u32> {
    values
        .flatten()
        .fold(None, |total: Option<u32>, value| Some(total.unwrap_or_default().saturating_add(value)))
}

/// What the router says is wrong, and every state that it does not mention there.
fn health(status: &StatusReply, notice: Option<&str>, look: Look) -> Vec<String> {
    let mentioned = |name: &str| status.health.iter().any(|line| line.message.contains(name));
    let ours = |message: String| HealthLine { level: "warning".into(), message, hint: String::new() };
    let is_unsound = |sound: &[&str], state: &str| !sound.contains(&state);
    let nodes =
        status.nodes.iter().filter(|node| is_unsound(&SOUND_NODES, &node.state) && !node.reason.is_empty());
    let modes =
        status.modes.iter().filter(|mode| is_unsound(&SOUND_MODES, &mode.state) && !mode.reason.is_empty());
    let unsaid = nodes
        .filter(|node| !mentioned(&node.name))
        .map(|node| ours(format!("{} {}: {}", node.name, node.state, node.reason)))
        .chain(
            modes
                .filter(|mode| !mentioned(&mode.name))
                .map(|mode| ours(format!("mode {} {}: {}", mode.name, mode.state, mode.reason))),
        );
    let notice =
        notice.map(|text| HealthLine { level: "error".into(), message: text.into(), hint: String::new() });
    let lines: Vec<HealthLine> =
        notice.into_iter().chain(status.health.iter().cloned()).chain(unsaid).collect();
    if lines.is_empty() {
        return Vec::new();
    }
    let width =
        lines.iter().filter(|line| !line.hint.is_empty()).map(|line| line.message.chars().count()).max();
    let mut out = vec![String::new(), paint::bold("# Health", look.color)];
    for line in &lines {
        let symbol = match line.level.as_str() {
            "error" => Paint::Red.on(look.sign("✕", "x"), look.color),
            "info" => Paint::Cyan.on(look.sign("·", "-"), look.color),
            _ => Paint::Yellow.on(look.sign("▲", "!"), look.color),
        };
        let message = look.text(&line.message);
        if line.hint.is_empty() {
            out.push(format!("# {symbol} {message}"));
            continue;
        }
        let hint = format!("{} {}", look.arrow(), Paint::Cyan.on(&look.text(&line.hint), look.color));
        let width = width.unwrap_or_default();
        let room = width + 6 + line.hint.chars().count();
        if look.width.is_some_and(|limit| room > limit) {
            out.extend([format!("# {symbol} {message}"), format!("#     {hint}")]);
        } else {
            out.push(format!("# {symbol} {message:width$}  {hint}"));
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use mesh_proto::v1::{EngineStatus, ReplicaStatus};

    #[test]
    fn a_model_of_an_engine_that_is_down_is_not_listed_as_one_that_serves() {
        let engine = |state: &str, replica: &str| EngineStatus {
            state: state.into(),
            replicas: vec![ReplicaStatus {
                model: "m".into(),
                state: replica.into(),
                ..ReplicaStatus::default()
            }],
            ..EngineStatus::default()
        };
        let models = |state: &str, replica: &str| {
            let node = NodeStatus {
                name: "vm".into(),
                state: "ready".into(),
                engines: vec![engine(state, replica)],
                ..NodeStatus::default()
            };
            let status = StatusReply { nodes: vec![node], ..StatusReply::default() };
            let text =
                screen(&status, "here", false, None, Look { width: None, color: false, unicode: true });
            let line = text.lines().find(|line| line.starts_with("vm")).map(str::to_owned);
            line.unwrap_or(text)
        };
        assert!(models("up", "loaded").ends_with(" m"), "{}", models("up", "loaded"));
        assert!(models("down", "loaded").ends_with(" m silent"), "{}", models("down", "loaded"));
        assert!(models("down", "failed").ends_with(" m failed"), "{}", models("down", "failed"));
    }
}
