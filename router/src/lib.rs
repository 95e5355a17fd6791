//! The head of modemesh and its front door: knows the fleet, decides, and forwards requests by mode.
//!
//! | task | input | output | ends when |
//! |---|---|---|---|
//! | [`fleet_keeper`] | reports, heartbeats, outcomes | a snapshot after each change | the router stops |
//! | [`ledger`] (a thread) | tokens, keys and nodes to keep | answers, a snapshot of the keys | the last handle is dropped |
//! | [`steward`] | snapshots, operators' wishes, headers, time | the plan, directives | the router stops |
//! | [`journal`] | finished requests | records for `explain`, medians for `status` | the last handle is dropped |
//! | [`grpc`] agents | TCP 7401 | joins, renewals, control streams | the router stops |
//! | [`forward::quic_links`] | UDP 7401 | one link for each agent | the router stops |
//! | [`grpc`] operators | TCP 7402 | answers to `meshctl` | the router stops |
//! | [`http`] | TCP 7400 | answers to clients | the router stops and requests have ended |
//! | [`app`] identity keeper | time | fresh certificates of the router and the local operator | the router stops |

pub mod app;
pub mod cli;
pub mod config;
pub mod fleet_keeper;
pub mod forward;
pub mod grpc;
pub mod http;
pub mod journal;
pub mod ledger;
pub mod marks;
pub mod metrics;
pub mod modes;
pub mod steward;
pub mod strategies;
