//! The words and the rules of modemesh.
//!
//! This crate decides and does nothing else: it reads no clock, socket, file, environment or random
//! source. Callers tell it what time it is ([`units::Moment`]) and hand it dice.
//!
//! Words: [`id`], [`units`], [`mode`], [`machine`]. Rules: [`fit`], [`profile`], [`health`], [`speed`], [`thermal`], [`verdict`],
//! [`fleet`], [`strategy`], [`placement`], [`plan_check`], [`directive`], [`prefix`], [`routing`], [`admission`], [`retry_budget`], [`client_loop`],
//! [`trial`], [`ladder`], [`validation`], [`stress`], [`exam`].

pub mod admission;
pub mod client_loop;
pub mod directive;
pub mod eviction;
pub mod exam;
pub mod fit;
pub mod fleet;
pub mod gguf;
pub mod health;
pub mod id;
pub mod ladder;
pub mod machine;
pub mod memory;
pub mod mode;
pub mod placement;
pub mod plan_check;
pub mod prefix;
pub mod profile;
pub mod repetition;
pub mod retry_budget;
pub mod routing;
pub mod speed;
pub mod statistics;
pub mod strategy;
pub mod stress;
pub mod thermal;
pub mod trial;
pub mod units;
pub mod validation;
pub mod verdict;
