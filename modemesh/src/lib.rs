//! modemesh on one machine.
//!
//! [`up`]: router and agent in one process, with the engines that are there or the bundled one.
//! [`local_node`]: how the two speak without a network. [`engines`]: which engines to use, and installing the
//! bundled one. [`demo`]: three nodes as processes of their own on loopback.

pub mod demo;
pub mod engines;
pub mod local_node;
pub mod up;
