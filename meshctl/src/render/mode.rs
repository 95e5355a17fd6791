//! Modes: what they want, which models may answer, and where they are served.

use super::paint::{self, Look, Paint};
use super::quantity::{UNKNOWN, context, known, named, rate, seconds};
use super::table::{Cell, Rank, Table};
use super::wrap::wrapped;
use mesh_core::strategy::{Residency, Wish};
use mesh_proto::v1::{ModeChange, ModeSetting, ModeStatus, ModelStatus, PlacedReplica, SetModeReply};
use serde::Serialize;

/// One mode as it is and as it is wished.
#[derive(Debug, Clone, Copy, Serialize)]
pub(crate) struct View<'a> {
    /// How it is served; `None` = only wished.
    #[serde(flatten)]
    pub(crate) status: Option<&'a ModeStatus>,
    /// What it wants; `None` = nobody said.
    pub(crate) wish: Option<&'a Wish>,
    /// Tokens of the longest request that the model which answers takes where it is loaded, as far as all of them tell.
    pub(crate) served_context: Option<u32>,
}

impl<'a> View<'a> {
    /// A mode whose models are among `models`.
    pub(crate) fn new(
        status: Option<&'a ModeStatus>,
        wish: Option<&'a Wish>,
        models: &[ModelStatus],
    ) -> Self {
        let longest = |status: &ModeStatus| {
            let model = models.iter().find(|model| model.name == status.model)?;
            let is_there = |one: &&PlacedReplica| one.state == "loaded" && status.nodes.contains(&one.node);
            let told: Option<Vec<u32>> =
                model.replicas.iter().filter(is_there).map(|one| one.context).collect();
            told?.into_iter().max()
        };
        Self { status, wish, served_context: status.and_then(longest) }
    }

    /// The context that is served and the one that is wanted, where it is less.
    fn short_context(&self) -> Option<(u32, &'a Wish)> {
        self.served_context.zip(self.wish).filter(|(is, wish)| *is < wish.context)
    }

    /// What it is served with less of than it wants, in words.
    pub(crate) fn less(&self) -> Option<String> {
        let (is, wish) = self.short_context()?;
        let (is, wanted, least) = (context(is), context(wish.context), context(wish.least_context));
        Some(match self.served_context < Some(wish.least_context) {
            true => format!("{is} of context, less than the {least} that it needs at least"),
            false => format!("{is} of context, less than the {wanted} that it wants"),
        })
    }

    /// Its name.
    pub(crate) fn name(&self) -> &'a str {
        let wished = self.wish.map(|wish| wish.mode.as_str());
        self.status.map(|status| status.name.as_str()).or(wished).unwrap_or_default()
    }

    /// The models that may answer, best first.
    pub(crate) fn models(&self) -> Vec<&'a str> {
        let wished = || self.wish.iter().flat_map(|wish| &wish.models).map(|model| model.as_str()).collect();
        match self.status.filter(|status| !status.models.is_empty()) {
            Some(status) => status.models.iter().map(String::as_str).collect(),
            None => wished(),
        }
    }

    fn state(&self) -> &'a str {
        self.status.map_or("unserved", |status| status.state.as_str())
    }
}

