//! Plans, pinned: a household that gets what it wants, one that cannot, one that wishes nothing.

use super::mode::{self, View};
use super::paint::Look;
use super::plan::{Asked, Page};
use super::reasons::Mesh;
use mesh_core::fit::{Demand, Offload};
use mesh_core::id::{MachineId, ModeName, ModelId};
use mesh_core::memory::{CacheType, Confidence, Footprint, Parts};
use mesh_core::placement::{
    Change, Known, MachineAfter, Obstacle, OnDemand, Placed, Plan, PoolAfter, Serves, Stage, Unplaced,
};
use mesh_core::strategy::{MachineLimits, Pin, Residency, Wish, WishProblem, Wishes};
use mesh_core::units::{Bytes, Celsius};
use mesh_proto::v1::{
    ModeChange, ModeSetting, ModeStatus, ModelStatus, NodeStatus, PlacedReplica, SetModeReply, StatusReply,
    StrategyLine,
};

const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;
const PIPE: Look = Look { width: None, color: false, unicode: true };

fn columns(width: usize) -> Look {
    Look { width: Some(width), ..PIPE }
}

fn machine(name: &str) -> MachineId {
    MachineId::new(name).expect("a good name")
}

fn model(name: &str) -> ModelId {
    ModelId::new(name).expect("a good name")
}

fn mode_name(name: &str) -> ModeName {
    ModeName::new(name).expect("a good name")
}

fn serves(mode: &str, copies: u32, short: &[&str]) -> Serves {
    let short = short.iter().map(|text| (*text).to_owned()).collect();
    Serves { mode: mode_name(mode), rank: 1, copies, tpot_s: 0.02, known: Known::Guessed, short }
}

/// On a graphics processor: weights, cache and the rest in MiB.
fn placed(at: &str, name: &str, mib: [u64; 3], stage: Stage, serves: Vec<Serves>) -> Placed {
    let [weights, kv, compute] = mib.map(|part| Bytes(part * MIB));
    let device = Parts { weights, kv, compute, ..Parts::default() };
    let needs = Demand { device: device.total(), ..Demand::default() };
    let confidence = Confidence::Exact;
    Placed {
        machine: machine(at),
        model: model(name),
        context: Some(65_536),
        slots: 1,
        cache: CacheType::F16,
        offload: Offload::Full,
        gpu: Some("0000:01:00.0".into()),
        footprint: Footprint { device, host: Parts::default(), confidence, notes: vec![] },
        needs,
        serves,
        stage,
        pinned: false,
        digest: None,
        source: None,
        why: "its file is there; 1 other machine could".into(),
    }
}

fn pool(name: &str, capacity: u64, used_mib: u64, reserved: u64) -> PoolAfter {
    PoolAfter {
        name: name.into(),
        capacity: Some(Bytes(capacity * GIB)),
        used: Bytes(used_mib * MIB),
        free: Some(Bytes((capacity * GIB).saturating_sub(used_mib * MIB))),
        reserved: Bytes(reserved * GIB),
    }
}

fn after(name: &str, pools: Vec<PoolAfter>, barred: &str) -> MachineAfter {
    MachineAfter { machine: machine(name), pools, barred: barred.into() }
}

