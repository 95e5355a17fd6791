//! The agents' and operators' planes over real TLS on loopback: who gets in, and everybody who must not.

#[path = "identity_over_tls/certificates.rs"]
mod certificates;
#[path = "identity_over_tls/joining.rs"]
mod joining;
#[path = "identity_over_tls/operators.rs"]
mod operators;
#[path = "identity_over_tls/plane.rs"]
mod plane;
#[path = "identity_over_tls/sessions.rs"]
mod sessions;
#[path = "identity_over_tls/strangers.rs"]
mod strangers;
