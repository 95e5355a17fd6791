//! Where a model is loaded that a request asks for, and what leaves for it: [`mesh_core::eviction`] decides, from the same
//! world as plans are made of.

use super::{Of, Steward};
use mesh_core::eviction::{self, Answer, Claim, Memory, Uses, uses_of};
use mesh_core::fleet::FleetView;
use mesh_core::id::{MachineId, ModeName, ModelId};
use mesh_core::machine::{LoadWish, ReplicaState};
use mesh_core::placement::Body;
use mesh_core::strategy::{USUAL_CONTEXT, USUAL_LEAST_CONTEXT};
use mesh_core::units::Moment;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// How long the plan leaves a machine to a request's load that does not begin; while it loads it does in any case.
const LEFT_FOR: Duration = Duration::from_secs(60);

/// What a request asks for.
#[derive(Debug, Clone)]
pub struct Asked {
    /// The model.
    pub model: ModelId,
    /// The mode by which it was asked for.
    pub mode: Option<ModeName>,
    /// Machines where it could be loaded for this request.
    pub machines: BTreeSet<MachineId>,
    /// Others may leave for it.
    pub may_evict: bool,
}

/// Models in memory as the fleet and the counts in flight know them.
struct Seen<'a> {
    view: &'a FleetView,
    load: &'a BTreeMap<(MachineId, ModelId), u32>,
}

impl Memory for Seen<'_> {
    fn busy(&self, machine: &MachineId, model: &ModelId) -> u32 {
        self.load.get(&(machine.clone(), model.clone())).copied().unwrap_or(0)
    }

    fn uses(&self, machine: &MachineId, model: &ModelId) -> Uses {
        self.view.machine(machine).map_or_else(Uses::default, |machine| uses_of(machine, model).0)
    }

    fn since(&self, machine: &MachineId, model: &ModelId) -> Option<Moment> {
        self.view.machine(machine).and_then(|machine| uses_of(machine, model).1)
    }
}

impl Steward {
    /// The place of a load, which the plan then leaves its machine to. `None` = nothing is known of the model: its machine
    /// decides alone.
    pub(super) fn place(&mut self, asked: &Asked) -> Option<Answer> {
        let snapshot = self.parts.fleet.snapshot();
        let wishes = self.wishes_now();
        let mut world = self.world(&snapshot, &wishes, &Of::Now);
        let known = world.catalogue.get(&asked.model)?;
        let is_guess = matches!(known.body, Body::File { .. });
        let wish = wishes.modes.iter().find(|wish| asked.mode.as_ref() == Some(&wish.mode));
        world.sites.retain(|site| asked.machines.contains(&site.machine));
        if let Some(wish) = wish {
            world.sites.retain(|site| {
                (wish.machines.is_empty() || wish.machines.contains(&site.machine))
                    && wish.labels.is_subset(&site.labels)
            });
        }
        // What comes into a machine's memory now has its bytes in no report yet.
        let mut coming: Vec<(MachineId, String)> = Vec::new();
        world.sites.retain(|site| {
            let comes = self.comes(&snapshot.view, &site.machine, &asked.model);
            let is_free = comes.is_none();
            coming.extend(comes.map(|model| (site.machine.clone(), format!("{model} is on its way there"))));
            is_free
        });
        let claim = Claim {
            context: wish.map_or(USUAL_CONTEXT, |wish| wish.context),
            least_context: wish.map_or(USUAL_LEAST_CONTEXT, |wish| wish.least_context),
            slots: wish.map_or(1, |wish| wish.slots),
            cache: wish.and_then(|wish| wish.cache_types.first().copied()).unwrap_or_default(),
            may_evict: asked.may_evict,
        };
        let load = self.parts.in_flight.load();
        let now = self.parts.clock.now();
        let seen = Seen { view: &snapshot.view, load: &load };
        let mut answer = eviction::place(&world, &wishes, &asked.model, claim, &seen, now);
        match &mut answer {
            Answer::Load(loading) => {
                self.course.leave_to(loading.machine.clone(), asked.model.clone(), now.plus(LEFT_FOR));
                if wish.is_none() {
                    // Nobody said how: its machine knows.
                    loading.wish = LoadWish::from(asked.model.clone());
                }
            }
            Answer::Wait { why, .. } => why.extend(coming),
            Answer::Never(_) if !coming.is_empty() => answer = Answer::Wait { until: None, why: coming },
            // By its size alone it may look larger than it is: its machine knows better.
            Answer::Never(_) if is_guess => return None,
            Answer::Never(_) => {}
        }
        Some(answer)
    }

    /// Another model that comes into a machine's memory, or for which others leave there.
    fn comes(&self, view: &FleetView, machine: &MachineId, asked: &ModelId) -> Option<ModelId> {
        let left_to = self.course.left_to(machine).filter(|model| *model != asked);
        let replicas = view.machine(machine).into_iter().flat_map(|machine| &machine.engines);
        let mut replicas = replicas.flat_map(|engine| &engine.replicas);
        let loading = replicas.find(|one| one.state == ReplicaState::Loading && one.model != *asked);
        left_to.or(loading.map(|replica| &replica.model)).cloned()
    }
}
