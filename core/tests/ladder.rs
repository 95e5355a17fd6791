//! The escalation ladder, from records as a shell would write them: the owner's own climb, figures of a rung, rules,
//! and laws that hold for any numbers.

#[path = "ladder/built.rs"]
mod built;
#[path = "ladder/choices.rs"]
mod choices;
#[path = "ladder/costs.rs"]
mod costs;
#[path = "ladder/figures.rs"]
mod figures;
#[path = "ladder/imported.rs"]
mod imported;
#[path = "ladder/judgement.rs"]
mod judgement;
#[path = "ladder/laws.rs"]
mod laws;
#[path = "ladder/owners_climb.rs"]
mod owners_climb;
