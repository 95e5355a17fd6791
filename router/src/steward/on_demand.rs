//! Where a model is loaded that a request asks for, and what leaves for it: [`mesh_core::eviction`] decides, from the same
//! world as plans are made of.

use super::{Of, Steward};
use mesh_core::eviction::{self, Answer, Claim, Memory, Uses, uses_of};
use mesh_core::fleet::FleetView;
use mesh_core::id::{MachineId, ModeName, ModelId};
use mesh_core::machine::LoadWish;
use mesh_core::strategy::{USUAL_CONTEXT, USUAL_LEAST_CONTEXT};
use mesh_core::units::Moment;
use std::collections::BTreeMap;
use std::time::Duration;

/// How long the plan leaves a machine to a request's load: the largest models take minutes.
const LEFT_FOR: Duration = Duration::from_secs(600);

/// What a request asks for.
#[derive(Debug, Clone)]
pub struct Asked {
    /// The model.
    pub model: ModelId,
    /// The mode by which it was asked for.
    pub mode: Option<ModeName>,
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
        let wishes = self.wishes(&Of::Now);
        let world = self.world(&snapshot, &wishes, &Of::Now);
        if !world.catalogue.contains_key(&asked.model) {
            return None;
        }
        let wish = wishes.modes.iter().find(|wish| asked.mode.as_ref() == Some(&wish.mode));
        let claim = Claim {
            context: wish.map_or(USUAL_CONTEXT, |wish| wish.context),
            least_context: wish.map_or(USUAL_LEAST_CONTEXT, |wish| wish.least_context),
            may_evict: asked.may_evict,
        };
        let load = self.parts.in_flight.load();
        let now = self.parts.clock.now();
        let seen = Seen { view: &snapshot.view, load: &load };
        let mut answer = eviction::place(&world, &wishes, &asked.model, claim, &seen, now);
        if let Answer::Load(loading) = &mut answer {
            self.course.leave_to(loading.machine.clone(), asked.model.clone(), now.plus(LEFT_FOR));
            match wish {
                Some(wish) => {
                    loading.wish.slots = Some(wish.slots);
                    loading.wish.cache_type = wish.cache_types.first().map(|kind| kind.word().to_owned());
                }
                // Nobody said how: its machine knows.
                None => loading.wish = LoadWish::from(asked.model.clone()),
            }
        }
        Some(answer)
    }
}