fn full() -> Plan {
    let coder = Placed {
        slots: 2,
        cache: CacheType::Q8_0,
        ..placed(
            "strix-1",
            "qwen3-coder:30b",
            [19_046, 6_554, 820],
            Stage::Resident,
            vec![serves("code", 2, &[])],
        )
    };
    let debug = serves("debug", 1, &["context 65536 instead of 131072", "cache q8_0 instead of f16"]);
    let mut gemma = placed(
        "msi-5070ti",
        "gemma3:12b",
        [7_475, 1_024, 512],
        Stage::Resize,
        vec![serves("ask", 1, &[]), serves("small", 1, &[])],
    );
    gemma.context = Some(32_768);
    gemma.footprint.confidence = Confidence::Guessed;
    let idle = Placed {
        context: None,
        pinned: true,
        ..placed("msi-5070ti", "vectors", [0, 0, 0], Stage::Fixed, vec![])
    };
    Plan {
        strategy: "spread".into(),
        placed: vec![
            gemma,
            idle,
            coder,
            placed("strix-1", "qwen3:32b", [20_275, 8_704, 922], Stage::Fetch, vec![debug]),
        ],
        on_demand: vec![
            OnDemand {
                mode: mode_name("architect"),
                place: Some((machine("strix-1"), model("gpt-oss:120b"), false)),
            },
            OnDemand {
                mode: mode_name("vision"),
                place: Some((machine("msi-5070ti"), model("qwen-vl:4b"), true)),
            },
        ],
        changes: vec![
            Change::Unload {
                model: model("llama3.3:70b"),
                machine: machine("strix-1"),
                why: "what is planned there needs its memory".into(),
            },
            Change::Resize { model: model("gemma3:12b"), machine: machine("msi-5070ti") },
            Change::Fetch {
                model: model("qwen3:32b"),
                machine: machine("strix-1"),
                size: Bytes(20_275 * MIB),
            },
            Change::Load { model: model("qwen3:32b"), machine: machine("strix-1"), seconds: 25 },
        ],
        machines: vec![
            after("beelink", vec![], "it is offline"),
            after("msi-5070ti", vec![pool("RTX 5070 Ti Laptop", 11, 9_011, 1), pool("RAM", 28, 0, 4)], ""),
            after(
                "strix-1",
                vec![pool("Radeon 8060S", 96, 56_321, 0), pool("RAM and graphics memory", 104, 56_321, 16)],
                "",
            ),
        ],
        problems: vec![WishProblem {
            key: "modes.debug.machines".into(),
            message: "there is no machine `strix-9`".into(),
            fatal: false,
        }],
        worth: 3.2,
        ..Plan::default()
    }
}

fn impossible() -> Plan {
    let obstacle = |at: &str, why: &str| Obstacle {
        model: model("deepseek-v3:iq1"),
        machine: machine(at),
        why: why.into(),
    };
    Plan {
        strategy: "one-giant".into(),
        unplaced: vec![Unplaced {
            mode: mode_name("architect"),
            copies: 1,
            models: vec![model("deepseek-v3:iq1")],
            obstacles: vec![
                obstacle("beelink", "it is offline"),
                obstacle("msi-4070", "needs 160.4 GiB, gives 7 GiB of graphics memory and 14 GiB of RAM"),
                obstacle("strix-1", "needs 160.4 GiB and 8 GiB beside it, gives 120 GiB: 48.4 GiB too few"),
                obstacle("strix-2", "needs 160.4 GiB and 8 GiB beside it, gives 118 GiB: 50.4 GiB too few"),
            ],
            impossible: true,
            would_help: vec![
                "a smaller quantisation of deepseek-v3:iq1: its file may have at most 109.9 GiB, this one has 158.3 GiB"
                    .into(),
                "a machine that gives models at least 168.4 GiB; strix-1 is the largest with 120 GiB".into(),
            ],
        }],
        machines: vec![after("strix-1", vec![pool("RAM", 120, 0, 8)], "")],
        ..Plan::default()
    }
}

fn page<'a>(plan: &'a Plan, state: &'a str, asked: Asked<'a>) -> Page<'a> {
    Page { plan, state, next: &[], stopped: &[], strategies: &[], asked }
}

fn proposed() -> Asked<'static> {
    Asked { strategy: Some("spread"), ..Asked::default() }
}

#[test]
fn a_full_plan_piped() {
    insta::assert_snapshot!(page(&full(), "off", proposed()).text(PIPE));
}

#[test]
fn a_full_plan_in_80_columns() {
    insta::assert_snapshot!(page(&full(), "off", proposed()).text(columns(80)));
}

