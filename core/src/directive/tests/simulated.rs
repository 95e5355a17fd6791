//! Laws of the way to a plan, over random meshes of simulated machines: each few seconds a plan is made of what the
//! machines show, and its steps are followed, lost, or refused.

mod agent;

use super::*;
use crate::placement::{Catalogue, Conditions, KnownModel, Site, World, plan};
use crate::plan_check::faults;
use crate::strategy::{MachineLimits, Residency, Wish, Wishes};
use agent::{Agent, Life};
use proptest::prelude::*;
use std::collections::BTreeSet;

/// Seconds between two looks of the router.
const STEP: u64 = 2;
/// When the wishes have changed for the last time, and from when on nothing is lost and nobody away.
const CALM: u64 = 600;
/// Seconds after that within which the plan is reached: a few refusals' and a budget's time.
const REACHED: u64 = 2400;
/// Seconds for which nothing more is told then: longer than any pause, refusal or window.
const QUIET: u64 = 900;

/// A small random source of its own: what the agents do depends on what they are told, so it cannot be drawn beforehand.
pub(super) struct Dice(u64);

impl Dice {
    fn next(&mut self, below: u64) -> u64 {
        self.0 = self.0.wrapping_add(1);
        crate::fleet::mixed(self.0) % below
    }

    fn percent(&mut self, chance: u64) -> bool {
        self.next(100) < chance
    }
}

#[derive(Debug, Clone)]
struct Drawn {
    seed: u64,
    machines: u64,
    models: u64,
    /// Directives of a hundred that are lost.
    lost: u64,
    /// Machines have cards, go away for a while, and show their memory late.
    cards: bool,
    away: bool,
    late: bool,
}

fn drawn() -> impl Strategy<Value = Drawn> {
    let flags = (any::<bool>(), any::<bool>(), any::<bool>());
    (any::<u64>(), 1..5_u64, 1..6_u64, 0..3_u64, flags).prop_map(
        |(seed, machines, models, lost, (cards, away, late))| Drawn {
            seed,
            machines,
            models,
            lost: lost * 20,
            cards,
            away,
            late,
        },
    )
}

/// A mesh that runs.
struct Simulation {
    drawn: Drawn,
    dice: Dice,
    catalogue: Catalogue,
    agents: Vec<Agent>,
    /// What the router saw of each machine last, and since when that is away.
    seen: Vec<(MachineView, Option<u64>)>,
    /// When each machine is away.
    away: Vec<(u64, u64)>,
    /// The wishes, and when each of them begins.
    wishes: Vec<(u64, Wishes)>,
    course: Course,
    /// The plan, with what it was made of.
    plan: Option<(World, Wishes, Plan)>,
    told: Vec<(u64, String)>,
}

impl Simulation {
    fn new(drawn: &Drawn) -> Self {
        let mut dice = Dice(drawn.seed);
        let names: Vec<ModelId> = (0..drawn.models).map(|number| model_id(&format!("m{number}"))).collect();
        let known = |name: &ModelId, dice: &mut Dice| {
            let size = Bytes((1 + dice.next(30)) * GIB / (1 + dice.next(3)));
            let digit = name.as_str().trim_start_matches('m').to_owned();
            let mut known = KnownModel::of_file(size, Some(Bytes(64 << 10)));
            known.trained_context = Some(131_072);
            known.digest = Digest::new(&digit.repeat(64)).ok();
            known.url = dice.percent(30).then(|| "https://files.test/it.gguf".to_owned());
            known
        };
        let catalogue: Catalogue = names.iter().map(|name| (name.clone(), known(name, &mut dice))).collect();
        let mut agents = Vec::new();
        for number in 0..drawn.machines {
            let ram = 8 + dice.next(45);
            let card = (drawn.cards && dice.percent(60)).then(|| 4 + dice.next(20));
            let id = machine_id(&format!("s{number}"));
            let mut agent = Agent::new(id, ram, dice.next(ram / 4), card);
            agent.files = names.iter().filter(|_| dice.percent(50)).cloned().collect();
            agent.popular = names.iter().filter(|_| dice.percent(15)).cloned().collect();
            for model in agent.files.clone() {
                if dice.percent(30) {
                    let context = Some(4096 << dice.next(4));
                    let wish = LoadWish { context, slots: Some(1), ..LoadWish::from(model) };
                    agent.direct(&Directive::Load(wish), &catalogue, &BTreeSet::new(), 0);
                }
            }
            agent.short_of_memory.clear();
            agents.push(agent);
        }
        let seen = agents.iter().map(|agent| (agent.view(&catalogue, false), None)).collect();
        let mut away = Vec::new();
        for _ in &agents {
            let from = dice.next(CALM);
            away.push(if drawn.away { (from, (from + dice.next(300)).min(CALM)) } else { (CALM, CALM) });
        }
        let wishes = [0, CALM / 2, CALM].map(|from| (from, wishes(&names, drawn.machines, &mut dice)));
        let (course, plan, told) = (Course::default(), None, Vec::new());
        let drawn = drawn.clone();
        Self { drawn, dice, catalogue, agents, seen, away, wishes: wishes.into(), course, plan, told }
    }

