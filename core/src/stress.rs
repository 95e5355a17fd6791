//! A machine under stress: several models at work at once, downloads beside them, and how warm it gets. Here is the pure
//! part: the [`Record`], its figures, and which models can live together. Who loads and asks is a shell.
//!
//! ```text
//! each alone ─► each pair ─► all together ─► all together, while files are fetched
//! ```
//!
//! Models can live together when each still meets the times of every mode that it meets alone, without a failed request; for
//! less, when each still meets those of one.
//! Where a model meets no mode alone, its answers may take its fair share longer: twice as long beside one other. Fewer than
//! [`LEAST_RUNS`] requests tell nothing.

mod company;
mod course;
mod figures;
mod record;

pub use company::{Company, Livable};
pub use course::Course;
pub use figures::{LEAST_RUNS, Row};
pub use record::{Download, Fetched, LeftOut, MODELS, REASON, Record, SCHEMA, Settings, Stint};

use serde::Serialize;

/// What a record says.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Findings {
    /// A row for each stint, in their order.
    pub rows: Vec<Row>,
    /// A word on each company, pairs first.
    pub companies: Vec<Company>,
    /// The temperature.
    pub course: Course,
}

/// The figures of a record, and what they mean.
#[must_use]
pub fn analyse(record: &Record) -> Findings {
    let rows = figures::rows(record);
    Findings { companies: company::companies(record, &rows), rows, course: course::course(record) }
}

#[cfg(test)]
mod tests;