#[test]
fn a_full_plan_in_ascii_and_colour() {
    let look = Look { width: Some(130), color: true, unicode: false };
    let text = page(&full(), "off", proposed()).text(look);
    assert!(text.is_ascii());
    insta::assert_snapshot!(text.replace('\u{1b}', "^"));
}

#[test]
fn an_impossible_plan_says_why_and_what_would_help() {
    insta::assert_snapshot!(page(&impossible(), "following", Asked::default()).text(columns(100)));
}

#[test]
fn a_plan_with_every_reason_tells_more_than_the_usual_ones() {
    let plan = impossible();
    let usual = page(&plan, "off", Asked::default()).text(PIPE);
    assert!(!usual.contains("strix-2") && usual.contains("    1 more: meshctl explain mode=architect\n"));
    let all = page(&plan, "off", Asked { verbose: true, ..Asked::default() }).text(PIPE);
    assert!(all.contains("strix-2: needs 160.4 GiB") && !all.contains("1 more"), "{all}");
    // The mesh itself may have no mode of this name, or another of it.
    let other = page(&plan, "off", proposed()).text(PIPE);
    assert!(other.contains("    1 more: meshctl plan --strategy spread --verbose\n"), "{other}");
    let assumed = page(&plan, "off", Asked { assumed: true, ..proposed() }).text(PIPE);
    assert!(assumed.contains("    1 more: the same with --verbose\n"), "{assumed}");
    let applied = page(&plan, "following", Asked { applied: true, ..proposed() }).text(PIPE);
    assert!(applied.contains("    1 more: meshctl explain mode=architect\n"), "{applied}");
}

#[test]
fn a_mode_with_some_of_its_copies_is_placed_in_part() {
    let mut plan = full();
    plan.unplaced = vec![Unplaced { mode: mode_name("code"), copies: 1, ..impossible().unplaced.remove(0) }];
    let text = page(&plan, "off", Asked::default()).text(PIPE);
    assert!(
        text.contains("not feasible: 1 of 6 modes is placed in part (2 of 3 copies), at least"),
        "{text}"
    );
    assert!(text.contains("\n  code: deepseek-v3:iq1 (2 of 3 copies are placed)"), "{text}");
    plan.unplaced.extend(impossible().unplaced);
    let text = page(&plan, "off", Asked::default()).text(PIPE);
    assert!(text.contains("not feasible: 1 of 6 modes is not placed, 1 in part, at least"), "{text}");
}

#[test]
fn modes_with_less_than_they_want_are_counted() {
    let mut plan = full();
    let head = |plan: &Plan| page(plan, "off", Asked::default()).text(PIPE).lines().next().map(str::to_owned);
    let said = head(&plan).expect("a line");
    assert!(said.contains("   feasible, 1 mode with less than it wants, at least "), "{said}");
    plan.placed[0].serves[1].short = vec!["context 2048 instead of 65536".into()];
    let said = head(&plan).expect("a line");
    assert!(said.contains("   feasible, 2 modes with less than they want, at least "), "{said}");
}

#[test]
fn nothing_wished_names_the_strategies() {
    let strategy = |name: &str| StrategyLine { name: name.into(), ..StrategyLine::default() };
    let strategies = [strategy("auto"), strategy("spread")];
    let plan = Plan { machines: full().machines, ..Plan::default() };
    let page = Page { strategies: &strategies, ..page(&plan, "off", Asked::default()) };
    insta::assert_snapshot!(page.text(columns(100)));
}

#[test]
fn wishes_that_contradict_themselves_move_nothing() {
    let problem =
        |key: &str, message: &str| WishProblem { key: key.into(), message: message.into(), fatal: true };
    let problems = vec![
        problem("modes.code.least_context", "is 65536, more than the context of 16384"),
        problem("pins.qwen3:32b", "`qwen3:32b` is pinned to `strix-1`, which is drained"),
    ];
    let plan = Plan { problems, ..Plan::default() };
    insta::assert_snapshot!(page(&plan, "following", Asked::default()).text(columns(60)));
}

