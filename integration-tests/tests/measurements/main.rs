//! What measures a machine, begun as a person begins it, with real engines: climbs, validations, stress tests, evaluations.
//! Each test has a mesh of its own. They wait for the machine to read itself anew more than they work, so they belong into one
//! program, where several run at once.

mod eval;
mod ladder;
mod stress;
mod validate;
