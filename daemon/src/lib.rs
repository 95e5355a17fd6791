//! How a modemesh process starts and stops.
//!
//! [`config_layers`]: defaults, file, environment and flags become one checked value. [`complaint`]: errors
//! for people, with exit codes. [`telemetry`]: logs and traces. [`metrics_endpoint`]: `/metrics`.
//! [`port_holder`]: who has a busy port. [`clock`]: the only clock. [`stop_signal`]: Ctrl-C and SIGTERM. [`data_folder`]:
//! where state lives. [`in_place`]: large futures without a copy.

pub mod clock;
pub mod complaint;
pub mod config_layers;
pub mod data_folder;
pub mod in_place;
pub mod metrics_endpoint;
pub mod port_holder;
pub mod runtime;
pub mod stop_signal;
pub mod telemetry;
