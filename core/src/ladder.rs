//! The escalation ladder: a machine is climbed from the smallest model to the largest, each rung is measured, and the
//! record says what to use and what to avoid. Here is the pure part: words, figures and judgement. Who climbs (loads,
//! asks, writes the record down) is a shell, and tells all it saw in a [`Record`].
//!
//! ```text
//! next(record, candidate) ─ Go ─► the shell measures ─► Rung ─┐
//!        ▲                                                    │
//!        └──────────────────────── record ◄───────────────────┘
//!                                    └─► analyse ─► figures, steps, sweet spots, what to avoid, advice, configuration
//! ```

mod advice;
mod analysis;
mod avoid;
mod cells;
pub(crate) mod check;
mod cost;
mod counted;
mod figures;
pub(crate) mod goals;
mod import;
mod mode_table;
mod quality;
mod recommend;
mod record;
mod scaling;
mod stop;
mod summary;
mod sweet;

pub use advice::{Advice, Need};
pub use analysis::{Analysis, analyse, spoilt};
pub use avoid::{Avoided, LEAST_USEFUL, SUSTAINED, UNSTABLE};
pub use cells::{CellSummary, Soak};
pub use check::RecordProblem;
pub use cost::{Amount, CloudPrice, Comparison, Cost, MachinePrice, Prices, cost};
pub use figures::{FORMULAS, Figure, Times};
pub use goals::HEADROOM;
pub use import::{About, BenchRow, ImportProblem, import};
pub use mode_table::{Fit, ModeFit};
pub use recommend::{Recommended, recommend};
pub(crate) use record::of_form;
pub use record::{
    Answered, BUSY, Cell, Evaluation, Imported, Mark, ModeGoal, Outcome, Pull, Record, Rung, SCHEMA,
    Sampling, Schema, Settings, Shape, Shortage, StopRule, Stopped,
};
pub use scaling::{Cause, Step};
pub use stop::{Candidate, Next, next};
pub use summary::{AnswerSummary, RungSummary, summarise, verdict};
pub use sweet::{Kind, KindChoice, ModeChoice};
