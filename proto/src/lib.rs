//! The wire of modemesh: the schema (`mesh/v1/*.proto`), the code generated from it, and the only places
//! where wire messages become words of the core and back.
//!
//! [`frame`]: the data plane's frames. [`fleet_wire`]: reports and directives. [`identity`]: certificates,
//! join tokens and the TLS configurations made of them.

pub mod fleet_wire;
pub mod frame;
pub mod identity;

/// Messages and services generated from `mesh/v1/*.proto`. Guarded by `tests/schema_is_current.rs`.
#[expect(missing_docs, reason = "generated code carries the schema's comments only")]
#[expect(clippy::allow_attributes, clippy::allow_attributes_without_reason, reason = "generated code")]
#[expect(clippy::large_enum_variant, reason = "generated code: one message is alive at a time")]
#[rustfmt::skip]
#[path = "gen/mesh.v1.rs"]
pub mod v1;

/// The version of the protocol that both sides state when they meet.
pub const PROTOCOL: u32 = 2;