    fn wishes(&self, now: u64) -> &Wishes {
        let begun = self.wishes.iter().rev().find(|(from, _)| *from <= now);
        &begun.expect("the first begins at once").1
    }

    /// What the router sees now.
    fn look(&mut self, now: u64) -> FleetView {
        for (number, agent) in self.agents.iter_mut().enumerate() {
            agent.tick(&self.catalogue, &mut self.dice, now);
            let (from, until) = self.away[number];
            agent.away = (from..until).contains(&now);
            let (seen, since) = &mut self.seen[number];
            if agent.away {
                // Its last report stands.
                (seen.liveness, *since) = (Liveness::Offline, Some(since.unwrap_or(now)));
            } else {
                (*seen, *since) = (agent.view(&self.catalogue, self.drawn.late), None);
            }
        }
        view_of(self.seen.iter().map(|(view, _)| view.clone()).collect())
    }

    /// The plan for what is seen. It is made anew when that, or the wishes, have changed.
    fn plan(&mut self, now: u64) -> Plan {
        let wishes = self.wishes(now).clone();
        let site = |(view, since): &(MachineView, Option<u64>)| {
            let is_lost = since.is_some_and(|since| now - since > 60);
            let conditions = Conditions { is_lost, ..Conditions::default() };
            let mut site = Site::of(view, &wishes.limits(&view.id), None, conditions);
            // How busy a model is decides nothing in a plan, and changes all the time.
            for held in &mut site.held {
                held.busy = 0;
            }
            site
        };
        let sites = self.seen.iter().map(site).collect();
        let world = World { sites, catalogue: self.catalogue.clone(), refused: self.course.refused() };
        match &self.plan {
            Some((old, of, plan)) if *old == world && *of == wishes => plan.clone(),
            Some(_) | None => {
                let plan = plan(&world, &wishes);
                assert_eq!(faults(&plan, &world, &wishes), Vec::<String>::new());
                self.plan = Some((world, wishes, plan.clone()));
                plan
            }
        }
    }

    fn step(&mut self, now: u64) {
        let view = self.look(now);
        let plan = self.plan(now);
        let requests = |machine: &MachineId, model: &ModelId| {
            let agent = self.agents.iter().find(|agent| agent.id == *machine);
            agent.map_or(0, |agent| agent.requests(model))
        };
        let moment = at(now as f64);
        self.course.look(&view, moment);
        let steps = next_steps(&plan, &view, &mut self.course, &requests, moment);
        if now.is_multiple_of(10 * STEP) {
            self.course_knows_when_it_goes_on(&plan, &view, &requests, moment);
        }
        let lent: BTreeSet<Digest> = self
            .seen
            .iter()
            .flat_map(|(view, _)| &view.store.models)
            .filter_map(|one| one.digest.clone())
            .collect();
        for step in steps {
            self.told.push((now, in_words(&step)));
            let agent = self.agents.iter_mut().find(|agent| agent.id == step.machine).expect("it is there");
            let model = model_of(&step.directive).expect("each is about a model");
            assert!(!agent.away, "{}", in_words(&step));
            let process = agent.processes.get(model).filter(|process| matches!(process.life, Life::Loaded));
            if let (Some(since), false) =
                (process.and_then(|one| one.busy_since), matches!(step.directive, Directive::Pull(_)))
            {
                assert!(now - since >= 60, "{} after {} s of business", in_words(&step), now - since);
            }
            if now >= CALM || !self.dice.percent(self.drawn.lost) {
                agent.direct(&step.directive, &self.catalogue, &lent, now);
            }
        }
    }

    /// Without news nothing becomes possible before the moment that is told.
    fn course_knows_when_it_goes_on(
        &self,
        plan: &Plan,
        view: &FleetView,
        busy: &dyn Fn(&MachineId, &ModelId) -> u32,
        now: Moment,
    ) {
        let mut course = self.course.clone();
        let next = course.next_change(now);
        assert!(next.is_none_or(|next| next > now));
        let before = next.map_or(now.plus(Duration::from_secs(86_400)), |next| Moment(next.0 - 1));
        course.look(view, before);
        let steps = next_steps(plan, view, &mut course, busy, before);
        let told: Vec<String> = steps.iter().map(in_words).collect();
        assert_eq!(told, Vec::<String>::new(), "possible at {before:?}, and {next:?} was told");
    }