#[test]
fn what_becomes_of_a_plan_is_said() {
    let plan = full();
    let next = ["strix-1: unload llama3.3:70b, then load qwen3:32b".to_owned()];
    let said =
        |state: &'static str, asked| Page { next: &next, ..page(&plan, state, asked) }.conclusion(PIPE);
    let applied = Asked { applied: true, ..proposed() };
    assert_eq!(
        said("following", applied),
        "Applied: the mesh follows this plan from now on.\n  strix-1: unload llama3.3:70b, then load qwen3:32b\n\
         next: meshctl wait --for plan,complete\n"
    );
    assert_eq!(
        said("following", Asked::default()),
        "The mesh follows this plan.\n  strix-1: unload llama3.3:70b, then load qwen3:32b\n"
    );
    assert_eq!(
        said("following", proposed()),
        "A proposal: nothing is moved.\nnext: meshctl plan --strategy spread --apply\n"
    );
    let assumed = Asked { assumed: true, ..Asked::default() };
    assert_eq!(said("off", assumed), "A proposal: nothing is moved.\n");
    assert_eq!(
        said("off", Asked::default()),
        "The mesh follows no plan: nothing is moved.\nnext: meshctl plan --apply\n"
    );
}

#[test]
fn the_document_is_the_plan_and_what_becomes_of_it() {
    let plan = impossible();
    let text = super::json("mesh.plan/v1", &page(&plan, "off", Asked::default()).document(), false);
    insta::assert_snapshot!(text);
    let back: Plan = serde_json::from_str(&text).expect("a plan");
    assert_eq!(back, plan);
}

#[test]
fn no_line_of_a_plan_is_longer_than_the_terminal() {
    let asked = Asked { verbose: true, ..proposed() };
    for width in 60..180 {
        for plan in [full(), impossible()] {
            for line in page(&plan, "off", asked).text(columns(width)).lines() {
                assert!(line.chars().count() <= width, "{width}: {line}");
            }
        }
    }
}

#[test]
fn names_from_elsewhere_stay_words() {
    let mut plan = full();
    plan.machines[1].pools[0].name = "RTX\u{1b}[2J\n".into();
    plan.problems[0].message = "a\u{7}b".into();
    plan.changes[0] =
        Change::Unload { model: model("m"), machine: machine("msi-5070ti"), why: "x\u{1b}[31m".into() };
    let text = page(&plan, "off", proposed()).text(PIPE);
    assert!(text.chars().all(|c| c == '\n' || !c.is_control()), "{text:?}");
}

fn status() -> StatusReply {
    let replica = |node: &str, state: &str, context| PlacedReplica {
        node: node.into(),
        state: state.into(),
        context,
        ..PlacedReplica::default()
    };
    let code = ModeStatus {
        name: "code".into(),
        aliases: vec!["build".into()],
        model: "qwen3-coder:30b".into(),
        nodes: vec!["strix-1".into()],
        state: "ready".into(),
        models: vec!["qwen3-coder:30b".into(), "devstral:24b".into()],
        fallback: vec!["ask".into()],
        ttft_s: Some(0.9),
        tokens_per_second: Some(41.0),
        ok: 340,
        failed: 2,
        ..ModeStatus::default()
    };
    let architect = ModeStatus {
        name: "architect".into(),
        state: "unserved".into(),
        reason: "no machine that answers has deepseek-v3:iq1".into(),
        models: vec!["deepseek-v3:iq1".into()],
        ..ModeStatus::default()
    };
    let coder = ModelStatus {
        name: "qwen3-coder:30b".into(),
        replicas: vec![replica("strix-1", "loaded", Some(65_536)), replica("msi-5070ti", "available", None)],
        modes: vec!["code".into()],
        parameters: Some(30_532_122_624),
        size: Some(18 * GIB),
    };
    let node = NodeStatus { name: "strix-1".into(), state: "ready".into(), ..NodeStatus::default() };
    StatusReply {
        modes: vec![code, architect],
        models: vec![coder],
        nodes: vec![node],
        ..StatusReply::default()
    }
}

