//! The hands of modemesh on one machine: finds and starts engines, tells the router what there is, and
//! answers the requests that the router sends.
//!
//! Only the agent speaks to an engine, and only the router decides. The agent re-checks every wish against
//! its own machine and says what it sees; an answer's bytes pass through unread.
//!
//! The tasks, in the order in which [`app::Agent::start`] starts them:
//!
//! | task | input | output | ends when |
//! |---|---|---|---|
//! | supervisor | configuration, directives, engines' answers | engines and their models, leases | told to, last of all; its children are gone then |
//! | [model store](model_store) | the model folder, wishes | `watch` of [`mesh_core::machine::Store`], model files | the links are stopped |
//! | [vitals] | `/proc`, `/sys`, the models' disk, each second | two `watch`es of [`mesh_core::machine::Vitals`]: fresh, and worth a report | the links are stopped |
//! | [sleep] | logind's announcements, clocks that run on | draining around a sleep, a reading anew after it | the links are stopped |
//! | engine counters | the supervisor's engines | the metric `engine_up` | the links are stopped |
//! | [control link](router_link::control) | vitals, engines, draining; directives from the router | reports and heartbeats to the router; directives to the supervisor; renewed certificates | the links are stopped |
//! | [data link](router_link::data) | requests from the router | answers, one task for each request, and one for each trial among them | the links are stopped; what still runs is reset |
//! | closing | the stop signal | draining, then the ends of all the others in order | everything above has ended |
//!
//! In `modemesh up` the two links are not started: the router in the same process reads
//! [`app::Agent::reports`] and calls [`serve::answer`] itself.

pub mod app;
pub mod config;
pub mod doctor;
pub mod engine;
mod folder_lock;
pub mod metrics;
pub mod model_store;
pub mod probe;
pub mod profile;
pub mod reservation;
pub mod router_link;
pub mod serve;
pub mod sleep;
pub mod supervisor;
mod trial;
pub mod truth;
pub mod vitals;