    /// How what is in memory differs from the plan.
    fn differences(&self) -> Vec<String> {
        let (_, _, plan) = self.plan.as_ref().expect("it has run");
        let mut differences: Vec<String> = plan.changes.iter().map(|change| format!("{change:?}")).collect();
        for agent in &self.agents {
            for (model, process) in &agent.processes {
                let is_so = plan.find(&agent.id, model).is_some_and(|placed| {
                    let size = (Some(process.size.context), process.size.slots, process.size.cache);
                    matches!(process.life, Life::Loaded)
                        && size == (placed.context, placed.slots, placed.cache)
                });
                if !is_so {
                    differences.push(format!("{model} on {} is {process:?}", agent.id));
                }
            }
            for placed in plan.on(&agent.id) {
                if !agent.processes.contains_key(&placed.model) {
                    differences.push(format!("{} is not on {}", placed.model, agent.id));
                }
            }
        }
        differences
    }
}

fn wishes(names: &[ModelId], machines: u64, dice: &mut Dice) -> Wishes {
    let mut wishes = Wishes::default();
    for number in 0..=dice.next(4) {
        let models = names.iter().filter(|_| dice.percent(50)).cloned().collect();
        let mode = crate::id::ModeName::new(format!("mode{number}")).expect("valid");
        let mut wish = Wish::new(mode, models);
        wish.context = 4096 << dice.next(5);
        wish.slots = 1 + u32::from(dice.percent(25));
        wish.copies = 1 + u32::from(dice.percent(30));
        wish.residency = Residency::ALL[usize::from(dice.percent(60)) + usize::from(dice.percent(15))];
        if dice.percent(30) {
            wish.cache_types.push(CacheType::Q8_0);
        }
        wishes.modes.push(wish);
    }
    for number in 0..machines {
        let (drained, cordoned) = (dice.percent(20), dice.percent(10));
        let limits = MachineLimits { drained, cordoned, ..MachineLimits::default() };
        wishes.machines.insert(machine_id(&format!("s{number}")), limits);
    }
    wishes
}

/// Runs until nothing has moved for long, and tells when something did last.
fn run(drawn: &Drawn) -> (Simulation, u64) {
    let mut simulation = Simulation::new(drawn);
    let mut last = CALM;
    for now in (0..CALM + REACHED + QUIET).step_by(STEP as usize) {
        simulation.step(now);
        last = simulation.told.last().map_or(CALM, |(at, _)| CALM.max(*at));
        if now >= last + QUIET {
            break;
        }
    }
    (simulation, last)
}

#[test]
fn a_model_that_drains_has_its_memory_on_the_way_back() {
    let id = machine_id("s0");
    let known = KnownModel { trained_context: Some(131_072), ..KnownModel::of_file(Bytes(4 * GIB), None) };
    let catalogue: Catalogue = [(model_id("big"), known)].into();
    let mut agent = Agent::new(id, 16, 0, None);
    agent.files.insert(model_id("big"));
    agent.popular.insert(model_id("big"));
    let free = |agent: &Agent| {
        let view = agent.view(&catalogue, false);
        let site = Site::of(&view, &MachineLimits::default(), None, Conditions::default());
        (agent.free().0, site.pools.ram.known().expect("known").available.0, site.held.len())
    };
    agent.direct(&Directive::Load(LoadWish::from(model_id("big"))), &catalogue, &BTreeSet::new(), 0);
    let mut dice = Dice(1);
    for now in [10, 12, 14] {
        agent.tick(&catalogue, &mut dice, now);
    }
    let (left, planned, held) = free(&agent);
    assert_eq!((left < 12 * GIB, planned, held), (true, 16 * GIB, 1));
    agent.direct(&Directive::Unload(model_id("big")), &catalogue, &BTreeSet::new(), 14);
    assert_eq!(free(&agent), (left, 16 * GIB, 0), "a request still runs, and no plan is made for less room");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(16))]

    #[test]
    fn the_plan_is_reached_and_then_nothing_moves(drawn in drawn()) {
        let (simulation, last) = run(&drawn);
        prop_assert!(last < CALM + REACHED, "{:#?}", simulation.told);
        prop_assert_eq!(simulation.differences(), Vec::<String>::new());
        let wishes = simulation.wishes(u64::MAX);
        for agent in &simulation.agents {
            if wishes.limits(&agent.id).drained {
                prop_assert!(agent.processes.is_empty(), "{} is drained", agent.id);
            }
        }
    }

    #[test]
    fn no_load_is_told_for_which_there_is_no_room(drawn in drawn()) {
        let drawn = Drawn { cards: false, late: false, away: false, ..drawn };
        let (simulation, _) = run(&drawn);
        let short: Vec<&String> = simulation.agents.iter().flat_map(|agent| &agent.short_of_memory).collect();
        prop_assert_eq!(short, Vec::<&String>::new(), "all: {:#?}", simulation.told);
    }
}