fn wishes() -> Wishes {
    let coders = vec![model("qwen3-coder:30b"), model("devstral:24b")];
    let mut code = Wish::new(mode_name("code"), coders);
    code.context = 65_536;
    code.least_context = 16_384;
    (code.slots, code.copies) = (2, 2);
    code.cache_types = vec![CacheType::F16, CacheType::Q8_0];
    code.target.ttft_s = Some(2.0);
    code.machines.insert(machine("strix-1"));
    code.labels.insert("fast".into());
    let mut vision = Wish::new(mode_name("vision"), vec![model("qwen-vl:4b")]);
    vision.residency = Residency::OnDemand;
    let mut wishes = Wishes { modes: vec![code, vision], ..Wishes::default() };
    let limits = MachineLimits {
        reserve_ram: Bytes(16 * GIB),
        max_temperature: Some(Celsius(90.0)),
        quiet: vec![mesh_core::strategy::QuietHours { from: 22 * 60, until: 7 * 60 + 30 }],
        labels: ["fast".to_owned()].into(),
        ..MachineLimits::default()
    };
    wishes.machines.insert(machine("strix-1"), limits);
    wishes
}

fn views<'a>(status: &'a StatusReply, wishes: &'a Wishes) -> [View<'a>; 3] {
    let known = |at: usize, wish: Option<usize>| {
        View::new(status.modes.get(at), wish.map(|at| &wishes.modes[at]), &status.models)
    };
    [known(0, Some(0)), known(1, None), known(9, Some(1))]
}

#[test]
fn modes_are_listed_with_what_they_want_and_get() {
    let (status, wishes) = (status(), wishes());
    insta::assert_snapshot!(mode::list(&views(&status, &wishes), columns(120)));
    assert!(mode::list(&[], PIPE).starts_with("no modes; "));
}

#[test]
fn a_context_that_is_less_than_wanted_is_told_beside_it() {
    let (mut status, wishes) = (status(), wishes());
    status.models[0].replicas[0].context = Some(32_768);
    let text = mode::list(&views(&status, &wishes), PIPE);
    assert!(text.contains("  32k of 64k  ") && !text.contains("# code"), "{text}");
    status.models[0].replicas[0].context = Some(2048);
    let modes = views(&status, &wishes);
    let text = mode::list(&modes, PIPE);
    assert!(text.contains("  2k of 64k  "), "{text}");
    assert!(
        text.contains("# code: served with 2k of context, less than the 16k that it needs at least\n"),
        "{text}"
    );
    let page = mode::page(modes[0], &status.models, &[], PIPE);
    assert!(
        page.contains("\nserved      2k of context, less than the 16k that it needs at least\n"),
        "{page}"
    );
    let plan = full();
    let mesh = Mesh { status: &status, wishes: &wishes, plan: &plan, state: "off" };
    assert!(mesh.mode_page(modes[0], PIPE).contains("\nserved      2k of context"));
    // What one of them does not tell is not known to be less.
    status.models[0].replicas[0].context = None;
    assert!(mode::list(&views(&status, &wishes), PIPE).contains("  64k  "));
}

#[test]
fn a_mode_is_shown_whole() {
    let (status, wishes) = (status(), wishes());
    let [code, _, vision] = views(&status, &wishes);
    let by_hand = setting("context", "64K");
    insta::assert_snapshot!(
        mode::page(code, &status.models, &[&by_hand], columns(100))
            + "\n"
            + &mode::page(vision, &status.models, &[], PIPE)
    );
}