/// One row for each mode.
pub(crate) fn list(modes: &[View<'_>], look: Look) -> String {
    if modes.is_empty() {
        return "no modes; write them under [modes.NAME], or choose a strategy: meshctl plan\n".to_owned();
    }
    let mut table = Table::default()
        .left("MODE", Rank::Essential)
        .left("STATE", Rank::Essential)
        .left("MODEL", Rank::Important)
        .left("NODE", Rank::Important)
        .right("CONTEXT", Rank::Useful)
        .right("SLOTS", Rank::Useful)
        .right("COPIES", Rank::Useful)
        .left("RESIDENCY", Rank::Useful)
        .left("MODELS", Rank::Extra);
    let mut reasons = Vec::new();
    for mode in modes {
        let (state, paint) = paint::state(mode.state(), look);
        let nodes = mode.status.map(|status| status.nodes.as_slice()).unwrap_or_default();
        table.row([
            Cell::text(look.text(mode.name())),
            Cell::Text(state, paint),
            Cell::text(look.text(&named(mode.status.map_or("", |status| &status.model)))),
            Cell::List(nodes.iter().map(|node| look.text(node)).collect()),
            wanted_context(*mode),
            Cell::text(known(mode.wish, |wish| wish.slots.to_string())),
            Cell::text(known(mode.wish, |wish| wish.copies.to_string())),
            Cell::text(mode.wish.map_or(UNKNOWN, |wish| wish.residency.word())),
            Cell::List(mode.models().iter().map(|model| look.text(model)).collect()),
        ]);
        let reason = mode.status.map_or("it is wished, and not served yet", |status| &status.reason);
        if !reason.is_empty() {
            let text = look.text(&format!("{}: {reason}", mode.name()));
            reasons.extend(wrapped("# ", &text, look));
        }
        let needs = mode.wish.map(|wish| wish.least_context);
        if let Some(less) = mode.less().filter(|_| mode.served_context < needs) {
            reasons.extend(wrapped("# ", &look.text(&format!("{}: served with {less}", mode.name())), look));
        }
    }
    let mut lines = table.lines(look);
    lines.extend(reasons);
    lines.join("\n") + "\n"
}

/// `64k`, or `2k of 64k` where less is served.
fn wanted_context(mode: View<'_>) -> Cell {
    match mode.short_context() {
        Some((is, wish)) => {
            Cell::Text(format!("{} of {}", context(is), context(wish.context)), Paint::Yellow)
        }
        None => Cell::text(known(mode.wish, |wish| context(wish.context))),
    }
}

/// `code of the strategy auto: context 32K -> 8K`, or that nothing changes; `is_gone` where there is no such mode any more.
pub(crate) fn changed(reply: &SetModeReply, is_gone: bool, look: Look) -> String {
    let word = |word: &str| if word.is_empty() { "as usual".to_owned() } else { look.text(word) };
    let owner = if reply.strategy.is_empty() {
        String::new()
    } else {
        format!(" of the strategy {}", look.text(&reply.strategy))
    };
    let told = |change: &ModeChange| {
        let (name, before, after) = (look.text(&change.name), word(&change.before), word(&change.after));
        if before == after {
            format!("{name} was {after} already")
        } else {
            format!("{name} {before} → {after}")
        }
    };
    let changes: Vec<String> = reply.changes.iter().map(told).collect();
    let changes = match changes.as_slice() {
        _ if is_gone => "it was made by hand, and is no more".to_owned(),
        [] => "nothing was changed by hand".to_owned(),
        changes => changes.join(", "),
    };
    wrapped("", &format!("{}{owner}: {changes}", look.text(&reply.mode)), look).join("\n") + "\n"
}

/// All of one mode. `models` says where its models are, `by_hand` which of its settings were changed.
pub(crate) fn page(mode: View<'_>, models: &[ModelStatus], by_hand: &[&ModeSetting], look: Look) -> String {
    let mut lines = vec![head(mode, look), String::new()];
    lines.extend(places(mode, models, look));
    let mut line = |name: &str, value: &str| lines.extend(wrapped(&format!("{name:<12}"), value, look));
    if let Some(status) = mode.status.filter(|status| !status.fallback.is_empty()) {
        line("falls back", &look.text(&format!("to {}", status.fallback.join(", "))));
    }
    match mode.wish {
        Some(wish) => {
            for (name, value) in wanted(wish) {
                line(name, &look.text(&value));
            }
            if let Some(less) = mode.less() {
                line("served", &less);
            }
        }
        None => line("wishes", "none: nothing is planned for it"),
    }
    if !by_hand.is_empty() {
        let told = |setting: &&ModeSetting| format!("{}={}", setting.name, setting.value);
        let settings: Vec<String> = by_hand.iter().map(told).collect();
        let text = format!("{}; back: meshctl mode reset {}", settings.join(" "), mode.name());
        line("by hand", &look.text(&text));
    }
    if let Some(status) = mode.status {
        let mut told = vec![format!("{} ok", status.ok), format!("{} failed", status.failed)];
        if status.waiting > 0 {
            told.push(format!("{} waiting", status.waiting));
        }
        told.extend(status.ttft_s.map(|ttft| format!("TTFT p50 {}", seconds(ttft))));
        told.extend(status.tokens_per_second.map(rate));
        line("requests", &told.join(", "));
    }
    lines.join("\n") + "\n"
}

/// `code   ● ready   also called build`
pub(crate) fn head(mode: View<'_>, look: Look) -> String {
    let (state, paint) = paint::state(mode.state(), look);
    let name = paint::bold(&look.text(mode.name()), look.color);
    let mut head = format!("{name}   {}", paint.on(&state, look.color));
    if let Some(status) = mode.status {
        if !status.reason.is_empty() {
            head.push_str(&format!(": {}", look.text(&status.reason)));
        }
        if !status.aliases.is_empty() {
            head.push_str(&look.text(&format!("   also called {}", status.aliases.join(", "))));
        }
    }
    head
}

/// Each of its models, best first, and where it is.
pub(crate) fn places(mode: View<'_>, models: &[ModelStatus], look: Look) -> Vec<String> {
    let names = mode.models();
    if names.is_empty() {
        return wrapped("models      ", "chosen among those that the machines have", look);
    }
    let mut lines = Vec::new();
    for (at, name) in names.iter().enumerate() {
        let known = models.iter().find(|model| model.name == *name);
        let place = known.map(where_it_is).filter(|place| !place.is_empty());
        let place = place.unwrap_or_else(|| "no machine has it".to_owned());
        let label = if at == 0 { "models" } else { "" };
        let start = format!("{label:<12}{}. {}: ", at + 1, look.text(name));
        lines.extend(wrapped(&start, &look.text(&place), look));
    }
    lines
}

/// `loaded on strix-1 (64k), on disk of strix-2`
pub(crate) fn where_it_is(model: &ModelStatus) -> String {
    let held = |replica: &PlacedReplica| {
        let size = replica.context.map(|tokens| format!(" ({})", context(tokens)));
        format!("{} on {}{}", replica.state, replica.node, size.unwrap_or_default())
    };
    let is_stored = |replica: &&PlacedReplica| replica.state == "available";
    let mut places: Vec<String> =
        model.replicas.iter().filter(|replica| !is_stored(replica)).map(held).collect();
    let disks: Vec<&str> = model.replicas.iter().filter(is_stored).map(|one| one.node.as_str()).collect();
    if !disks.is_empty() {
        places.push(format!("on disk of {}", disks.join(", ")));
    }
    places.join(", ")
}

/// What a mode wants, by lines.
pub(crate) fn wanted(wish: &Wish) -> Vec<(&'static str, String)> {
    let caches: Vec<&str> = wish.cache_types.iter().map(|kind| kind.word()).collect();
    let stays = match wish.residency {
        Residency::Pinned => "pinned: before all others, nothing takes its place",
        Residency::Warm => "warm: whenever there is room",
        Residency::OnDemand => "on-demand: only when somebody asks for it",
    };
    let copies = if wish.copies == 1 { "copy" } else { "copies" };
    let tokens = |count: u32| format!("{} tokens", context(count));
    let mut lines = vec![
        ("context", format!("{}, {} at least", tokens(wish.context), tokens(wish.least_context))),
        ("slots", format!("{} on each of {} {copies}", wish.slots, wish.copies)),
        ("cache", caches.join(", else ")),
        ("residency", format!("{stays}; weight {}", wish.weight)),
    ];
    let target = [
        wish.target.ttft_s.map(|ttft| format!("TTFT {}", seconds(ttft))),
        wish.target.tpot_s.map(|tpot| format!("{} for each token", seconds(tpot))),
    ];
    let target: Vec<String> = target.into_iter().flatten().collect();
    if !target.is_empty() {
        lines.push(("target", target.join(", ")));
    }
    let machines: Vec<&str> = wish.machines.iter().map(|machine| machine.as_str()).collect();
    let labels: Vec<&str> = wish.labels.iter().map(String::as_str).collect();
    if !machines.is_empty() || !labels.is_empty() {
        let only = if machines.is_empty() { "any".to_owned() } else { machines.join(", ") };
        let labels =
            if labels.is_empty() { String::new() } else { format!(" with the label {}", labels.join(", ")) };
        lines.push(("machines", format!("{only}{labels}")));
    }
    lines
}
