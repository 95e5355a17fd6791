//! The escalation ladder: a machine is climbed from the smallest model to the largest, each rung is measured, and the
//! record says what to use and what to avoid. Here is the pure part: words, figures and judgement. Who climbs (loads,
//! asks, writes the record down) is a shell, and tells all it saw in a [`Record`].

mod check;
mod record;

pub use check::RecordProblem;
pub use record::{
    Answered, Cell, Evaluation, Mark, ModeGoal, Outcome, Pull, Record, Rung, SCHEMA, Sampling, Schema,
    Settings, Shape, Shortage, StopRule, Stopped,
};
