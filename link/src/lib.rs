//! The data plane's connections and streams, the same over QUIC and over HTTP/2 on TCP.
//!
//! An agent dials its router, by QUIC where UDP passes. The router opens one stream for each request, the agent one
//! for each piece of a model file. A [`Connection`] and its [`Sending`] and [`Receiving`] halves hide what
//! carries them, so both ends have one code for a request:
//!
//! | here | QUIC | HTTP/2 |
//! |---|---|---|
//! | a stream | a bidirectional stream | a POST and its answer |
//! | [`Sending::finish`] | FIN | END_STREAM |
//! | [`Sending::reset`] with a code | RESET_STREAM | RST_STREAM, both directions |
//! | [`Receiving::stop`] | STOP_SENDING | RST_STREAM when the halves are dropped |
//! | backpressure | stream and connection windows | the same |
//! | a lossy network | small packets are sent twice ([`duplication`]) | TCP sends them again |
//! | a dead peer is noticed by | the idle limit, or [`Connection::is_silent`] where something else tells of it | PING, and the kernel's limit on unacknowledged bytes |
//! | the machine changes its address | the connection follows | the connection dies, the agent dials again |
//!
//! What goes over the streams is the business of `mesh-proto`'s frames; who may connect is checked by the callers.

pub mod congestion;
pub mod connection;
pub mod duplication;
pub mod h2_link;
pub mod quic;
pub mod stream;
pub mod tcp;

pub use connection::{Connection, Lost};
pub use duplication::{Duplication, Following};
pub use stream::{Receiving, Sending, StreamError};
