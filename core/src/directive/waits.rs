//! Why changes of a plan are not made yet, in words for people.

use super::course::Course;
use crate::fleet::FleetView;
use crate::id::{MachineId, ModelId};
use crate::placement::{Change, Plan};
use crate::units::{Moment, human_duration};
use std::time::Duration;

/// Why models that shall leave or change are still as they are: one line for each of them, at most.
#[must_use]
pub fn waiting(plan: &Plan, view: &FleetView, course: &Course, now: Moment) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    for change in &plan.changes {
        let (machine, model) = match change {
            Change::Unload { machine, model, .. } | Change::Resize { machine, model } => (machine, model),
            Change::Fetch { .. } | Change::Load { .. } => continue,
        };
        let seen = view.machine(machine).and_then(|machine| machine.history.get(model));
        let idle = seen.and_then(|history| history.uses.idle(now));
        if let Some(why) = why(course, machine, model, idle, now)
            && !lines.contains(&why)
        {
            lines.push(why);
        }
    }
    lines
}

fn why(
    course: &Course,
    machine: &MachineId,
    model: &ModelId,
    idle: Option<Duration>,
    now: Moment,
) -> Option<String> {
    let place = (machine.clone(), model.clone());
    let words = |time: Duration| human_duration(Duration::from_secs(time.as_secs().max(1)));
    if let Some(other) = course.left_to(machine) {
        return Some(format!("{machine} is left to {other}, which a request has loaded there"));
    }
    if course.is_used_guest(&place, idle) {
        return Some(format!("{model} on {machine} was loaded for a request, and stays while it is used"));
    }
    let pace = course.pace;
    if let Some(rest) = course.stays_for(&place, now) {
        let least = human_duration(pace.residence);
        return Some(format!("{model} on {machine} stays for another {}: {least} at least", words(rest)));
    }
    if let Some(rest) = course.pauses_for(machine, now) {
        let each = human_duration(pace.machine_pause);
        return Some(format!("{machine} pauses for another {}: one model leaves each {each}", words(rest)));
    }
    if let Some(rest) = course.is_spent_for(now) {
        let (budget, window) = (pace.budget, human_duration(pace.window));
        return Some(format!(
            "{budget} left memory within {window}, the most there may be: {} to go",
            words(rest)
        ));
    }
    (!course.is_free(&place, now)).then(|| format!("{model} on {machine} answers requests"))
}
