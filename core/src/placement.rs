//! Which models live on which machines.
//!
//! The question is translated into a small problem of pools, options and tasks ([`small`]), solved there ([`search`]),
//! and the answer is translated back.

pub mod search;
pub mod small;
