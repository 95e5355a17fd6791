//! What was measured with what: machines and settings, and the models with their files and engines.

use super::super::ladder::number;
use super::super::quantity::{UNKNOWN, bytes, context, known, moment, parameters};
use super::document::{Block, Entry, Grid, Section};
use super::{Climb, Report};
use mesh_core::ladder::{Record, Rung, Settings};
use mesh_core::profile::GpuFacts;
use mesh_core::trial::{Prefix, Subject};

/// What is told of each climb.
type Fact = fn(&Record) -> String;

/// A column for each climb: the machine, its software, and what was asked of it.
pub(super) fn machines(report: &Report<'_>) -> Section {
    let mut grid = Grid::default().left("WHAT");
    for climb in &report.climbs {
        grid = grid.left(climb.name.as_str());
    }
    let facts: [(&str, Fact); 21] = [
        ("climb", |record| record.id.clone()),
        ("measured by", by),
        ("when", when),
        ("processor", processor),
        ("main memory", |record| known(record.hardware.ram, |ram| bytes(ram.0))),
        ("graphics", |record| listed(record.hardware.gpus.iter().map(graphics))),
        ("driver", |record| listed(record.software.drivers.iter().cloned())),
        ("system", |record| known(record.software.system.clone(), |system| system)),
        ("agent", |record| named(&record.software.agent)),
        ("meshctl", |record| named(&record.meshctl)),
        ("engine", |record| listed(distinct(record.rungs.iter().filter_map(build)))),
        ("tokens of prompt:answer", |record| {
            of_speeds(record, |settings| {
                listed(
                    settings
                        .matrix
                        .iter()
                        .map(|shape| format!("{}:{}", context(shape.prompt), context(shape.output))),
                )
            })
        }),
        ("requests at once", |record| {
            of_speeds(record, |settings| listed(settings.streams.iter().map(ToString::to_string)))
        }),
        ("repetitions", |record| {
            of_speeds(record, |settings| format!("{}; warm-ups do not count", settings.repetitions))
        }),
        ("cache", |record| {
            of_speeds(record, |settings| match settings.prefix {
                Prefix::Cold => "cold: no prompt could be in it".into(),
                Prefix::Warm => "warm: each repetition had the same prompt".into(),
            })
        }),
        ("seed", |record| match record.imported {
            Some(_) => UNKNOWN.into(),
            None => record.settings.seed.to_string(),
        }),
        ("questions", |record| {
            of_answers(record, |settings| format!("set {}, {}", settings.prompts, sampling(settings)))
        }),
        ("soak", |record| known(record.settings.soak_s, |seconds| format!("{seconds} s"))),
        ("climbs on while", limits),
        ("modes", |record| listed(record.modes.iter().map(|goal| goal.mode.to_string()))),
        ("ended", ended),
    ];
    for (what, fact) in facts {
        let told = report.climbs.iter().map(|climb| Entry::from(fact(climb.record)));
        grid.row(std::iter::once(Entry::from(what)).chain(told));
    }
    Section { anchor: "machine", title: "Machine and settings", blocks: vec![Block::Table(grid)] }
}

/// How speeds were measured, where any were.
fn of_speeds(record: &Record, told: fn(&Settings) -> String) -> String {
    let were_measured = record.rungs.iter().any(|rung| !rung.cells.is_empty());
    if were_measured { told(&record.settings) } else { UNKNOWN.into() }
}

/// How answers were asked for, where any were.
fn of_answers(record: &Record, told: fn(&Settings) -> String) -> String {
    let were_asked = record.rungs.iter().any(|rung| !rung.answers.is_empty());
    if were_asked { told(&record.settings) } else { UNKNOWN.into() }
}

fn by(record: &Record) -> String {
    let own = || "meshctl ladder run".to_owned();
    record.imported.as_ref().map_or_else(own, |one| format!("{}, {}; imported", one.from, one.build))
}

fn when(record: &Record) -> String {
    let ended = record.ended_unix_ms.map_or_else(|| "no end".into(), moment);
    format!("{} – {ended}", moment(record.started_unix_ms))
}

fn processor(record: &Record) -> String {
    let threads = Some(record.hardware.cpu_threads).filter(|threads| *threads > 0);
    let threads = threads.map(|threads| format!(", {threads} threads")).unwrap_or_default();
    known(record.hardware.cpu.as_ref(), |cpu| format!("{cpu}{threads}"))
}

fn graphics(gpu: &GpuFacts) -> String {
    let memory = gpu.memory.map(|memory| format!(", {}", bytes(memory.0))).unwrap_or_default();
    let shared = if gpu.shares_ram { " shared with the processor" } else { "" };
    format!("{}{memory}{shared}", gpu.name)
}