#[test]
fn a_mode_is_explained_by_its_place() {
    let (status, wishes, plan) = (status(), wishes(), full());
    let mesh = Mesh { status: &status, wishes: &wishes, plan: &plan, state: "off" };
    let [code, _, vision] = views(&status, &wishes);
    insta::assert_snapshot!(mesh.mode_page(code, columns(110)) + "\n" + &mesh.mode_page(vision, PIPE));
}

#[test]
fn an_unplaced_mode_is_explained_with_every_reason() {
    let (status, wishes, plan) = (status(), wishes(), impossible());
    let mesh = Mesh { status: &status, wishes: &wishes, plan: &plan, state: "following" };
    let [_, architect, _] = views(&status, &wishes);
    insta::assert_snapshot!(mesh.mode_page(architect, columns(100)));
}

#[test]
fn a_model_is_explained_by_each_machine() {
    let (status, wishes, plan) = (status(), wishes(), full());
    let mesh = Mesh { status: &status, wishes: &wishes, plan: &plan, state: "following" };
    insta::assert_snapshot!(
        mesh.model_page("qwen3-coder:30b", columns(100)) + "\n" + &mesh.model_page("qwen3:32b", PIPE)
    );
    let pin = |at: &str| Pin { model: model("qwen3-coder:30b"), machine: machine(at) };
    let pinned = Wishes { pins: [pin("strix-1"), pin("msi-5070ti")].into(), ..Wishes::default() };
    let text = Mesh { wishes: &pinned, ..mesh }.model_page("qwen3-coder:30b", PIPE);
    assert!(text.contains("\npinned      to msi-5070ti once it is loaded there, to strix-1\n"), "{text}");
    let plan = impossible();
    let mesh = Mesh { plan: &plan, ..mesh };
    let text = mesh.model_page("deepseek-v3:iq1", PIPE);
    assert!(text.contains("strix-1  not placed  needs 160.4 GiB and 8 GiB beside it"), "{text}");
}

#[test]
fn a_machine_is_explained_by_what_is_there_for_whom() {
    let (status, wishes, plan) = (status(), wishes(), full());
    let mesh = Mesh { status: &status, wishes: &wishes, plan: &plan, state: "following" };
    insta::assert_snapshot!(mesh.node_page(&status.nodes[0], columns(110)));
    let plan = impossible();
    let mesh = Mesh { plan: &plan, ..mesh };
    let text = mesh.node_page(&status.nodes[0], PIPE);
    assert!(text.contains("Not here\n  deepseek-v3:iq1: needs 160.4 GiB"), "{text}");
    let json = super::json("mesh.explain-node/v1", &mesh.node(&status.nodes[0]), true);
    assert!(json.starts_with(r#"{"schema":"mesh.explain-node/v1","node":{"name":"strix-1","#), "{json}");
}

fn setting(name: &str, value: &str) -> ModeSetting {
    ModeSetting { mode: "code".into(), name: name.into(), value: value.into() }
}

#[test]
fn what_a_mode_was_set_to_is_told_with_what_it_was() {
    let change = |name: &str, before: &str, after: &str| ModeChange {
        name: name.into(),
        before: before.into(),
        after: after.into(),
    };
    let reply = |strategy: &str, changes: Vec<ModeChange>| SetModeReply {
        mode: "code".into(),
        strategy: strategy.into(),
        changes,
        state: "off".into(),
        warnings: vec![],
    };
    let changes =
        vec![change("context", "32K", "64K"), change("models", "", "a,b"), change("slots", "2", "2")];
    let told = mode::changed(&reply("auto", changes), false, columns(200));
    assert_eq!(
        told,
        "code of the strategy auto: context 32K → 64K, models as usual → a,b, slots was 2 already\n"
    );
    let told = mode::changed(&reply("", vec![]), false, columns(200));
    assert_eq!(told, "code: nothing was changed by hand\n");
    let told = mode::changed(&reply("auto", vec![change("models", "a", "")]), true, columns(200));
    assert_eq!(told, "code of the strategy auto: it was made by hand, and is no more\n");
}