fn sampling(settings: &Settings) -> String {
    let told = [
        settings.sampling.temperature.map(|value| format!("temperature {value}")),
        settings.sampling.top_p.map(|value| format!("top-p {value}")),
        settings.sampling.max_tokens.map(|tokens| format!("at most {tokens} tokens")),
    ];
    let told: Vec<String> = told.into_iter().flatten().collect();
    if told.is_empty() { "sampled as the engine does".into() } else { told.join(", ") }
}

fn limits(record: &Record) -> String {
    if record.imported.is_some() {
        return UNKNOWN.into();
    }
    let settings = &record.settings;
    let success = format!("{:.0} % of the answers are good", settings.success_threshold * 100.0);
    let idle = settings.idle_below.map(|limit| format!("below {:.0} °C when idle", limit.0));
    let load = settings.sustained_below.map(|limit| format!("below {:.0} °C under load", limit.0));
    [Some(success), idle, load].into_iter().flatten().collect::<Vec<_>>().join(", ")
}

/// Why it went no further.
fn ended(record: &Record) -> String {
    match (&record.stopped, record.ended_unix_ms) {
        _ if record.imported.is_some() => UNKNOWN.into(),
        (Some(stopped), _) => stopped.why.clone(),
        (None, Some(_)) => "all models were climbed".into(),
        (None, None) => "it was not climbed to its end".into(),
    }
}

/// Which files and engines the rungs are.
pub(super) fn models(report: &Report<'_>) -> Section {
    let mut blocks = Vec::new();
    for climb in &report.climbs {
        if report.is_comparison() {
            blocks.push(Block::Heading(climb.name.clone()));
        }
        blocks.push(Block::Table(files(climb)));
    }
    Section { anchor: "models", title: "Models and engines", blocks }
}

fn files(climb: &Climb<'_>) -> Grid {
    let mut grid = Grid::default()
        .left("MODEL")
        .right("PARAMETERS")
        .left("QUANT")
        .right("FILE")
        .left("ENGINE")
        .left("WHERE")
        .right("CONTEXT × SLOTS")
        .right("LOAD")
        .right("MEMORY TAKEN")
        .left("SHA-256");
    for (rung, summary, _) in climb.rungs() {
        let active = rung.active_parameters.filter(|active| rung.parameters.is_some_and(|all| *active < all));
        let active = active.map(|active| format!(", {} active", parameters(active))).unwrap_or_default();
        let subject = rung.subject.as_ref();
        let pools = [(summary.vram_taken, "VRAM"), (summary.ram_taken, "RAM")];
        let taken = pools.iter().filter_map(|(taken, pool)| Some(format!("{} {pool}", bytes((*taken)?.0))));
        let fetched = rung
            .pull
            .filter(|pull| pull.seconds > 0.0)
            .map(|pull| format!(", fetched at {}/s", bytes((pull.bytes.0 as f64 / pull.seconds) as u64)));
        grid.row([
            Entry::from(rung.model.as_str()),
            known(rung.parameters, |count| format!("{}{active}", parameters(count))).into(),
            known(rung.quantisation.clone(), |name| name).into(),
            known(rung.size, |size| bytes(size.0)).into(),
            build(rung).unwrap_or_else(|| UNKNOWN.into()).into(),
            known(subject, placed).into(),
            known(subject, sizes).into(),
            (known(rung.load_s, |seconds| format!("{} s", number(seconds))) + &fetched.unwrap_or_default())
                .into(),
            listed(taken).into(),
            known(digest(rung), str::to_owned).into(),
        ]);
    }
    grid
}

/// Engine and version.
pub(super) fn build(rung: &Rung) -> Option<String> {
    rung.subject.as_ref().map(|subject| subject.build.clone()).filter(|build| !build.is_empty())
}

pub(super) fn digest(rung: &Rung) -> Option<&str> {
    let seen = rung.subject.as_ref().and_then(|subject| subject.digest.as_deref());
    rung.digest.as_deref().or(seen)
}

fn placed(subject: &Subject) -> String {
    let part = subject.offload.map(|offload| format!(" ({})", offload.words())).unwrap_or_default();
    format!("{}{part}", named(&subject.device))
}

fn sizes(subject: &Subject) -> String {
    let slots = known(subject.slots, |slots| slots.to_string());
    format!("{} × {slots}", known(subject.context, context))
}

/// Each once, in their order.
fn distinct(names: impl Iterator<Item = String>) -> impl Iterator<Item = String> {
    let mut seen: Vec<String> = Vec::new();
    for name in names {
        if !seen.contains(&name) {
            seen.push(name);
        }
    }
    seen.into_iter()
}

fn listed(names: impl Iterator<Item = String>) -> String {
    let names: Vec<String> = names.collect();
    if names.is_empty() { UNKNOWN.into() } else { names.join(", ") }
}

fn named(text: &str) -> String {
    super::super::quantity::named(text)
}
